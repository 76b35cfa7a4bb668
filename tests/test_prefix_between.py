"""What lies between imports: code that configures, stubs, patches, looks or skips there.

Whoever makes a run's imports ahead of it without what plain pytest executes between them leaves the
same modules in another state.
"""

from __future__ import annotations

from .harness.cases import Case, How, Twist, each, edit, play, select
from .harness.sandbox import Sandbox

CASES = [
    Case(
        "conftest configures between its imports",
        """
        -- app.py
        debug = False

        def configure(value):
            global debug
            debug = value
        -- models.py
        import app

        DEBUG = app.debug
        -- conftest.py
        import app

        app.configure(True)
        import models
        -- test_a.py
        import models

        def test_a():
            assert models.DEBUG
        """,
        (
            edit("conftest.py", ("True", "False")),
            edit("conftest.py", "import app\nimport models\n\napp.configure(True)\n", True),
            edit("conftest.py", ("import models\n", "")),
        ),
    ),
    Case(
        "conftest switches off what the test's module copies",
        """
        -- auth.py
        ENFORCE = True
        -- views.py
        from auth import ENFORCE

        def allowed():
            return not ENFORCE
        -- conftest.py
        import auth

        auth.ENFORCE = False
        -- test_a.py
        import views

        def test_a():
            assert not views.allowed()
        """,
        (
            edit("conftest.py", "import auth\n"),
            edit("conftest.py", "import views\nimport auth\n\nauth.ENFORCE = False\n", True),
            Twist("no conftest", arguments=("-rA", "--noconftest")),
        ),
    ),
    Case(
        "conftest puts a stub in place of a module",
        """
        -- hw.py
        def read():
            return 'real'
        -- dev.py
        import hw

        def read():
            return hw.read()
        -- conftest.py
        import sys
        from unittest.mock import MagicMock

        sys.modules['hw'] = MagicMock(**{'read.return_value': 'stub'})
        -- test_a.py
        import dev

        def test_a():
            print(dev.read())
        """,
        (
            Twist("no conftest", arguments=("-rA", "--noconftest")),
            edit("conftest.py", None),
            edit("conftest.py", "import sys\n\nsys.modules['hw'] = None\n"),
        ),
    ),
    Case(
        "conftest looks between its imports",
        """
        -- reg.py
        R = []
        -- plug.py
        import reg

        reg.R.append('plug')
        -- conftest.py
        import reg

        BEFORE = list(reg.R)
        import plug

        def pytest_report_header():
            return f'{BEFORE} {reg.R}'
        -- test_a.py
        import plug
        import reg

        def test_shows():
            print(reg.R)
        """,
        (edit("conftest.py", ("import reg\n", "import reg\nimport plug\n")),),
    ),
    Case(
        "test module imports under a condition",
        """
        -- reg.py
        R = []
        -- plug.py
        import reg

        reg.R.append('plug')
        -- flag
        -- test_a.py
        import os

        import reg

        if os.path.exists('flag'):
            import plug

        def test_a():
            print(reg.R)
        """,
        (edit("flag", None), edit("flag", "")),
    ),
    Case(
        "conftest imports under a condition",
        """
        -- reg.py
        R = []
        -- plug.py
        import reg

        reg.R.append('plug')
        -- conftest.py
        import os

        if os.environ.get('PLUG'):
            import plug
        -- test_a.py
        import reg

        def test_a():
            print(reg.R)
        """,
        (
            Twist("PLUG=1", how=How({"PLUG": "1"})),
            Twist("PLUG is away again", how=How({"PLUG": None})),
        ),
    ),
    Case(
        "conftest imports under a condition that ends",
        """
        -- reg.py
        R = []
        -- plug.py
        import reg

        reg.R.append('plug')
        -- conftest.py
        import os

        if os.environ.get('PLUG'):
            import plug
        -- test_a.py
        import reg

        def test_a():
            print(reg.R)
        """,
        (
            Twist("PLUG is away", how=How({"PLUG": None})),
            Twist("PLUG=1 again", how=How({"PLUG": "1"})),
        ),
        how=How({"PLUG": "1"}),
    ),
    Case(
        "module skips itself between its imports",
        """
        -- reg.py
        R = []
        -- plug.py
        import reg

        reg.R.append('plug')
        -- test_a.py
        import pytest

        import reg
        import plug

        def test_a():
            pass
        -- test_b.py
        import reg

        def test_b():
            print(reg.R)
        """,
        (
            edit(
                "test_a.py",
                ("import plug", "pytest.skip('wip', allow_module_level=True)\nimport plug"),
            ),
            edit("test_a.py", ("pytest.skip('wip', allow_module_level=True)", "assert 1")),
            edit("test_a.py", ("assert 1", "pytest.importorskip('nowhere')")),
            edit("test_a.py", ("pytest.importorskip('nowhere')", "assert 0")),
            edit("test_a.py", ("assert 0", "raise KeyboardInterrupt")),
        ),
    ),
    Case(
        "module marks itself between its imports",
        """
        -- reg.py
        R = []
        -- plug.py
        import reg

        reg.R.append('plug')
        -- test_a.py
        import pytest

        import reg

        pytestmark = pytest.mark.skipif(
            bool(reg.R), reason='plugged')
        import plug

        def test_a():
            pass
        """,
        (edit("test_a.py", ("import reg\n", "import plug\nimport reg\n")),),
    ),
    Case(
        "conftest sets what a module's name of a table comes from",
        """
        -- reg.py
        R = []
        -- user.py
        import os

        import reg

        reg.R.append(os.environ.get('PREFIX', '') + 'user')
        -- conftest.py
        import os

        os.environ['PREFIX'] = 't_'
        -- test_a.py
        import user
        import reg

        def test_shows():
            print(reg.R)
        """,
        (
            edit("conftest.py", ("t_", "u_")),
            edit("conftest.py", ("['PREFIX'] = 'u_'", ".setdefault('PREFIX', 'v_')")),
            edit("conftest.py", ""),
        ),
    ),
    Case(
        "compatibility module patches one package before it imports the next",
        """
        -- pka.py
        def f():
            return 'original'
        -- pkb.py
        from pka import f
        -- compat.py
        import pka

        pka.f = lambda: 'patched'
        import pkb
        -- test_a.py
        import compat
        import pkb

        def test_a():
            print(pkb.f())
        -- test_b.py
        import pkb

        def test_b():
            print(pkb.f())
        """,
        (
            select("test_b.py"),
            select("test_b.py", "test_a.py"),
            edit("compat.py", "import pkb\nimport pka\n\npka.f = lambda: 'patched'\n"),
        ),
    ),
    Case(
        "half of a module has written when an import of it fails",
        """
        -- reg.py
        R = []
        -- half.py
        import reg

        reg.R.append('half')
        import stubbed
        -- conftest.py
        import sys

        sys.modules['stubbed'] = sys
        -- test_a.py
        import half
        import reg

        def test_shows():
            print(reg.R)
        """,
        (
            edit("conftest.py", ""),
            edit("stubbed.py", ""),
            edit("half.py", ("import stubbed", "raise ImportError('no')")),
        ),
    ),
    Case(
        "failed import that is tried again",
        """
        -- reg.py
        R = []
        -- once.py
        import reg

        reg.R.append('tried')
        if len(reg.R) < 2:
            raise ImportError('not yet')
        -- conftest.py
        try:
            import once
        except ImportError:
            pass
        -- test_a.py
        import once
        import reg

        def test_shows():
            print(reg.R)
        """,
        (edit("conftest.py", ""), edit("reg.py", "R = ['first']\n")),
    ),
    Case(
        "conftest removes a module to have it executed again",
        """
        -- reg.py
        R = []
        -- plug.py
        import reg

        reg.R.append('plug')
        -- conftest.py
        import sys

        import plug

        del sys.modules['plug']
        -- test_a.py
        import plug
        import reg

        def test_shows():
            print(reg.R)
        """,
        (
            edit(
                "conftest.py",
                ("del sys.modules['plug']", "import importlib; importlib.reload(plug)"),
                True,
            ),
            edit("conftest.py", "import plug\n"),
        ),
    ),
]


@each(CASES)
def test_between_imports(sandbox: Sandbox, case: Case) -> None:
    play(sandbox, case)
