"""The checkpoint that is kept before a file that is edited again and again: a base."""

from __future__ import annotations

import re

import pytest

from .harness.cases import Case, play
from .harness.sandbox import Sandbox

EDITED = """
-- pytest.ini
[pytest]
pythonpath = .
-- early.py
WORD = "early"
-- app/__init__.py
from app import models

WORD = models.WORD
-- app/models.py
import early

WORD = "one"
-- late.py
import app

print("late is imported")
WORD = app.WORD + "late"
-- conftest.py
import early
print("before")
import app
import late

WORD = early.WORD, app.WORD, late.WORD

def pytest_addoption(parser):
    parser.addoption("--deep", default="no")
-- test_a.py
import conftest

def test_a(request):
    print(conftest.WORD, request.config.getoption("--deep"))

def test_b(request):
    print(request.config.args)
"""


@pytest.mark.product
def test_module_that_is_edited_again_and_again(sandbox: Sandbox) -> None:
    """From the second edit on a checkpoint stays that is parked before it."""
    # The harness takes byte code away, which is an edit too.
    sandbox.env["PYTHONDONTWRITEBYTECODE"] = "1"
    play(sandbox, Case("edited", EDITED))
    models = sandbox.project / "app/models.py"

    def edit_models(number: int) -> None:
        models.write_text(f"import early\n\nWORD = 'edit {number}'\n")

    for number in (1, 2):
        edit_models(number)
        sandbox.same_at_once("-rA")
        assert sandbox.last_run().checkpoint == "P0"
        sandbox.until_ready()
    again = r"parked before `app.models`: `.*/app/models.py` is edited again and again"
    assert len(sandbox.daemon.status().ready("Z2")) == 2, sandbox.daemon.status()
    for number, options in enumerate((["-rA"], ["-rA", "-k", "test_a"], ["-rA", "-k", "a"]), 3):
        sandbox.same_warm("-rA", at="Z2")
        assert sandbox.last_run().why is None, "not by the deepest"
        edit_models(number)
        sandbox.same_at_once(*options)
        run = sandbox.last_run()
        assert run.checkpoint == "Z2" and re.match(again, run.why or ""), run
        sandbox.until_ready()
    # An edit of what is executed before it ends both.
    sandbox.write("early.py", "WORD = 'earlier'\n")
    sandbox.same_at_once("-rA")
    assert sandbox.last_run().checkpoint == "P0"
    sandbox.until_ready()
    sandbox.same_warm("-rA", at="Z2")


@pytest.mark.product
def test_module_that_is_broken_again_and_again(sandbox: Sandbox) -> None:
    # The harness takes byte code away, which is an edit too.
    sandbox.env["PYTHONDONTWRITEBYTECODE"] = "1"
    play(sandbox, Case("edited", EDITED))
    texts = (
        "WORD = 1 / 0\n",
        "WORD = 'whole'\n",
        "WORD = (\n",
        "import time\nWORD = time.time() > 0\n",
    )
    for text in (*texts, "WORD = 'at last'\n"):
        sandbox.write("app/models.py", text)
        sandbox.same_at_once("-rA")
        sandbox.until_ready()
        sandbox.same_warm("-rA")
        sandbox.until_ready()
    sandbox.same_warm("-rA", at="Z2")
    sandbox.same_warm("-rA", "--deep=1", "test_a.py::test_b", at="P0")
