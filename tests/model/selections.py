"""What is run, from where, in which environment: mostly the same again, as people do."""

from __future__ import annotations

import posixpath
import random
from dataclasses import dataclass, field

from .project import Draft
from .scenario import Run

NAMES = {
    "MODEL_A": ["one", "two", ""],
    "MODEL_B": ["b"],
    "MODEL_PLUG": ["plug"],
    "PYTHONPATH": ["app/extra", "src", "."],
    "PYTHONDONTWRITEBYTECODE": ["1"],
    "PYTHONWARNINGS": ["error::FutureWarning"],
    "PYTEST_ADDOPTS": ["-s", "-p no:warnings", "-W error::UserWarning"],
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": ["1"],
    "TZ": ["Asia/Tokyo"],
    "COLUMNS": ["120"],
    "FORCE_COLOR": ["1"],
}

MORE: tuple[tuple[str, ...], ...] = (
    ("-s",),
    ("-rA",),
    ("-v",),
    ("-x",),
    ("-q",),
    ("--lf",),
    ("--ff",),
    ("--sw",),
    ("--nf",),
    ("-W", "error"),
    ("-W", "error:::test_0"),
    ("-W", "ignore::DeprecationWarning"),
    ("-k", "state"),
    ("-k", "not state"),
    ("-p", "no:cacheprovider"),
    ("-p", "app.w0"),
    ("-p", "no:wideplug"),
    ("--import-mode=importlib",),
    ("--import-mode=append",),
    ("--collect-only", "-q"),
    ("--setup-show",),
    ("--doctest-modules",),
    ("--noconftest",),
    ("--confcutdir=tests",),
    ("--assert=plain",),
    ("--continue-on-collection-errors",),
    ("--junitxml=report.xml",),
    ("-o", "addopts="),
    ("-o", "pythonpath=src . app/extra"),
    ("-c", "pytest.ini"),
    ("--rootdir=tests",),
    ("--tb=short",),
    ("--capture=sys",),
)


@dataclass
class Selections:
    draft: Draft
    what: list[str] = field(default_factory=list)
    more: list[str] = field(default_factory=list)
    cwd: str = ""
    env: dict[str, str] = field(default_factory=dict)

    @property
    def chance(self) -> random.Random:
        return self.draft.chance

    def draw(self) -> Run:
        chance = self.chance
        if not self.what or chance.random() < 0.2:
            self.what = self._what()
        if chance.random() < 0.35:
            self.more = self._more()
        if chance.random() < (0.4 if self.cwd else 0.06):
            self.cwd = "" if self.cwd else self._directory()
        if chance.random() < 0.2:
            self._vary_environment()
        what = self.what
        if chance.random() < 0.03:
            self.draft.drawn("selection: not there")
            what = [*what, "tests/test_none.py"]
        argv = [*map(self._from_here, what), *self.more]
        return Run(
            argv=tuple(argv),
            cwd=self.cwd,
            env=tuple(sorted(self.env.items())),
            wait=chance.choices(["before", "after", "never"], [5, 3, 2])[0],
            plain_first=chance.random() < 0.4,
            keep=chance.random() < 0.4,
        )

    def _what(self) -> list[str]:
        chance = self.chance
        tests = self.draft.tests
        one = chance.choice([tests[0], chance.choice(tests)])
        kind = chance.choices(
            ["file", "test", "word", "two files", "directory", "nothing"], [10, 4, 3, 3, 2, 2]
        )[0]
        self.draft.drawn(f"selection: {kind}")
        if kind == "test":
            return [f"{one}::test_state"]
        if kind == "word":
            return [one, "-k", chance.choice(["state", "state or order", "not late"])]
        if kind == "two files":
            return chance.sample(tests, 2)
        if kind == "directory":
            return ["tests" if one.startswith("tests/") else "."]
        return [one] if kind == "file" else []

    def _more(self) -> list[str]:
        chosen = self.chance.sample(MORE, self.chance.choice([0, 0, 1, 1, 2]))
        for words in chosen:
            self.draft.drawn(f"option: {' '.join(words)}")
        return [word for words in chosen for word in words]

    def _vary_environment(self) -> None:
        chance = self.chance
        if self.env and chance.random() < 0.5:
            del self.env[chance.choice(sorted(self.env))]
            return
        names = [*NAMES, "MODEL_A", "MODEL_A", "MODEL_B", "MODEL_PLUG"]
        name = chance.choice(names)
        self.draft.drawn(f"variable: {name}")
        self.env[name] = chance.choice(NAMES[name])

    def _directory(self) -> str:
        return "tests" if "/" in self.draft.tests[0] else f"{self.draft.code}app"

    def _from_here(self, word: str) -> str:
        """The path as one types it in this directory."""
        is_path = word == "." or word.startswith(("tests", "test_"))
        return posixpath.relpath(word, self.cwd) if self.cwd and is_path else word
