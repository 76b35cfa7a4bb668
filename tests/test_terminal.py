"""On a terminal: width, colours, input, and what comes and goes while a test runs."""

from __future__ import annotations

import re
import signal

import pytest

from .harness.projects import FIXTURES
from .harness.rendezvous import eventually, state_of
from .harness.sandbox import Sandbox
from .harness.terminal import Terminal


def same_on_a_terminal(
    sandbox: Sandbox, *arguments: str, talk=None, at: str | None = "P0", **how
) -> str:
    """Answers what plain pytest showed."""
    shown, statuses = [], []
    for program in (sandbox.pytest, sandbox.pyseidon):
        with sandbox.terminal(program, *arguments, **how) as terminal:
            if talk:
                talk(terminal)
            statuses.append(terminal.finish())
            shown.append(terminal.shown())
    assert shown[1] == shown[0]
    assert statuses[1] == statuses[0]
    sandbox.assert_served(at, shown[1])
    return shown[0]


@pytest.fixture
def outcomes(sandbox: Sandbox) -> Sandbox:
    sandbox.copy(FIXTURES / "outcomes")
    sandbox.warm_up("--co")
    return sandbox


@pytest.mark.parametrize(("rows", "columns"), [(24, 80), (30, 120), (10, 40)])
def test_size(outcomes: Sandbox, rows: int, columns: int) -> None:
    sandbox = outcomes
    sandbox.write(
        "test_size.py",
        """
        import os
        import shutil

        def test_size():
            print(os.get_terminal_size(0), shutil.get_terminal_size())
            assert 0
        """,
    )
    shown = same_on_a_terminal(sandbox, "-s", "-k", "size or fails", rows=rows, columns=columns)
    assert f"columns={columns}, lines={rows}" in shown


@pytest.mark.parametrize(
    ("env", "coloured"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"PY_COLORS": "0"}, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, True),
        ({"COLUMNS": "60"}, True),
        ({"CI": "true"}, True),
    ],
    ids=lambda value: " ".join(map("=".join, value.items())) if isinstance(value, dict) else None,
)
def test_colours(outcomes: Sandbox, env: dict[str, str], coloured: bool) -> None:
    # Variables that pytest reads before the checkpoint ask for another one.
    outcomes.warm_up("--co", env=env)
    shown = same_on_a_terminal(outcomes, "-k", "fails or passes", env=env)
    assert ("\x1b[3" in shown) == coloured


def test_colours_asked_for_off_a_terminal(outcomes: Sandbox) -> None:
    outcomes.warm_up("--co", "--color=yes")
    assert "\x1b[3" in outcomes.same_warm("--color=yes", "-k", "fails").stdout


def test_input(sandbox: Sandbox) -> None:
    """Line editing and echo are the terminal's own."""
    sandbox.write(
        "test_a.py",
        """
        import sys

        def test_a():
            name = input("who? ")
            print("hello", name, sys.stdin.isatty(), sys.stdin.fileno())
            assert sys.stdin.readline() == "second\\n"
        """,
    )
    sandbox.warm_up("--co", "-s")

    def talk(terminal: Terminal) -> None:
        terminal.expect(r"who\? ")
        terminal.type("the gorcer\b\b\b\bcer\n")
        terminal.expect("hello")
        terminal.type("second\n")

    shown = same_on_a_terminal(sandbox, "-s", talk=talk)
    assert "True 0" in shown


def test_end_of_input(sandbox: Sandbox) -> None:
    sandbox.write("test_a.py", "def test_a():\n    input('who? ')\n")
    sandbox.warm_up("--co", "-s")

    def talk(terminal: Terminal) -> None:
        terminal.expect(r"who\? ")
        terminal.type("\x04")

    assert "EOFError" in same_on_a_terminal(sandbox, "-s", talk=talk)


def test_debugger_after_a_failure(sandbox: Sandbox) -> None:
    sandbox.write("test_a.py", "def test_a():\n    answer = 41\n    assert answer == 42\n")
    sandbox.warm_up("--co")

    def talk(terminal: Terminal) -> None:
        terminal.expect(r"\(Pdb\) ")
        terminal.type("p answer\n")
        terminal.expect(r"41\r\n\(Pdb\) ")
        terminal.type("q\n")

    same_on_a_terminal(sandbox, "--pdb", talk=talk)


def test_ctrl_c_in_the_debugger(sandbox: Sandbox) -> None:
    sandbox.write_beacon()
    sandbox.write(
        "test_a.py",
        """
        import os

        import beacon

        def test_a():
            beacon.announce(f"pid {os.getpid()}")
            breakpoint()
            assert 0
        """,
    )
    sandbox.warm_up("--co")

    def talk(terminal: Terminal) -> None:
        terminal.expect(r"\(Pdb\) ")
        # Python itself overlooks an interrupt that comes before it waits for the input.
        pid = int(sandbox.rendezvous.wait_for("pid").split()[1])
        eventually(lambda: state_of(pid) == "S", "a prompt that waits")
        terminal.type("\x03")
        terminal.expect(r"\(Pdb\) ")
        terminal.type("q\n")

    same_on_a_terminal(sandbox, talk=talk)


def test_window_that_changes_size(sandbox: Sandbox) -> None:
    sandbox.write_beacon()
    sandbox.write(
        "test_a.py",
        """
        import os
        import signal

        import beacon

        def resized(number, frame):
            beacon.announce(f"now {os.get_terminal_size(0).columns}")

        def test_a():
            signal.signal(signal.SIGWINCH, resized)
            beacon.hold("holds")
        """,
    )
    sandbox.warm_up("--co")
    for program in (sandbox.pytest, sandbox.pyseidon):
        with sandbox.terminal(program, "-s") as terminal:
            sandbox.rendezvous.wait_for_hold("holds").close()
            terminal.resize(40, 132)
            assert sandbox.rendezvous.wait_for("now") == "now 132"
            sandbox.rendezvous.let_go()
            assert terminal.finish() == 0


def test_terminal_is_left_as_it_was(sandbox: Sandbox) -> None:
    """A test that switches echo off and is interrupted: pytest's habits, not ours."""
    sandbox.write_beacon()
    sandbox.write(
        "test_a.py",
        """
        import termios

        import beacon

        def test_a():
            attributes = termios.tcgetattr(0)
            attributes[3] &= ~termios.ECHO
            termios.tcsetattr(0, termios.TCSANOW, attributes)
            beacon.hold("holds")
        """,
    )
    sandbox.warm_up("--co")
    import termios

    modes = []
    for program in (sandbox.pytest, sandbox.pyseidon):
        with sandbox.terminal(program, "-s") as terminal:
            sandbox.rendezvous.wait_for_hold("holds").close()
            terminal.type("\x03")
            assert terminal.finish() == 2
            modes.append(termios.tcgetattr(terminal.master))
    assert modes[1] == modes[0]


def test_only_stdout_is_a_terminal(outcomes: Sandbox) -> None:
    """As in `pytest 2>log </dev/null`."""
    from pathlib import Path

    shown = []
    for program in (outcomes.pytest, outcomes.pyseidon):
        command = f"{program} -k fails </dev/null 2>{outcomes.base}/log"
        with outcomes.terminal(Path("/bin/sh"), "-c", command) as terminal:
            assert terminal.finish() == 1
            shown.append(terminal.shown())
        assert (outcomes.base / "log").read_text() == ""
    assert shown[1] == shown[0]


def test_ctrl_backslash(sandbox: Sandbox) -> None:
    sandbox.write_beacon()
    sandbox.write("test_a.py", "import beacon\n\ndef test_a():\n    beacon.hold('holds')\n")
    sandbox.warm_up("--co")
    shown = []
    for program in (sandbox.pytest, sandbox.pyseidon):
        with sandbox.terminal(program) as terminal:
            sandbox.rendezvous.wait_for_hold("holds").close()
            terminal.type("\x1c")
            assert terminal.finish() == -signal.SIGQUIT
            shown.append(re.sub(r"\s+", " ", terminal.shown()))
    assert shown[1] == shown[0]
