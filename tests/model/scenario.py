"""What is played, as plain data: it can be stored, shown, and made smaller."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace

SITE = "site:"
"""Begins a path that lies in site-packages and not in the project."""


@dataclass(frozen=True)
class Block:
    """A few lines of a file. By its name it is known in all versions of the file, so that it can
    be taken out of all of them."""

    name: str
    text: str


@dataclass(frozen=True)
class Change:
    """One thing that happens to the tree. What has no place there any more (its file is gone) does
    nothing: a scenario out of which something was taken can still be played."""

    kind: str
    """`write`, `remove`, `move`, `copy`, `link`, `touch`, `compile` or `install`."""
    path: str
    blocks: tuple[Block, ...] = ()
    to: str = ""
    """Where to, for `move`, `copy` and `link`; the version, for `install`."""
    how: str = "in place"
    """`in place`, `rename`, `anew` or `mmap`."""
    time: str = "now"
    """The modification time that a written file gets: `now`, `same` (as before), `second` (within
    the second of before), `old`, `future`."""

    @property
    def text(self) -> str:
        return "".join(block.text for block in self.blocks)


@dataclass(frozen=True)
class Run:
    argv: tuple[str, ...] = ()
    cwd: str = ""
    env: tuple[tuple[str, str], ...] = ()
    wait: str = "before"
    """When the daemon is given time to build all that it wants: `before` the changes (so that they
    meet checkpoints, and the run comes right after them), `after` them, or `never`."""
    plain_first: bool = False
    keep: bool = False
    """What the second run wrote stays: byte code, pytest's cache."""


@dataclass(frozen=True)
class Step:
    changes: tuple[Change, ...]
    run: Run


@dataclass(frozen=True)
class Scenario:
    seed: int
    files: tuple[Change, ...]
    steps: tuple[Step, ...]
    kinds: frozenset[str] = field(default=frozenset(), compare=False)
    """What the generator drew: for the test that it draws everything."""

    # ----------------------------------------------------------------- parts

    def changes(self) -> Iterator[Change]:
        yield from self.files
        for step in self.steps:
            yield from step.changes

    def blocks(self) -> list[tuple[str, str]]:
        """Path and name of every block, once."""
        found = {(c.path, block.name): None for c in self.changes() for block in c.blocks}
        return list(found)

    def without_blocks(self, unwanted: set[tuple[str, str]]) -> Scenario:
        def less(change: Change) -> Change:
            left = tuple(b for b in change.blocks if (change.path, b.name) not in unwanted)
            return replace(change, blocks=left)

        return replace(
            self,
            files=tuple(map(less, self.files)),
            steps=tuple(replace(s, changes=tuple(map(less, s.changes))) for s in self.steps),
        )

    @property
    def changes_environment(self) -> bool:
        return any(
            change.kind == "install" or change.path.startswith(SITE) for change in self.changes()
        )

    # ----------------------------------------------------------------- texts

    def dump(self) -> str:
        document = asdict(self)
        del document["kinds"]
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def load(cls, text: str) -> Scenario:
        document = json.loads(text)

        def change(raw: dict) -> Change:
            return Change(**{**raw, "blocks": tuple(Block(**block) for block in raw["blocks"])})

        def run(raw: dict) -> Run:
            env = tuple((name, value) for name, value in raw["env"])
            return Run(**{**raw, "argv": tuple(raw["argv"]), "env": env})

        return cls(
            seed=document["seed"],
            files=tuple(map(change, document["files"])),
            steps=tuple(
                Step(tuple(map(change, raw["changes"])), run(raw["run"]))
                for raw in document["steps"]
            ),
        )

    def __str__(self) -> str:
        lines = [f"seed {self.seed}, before the first run:"]
        for change in self.files:
            lines += _lines(change)
        for number, step in enumerate(self.steps, 1):
            lines.append(f"step {number}:")
            for change in step.changes:
                lines += _lines(change)
            lines.append(f"  {_run(step.run)}")
        return "\n".join(lines)


def _lines(change: Change) -> list[str]:
    words = [change.kind, f"`{change.path}`"]
    if change.to:
        words.append(f"to `{change.to}`")
    if change.kind == "write":
        words.append(f"({change.how}, time: {change.time})")
    return ["  " + " ".join(words)] + [f"      | {line}" for line in change.text.splitlines()]


def _run(run: Run) -> str:
    words = [f"{name}={value}" for name, value in run.env] + ["pytest", *run.argv]
    notes = [f"all is built {run.wait} the changes" if run.wait != "never" else "nothing awaited"]
    notes.append("plain first" if run.plain_first else "plain afterwards")
    if run.keep:
        notes.append("its files stay")
    if run.cwd:
        notes.insert(0, f"in `{run.cwd}`")
    return f"$ {' '.join(words)}    ({', '.join(notes)})"
