"""One home, one project, one daemon."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Callable

from .daemon import LEVELS, Daemon, Run, end_processes_with
from .environments import Environment
from .outcome import Outcome, assert_same
from .rendezvous import BEACON, PATIENCE, Rendezvous
from .terminal import Terminal
from .tree import Tree

# Judges the tests themselves: plain pytest in the product's place must pass all of them, but
# those about the daemon. Set by `--reference`.
REFERENCE = False


class Sandbox:
    def __init__(self, environment: Environment):
        self.environment = environment
        # Short: the path of a socket has at most 107 bytes.
        self.base = Path(tempfile.mkdtemp(prefix="psd-"))
        self.project = self.base / "project"
        self.home = self.base / "home"
        self.tmp = self.base / "tmp"
        self.runtime = self.base / "run"
        self.cache = self.base / "cache"
        for directory in (self.project, self.home, self.tmp, self.runtime, self.cache):
            directory.mkdir(mode=0o700)
        self.rendezvous = Rendezvous(self.base)
        self.env: dict[str, str] = {
            "PATH": f"{environment.bin}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.home),
            "TMPDIR": str(self.tmp),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_CACHE_HOME": str(self.cache),
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            # Said aloud, as these tests also run in continuous integration.
            "PYSEIDON": "1",
            # A daemon that a test has lost sight of goes by itself.
            "PYSEIDON_IDLE_TIMEOUT": "120",
            **self.rendezvous.environ,
        }
        if "LD_LIBRARY_PATH" in os.environ:
            self.env["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        self.running: list[subprocess.Popen[bytes]] = []

    # ------------------------------------------------------------------ files

    def write(self, name: str, text: str | bytes = "") -> Path:
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(text, bytes):
            path.write_bytes(text)
        else:
            path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        return path

    def write_beacon(self) -> None:
        self.write("beacon.py", BEACON)

    def copy(self, fixture: Path) -> None:
        skip = shutil.ignore_patterns("about.toml", "__pycache__", ".pytest_cache")
        shutil.copytree(fixture, self.project, symlinks=True, dirs_exist_ok=True, ignore=skip)

    # ------------------------------------------------------------------- runs

    @property
    def pytest(self) -> Path:
        return self.environment.bin / "pytest"

    @property
    def pyseidon(self) -> Path:
        return self.pytest if REFERENCE else self.environment.bin / "pyseidon-test"

    @property
    def daemon(self) -> Daemon:
        return Daemon(self.environment.bin / "pyseidon-daemon", self.project, self.env)

    def environ(self, env: dict[str, str | None] | None = None) -> dict[str, str]:
        """The sandbox's own environment with changes: `None` takes a name away."""
        return {k: v for k, v in {**self.env, **(env or {})}.items() if v is not None}

    def start(
        self,
        program: Path,
        *arguments: str,
        env: dict[str, str | None] | None = None,
        cwd: Path | None = None,
        before: Callable[[], object] | None = None,
        **options: object,
    ) -> subprocess.Popen[bytes]:
        """Starts a run as a shell would: in its own process group, signals as at login.
        `before` is called in the child right before the program."""

        def prepare() -> None:
            if os.getsid(0) != os.getpid():
                os.setpgid(0, 0)
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            if before:
                before()

        streams = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        process = subprocess.Popen(
            [str(program), *arguments],
            cwd=cwd or self.project,
            env=self.environ(env),
            preexec_fn=prepare,
            **{**streams, **options},  # type: ignore[arg-type]
        )
        self.running.append(process)
        return process

    def finish(
        self, process: subprocess.Popen[bytes], input: bytes | None = None, timeout: float = 60
    ) -> Outcome:
        try:
            out, err = process.communicate(input, timeout)
        except subprocess.TimeoutExpired as error:
            process.kill()
            said = (error.stdout or b"") + (error.stderr or b"")
            raise AssertionError(
                f"{process.args} did not end in {timeout} s, or its output stayed open: {said!r}"
            ) from None
        self.running.remove(process)
        return Outcome(
            command=[str(word) for word in process.args],  # type: ignore[union-attr]
            status=process.returncode,
            stdout=(out or b"").decode("utf-8", "backslashreplace"),
            stderr=(err or b"").decode("utf-8", "backslashreplace"),
            pid=process.pid,
        )

    def run(
        self, program: Path, *arguments: str, input: bytes | None = None, **how: object
    ) -> Outcome:
        """One run to its end, with the files that it wrote; they are taken away again."""
        tree = Tree(self.project)
        if input is not None:
            how["stdin"] = subprocess.PIPE
        outcome = self.finish(self.start(program, *arguments, **how), input)  # type: ignore[arg-type]
        outcome.files = tree.changes()
        tree.restore()
        for left in self.tmp.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        return outcome

    def plain(self, *arguments: str, **how: object) -> Outcome:
        return self.run(self.pytest, *arguments, **how)  # type: ignore[arg-type]

    def warm(self, *arguments: str, at: str | None = "P0", **how: object) -> Outcome:
        """A run of pyseidon-test that has to be served by a checkpoint of this depth, or a deeper
        one."""
        outcome = self.run(self.pyseidon, *arguments, **how)  # type: ignore[arg-type]
        self.assert_served(at, outcome)
        return outcome

    def first(self, *arguments: str, **how: object) -> Outcome:
        """A run of pyseidon-test, however it is served."""
        return self.run(self.pyseidon, *arguments, **how)  # type: ignore[arg-type]

    def warm_up(self, *arguments: str, depth: str = "P0", **how: object) -> Outcome:
        """A first run, and all that follows from it in the background."""
        outcome = self.first(*arguments, **how)
        self.until_ready(depth)
        return outcome

    def until_ready(self, depth: str = "P0") -> None:
        if not REFERENCE:
            self.daemon.until_ready(depth)

    def last_run(self) -> Run:
        return self.daemon.last_run()

    def assert_served(self, at: str | None, outcome: Outcome | str = "") -> None:
        """The last run was served at this depth or deeper; `None`: by plain pytest. Without this a
        test could pass by falling back."""
        if REFERENCE:
            return
        run = self.last_run()
        deep_enough = [None] if at is None else LEVELS[LEVELS.index(at) :]
        assert run.checkpoint in deep_enough, (
            f"served by {run.checkpoint or 'plain pytest'}, not {at}: {run.why}\n{outcome}"
        )

    def same(
        self,
        *arguments: str,
        at: str | None = "P0",
        unordered: bool = False,
        **how: object,
    ) -> Outcome:
        """Plain pytest, a first pyseidon-test, and a warm one: the same in everything. Answers
        plain pytest's outcome, for what a test wants to say of it."""
        plain = self.plain(*arguments, **how)
        assert_same(plain, self.first(*arguments, **how), "the first run", unordered)
        self.until_ready(at or "Z0")
        assert_same(plain, self.warm(*arguments, at=at, **how), "the warm run", unordered)
        return plain

    def same_warm(
        self, *arguments: str, at: str | None = "P0", unordered: bool = False, **how: object
    ) -> Outcome:
        """The same, after a `warm_up` with the same early options."""
        plain = self.plain(*arguments, **how)
        warm = self.warm(*arguments, at=at, **how)
        assert_same(plain, warm, "the warm run", unordered)
        return plain

    def same_at_once(self, *arguments: str, unordered: bool = False, **how: object) -> Outcome:
        """The same, however it is served, right after something has changed: pyseidon-test goes
        first, so that it has no more time than the next command of an impatient user leaves it."""
        first = self.first(*arguments, **how)
        plain = self.plain(*arguments, **how)
        assert_same(plain, first, "the run right after a change", unordered)
        return plain

    def terminal(
        self,
        program: Path,
        *arguments: str,
        env: dict[str, str | None] | None = None,
        rows: int = 24,
        columns: int = 80,
    ) -> Terminal:
        command = [str(program), *arguments]
        return Terminal(command, self.project, self.environ(env), rows, columns)

    # -------------------------------------------------------------------- end

    def log(self) -> str:
        logs: Sequence[Path] = sorted(self.cache.glob("pyseidon/*.log"))
        return "\n".join(f"[{log.name}]\n{log.read_text(errors='replace')}" for log in logs)

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.wait(PATIENCE)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()
        end_processes_with(str(self.runtime))
        self.rendezvous.close()
        for here, directories, _ in os.walk(self.base):
            for name in directories:
                path = Path(here, name)
                if not path.is_symlink():
                    path.chmod(0o700)
        shutil.rmtree(self.base, ignore_errors=True)
