"""Plugins that act between their own import and that of a project's modules.

pytest-env and pytest-django prepare what modules read when they are imported, freezegun exchanges
the clock, coverage must have begun before what it measures.
"""

from __future__ import annotations

import pytest

from .harness.cases import Case, How, Twist, each, edit, play
from .harness.environments import environment
from .harness.sandbox import Sandbox

DJANGO = """
    -- pytest.ini
    [pytest]
    DJANGO_SETTINGS_MODULE = site_settings
    pythonpath = .
    -- site_settings.py
    import os

    SECRET_KEY = "x"
    INSTALLED_APPS = ["django.contrib.contenttypes", "shop"]
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    USE_TZ = True
    WORD = os.environ.get("WORD", "none")
    -- shop/__init__.py
    -- shop/apps.py
    from django.apps import AppConfig

    class Shop(AppConfig):
        name = "shop"

        def ready(self):
            from shop import handlers
    -- shop/handlers.py
    from django.db.models.signals import post_init

    SEEN = []

    def seen(instance, **more):
        SEEN.append(getattr(instance, "name", "none"))

    post_init.connect(seen)
    -- shop/models.py
    from django.conf import settings
    from django.db import models

    class Item(models.Model):
        name = models.CharField(max_length=20, default=settings.WORD)
    -- conftest.py
    import pytest

    @pytest.fixture
    def shop():
        from shop.models import Item

        return Item
    -- test_a.py
    import pytest
    from django.apps import apps

    from shop.handlers import SEEN
    from shop.models import Item

    @pytest.mark.django_db
    def test_a(shop):
        assert shop is Item
        Item.objects.create(name="one")
        print(Item.objects.count(), Item().name, SEEN)

    def test_b():
        print([model.__name__ for model in apps.get_app_config("shop").get_models()])
    -- test_c.py
    import sys

    def test_c(settings):
        settings.WORD = "changed"
        print(settings.WORD, "shop.models" in sys.modules)
    """

CASES = [
    Case(
        "plugins that are left out, and what they would have imported",
        """
        -- conftest.py
        import sys

        SEEN = sorted({name.split(".")[0] for name in sys.modules})

        def pytest_report_header():
            return ", ".join(name for name in SEEN if name[0] != "_")
        -- test_a.py
        import sys

        def test_a():
            print(sorted({name.split(".")[0] for name in sys.modules}))
        """,
        (
            Twist("no loading", how=How({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})),
            Twist("without one", arguments=("-rA", "-p", "no:freezer")),
            Twist(
                "only one",
                arguments=("-rA", "-p", "pytest_cov"),
                how=How({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}),
            ),
            Twist("as it was"),
        ),
    ),
    Case(
        "pytest-env",
        """
        -- pytest.ini
        [pytest]
        env =
            WORD=from the ini file
            D:OTHER=a default
        -- conftest.py
        import settings
        -- settings.py
        import os

        WORDS = os.environ.get("WORD"), os.environ.get("OTHER")
        -- test_a.py
        import settings

        def test_a():
            print(settings.WORDS)
        """,
        (
            edit("pytest.ini", ("the ini file", "an edited file")),
            Twist("variables", how=How({"WORD": "x", "OTHER": "y"})),
            Twist("without the plugin", arguments=("-rA", "-p", "no:env")),
            Twist("as it was"),
        ),
    ),
    Case(
        "frozen time",
        """
        -- clock.py
        import datetime
        import time
        from datetime import datetime as kind
        from time import time as now

        START = kind.now().year, datetime.date.today().year, int(now()) // 10**8
        -- conftest.py
        import freezegun

        FREEZER = freezegun.freeze_time("2001-02-03")
        FREEZER.start()
        import clock

        FREEZER.stop()
        -- test_a.py
        import clock

        def test_a():
            print(clock.START, clock.kind.__module__, clock.now() > 1e9)

        def test_b(freezer):
            freezer.move_to("2002-03-04")
            print(clock.START, clock.kind.now().year, clock.datetime.date.today().year)
        """,
        (
            edit("conftest.py", ("2001", "2003")),
            edit("conftest.py", ("import clock\n", "")),
            edit("conftest.py", ("FREEZER.stop()", "import clock")),
        ),
    ),
    Case(
        "measured coverage",
        """
        -- app.py
        import os

        if os.environ.get("DEEP"):
            WORD = "deep"
        else:
            WORD = "flat"
        -- conftest.py
        import app
        -- test_a.py
        import app

        def test_a():
            print(app.WORD)
        """,
        (
            Twist("measured", arguments=("-rA", "--cov=app", "--cov-report=term-missing")),
            Twist(
                "measured, deep",
                arguments=("-rA", "--cov=app", "--cov-report=term-missing"),
                how=How({"DEEP": "1"}),
            ),
            Twist("by branches", arguments=("-rA", "--cov", "--cov-branch")),
            Twist("not measured", arguments=("-rA", "--no-cov", "--cov=app")),
        ),
    ),
    Case(
        "django models",
        DJANGO,
        (
            Twist("one", arguments=("-rA", "test_c.py")),
            edit(
                "shop/models.py",
                ("class Item", "class Other(models.Model):\n    pass\n\nclass Item"),
            ),
            edit("shop/models.py", ("max_length=20", "max_length=20, verbose_name='n'"), True),
            edit("shop/handlers.py", ('"none"))', '"none").upper())')),
            edit(
                "conftest.py", ("import pytest\n", "import pytest\nfrom shop import models\n"), True
            ),
        ),
    ),
    Case(
        "django settings",
        DJANGO,
        (
            Twist("a variable", how=How({"WORD": "set"})),
            edit("site_settings.py", ('"none"', '"edited"')),
            Twist(
                "other settings",
                {"more.py": "from site_settings import *\n\nWORD = 'more'\n"},
                ("-rA", "--ds=more"),
            ),
            Twist("by a variable", how=How({"DJANGO_SETTINGS_MODULE": "more"})),
            Twist("without the plugin", arguments=("-rA", "-p", "no:django")),
            edit("site_settings.py", ("import os\n", "import os nowhere\n")),
            edit("site_settings.py", ("import os nowhere\n", "import os\n")),
        ),
    ),
    Case(
        "django configured by a conftest",
        """
        -- conftest.py
        import django
        from django.conf import settings

        def pytest_configure():
            settings.configure(INSTALLED_APPS=["django.contrib.contenttypes"], WORD="conftest")
        -- uses.py
        from django.conf import settings

        WORD = settings.WORD
        -- test_a.py
        import uses

        def test_a():
            print(uses.WORD)
        """,
        (
            edit("conftest.py", ('"conftest"', '"edited"')),
            edit("conftest.py", "import uses\n"),
        ),
    ),
]


@pytest.fixture
def libraries(new_sandbox) -> Sandbox:
    return new_sandbox(environment(also="libraries"))


# Made when the first test asks for it: half a minute.
@pytest.mark.timeout(400)
@each(CASES)
def test_plugins(libraries: Sandbox, case: Case) -> None:
    play(libraries, case)
