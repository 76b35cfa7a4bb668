"""Waiting for what happens in another process: for the event itself, never for time."""

from __future__ import annotations

import contextlib
import os
import select
import time
from pathlib import Path
from typing import Callable

# Far more than anything here takes on a busy machine: who waits longer waits in vain.
PATIENCE = 30.0

# Goes into a project as `beacon.py`: how a test in there speaks with the test out here.
BEACON = '''\
import os


def announce(word):
    with open(os.environ["EVENTS"], "w") as events:
        events.write(f"{word}\\n")


def hold(word):
    """Says so, then waits until the driver lets go. In one line: a traceback from here does not
    tell how far it has got."""
    word = f"{word} {os.getpid()}\\n".encode()
    with open(os.environ["GATE"], "rb", 0) as gate, open(os.environ["EVENTS"], "wb", 0) as events:
        events.write(word) and gate.read(1)
'''


class Rendezvous:
    """Two named pipes: words come out of the project by one, leave to go on goes in."""

    def __init__(self, directory: Path):
        self.events = directory / "events"
        self.gate = directory / "gate"
        for path in (self.events, self.gate):
            os.mkfifo(path)
        # Open for both directions: so neither side ever waits for the other to open it.
        self._events = os.open(self.events, os.O_RDWR | os.O_NONBLOCK)
        self._gate = os.open(self.gate, os.O_RDWR)
        self._read = b""

    @property
    def environ(self) -> dict[str, str]:
        return {"EVENTS": str(self.events), "GATE": str(self.gate)}

    def wait_for(self, word: str, timeout: float = PATIENCE) -> str:
        """The next announcement that begins with this word."""
        end = time.monotonic() + timeout
        while True:
            *lines, rest = self._read.split(b"\n")
            for number, line in enumerate(lines):
                if line.decode().startswith(word):
                    self._read = b"\n".join([*lines[number + 1 :], rest])
                    return line.decode()
            left = end - time.monotonic()
            ready, _, _ = select.select([self._events], [], [], max(0, left))
            if not ready:
                raise TimeoutError(f"`{word}` was not announced; only {self._read!r}")
            self._read += os.read(self._events, 65536)

    def wait_for_hold(self, word: str) -> Process:
        """The process that holds, once it really waits."""
        process = Process(int(self.wait_for(word).split()[-1]))
        eventually(lambda: state_of(process.pid) == "S", f"a process that waits at `{word}`")
        return process

    def pending(self) -> bool:
        """Something was announced that nobody has waited for."""
        return bool(self._read or select.select([self._events], [], [], 0)[0])

    def let_go(self, count: int = 1) -> None:
        os.write(self._gate, b"." * count)

    def close(self) -> None:
        os.close(self._events)
        os.close(self._gate)


class Process:
    """A process by its pidfd: the number cannot come to mean another one."""

    def __init__(self, pid: int):
        self.pid = pid
        self.fd = os.pidfd_open(pid)

    def wait_gone(self, timeout: float = PATIENCE) -> None:
        if not select.select([self.fd], [], [], timeout)[0]:
            command = Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ")
            raise TimeoutError(f"process {self.pid} did not end: {command!r}")

    @property
    def alive(self) -> bool:
        return not select.select([self.fd], [], [], 0)[0]

    def kill(self, signal: int) -> None:
        import signal as signals

        signals.pidfd_send_signal(self.fd, signal)

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def eventually(condition: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
    """For conditions that can only be asked for (a line of `/proc`, the daemon's status)."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"in vain for {timeout:g} s: {what}")
        time.sleep(0.02)


def open_files(pid: int) -> dict[int, str]:
    """What a process has open, by number; not what it closes meanwhile."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(entry.name)] = os.readlink(entry)
    return found


def state_of(pid: int) -> str:
    """The letter of `/proc/<pid>/stat`: R, S, D, T (stopped), Z…"""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return text[text.rindex(")") + 2]
