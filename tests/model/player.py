"""Plays a scenario in a sandbox: by plain pytest and by a subject, and compares each run."""

from __future__ import annotations

import mmap
import os
import re
import shutil
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from ..harness.daemon import Daemon, Status
from ..harness.environments import Environment, environment, write_wheel
from ..harness.outcome import Outcome, assert_same
from ..harness.rendezvous import eventually
from ..harness.sandbox import Sandbox
from ..harness.tree import Tree
from .project import WIDELIB, WIDEPLUG
from .scenario import SITE, Change, Run, Scenario


@dataclass(frozen=True)
class Failure:
    step: int
    """Which one, counted from 0."""
    text: str


@dataclass
class Played:
    failure: Failure | None = None
    levels: Counter[str] = field(default_factory=Counter)
    """How often each checkpoint's level has served; `plain` where none did."""
    steps: int = 0


def model_environment(to: Path) -> Environment:
    """pytest, a package that projects import, and a plugin."""
    env = environment().clone(to)
    made = [
        write_wheel(to / "wheels", "widelib", "1.0", WIDELIB),
        write_wheel(to / "wheels", "wideplug", "1.0", WIDEPLUG, plugin="wideplug"),
    ]
    env.install("--no-deps", "--no-index", *made)
    return env


def play(
    scenario: Scenario, env: Environment, subject: Callable[[Sandbox], Path] | None = None
) -> Played:
    """Ends at the first step in which the subject differs. `subject` makes another program for the
    place of pyseidon-test."""
    sandbox = Sandbox(env)
    try:
        if scenario.changes_environment:
            sandbox.environment = env.clone(sandbox.base / "env")
            path = sandbox.env["PATH"].partition(os.pathsep)[2]
            sandbox.env["PATH"] = f"{sandbox.environment.bin}{os.pathsep}{path}"
        return Player(sandbox, scenario, subject and subject(sandbox)).play()
    finally:
        sandbox.close()


class Player:
    def __init__(self, sandbox: Sandbox, scenario: Scenario, subject: Path | None):
        self.sandbox = sandbox
        self.scenario = scenario
        self.subject = subject or sandbox.pyseidon
        self.asks_daemon = self.subject.name == "pyseidon-test"
        self.played = Played()
        self.trees = [sandbox.project]
        if scenario.changes_environment:
            self.trees.append(sandbox.environment.site_packages)
        self.last: Run | None = None

    def play(self) -> Played:
        for change in self.scenario.files:
            self.apply(change)
        for number, step in enumerate(self.scenario.steps):
            try:
                self.settle(step.run.wait == "before")
                for change in step.changes:
                    self.apply(change)
                self.settle(step.run.wait == "after")
                self.compare(step.run)
            except AssertionError as error:
                log = f"\n[daemon log]\n{self.sandbox.log()[-3000:]}" if self.asks_daemon else ""
                self.played.failure = Failure(number, f"{error}{log}")
                break
            finally:
                self.played.steps += 1
        return self.played

    # ------------------------------------------------------------------- runs

    def compare(self, run: Run) -> None:
        if run.plain_first:
            plain = self.run(self.sandbox.pytest, run, keep=False)
            subject = self.run(self.subject, run, keep=run.keep)
        else:
            subject = self.run(self.subject, run, keep=False)
            plain = self.run(self.sandbox.pytest, run, keep=run.keep)
        assert_same(plain, subject)
        self.last = run
        if self.asks_daemon:
            self.played.levels[self.level(run)] += 1

    def run(self, program: Path, run: Run, keep: bool) -> Outcome:
        """One run to its end. What it wrote is compared, and stays only if asked: both runs of a
        step begin with the same files."""
        sandbox = self.sandbox
        (sandbox.base / "stamp").touch()
        trees = [Tree(root) for root in self.trees]
        process = sandbox.start(program, *run.argv, env=dict(run.env), cwd=self.directory(run))
        outcome = sandbox.finish(process)
        outcome.stdout = re.sub(r"(cache from )[\d:]+", r"\1TIME", outcome.stdout)
        for tree in trees:
            for name, content in tree.changes().items():
                outcome.files[f"{tree.root.name}/{name}"] = _timeless(content)
            if not keep:
                tree.restore()
        for left in sandbox.tmp.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        return outcome

    def directory(self, run: Run) -> Path:
        path = self.sandbox.project / run.cwd
        return path if path.is_dir() else self.sandbox.project

    def daemon(self, run: Run) -> Daemon:
        """Which project it is for depends on where the run was started."""
        daemon = self.sandbox.daemon
        daemon.cwd = self.directory(run)
        return daemon

    def settle(self, now: bool) -> None:
        """Waits until nothing is left to build: all is there, or cannot be built."""
        if not (now and self.last and self.asks_daemon):
            return
        daemon = self.daemon(self.last)
        latest: list[Status] = []

        def is_settled() -> bool:
            latest[:] = daemon.all()
            return not any(map(_is_building, latest))

        try:
            eventually(is_settled, "a daemon that has nothing left to build")
        except TimeoutError as error:
            raise AssertionError("\n".join([str(error), *map(str, latest)])) from None

    def level(self, run: Run) -> str:
        found = self.daemon(run).all()
        runs = found[-1].runs if found else []
        if not runs or runs[-1].argv != list(run.argv):
            return "unknown"
        return runs[-1].checkpoint or "plain"

    # ------------------------------------------------------------------- changes

    def place(self, path: str) -> Path:
        if path.startswith(SITE):
            return self.sandbox.environment.site_packages / path[len(SITE) :]
        return self.sandbox.project / path

    def apply(self, change: Change) -> None:
        path = self.place(change.path)
        # What an earlier change was to prepare may have been taken out of the scenario.
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError):
            getattr(self, f"_{change.kind}")(path, change)

    def _write(self, path: Path, change: Change) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.stat() if path.exists() else None
        data = change.text.encode()
        if change.how == "mmap" and before and data and before.st_size == len(data):
            with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
                memory[:] = data
        elif change.how == "rename":
            new = path.with_name(f".{path.name}.new")
            new.write_bytes(data)
            new.replace(path)
        else:
            if change.how == "anew":
                path.unlink(missing_ok=True)
            path.write_bytes(data)
        if before and change.time != "now":
            os.utime(path, ns=(time.time_ns(), _modified(change.time, before.st_mtime_ns)))

    def _remove(self, path: Path, change: Change) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def _move(self, path: Path, change: Change) -> None:
        to = self.place(change.to)
        if not to.exists():
            path.rename(to)

    def _copy(self, path: Path, change: Change) -> None:
        to = self.place(change.to)
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.resolve() != to.resolve():
            shutil.copy2(path, to)

    def _link(self, path: Path, change: Change) -> None:
        to = self.place(change.to)
        if path.is_file() and to.is_file():
            new = path.with_name(f".{path.name}.new")
            new.symlink_to(os.path.relpath(to, path.parent))
            new.replace(path)

    def _touch(self, path: Path, change: Change) -> None:
        os.utime(path)

    def _compile(self, path: Path, change: Change) -> None:
        command = ["-m", "compileall", "-q", "--invalidation-mode", change.how, str(path)]
        self.sandbox.finish(self.sandbox.start(self.sandbox.environment.python, *command))

    def _install(self, path: Path, change: Change) -> None:
        files = {block.name: block.text for block in change.blocks}
        plugin = change.path if change.path in WIDEPLUG or f"{change.path}.py" in WIDEPLUG else None
        wheels = self.sandbox.base / "wheels"
        wheel = write_wheel(wheels, change.path, change.to, files, plugin)
        self.sandbox.environment.install("--no-deps", "--no-index", "--force-reinstall", wheel)


def _is_building(status: Status) -> bool:
    """Stricter than `Status.until_ready`, which wants a checkpoint for the last run: here many a
    run can have none. A shape that is `not prepared yet` without a reason has one of another shape
    that serves it; nothing is built for it."""
    roots = status.raw["roots"]
    return (
        any(c.state not in ("ready", "leaving") for c in status.checkpoints)
        or any(root["state"] == "building" for root in roots)
        or any(root["state"] == "waiting" and root["why"] for root in roots)
        or any(
            shape["why"].startswith("not prepared yet:")
            for root in roots
            for shape in root["unprepared"]
        )
    )


def _timeless(content: bytes | str | None) -> bytes | str | None:
    """`--sw` writes down the time, which `outcome` does not expect in a file."""
    if isinstance(content, bytes) and b"last_cache_date_str" in content:
        return re.sub(rb'("last_cache_date_str": )"[^"]*"', rb'\1"TIME"', content)
    return content


def _modified(when: str, before: int) -> int:
    second = 10**9
    return {
        "same": before,
        "second": before - before % second + (before + 12_345_678) % second,
        "old": before - 3600 * second,
        "future": time.time_ns() + 3600 * second,
    }[when]
