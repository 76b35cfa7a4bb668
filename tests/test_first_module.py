"""What the first test module imports is executed ahead (Z3): the run sees what it would have seen.

`at` says by what the warm run has to be served: a case that falls back tests nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from .harness.cases import files_of, write
from .harness.outcome import assert_same
from .harness.sandbox import Sandbox

RUN = ("-rA", "test_a.py")


@dataclass(frozen=True)
class Import:
    """`mod.py` and a test module that imports it."""

    mod: str = "X = 1\n"
    test: str = "import mod\n\ndef test_a():\n    print(mod.X)\n"
    more: str = ""
    """Further files, as in `harness.cases`."""
    arguments: tuple[str, ...] = RUN
    at: str = "Z3"
    cut: str = ""
    """Of a Z3 that does not hold all of the imports: in the reason."""


def project(sandbox: Sandbox, case: Import) -> None:
    write(sandbox, {"pytest.ini": "[pytest]\n", "mod.py": case.mod, "test_a.py": case.test})
    write(sandbox, files_of(case.more))


STATE = {
    "nothing special": Import(),
    "order of all modules": Import(
        "import mod_b\nimport json.tool\nX = 1\n",
        "import sys\nimport mod\nimport mod_c\n\ndef test_a():\n    print(list(sys.modules))\n",
        "-- mod_b.py\nimport xml.dom.minidom\n-- mod_c.py\nimport mod_b\nimport wave\n",
    ),
    "modules that pytest imports in between": Import(
        "import doctest\nimport pdb\nimport code\nX = doctest.pdb is pdb\n",
        "import sys\nimport mod\n\ndef test_a():\n    print(mod.X, list(sys.modules))\n"
        "    print(mod.pdb.set_trace)\n",
    ),
    "what pytest replaces, taken at import": Import(
        "from pdb import set_trace\nX = set_trace.__qualname__\n", at="Z2"
    ),
    "how many modules there are": Import(
        "import sys\nX = len(sys.modules), list(sys.modules)[-3:], 'test_a' in sys.modules\n",
    ),
    "what the test module has set so far": Import(
        "import sys\nX = getattr(sys.modules['test_a'], 'SETTING', 'none')\n",
        "SETTING = 'x'\nimport mod\n\ndef test_a():\n    print(mod.X)\n",
        at="Z2",
    ),
    "an import in a circle": Import(
        "try:\n    from test_a import SETTING as X\nexcept ImportError:\n    X = 'none'\n",
        "SETTING = 'x'\nimport mod\n\ndef test_a():\n    print(mod.X)\n",
        at="Z2",
    ),
    "a file that is not there": Import(
        "import registry\nregistry.ITEMS.append(1)\nX = 1\n",
        more="-- registry.py\nimport atexit\nITEMS = []\n"
        "atexit.register(lambda: print(len(ITEMS)))\n-- conftest.py\nimport registry\n",
        arguments=("-rA", "test_a.py", "test_b.py"),
        at="Z2",
    ),
    "a submodule of a package that is there, and warns": Import(
        test="from pkg import old\n\ndef test_a():\n    print(vars(old).keys())\n",
        more="-- pkg/__init__.py\n-- pkg/old.py\nimport warnings\n"
        "warnings.warn('old', DeprecationWarning, stacklevel=2)\n-- conftest.py\nimport pkg\n",
    ),
    "how many there are for a test in a package": Import(
        "import sys\nX = len(sys.modules), list(sys.modules)[-3:]\n",
        more="-- tests/__init__.py\n-- tests/test_b.py\nimport mod\n\n"
        "def test_b():\n    print(mod.X)\n-- pytest.ini\n[pytest]\npythonpath = .\n",
        arguments=("-rA", "tests/test_b.py"),
    ),
    "keeps the test module": Import(
        "import sys\nX = sys.modules['test_a']\n",
        "import sys\nimport mod\n\ndef test_a():\n    assert mod.X is sys.modules['test_a']\n",
        at="Z2",
    ),
    "logging set up at import": Import(
        "import logging\nlogging.basicConfig(level=logging.INFO)\nX = len(logging.root.handlers)\n",
        "import mod\nimport logging\n\ndef test_a():\n    print(mod.X, logging.root.level)\n"
        "    logging.info('said')\n    print(len(logging.root.handlers))\n",
    ),
    "a handler for a standard stream": Import(
        "import logging\nimport sys\nX = logging.getLogger('x')\n"
        "X.addHandler(logging.StreamHandler())\nX.addHandler(logging.StreamHandler(sys.stdout))\n",
        "import mod\nimport sys\n\ndef test_a():\n    mod.X.warning('said')\n"
        "    print([h.stream is s for h, s in zip(mod.X.handlers, (sys.stderr, sys.stdout))])\n",
    ),
    "a stream that is kept": Import("import sys\nX = 1\nOUT = sys.stdout\n", at="Z2"),
    "printed at import": Import("print('said')\nX = 1\n", at="Z2"),
    "logged at import": Import("import logging\nlogging.warning('said')\nX = 1\n", at="Z2"),
    "exit functions": Import(
        "import atexit\nfrom atexit import register\n\n"
        "@register\ndef last():\n    print('last')\n\n"
        "atexit.register(print, 'first')\nX = register is atexit.register\n",
        arguments=("-s", *RUN),
    ),
    "variables set at import": Import(
        "import os\nos.environ['MOD'] = 'set'\nos.environ.pop('GONE', None)\nX = 1\n",
        "import os\nimport mod\nimport subprocess\n\ndef test_a():\n"
        "    print(os.environ['MOD'], os.environ.get('GONE'))\n"
        "    print(subprocess.run(['env'], capture_output=True, text=True).stdout.count('MOD='))\n",
    ),
    "warnings": Import(
        "import warnings\nwarnings.warn('own')\nwarnings.warn('importer', stacklevel=2)\n"
        "warnings.warn('old', DeprecationWarning)\nX = 1\n",
    ),
    "a warning that is an error": Import(
        "import warnings\nwarnings.warn('own')\nX = 1\n",
        arguments=("-W", "error:own", *RUN),
        at="Z2",
    ),
    "warnings that are shown once": Import(
        "import warnings\nwarnings.warn('own')\nX = 1\n",
        "import mod\nimport warnings\n\ndef test_a():\n    warnings.warn('own')\n",
        arguments=("-W", "once", *RUN),
    ),
    "warnings that make an import take another way": Import(
        "import warnings\ntry:\n    warnings.warn('own')\n    X = 1\n"
        "except UserWarning:\n    X = 2\n",
        arguments=("-W", "error:own", *RUN),
    ),
    "warnings under filters of their own": Import(
        "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('always')\n"
        "    warnings.warn('own')\nX = 1\n",
        arguments=("-W", "ignore", *RUN),
        at="Z2",
    ),
    "warning filters that are read": Import(
        "import warnings\nX = [entry[0] for entry in warnings.filters]\n"
        "warnings.simplefilter('ignore', UserWarning)\nimport other\n",
        "import mod\nimport other\nimport last\n\ndef test_a():\n"
        "    print(mod.X, other.X, last.X)\n",
        "-- other.py\nimport warnings\nX = [entry[0] for entry in warnings.filters]\n"
        "-- last.py\nimport warnings\nX = [entry[0] for entry in warnings.filters]\n",
    ),
    "warning filters": Import(
        "import warnings\nwarnings.simplefilter('ignore', UserWarning)\nX = 1\n",
        "import warnings\nimport mod\nwarnings.warn('unseen')\n\ndef test_a():\n    pass\n",
    ),
    "warning filters of modules that load others": Import(
        "import warnings\nimport other\nwarnings.filterwarnings('ignore', message='mod')\nX = 1\n",
        "import mod\nimport warnings\n\ndef test_a():\n"
        "    print([entry[1] for entry in warnings.filters])\n",
        "-- other.py\nimport warnings\nimport last\n"
        "warnings.simplefilter('always', ImportWarning)\n"
        "-- last.py\nimport warnings\nwarnings.filterwarnings('ignore', message='last')\n",
    ),
    "a namespace within a package": Import(
        "import pkg.space.inner\nX = list(pkg.space.__path__)\n",
        more="-- pkg/__init__.py\n-- pkg/space/inner.py\n",
    ),
    "registers in what a conftest has loaded": Import(
        "import registry\nregistry.NAMES.append('mod')\nX = registry.NAMES\n",
        more="-- registry.py\nNAMES = []\n-- conftest.py\nimport pytest\nimport registry\n\n"
        "@pytest.fixture\ndef names():\n    return registry.NAMES\n",
        test="import mod\n\ndef test_a(names):\n    print(names, mod.X is names)\n",
    ),
    "sets a name of a conftest": Import(
        "import sys\nsys.modules['conftest'].WORD = 'set'\nX = 1\n",
        more="-- conftest.py\nWORD = 'own'\n",
        at="Z2",
    ),
    "replaces itself": Import(
        "import sys\nimport types\nnew = types.ModuleType('mod')\nnew.X = 'new'\n"
        "sys.modules['mod'] = new\n",
    ),
    "puts another module there": Import(
        "import sys\nimport types\nother = sys.modules['virtual'] = types.ModuleType('virtual')\n"
        "other.Y = 2\nX = 1\n",
        "import mod\nimport virtual\n\ndef test_a():\n    print(virtual.Y)\n",
    ),
    "names made when they are asked for": Import(
        test="from lazy import thing\nimport sys\n\ndef test_a():\n"
        "    print(thing, 'lazy.sub' in sys.modules)\n",
        more="-- lazy/__init__.py\ndef __getattr__(name):\n    if name == 'thing':\n"
        "        from lazy import sub\n        return sub.THING\n    raise AttributeError(name)\n"
        "-- lazy/sub.py\nTHING = 'thing'\n",
    ),
    "names made when they are asked for, and kept": Import(
        test="from lazy import thing\nimport sys\n\ndef test_a():\n"
        "    print(thing, [name for name in sys.modules if 'lazy' in name])\n",
        more="-- conftest.py\nimport lazy\n"
        "-- lazy/__init__.py\ndef __getattr__(name):\n    if name == 'thing':\n"
        "        from lazy import sub\n        globals()['thing'] = sub.THING\n"
        "        return sub.THING\n    raise AttributeError(name)\n"
        "-- lazy/sub.py\nTHING = 'thing'\n",
        at="Z2",
    ),
    "a submodule of a package that is there": Import(
        test="import pack.sub\nfrom pack import other\n\ndef test_a():\n"
        "    print(pack.sub, other, sorted(n for n in vars(pack) if n[0] != '_'))\n",
        more="-- conftest.py\nimport pack\n\ndef pytest_addoption(parser):\n    pass\n"
        "-- pack/__init__.py\n-- pack/sub.py\n-- pack/other.py\n",
    ),
    "tests in a package": Import(
        test="def test_a():\n    pass\n",
        more="-- tests/__init__.py\nimport mod\n-- tests/unit/__init__.py\nfrom tests import mod\n"
        "-- tests/unit/test_b.py\nfrom . import helpers\nimport sys\n\ndef test_b():\n"
        "    print(helpers.mod.X, [name for name in sys.modules if 'tests' in name])\n"
        "-- tests/unit/helpers.py\nfrom tests.unit import mod\n",
        arguments=("-rA", "tests/unit/test_b.py"),
    ),
    "helpers that pytest rewrites": Import(
        test="import mod\nfrom checks import check\n\ndef test_a():\n    check(mod.X)\n",
        more="-- conftest.py\nimport pytest\npytest.register_assert_rewrite('checks')\n"
        "-- checks.py\ndef check(value):\n    assert value == 2, 'told'\n",
    ),
    "another named module": Import(
        test="import test_b\n\ndef test_a():\n    test_b.check(1)\n",
        more="-- test_b.py\ndef check(value):\n    assert value == 2\n",
        arguments=("-rA", "test_a.py", "test_b.py"),
        at="Z2",
    ),
    "a random number at import": Import(
        "import random\nX = 1\nY = random.random()\n",
        "import json.tool\nimport mod\n\ndef test_a():\n    print(mod.X)\n",
        cut="draws a random number",
    ),
    "an import that fails": Import(
        test="import json.tool\nimport nowhere\n\ndef test_a():\n    pass\n",
        cut="it raises ModuleNotFoundError",
    ),
    "an import that may fail": Import(
        test="try:\n    import nowhere\nexcept ImportError:\n    nowhere = None\nimport mod\n\n"
        "def test_a():\n    print(nowhere, mod.X)\n"
    ),
    "a frame's name at import": Import(
        "import sys\nX = sys._getframe(0).f_code.co_filename[-6:], __name__\n",
    ),
    "without capture": Import(arguments=("-s", *RUN)),
    "capture of Python's streams": Import(arguments=("--capture=sys", *RUN)),
    "appended to the path": Import(arguments=("--import-mode=append", *RUN)),
    "one test of two files": Import(
        more="-- test_b.py\nimport mod\n\ndef test_b():\n    pass\n",
        arguments=("-rA", "test_a.py::test_a", "test_b.py"),
    ),
    "a later file's test": Import(
        more="-- test_b.py\nimport mod\n\ndef test_b():\n    pass\n",
        arguments=("-rA", "test_a.py", "test_b.py::test_b"),
        at="Z2",
    ),
    "subclasses and registered types": Import(
        "import base\nimport collections.abc\n\nclass One(base.Base):\n    pass\n\n"
        "collections.abc.Sized.register(One)\nX = base.Base.__subclasses__()\n",
        "import mod\nimport base\nimport collections.abc\n\ndef test_a():\n"
        "    print(mod.X, issubclass(mod.One, collections.abc.Sized))\n",
        "-- base.py\nclass Base:\n    pass\n-- conftest.py\nimport base\n",
    ),
    "a loud hook": Import(
        more="-- conftest.py\nimport sys\n\ndef pytest_configure(config):\n"
        "    print('mod' in sys.modules)\n",
        at="Z2",
        arguments=("-s", *RUN),
    ),
}


@pytest.mark.parametrize("case", STATE.values(), ids=STATE)
def test_imports(sandbox: Sandbox, case: Import) -> None:
    play(sandbox, case)


def play(sandbox: Sandbox, case: Import) -> None:
    project(sandbox, case)
    sandbox.env["GONE"] = "there"
    plain = sandbox.same(*case.arguments, at=case.at)
    # Not with the byte code that the first has left, and the harness taken away again.
    sandbox.until_ready()
    again = sandbox.warm(*case.arguments, at=case.at)
    assert_same(plain, again, "the second warm run")
    if case.at == "Z3":
        why = sandbox.last_run().why
        assert case.cut in (why or "") and bool(why) == bool(case.cut)


EDITS = {
    "a test's body": ("test_a.py", ("print(mod.X)", "print(mod.X, 'more')"), "Z3"),
    "a blank line above": ("test_a.py", ("import mod", "\n\nimport mod"), "Z3"),
    "an import": ("test_a.py", ("import mod", "import other as mod"), "Z2"),
    "one more import": ("test_a.py", ("import mod", "import mod\nimport other"), "Z2"),
    "the module": ("mod.py", ("X = 1", "X = 2"), "Z2"),
}


@pytest.mark.parametrize("what", EDITS)
def test_edits(sandbox: Sandbox, what: str) -> None:
    """Right at once, by whatever; of a test's body, by what there is."""
    project(sandbox, Import(more="-- other.py\nX = 'other'\n"))
    sandbox.same(*RUN, at="Z3")
    name, change, at = EDITS[what]
    write(sandbox, {name: change})
    first = sandbox.warm(*RUN, at=at)
    assert_same(sandbox.plain(*RUN), first, "the run at once")
    sandbox.same(*RUN, at="Z3")


def test_another_import_that_is_cut_each_time(sandbox: Sandbox) -> None:
    """However often the imports are edited, there is a Z3 up to what cannot be made ahead."""
    project(sandbox, Import())
    for number in range(8):
        sandbox.write(f"loud{number}.py", "import random\nX = random.random()\n")
        sandbox.write(
            "test_a.py",
            f"import json.tool\nimport loud{number}\n\ndef test_a():\n    print({number})\n",
        )
        sandbox.same(*RUN, at="Z3")
        assert f"loud{number}" in (sandbox.last_run().why or "")


def test_another_order_of_arguments(sandbox: Sandbox) -> None:
    """Each file that is named first has a checkpoint of its own."""
    project(
        sandbox, Import(more="-- test_b.py\nimport json.tool\nimport mod\n\ndef test_b(): ...\n")
    )
    for files in (("test_a.py", "test_b.py"), ("test_b.py", "test_a.py")):
        sandbox.same("-rA", *files, at="Z3")
    one, other = "test_a.py", "test_b.py"
    for arguments in ((one,), (f"{other}::test_b",), (other, one, "-k", "test_a")):
        sandbox.same("-rA", *arguments, at="Z3")


def test_a_module_that_conftests_import_is_edited_again_and_again(sandbox: Sandbox) -> None:
    """There is one of these beside the checkpoint that is kept before that module."""
    # The harness takes byte code away, which is an edit too.
    sandbox.env["PYTHONDONTWRITEBYTECODE"] = "1"
    sandbox.write("conftest.py", "import early\nimport app\n")
    sandbox.write("early.py", "X = 1\n")
    sandbox.write("app.py", "X = 1\n")
    sandbox.write("mod.py", "X = 'mod'\n")
    sandbox.write("test_a.py", "import mod\n\ndef test_a():\n    print(mod.X)\n")
    sandbox.same(*RUN, at="Z3")
    for number in (2, 3, 4):
        sandbox.write("app.py", f"X = {number}\n")
        sandbox.same_at_once(*RUN)
        sandbox.until_ready("Z3")
        sandbox.same_warm(*RUN, at="Z3")
    assert len(sandbox.daemon.status().ready("Z2")) == 2, sandbox.daemon.status()
