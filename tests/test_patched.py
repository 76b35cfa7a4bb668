"""What a run leaves patched until hypothesis's plugin makes its late import: plain pytest's import
shows it, so what was imported ahead must not be put in its place."""

from __future__ import annotations

import textwrap

import pytest

from .harness.sandbox import Sandbox

pytestmark = pytest.mark.product

# The newest: a part of it is written in Rust.
RELEASE = "6.170.15"

# What the import has to do with, when it is over.
SHOW = """
import os
import sys

import pytest

MODULES, FINDERS = sys.modules, sys.path_importer_cache

def pytest_unconfigure():
    configuration = MODULES.get("hypothesis.configuration")
    print([name for name in MODULES if name.startswith("hypothesis")])
    print(vars(configuration or sys).get("__hypothesis_home_directory_default"))
    print(getattr(configuration, "__cached__", None))
    print([name for name in sys.path_importer_cache if "hypothesis" in name])
    print([error.__name__ for error in BaseException.__subclasses__()])
"""

PATCHES = [
    pytest.param(
        """
        import pathlib
        pathlib.Path.cwd = classmethod(lambda path: path("/patched"))
        """,
        "`Path.cwd` of `",
        id="a method",
    ),
    pytest.param(
        """
        import random
        random.Random.__init_subclass__ = classmethod(lambda kind: print("below", kind))
        """,
        "`Random.__init_subclass__` of `random` was replaced",
        id="a base",
    ),
    pytest.param(
        """
        import enum
        natural = enum.EnumMeta.__new__
        def new(kind, name, *args, **how):
            print("enumeration", name)
            return natural(kind, name, *args, **how)
        enum.EnumMeta.__new__ = new
        """,
        ".__new__` of `enum` was replaced",
        id="a metaclass",
    ),
    pytest.param(
        """
        import os
        natural = os.path.join
        def join(*parts):
            print("joining", len(parts))
            return natural(*parts)
        os.path.join = join
        """,
        "`join` of `posixpath` was replaced",
        id="a module in a module",
    ),
    pytest.param(
        """
        from importlib.machinery import SourceFileLoader
        natural = SourceFileLoader.get_data
        def get(loader, path):
            print("reading", path)
            return natural(loader, path)
        SourceFileLoader.get_data = get
        """,
        "`SourceFileLoader` of `_frozen_importlib_external` has a new method",
        id="a loader",
    ),
    pytest.param(
        """
        import importlib._bootstrap
        natural = importlib._bootstrap._find_and_load
        def find(name, importing):
            print("loading", name)
            return natural(name, importing)
        importlib._bootstrap._find_and_load = find
        """,
        "`_find_and_load` of `",
        id="the import system",
    ),
    pytest.param(
        """
        [hook] = [f for f in sys.meta_path if "Rewriting" in type(f).__name__]
        natural = hook.exec_module
        def execute(module):
            print("executing", module.__name__)
            natural(module)
        hook.exec_module = execute
        """,
        "pytest's import hook was changed",
        id="the import hook",
    ),
    pytest.param(
        """
        from importlib.metadata import Distribution
        natural = Distribution.discover
        Distribution.discover = lambda **how: print("looking") or natural(**how)
        """,
        "`Distribution.discover` of `importlib.metadata` was replaced",
        id="the search for plugins",
    ),
    pytest.param(
        "sys.path_importer_cache = {}",
        "`path_importer_cache` of `sys` was replaced",
        id="a cache",
    ),
    pytest.param("sys.modules = dict(sys.modules)", "`sys.modules` was replaced", id="the modules"),
    pytest.param("sys.path = None", "it raised TypeError", id="no search path"),
    pytest.param("sys.path = []", "is found elsewhere", id="empty search path"),
    pytest.param(
        "sys.pycache_prefix = os.path.abspath('cache')",
        "byte code is kept elsewhere",
        id="byte code",
    ),
    pytest.param("sys.setrecursionlimit(90)", "the recursion limit is lower", id="depth"),
    pytest.param("os.chdir('..')", "the working directory is another one", id="directory"),
    pytest.param(
        "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')",
        "it raised FileNotFoundError",
        id="no directory",
    ),
]


@pytest.fixture(scope="session")
def newest(late_environment, tmp_path_factory):
    env = late_environment().clone(tmp_path_factory.mktemp("newest") / "env")
    env.install(f"hypothesis=={RELEASE}")
    # The first test of a process may be one in which nothing is found in the end.
    env.compile(tmp_path_factory.mktemp("empty"))
    return env


@pytest.fixture
def sandbox(new_sandbox, newest) -> Sandbox:
    return new_sandbox(newest)


def passing(sandbox: Sandbox, conftest: str) -> None:
    sandbox.write("conftest.py", conftest)
    sandbox.write("test_a.py", "def test_a():\n    pass\n")


@pytest.mark.parametrize(("patch", "why"), PATCHES)
def test_a_patch_is_seen(sandbox: Sandbox, patch: str, why: str) -> None:
    hook = "@pytest.hookimpl(tryfirst=True)\ndef pytest_terminal_summary():\n"
    body = textwrap.indent(textwrap.dedent(patch).strip("\n"), "    ")
    passing(sandbox, f"{SHOW}\n{hook}{body}\n")
    sandbox.same("-s")
    assert why in not_adopted(sandbox)


def not_adopted(sandbox: Sandbox) -> str:
    """Why the run made the import itself that was made ahead."""
    ahead = sandbox.last_run().ahead
    assert isinstance(ahead, dict), f"nothing was made ahead: {ahead}"
    return ahead["Natural"]


@pytest.mark.parametrize(
    "info",
    [
        pytest.param("foo.egg-info", id="beside the tests"),
        pytest.param("src/foo-1.0.dist-info", id="in a directory added later"),
    ],
)
def test_plugins_of_a_project_that_is_not_installed_are_loaded(sandbox: Sandbox, info: str) -> None:
    """hypothesis looks for plugins of its own in the whole search path, and the project's part of
    that comes after P0."""
    passing(sandbox, "import sys; sys.path.append('src')\n")
    sandbox.write("src/strategies.py", "def register():\n    print('registered')\n")
    sandbox.write(f"{info}/entry_points.txt", "[hypothesis]\nfoo = strategies:register\n")
    for name in ("METADATA", "PKG-INFO"):
        sandbox.write(f"{info}/{name}", "Metadata-Version: 2.1\nName: foo\nVersion: 1.0\n")
    assert "registered" in sandbox.same("-s").stdout
    assert sandbox.last_run().ahead == {"Natural": "other distributions are found"}


def test_without_a_patch_it_is_adopted(sandbox: Sandbox) -> None:
    passing(sandbox, SHOW)
    sandbox.same("-s")
    assert sandbox.last_run().ahead == "Adopted"
