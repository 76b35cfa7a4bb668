"""Packages that keep registries, settings and states of their own, as projects use them.

The shapes that went wrong in earlier designs: models of an ORM, settings that must be there before
an import, patches of the standard library, hooks of import, and what tests for `sys.modules`.
"""

from __future__ import annotations

import pytest

from .harness.cases import Case, How, Twist, each, edit, play
from .harness.environments import environment
from .harness.sandbox import Sandbox

# Plugins are named: others of the environment would only take time.
QUIET = ("-rA", "-p", "no:django", "-p", "no:env", "-p", "no:freezer", "-p", "no:pytest_cov")


def pick(*arguments: str) -> Twist:
    return Twist(" ".join(arguments), arguments=(*QUIET, *arguments))


SQLALCHEMY = Case(
    "sqlalchemy models",
    """
    -- models/__init__.py
    -- models/db.py
    from sqlalchemy.orm import DeclarativeBase

    class Base(DeclarativeBase):
        pass
    -- models/user.py
    from sqlalchemy import Column, ForeignKey, Integer, String, event
    from sqlalchemy.orm import relationship

    from models.db import Base

    class User(Base):
        __tablename__ = "user"
        id = Column(Integer, primary_key=True)
        name = Column(String(10))

    @event.listens_for(User, "init")
    def made(target, args, kwargs):
        target.name = "made"
    -- models/order.py
    from sqlalchemy import Column, ForeignKey, Integer
    from sqlalchemy.orm import relationship

    from models.db import Base
    from models.user import User

    class Order(Base):
        __tablename__ = "order"
        id = Column(Integer, primary_key=True)
        user = Column(ForeignKey("user.id"))

    User.orders = relationship(Order)
    -- test_all.py
    import models.order
    from models.db import Base

    def test_all():
        print(list(Base.metadata.tables), models.order.User().name)
        print(models.order.User().orders)
    -- test_user.py
    import models.user
    from models.db import Base

    def test_user():
        print(list(Base.metadata.tables), hasattr(models.user.User, "orders"))
        print(sorted(mapper.class_.__name__ for mapper in Base.registry.mappers))
    """,
    (
        pick("test_user.py"),
        edit("models/user.py", ("String(10)", "String(20)"), True),
        edit("models/user.py", ('"made"', '"edited"')),
        edit("models/order.py", ('"order"', '"orders"')),
        pick("test_user.py", "test_all.py"),
        edit("test_all.py", ("import models.order\n", "import models\n")),
    ),
    QUIET,
)

CASES = [
    SQLALCHEMY,
    Case(
        "sqlalchemy, its core or its mapper",
        """
        -- test_core.py
        import sys

        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        def test_core():
            print(len([name for name in sys.modules if name.startswith("sqlalchemy.orm")]))
            event.listen(Engine, "load", print)
        -- test_orm.py
        import sqlalchemy.orm

        def test_orm():
            sqlalchemy.event.listen(sqlalchemy.orm.Mapper, "load", print)
        """,
        (pick("test_core.py"), pick("test_core.py", "test_orm.py"), pick("test_orm.py")),
        (*QUIET, "test_orm.py"),
    ),
    Case(
        "click groups",
        """
        -- cli.py
        import click

        @click.group()
        def main():
            pass
        -- one.py
        from cli import main

        @main.command()
        def one():
            pass
        -- two.py
        from cli import main

        @main.command()
        def two():
            pass
        -- conftest.py
        import one
        -- test_a.py
        import one
        import two
        from cli import main

        def test_a():
            print(list(main.commands))
        -- test_b.py
        from cli import main

        def test_b():
            print(list(main.commands))
        """,
        (
            pick("test_b.py"),
            edit("two.py", ("def two", "def zwei")),
            edit("conftest.py", "import two\n"),
            edit("conftest.py", ""),
            edit("test_a.py", ("import two\n", "")),
        ),
        QUIET,
    ),
    Case(
        "celery tasks",
        """
        -- app.py
        import celery

        app = celery.Celery("mine", broker="memory://", set_as_current=False)
        -- one.py
        from app import app

        @app.task
        def one():
            return 1
        -- two.py
        from app import app

        @app.task(name="second")
        def two():
            return app.conf.task_always_eager
        -- conftest.py
        from app import app

        app.conf.task_always_eager = True
        -- test_a.py
        import one
        import two
        from app import app

        def test_a():
            print(sorted(name for name in app.tasks if "celery." not in name))
            print(two.two.delay().get() if app.conf.task_always_eager else two.two())
        -- test_b.py
        import one
        from app import app

        def test_b():
            print(sorted(name for name in app.tasks if "celery." not in name))
        """,
        (
            pick("test_b.py"),
            edit("two.py", ('"second"', '"third"')),
            edit("conftest.py", ("True", "False")),
        ),
        QUIET,
    ),
    Case(
        "gevent patches in a conftest",
        """
        -- conftest.py
        from gevent import monkey

        monkey.patch_all()
        import net
        -- net.py
        import socket
        import ssl
        import threading
        import urllib.request

        CLASSES = socket.socket.__module__, ssl.SSLContext.__module__, threading.Lock.__module__
        -- test_a.py
        import time

        import net

        def test_a():
            print(net.CLASSES, time.sleep.__module__)
            net.threading.Thread(target=time.sleep, args=(0,)).start()
        """,
        (
            Twist("no conftest", arguments=(*QUIET, "--noconftest")),
            edit("conftest.py", ("monkey.patch_all()", "monkey.patch_time()")),
            edit("conftest.py", "import net\n"),
        ),
        QUIET,
    ),
    Case(
        "import hook of typeguard",
        """
        -- conftest.py
        import typeguard

        typeguard.install_import_hook("typed")
        import typed
        -- typed.py
        def double(value: int) -> int:
            return value * 2
        -- also.py
        def double(value: int) -> int:
            return value * 2
        -- test_a.py
        import also
        import typed

        def test_a():
            also.double("x")
            typed.double("x")
        """,
        (
            edit("conftest.py", ('("typed")', '("also")')),
            edit(
                "conftest.py",
                "import typed\nimport typeguard\n\ntypeguard.install_import_hook('typed')\n",
            ),
            edit("conftest.py", "", True),
        ),
        QUIET,
    ),
    Case(
        "matplotlib, its backend",
        """
        -- conftest.py
        import matplotlib

        matplotlib.use("svg")
        matplotlib.rcParams["lines.linewidth"] = 7
        -- draws.py
        import matplotlib

        BACKEND = matplotlib.rcParams["backend"], matplotlib.rcParams["lines.linewidth"]
        -- test_a.py
        import draws

        def test_a():
            print(draws.BACKEND)
        """,
        (
            edit("conftest.py", ('"svg"', '"pdf"')),
            Twist("a variable", how=How({"MPLBACKEND": "ps"}), unnoticed=True),
            edit("conftest.py", ""),
            Twist("a variable", how=How({"MPLBACKEND": "ps"})),
        ),
        QUIET,
    ),
    Case(
        "numpy, its state and its presence",
        """
        -- conftest.py
        -- sets.py
        import numpy

        numpy.random.seed(7)
        numpy.seterr(all="raise")
        numpy.set_printoptions(precision=3)
        FIRST = numpy.random.random()
        -- test_a.py
        import numpy
        import sets

        def test_a():
            print(sets.FIRST, numpy.random.random(), numpy.geterr(), numpy.array([1 / 3]))
        -- test_b.py
        import sys

        import pytest

        def test_b():
            print("numpy" in sys.modules, repr(pytest.approx([1.0])))
        """,
        (
            pick("test_b.py"),
            pick("test_a.py"),
            edit("sets.py", ("seed(7)", "seed(8)")),
            edit("conftest.py", "import sets\n", True),
            pick("test_b.py"),
        ),
        QUIET,
    ),
    Case(
        "pandas, its options and accessors",
        """
        -- ext.py
        import pandas

        @pandas.api.extensions.register_dataframe_accessor("mine")
        class Mine:
            def __init__(self, frame):
                self.size = len(frame)

        pandas.set_option("display.precision", 2)
        -- conftest.py
        import ext
        -- test_a.py
        import pandas

        def test_a():
            print(pandas.DataFrame({"x": [1 / 3]}), hasattr(pandas.DataFrame, "mine"))
        """,
        (edit("ext.py", ("2)", "4)")), edit("conftest.py", "")),
        QUIET,
    ),
    Case(
        "patched names of a package, as numpy's old ones",
        """
        -- compat.py
        import numpy

        numpy.bool8 = bool
        import frame
        -- frame.py
        import numpy

        KIND = getattr(numpy, "bool8", None)
        -- test_a.py
        import compat
        import frame

        def test_a():
            print(frame.KIND)
        -- test_b.py
        import frame

        def test_b():
            print(frame.KIND)
        """,
        (pick("test_b.py"), pick("test_b.py", "test_a.py")),
        QUIET,
    ),
    Case(
        "jinja2 and attrs, which make code",
        """
        -- shapes.py
        import attrs

        @attrs.define
        class Shape:
            sides: int = 3
        -- pages.py
        import jinja2

        import shapes

        ENV = jinja2.Environment(loader=jinja2.FileSystemLoader("pages"))
        ENV.filters["loud"] = str.upper
        PAGE = ENV.get_template("page.txt")
        -- pages/page.txt
        {{ word | loud }} {{ shape }}
        -- conftest.py
        import pages
        -- test_a.py
        import pages

        def test_a():
            print(pages.PAGE.render(word="word", shape=pages.shapes.Shape()))
        """,
        (
            edit("pages/page.txt", "edited {{ shape }}\n"),
            edit("shapes.py", ("3", "4")),
            edit(
                "conftest.py",
                ("import pages", "import pages\n\npages.ENV.filters['loud'] = len"),
                True,
            ),
        ),
        QUIET,
    ),
]


@pytest.fixture
def libraries(new_sandbox) -> Sandbox:
    return new_sandbox(environment(also="libraries"))


# Made when the first test asks for it: half a minute.
@pytest.mark.timeout(400)
@each(CASES)
def test_libraries(libraries: Sandbox, case: Case) -> None:
    play(libraries, case)
