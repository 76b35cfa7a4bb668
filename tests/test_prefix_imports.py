"""How modules come into being: finders, hooks, rewriting, cycles, archives, odd modules."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
import zipfile

from .harness.cases import Case, Twist, each, edit, play, select
from .harness.sandbox import Sandbox


def archive(sandbox: Sandbox, word: str) -> None:
    with zipfile.ZipFile(sandbox.project / "lib.zip", "w") as file:
        file.writestr("packed.py", f"WORD = '{word}'\n")


CASES = [
    Case(
        "namespace packages",
        """
        -- conftest.py
        import sys

        sys.path += ["left", "right"]
        import space.one
        -- left/space/one.py
        WORD = "one"
        -- right/space/two.py
        WORD = "two"
        -- test_a.py
        import space.two
        import sys

        def test_shows():
            print([path for path in sys.path if "psd-" in path])
            print([n for n, m in sys.modules.items() if "psd-" in str(getattr(m, "__file__", ""))])
            print(space.__path__, space.__file__ if hasattr(space, "__file__") else None)
            print(space.one.WORD, space.two.WORD)
        """,
        (
            edit("right/space/two.py", "WORD = 'edited'\n"),
            edit("left/space/two.py", "WORD = 'nearer'\n"),
            edit("right/space/__init__.py", ""),
        ),
    ),
    Case(
        "module that replaces itself",
        """
        -- itself.py
        import sys
        import types

        class Module(types.ModuleType):
            @property
            def word(self):
                return "computed"

        sys.modules[__name__] = Module(__name__)
        -- alias.py
        import sys
        import itself

        sys.modules["aliased.name"] = itself
        sys.modules[__name__] = itself
        -- conftest.py
        import itself
        -- test_a.py
        import alias
        import itself
        import aliased.name
        import sys

        def test_shows():
            print([path for path in sys.path if "psd-" in path])
            print([n for n, m in sys.modules.items() if "psd-" in str(getattr(m, "__file__", ""))])
            print(itself.word, alias is itself, aliased.name)
        """,
        (
            edit("itself.py", ('"computed"', '"edited"'), True),
            edit("conftest.py", "import alias\n", True),
        ),
    ),
    Case(
        "lazy modules",
        """
        -- lazy/__init__.py
        import importlib

        def __getattr__(name):
            if name not in ("one", "two"):
                raise AttributeError(name)
            return importlib.import_module("." + name, __name__)

        def __dir__():
            return ["one", "two"]
        -- lazy/one.py
        import lazy

        print("one is made")
        -- lazy/two.py
        print("two is made")
        -- later.py
        import importlib.util
        import sys

        spec = importlib.util.find_spec("plain")
        loader = importlib.util.LazyLoader(spec.loader)
        spec.loader = loader
        plain = sys.modules["plain"] = importlib.util.module_from_spec(spec)
        loader.exec_module(plain)
        -- plain.py
        print("plain is made")
        WORD = 1
        -- conftest.py
        import lazy

        lazy.one
        -- test_a.py
        import lazy
        import later

        def test_a():
            print(type(later.plain), sorted(vars(lazy))[-3:])
            print(lazy.two, later.plain.WORD)

        def test_b():
            print(sorted(vars(lazy))[-3:])
        """,
        (
            select("-k", "test_b"),
            edit("conftest.py", "import lazy\n"),
            edit("conftest.py", "", True),
        ),
    ),
    Case(
        "cycle of modules",
        """
        -- pkg/__init__.py
        from pkg import one
        -- pkg/one.py
        import pkg.two

        WORD = "one"
        SAW = getattr(getattr(pkg, "two", None), "WORD", None)
        -- pkg/two.py
        import pkg.one

        WORD = "two"
        SAW = getattr(pkg, "one", None) and getattr(pkg.one, "WORD", None)
        -- conftest.py
        -- test_a.py
        import pkg.two

        def test_a():
            print(pkg.one.SAW, pkg.two.SAW)
        """,
        (
            edit("pkg/__init__.py", "from pkg import two\n"),
            edit("pkg/__init__.py", "", True),
            edit("conftest.py", "import pkg.one\n"),
        ),
    ),
    Case(
        "helpers that are rewritten",
        """
        -- conftest.py
        import pytest

        pytest.register_assert_rewrite("helpers")
        import helpers
        -- helpers.py
        def check(value):
            assert value == [1, 2]
        -- plain.py
        def check(value):
            assert value == [1, 2]
        -- test_a.py
        import helpers
        import plain

        def test_a():
            helpers.check([1])

        def test_b():
            plain.check([1])
        """,
        (
            select("--assert", "plain"),
            edit("conftest.py", ('"helpers"', '"plain"')),
            edit(
                "conftest.py",
                "import pytest\nimport helpers\n\npytest.register_assert_rewrite('helpers')\n",
            ),
            edit("conftest.py", "pytest_plugins = ['helpers', 'plain']\n"),
            edit("pytest.ini", "[pytest]\nenable_assertion_pass_hook = true\n", True),
            edit(
                "conftest.py",
                "def pytest_assertion_pass(item, lineno, orig, expl):\n    print(orig)\n"
                "\ndef pytest_assertrepr_compare(op, left, right):\n    return ['is not']\n",
            ),
        ),
    ),
    Case(
        "archives",
        """
        -- conftest.py
        import sys

        sys.path.insert(0, "lib.zip")
        -- test_a.py
        import packed

        def test_a():
            print(packed.WORD, packed.__file__.split("/")[-2:])
        """,
        (
            Twist("an archive", act=lambda s: archive(s, "packed")),
            Twist("another archive", act=lambda s: archive(s, "repack")),
            edit("conftest.py", ("import sys\n", "import sys\n\nimport packed\n")),
        ),
    ),
    Case(
        "finder of the project",
        """
        -- finder.py
        import importlib.abc
        import importlib.util
        import sys

        class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
            def find_spec(self, name, path=None, target=None):
                if name.startswith("made_"):
                    return importlib.util.spec_from_loader(name, self)

            def exec_module(self, module):
                module.WORD = module.__name__ + open("word.txt").read()

        sys.meta_path.insert(0, Finder())
        -- word.txt
        one
        -- conftest.py
        import finder
        import made_first
        -- test_a.py
        import made_second

        def test_a():
            import made_third

            print(made_second.WORD, made_third.WORD)
        """,
        (
            edit("word.txt", "two\n"),
            edit("conftest.py", "import finder\n", True),
            edit("conftest.py", ""),
        ),
    ),
    Case(
        "hook that changes what is imported after it",
        # As typeguard, beartype and jaxtyping do.
        """
        -- hook.py
        import importlib.machinery
        import sys

        class Loader(importlib.machinery.SourceFileLoader):
            def exec_module(self, module):
                super().exec_module(module)
                module.WORD = "hooked " + module.WORD

        class Finder(importlib.machinery.PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                spec = super().find_spec(name, path, target)
                if name.startswith("app"):
                    spec.loader = Loader(spec.loader.name, spec.loader.path)
                    return spec

        def install():
            sys.meta_path.insert(0, Finder)
        -- app_one.py
        WORD = "one"
        -- app_two.py
        WORD = "two"
        -- conftest.py
        import app_one
        import hook

        hook.install()
        -- test_a.py
        import app_one
        import app_two

        def test_a():
            print(app_one.WORD, app_two.WORD)
        """,
        (
            edit("conftest.py", ("import app_one\n", "")),
            edit(
                "conftest.py", "import hook\n\ndef pytest_configure():\n    hook.install()\n", True
            ),
            edit("conftest.py", ("hook.install()", "pass")),
        ),
    ),
]


@each(CASES)
def test_imports(sandbox: Sandbox, case: Case) -> None:
    play(sandbox, case)


EXTENSION = """
#include <Python.h>

static int loaded;

static PyObject *count(PyObject *self, PyObject *none) { return PyLong_FromLong(++loaded); }
static PyMethodDef methods[] = {{"count", count, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "counted", NULL, -1, methods};
PyMODINIT_FUNC PyInit_counted(void) { return PyModule_Create(&module); }
"""


def compile_extension(sandbox: Sandbox, first: int) -> None:
    """Not of the limited API: for the Python that runs these tests, which is the subject's too."""
    source = sandbox.base / "counted.c"
    source.write_text(EXTENSION.replace("int loaded;", f"int loaded = {first};"))
    built = sandbox.base / "counted.so"
    include = sysconfig.get_paths()["include"]
    command = ["cc", "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(built)]
    subprocess.run(command, check=True)
    # A new file, as a build makes it: writing into one that is mapped would end its users.
    shutil.move(built, sandbox.project / "counted.so")


def test_extension_module(sandbox: Sandbox) -> None:
    """It has a state of its own that a fork copies, and cannot be loaded twice."""
    compile_extension(sandbox, 0)
    case = Case(
        "extension module",
        """
        -- wraps.py
        import counted

        NUMBER = counted.count()
        -- conftest.py
        import wraps
        -- test_a.py
        import counted
        import wraps

        def test_a():
            print(wraps.NUMBER, counted.count())
        """,
        (
            Twist("rebuilt", act=lambda s: compile_extension(s, 10)),
            edit("conftest.py", "import wraps\nimport counted\n\ncounted.count()\n"),
            edit("counted.py", "def count():\n    return 'python'\n", True),
        ),
    )
    play(sandbox, case)
