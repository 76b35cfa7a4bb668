"""What conftests did that a checkpoint of them did not notice: found by trying to prove it wrong.

Each case gave another answer than plain pytest, or kept a run from ending, when served from behind
the conftests.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .harness.cases import Case, How, Twist, each, edit, imports_for, play, select
from .harness.sandbox import Sandbox
from .test_prefix_process import TOOLS

# What a conftest does, and what a test shows of it (see `TOOLS`); with `-s` where a name says so.
EFFECTS: dict[str, tuple[str, str]] = {
    # ------------------------------------------------------------------ chance
    "keeps the state of chance": ("STATE = random.getstate()", "unseen(hash(conftest.STATE))"),
    "sets the state of chance": (
        "random.setstate(random.Random(7).getstate())",
        "random.random()",
    ),
    "copies an unseeded generator": (
        "import copy\nRANDOM = random.Random()\nOTHER = copy.copy(RANDOM)",
        "unseen(conftest.OTHER.random())",
    ),
    "draws from OpenSSL": ("import ssl\nDRAWN = ssl.RAND_bytes(8)", "unseen(conftest.DRAWN)"),
    "draws from a device": (
        "with open('/dev/urandom', 'rb') as file:\n    DRAWN = file.read(8)",
        "unseen(conftest.DRAWN)",
    ),
    # ------------------------------------------------------------------ streams
    "keeps the bytes below stdout": (
        "OUT = sys.stdout.buffer",
        "conftest.OUT.write(b'late\\n'), conftest.OUT.closed",
    ),
    "keeps the bytes below stdout, -s": (
        "OUT = sys.stdout.buffer",
        "conftest.OUT.write(b'late\\n'), conftest.OUT.closed",
    ),
    "keeps another text over stdout": (
        "OUT = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')",
        "conftest.OUT.write('late\\n')",
    ),
    # pytest breaks by it when it begins to capture again, and ends with its stand-in for stdin.
    "puts another text over stdout": (
        "sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')",
        "1",
    ),
    "stands for its own buffer, -s": (
        "class Tee:\n    def __init__(self, stream):\n        self.stream = stream\n"
        "        self.buffer = self\n\n    def __getattr__(self, name):\n"
        "        return getattr(self.stream, name)\n\nsys.stdout = Tee(sys.stdout)",
        "type(sys.stdout).__name__",
    ),
    "sets how stdout encodes": (
        "sys.stdout.reconfigure(encoding='ascii', errors='backslashreplace')",
        "sys.stdout.encoding, 'h\\xe9llo'",
    ),
    "sets how stdout encodes, -s": (
        "sys.stdout.reconfigure(encoding='ascii', errors='backslashreplace')",
        "sys.stdout.encoding, 'h\\xe9llo'",
    ),
    "sets how the first stdout encodes": (
        "sys.__stdout__.reconfigure(errors='ignore')",
        "sys.__stdout__.errors",
    ),
    "says that stdout is a terminal": (
        "sys.stdout.isatty = lambda: True",
        "sys.stdout.isatty()",
    ),
    "reads stdin, -s": ("TEXT = sys.stdin.read()", "conftest.TEXT"),
    "asks for input, -s": (
        "try:\n    TEXT = input()\nexcept EOFError:\n    TEXT = 'none'",
        "conftest.TEXT",
    ),
    "puts a file in stdin's place, -s": (
        "FD = os.open('pytest.ini', os.O_RDONLY)\nos.dup2(FD, 0)\nos.close(FD)",
        "os.read(0, 9)",
    ),
    "sends stderr to stdout, -s": ("os.dup2(1, 2)", "os.write(2, b'where\\n')"),
    # ------------------------------------------------------------------ the process
    "sets an alarm": ("signal.alarm(1000)", "signal.alarm(0) > 0"),
    "keeps the whole command line": (
        "LINE = getattr(sys, 'orig_argv', [])",
        "type(conftest.LINE), conftest.LINE[3:]",
    ),
    "asks for the profile function": ("PROFILE = sys.getprofile()", "conftest.PROFILE"),
    "counts descriptors": (
        "COUNT = len(os.listdir('/proc/self/fd'))",
        "conftest.COUNT > 20, len(os.listdir('/proc/self/fd')) - conftest.COUNT",
    ),
    # ------------------------------------------------------------------ what outlives the process
    "makes a named pipe": (
        "PATH = os.path.join(os.environ['HOME'], 'pipe')\nos.mkfifo(PATH)\n"
        "atexit.register(os.unlink, PATH)",
        "os.path.exists(conftest.PATH)",
    ),
    "makes named memory": (
        "from multiprocessing.shared_memory import SharedMemory\n"
        "NAME = os.environ['HOME'].replace('/', '-')[1:]\n"
        "MEMORY = SharedMemory(name=NAME, create=True, size=9)\n"
        "atexit.register(lambda: (MEMORY.close(), MEMORY.unlink()))",
        "bytes(conftest.MEMORY.buf[:2])",
    ),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_effect(sandbox: Sandbox, name: str) -> None:
    effect, show = EFFECTS[name]
    files = {
        "conftest.py": f"{imports_for(effect)}\n{effect}\n",
        "tools.py": TOOLS,
        "test_a.py": f"{imports_for(show)}from tools import unseen\nimport conftest\n\n"
        f"def test_shows():\n    print({show})\n",
    }
    arguments = ("-rA", "-s") if name.endswith(", -s") else ("-rA",)
    play(sandbox, Case(name, files, arguments=arguments, how=How(input=b"typed\n")))


# ---------------------------------------------------------------------------------------- inputs

DATA = {"data/one.txt": "one\n", "data/sub/two.txt": "two\n"}
NAME = os.fsdecode(b"data/caf\xe9.txt")


def write_by_bytes(text: str) -> Twist:
    """A name that is no text."""

    def act(sandbox: Sandbox) -> None:
        Path(sandbox.project, NAME).write_text(text)

    return Twist("other content", act=act)


def break_link(sandbox: Sandbox) -> None:
    path = sandbox.project / "data/one.txt"
    path.unlink()
    path.symlink_to("/nowhere")


# What a conftest reads, and what changes it.
INPUTS: dict[str, tuple[str, Twist]] = {
    "sizes in a directory": (
        "VALUE = {e.name: e.stat().st_size for e in os.scandir('data') if e.is_file()}",
        edit("data/one.txt", "longer\n"),
    ),
    "files in a directory": (
        "VALUE = sorted(e.name for e in os.scandir('data') if e.is_file())",
        Twist("a link that leads nowhere", act=break_link),
    ),
    "a directory by its descriptor": (
        "FD = os.open('data', os.O_RDONLY)\nVALUE = sorted(os.listdir(FD))\nos.close(FD)",
        edit("data/three.txt", ""),
    ),
    "a name that is no text": (
        "try:\n    VALUE = open(os.fsdecode(b'data/caf\\xe9.txt')).read()\n"
        "except FileNotFoundError:\n    VALUE = None",
        write_by_bytes("two\n"),
    ),
    "an import from where the search path led for a while": (
        "sys.path.insert(0, os.path.abspath('data'))\n"
        "try:\n    from local import VALUE\nexcept ImportError:\n    VALUE = None\n"
        "finally:\n    del sys.path[0]",
        edit("data/local.py", "VALUE = 1\n"),
    ),
    "an import from a directory that was not there": (
        "sys.path.insert(0, os.path.abspath('vendor'))\n"
        "try:\n    from local import VALUE\nexcept ImportError:\n    VALUE = None\n"
        "finally:\n    del sys.path[0]",
        edit("vendor/local.py", "VALUE = 1\n"),
    ),
    "the arguments by pytest's configuration": (
        "VALUE = []\n\ndef pytest_addhooks(pluginmanager):\n"
        "    config = pluginmanager.get_plugin('pytestconfig')\n"
        "    VALUE[:] = config.invocation_params.args",
        select("-v"),
    ),
}


@pytest.mark.parametrize("name", INPUTS)
def test_input(sandbox: Sandbox, name: str) -> None:
    code, twist = INPUTS[name]
    files = {
        **DATA,
        "conftest.py": f"{imports_for(code)}\n{code}\n",
        "test_a.py": "import conftest\n\ndef test_shows():\n    print(conftest.VALUE)\n",
    }
    play(sandbox, Case(name, files, (twist,)))


# -------------------------------------------------------------------------------------- projects

NESTED = Case(
    "a conftest that prepares another pytest",
    """
    -- conftest.py
    from _pytest.config import _prepareconfig

    print("before")
    CONFIG = _prepareconfig(["-q", "-p", "no:cacheprovider", "--noconftest", "data"])
    CONFIG._ensure_unconfigure()
    print("after")
    -- data/one.txt
    -- test_a.py
    import conftest

    def test_shows():
        print(conftest.CONFIG.args)
    """,
    (edit("test_a.py", ("CONFIG.args", "CONFIG.args, 1")),),
)


PATCHED = Case(
    "a conftest that replaces what the arguments are read by",
    """
    -- conftest.py
    from _pytest.config.argparsing import Parser

    for name in ("parse", "parse_setoption"):
        if hasattr(Parser, name):
            def replaced(self, *args, natural=getattr(Parser, name), **more):
                return natural(self, *args, **more)

            setattr(Parser, name, replaced)
    -- test_a.py
    import os

    def test_counts():
        # A number that no background run may have taken.
        home = os.environ["HOME"]
        made = len([name for name in os.listdir(home) if name.startswith("pipe")])
        with open(os.path.join(home, "runs")) as file:
            print(made - len(file.read()))
        number = 0
        while os.path.exists(os.path.join(home, f"pipe{number}")):
            number += 1
        os.mkfifo(os.path.join(home, f"pipe{number}"))
    """,
    (edit("pytest.ini", "[pytest]\nconsole_output_style = count\n"),),
)

TOGGLED = Case(
    "a conftest that writes no byte code of one module",
    """
    -- conftest.py
    import sys

    def imports_quietly():
        before = sys.dont_write_bytecode
        sys.dont_write_bytecode = True
        import app
        sys.dont_write_bytecode = before

    imports_quietly()
    import other
    -- app.py
    -- other.py
    -- test_a.py
    def test_a():
        pass
    """,
    (edit("app.py", "WORD = 1\n", unnoticed=True),),
)


@each([NESTED, PATCHED, TOGGLED])
def test_project(sandbox: Sandbox, case: Case) -> None:
    play(sandbox, case)
