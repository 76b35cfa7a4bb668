"""What is killed, stale, deleted or replaced heals within the very run that meets it.

The user sees the right answer and nothing else; the run after that is warm again.
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from typing import Callable

import pytest

from .harness.outcome import assert_same
from .harness.rendezvous import Process, eventually
from .harness.sandbox import Sandbox

pytestmark = pytest.mark.product

COUNTED = """
    import os

    import beacon

    def test_before():
        # How often it was run at all.
        with open(os.environ["COUNT"], "a") as count:
            count.write(".")

    def test_holds():
        if "HOLD" in os.environ:
            beacon.hold("holds")
    """


@pytest.fixture
def warm(sandbox: Sandbox) -> Sandbox:
    prepare(sandbox)
    return sandbox


def prepare(sandbox: Sandbox) -> None:
    sandbox.write_beacon()
    sandbox.write("test_a.py", COUNTED)
    sandbox.env["COUNT"] = str(sandbox.base / "count")
    sandbox.warm_up()
    sandbox.same_warm()


def assert_healed(sandbox: Sandbox) -> None:
    """Right at once, silently; and warm again soon."""
    sandbox.same_at_once()
    sandbox.until_ready()
    sandbox.same_warm()


def kill(*pids: int) -> None:
    for pid in pids:
        try:
            process = Process(pid)
        except ProcessLookupError:
            continue  # it has gone with one of the others
        with process:
            process.kill(signal.SIGKILL)
            process.wait_gone()


def test_killed_daemon(warm: Sandbox) -> None:
    """Its socket is still there, and nobody listens."""
    status = warm.daemon.status()
    zygotes = [Process(c.pid) for c in status.checkpoints if c.pid]
    kill(status.pid)
    assert status.socket.exists()
    for zygote in zygotes:
        with zygote:
            zygote.wait_gone()
    assert_healed(warm)
    assert warm.daemon.status().pid != status.pid


@pytest.mark.parametrize("level", ["Z0", "P0", "both"])
def test_killed_zygotes(warm: Sandbox, level: str) -> None:
    for checkpoint in warm.daemon.status().checkpoints:
        if level in (checkpoint.level, "both"):
            assert checkpoint.pid
            kill(checkpoint.pid)
    assert_healed(warm)


def test_everything_killed(warm: Sandbox) -> None:
    kill(*warm.daemon.status().pids)
    assert_healed(warm)


def test_stopped_daemon_is_not_waited_for(warm: Sandbox) -> None:
    """A daemon that shows no life costs a run some time, not its answer."""
    status = warm.daemon.status()
    os.kill(status.pid, signal.SIGSTOP)
    try:
        outcome = warm.first()
    finally:
        os.kill(status.pid, signal.SIGCONT)
    assert outcome.status == 0
    assert "running plain pytest" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert_healed(warm)


def test_stopped_zygote_is_not_waited_for(warm: Sandbox) -> None:
    stopped = [c.pid for c in warm.daemon.status().checkpoints if c.pid]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    count = warm.base / "count"
    count.unlink()
    try:
        outcome = warm.first()
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert outcome.status == 0, outcome
    assert count.read_text() == ".", "the tests ran more than once"
    assert_healed(warm)


def hold(sandbox: Sandbox):
    (sandbox.base / "count").unlink(missing_ok=True)
    run = sandbox.start(sandbox.pyseidon, env={"HOLD": "1"})
    return run, sandbox.rendezvous.wait_for_hold("holds")


def test_daemon_killed_during_a_run(warm: Sandbox) -> None:
    """The run does not need it any more."""
    run, worker = hold(warm)
    with worker:
        kill(warm.daemon.status().pid)
        warm.rendezvous.let_go()
        outcome = warm.finish(run)
    assert outcome.status == 0, outcome
    assert outcome.stderr == ""
    assert "2 passed" in outcome.stdout
    assert (warm.base / "count").read_text() == "."
    assert_healed(warm)


def test_interrupt_after_the_daemon_was_killed(warm: Sandbox) -> None:
    run, worker = hold(warm)
    with worker:
        kill(warm.daemon.status().pid)
        run.send_signal(signal.SIGINT)
        assert warm.finish(run).status == 2
        worker.wait_gone()


def test_zygote_killed_during_a_run(warm: Sandbox) -> None:
    """Nobody can say how the run ended: an error, and it is not run again."""
    run, worker = hold(warm)
    with worker:
        pids = [c.pid for c in warm.daemon.status().checkpoints if c.pid]
        kill(*pids)
        outcome = warm.finish(run)
        assert outcome.status == 125, outcome
        assert "pyseidon: error" in outcome.stderr
        worker.wait_gone()
    assert (warm.base / "count").read_text() == "."
    assert_healed(warm)


def test_worker_killed(warm: Sandbox) -> None:
    run, worker = hold(warm)
    with worker:
        worker.kill(signal.SIGKILL)
        assert warm.finish(run).status == -signal.SIGKILL


def test_deleted_project(warm: Sandbox) -> None:
    """Deleted and made anew, with other tests, as `git worktree` does."""
    shutil.rmtree(warm.project)
    warm.project.mkdir()
    warm.write("test_b.py", "def test_b():\n    assert 1 == 2\n")
    assert warm.same_at_once().status == 1
    warm.until_ready()
    assert warm.same_warm().status == 1


def test_deleted_runtime_directory(warm: Sandbox) -> None:
    """A cleaner of temporary files has been there. The old daemon is not to be found any more; it
    goes when it has been idle for its time."""
    shutil.rmtree(warm.runtime / "pyseidon")
    assert_healed(warm)


def test_deleted_log(warm: Sandbox) -> None:
    shutil.rmtree(warm.cache)
    warm.same_warm()
    warm.daemon.stop()
    assert_healed(warm)


def _touch(sandbox: Sandbox) -> None:
    os.utime(sandbox.environment.site_packages / "pyseidon" / "boot.py")


def _replace_binary(sandbox: Sandbox) -> None:
    program = sandbox.environment.bin / "pyseidon-daemon"
    fresh = program.with_name("fresh")
    shutil.copy2(program, fresh)
    fresh.replace(program)


def _replace_extension(sandbox: Sandbox) -> None:
    [extension] = (sandbox.environment.site_packages / "pyseidon").glob("_zygote*.so")
    fresh = extension.with_name("fresh")
    shutil.copy2(extension, fresh)
    fresh.replace(extension)


def _reinstall(sandbox: Sandbox) -> None:
    from .harness.environments import wheel

    sandbox.environment.install("--no-deps", "--force-reinstall", wheel())


@pytest.mark.parametrize("upgrade", [_touch, _replace_binary, _replace_extension, _reinstall])
def test_product_upgraded_in_place(
    own_sandbox: Sandbox, upgrade: Callable[[Sandbox], None]
) -> None:
    sandbox = own_sandbox
    prepare(sandbox)
    old = Process(sandbox.daemon.status().pid)
    upgrade(sandbox)
    assert_healed(sandbox)
    with old:
        old.wait_gone()
    assert len(sandbox.daemon.all()) == 1


def test_product_upgraded_during_a_run(own_sandbox: Sandbox) -> None:
    sandbox = own_sandbox
    prepare(sandbox)
    run, worker = hold(sandbox)
    with worker:
        _touch(sandbox)
        sandbox.same_at_once()
        sandbox.rendezvous.let_go()
        assert sandbox.finish(run).status == 0


def test_product_uninstalled_while_the_daemon_runs(own_sandbox: Sandbox) -> None:
    """Plain pytest in the environment works on, and the daemon does not stay for ever."""
    sandbox = own_sandbox
    prepare(sandbox)
    sandbox.environment.pip("uninstall", "--yes", "--quiet", "pyseidon")
    assert sandbox.plain().status == 0


def test_many_runs_in_a_row(warm: Sandbox) -> None:
    """Across the replacement of the checkpoints: each one right, none of them waits for it."""
    plain = warm.plain()
    for number in range(50):
        assert_same(plain, warm.first(), f"run {number}")
    status = warm.daemon.status()
    assert len([run for run in status.runs if run.checkpoint is None]) <= 1


def test_descriptors_and_memory_do_not_grow(warm: Sandbox) -> None:
    def count() -> dict[int, int]:
        return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in warm.daemon.status().pids}

    warm.warm()
    before = count()
    for _ in range(8):
        warm.warm()
    eventually(
        lambda: all(count().get(pid, 0) <= number for pid, number in before.items()),
        f"as few descriptors as before: {before}",
    )
