"""The same as plain pytest: every project under `fixtures/`, each way it is run.

Status, stdout, stderr and all files written are compared; plain pytest is run beside, so nothing
is expected that was typed by hand. The first run of a project meets no daemon, the second one is
served by the checkpoint that was built meanwhile: P0, parked inside pytest.
"""

from __future__ import annotations

from typing import Callable

import pytest

from .harness.environments import PYTESTS, newest_pytest
from .harness.interpreters import DEFAULT, interpreters
from .harness.outcome import Outcome, assert_same
from .harness.projects import Project, load
from .harness.sandbox import Sandbox

PROJECTS = {project.name: project for project in load()}
NewSandbox = Callable[..., Sandbox]


def without(outcome: Outcome, ignored: tuple[str, ...]) -> Outcome:
    """That these files are there is compared, their content is not."""
    for name in outcome.files:
        if name.startswith(ignored):
            outcome.files[name] = "(there)"
    return outcome


def compare(sandbox: Sandbox, project: Project, arguments: tuple[str, ...]) -> None:
    ignored = project.ignore_files
    plain = without(sandbox.plain(*arguments), ignored)
    first = without(sandbox.first(*arguments), ignored)
    assert_same(plain, first, "the first run", project.unordered)
    # No P0 is built for what only informs.
    depth = "Z0" if "--help" in arguments else "P0"
    sandbox.until_ready(depth)
    warm = without(sandbox.warm(*arguments, at=depth), ignored)
    assert_same(plain, warm, "the warm run", project.unordered)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param(name, arguments, id=f"{name}: {' '.join(arguments)}")
        for name, project in PROJECTS.items()
        for arguments in project.runs
    ],
)
def test_every_run_of_every_project(
    new_sandbox: NewSandbox, name: str, arguments: tuple[str, ...]
) -> None:
    project = PROJECTS[name]
    sandbox = new_sandbox(project.in_environment())
    sandbox.copy(project.directory)
    compare(sandbox, project, arguments)


# Plugins differ little between Pythons: one project that uses them all, on the ends of the range.
ENDS = {
    min(interpreters(), key=lambda v: int(v[2:])),
    max(interpreters(), key=lambda v: int(v[2:])),
}


@pytest.mark.parametrize(
    ("python", "name"),
    [
        (python, name)
        for python in interpreters()
        if python != DEFAULT
        for name, project in PROJECTS.items()
        if not project.environment or (name == "many_plugins" and python in ENDS)
    ],
)
def test_every_python(new_sandbox: NewSandbox, python: str, name: str) -> None:
    project = PROJECTS[name]
    sandbox = new_sandbox(project.in_environment(python))
    sandbox.copy(project.directory)
    compare(sandbox, project, project.runs[0])


@pytest.mark.parametrize(
    "name", ["outcomes", "nested_conftests", "ini_pyproject", "warnings_shown"]
)
@pytest.mark.parametrize("version", [v for v in PYTESTS if v != newest_pytest(DEFAULT)])
def test_every_pytest(new_sandbox: NewSandbox, version: str, name: str) -> None:
    project = PROJECTS[name]
    sandbox = new_sandbox(project.in_environment(pytest=version))
    sandbox.copy(project.directory)
    compare(sandbox, project, project.runs[0])


@pytest.mark.parametrize("warmed", [False, True], ids=["no daemon yet", "warm"])
def test_ten_at_once(sandbox: Sandbox, warmed: bool) -> None:
    """Each with its own arguments, environment and output."""
    sandbox.write(
        "test_many.py",
        """
        import os

        import pytest

        @pytest.mark.parametrize("number", range(10))
        def test_number(number):
            print("number", number, os.environ["NUMBER"], os.getcwd())
            assert int(os.environ["NUMBER"]) == number
        """,
    )

    def run_all(program: object) -> list[Outcome]:
        # The cache directory is left out: ten plain runs would write it at once, too.
        runs = [
            sandbox.start(
                program,  # type: ignore[arg-type]
                "-p",
                "no:cacheprovider",
                "-rA",
                "-k",
                f"test_number and {number}",
                env={"NUMBER": str(number), "PYTHONDONTWRITEBYTECODE": "1"},
            )
            for number in range(10)
        ]
        return [sandbox.finish(run) for run in runs]

    if warmed:
        sandbox.warm_up("-p", "no:cacheprovider", env={"PYTHONDONTWRITEBYTECODE": "1"})
    plain = run_all(sandbox.pytest)
    for number, (want, got) in enumerate(zip(plain, run_all(sandbox.pyseidon))):
        assert_same(want, got, f"run {number} of ten")
        assert want.status == 0, want
    if warmed:
        sandbox.assert_served("P0")
