"""Where tests, conftests and modules lie: flat and nested, in packages, below `src`, installed."""

from __future__ import annotations

import pytest

from .harness.cases import Case, Twist, each, edit, play, select, write
from .harness.sandbox import Sandbox

MODES = ("prepend", "append", "importlib")

CASES = [
    Case(
        "flat layout",
        """
        -- app/__init__.py
        -- app/core.py
        WORD = "core"
        -- tests/conftest.py
        from app import core
        -- tests/test_a.py
        import app.core
        import sys

        def test_shows():
            print([path for path in sys.path if "psd-" in path])
            print([n for n, m in sys.modules.items() if "psd-" in str(getattr(m, "__file__", ""))])
            print(app.core.WORD)
        """,
        # A conftest in the root directory is what puts that on `sys.path`.
        (
            edit("conftest.py", ""),
            edit("app/core.py", "WORD = 'edited'\n"),
            edit("conftest.py", "import app.core\n\napp.core.WORD += '!'\n"),
        ),
    ),
    Case(
        "src layout by `pythonpath`",
        """
        -- pytest.ini
        [pytest]
        pythonpath = src
        -- src/app/__init__.py
        WORD = "src"
        -- tests/conftest.py
        import app
        -- tests/test_a.py
        import app
        import sys

        def test_shows():
            print([path for path in sys.path if "psd-" in path])
            print([n for n, m in sys.modules.items() if "psd-" in str(getattr(m, "__file__", ""))])
            print(app.WORD)
        """,
        (
            edit("src/app/__init__.py", "WORD = 'edited'\n"),
            edit("app.py", "WORD = 'nearer'\n", True),
            edit("pytest.ini", "[pytest]\npythonpath = . src\n"),
            edit("pytest.ini", "[pytest]\n"),
        ),
    ),
    Case(
        "src layout by a conftest",
        """
        -- conftest.py
        import os
        import sys

        sys.path.insert(0, os.path.join(os.path.dirname(__file__), "src"))
        import app
        -- src/app.py
        WORD = "src"
        -- other/app.py
        WORD = "other"
        -- tests/test_a.py
        import app
        import sys

        def test_shows():
            print([path for path in sys.path if "psd-" in path])
            print([n for n, m in sys.modules.items() if "psd-" in str(getattr(m, "__file__", ""))])
            print(app.WORD)
        """,
        (
            edit("conftest.py", ('"src"', '"other"')),
            edit("conftest.py", ("sys.path.insert(0,", "sys.path.append(")),
            edit("other/app.py", "WORD = 'edited'\n"),
        ),
    ),
    Case(
        "conftests at several depths",
        """
        -- conftest.py
        import reg

        reg.R.append("root")
        -- reg.py
        R = []
        -- one/conftest.py
        import reg

        reg.R.append("one")
        -- one/deep/conftest.py
        import reg

        reg.R.append("deep")
        -- one/deep/test_deep.py
        import reg

        def test_deep():
            print(reg.R)
        -- two/conftest.py
        import reg

        reg.R.append("two")
        -- two/test_two.py
        import reg

        def test_two():
            print(reg.R)
        """,
        (
            select("one"),
            select("two"),
            select("two", "one"),
            select("--confcutdir", "one", "one"),
            select("--noconftest"),
            edit("one/conftest.py", ("one", "edited")),
            edit("two/conftest.py", None),
        ),
    ),
    Case(
        "conftests in packages",
        """
        -- tests/__init__.py
        -- tests/conftest.py
        from tests import helpers

        helpers.R.append(__name__)
        -- tests/helpers.py
        R = []
        -- tests/unit/__init__.py
        -- tests/unit/conftest.py
        from ..helpers import R

        R.append(__name__)
        -- tests/unit/test_a.py
        from .. import helpers
        import sys

        def test_shows():
            print([path for path in sys.path if "psd-" in path])
            print([n for n, m in sys.modules.items() if "psd-" in str(getattr(m, "__file__", ""))])
            print(helpers.R, __name__)
        """,
        (
            select("tests/unit"),
            *(select("--import-mode", mode) for mode in MODES),
            edit("tests/unit/__init__.py", None),
            edit("tests/__init__.py", None),
        ),
    ),
    Case(
        "test modules and conftests of one name",
        """
        -- one/conftest.py
        WORD = "one"
        -- one/helpers.py
        WORD = "one"
        -- one/test_a.py
        import conftest
        import helpers

        def test_one():
            print(conftest.WORD, helpers.WORD, __name__)
        -- two/conftest.py
        WORD = "two"
        -- two/helpers.py
        WORD = "two"
        -- two/test_a.py
        import conftest
        import helpers

        def test_two():
            print(conftest.WORD, helpers.WORD, __name__)
        """,
        (
            select("one"),
            select("two"),
            *(select("--import-mode", mode, "one") for mode in MODES),
            select("--import-mode", "importlib", "-p", "no:warnings"),
            edit("one/helpers.py", "WORD = 'edited'\n", True),
        ),
    ),
]


@each(CASES)
def test_layouts(sandbox: Sandbox, case: Case) -> None:
    play(sandbox, case)


@pytest.mark.parametrize("by", ["a path", "a finder"])
def test_editable_install(own_sandbox: Sandbox, by: str) -> None:
    """Its source lies outside the project; a `.pth` file leads there."""
    elsewhere = own_sandbox.base / "elsewhere"
    site = own_sandbox.environment.site_packages
    write(own_sandbox, {"../elsewhere/app/__init__.py": "WORD = 'one'\n"})
    if by == "a path":
        (site / "editable.pth").write_text(f"{elsewhere}\n")
    else:
        (site / "_editable.py").write_text(
            "import sys\nfrom importlib.util import spec_from_file_location\n\n"
            "class Finder:\n    @staticmethod\n    def find_spec(name, path=None, target=None):\n"
            f"        if name == 'app':\n            where = {str(elsewhere)!r} + '/app'\n"
            "            return spec_from_file_location(name, where + '/__init__.py',"
            " submodule_search_locations=[where])\n\n"
            "def install():\n    sys.meta_path.append(Finder)\n"
        )
        (site / "editable.pth").write_text("import _editable; _editable.install()\n")
    case = Case(
        f"editable install by {by}",
        """
        -- conftest.py
        import app
        -- test_a.py
        import app

        def test_a():
            print(app.WORD, app.__file__.split("/")[-3:])
        """,
        (
            edit("../elsewhere/app/__init__.py", "WORD = 'edited'\n"),
            edit("app.py", "WORD = 'nearer'\n"),
            edit("app.py", None),
            Twist("uninstalled", act=lambda s: (site / "editable.pth").unlink()),
        ),
        # Start-up code that changes the meta path is not understood: no checkpoint is built.
        warm=by == "a path",
    )
    play(own_sandbox, case)
