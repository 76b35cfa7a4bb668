"""What hooks, fixtures and tests do before, between and after imports.

They run at pytest's time, never ahead of it: what they write is seen by what is imported later, and
what they import was not there earlier.
"""

from __future__ import annotations

from .harness.cases import Case, each, edit, play, select
from .harness.sandbox import Sandbox

CASES = [
    Case(
        "hook of a conftest configures before the tests' imports",
        """
        -- cfg.py
        settings = {}
        -- models.py
        import cfg

        DEBUG = cfg.settings.get('debug')
        -- conftest.py
        import cfg

        def pytest_configure(config):
            cfg.settings['debug'] = config.getoption('verbose')
        -- test_a.py
        import models

        def test_a():
            print(models.DEBUG)
        """,
        (
            select("-v"),
            select("-qq"),
            edit("conftest.py", ("pytest_configure(config)", "pytest_sessionstart(session)")),
            edit(
                "conftest.py",
                "import cfg\n\ndef pytest_collection(session):\n    cfg.settings['debug'] = 'c'\n",
            ),
            edit("conftest.py", ("debug'] = 'c'", "debug'] = 'd'")),
        ),
    ),
    Case(
        "imports made by tests come after the tests before them",
        """
        -- reg.py
        R = []
        -- plug.py
        import reg

        reg.R.append('plug')
        -- test_a.py
        import reg

        def test_1():
            assert reg.R == []

        def test_2():
            import plug

        def test_3():
            assert reg.R == ['plug']
        """,
        (
            select("test_a.py::test_3"),
            select("test_a.py::test_3", "test_a.py::test_2", "test_a.py::test_1"),
            select("-k", "test_1"),
            edit("test_a.py", ("import reg\n", "import reg\nimport plug\n")),
        ),
    ),
    Case(
        "imports made by fixtures",
        """
        -- reg.py
        R = []
        -- plug.py
        import reg

        reg.R.append('plug')
        -- conftest.py
        import pytest
        import reg

        @pytest.fixture
        def plugged():
            import plug

            return plug
        -- test_a.py
        import reg

        def test_1():
            print(reg.R)

        def test_2(plugged):
            print(reg.R)
        """,
        (
            select("-k", "test_1"),
            edit("conftest.py", ("@pytest.fixture\n", "@pytest.fixture(autouse=True)\n")),
        ),
    ),
    Case(
        "hook of a conftest that imports for each file and item",
        """
        -- reg.py
        R = []
        -- plug.py
        import reg

        reg.R.append('plug')
        -- conftest.py
        def pytest_collectstart(collector):
            import reg

            reg.R.append(collector.name.split('/')[-1])

        def pytest_itemcollected(item):
            import plug
        -- test_a.py
        import reg

        SEEN = list(reg.R)

        def test_a():
            print(SEEN, reg.R)
        -- test_b.py
        import reg

        SEEN = list(reg.R)

        def test_b():
            print(SEEN, reg.R)
        """,
        (
            select("test_b.py"),
            select("test_b.py", "test_a.py"),
            edit("test_c.py", "def test_c():\n    pass\n"),
        ),
    ),
    Case(
        "hook that sees plugins being registered",
        """
        -- reg.py
        R = []
        -- conftest.py
        import sys

        import reg

        def pytest_plugin_registered(plugin, manager):
            name = manager.get_name(plugin) or ''
            reg.R.append(name.split('/')[-1] if not name.isdigit() else '?')
        -- sub/conftest.py
        import reg
        -- sub/test_a.py
        import reg

        SEEN = list(reg.R)

        def test_a():
            print(SEEN, reg.R)
        """,
        (select("-p", "no:cacheprovider"), select("sub"), edit("sub/conftest.py", None)),
    ),
    Case(
        "tests that write into modules which the next run imports again",
        """
        -- reg.py
        R = []
        -- conftest.py
        import reg
        -- test_a.py
        import reg

        def test_a():
            assert not reg.R
            reg.R.append('a')
            reg.__dict__['new'] = 1

        def test_b():
            print(reg.R, vars(reg).get('new'))
        """,
        (select("-k", "test_b"), select()),
    ),
    Case(
        "object made in a conftest by a class that the test changes",
        """
        -- shapes.py
        class Shape:
            sides = 0

            def __repr__(self):
                return f'{self.sides}'
        -- conftest.py
        import pytest

        import shapes

        SHAPE = shapes.Shape()

        @pytest.fixture
        def shape():
            return SHAPE
        -- test_a.py
        import shapes

        shapes.Shape.sides += 3

        def test_a(shape):
            assert type(shape) is shapes.Shape
            print(shape)
            shape.sides += 1

        def test_b(shape):
            print(shape)
        """,
        (edit("shapes.py", ("sides = 0", "sides = 1")), select("-k", "test_b")),
    ),
]


@each(CASES)
def test_hooks(sandbox: Sandbox, case: Case) -> None:
    play(sandbox, case)
