"""Checkpoints that are left open in the midst of conftests, and go on in the text of now.

`slow` counts as installed and takes longer than an opening has to spare, so there is one right
behind it. What is edited after that is executed by the next run, from there.
"""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path

import pytest

from .harness import sandbox as harness
from .harness.cases import files_of, write
from .harness.environments import PYTESTS, environment
from .harness.interpreters import DEFAULT, interpreters
from .harness.sandbox import Sandbox

SLOW = """
-- pytest.ini
[pytest]
pythonpath = . vendor/site-packages
-- vendor/site-packages/slow.py
import time

time.sleep(0.5)
SUM = 1
"""

LOOKS = """
import inspect, linecache, sys
import conftest
from _pytest.assertion import rewrite

def shown(space):
    for name, value in space.items():
        if not name.startswith("@") and name not in ("__builtins__", "__spec__", "__loader__"):
            value = getattr(value, "__code__", value)
            yield name, getattr(value, "co_firstlineno", None) or str(value).partition(" at 0x")[0]

def test_shows():
    print(*shown(vars(conftest)), sep="\\n")
    print(list(vars(conftest)))
    own = ("app", "slow", "late", "conftest")
    print([name for name in sys.modules if name.split(".")[0] in own])
    print(sys.gettrace(), sys.getprofile(), "exec" in vars(rewrite), conftest.__spec__.cached)

def test_source():
    for value in list(vars(conftest).values()):
        if inspect.isfunction(value) and value.__module__ == "conftest":
            print(inspect.getsource(value))

def test_calls():
    print(getattr(conftest, "check", int)())
"""

CONFTEST = '''
"""Some words."""
import slow
import late

WORD = "one"

def check():
    assert WORD
    return WORD
'''


def start(sandbox: Sandbox, text: str, *arguments: str) -> None:
    """Has an opening, and a Z2 that was grown from there."""
    sandbox.env["PYTHONHASHSEED"] = "0"
    # The harness takes byte code away, which is an edit too.
    sandbox.env.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    write(sandbox, {**files_of(SLOW), "late.py": "WORD = 'late'\n", "test_a.py": LOOKS})
    write(sandbox, files_of(text))
    for _ in range(2):
        sandbox.same("-rA", *arguments)
        sandbox.until_ready()
    if not harness.REFERENCE:
        parked = sandbox.daemon.status().ready("Z2")
        assert len(parked) == 2, sandbox.daemon.status()


def after(sandbox: Sandbox, *arguments: str, at: str = "Z2") -> None:
    """Right after an edit, and when all is ready again."""
    sandbox.same_at_once("-rA", *arguments)
    if not harness.REFERENCE:
        run = sandbox.last_run()
        assert run.checkpoint == at, f"served by {run.checkpoint}: {run.why}"
    sandbox.until_ready()
    sandbox.same_warm("-rA", *arguments)
    sandbox.until_ready()


# What follows the imports, each in the place of the one before.
TAILS = {
    "another value": 'WORD = "two"\n',
    "nothing": "",
    "text that is no docstring": '"""Not a docstring."""\nWORD = 2\n',
    "annotations": "WORD: str = 'annotated'\nOTHER: int\n",
    "annotations in a block": "if WORDS:\n    WORD: int = 1\n".replace("WORDS", "slow"),
    "no annotations any more": "WORD = 3\n",
    "a decorated function": "import functools\n\n@functools.cache\ndef check():\n    return 1\n",
    "a long statement": "WORD = [\n    slow.SUM,\n    late.WORD,\n]\n",
    "a class": "class Word:\n    def b(self):\n        assert self\nWORD = Word.__qualname__\n",
    "an assertion": "WORD = 1\nassert WORD == 1, WORD\ndef check():\n    assert WORD == 2\n",
    "an assertion that fails": "WORD = 1\nassert WORD == 2\n",
    "an exception": "def check():\n    raise KeyError(1)\nWORD = check()\n",
    "an exception that is caught": (
        "try:\n    WORD = slow.NONE\nexcept Exception as e:\n    WORD = repr(e)\n"
    ),
    "more imports": "import json\nfrom late import *\nimport app\n",
    "a hook": "def pytest_report_header(config):\n    return 'a header'\n",
    "an option": "def pytest_addoption(parser):\n    parser.addoption('--word')\n",
    "the stack": (
        "import sys, traceback\nFRAMES = [(f.f_code.co_name, f.f_lineno) for f, _ in "
        "traceback.walk_stack(sys._getframe())]\nWORD = [n for n, _ in FRAMES], FRAMES[0]\n"
    ),
    "its own text": "import inspect, sys\nWORD = inspect.getsource(sys.modules[__name__])\n",
    "a warning": "import warnings\nwarnings.warn('from here')\n",
    "what the compiler warns of": "WORD = 1 is 1\n",
    "what cannot be compiled": "WORD = (\n",
    "whole again": "WORD = 'whole'\n",
    "the names that are there": "WORD = list(globals()), list(locals())\n",
    "a name is deleted": "del slow\nWORD = 1\n",
    "a generator": "WORD = [n for n in range(3)], sum(n for n in range(3))\n",
    "a global": "def check():\n    global WORD\n    WORD = 5\ncheck()\n",
    "comments": "# one\n\n\n# two\n",
    "spaces and no last line": "\n\n\f\nWORD = 'last'",
}


@pytest.mark.product
@pytest.mark.parametrize("first", [0, 10, 20])
def test_what_follows_is_that_of_now(sandbox: Sandbox, first: int) -> None:
    start(sandbox, f"-- conftest.py{CONFTEST}-- app.py\nimport late\nA = late.WORD\n")
    head = CONFTEST.partition("WORD")[0]
    by_plain = ("what the compiler warns of", "what cannot be compiled")
    for name in list(TAILS)[first : first + 10]:
        sandbox.write("conftest.py", head + TAILS[name])
        sandbox.same_at_once("-rA")
        if not harness.REFERENCE:
            run = sandbox.last_run()
            at = run.checkpoint if name in by_plain else "Z2"
            assert run.checkpoint == at, f"{name} served by {run.checkpoint}: {run.why}"
        sandbox.until_ready()
        sandbox.same_warm("-rA")
        sandbox.until_ready()


@pytest.mark.parametrize("python", interpreters())
def test_on_each_python(new_sandbox, python: str) -> None:
    sandbox = new_sandbox(environment(python))
    start(sandbox, f"-- conftest.py{CONFTEST}-- app.py\nimport late\nA = late.WORD\n")
    head = CONFTEST.partition("WORD")[0]
    for name in ("annotations", "an exception", "a decorated function", "the stack", "comments"):
        sandbox.write("conftest.py", head + TAILS[name])
        after(sandbox)


@pytest.mark.parametrize("python", interpreters())
def test_lines(new_sandbox, python: str) -> None:
    """Python before 3.11 holds two codes for equal that differ in their lines."""
    sandbox = new_sandbox(environment(python))
    fails = "def check():\n    raise KeyError(1)\n"
    start(sandbox, f"-- conftest.py{CONFTEST.partition('def')[0]}{fails}")
    write(sandbox, {"conftest.py": ("def check", "# One line.\n# Another.\ndef check")})
    after(sandbox)


# What an open module may be besides, and an edit.
TWICE = {
    "another module": {
        "tests/__init__.py": "",
        "tests/conftest.py": "import helpers\n\nWORD = 1\n",
        "helpers.py": "import tests.conftest as other\nimport slow\n",
        "test_a.py": "",
        "tests/test_b.py": (
            "import sys\n\ndef test_b():\n"
            "    print([m.WORD for n, m in sorted(sys.modules.items()) if 'conftest' in n])\n"
        ),
    },
    "code that is got": {
        "app.py": (
            "import importlib.util\n"
            "code = importlib.util.find_spec('app').loader.get_code('app')\n"
            "import slow\n\nWORD = 1\n"
        ),
        "conftest.py": "import app\n\ndef check():\n    return app.code.co_consts, app.WORD\n",
    },
    "text that is got": {
        "app.py": "TEXT = __loader__.get_data(__file__)\nimport slow\n\nWORD = 1\n",
        "conftest.py": "import app\n\ndef check():\n    return app.TEXT, app.WORD\n",
    },
    "text of a conftest that is got": {
        "conftest.py": (
            "TEXT = __loader__.get_data(__file__)\nimport slow\nimport late\n\nWORD = 1\n"
            "def check():\n    return TEXT, WORD\n"
        ),
    },
    "source that is got": {
        "conftest.py": "import app\n\ndef check():\n    return app.TEXT, app.WORD\n",
        "app.py": "TEXT = __loader__.get_source('app')\nimport slow\n\nWORD = 1\n",
    },
}


@pytest.mark.product
@pytest.mark.parametrize("bytecode", ["", "1"], ids=["byte code", "none"])
@pytest.mark.parametrize("name", TWICE)
def test_what_is_read_twice(sandbox: Sandbox, name: str, bytecode: str) -> None:
    sandbox.env["PYTHONDONTWRITEBYTECODE"] = bytecode
    text = "".join(f"-- {path}\n{content}" for path, content in TWICE[name].items())
    start(sandbox, text)
    if not bytecode:
        python = [sandbox.pytest.with_name("python"), "-m", "compileall", "-q", "."]
        assert sandbox.finish(sandbox.start(*python)).status == 0
        for _ in range(2):
            sandbox.same_at_once("-rA")
            sandbox.until_ready()
    (path,) = (path for path, content in TWICE[name].items() if "WORD = 1" in content)
    write(sandbox, {path: ("WORD = 1", "WORD = 22")})
    sandbox.same_at_once("-rA")
    sandbox.until_ready()
    sandbox.same_warm("-rA")


# What a module that is open within another does to the functions that Python tells of what runs.
TOLD = {
    "profile": "import cProfile\np = cProfile.Profile()\np.enable()\np.disable()\n",
    "profile that stays": "import sys\nsys.setprofile(print if 0 else lambda *event: None)\n",
    "trace": "import sys\ndef told(*event):\n    return told\nsys.settrace(told)\n",
    "trace that goes": "import sys\nsys.settrace(lambda *event: None)\nsys.settrace(None)\n",
    "trace of callers": (
        "import sys\ndef told(frame, *event):\n    return told\nframe = sys._getframe()\n"
        "while frame:\n    frame.f_trace = told\n    frame = frame.f_back\nsys.settrace(told)\n"
    ),
}


@pytest.mark.product
@pytest.mark.parametrize("python", ["3.9", "3.11", "3.12"])
@pytest.mark.parametrize("name", TOLD)
def test_functions_that_are_told(new_sandbox, python: str, name: str) -> None:
    sandbox = new_sandbox(environment(python))
    app = "from slow import SUM\n\nAPP = 1\n"
    shows = "import sys\ndef check():\n    return sys.gettrace(), sys.getprofile()\n"
    start(sandbox, f"-- app.py\n{app}-- conftest.py\nimport app\nOLD = 1\n{shows}")
    write(sandbox, {"app.py": app + TOLD[name], "conftest.py": ("OLD = 1", "NEW = 22\nMORE = 1")})
    plain, first = sandbox.plain("-rA"), None
    for _ in range(2):
        first = sandbox.first("-rA")
        # (A function's address.)
        masked = [re.sub(r"0x\w+|in [\d.]+s =+", "", run.stdout) for run in (plain, first)]
        assert masked[0] == masked[1], sandbox.last_run().why
        sandbox.until_ready()


NESTED = """
-- app/__init__.py
from app import core
from app.core import (
    WORD,
    wording as other,
)
WORDS = [WORD, other]
-- app/core.py
import late
from slow import SUM
import app.leaf

WORD = "core" + app.leaf.WORD + late.WORD

def wording():
    return WORD
-- app/leaf.py
WORD = "leaf"
-- app/after.py
WORD = "after"
-- conftest.py
import sys
import app
from app import after
import json

WORD = app.WORDS, after.WORD

def check():
    return WORD, json.__name__
"""


@pytest.mark.product
def test_each_of_several_that_are_open(sandbox: Sandbox) -> None:
    start(sandbox, NESTED)
    edits = (
        {"conftest.py": ("WORD = app", "WORD = 1, app")},
        {"app/core.py": ('"core"', '"other"')},
        {"app/__init__.py": ("WORDS = [", "WORDS = [0, ")},
        {"app/leaf.py": ("leaf", "other leaf")},
        {"conftest.py": ("WORD = 1, app", "WORD: int = 2, app")},
        {"conftest.py": ("WORD: int = 2", "WORD = 3"), "app/core.py": ('"other"', '"third"')},
        {"app/__init__.py": ("[0, ", "[00, "), "app/core.py": ('"third"', '"fourth"')},
        {"app/core.py": ("import app.leaf", "import app.leaf as leaf, app")},
        {"app/core.py": ("WORD = ", "raise KeyError\nWORD = ")},
        {"app/core.py": ("raise KeyError\n", "")},
        {"app/after.py": ("after", "later")},
        {"conftest.py": ("import json\n", "import json, string\n")},
    )
    for edit in edits:
        write(sandbox, edit)
        after(sandbox)
    # What has been executed.
    for name, content in (
        ("late.py", "WORD = 'latest'\n"),
        ("conftest.py", ("import sys\n", "import os\n")),
        ("app/core.py", ("from slow import SUM", "from slow import SUM as sum")),
    ):
        write(sandbox, {name: content})
        after(sandbox, at="P0")


@pytest.mark.product
def test_what_grows_behind_its_last_import(sandbox: Sandbox) -> None:
    """From the second edit on it is parked behind that import, in the frame of the first text."""
    text = "-- app.py\nfrom slow import SUM\nimport late\n-- conftest.py\nimport app\n# The end.\n"
    start(sandbox, text)
    path = sandbox.project / "conftest.py"
    for number in range(4):
        path.write_text(f"{path.read_text()}\nWORD{number}: int = {number}\n")
        after(sandbox)
    for text in ("import app\n", "import app\nWORD0 = 0\n", "import app\nimport late\n"):
        path.write_text(text)
        after(sandbox)


# In each `slow` is imported in the midst of what cannot be left open.
CLOSED = {
    "in a block": "try:\n    import slow\nexcept ImportError:\n    pass\nWORD = 1\n",
    "two on a line": "import late; import slow\nWORD = 1\n",
    "two on a line, the first": "import slow; import late\nWORD = 1\n",
    "in a function": "def load():\n    import slow\nload()\nWORD = 1\n",
    "by name": "import importlib\nimportlib.import_module('slow')\nWORD = 1\n",
    "in a class": "class A:\n    import slow\nWORD = 1\n",
    "its own text is read": "import sys\nTEXT = open(__file__).read()\nimport slow\nWORD = 1\n",
    "its own time is read": "import os\nTIME = os.stat(__file__).st_size\nimport slow\nWORD = 1\n",
}


@pytest.mark.product
@pytest.mark.parametrize("name", CLOSED)
def test_what_cannot_be_left_open(sandbox: Sandbox, name: str) -> None:
    files = {**files_of(SLOW), "late.py": "", "test_a.py": LOOKS, "conftest.py": CLOSED[name]}
    sandbox.env["PYTHONHASHSEED"] = "0"
    # Something else to edit, so that there is an opening.
    for number in range(4):
        files[f"more{number}.py"] = "WORD = 1\n"
        files["conftest.py"] += f"import more{number}\n"
    write(sandbox, files)
    sandbox.same("-rA")
    sandbox.until_ready()
    for number in range(2, 4):
        write(sandbox, {"conftest.py": (f"WORD = {number - 1}", f"WORD = {number}")})
        sandbox.same_at_once("-rA")
        sandbox.until_ready()
        sandbox.same_warm("-rA")


def by_memory(path: Path, old: bytes, new: bytes) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        at = memory.find(old)
        memory[at : at + len(old)] = new


@pytest.mark.product
@pytest.mark.parametrize("bytecode", ["with byte code", "without"])
def test_ways_to_edit(sandbox: Sandbox, bytecode: str) -> None:
    sandbox.env["PYTHONDONTWRITEBYTECODE"] = "" if bytecode == "with byte code" else "1"
    start(sandbox, f"-- conftest.py{CONFTEST}")
    path = sandbox.project / "conftest.py"
    by_memory(path, b"one", b"two")
    after(sandbox)
    was = path.stat()
    path.write_text(path.read_text().replace("two", "six"))
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    after(sandbox)
    beside = path.with_suffix(".new")
    beside.write_text(path.read_text().replace("six", "seven"))
    beside.replace(path)
    after(sandbox)
    path.touch()
    after(sandbox)
    text = path.read_bytes()
    path.unlink()
    sandbox.same_at_once("-rA", "-p", "no:cacheprovider")
    path.write_bytes(text.replace(b"\n", b"\r\n"))
    sandbox.same_at_once("-rA")


@pytest.mark.product
def test_byte_code_that_stands_for_another_text(sandbox: Sandbox) -> None:
    """Python trusts byte code of the same second and size, and executes it: here that of the text
    before the edit."""
    start(sandbox, NESTED)
    core = sandbox.project / "app/core.py"
    python = [sandbox.pytest.with_name("python"), "-m", "compileall", "-q", "app"]
    process = sandbox.start(*python, env={"PYTHONDONTWRITEBYTECODE": None})
    assert sandbox.finish(process).status == 0
    sandbox.same_at_once("-rA")
    sandbox.until_ready()
    sandbox.same_warm("-rA")
    sandbox.until_ready()
    was = core.stat()
    core.write_text(core.read_text().replace('"core"', '"else"'))
    os.utime(core, ns=(was.st_atime_ns, was.st_mtime_ns))
    sandbox.same_at_once("-rA")
    sandbox.until_ready()
    sandbox.same_warm("-rA")


@pytest.mark.product
@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
@pytest.mark.parametrize("version", [PYTESTS[0], PYTESTS[-1]])
def test_import_modes_and_packages(new_sandbox, mode: str, version: str) -> None:
    sandbox = new_sandbox(environment(DEFAULT, version))
    sandbox.env["PYTHONHASHSEED"] = "0"
    conftest = CONFTEST.replace("import late", "import late\nimport app.more")
    write(sandbox, {**files_of(SLOW), "late.py": "WORD = 'late'\n", "app/more.py": "WORD = 1\n"})
    write(sandbox, {"app/__init__.py": "import slow\n\nWORD = 'app'\n", "tests/__init__.py": ""})
    write(sandbox, {"tests/conftest.py": conftest, "conftest.py": "WORD = 'outer'\n"})
    write(sandbox, {"tests/test_a.py": "def test_a(word):\n    print(word)\n"})
    fixture = "\nimport pytest\n\n@pytest.fixture\ndef word():\n    return WORD, slow.SUM\n"
    write(sandbox, {"tests/conftest.py": conftest + fixture})
    arguments = ("-rA", f"--import-mode={mode}", "tests")
    for _ in range(2):
        sandbox.same(*arguments)
        sandbox.until_ready()
    for file, *texts in (
        ("tests/conftest.py", '"one"', '"two"'),
        ("app/__init__.py", "'app'", "'other'"),
        ("tests/conftest.py", '"two"', '"three"'),
    ):
        write(sandbox, {file: (texts[0], texts[1])})
        sandbox.same_at_once(*arguments)
        if not harness.REFERENCE:
            run = sandbox.last_run()
            assert run.checkpoint == "Z2", f"served by {run.checkpoint}: {run.why}"
        sandbox.until_ready()
        sandbox.same_warm(*arguments)
        sandbox.until_ready()


@pytest.mark.product
def test_known_place(sandbox: Sandbox) -> None:
    """The next daemon knows the place from the beginning, until it is not passed any more."""
    start(sandbox, f"-- conftest.py{CONFTEST}")
    sandbox.daemon.command("stop")
    before = sandbox.log().count("growing a Z2")
    sandbox.same("-rA")
    sandbox.until_ready()
    assert len(sandbox.daemon.status().ready("Z2")) == 2
    grown = sandbox.log().count("growing a Z2") - before
    assert grown == 2, sandbox.log()
    write(sandbox, {"conftest.py": ("import slow\n", "import slow as\n")})
    sandbox.same_at_once("-rA")
    sandbox.until_ready()
    write(sandbox, {"conftest.py": ("import slow as\n", "slow = 1\n")})
    after(sandbox, at="P0")
    assert len(sandbox.daemon.status().ready("Z2")) == 1
    write(sandbox, {"conftest.py": ("slow = 1\n", "import late\nimport slow\n")})
    after(sandbox, at="P0")
    assert len(sandbox.daemon.status().ready("Z2")) == 2
