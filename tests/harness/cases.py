"""Cases for deep checkpoints: a project, a run that is made warm, and twists after it.

A checkpoint that has executed code of a project can be wrong in two ways: it holds what a run
would not have made (state), or what a run would make otherwise by now (inputs). So a case is played
until the daemon has built all that it learns from runs, and is then changed: each time plain pytest
says what the answer is. By what a run is served is nobody's business here, as long as it is warm.
"""

from __future__ import annotations

import os
import re
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Union

import pytest

from . import sandbox as harness
from .outcome import Outcome, assert_same
from .sandbox import Sandbox

# The whole text of a file, what replaces what in it, or `None`: it goes away.
Content = Union[str, bytes, tuple[str, str], None]


# What `imports_for` takes for modules: without a list, a variable's name could be one.
STANDARD = {
    *("asyncio", "atexit", "builtins", "configparser", "ctypes", "datetime", "decimal"),
    *("faulthandler", "fcntl", "gc", "getpass", "glob", "importlib", "io", "json", "linecache"),
    *("locale", "logging", "mmap", "multiprocessing", "os", "pathlib", "pkgutil", "random"),
    *("resource", "secrets", "select", "shutil", "signal", "socket", "sqlite3", "subprocess"),
    *("sys", "tempfile", "threading", "time", "types", "uuid", "warnings", "zipfile"),
}


@dataclass(frozen=True)
class How:
    """What a run is started with, besides its arguments."""

    env: Mapping[str, str | None] = field(default_factory=dict)
    cwd: str = ""
    """Below the project."""
    before: Callable[[], object] | None = None
    """Called in the new process before it becomes the command."""
    input: bytes | None = None


@dataclass(frozen=True)
class Twist:
    """What is different after a warm run. Files stay as they are made; arguments and `how` are
    those of this twist alone."""

    what: str
    files: Mapping[str, Content] = field(default_factory=dict)
    arguments: tuple[str, ...] | None = None
    """`None`: those of the case."""
    how: How | None = None
    act: Callable[[Sandbox], object] | None = None
    unnoticed: bool = False
    """Plain pytest shows the same as before. Otherwise it must not: who changes nothing that can
    be seen has tested nothing."""

    only_at_once: bool = False
    """The daemon never says of this run that all is ready for it, though it is: a directory which
    is served by what was prepared for another stays `not prepared yet`. So it comes last."""

    @property
    def is_change(self) -> bool:
        """More than another selection."""
        return bool(self.files or self.how or self.act)


@dataclass(frozen=True)
class Case:
    name: str
    files: str | Mapping[str, str]
    """By name, or one text with a line `-- name` before each file's."""
    twists: tuple[Twist, ...] = ()
    arguments: tuple[str, ...] = ("-rA",)
    """By default what tests print is shown, so that state can be compared and not only outcomes."""
    how: How = How()
    unordered: bool = False
    may_be_named: bool = True
    """False where naming files changes what is shown of the others."""
    is_named: bool = False
    """Runs that name no test file are played with all of them named: what the first imports may be
    in a checkpoint then."""
    warm: bool = True
    """False where no checkpoint can be built, as after some start-up code: plain pytest's runs."""


def each(cases: list[Case]) -> pytest.MarkDecorator:
    """Two tests for each case, under its name: as it is, and with test files named."""
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), f"two cases with one name: {sorted(names)}"
    named = [
        replace(case, name=f"{case.name}, named", is_named=True)
        for case in cases
        if case.may_be_named
    ]
    both = [*cases, *named]
    return pytest.mark.parametrize("case", both, ids=[case.name for case in both])


def select(*arguments: str) -> Twist:
    """The same files, another run."""
    return Twist(" ".join(arguments), arguments=("-rA", *arguments))


def below(cwd: str, *arguments: str) -> Twist:
    """From another directory."""
    what = " ".join(["below", cwd, *arguments])
    return Twist(what, arguments=("-rA", *arguments), how=How(cwd=cwd), only_at_once=True)


def edit(name: str, content: Content, unnoticed: bool = False) -> Twist:
    """The same run, another file."""
    return Twist(f"other `{name}`", {name: content}, unnoticed=unnoticed)


def files_of(text: str) -> dict[str, str]:
    files: dict[str, str] = {}
    for line in textwrap.dedent(text).strip("\n").splitlines(keepends=True):
        if line.startswith("-- "):
            name = line[3:].strip()
            files[name] = ""
        else:
            files[name] += line
    return files


def imports_for(code: str) -> str:
    """Imports of the standard modules that code in one of a case's tables speaks of."""
    words = set(re.findall(r"\b(importlib\.\w+|[a-z]\w*)(?=\.)", code))
    return "".join(f"import {word}\n" for word in sorted(words) if word.split(".")[0] in STANDARD)


def write(sandbox: Sandbox, files: Mapping[str, Content]) -> None:
    for name, content in files.items():
        path = sandbox.project / name
        if content is None:
            path.unlink()
        elif isinstance(content, tuple):
            text = path.read_text(encoding="utf-8")
            assert content[0] in text, f"`{name}` has no `{content[0]}`:\n{text}"
            path.write_text(text.replace(*content), encoding="utf-8")
        else:
            sandbox.write(name, content)


def play(sandbox: Sandbox, case: Case) -> None:
    """Warm, with all that is learned from some runs; then each twist, at once and warm again."""
    files = files_of(case.files) if isinstance(case.files, str) else case.files
    # A seed that stays: where it varies, zygotes are replaced after so and so many runs.
    sandbox.env["PYTHONHASHSEED"] = "0"
    # The file, so that pytest looks no further for a root.
    write(sandbox, {"pytest.ini": "[pytest]\n", **files})
    player = _Player(sandbox, case)
    plain = player.plain(case.arguments, case.how)
    for number in range(3):
        player.compare(plain, case.arguments, case.how, f"run {number} of {case.name}")
        player.until_ready()
    player.compare(plain, case.arguments, case.how, f"the warm run of {case.name}", warm=True)
    last = {case.arguments: plain}
    for twist in case.twists:
        write(sandbox, twist.files)
        if twist.act:
            twist.act(sandbox)
        arguments = case.arguments if twist.arguments is None else twist.arguments
        how = twist.how or case.how
        what = f"{case.name}, {twist.what}"
        # The product first: it gets no more time than an impatient user leaves it.
        at_once = player.product(arguments, how)
        plain = player.plain(arguments, how)
        assert_same(plain, at_once, f"{what}: the run at once", case.unordered)
        if twist.is_change and arguments in last:
            changed = shown(last[arguments]) != shown(plain)
            assert changed != twist.unnoticed, f"{what}: changes {changed}\n{plain}"
        last[arguments] = plain
        if twist.only_at_once:
            continue
        player.until_ready()
        for word in ("first", "second"):
            player.compare(plain, arguments, how, f"{what}: the {word} run after it", warm=True)
            player.until_ready()


def shown(outcome: Outcome) -> list[str]:
    """Without byte code: that of an edited file is always another one."""
    files = {k: v for k, v in outcome.files.items() if not k.endswith(".pyc")}
    return Outcome([], outcome.status, outcome.stdout, outcome.stderr, files).lines()


class _Player:
    def __init__(self, sandbox: Sandbox, case: Case):
        self.sandbox = sandbox
        self.unordered = case.unordered
        self.is_warm = case.warm
        self.is_named = case.is_named

    def until_ready(self) -> None:
        if self.is_warm:
            self.sandbox.until_ready()

    def run(self, program: Path, arguments: tuple[str, ...], how: How) -> Outcome:
        # For projects that ask whether something is from this run, or was done once in each.
        (self.sandbox.home / "started").write_text(repr(time.time()))
        with open(self.sandbox.home / "runs", "a") as runs:
            runs.write(".")
        cwd = self.sandbox.project / how.cwd
        if self.is_named and not any(".py" in argument for argument in arguments):
            files = sorted(self.sandbox.project.rglob("test_*.py"))
            arguments = (*arguments, *(os.path.relpath(file, cwd) for file in files))
        return self.sandbox.run(
            program,
            *arguments,
            env=dict(how.env),
            cwd=cwd,
            before=how.before,
            input=how.input,
        )

    def plain(self, arguments: tuple[str, ...], how: How) -> Outcome:
        return self.run(self.sandbox.pytest, arguments, how)

    def product(self, arguments: tuple[str, ...], how: How) -> Outcome:
        return self.run(self.sandbox.pyseidon, arguments, how)

    def compare(
        self, plain: Outcome, arguments: tuple[str, ...], how: How, what: str, warm: bool = False
    ) -> None:
        outcome = self.product(arguments, how)
        assert_same(plain, outcome, what, self.unordered)
        if warm and self.is_warm and not harness.REFERENCE:
            # At whatever depth. Without this a case could pass by plain pytest alone.
            run = self.sandbox.last_run()
            assert run.checkpoint, f"{what} was plain pytest's: {run.why}\n{outcome}"
