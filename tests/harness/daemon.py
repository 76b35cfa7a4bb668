"""What the daemon says of itself. The only place that knows the shape of its JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .rendezvous import PATIENCE, eventually

LEVELS = ["Z0", "P0", "Z2", "Z3"]
"""Depths of checkpoints, the shallowest first."""


@dataclass
class Checkpoint:
    level: str
    """One of `LEVELS`."""
    state: str
    """`starting`, `ready`, `replacement` or `leaving`."""
    pid: int | None
    served: int
    age: float
    standby: int | None
    """Its child that waits for the next run."""


@dataclass
class Run:
    argv: list[str]
    started: float
    checkpoint: str | None
    """The level of what served it; `None`: plain pytest."""
    why: str | None
    raw: dict[str, Any]

    @property
    def ahead(self) -> object:
        """What became of what was imported ahead: `Nothing`, `Adopted` or `{"Natural": why}`."""
        return self.raw["ahead"]


class Status:
    """The document of one daemon."""

    def __init__(self, raw: dict[str, Any]):
        self.raw = raw
        self.pid: int = raw["pid"]
        self.socket = Path(raw["socket"])
        self.checkpoints = [
            Checkpoint(
                p["level"],
                p["state"],
                p["pid"],
                p["served"],
                p["age_seconds"],
                p["standby"] and p["standby"]["pid"],
            )
            for root in raw["roots"]
            for p in root["processes"]
        ]
        self.runs = [
            Run(r["argv"], r["started"], r["checkpoint"], r["why"], r) for r in raw["runs"]
        ]
        self.runs.sort(key=lambda run: run.started)

    def ready(self, level: str) -> list[Checkpoint]:
        return [c for c in self.checkpoints if c.level == level and c.state == "ready"]

    def deepest(self) -> list[Checkpoint]:
        """Those that are ready and of which there are no deeper ones."""
        return next(filter(None, map(self.ready, reversed(LEVELS))), [])

    @property
    def pids(self) -> list[int]:
        return [self.pid, *(c.pid for c in self.checkpoints if c.pid)]

    def is_ready_for_more_like_the_last(self, level: str) -> bool:
        """Nothing is being built or about to be, and what the last run made the daemon build is
        there."""
        if self._pending():
            return False
        ready = self.ready(level)
        last = self.runs[-1] if self.runs else None
        if last is not None and last.checkpoint is None:
            since = time.time() - last.started
            ready = [c for c in ready if c.age < since]
        return bool(ready)

    def _unprepared(self) -> list[dict[str, Any]]:
        return [shape for root in self.raw["roots"] for shape in root["unprepared"]]

    def _pending(self) -> bool:
        is_building = any(c.state not in ("ready", "leaving") for c in self.checkpoints)
        wanted = (shape["why"].startswith("not prepared yet") for shape in self._unprepared())
        return is_building or any(wanted)

    @property
    def given_up(self) -> list[str]:
        """Why the daemon does not even try to get something ready."""
        failed = [root for root in self.raw["roots"] if root["state"] == "failed"]
        if not self._pending():
            # Without a deeper one there is the P0.
            failed += [shape for shape in self._unprepared() if shape["level"] == "P0"]
        return [f"{what['why']}\n{what['output'] or ''}" for what in failed]

    def __str__(self) -> str:
        return json.dumps(self.raw, indent=1)


class Daemon:
    """`pyseidon-daemon` in one directory with one environment."""

    def __init__(self, program: Path, cwd: Path, env: dict[str, str]):
        self.program = program
        self.cwd = cwd
        self.env = env

    def command(
        self, *arguments: str, env: dict[str, str | None] | None = None, timeout: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        merged = {**self.env, **(env or {})}
        return subprocess.run(
            [str(self.program), *arguments],
            cwd=self.cwd,
            env={k: v for k, v in merged.items() if v is not None},
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
            check=False,
        )

    def all(self) -> list[Status]:
        """One for each daemon of the project, that of the latest run last."""
        done = self.command("status", "--json")
        try:
            found = [Status(document) for document in json.loads(done.stdout)]
        except ValueError:
            raise AssertionError(f"`status --json` said {done.stdout!r} {done.stderr!r}") from None
        return sorted(found, key=lambda status: status.runs[-1].started if status.runs else 0)

    def status(self) -> Status:
        found = self.all()
        assert found, "no daemon runs"
        return found[-1]

    def until_ready(self, level: str = "P0") -> Status:
        """Waits until another run with the early options of the last one finds a checkpoint of
        this level."""
        latest: list[Status] = []

        def is_ready() -> bool:
            return bool(latest) and latest[-1].is_ready_for_more_like_the_last(level)

        def is_over() -> bool:
            latest[:] = self.all()
            return is_ready() or bool(latest and latest[-1].given_up)

        try:
            eventually(is_over, f"a {level} that is ready")
            # Of the same answer: in the next one a replacement may have begun.
            if not is_ready():
                raise TimeoutError("the daemon has given up: " + "\n".join(latest[-1].given_up))
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{latest[-1] if latest else 'no daemon'}") from None
        return latest[-1]

    def last_run(self) -> Run:
        status = self.status()
        assert status.runs, f"the daemon knows of no run\n{status}"
        return status.runs[-1]

    def stop(self) -> None:
        done = self.command("stop")
        assert done.returncode == 0, f"`stop` ended with {done.returncode}: {done.stderr}"


def processes_with(text: str) -> list[int]:
    """The processes whose environment (at their start) holds this text."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if text.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def end_processes_with(text: str) -> None:
    """Ends what a sandbox has left behind: by number, and only its own."""

    def none_left() -> bool:
        left = processes_with(text)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    eventually(none_left, f"an end of the processes of `{text}`", timeout=10)
