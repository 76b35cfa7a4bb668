"""A command on a terminal of its own: a session whose controlling terminal is a pty."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from pathlib import Path

from .outcome import normal
from .rendezvous import PATIENCE


class Terminal:
    def __init__(
        self, command: list[str], cwd: Path, env: dict[str, str], rows: int = 24, columns: int = 80
    ):
        self.text = ""
        self.seen = 0
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.master)
                os.setsid()
                fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
                for fd in (0, 1, 2):
                    os.dup2(slave, fd)
                if slave > 2:
                    os.close(slave)
                for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGPIPE):
                    signal.signal(number, signal.SIG_DFL)
                os.chdir(cwd)
                os.execvpe(command[0], command, env)
            finally:
                os._exit(127)
        os.close(slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def _read(self, end: float) -> bool:
        """False at the end of the session."""
        if not select.select([self.master], [], [], max(0, end - time.monotonic()))[0]:
            raise TimeoutError(f"the terminal shows only:\n{self.text}")
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: the last process has closed its end
            return False
        self.text += data.decode("utf-8", "backslashreplace")
        return bool(data)

    def expect(self, pattern: str, timeout: float = PATIENCE) -> str:
        """Reads until the pattern shows up after what was last expected."""
        end = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.text[self.seen :])
            if found:
                self.seen += found.end()
                return found.group()
            if not self._read(end):
                raise AssertionError(f"ended before `{pattern}`:\n{self.text}")

    def shown(self) -> str:
        """All that it showed, less what two plain runs differ in."""
        return normal(self.text)

    def finish(self, timeout: float = PATIENCE) -> int:
        """Reads to the end; the status as `subprocess` has it."""
        end = time.monotonic() + timeout
        while self._read(end):
            pass
        _, raw = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.WEXITSTATUS(raw) if os.WIFEXITED(raw) else -os.WTERMSIG(raw)

    def vanish(self) -> None:
        """As when the window is closed."""
        os.close(self.master)
        self.master = -1

    def close(self) -> None:
        if self.master >= 0:
            os.close(self.master)
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
