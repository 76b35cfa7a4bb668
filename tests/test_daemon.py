"""`pyseidon-daemon`: started by itself, one for a project, gone by itself; what it says of it."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from .harness.daemon import processes_with
from .harness.outcome import assert_same
from .harness.rendezvous import PATIENCE, Process, eventually, open_files
from .harness.sandbox import Sandbox

pytestmark = pytest.mark.product

NOT_RUNNING = 3


@pytest.fixture
def project(sandbox: Sandbox) -> Sandbox:
    sandbox.write("pytest.ini", "[pytest]\n")
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    return sandbox


@pytest.fixture
def warm(project: Sandbox) -> Sandbox:
    project.warm_up()
    return project


def daemons(sandbox: Sandbox) -> list[int]:
    """By the kernel's list, not by the daemon's own."""

    def read(pid: int, name: str) -> str:
        """Nothing of a process that is gone."""
        try:
            return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
        except OSError:
            return ""

    def is_daemon(pid: int) -> bool:
        words = [*read(pid, "cmdline").split("\0"), ""]
        return words[0].endswith("pyseidon-daemon") and words[1] == "run"

    def parent(pid: int) -> int:
        [number] = re.findall(r"^PPid:\t(\d+)$", read(pid, "status"), re.MULTILINE) or ["0"]
        return int(number)

    # What a daemon forks has the daemon's words until it executes a program of its own.
    return [
        pid
        for pid in processes_with(str(sandbox.runtime))
        if is_daemon(pid) and not is_daemon(parent(pid))
    ]


def test_the_first_run_is_plain_and_the_second_warm(project: Sandbox) -> None:
    project.first()
    assert project.last_run().checkpoint is None
    project.until_ready("P0")
    project.warm()
    [status] = project.daemon.all()
    assert [run.checkpoint for run in status.runs] == [None, "Z2"]


def test_ten_first_runs_start_one_daemon(project: Sandbox) -> None:
    plain = project.plain("-p", "no:cacheprovider")
    runs = [project.start(project.pyseidon, "-p", "no:cacheprovider") for _ in range(10)]
    for run in runs:
        outcome = project.finish(run)
        outcome.files = plain.files
        assert_same(plain, outcome)
    project.until_ready()
    assert len(daemons(project)) == 1
    assert len(project.daemon.status().runs) == 10


def test_two_projects_have_two_daemons(warm: Sandbox) -> None:
    other = warm.base / "other"
    other.mkdir()
    (other / "pytest.ini").write_text("[pytest]\n")
    (other / "test_b.py").write_text("def test_b():\n    pass\n")
    assert warm.run(warm.pyseidon, cwd=other).status == 0
    assert len(daemons(warm)) == 2
    listed = json.loads(warm.daemon.command("status", "--all", "--json").stdout)
    assert {document["project"] for document in listed} == {str(warm.project), str(other)}


def test_stop_ends_every_process(warm: Sandbox) -> None:
    """They are gone when it returns, standbys included."""
    status = warm.daemon.status()
    pids = [*status.pids, *(c.standby for c in status.checkpoints if c.standby)]
    processes = [Process(pid) for pid in pids]
    assert len(processes) >= 5
    socket = status.socket
    warm.daemon.stop()
    for process in processes:
        with process:
            # The daemon reaps them, and is itself reaped by others.
            process.wait_gone(timeout=0 if process.pid != status.pid else PATIENCE)
    eventually(lambda: not processes_with(str(warm.runtime)), "no process")
    assert not socket.exists()
    assert warm.daemon.all() == []
    # Again: nothing to do is no failure.
    warm.daemon.stop()


def files_of(sandbox: Sandbox) -> list[Path]:
    return list((sandbox.runtime / "pyseidon").iterdir())


def test_stop_leaves_no_file_in_the_runtime_directory(warm: Sandbox) -> None:
    assert {path.suffix for path in files_of(warm)} == {".sock", ".json", ".lock"}
    warm.daemon.stop()
    eventually(lambda: not files_of(warm), "no file")


def test_what_a_killed_daemon_left_is_cleared_away(warm: Sandbox) -> None:
    [daemon] = daemons(warm)
    with Process(daemon) as process:
        os.kill(daemon, signal.SIGKILL)
        process.wait_gone()
    assert files_of(warm)
    assert warm.daemon.all() == []
    assert files_of(warm) == []


def test_stop_lets_runs_end(project: Sandbox) -> None:
    project.write_beacon()
    project.write("test_a.py", "import beacon\n\ndef test_a():\n    beacon.hold('holds')\n")
    project.warm_up("--co")
    run = project.start(project.pyseidon, "-q")
    project.rendezvous.wait_for_hold("holds").close()
    project.daemon.stop()
    project.rendezvous.let_go()
    outcome = project.finish(run)
    assert outcome.status == 0, outcome
    assert "1 passed" in outcome.stdout


def test_idle_daemon_leaves(project: Sandbox) -> None:
    project.first(env={"PYSEIDON_IDLE_TIMEOUT": "1"})
    with Process(project.daemon.status().pid) as daemon:
        daemon.wait_gone()
    eventually(lambda: not processes_with(str(project.runtime)), "no process")
    assert files_of(project) == []


def test_idle_timeout_of_the_project(project: Sandbox) -> None:
    project.write("pyproject.toml", "[tool.pyseidon]\nidle_timeout = 1\n")
    del project.env["PYSEIDON_IDLE_TIMEOUT"]
    project.first()
    with Process(project.daemon.status().pid) as daemon:
        daemon.wait_gone()


def test_a_run_keeps_it_from_being_idle(project: Sandbox) -> None:
    project.write_beacon()
    project.write("test_a.py", "import beacon\n\ndef test_a():\n    beacon.hold('holds')\n")
    env = {"PYSEIDON_IDLE_TIMEOUT": "4"}
    project.first("--co", env=env)
    project.until_ready()
    run = project.start(project.pyseidon, env=env)
    with project.rendezvous.wait_for_hold("holds"), Process(project.daemon.status().pid) as daemon:
        with pytest.raises(TimeoutError):
            daemon.wait_gone(timeout=6)
        project.rendezvous.let_go()
        assert project.finish(run).status == 0
        daemon.wait_gone()


def test_it_holds_nothing_of_a_client(warm: Sandbox) -> None:
    """Neither descriptors nor directory nor terminal."""
    out, into = os.pipe()
    process = warm.start(
        warm.pyseidon, before=lambda: [os.dup2(into, 1), os.dup2(into, 9)], pass_fds=(), stdout=into
    )
    warm.finish(process)
    os.close(into)
    with os.fdopen(out, "rb") as reading:
        assert b"1 passed" in reading.read()
    for pid in warm.daemon.status().pids:
        names = open_files(pid).values()
        # The harness's own pipes and files would show up here.
        assert not [name for name in names if str(warm.base / "events") in name], names
        stat = Path(f"/proc/{pid}/stat").read_text()
        terminal = stat[stat.rindex(")") + 2 :].split()[4]
        assert terminal == "0", f"process {pid} has a terminal"


def test_zygotes_have_one_thread(warm: Sandbox) -> None:
    """A fork copies one thread: a lock that another one holds would stay locked for ever."""
    for checkpoint in warm.daemon.status().checkpoints:
        assert len(os.listdir(f"/proc/{checkpoint.pid}/task")) == 1


def test_no_zombies(warm: Sandbox) -> None:
    for _ in range(3):
        warm.warm()

    def states() -> list[str]:
        found = []
        for pid in processes_with(str(warm.runtime)):
            stat = Path(f"/proc/{pid}/stat").read_text()
            found.append(stat[stat.rindex(")") + 2])
        return found

    daemon = warm.daemon.status().pid

    def children_are_known() -> bool:
        text = Path(f"/proc/{daemon}/task/{daemon}/children").read_text()
        known = {c.pid for c in warm.daemon.status().checkpoints}
        return {int(pid) for pid in text.split()} <= known

    eventually(children_are_known, "a daemon whose children are its zygotes")
    assert "Z" not in states()


# ------------------------------------------------------------------ what it says


def test_status_for_people(warm: Sandbox) -> None:
    warm.warm("-k", "test_a")
    done = warm.daemon.command("status")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    for words in (str(warm.project), "pid", "MiB", "P0", "Z0", "pytest", "-k test_a", "warm"):
        assert words in done.stdout, done.stdout


def test_status_for_tools(warm: Sandbox) -> None:
    warm.warm("-x")
    eventually(lambda: warm.last_run().raw["status"] is not None, "the end of the run")
    [document] = json.loads(warm.daemon.command("status", "--json").stdout)
    assert document["version"] == 1
    assert document["project"] == str(warm.project)
    assert document["python"] == str(warm.environment.python)
    assert document["pid"] in daemons(warm)
    assert document["uptime_seconds"] > 0
    assert document["idle_timeout_seconds"] == 120
    processes = [process for root in document["roots"] for process in root["processes"]]
    assert {process["level"] for process in processes} == {"Z0", "P0", "Z2"}
    for process in processes:
        assert process["pss_kib"] > 500
        assert "pytest" in process["holds"] or process["level"] != "Z0"
    cold, last = document["runs"][-2:]
    assert (cold["checkpoint"], last["checkpoint"]) == (None, "Z2")
    assert cold["why"]
    assert last["argv"] == ["-x"]
    assert last["status"] == 0
    assert 0 < last["seconds"] < 30


def test_settings_that_cannot_be_understood(project: Sandbox) -> None:
    """Named in `status` and in the log; the run prints what pytest prints."""
    project.write(
        "pyproject.toml",
        """
        [tool.pyseidon]
        enabled = "no"
        idle_timeout = "soon"
        typo = 1
        """,
    )
    outcome = project.first(env={"PYSEIDON": "maybe", "PYSEIDON_IDLE_TIMEOUT": "abc"})
    assert (outcome.status, outcome.stderr) == (0, "")
    expected = [
        '`enabled` in `[tool.pyseidon]` is "no": `true` or `false` is expected',
        '`idle_timeout` in `[tool.pyseidon]` is "soon": a positive number of seconds is expected',
        "`typo` is no setting of `[tool.pyseidon]`; known are `enabled` and `idle_timeout`",
        '`PYSEIDON` is "maybe": `0` or `1` is expected',
        '`PYSEIDON_IDLE_TIMEOUT` is "abc": a positive number of seconds is expected',
    ]
    assert sorted(project.daemon.status().raw["warnings"]) == sorted(expected)
    text = project.daemon.command("status").stdout
    log = project.daemon.command("log").stdout
    for warning in expected:
        assert f"  warning  {warning}\n" in text
        assert log.count(warning) == 1
    # Mended, without a run.
    project.write("pyproject.toml", "[tool.pyseidon]\nidle_timeout = 60\n")
    kept = project.daemon.status().raw["warnings"]
    assert {warning.split("`")[1] for warning in kept} == {"PYSEIDON", "PYSEIDON_IDLE_TIMEOUT"}


@pytest.mark.parametrize(
    ("env", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=str,
)
def test_status_on_a_terminal(warm: Sandbox, env: dict[str, str], coloured: bool) -> None:
    with warm.terminal(warm.daemon.program, "status", env=env) as terminal:
        assert terminal.finish() == 0
    assert ("\x1b[" in terminal.text) == coloured


def test_nothing_runs(project: Sandbox) -> None:
    done = project.daemon.command("status")
    assert done.returncode == NOT_RUNNING
    assert str(project.project) in done.stdout
    done = project.daemon.command("status", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (NOT_RUNNING, [])
    done = project.daemon.command("log")
    assert (done.returncode, done.stdout) == (NOT_RUNNING, "")
    assert str(project.project) in done.stderr


def test_restart_where_none_runs(project: Sandbox) -> None:
    done = project.daemon.command("restart")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"started a daemon for `{project.project}`\n"


def test_start_and_restart(project: Sandbox) -> None:
    assert project.daemon.command("start").returncode == 0
    first = project.daemon.status().pid
    again = project.daemon.command("start")
    assert again.returncode == 0
    assert "already" in again.stdout
    assert project.daemon.status().pid == first
    # A run finds the daemon that was started by hand.
    project.warm_up()
    assert project.daemon.status().pid == first
    with Process(first) as process:
        assert project.daemon.command("restart").returncode == 0
        process.wait_gone()
    assert project.daemon.status().pid != first
    project.same()


def test_log(warm: Sandbox) -> None:
    done = warm.daemon.command("log")
    assert done.returncode == 0
    assert "P0" in done.stdout
    assert "\x1b" not in done.stdout
    warm.daemon.stop()
    # It is still there when the daemon is not.
    assert "P0" in warm.daemon.command("log").stdout


def test_what_is_as_it_should_be_is_no_warning(project: Sandbox) -> None:
    """Such as a run for which nothing can be prepared, because it ends so early."""

    def log() -> str:
        return project.daemon.command("log", "-n", "all").stdout

    project.first("-c", "none.ini")
    eventually(lambda: "no P0: pytest ended before" in log(), "a build that came to nothing")
    project.daemon.stop()
    eventually(lambda: "is gone" in log(), "the last line")
    assert " WARN " not in log()


def test_nothing_is_kept_for_what_only_informs(warm: Sandbox) -> None:
    for option in ("--help", "--version"):
        warm.same_warm(option, at="Z0")
        assert "none is kept" in (warm.last_run().why or "")
    status = warm.daemon.status()
    assert len(status.ready("P0")) == 1
    assert [root["unprepared"] for root in status.raw["roots"]] == [[]]


def test_last_lines_of_the_log(warm: Sandbox) -> None:
    warm.daemon.stop()
    [log] = warm.cache.glob("pyseidon/*.log")
    with log.open("a") as more:
        more.writelines(f"line {number}\n" for number in range(200))

    def shown(*arguments: str) -> list[str]:
        done = warm.daemon.command("log", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    assert shown() == [f"line {number}" for number in range(100, 200)]
    assert shown("-n", "2") == ["line 198", "line 199"]
    assert shown("--lines", "all") == log.read_text().splitlines()
    assert warm.daemon.command("log", "-n", "few").returncode == 2


def test_values_of_the_environment_are_not_logged(project: Sandbox) -> None:
    env = {"API_TOKEN": "a-secret-value"}
    project.first(env=env)
    project.until_ready()
    project.warm(env=env)
    kept = [path.read_bytes() for path in project.cache.rglob("*") if path.is_file()]
    assert kept
    assert not any(b"a-secret-value" in content for content in kept)


@pytest.mark.parametrize("arguments", [["no-such-command"], ["status", "--no-such-option"], []])
def test_wrong_usage(project: Sandbox, arguments: list[str]) -> None:
    done = project.daemon.command(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Usage" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["status", "--help"]])
def test_help(project: Sandbox, arguments: list[str]) -> None:
    done = project.daemon.command(*arguments)
    assert done.returncode == 0
    assert done.stderr == ""
    assert re.search("status|pyseidon", done.stdout)


def test_what_was_learned_survives(warm: Sandbox) -> None:
    """The next daemon knows what the last runs imported."""
    warm.warm()
    warm.warm()
    assert warm.daemon.status().raw["recordings"] >= 1
    warm.daemon.stop()
    warm.first()
    assert warm.daemon.status().raw["recordings"] >= 1


def test_broken_store_means_learning_again(warm: Sandbox) -> None:
    warm.warm()
    # The client is told of a run's end first, and the daemon learns from it when it is told.
    eventually(lambda: warm.last_run().raw["status"] is not None, "the end of the run")
    warm.daemon.stop()
    stores = list(warm.cache.glob("pyseidon/*.json"))
    assert stores
    for store in stores:
        store.write_bytes(b"\x00 not json")
    warm.same()
