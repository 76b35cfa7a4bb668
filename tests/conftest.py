from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from .harness import sandbox as harness
from .harness.environments import Environment, environment, write_wheel
from .harness.interpreters import DEFAULT
from .harness.sandbox import Sandbox

TINY = """
import tinydep

def pytest_report_header(config):
    return "tiny with " + tinydep.WORD
"""

# Many plugins load these. In an environment where none does, hypothesis's import loads extension
# modules that hold on to others, and is not made ahead.
PRELOADS = """
import asyncio
import concurrent.futures
import http.client
import multiprocessing.connection
import ssl
import sysconfig
import unittest.mock
import urllib.request
import zoneinfo
"""

SANDBOXES = pytest.StashKey[list[Sandbox]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference",
        action="store_true",
        help="put plain pytest in the product's place: judges the tests",
    )


def pytest_configure(config: pytest.Config) -> None:
    harness.REFERENCE = config.getoption("--reference")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What builds with cargo takes longest: it starts first, beside everything else."""
    items.sort(key=lambda item: item.get_closest_marker("installs") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if harness.REFERENCE and item.get_closest_marker("product"):
        pytest.skip("plain pytest is in the product's place")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows what the daemons wrote meanwhile."""
    report = yield
    if report.failed:
        for sandbox in item.stash.get(SANDBOXES, []):
            if sandbox.base.exists():
                report.sections.append(("daemon log", sandbox.log()[-20_000:]))
    return report


@pytest.fixture
def new_sandbox(request: pytest.FixtureRequest) -> Iterator[Callable[..., Sandbox]]:
    """For tests that need more than one, or another environment than the default one."""
    made = request.node.stash.setdefault(SANDBOXES, [])

    def make(env: Environment | None = None) -> Sandbox:
        made.append(Sandbox(env or environment()))
        return made[-1]

    yield make
    for sandbox in made:
        sandbox.close()


@pytest.fixture
def sandbox(new_sandbox: Callable[..., Sandbox]) -> Sandbox:
    """The default Python, the newest pytest, no plugin."""
    return new_sandbox()


@pytest.fixture
def own_environment(tmp_path: Path) -> Environment:
    """One that the test may change."""
    return environment().clone(tmp_path / "env")


@pytest.fixture
def own_sandbox(new_sandbox: Callable[..., Sandbox], own_environment: Environment) -> Sandbox:
    return new_sandbox(own_environment)


@pytest.fixture(scope="session")
def tiny_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The default one and in it `tiny`, a plugin that shows a word of `tinydep` in the header."""
    env = environment().clone(tmp_path_factory.mktemp("tiny") / "env")
    wheels = tmp_path_factory.mktemp("wheels")
    made = [
        write_wheel(wheels, "tinydep", "1.0", {"tinydep.py": "WORD = 'one'\n"}),
        write_wheel(wheels, "tiny", "1.0", {"tiny.py": TINY}, plugin="tiny"),
    ]
    env.install("--no-deps", "--no-index", *made)
    return env


@pytest.fixture(scope="session")
def late_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Environment]:
    """That of a Python, with hypothesis and a plugin that loads what it needs of Python."""
    wheel = write_wheel(
        tmp_path_factory.mktemp("wheel"), "preloads", "1.0", {"preloads.py": PRELOADS}, "preloads"
    )
    made: dict[str, Environment] = {}

    def make(python: str = DEFAULT) -> Environment:
        if python not in made:
            to = tmp_path_factory.mktemp("late") / "env"
            made[python] = environment(python, also="few").clone(to)
            made[python].install("--no-deps", "--no-index", wheel)
            # Not each test has such a run first.
            made[python].compile(tmp_path_factory.mktemp("empty"))
        return made[python]

    return make
