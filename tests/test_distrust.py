"""`pyseidon-daemon distrust`: modules that each run imports itself, because the user says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .harness.environments import Environment, write_wheel
from .harness.outcome import assert_same
from .harness.rendezvous import Process
from .harness.sandbox import Sandbox

pytestmark = pytest.mark.product

NOT_RUNNING = 3
WRONG_USAGE = 2

# Which process imported it. Through C code, so that a build cannot see that it was asked for.
STATE = "import functools\nimport os\n\nPROCESS = functools.partial(os.getpid)()\n"

TEST = """
    import os

    from {module} import PROCESS

    def test_a():
        assert PROCESS == os.getpid()
    """


@pytest.fixture
def project(sandbox: Sandbox) -> Sandbox:
    sandbox.write("pytest.ini", "[pytest]\n")
    sandbox.write("app/__init__.py", "")
    sandbox.write("app/state.py", STATE)
    sandbox.write("conftest.py", "import app.state\n")
    sandbox.write("test_a.py", TEST.format(module="app.state"))
    return sandbox


def distrust(sandbox: Sandbox, *arguments: str) -> str:
    done = sandbox.daemon.command("distrust", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def assert_natural(sandbox: Sandbox, at: str) -> None:
    """Runs are as plain ones are, and served at exactly this depth."""
    plain = sandbox.plain()
    assert plain.status == 0, plain
    sandbox.until_ready(at)
    for _ in range(2):
        assert_same(plain, sandbox.warm(at=at))
        assert sandbox.last_run().checkpoint == at


@pytest.mark.parametrize("name", ["app.state", "app"])
def test_no_z2_holds_it(project: Sandbox, name: str) -> None:
    project.warm_up(depth="Z2")
    # Not seen by the build: what the command is for.
    assert project.warm(at="Z2").status == 1
    assert f"`{name}` is distrusted: each run" in distrust(project, name)
    assert_natural(project, "P0")
    # (Each run leaves byte code beside what it imports, and then another try is made.)
    [root] = project.daemon.until_ready("P0").raw["roots"]
    [missing] = root["unprepared"]
    assert missing["level"] == "Z2"
    assert missing["why"].startswith("`app")
    assert f"`{name}`" in missing["why"]
    assert "is distrusted" in missing["why"]
    text = project.daemon.command("status").stdout
    assert f"  distrust {name}: each run imports that itself\n" in text
    text = project.daemon.command("explain").stdout
    assert f"    {name}  distrusted: each run imports it itself\n" in text
    assert f"Z0 dropped: `{name}` is distrusted; with it P0, Z2\n" in text


def test_what_only_begins_like_it_is_held(project: Sandbox) -> None:
    project.first()
    distrust(project, "app.stat")
    distrust(project, "ap")
    project.until_ready("Z2")
    assert project.warm(at="Z2").status == 1


def test_those_that_hold_it_go_at_once(project: Sandbox) -> None:
    project.warm_up(depth="Z2")
    pids = [it.pid for it in project.daemon.status().checkpoints if it.pid]
    processes = [Process(pid) for pid in pids]
    distrust(project, "app.state")
    for process in processes:
        with process:
            process.wait_gone()
    # However early the next run comes.
    assert project.first().status == 0


def test_it_outlives_the_daemon_and_can_be_undone(project: Sandbox) -> None:
    project.warm_up(depth="Z2")
    distrust(project, "app.state")
    project.daemon.stop()
    project.warm_up()
    assert_natural(project, "P0")
    assert distrust(project) == "app.state\n"
    assert distrust(project, "app.state") == "`app.state` is distrusted already\n"
    assert "not distrusted any more" in distrust(project, "app.state", "--undo")
    assert distrust(project) == "no module is distrusted\n"
    assert distrust(project, "--undo", "app.state") == "`app.state` was not distrusted\n"
    project.until_ready("Z2")
    project.warm(at="Z2")


def test_a_p0_ends_before_the_plugin_that_imports_it(
    new_sandbox: Any, own_environment: Environment, tmp_path: Path
) -> None:
    wheels = [
        write_wheel(tmp_path, "statedep", "1.0", {"statedep.py": STATE}),
        write_wheel(tmp_path, "stately", "1.0", {"stately.py": "import statedep\n"}, "stately"),
    ]
    own_environment.install("--no-deps", "--no-index", *wheels)
    sandbox = new_sandbox(own_environment)
    sandbox.write("test_a.py", TEST.format(module="statedep"))
    sandbox.warm_up()
    assert sandbox.warm().status == 1
    distrust(sandbox, "statedep")
    assert_natural(sandbox, "P0")
    text = sandbox.daemon.command("explain").stdout
    expected = "each run loads `stately` and what follows: `statedep` is distrusted\n"
    assert f"    below P0  {expected}" in text


def test_what_every_process_holds(project: Sandbox) -> None:
    """Nothing can be kept then, and pytest is what is run."""
    project.warm_up()
    distrust(project, "argparse")
    plain = project.plain()
    for _ in range(2):
        assert_same(plain, project.first())
        assert project.last_run().checkpoint is None
    distrust(project, "--undo", "argparse")
    project.until_ready()
    project.warm()


def test_wrong_usage(project: Sandbox) -> None:
    for arguments in (["app/state.py"], ["a-b"], ["--undo"]):
        done = project.daemon.command("distrust", *arguments)
        assert (done.returncode, done.stdout) == (WRONG_USAGE, "")
    assert "hint: " in project.daemon.command("distrust", "a-b").stderr


def test_nothing_runs(project: Sandbox) -> None:
    done = project.daemon.command("distrust", "app")
    assert (done.returncode, done.stdout) == (NOT_RUNNING, "")
    assert f"`{project.project}`\n\nhint: `pyseidon-daemon start`" in done.stderr
