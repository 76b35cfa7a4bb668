"""Warnings at import: shown once, where they belong, and errors where the filters say so.

A module that was executed ahead has warned nobody, or under other filters, or in the name of
another importer.
"""

from __future__ import annotations

from .harness.cases import Case, How, Twist, each, edit, play, select
from .harness.sandbox import Sandbox

DEPRECATED = """
    -- old.py
    import warnings

    warnings.warn("old is old", DeprecationWarning, stacklevel={level})
    -- uses.py
    import old
    -- test_uses.py
    import uses

    def test_uses():
        pass
    -- test_old.py
    import old

    def test_old():
        pass
    -- test_both.py
    import uses
    import old

    def test_both():
        pass
    """

# Three at a time: the daemon keeps what is prepared for few sets of such options.
FILTERS = [
    (select("-W", "ignore"), select("-W", "error"), select("-W", "always")),
    (select("-W", "error:::test_old"), select("-W", "error:::uses"), select("-W", "once")),
    (select("-W", "error::DeprecationWarning"), select("-p", "no:warnings")),
    (select("--disable-warnings"), select("-W", "default::DeprecationWarning:old")),
]

CASES = [
    *(
        Case(
            f"deprecated module, level {level}",
            DEPRECATED.format(level=level),
            (
                select("test_uses.py"),
                select("test_old.py"),
                select("test_both.py", "test_old.py"),
                Twist("-W error:::test_old test_old.py", arguments=("-Werror:::test_old",)),
                edit("old.py", ("old is old", "old is older")),
            ),
        )
        for level in (1, 2, 3)
    ),
    *(
        Case(f"filters of the command line, {number}", DEPRECATED.format(level=2), group)
        for number, group in enumerate(FILTERS)
    ),
    Case(
        "filters of the configuration",
        DEPRECATED.format(level=2) + "-- pytest.ini\n    [pytest]\n    filterwarnings = error\n",
        (
            edit(
                "pytest.ini",
                "[pytest]\nfilterwarnings =\n    error\n    ignore::DeprecationWarning\n",
            ),
            edit("pytest.ini", "[pytest]\nfilterwarnings =\n    error:::uses\n"),
            edit("pytest.ini", "[pytest]\n"),
            Twist("PYTHONWARNINGS", how=How({"PYTHONWARNINGS": "ignore"})),
        ),
    ),
    Case(
        "conftest that is warned of, and one that changes the filters",
        DEPRECATED.format(level=2) + "-- conftest.py\n    import old\n",
        (
            edit("conftest.py", "import warnings\n\nwarnings.simplefilter('error')\nimport old\n"),
            edit(
                "conftest.py",
                "import warnings\n\nwith warnings.catch_warnings():\n"
                "    warnings.simplefilter('ignore')\n    import old\n",
            ),
            edit(
                "conftest.py",
                "import warnings\n\nwith warnings.catch_warnings(record=True) as seen:\n"
                "    warnings.simplefilter('always')\n    import old\n\n"
                "def pytest_report_header():\n    return f'{len(seen)} {seen[0].filename[-11:]}'\n",
            ),
            edit(
                "conftest.py",
                "import warnings\n\nold = warnings.warn\n"
                "warnings.warn = lambda *rest, **more: caught.append(rest)\ncaught = []\n"
                "import uses\n\ndef pytest_report_header():\n    return str(caught)\n",
            ),
            edit(
                "conftest.py",
                "def pytest_configure(config):\n"
                "    config.addinivalue_line('filterwarnings', 'ignore:old')\n",
            ),
            edit(
                "conftest.py",
                "def pytest_warning_recorded(warning_message, when, nodeid):\n"
                "    print('recorded', when, nodeid, warning_message.lineno)\n",
            ),
        ),
    ),
    Case(
        "warnings of the compiler, which byte code does not repeat",
        """
        -- strange.py
        WORD = "\\d"
        assert (WORD, "always true")
        -- test_a.py
        import strange

        def test_a():
            assert strange.WORD is not 1
        """,
        (
            edit("strange.py", "WORD = 'd'\n"),
            edit("strange.py", "WORD = '\\e'\n"),
            select("-W", "error"),
        ),
    ),
    Case(
        "resource that is never closed",
        """
        -- pytest.ini
        [pytest]
        filterwarnings = always
        -- leaks.py
        def leak():
            open(__file__)

        leak()
        -- test_a.py
        import leaks

        def test_a():
            leaks.leak()
        """,
        (
            select("-W", "error"),
            select("-W", "always"),
            edit("leaks.py", ("leak()\n", "")),
        ),
    ),
    Case(
        "registries of modules that have warned",
        """
        -- old.py
        import warnings

        def warn(text):
            warnings.warn(text)

        warn("at import")
        -- test_a.py
        import warnings

        import old

        def test_a():
            warnings.simplefilter("default")
            old.warn("in a test")
            old.warn("in a test")
            print(sorted(key for key in vars(old).get("__warningregistry__", {}))[:-1])
        """,
        (
            select("-p", "no:warnings"),
            select("-W", "once"),
            edit("old.py", ("at import", "at first")),
        ),
    ),
    Case(
        "marks of modules that are executed before marks are known",
        """
        -- marks.py
        import pytest

        slow = pytest.mark.slow
        known = [pytest.mark.known(reason="helper"), pytest.mark.skipif(False, reason="never")]
        -- test_a.py
        import marks

        pytestmark = marks.known

        @marks.slow
        def test_a():
            pass
        """,
        (
            select("--strict-markers"),
            edit("pytest.ini", "[pytest]\nmarkers =\n    known: is known\n"),
            edit(
                "pytest.ini",
                "[pytest]\nmarkers =\n    known\n    slow\naddopts = --strict-markers\n",
            ),
            select("-m", "slow"),
            select("-m", "not slow"),
            edit(
                "conftest.py",
                "def pytest_configure(config):\n"
                "    config.addinivalue_line('markers', 'other: is another')\nimport marks\n",
                True,
            ),
        ),
    ),
]


@each(CASES)
def test_warnings(sandbox: Sandbox, case: Case) -> None:
    play(sandbox, case)
