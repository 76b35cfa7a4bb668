"""What has to see the code being executed: coverage, at every place where it can be asked for."""

from __future__ import annotations

import pytest

from .harness.environments import Environment, environment
from .harness.sandbox import Sandbox

SHOP = """
def price(count):
    if count > 3:
        return count * 2 - 1
    return count * 2


def never():
    return None
"""


@pytest.fixture
def measured(new_sandbox) -> Sandbox:
    """A project whose conftest imports what is measured, before and after it was warm."""
    sandbox = new_sandbox(environment(also="few"))
    write_project(sandbox)
    sandbox.warm_up("test_a.py")
    return sandbox


def write_project(sandbox: Sandbox) -> None:
    sandbox.write("shop.py", SHOP)
    sandbox.write("conftest.py", "import shop\n")
    sandbox.write("test_a.py", "import shop\n\ndef test_a():\n    assert shop.price(2) == 4\n")


# Those that do not tell the time.
REPORTS = ("--cov-report=term-missing", "--cov-report=lcov", "--cov-report=annotate")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--cov",),
        ("--cov=shop",),
        ("--cov=shop", "--cov-branch"),
        ("--cov=.", "--cov-context=test"),
        ("--cov=shop", "--cov-append"),
        ("--no-cov", "--cov=shop"),
    ],
    ids=" ".join,
)
def test_on_the_command_line(measured: Sandbox, arguments: tuple[str, ...]) -> None:
    plain = measured.same("test_a.py", *arguments, *REPORTS)
    assert ("Missing" in plain.stdout) is ("--no-cov" not in arguments)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytest.ini", "[pytest]\naddopts = --cov=shop --cov-report=term-missing\n"),
        ("pyproject.toml", '[tool.pytest.ini_options]\naddopts = "--cov --cov-report=term"\n'),
    ],
)
def test_in_the_settings(measured: Sandbox, name: str, text: str) -> None:
    measured.write(name, text)
    measured.same_at_once("test_a.py")
    plain = measured.same("test_a.py")
    assert "shop.py" in plain.stdout


def test_with_settings_of_its_own(measured: Sandbox) -> None:
    measured.write(".coveragerc", "[run]\nbranch = true\nomit = conftest.py\n")
    plain = measured.same("test_a.py", "--cov", "--cov-report=term-missing")
    assert "Branch" in plain.stdout and "conftest.py" not in plain.stdout


@pytest.mark.parametrize("core", ["ctrace", "pytrace"])
def test_by_every_means(measured: Sandbox, core: str) -> None:
    measured.same("test_a.py", "--cov=shop", *REPORTS, env={"COVERAGE_CORE": core})


def test_by_monitoring(new_sandbox) -> None:
    """Since Python 3.12: no trace function is set."""
    sandbox = new_sandbox(newer())
    write_project(sandbox)
    sandbox.warm_up("test_a.py")
    plain = sandbox.same("test_a.py", "--cov=shop", *REPORTS, env={"COVERAGE_CORE": "sysmon"})
    assert "shop.py" in plain.stdout


def newer() -> Environment:
    return environment(python="3.13", also="few")
