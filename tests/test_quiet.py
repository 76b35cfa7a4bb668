"""Which imports a test module makes before anything that is not quiet: read off its source."""

# (A case a line.)
# ruff: noqa: E501

from __future__ import annotations

import ast
import importlib.util
import json
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from .harness.environments import REPOSITORY
from .harness.interpreters import interpreters

# By its path: the package is not installed beside the tests, and this module needs nothing of it.
QUIET = REPOSITORY / "pytest_plugin" / "pyseidon" / "quiet.py"

# Source, the import statements of its prefix, and where and why that ends. Where the statements
# are None they are those of the whole source that import something, as it stands.
PREFIXES = [
    # Imports.
    ("import a", ["import a"], None),
    ("import a, b.c as d\nfrom e import f as g", ["import a, b.c as d", "from e import f as g"], None),
    ("from . import a\nfrom ..b import c", ["from . import a", "from ..b import c"], None),
    ("from a import *\nimport b", ["from a import *", "import b"], None),
    ("from __future__ import annotations", ["from __future__ import annotations"], None),
    ("import test_it", [], "line 1: `import test_it` may import this module itself"),
    ("from .test_it import a", [], "line 1: `from .test_it import a` may import this module itself"),
    ("from . import test_it", [], "line 1: `from . import test_it` may import this module itself"),
    ("import a.test_it.b", [], "line 1: `import a.test_it.b` may import this module itself"),
    # What may stand between them.
    ("'doc'\nimport a\n'text'\n...\npass\nimport b", ["import a", "import b"], None),
    ("X = 1\nY = Z = ('a', [-1, {2: {3}}], b'', None)\nimport a", ["import a"], None),
    ("X: int = 1\nY: str\nimport a", ["import a"], None),
    ("__all__ = ['a']\n__version__ = '1'\nimport a", ["import a"], None),
    ("def f(a, /, b=1, *c, d=(), **e): stop()\nimport a", ["import a"], None),
    ("async def f(): stop()\nimport a", ["import a"], None),
    ("class A:\n    'doc'\n    x = 1\n    def f(self): stop()\nimport a", ["import a"], None),
    ("class A:\n    __test__ = False\n    def __init__(self): pass\nimport a", ["import a"], None),
    ("class A:\n    class B:\n        pass\nimport a", ["import a"], None),
    # What may not.
    ("import a\nstop()\nimport b", ["import a"], "line 2: a call of `stop()`"),
    ("import a\na.b.configure(1)", ["import a"], "line 2: a call of `a.b.configure()`"),
    ("import a\na.x = 1", ["import a"], "line 2: an assignment to `a.x`"),
    ("import a\na['x'] = 1", ["import a"], "line 2: an assignment to `a['x']`"),
    ("import a\na.x: int = 1", ["import a"], "line 2: an assignment to `a.x`"),
    ("x, y = 1, 2", [], "line 1: an assignment to `(x, y)`"),
    ("x = y", [], "line 1: the expression `y`"),
    ("x = f'{1}'", [], "line 1: the expression `f'{1}'`"),
    ("x = 1 / 0", [], "line 1: the expression `1 / 0`"),
    ("x = [*'ab']", [], "line 1: the expression `[*'ab']`"),
    ("x = {**{}}", [], "line 1: the expression `{**{}}`"),
    ("x = {[]: 1}", [], "line 1: the expression `{[]: 1}`"),
    ("x = {[]}", [], "line 1: the expression `{[]}`"),
    ("x = {(1, -2): 1}\nimport a", ["import a"], None),
    ("x = ~1", [], "line 1: the expression `~1`"),
    ("x = -'a'", [], "line 1: the expression `-'a'`"),
    ("x", [], "line 1: the expression `x`"),
    ("x = 1\nx += 1", [], "line 2: the statement `x += 1`"),
    ("x = 1\ndel x", [], "line 2: the statement `del x`"),
    ("for x in 'ab':\n    import a", [], "line 1: the statement `for x in 'ab':`"),
    ("while 1:\n    import a", [], "line 1: the statement `while 1:`"),
    ("with a: import a", [], "line 1: the statement `with a:`"),
    ("assert 1", [], "line 1: the statement `assert 1`"),
    ("raise KeyError", [], "line 1: the statement `raise KeyError`"),
    ("global x", [], "line 1: the statement `global x`"),
    ("__path__ = []", [], "line 1: `__path__` is bound"),
    ("from a import __package__", [], "line 1: `__package__` is bound"),
    ("def __import__(): pass", [], "line 1: `__import__` is bound"),
    ("class A(B): pass", [], "line 1: the class `A` has the base `B`"),
    ("class A(metaclass=B): pass", [], "line 1: the class `A` has the base `B`"),
    ("class A:\n    stop()", [], "line 2: a call of `stop()`"),
    ("class A:\n    import a", [], "line 2: an import in a class"),
    ("class A:\n    try:\n        import a\n    except ImportError: pass", [], "line 2: a `try` statement in a class"),
    ("class A:\n    __slots__ = 1", [], "line 2: `__slots__` is bound"),
    ("class A:\n    def __set_name__(self): pass", [], "line 2: `__set_name__` is bound"),
    ("@decorate\ndef f(): pass", [], "line 1: the decorator `decorate` of `f`"),
    ("@decorate\nclass A: pass", [], "line 1: the decorator `decorate` of `A`"),
    ("def f(a=b): pass", [], "line 1: the default `b` in `f`"),
    ("def f(*, a=b()): pass", [], "line 1: the default `b()` in `f`"),
    # Annotations.
    ("def f(a: int, *b: 'B', c: list[str] = ()) -> None: pass\nimport a", ["import a"], None),
    ("def f(a: dict[str, tuple[int, ...]]): pass\nimport a", ["import a"], None),
    ("from b import B\ndef f(a: B): pass\nimport a", ["from b import B", "import a"], None),
    ("def f(a: B): pass", [], "line 1: the annotation `B`"),
    ("import b\ndef f(a: b.B): pass", ["import b"], "line 2: the annotation `b.B`"),
    ("import b\nx: b.B = 1", ["import b"], "line 2: the annotation `b.B`"),
    ("def f(a: int | None): pass", [], "line 1: the annotation `int | None`"),
    ("def f() -> stop(): pass", [], "line 1: the annotation `stop()`"),
    ("def f(a: int[str]): pass", [], "line 1: the annotation `int[str]`"),
    ("def list(): pass\ndef f(a: list[int]): pass", [], "line 2: the annotation `list[int]`"),
    ("from __future__ import annotations\nx: b.B = 1\ndef f(a: c.C) -> d(): pass\nimport e",
     ["from __future__ import annotations", "import e"], None),
    ("try:\n    from b import B\nexcept ImportError:\n    pass\ndef f(a: B): pass", None, "line 5: the annotation `B`"),
    # pytest's own.
    ("import pytest\n@pytest.fixture\ndef f(): pass\nimport a", ["import pytest", "import a"], None),
    ("import pytest\n@pytest.fixture(scope='module', autouse=True, params=[1], ids=['a'], name='g')\ndef f(): pass\nimport a",
     ["import pytest", "import a"], None),
    ("import pytest\n@pytest.mark.skipif(True, reason='')\n@pytest.mark.parametrize('a', [1, pytest.param(2, id='b', marks=pytest.mark.xfail)])\ndef test_f(a): pass\nimport a",
     ["import pytest", "import a"], None),
    ("import pytest\n@pytest.mark.skip\nclass TestA:\n    @pytest.fixture\n    def f(self): pass\nimport a",
     ["import pytest", "import a"], None),
    ("import pytest\npytestmark = pytest.mark.skip\nimport a", ["import pytest", "import a"], None),
    ("import pytest\npytestmark = [pytest.mark.skip, pytest.mark.xfail()]\nimport a",
     ["import pytest", "import a"], None),
    ("import pytest\npytestmark = pytest.mark.slow", ["import pytest"], "line 2: the expression `pytest.mark.slow`"),
    ("import pytest\npytestmark = pytest.mark.skipif(x())", ["import pytest"], "line 2: a call of `pytest.mark.skipif()`"),
    ("import pytest\n@pytest.mark.slow\ndef f(): pass", ["import pytest"], "line 2: the decorator `pytest.mark.slow` of `f`"),
    ("import pytest\n@pytest.fixture('module')\ndef f(): pass", ["import pytest"], "line 2: the decorator `pytest.fixture('module')` of `f`"),
    ("import pytest\n@pytest.fixture(params=1)\ndef f(): pass", ["import pytest"], "line 2: the decorator `pytest.fixture(params=1)` of `f`"),
    ("import pytest\n@pytest.fixture(**{})\ndef f(): pass", ["import pytest"], "line 2: the decorator `pytest.fixture(**{})` of `f`"),
    ("import pytest\n@pytest.fixture\ndef request(): pass", ["import pytest"], "line 2: the decorator `pytest.fixture` of `request`"),
    ("import pytest\n@pytest.fixture\nclass A: pass", ["import pytest"], "line 2: the decorator `pytest.fixture` of `A`"),
    ("import pytest\n@pytest.mark.skip\n@pytest.fixture\ndef f(): pass", ["import pytest"], "line 4: `f` is a fixture with another decorator"),
    ("import pytest\n@pytest.mark.parametrize('a', x)\ndef f(): pass", ["import pytest"], "line 2: the decorator `pytest.mark.parametrize('a', x)` of `f`"),
    ("import pytest as pt\n@pt.fixture\ndef f(): pass", ["import pytest as pt"], "line 2: the decorator `pt.fixture` of `f`"),
    ("@pytest.fixture\ndef f(): pass", [], "line 1: the decorator `pytest.fixture` of `f`"),
    ("import pytest\nfrom a import *\n@pytest.fixture\ndef f(): pass", ["import pytest", "from a import *"], "line 3: the decorator `pytest.fixture` of `f`"),
    ("import pytest\npytest = 1", ["import pytest"], "line 2: `pytest` is bound to something else"),
    ("import pytest\nimport b as pytest", ["import pytest"], "line 2: `pytest` is bound to something else"),
    ("import sys\ndef sys(): pass", ["import sys"], "line 2: `sys` is bound to something else"),
    ("import b as pytest\n@pytest.fixture\ndef f(): pass", ["import b as pytest"], "line 2: the decorator `pytest.fixture` of `f`"),
    # importorskip
    ("import pytest\nx = pytest.importorskip('x.y', minversion='1', reason='r')\npytest.importorskip('z', exc_type=ImportError)\nimport a",
     ["import pytest", "x = pytest.importorskip('x.y', minversion='1', reason='r')",
      "pytest.importorskip('z', exc_type=ImportError)", "import a"], None),
    ("x = pytest.importorskip('x')", [], "line 1: a call of `pytest.importorskip()`"),
    ("import pytest\npytest.importorskip(x)", ["import pytest"], "line 2: a call of `pytest.importorskip()`"),
    ("import pytest\npytest.importorskip('x', reason=r())", ["import pytest"], "line 2: a call of `pytest.importorskip()`"),
    ("import pytest\ny = pytest.importorskip('x').y", ["import pytest"], "line 2: the expression `pytest.importorskip('x').y`"),
    ("import pytest\npytest = pytest.importorskip('x')", ["import pytest"], "line 2: `pytest` is bound to something else"),
    ("import pytest\npytest.skip('no', allow_module_level=True)\nimport a", ["import pytest"], "line 2: a call of `pytest.skip()`"),
    # Conditions.
    ("import typing\nif typing.TYPE_CHECKING:\n    import a\nimport b", ["import typing", "import b"], None),
    ("import typing as t\nif not t.TYPE_CHECKING:\n    import a", ["import typing as t", "import a"], None),
    ("from typing import TYPE_CHECKING as T\nif T:\n    stop()\nelse:\n    import a",
     ["from typing import TYPE_CHECKING as T", "import a"], None),
    ("TYPE_CHECKING = False\nif TYPE_CHECKING:\n    import a", [], "line 2: a condition: `TYPE_CHECKING`"),
    ("import sys\nif sys.version_info >= (3, 9):\n    import a\nelse:\n    stop()", ["import sys", "import a"], None),
    ("import sys\nif sys.version_info[0] == 2:\n    stop()\nelif sys.version_info[:2] < (3, 0):\n    stop()\nelse:\n    import a",
     ["import sys", "import a"], None),
    ("import sys\nif sys.version_info.major < 3:\n    import a\nimport b", ["import sys", "import b"], None),
    ("import sys\nif sys.platform != 'none' and 1:\n    import a", ["import sys"], "line 2: a condition: `sys.platform != 'none' and 1`"),
    ("import sys\nif sys.platform == 'none':\n    import a\nif not sys.platform.startswith('none'):\n    import b",
     ["import sys", "import b"], None),
    ("import sys\nif sys.platform in ('none', 'neither'):\n    import a", ["import sys"], None),
    ("import sys\nif sys.version_info >= '3':\n    import a", ["import sys"], "line 2: a condition: `sys.version_info >= '3'`"),
    ("import sys\nif sys.argv == []:\n    import a", ["import sys"], "line 2: a condition: `sys.argv == []`"),
    ("if sys.platform == 'none':\n    import a", [], "line 1: a condition: `sys.platform == 'none'`"),
    ("import sys\nfrom a import *\nif sys.platform == 'none':\n    import b", ["import sys", "from a import *"], "line 3: a condition: `sys.platform == 'none'`"),
    ("import os\nif os.environ.get('A'):\n    import a", ["import os"], "line 2: a condition: `os.environ.get('A')`"),
    ("if True:\n    import a", [], "line 1: a condition: `True`"),
    # try
    ("try:\n    import a\nexcept ImportError:\n    a = None\nimport b", None, None),
    ("try:\n    import a\nexcept (ImportError, ModuleNotFoundError) as e:\n    try:\n        import b\n    except ImportError:\n        import c\nelse:\n    X = 1",
     None, None),
    ("try:\n    import a\nexcept Exception:\n    pass", [], "line 3: an `except` of something else than `ImportError`"),
    ("try:\n    import a\nexcept:\n    pass", [], "line 3: an `except` of something else than `ImportError`"),
    ("try:\n    import a\nfinally:\n    pass", [], "line 1: a `try` statement with `finally`"),
    ("try:\n    import a\nexcept ImportError:\n    stop()", [], "line 4: `stop()` within `try`"),
    ("try:\n    import a\nexcept ImportError:\n    raise", [], "line 4: `raise` within `try`"),
    ("try:\n    import a\nexcept ImportError:\n    x = stop()", [], "line 4: a call of `stop()`"),
    ("ImportError = 1\ntry:\n    import a\nexcept ImportError:\n    pass", [], "line 4: an `except` of something else than `ImportError`"),
    ("import pytest\ntry:\n    import a\nexcept ImportError:\n    pytest = None", ["import pytest"], "line 5: `pytest` is bound to something else"),
    ("try:\n    import pytest\nexcept ImportError:\n    pass\n@pytest.fixture\ndef f(): pass", None, "line 5: the decorator `pytest.fixture` of `f`"),
    # What is no module at all.
    ("import a\ndef", [], "line 2: a syntax error: "),
    ("import a\nreturn", [], "line 2: a syntax error: 'return' outside function"),
    ("import a\nfrom __future__ import annotations", [], "line 2: a syntax error: "),
    ("import a\nx = 1 is 1", [], "line 2: the compiler warns: "),
]  # fmt: skip

LOOK = """
import ast, importlib.util, json, sys
sys.dont_write_bytecode = True
spec = importlib.util.spec_from_file_location("quiet", sys.argv[1])
quiet = importlib.util.module_from_spec(spec)
spec.loader.exec_module(quiet)
answers = []
for source in json.load(sys.stdin):
    root = quiet.imports_of(source.encode(), "/project/tests/test_it.py")
    assert len(root.digest) == len(root.statements)
    answers.append([[ast.unparse(node) for node in root.statements], root.cut])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def quiet():
    spec = importlib.util.spec_from_file_location("quiet", QUIET)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("python", interpreters())
def test_prefixes(python: str) -> None:
    done = subprocess.run(
        [interpreters()[python], "-I", "-c", LOOK, QUIET],
        input=json.dumps([source for source, _, _ in PREFIXES]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    answers = json.loads(done.stdout)
    for (source, imports, cut), (found, found_cut) in zip(PREFIXES, answers):
        if imports is None:
            kinds = ast.Import, ast.ImportFrom, ast.Try
            whole = [node for node in ast.parse(source).body if isinstance(node, kinds)]
            imports = [ast.unparse(node) for node in whole]
        assert found == imports, source
        if cut is not None and cut.endswith(": "):
            # The rest is Python's own wording.
            assert found_cut.startswith(cut), source
        else:
            assert found_cut == cut, source


@pytest.mark.parametrize(
    "source", [b"import a\n\0", b"# coding: none\nimport a", b"import a\n'\xff'"]
)
def test_a_source_that_cannot_be_decoded(quiet, source: bytes) -> None:
    root = quiet.imports_of(source, "test_it.py")
    assert (root.statements, root.digest) == ([], ())
    assert root.cut.startswith("line ")


def test_a_source_that_is_nested_too_deeply(quiet) -> None:
    root = quiet.imports_of(b"import a\nx = " + b"-" * 50_000 + b"1", "test_it.py")
    assert not root.statements
    assert root.cut


def test_more_marks(quiet) -> None:
    source = b"import pytest\npytestmark = pytest.mark.slow\nimport a"
    assert len(quiet.imports_of(source, "test_it.py").statements) == 1
    assert len(quiet.imports_of(source, "test_it.py", marks={"slow"}).statements) == 2


@pytest.mark.parametrize(
    ("edited", "same"),
    [
        ("import a\nX = 1\ndef f(): return 1\nimport b\nstop()", True),
        ("\n\nimport a\n# comment\nX = 3\nimport b\ngo()\nimport c", True),
        ("import a\nimport b as c", False),
        ("import b\nimport a", False),
        ("import a", False),
        ("import a\nstop()\nimport b", False),
        ("import a\ntry:\n    import b\nexcept ImportError:\n    pass", False),
    ],
)
def test_the_digest_is_that_of_the_imports(quiet, edited: str, same: bool) -> None:
    known = quiet.imports_of(b"import a\nX = 2\nimport b", "test_it.py").digest
    assert (quiet.imports_of(edited.encode(), "test_it.py").digest == known) == same


# Of these a module is made up. What does not import anything is quiet.
QUIET_PIECES = [
    "import part_{}",
    "import part_{} as other",
    "import package.part_{}",
    "from package import part_{}",
    "from part_{} import WORD",
    "part = pytest.importorskip('part_{}')",
    "try:\n    import part_{}\nexcept ImportError:\n    import never",
    "try:\n    import missing, part_{0}\nexcept ImportError:\n    import package.part_{0}",
    "try:\n    import part_{}\nexcept ImportError:\n    X = 1\nelse:\n    import package",
    "if sys.version_info > (3, 0):\n    import part_{}\nelse:\n    import never",
    "if sys.platform == 'none':\n    import never\nelif not typing.TYPE_CHECKING:\n    import part_{}",
    "if typing.TYPE_CHECKING:\n    import never\n    stop()",
    "X_{} = [1, {{'a': -2}}]",
    "class A{}:\n    X: int = 1\n    @pytest.fixture(params=[1, 2])\n    def f(self):\n        stop()",
    "@pytest.mark.parametrize('a', [1, pytest.param(2, id='a')])\ndef f{}(a: int = 1):\n    stop()",
    "@pytest.fixture(autouse=True, name='g')\nasync def f{}(a, *, b=()):\n    import never",
    "pytestmark = [pytest.mark.skipif(True, reason='{}')]",
]
# After one of these hardly any name is known.
STAR_PIECES = [
    "from package import *\nimport package.part_{}",
    "try:\n    from part_{} import *\nexcept ImportError:\n    import never",
    "from package.part_{0} import *\nimport pytest\n@pytest.fixture\ndef f(): pass\nimport part_{0}",
]
# Executing one of these ends the module.
LOUD_PIECES = [
    "stop()",
    "X = stop()",
    "X = {{'a': stop()}}",
    "class A(stop()):\n    pass",
    "class A:\n    X = stop()",
    "def f(a, b=1, c=stop()):\n    pass",
    "def f(a: stop()):\n    pass",
    "@pytest.fixture(name=stop())\ndef f():\n    pass",
    "@pytest.mark.parametrize('a', [stop()])\ndef f():\n    pass",
    "if stop():\n    import part_{}",
    "if sys.version_info > (3, 0):\n    import part_{}\n    stop()",
    "try:\n    stop()\nexcept ImportError:\n    pass",
    "@pytest.mark.unknown_mark\ndef f():\n    pass",
    "@pytest.mark.skip\n@pytest.fixture\n@pytest.fixture\ndef f():\n    pass",
    "import sys as pytest\npytest.mark",
    "pytest.importorskip('missing')",
    "assert not 1",
    "raise KeyError",
]


class Stop(BaseException):
    pass


def execute(codes, modules: Path) -> list[str]:
    """Which of the modules are loaded by this, in order; what it raises ends it."""

    def stop():
        raise Stop

    namespace = {"__name__": "test_it", "__package__": "", "stop": stop}
    try:
        for code in codes:
            exec(code, namespace)
    except BaseException as error:
        assert not isinstance(error, (SyntaxError, NameError))
    loaded = [n for n, m in sys.modules.items() if str(modules) in str(vars(m).get("__file__"))]
    for name in loaded:
        del sys.modules[name]
    return loaded


@pytest.mark.parametrize("seed", range(300))
def test_the_statements_import_what_the_module_imports(
    quiet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    choose = random.Random(seed)
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("__all__ = ['part_0']\n")
    for number in range(4):
        (tmp_path / f"part_{number}.py").write_text(f"WORD = {number}\n")
        inner = "import part_0\n" if number == 1 else "WORD = 1\n"
        (package / f"part_{number}.py").write_text(inner)
    (tmp_path / "never.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)

    pieces = choose.choices(QUIET_PIECES, k=choose.randrange(1, 9))
    for _ in range(choose.randrange(3)):
        pieces.insert(choose.randrange(len(pieces) + 1), choose.choice(LOUD_PIECES))
    if choose.random() < 0.3:
        pieces.append(choose.choice(STAR_PIECES))
    lines = [piece.format(choose.randrange(4)) for piece in pieces]
    source = "\n".join(["import pytest, sys, typing", *lines])
    root = quiet.imports_of(source.encode(), "test_it.py")

    whole = execute([compile(source, "test_it.py", "exec", dont_inherit=True)], tmp_path)
    only = execute(
        [compile(ast.Module([n], []), "test_it.py", "exec") for n in root.statements], tmp_path
    )
    assert only == whole, f"{textwrap.indent(source, '    ')}\n{root.cut}"
