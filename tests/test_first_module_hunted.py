"""What a hunt for differences at Z3 has found, as `test_first_module` plays it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Callable

import pytest

from .harness.environments import environment
from .harness.outcome import assert_same
from .harness.sandbox import Sandbox
from .test_first_module import RUN, Import, play, project

PRINTS_MODULES = "def test_a():\n    print(mod.X, list(sys.modules))\n"

KEPT = {
    "atexit's function as a default": Import(
        "import atexit\n\ndef at_end(function, register=atexit.register):\n"
        "    register(function)\nX = 1\n",
        "import mod\n\ndef test_a():\n    mod.at_end(lambda: print('last'))\n",
        arguments=("-s", *RUN),
        cut="it keeps a function of `atexit`",
    ),
    "atexit's function in a class": Import(
        "import atexit\n\nclass End:\n    functions = [atexit.register]\n"
        "    of = staticmethod(atexit.unregister)\nX = 1\n",
        "import atexit\nimport mod\n\ndef test_a():\n"
        "    print(mod.End.functions[0] is atexit.register, mod.End.of is atexit.unregister)\n"
        "    mod.End.functions[0](lambda: print('last'))\n",
        arguments=("-s", *RUN),
        cut="it keeps a function of `atexit`",
    ),
    "the interpreter's own stream": Import(
        "import sys\nOUT = sys.__stdout__\nX = 1\n",
        "import mod\nimport sys\n\ndef test_a():\n    mod.OUT.write('said')\n"
        "    print(mod.OUT is sys.__stdout__)\n",
        cut="keeps `sys.__stdout__`",
    ),
    "the names of all callers": Import(
        "import sys\nX, frame = [], sys._getframe()\nwhile frame is not None:\n"
        "    X.append(frame.f_code.co_name)\n    frame = frame.f_back\n",
        cut="goes up the stack of calls",
    ),
    "the stack of calls": Import(
        "import traceback\nX = [entry.name for entry in traceback.extract_stack()]\n",
        cut="goes up the stack of calls",
    ),
    "a caller's name": Import(
        "import inspect\nimport other\nX = other.name()\n",
        more="-- other.py\nimport inspect\n\ndef name():\n"
        "    return inspect.currentframe().f_back.f_globals['__name__']\n",
    ),
    "the list of warning filters": Import(
        "from warnings import filters\nX = 1\n",
        "import mod\nimport warnings\nSAME = mod.filters is warnings.filters\n\n"
        "def test_a():\n    print(SAME)\n",
        cut="keeps `warnings.filters`",
    ),
}

ASKED = {
    "a warning of the compiler": Import(
        "import other\nX = '\\d'\n",
        more="-- other.py\nX = 1\nif X is 2:\n    pass\n",
    ),
    "a warning of the compiler in what pytest rewrites": Import(
        test="import mod\nfrom checks import check\n\ndef test_a():\n    check(mod.X)\n",
        more="-- conftest.py\nimport pytest\npytest.register_assert_rewrite('checks')\n"
        "-- checks.py\nX = '\\d'\n\ndef check(value):\n    assert value == 2, 'told'\n",
    ),
    "a name that warns when it is asked for": Import(
        "import warnings\n\ndef __getattr__(name):\n    if name == 'X':\n"
        "        warnings.warn('old', DeprecationWarning, stacklevel=2)\n        return 1\n"
        "    raise AttributeError(name)\n",
        "from mod import X\n\ndef test_a():\n    print(X)\n",
        cut="not only modules that it loads do something",
    ),
    "a name of another module that warns": Import(
        "from old import X\n",
        more="-- old.py\nimport warnings\n\ndef __getattr__(name):\n    if name == 'X':\n"
        "        warnings.warn('old', DeprecationWarning, stacklevel=2)\n        return 1\n"
        "    raise AttributeError(name)\n",
    ),
    "a module that fails and has set a variable": Import(
        test="import os\ntry:\n    import mod\nexcept ImportError:\n    mod = None\n\n"
        "def test_a():\n    print(os.environ['TIMES'])\n",
        mod="import os\nos.environ['TIMES'] = os.environ.get('TIMES', '') + 'x'\nimport nowhere\n",
        cut="not only modules that it loads do something",
    ),
    "something among the modules that notes what it is asked": Import(
        "import sys\n\nclass Asked:\n    names = []\n\n    def __getattr__(self, name):\n"
        "        self.names.append(name)\n        raise AttributeError(name)\n\n"
        "sys.modules['asked'] = Asked()\nX = Asked.names\n",
    ),
    "a module that notes what it is asked": Import(
        "import sys\nimport types\n\nclass Asked(types.ModuleType):\n    names = []\n\n"
        "    def __getattribute__(self, name):\n        Asked.names.append(name)\n"
        "        return super().__getattribute__(name)\n\n"
        "sys.modules['asked'] = Asked('asked')\nX = Asked.names\n",
    ),
    "a module that is loaded when it is asked": Import(
        "import importlib.util\nimport sys\nspec = importlib.util.find_spec('late')\n"
        "spec.loader = importlib.util.LazyLoader(spec.loader)\n"
        "late = sys.modules['late'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(late)\nX = 1\n",
        f"import sys\nimport mod\n\n{PRINTS_MODULES}",
        "-- late.py\nimport later\n-- later.py\n",
    ),
}

HELD = {
    "filters that are appended": Import(
        "import warnings\nimport other\nwarnings.simplefilter('ignore', ResourceWarning)\n"
        "warnings.simplefilter('default', BytesWarning, append=True)\nX = 1\n",
        "import mod\nimport warnings\nSEEN = [entry[:3] for entry in warnings.filters]\n\n"
        "def test_a():\n    print(SEEN)\n",
        "-- other.py\nimport warnings\n"
        "warnings.simplefilter('always', UnicodeWarning, append=True)\n"
        "warnings.simplefilter('ignore', FutureWarning)\n",
    ),
    "flags, codecs, schemes, levels": Import(
        "import logging\nimport re\nimport urllib.parse\n"
        "X = re.I | re.X | re.S | re.A, 'a'.encode('cp437')\n"
        "urllib.parse.uses_netloc.append('own')\nlogging.addLevelName(7, 'TRACE')\n",
        "import sys\nimport mod\nimport urllib.parse\nimport logging\n\n" + PRINTS_MODULES + ""
        "    print(urllib.parse.urljoin('own://a/b', 'c'), logging.getLevelName(7))\n",
    ),
    "executors, of what was there": Import(
        "from concurrent.futures import ThreadPoolExecutor\nX = 1\n",
        "import sys\nimport mod\nimport concurrent.futures\n"
        "import wave\n\n" + PRINTS_MODULES + ""
        "    print(list(vars(concurrent.futures)))\n",
        more="-- conftest.py\nimport concurrent.futures\n",
    ),
    "executors, asked for by the test module": Import(
        test="import sys\nimport concurrent.futures\nimport mod\n"
        "from concurrent.futures import ThreadPoolExecutor\nimport wave\n\n" + PRINTS_MODULES + ""
        "    print(list(vars(concurrent.futures)))\n",
    ),
    "a level that has another name": Import(
        "import logging\nlogging.addLevelName(logging.WARNING, 'WARN')\nX = 1\n",
        cut="it changed `_levelToName` of `logging`",
    ),
}


@pytest.mark.parametrize(
    "case", [*KEPT.values(), *ASKED.values(), *HELD.values()], ids=[*KEPT, *ASKED, *HELD]
)
def test_imports(sandbox: Sandbox, case: Import) -> None:
    play(sandbox, case)


def test_byte_code_spares_the_warning(sandbox: Sandbox) -> None:
    """The compiler's, once a run of the same checkpoint has written byte code."""
    project(sandbox, Import("X = '\\d'\n"))
    sandbox.same(*RUN, at="Z3")
    sandbox.until_ready("Z3")
    warm = []
    for _ in range(2):
        warm.append(sandbox.finish(sandbox.start(sandbox.pyseidon, *RUN)))
        sandbox.assert_served("Z3")
        sandbox.until_ready("Z3")
    shutil.rmtree(sandbox.project / "__pycache__")
    plain = [sandbox.finish(sandbox.start(sandbox.pytest, *RUN)) for _ in range(2)]
    assert ["1 warning" in outcome.stdout for outcome in plain] == [True, False]
    for expected, got in zip(plain, warm):
        assert_same(expected, got)


CONFIGURES = Import(
    "from django.conf import settings\n"
    "settings.configure(INSTALLED_APPS=['django.contrib.contenttypes'])\nX = 1\n",
    "import mod\nfrom django.apps import apps\nREADY = apps.ready\n\n"
    "def test_a():\n    print(READY, apps.ready)\n",
)
DJANGO = {
    "that nobody has imported": CONFIGURES,
    "that a conftest has imported": replace(
        CONFIGURES, more="-- conftest.py\nimport django\n", cut="it configures Django"
    ),
    "whose settings a conftest has imported": replace(
        CONFIGURES, more="-- conftest.py\nimport django.conf\n", cut="it configures Django"
    ),
}


# Of typeguard another release was read.
WITHOUT_TYPEGUARD = ("-p", "no:typeguard", *RUN)


# As in `test_prefix_plugins`.
@pytest.mark.timeout(400)
@pytest.mark.parametrize("case", DJANGO.values(), ids=DJANGO)
def test_django(new_sandbox: Callable[..., Sandbox], case: Import) -> None:
    """Who configures it when `pytest-django` has looked whether it is configured."""
    play(new_sandbox(environment(also="libraries")), replace(case, arguments=WITHOUT_TYPEGUARD))


LIBRARIES = ("pandas", "sqlalchemy", "jinja2", "django.db.models", "celery")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries(new_sandbox: Callable[..., Sandbox], library: str) -> None:
    """All that they import is held."""
    sandbox = new_sandbox(environment(also="libraries"))
    test = "import sys\nimport warnings\nimport mod\n\ndef test_a():\n"
    test += "    print(list(sys.modules), warnings.filters, sys.meta_path)\n"
    sandbox.env["PYTHONHASHSEED"] = "0"
    play(sandbox, Import(f"import {library}\nX = 1\n", test, arguments=WITHOUT_TYPEGUARD))
