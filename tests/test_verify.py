"""`pyseidon-daemon verify` and `last`: is it the tool? Real projects, the installed wheel."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from typing import Any

import pytest

from .harness.environments import Environment, environment
from .harness.sandbox import Sandbox

pytestmark = [pytest.mark.product, pytest.mark.timeout(240)]

SAME, DIFFERENT, UNJUDGED, NOTHING = 0, 1, 2, 3

# All that a run can show, and nothing that differs.
BUSY = """
import pathlib
import sys
import warnings

import pytest

TOP = (1, "two", b"three", None)

def test_passes(tmp_path):
    warnings.warn("careful")
    print("at", object(), tmp_path)
    pathlib.Path("written.txt").write_text(f"{object()} in {tmp_path}")

def test_fails(tmp_path):
    assert object() == tmp_path

@pytest.mark.xfail(reason="later")
def test_expected():
    assert 0

def test_skips():
    pytest.skip("not here")

def test_errors(unknown_fixture):
    pass
"""

# A documented limit: the parent is another process. All that follows from it is real.
IS_PLAIN = """
import os

PARENT = os.getppid()
IS_PLAIN = b"\\0verify\\0" in open(f"/proc/{PARENT}/cmdline", "rb").read()
LIST = [1] if IS_PLAIN else [1, 2]

if IS_PLAIN:
    import chunk_a, chunk_b
else:
    import chunk_b, chunk_a
    import chunk_c
"""
FOLLOWS = """
import pathlib
import warnings

from conftest import IS_PLAIN

def test_parent():
    if not IS_PLAIN:
        warnings.warn("warm")
        pathlib.Path("only_warm.txt").write_text("")
    assert IS_PLAIN
"""


def verify(
    sandbox: Sandbox, *arguments: str, env: dict[str, str | None] | None = None
) -> subprocess.CompletedProcess[str]:
    return sandbox.daemon.command("verify", *arguments, env=env, timeout=200)


def verdict(sandbox: Sandbox, *arguments: str) -> dict[str, Any]:
    done = verify(sandbox, "--json", *arguments)
    document: dict[str, Any] = json.loads(done.stdout)
    expected = {"same": SAME, "different": DIFFERENT, "unjudged": UNJUDGED}
    assert done.returncode == expected[document["verdict"]], done
    return document


def differences(document: dict[str, Any]) -> dict[str, list[str]]:
    return {it["group"]: it["differences"] for it in document["findings"] if it["differences"]}


@pytest.fixture
def project(sandbox: Sandbox) -> Sandbox:
    sandbox.write("pytest.ini", "[pytest]\n")
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    return sandbox


def assert_left_nothing(sandbox: Sandbox) -> None:
    assert not list(sandbox.tmp.glob("pyseidon-*"))


def test_no_difference_is_one_line(project: Sandbox) -> None:
    project.write("test_a.py", BUSY)
    done = verify(project, "--junitxml=report.xml", "-rA")
    assert (done.returncode, done.stderr) == (SAME, ""), done
    [line] = done.stdout.splitlines()
    assert line.startswith("no difference: exit 1, 4 tests, "), line
    assert line.endswith(" runs, served warm from Z2"), line
    assert_left_nothing(project)
    # It was the last thing that ran, and in the caller's directory.
    assert (project.project / "written.txt").exists()


def test_the_environment_may_forbid_warm_runs(project: Sandbox) -> None:
    for env in ({"PYSEIDON": "0"}, {"CI": "true", "PYSEIDON": None}):
        done = verify(project, env=env)
        assert done.returncode == SAME, done
        assert "served warm from Z2" in done.stdout


def test_runs_are_shown_when_asked_for(project: Sandbox) -> None:
    done = verify(project, "--show", "--", "-k", "test_a")
    assert done.returncode == SAME, done
    assert done.stdout.count(" passed in ") >= 5


def test_every_kind_of_difference_is_found(project: Sandbox) -> None:
    for name in "abc":
        project.write(f"chunk_{name}.py")
    project.write("conftest.py", IS_PLAIN)
    project.write("test_a.py", FOLLOWS)
    found = verdict(project)
    # The conftest asks for the process's identity, so it is in no checkpoint.
    assert found["checkpoint"] == "P0"
    told = differences(found)
    assert told["exit status"] == ["the run: plain `exit 0`, warm `exit 1`"]
    [outcome] = told["outcomes"]
    assert outcome.startswith("test_a.py::test_parent (call): plain `passed`, warm `failed`")
    [warning] = told["warnings"]
    assert "test_parent: " in warning and "UserWarning: warm: plain nothing, warm" in warning
    assert told["imported modules"] == ["chunk_c: plain nothing, warm `imported`"]
    [order] = told["order of imports"]
    assert order.endswith(" comes `chunk_b`, not `chunk_a`")
    assert "conftest.LIST: plain `list of 1`, warm `list of 2`" in told["module contents"]
    assert any(line.startswith("conftest.PARENT: plain") for line in told["module contents"])
    assert any("1 failed" in line for line in told["stdout"])
    assert any(line.startswith("only_warm.txt: plain nothing") for line in told["files"])


def test_differences_are_told_to_people(project: Sandbox) -> None:
    many = "NAMES = {f'name_{n:02}': os.getppid() for n in range(30)}\nglobals().update(NAMES)\n"
    project.write("conftest.py", "import os\n" + many)
    done = verify(project)
    assert done.returncode == DIFFERENT, done
    head, _, rest = done.stdout.partition("\n\n")
    assert head.startswith("the warm run is not what plain pytest is: 1 test, "), done
    title, *lines = rest.splitlines()
    assert title == "module contents"
    assert lines[0].startswith("  conftest.name_00: plain `"), lines
    assert len(lines) == 21 and lines[-1] == "  and 10 more", lines


def test_what_plain_pytest_does_differently_is_no_difference(project: Sandbox) -> None:
    """The second run fails, others pass; and each says another number."""
    counter = project.home / "counter"
    project.write(
        "test_a.py",
        f"""
        import pathlib

        def test_changes():
            counter = pathlib.Path({str(counter)!r})
            counter.write_text(counter.read_text() + "." if counter.exists() else ".")
            number = len(counter.read_text())
            print("number", number)
            pathlib.Path("log.txt").write_text(str(number))
            assert number != 2
        """,
    )
    done = verify(project, "-s")
    assert done.returncode == SAME, done
    assert done.stdout.startswith("no difference: "), done
    for what in ["exit status: the run", "outcomes: test_a.py::test_changes (call)"]:
        assert f"note: plain pytest differs from run to run in {what}" in done.stderr
    assert "differs from run to run in files: " in done.stderr
    counter.unlink()
    found = verdict(project, "-s")
    assert found["verdict"] == "same"
    unstable = {it["group"]: it["unstable"] for it in found["findings"]}
    assert unstable["outcomes"] == ["test_a.py::test_changes (call)"]


def test_a_project_without_warm_runs_cannot_be_judged(project: Sandbox) -> None:
    project.write("pyproject.toml", "[tool.pyseidon]\nenabled = false\n")
    done = verify(project)
    assert (done.returncode, done.stdout) == (UNJUDGED, ""), done
    expected = "error: could not be judged: these runs are plain pytest: switched off in"
    assert done.stderr.startswith(expected), done
    assert "\n\nhint: " in done.stderr
    found = verdict(project)
    assert found["verdict"] == "unjudged" and "switched off" in found["reason"]
    assert_left_nothing(project)


def test_a_seed_that_is_asked_to_be_random_cannot_be_judged(project: Sandbox) -> None:
    done = verify(project, env={"PYTHONHASHSEED": "random"})
    assert done.returncode == UNJUDGED, done
    assert "`PYTHONHASHSEED=random` asks for it" in done.stderr


def test_a_start_that_fails_is_told(project: Sandbox, own_sandbox: Sandbox) -> None:
    """Start-up code that reads the clock: no Z0 can stand for another process."""
    for name in ("pytest.ini", "test_a.py"):
        own_sandbox.write(name, (project.project / name).read_text())
    start_up = own_sandbox.environment.site_packages / "sitecustomize.py"
    start_up.write_text("import time\nSTARTED = time.time()\n")
    done = verify(own_sandbox)
    assert done.returncode == UNJUDGED, done
    assert "could not be judged" in done.stderr and "sitecustomize.py" in done.stderr, done


def test_an_environment_without_pyseidon_cannot_be_judged(
    project: Sandbox, own_environment: Environment
) -> None:
    shutil.rmtree(own_environment.site_packages / "pyseidon")
    done = verify(project, env={"PYSEIDON_PYTHON": str(own_environment.python)})
    assert done.returncode == UNJUDGED, done
    assert "the package `pyseidon` is not installed for" in done.stderr


def test_other_pytests(new_sandbox) -> None:
    for version in ("7.4.4", "8.3.5"):
        sandbox = new_sandbox(environment(pytest=version))
        sandbox.write("pytest.ini", "[pytest]\n")
        sandbox.write("test_a.py", BUSY)
        done = verify(sandbox)
        assert (done.returncode, done.stderr) == (SAME, ""), done


def test_what_pytest_refuses_is_the_same_each_time(project: Sandbox) -> None:
    done = verify(project, "--no-such-option")
    assert done.returncode == SAME, done
    assert done.stdout.startswith("no difference: exit 4, before pytest's end, 0 tests, "), done


def test_wrong_usage(project: Sandbox) -> None:
    for arguments in (["verify", "--wait", "soon"], ["last", "--warm"]):
        done = project.daemon.command(*arguments)
        assert done.returncode == 2, done
        assert done.stderr.startswith("error: "), done


def test_help_says_that_tests_are_run_often(project: Sandbox) -> None:
    done = project.daemon.command("verify", "--help")
    assert "EXECUTED SEVERAL TIMES" in done.stdout


def test_an_interrupt_ends_it_in_good_order(project: Sandbox) -> None:
    project.write_beacon()
    project.write("test_a.py", "import beacon\n\ndef test_a():\n    beacon.hold('holds')\n")
    process = project.start(project.daemon.program, "verify")
    project.rendezvous.wait_for_hold("holds").close()
    os.killpg(process.pid, signal.SIGINT)
    outcome = project.finish(process)
    assert outcome.status == -signal.SIGINT, outcome
    assert_left_nothing(project)


# ---------------------------------------------------------------------------- last


def last(sandbox: Sandbox, *arguments: str) -> subprocess.CompletedProcess[str]:
    return sandbox.daemon.command("last", *arguments)


def test_no_run_yet(project: Sandbox) -> None:
    for arguments in ([], ["--plain"]):
        done = last(project, *arguments)
        assert (done.returncode, done.stdout) == (NOTHING, ""), done
        assert done.stderr.startswith("error: no run is known for `")
        assert "\n\nhint: `pyseidon-test`" in done.stderr


def test_the_last_run_is_told_in_one_line(project: Sandbox) -> None:
    project.warm_up()
    project.warm("-k", "test_a")
    done = last(project)
    assert (done.returncode, done.stderr) == (0, ""), done
    [line] = done.stdout.splitlines()
    for part in ["warm Z2", "exit 0, short exit", "-k test_a"]:
        assert part in line


def test_the_last_run_again_by_plain_pytest(project: Sandbox) -> None:
    project.warm_up()
    project.warm("-k", "test_a")
    done = last(project, "--plain")
    assert done.returncode == 0, done
    assert "1 passed" in done.stdout
    assert done.stderr == "plain pytest ended as the warm run did: exit 0\n"
    # It did not count itself.
    assert project.last_run().argv == ["-k", "test_a"]

    project.write("test_a.py", "def test_a():\n    assert 0\n")
    done = last(project, "--plain")
    assert done.returncode == DIFFERENT, done
    assert "1 failed" in done.stdout
    expected = "plain pytest ended otherwise than the warm run: exit 1, not exit 0\n\nhint: "
    assert done.stderr.startswith(expected), done
    assert "`pyseidon-daemon verify -- -k test_a`" in done.stderr


def test_a_red_run_that_stays_red(project: Sandbox) -> None:
    project.write("test_a.py", "def test_a():\n    assert 0\n")
    project.warm_up()
    project.warm()
    done = last(project, "--plain")
    assert done.returncode == 0, done
    assert done.stderr == "plain pytest ended as the warm run did: exit 1\n"


def test_a_plain_run_has_nothing_to_compare_with(project: Sandbox) -> None:
    project.first()
    done = last(project, "--plain")
    assert (done.returncode, done.stdout) == (UNJUDGED, ""), done
    assert done.stderr.startswith("error: the last run was plain pytest already"), done


def test_arguments_that_are_not_known_exactly(project: Sandbox) -> None:
    odd = os.fsdecode(b"--deselect=\xff")
    project.warm_up(odd)
    project.warm(odd)
    done = last(project, "--plain")
    assert (done.returncode, done.stdout) == (UNJUDGED, ""), done
    assert "an argument that is not UTF-8" in done.stderr
