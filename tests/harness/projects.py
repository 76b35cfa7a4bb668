"""What lies under `fixtures/`: small projects; their `about.toml` says what each proves."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from .environments import REPOSITORY, Environment, environment
from .interpreters import DEFAULT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FIXTURES = REPOSITORY / "fixtures"


@dataclass(frozen=True)
class Project:
    name: str
    proves: str
    runs: tuple[tuple[str, ...], ...]
    """The arguments with which it is run; the first run is the one that says most."""
    environment: str = ""
    """A file of `tests/requirements`; none: pytest alone."""
    unordered: bool = False
    """The order of lines is chance, also under plain pytest."""
    ignore_files: tuple[str, ...] = ()
    """Written files that hold random or measured values; that they are there is compared."""

    @property
    def directory(self) -> Path:
        return FIXTURES / self.name

    def in_environment(self, python: str = DEFAULT, pytest: str | None = None) -> Environment:
        if self.environment and pytest is None:
            # Several plugins do not allow pytest 9 yet.
            pytest = "8.4.2"
        return environment(python, pytest, self.environment)


def load() -> list[Project]:
    projects = []
    for about in sorted(FIXTURES.glob("*/about.toml")):
        with about.open("rb") as file:
            table = tomllib.load(file)
        table["runs"] = tuple(tuple(run) for run in table["runs"])
        table["ignore_files"] = tuple(table.get("ignore_files", ()))
        projects.append(Project(name=about.parent.name, **table))
    return projects
