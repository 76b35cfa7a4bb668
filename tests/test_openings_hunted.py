"""Differences that a hunt for them has found in runs that are served from an opening."""

from __future__ import annotations

import pytest

from .harness import sandbox as harness
from .harness.cases import files_of, write
from .harness.sandbox import Sandbox
from .test_prefix_openings import LOOKS, SLOW

CHECK = 'WORD = "one"\n'


def warm(sandbox: Sandbox, *arguments: str, is_open: bool = True) -> None:
    for _ in range(2):
        sandbox.same(*arguments)
        sandbox.until_ready()
    if is_open and not harness.REFERENCE:
        assert len(sandbox.daemon.status().ready("Z2")) == 2, sandbox.daemon.status()


def begin(sandbox: Sandbox, text: str, *arguments: str, is_open: bool = True) -> None:
    sandbox.env["PYTHONHASHSEED"] = "0"
    sandbox.env["PYTHONDONTWRITEBYTECODE"] = "1"
    write(sandbox, {**files_of(SLOW), "late.py": "WORD = 'late'\n"})
    write(sandbox, files_of(text))
    warm(sandbox, *(arguments or ("-rA",)), is_open=is_open)


def test_a_conftest_that_was_a_probe_of_the_opening(sandbox: Sandbox) -> None:
    begin(
        sandbox,
        """
-- conftest.py
import slow
-- tests/conftest.py
import pytest
WORD = "one"
@pytest.fixture
def word(): return WORD
-- tests/test_a.py
def test_a(word): print(word)
""",
        *("-rA", "tests"),
    )
    write(sandbox, {"tests/conftest.py": ("one", "two")})
    sandbox.same_at_once("-rA", "tests")


def test_a_file_that_was_a_probe_of_the_opening(sandbox: Sandbox) -> None:
    begin(
        sandbox,
        """
-- data.json
[1]
-- conftest.py
import os
IS_THERE = os.path.exists("data.json")
import slow
DATA = open("data.json").read()
-- test_a.py
import conftest
def test_a(): print(conftest.DATA)
""",
    )
    sandbox.write("data.json", "[2]\n")
    sandbox.same_at_once("-rA")


def test_a_package_that_was_a_probe_of_the_opening(sandbox: Sandbox) -> None:
    begin(
        sandbox,
        """
-- conftest.py
import slow
-- tests/__init__.py
WORD = "one"
-- tests/conftest.py
import late
-- tests/test_a.py
import tests
def test_a(): print(tests.WORD)
""",
        *("-rA", "tests"),
    )
    write(sandbox, {"tests/__init__.py": ("one", "two")})
    sandbox.same_at_once("-rA", "tests")


def test_a_file_that_was_a_probe_of_a_p0(sandbox: Sandbox) -> None:
    """Without any opening."""
    files = """
-- data.json
[1]
-- plugin.py
import os
IS_THERE = os.path.exists("data.json")
-- conftest.py
DATA = open("data.json").read()
-- test_a.py
import conftest
def test_a(): print(conftest.DATA)
"""
    sandbox.env["PYTHONDONTWRITEBYTECODE"] = "1"
    write(sandbox, {**files_of(SLOW), **files_of(files)})
    sandbox.same("-rA", "-p", "plugin", at="Z2")
    sandbox.write("data.json", "[2]\n")
    sandbox.same_at_once("-rA", "-p", "plugin")


LAST_LINES = {
    "another name": (b"from slow import SUM", b"from slow import SUM as TOTAL\nWORD = 1\n"),
    "one more name": (b"from app import A", b"from app import A, B\n"),
    "a name": (b"import slow", b"import slow as other\n"),
    "a line that goes on": (b"import slow \\\n\nX = 1\n", b"import slow \\\n, late\nX = 1\n"),
}


@pytest.mark.parametrize("name", LAST_LINES)
def test_the_import_itself_is_edited_behind_its_end(sandbox: Sandbox, name: str) -> None:
    old, new = LAST_LINES[name]
    sandbox.write("conftest.py", old)
    begin(sandbox, f"-- app.py\nimport slow\nA = 1\nB = 2\n-- test_a.py{LOOKS}")
    sandbox.write("conftest.py", new)
    sandbox.same_at_once("-rA")


@pytest.mark.parametrize("block", ["finally: Z = 1", "except: Z = 1"])
def test_a_block_on_one_line_follows(sandbox: Sandbox, block: str) -> None:
    """Since Python 3.11 the first event of its line lies within the block."""
    text = f"import slow\ntry: X = 'old'\n{block}\n"
    begin(sandbox, f"-- conftest.py\n{text}-- test_a.py{LOOKS}", is_open=False)
    sandbox.write("conftest.py", "import slow\nX = 'new'\n")
    sandbox.same_at_once("-rA")


READS = {
    "pkgutil": "import pkgutil\nT = pkgutil.get_data('app', 'core.py')\n",
    "its loader": "T = __loader__.get_data(__file__)\n",
    "another loader": (
        "import importlib.util\nS = importlib.util.spec_from_file_location('twin', __file__)\n"
        "T = S.loader.get_code('twin').co_consts\n"
    ),
}


@pytest.mark.parametrize("name", READS)
def test_text_that_is_read_by_a_loader(sandbox: Sandbox, name: str) -> None:
    begin(
        sandbox,
        f"-- conftest.py\nimport app.core\n-- app/__init__.py\n"
        f"-- app/core.py\n{READS[name]}import slow\nX = 'one'\n"
        "-- test_a.py\nimport app.core\ndef test_a(): print(app.core.T)\n",
    )
    write(sandbox, {"app/core.py": ("'one'", "'three'")})
    sandbox.same_at_once("-rA")


TWO = f"""
-- conftest.py
import app
{CHECK}
-- app/__init__.py
import slow
X = 1
-- test_a.py
import sys, app
def test_a(): print(list(vars(__import__("conftest"))), sys.gettrace(), sys.getprofile())
"""


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nsys.settrace(lambda *args: None)",
        "import sys\nsys.setprofile(lambda *args: None)",
        "import cProfile\np = cProfile.Profile()\np.enable()\np.disable()",
    ],
    ids=["trace", "profile", "profile that ends"],
)
def test_a_trace_function_while_an_outer_one_is_still_to_be_left(
    sandbox: Sandbox, code: str
) -> None:
    begin(sandbox, TWO)
    write(sandbox, {"conftest.py": ("WORD", "OTHER = 1\nWORD"), "app/__init__.py": ("X = 1", code)})
    sandbox.same_at_once("-rA")


def test_what_is_asked_for_by_a_from_import_sees_no_trace_function(sandbox: Sandbox) -> None:
    begin(
        sandbox,
        f"""
-- vendor/site-packages/slow.py
import time

time.sleep(1)
SUM = 1
-- conftest.py
from app import lazy
{CHECK}
-- app/__init__.py
import sys
SEEN = []
def __getattr__(name):
    if name != "lazy":
        raise AttributeError(name)
    import slow
    SEEN.append(sys.gettrace())
    return slow
-- test_a.py
import app
def test_a(): print(app.SEEN)
""",
    )
    write(sandbox, {"conftest.py": ("one", "two")})
    sandbox.same_at_once("-rA")


def test_annotations_that_the_head_has_made(sandbox: Sandbox) -> None:
    head = "__annotations__ = {'a': 1}\nimport slow\n"
    begin(sandbox, f"-- conftest.py\n{head}{CHECK}-- test_a.py{LOOKS}")
    write(sandbox, {"conftest.py": ("one", "two")})
    sandbox.same_at_once("-rA")


def test_constants_that_head_and_rest_share(sandbox: Sandbox) -> None:
    text = "A = 'some words'\nimport slow\nB = 'some words'\nSAME = A is B\n"
    begin(sandbox, f"-- conftest.py\n{text}-- test_a.py{LOOKS}")
    write(sandbox, {"conftest.py": ("SAME", "BOTH")})
    sandbox.same_at_once("-rA")


def test_how_deep_a_recursion_goes(sandbox: Sandbox) -> None:
    text = """
import slow
def deep(n):
    try:
        return deep(n + 1)
    except RecursionError:
        return n
DEPTH = deep(0)
"""
    begin(sandbox, f"-- conftest.py{text}-- test_a.py{LOOKS}")
