"""The child that each checkpoint forks ahead: it serves the next run, and nobody can tell."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from .harness.rendezvous import Process, eventually, open_files
from .harness.sandbox import Sandbox

pytestmark = pytest.mark.product


@pytest.fixture
def warm(sandbox: Sandbox) -> Sandbox:
    make_warm(sandbox)
    return sandbox


def make_warm(sandbox: Sandbox) -> None:
    sandbox.write_beacon()
    sandbox.write(
        "test_a.py",
        """
        import os

        import beacon

        def test_a():
            if "HOLD" in os.environ:
                beacon.hold("holds")
        """,
    )
    sandbox.warm_up()
    sandbox.same_warm()


def standby(sandbox: Sandbox) -> int:
    """The process that waits for the next run, which the deepest checkpoint will serve."""

    def found() -> int | None:
        [deepest] = sandbox.daemon.status().deepest()
        return deepest.standby

    eventually(lambda: found() is not None, "a standby")
    pid = found()
    assert pid is not None
    return pid


def test_the_next_run_is_that_process(warm: Sandbox) -> None:
    for _ in range(4):
        waiting = standby(warm)
        warm.same_warm()
        assert warm.last_run().raw["pid"] == waiting


def test_runs_at_once_have_one_each(warm: Sandbox) -> None:
    """One gets the standby, the others a process of their own; then one waits again."""
    runs = [warm.start(warm.pyseidon, "-q", env={"HOLD": "1"}) for _ in range(3)]
    holding = [warm.rendezvous.wait_for_hold("holds") for _ in runs]
    waiting = standby(warm)
    assert len({process.pid for process in holding} | {waiting}) == 4
    for process in holding:
        process.close()
    warm.rendezvous.let_go(3)
    for run in runs:
        outcome = warm.finish(run)
        assert outcome.status == 0 and "1 passed" in outcome.stdout, outcome
    warm.same_warm()
    assert warm.last_run().raw["pid"] == waiting


def test_it_holds_nothing_of_a_run(warm: Sandbox) -> None:
    """It is forked while a run is under way, whose files are its own affair."""
    run = warm.start(warm.pyseidon, "-q", env={"HOLD": "1"})
    worker = warm.rendezvous.wait_for_hold("holds")
    waiting = standby(warm)
    assert waiting != worker.pid
    files = open_files(waiting)
    common = set(files.values()) & set(open_files(worker.pid).values())
    assert common <= {"/dev/null"}, files
    channel = [name for fd, name in files.items() if fd > 2]
    assert len(channel) == 1 and channel[0].startswith("socket:"), files
    assert os.readlink(f"/proc/{waiting}/cwd") == "/"
    worker.close()
    warm.rendezvous.let_go()
    assert warm.finish(run).status == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT])
def test_one_that_is_ended_or_stopped_is_replaced(warm: Sandbox, how: signal.Signals) -> None:
    """By the next run, and not before: whatever ended it might go on doing so. (For SIGINT Python
    has a handler, by which the next run would end instead.)"""
    former = standby(warm)
    with Process(former) as process:
        process.kill(how)
        process.wait_gone()
    [deepest] = warm.daemon.status().deepest()
    assert deepest.standby is None
    warm.same_warm()
    assert standby(warm) != former
    warm.same_warm()


def test_it_goes_with_its_zygote(warm: Sandbox) -> None:
    """Also one that cannot read that its channel has ended."""
    [deepest] = warm.daemon.status().deepest()
    assert deepest.pid
    with Process(standby(warm)) as waiting, Process(deepest.pid) as zygote:
        # The zygote is stopped first: it would end it.
        zygote.kill(signal.SIGSTOP)
        waiting.kill(signal.SIGSTOP)
        zygote.kill(signal.SIGKILL)
        waiting.wait_gone()


def test_it_goes_with_a_stale_checkpoint(own_sandbox: Sandbox) -> None:
    """At once, also where the checkpoint stays until its last run is over."""
    make_warm(own_sandbox)
    run = own_sandbox.start(own_sandbox.pyseidon, "-q", env={"HOLD": "1"})
    own_sandbox.rendezvous.wait_for_hold("holds").close()
    with Process(standby(own_sandbox)) as waiting:
        (own_sandbox.environment.site_packages / "late.pth").write_text("\n")
        own_sandbox.same_at_once()
        waiting.wait_gone()
    own_sandbox.rendezvous.let_go()
    outcome = own_sandbox.finish(run)
    assert outcome.status == 0 and "1 passed" in outcome.stdout, outcome


def test_what_it_takes_over_is_the_callers(warm: Sandbox) -> None:
    """It was forked before any of this was so."""
    warm.write(
        "below/test_b.py",
        """
        import logging, os, resource, sys

        def test_b():
            print(os.getcwd(), os.umask(0o22), resource.getrlimit(resource.RLIMIT_NOFILE))
            print(sorted(os.environ.items()), sys.argv[1:])
            print(logging._startTime > float(os.environ["NOW"]))
        """,
    )
    below = warm.project / "below"
    for changes in ({"NEW": "1"}, {"EVENTS": None}):
        standby(warm)
        env = {**changes, "NOW": str(time.time())}
        warm.warm_up(cwd=below, env=env)
        standby(warm)
        env = {**changes, "NOW": str(time.time())}
        assert "\nTrue\n" in warm.same_warm("-s", cwd=below, env=env).stdout


def private_kib(pid: int) -> int:
    """Memory that it shares with nobody."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("Private_Dirty:")]
    return int(line.split()[1])


def test_it_copies_ahead_what_runs_write_to(warm: Sandbox) -> None:
    """The first ones cannot: nobody has run yet that they could learn from."""
    fresh = private_kib(standby(warm))
    for _ in range(4):
        standby(warm)
        warm.same_warm()
    # A run without plugins writes to some 12 MiB, a fresh fork to less than one.
    eventually(lambda: private_kib(standby(warm)) > 4096 + fresh, "a copy of 4 MiB")
