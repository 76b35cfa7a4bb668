"""Conftests that are part of pytest: options, plugins, hooks at start, failures; and the options of
pytest that decide which conftests and modules there are at all.
"""

from __future__ import annotations

import pytest

from .harness.cases import Case, How, Twist, below, each, edit, files_of, play, select, write
from .harness.outcome import assert_same, normal
from .harness.sandbox import Sandbox

PROJECT = """
    -- reg.py
    R = []
    -- plug.py
    import reg

    reg.R.append("plug")
    -- conftest.py
    import pytest

    import reg

    reg.R.append("conftest")

    @pytest.fixture
    def shown():
        return list(reg.R)
    -- sub/conftest.py
    import reg

    reg.R.append("sub")
    -- sub/test_sub.py
    import plug

    def test_sub(shown):
        print("sub", shown)
    -- test_a.py
    import reg

    BEFORE = list(reg.R)

    def test_a(shown):
        print("a", BEFORE, shown)

    def test_fails(shown):
        assert shown == []
    -- test_b.py
    import plug

    class TestB:
        def test_b(self, shown):
            print("b", shown)
    """

# Few at a time: the daemon keeps what is prepared for few sets of such options, and what has had
# to go stays `not prepared yet` until its next run.
RUNS = [
    (
        select("-s"),
        select("--capture=sys"),
        select("--capture=tee-sys"),
        select("--import-mode=importlib"),
        select("--import-mode=append"),
    ),
    (select("-W", "error"), select("-p", "no:cacheprovider"), select("-p", "no:capture")),
    (select("-p", "no:assertion", "-p", "no:doctest"), select("--rootdir=sub")),
    (select("-c", "/dev/null"), select("-o", "python_files=check_*.py test_b.py")),
]

CASES = [
    Case(
        "own option",
        """
        -- conftest.py
        import sys

        WANTED = "--deep" in sys.argv

        def pytest_addoption(parser):
            parser.addoption("--deep", action="store_true", help="goes deep")
            parser.addini("depth", "how deep")

        def pytest_configure(config):
            import app

            app.DEEP = config.getoption("--deep"), config.getini("depth"), WANTED
        -- app.py
        DEEP = None
        -- uses.py
        from app import DEEP
        -- test_a.py
        import uses

        def test_a():
            print(uses.DEEP)
        """,
        (
            select("--deep"),
            select(),
            select("--help"),
            edit("pytest.ini", "[pytest]\ndepth = 3\n"),
            edit("pytest.ini", "[pytest]\naddopts = --deep\n"),
            edit("conftest.py", ("store_true", "store_false")),
            Twist("by a variable", how=How({"PYTEST_ADDOPTS": "-v"})),
            Twist("option that is gone", {"conftest.py": ""}),
        ),
    ),
    Case(
        "option of a conftest that is not an initial one",
        """
        -- pytest.ini
        [pytest]
        testpaths = tests
        -- tests/conftest.py
        def pytest_addoption(parser):
            parser.addoption("--deep", default="no")
        -- tests/test_a.py
        def test_a(request):
            print(request.config.getoption("--deep"))
        -- other/test_o.py
        def test_o(request):
            print(request.config.getoption("--deep", "none"))
        """,
        (select("--deep=yes"), select("other"), select("--deep=yes", "other"), select("tests")),
    ),
    Case(
        "plugins named by a conftest",
        """
        -- mine.py
        import reg

        reg.R.append("mine")

        def pytest_report_header():
            return f"mine {reg.R}"
        -- other.py
        import reg

        reg.R.append("other")
        -- reg.py
        R = []
        -- conftest.py
        import reg

        reg.R.append("conftest")
        pytest_plugins = ["mine"]
        -- test_a.py
        import reg

        def test_a():
            print(reg.R)
        """,
        (
            edit("conftest.py", ('["mine"]', '["mine", "other"]')),
            select("-p", "no:mine"),
            select("-p", "other"),
            edit("mine.py", ('append("mine")', 'append("edited")')),
            edit("conftest.py", ('"other"', '"missing"')),
            edit("conftest.py", ('"missing"', '"other"')),
            Twist("by a variable", how=How({"PYTEST_PLUGINS": "other"})),
        ),
    ),
    Case(
        "hooks at the start, with effects",
        """
        -- state.py
        SEEN = []
        -- conftest.py
        import os

        import state

        def pytest_configure(config):
            state.SEEN.append("configure")
            os.environ["STATE"] = "configured"
            config.addinivalue_line("markers", "deep: goes deep")

        def pytest_sessionstart(session):
            state.SEEN.append(f"start {len(session.config.args)}")

        def pytest_collection_modifyitems(items):
            items.reverse()
            state.SEEN.append("modify")

        def pytest_unconfigure():
            print("unconfigured", state.SEEN)
        -- reads.py
        import os

        import state

        SEEN = list(state.SEEN), os.environ.get("STATE")
        -- test_a.py
        import pytest

        import reads

        @pytest.mark.deep
        def test_a():
            print(reads.SEEN)

        def test_b():
            pass
        """,
        (
            select("-s"),
            select("-s", "--co"),
            select("--strict-markers", "test_a.py::test_b"),
            edit("conftest.py", ("items.reverse()", "items[1:] = []")),
            edit("conftest.py", ('"configured"', '"again"')),
        ),
    ),
    Case(
        "ignored files",
        PROJECT,
        (
            edit("conftest.py", ("import pytest\n", "import pytest\n\ncollect_ignore = ['sub']\n")),
            edit("conftest.py", ("['sub']", "['test_a.py']")),
            edit(
                "conftest.py",
                ("collect_ignore = ['test_a.py']", "collect_ignore_glob = ['*_b.py']"),
            ),
            select("--ignore", "sub"),
            select("--ignore-glob", "*a.py"),
        ),
        may_be_named=False,
    ),
    Case(
        "selections",
        PROJECT,
        (
            select("-k", "b"),
            select("-m", "nothing"),
            select("test_a.py::test_a"),
            select("test_b.py", "test_a.py"),
            select("--deselect", "test_a.py::test_a"),
            select("-x"),
            select("--maxfail=1", "test_a.py", "sub"),
            select("sub"),
            select("sub/test_sub.py", "test_b.py"),
            select("nowhere.py"),
            select("test_a.py::nowhere"),
            select("--pyargs", "test_b"),
        ),
    ),
    Case(
        "what is shown of them",
        PROJECT,
        (
            select("--co"),
            select("--co", "-q"),
            select("--fixtures", "-v"),
            select("--fixtures-per-test"),
            select("--markers"),
            select("--setup-plan"),
            select("--trace-config"),
            select("-vv"),
            select("-q"),
            select("--tb=no"),
            select("--setup-show"),
        ),
    ),
    *(Case(f"how pytest runs: {group[0].what}", PROJECT, group) for group in RUNS),
    Case(
        "conftests left out",
        PROJECT,
        (
            select("--noconftest", "test_b.py"),
            select("--confcutdir=sub", "sub"),
            edit("sub/conftest.py", None),
            edit("conftest.py", None),
            edit("sub/conftest.py", "import reg\n"),
            below("sub"),
            below("sub", "--confcutdir=."),
        ),
    ),
    Case(
        "error at collection",
        PROJECT,
        (
            edit("test_a.py", ("import reg\n", "import nowhere\n")),
            Twist("-x", arguments=("-rA", "-x")),
            Twist("going on", arguments=("-rA", "--continue-on-collection-errors")),
            edit("test_a.py", ("import nowhere", "import reg")),
            edit("sub/conftest.py", "import nowhere\n"),
            edit("sub/conftest.py", "def broken(:\n"),
            edit("sub/conftest.py", ""),
        ),
    ),
    Case(
        "doctests and unittest",
        """
        -- app.py
        '''
        >>> import sys
        >>> "reg" in sys.modules
        True
        '''
        import reg
        -- reg.py
        R = []
        -- test_unit.py
        import unittest

        import app

        def setUpModule():
            app.reg.R.append("set up")

        class TestUnit(unittest.TestCase):
            def test_one(self):
                self.assertEqual(app.reg.R, ["set up"])
        -- conftest.py
        import reg
        """,
        (
            select("test_unit.py"),
            select("--doctest-modules", "app.py"),
            edit("conftest.py", "", True),
            edit("app.py", ("True", "False")),
        ),
        ("-rA", "--doctest-modules"),
        may_be_named=False,
    ),
]


@each(CASES)
def test_conftests(sandbox: Sandbox, case: Case) -> None:
    play(sandbox, case)


def leave(sandbox: Sandbox, *arguments: str) -> None:
    """A run whose cache stays: by plain pytest."""
    sandbox.finish(sandbox.start(sandbox.pytest, *arguments))


LAST = """
    -- reg.py
    R = []
    -- plug.py
    import reg

    reg.R.append("plug")
    -- test_a.py
    import plug

    def test_a():
        pass
    -- test_b.py
    import reg

    def test_b():
        assert reg.R == []
    -- test_c.py
    import reg

    def test_c():
        print(reg.R)
        assert 0
    """


@pytest.mark.parametrize("option", ["--lf", "--ff", "--nf", "--sw", "--lfnf=none"])
def test_last_failed(sandbox: Sandbox, option: str) -> None:
    """The same arguments and files; what failed last decides whose modules are imported."""
    sandbox.env["PYTHONHASHSEED"] = "0"
    write(sandbox, {"pytest.ini": "[pytest]\n", **files_of(LAST)})
    options = ["-rA", option, *(["--lf"] if option == "--lfnf=none" else [])]
    shown = set()
    for before in (["--cache-clear", "--co", "-q"], ["test_c.py"], [], ["test_b.py"]):
        # Stepwise goes by what it has noted itself.
        leave(sandbox, *before, *(["--sw"] if option == "--sw" else []))
        shown.add(normal(sandbox.same_at_once(*options).stdout))
        sandbox.until_ready()
        assert_same(sandbox.plain(*options), sandbox.first(*options))
    assert len(shown) > 1, "what failed last changes nothing"
