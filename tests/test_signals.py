"""Signals reach the run as if the command were pytest itself, and stop and continue both."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from .harness.outcome import Outcome, assert_same
from .harness.rendezvous import PATIENCE, eventually, state_of
from .harness.sandbox import Sandbox

HOLDS = """
    import beacon
    import pytest

    def test_before():
        pass

    def test_holds():
        beacon.hold("holds")

    @pytest.fixture
    def slow_to_leave():
        yield
        beacon.hold("leaves")

    def test_leaves(slow_to_leave):
        beacon.hold("holds")
    """


@pytest.fixture
def holding(sandbox: Sandbox) -> Sandbox:
    """A project whose tests hold until they are let go, and a daemon that is ready for it."""
    sandbox.write_beacon()
    sandbox.write("test_a.py", HOLDS)
    sandbox.warm_up("--co")
    return sandbox


def start(sandbox: Sandbox, program: object, *arguments: str, **how: object):
    """A run that has got into its test; with the process that runs the test."""
    process = sandbox.start(program, *arguments, **how)  # type: ignore[arg-type]
    return process, sandbox.rendezvous.wait_for_hold("holds")


def both(sandbox: Sandbox, *arguments: str):
    for program in (sandbox.pytest, sandbox.pyseidon):
        process, worker = start(sandbox, program, *arguments)
        with worker:
            yield process, worker


@pytest.mark.parametrize("to", ["process", "group"])
@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2"])
def test_relayed(holding: Sandbox, name: str, to: str) -> None:
    outcomes: list[Outcome] = []
    for process, worker in both(holding, "-k", "holds"):
        send = os.killpg if to == "group" else os.kill
        send(process.pid, getattr(signal, f"SIG{name}"))
        outcomes.append(holding.finish(process))
        worker.wait_gone()
    assert_same(*outcomes)
    holding.assert_served("P0")


@pytest.mark.parametrize("name", ["TERM", "HUP", "USR1", "USR2", "WINCH"])
def test_handled_by_the_project(sandbox: Sandbox, name: str) -> None:
    """A project's own handler gets what is sent to the command."""
    sandbox.write_beacon()
    sandbox.write(
        "test_a.py",
        f"""
        import os
        import signal

        import beacon

        def test_a():
            def caught(number, frame):
                beacon.announce(f"got {{number}}")

            signal.signal(signal.SIG{name}, caught)
            beacon.hold("holds")
        """,
    )
    sandbox.warm_up("--co")
    number = int(getattr(signal, f"SIG{name}"))
    for process, worker in both(sandbox):
        process.send_signal(number)
        assert sandbox.rendezvous.wait_for("got") == f"got {number}"
        sandbox.rendezvous.let_go()
        assert sandbox.finish(process).status == 0
        worker.wait_gone()


def test_second_interrupt(holding: Sandbox) -> None:
    """The first one ends the test, the second one its teardown."""
    outcomes = []
    for process, worker in both(holding, "-k", "leaves"):
        process.send_signal(signal.SIGINT)
        holding.rendezvous.wait_for_hold("leaves").close()
        process.send_signal(signal.SIGINT)
        outcomes.append(holding.finish(process))
        worker.wait_gone()
    assert_same(*outcomes)


def test_interrupt_that_is_ignored(holding: Sandbox) -> None:
    """As of a job that a script has put into the background."""
    outcomes = []
    for program in (holding.pytest, holding.pyseidon):
        process, worker = start(
            holding,
            program,
            "-k",
            "holds",
            before=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )
        with worker:
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
            holding.rendezvous.let_go()
            outcomes.append(holding.finish(process))
    assert outcomes[0].status == 0
    assert_same(*outcomes)


def test_interrupt_while_collecting(sandbox: Sandbox) -> None:
    sandbox.write_beacon()
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    sandbox.warm_up("--co")
    sandbox.write(
        "conftest.py",
        """
        import os

        import beacon

        if "HOLD" in os.environ:
            beacon.hold("holds")
        """,
    )
    outcomes = []
    for program in (sandbox.pytest, sandbox.pyseidon):
        process, worker = start(sandbox, program, env={"HOLD": "1"})
        with worker:
            process.send_signal(signal.SIGINT)
            outcomes.append(sandbox.finish(process))
    assert_same(*outcomes)


@pytest.mark.parametrize("sent", ["TSTP", "STOP"])
def test_stop_and_continue(holding: Sandbox, sent: str) -> None:
    """Ctrl-Z stops the command and the test; `fg` continues both."""
    outcomes = []
    for process, worker in both(holding, "-k", "holds"):
        if sent == "STOP" and worker.pid != process.pid:
            # It cannot be caught: only the command stops. The shell's view is the same.
            process.send_signal(signal.SIGSTOP)
        else:
            process.send_signal(getattr(signal, f"SIG{sent}"))
            eventually(lambda w=worker: state_of(w.pid) == "T", "a stopped worker")
        eventually(lambda p=process: state_of(p.pid) == "T", "a stopped command")
        process.send_signal(signal.SIGCONT)
        eventually(lambda w=worker: state_of(w.pid) != "T", "a worker that goes on")
        eventually(lambda p=process: state_of(p.pid) != "T", "a command that goes on")
        holding.rendezvous.let_go()
        outcomes.append(holding.finish(process))
    assert outcomes[0].status == 0
    assert_same(*outcomes)


def test_stopped_and_continued_at_once(holding: Sandbox) -> None:
    """Who continues a command before it is seen to have stopped will not continue it again."""
    for process, _ in both(holding, "-k", "holds"):
        for _ in range(200):
            process.send_signal(signal.SIGTSTP)
            process.send_signal(signal.SIGCONT)
        holding.rendezvous.let_go()
        # Its end is awaited, which would never come.
        assert holding.finish(process).status == 0


def test_blocked_and_pending(sandbox: Sandbox) -> None:
    """A signal that waits when the command begins, and that pytest inherits as blocked."""
    sandbox.write(
        "test_a.py",
        """
        import signal

        def test_a():
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            print(signal.SIGUSR1 in blocked, signal.SIGUSR1 in signal.sigpending())
        """,
    )

    def pend() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        os.kill(os.getpid(), signal.SIGUSR1)

    plain = sandbox.plain("-s", before=pend)
    assert plain.status == 0 and "True True" in plain.stdout
    sandbox.warm_up("-s")
    run = sandbox.start(sandbox.pyseidon, "-s", before=pend)
    outcome = sandbox.finish(run)
    # When it comes to the worker depends on who is quicker; it comes, and hurts nobody.
    assert outcome.status == 0 and "True " in outcome.stdout, outcome
    sandbox.assert_served("P0", outcome)


def test_the_shell_learns_of_the_stop(holding: Sandbox) -> None:
    """`waitpid` tells the parent which signal stopped the command."""
    for process, _ in both(holding, "-k", "holds"):
        process.send_signal(signal.SIGTSTP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert os.WSTOPSIG(status) == signal.SIGTSTP
        process.send_signal(signal.SIGCONT)
        holding.rendezvous.let_go()
        assert holding.finish(process).status == 0


def test_a_test_that_stops_itself(sandbox: Sandbox) -> None:
    sandbox.write(
        "test_a.py",
        """
        import os
        import signal

        def test_a():
            os.kill(os.getpid(), signal.SIGSTOP)
        """,
    )
    sandbox.warm_up("--co")
    for program in (sandbox.pytest, sandbox.pyseidon):
        process = sandbox.start(program)
        eventually(lambda p=process: state_of(p.pid) == "T", "a stopped command")
        process.send_signal(signal.SIGCONT)
        assert sandbox.finish(process).status == 0


@pytest.mark.product
def test_killed_command_takes_everything_along(sandbox: Sandbox) -> None:
    """SIGKILL cannot be relayed; the worker and its children go all the same."""
    sandbox.write_beacon()
    sandbox.write(
        "test_a.py",
        """
        import subprocess
        import sys

        import beacon

        def test_a():
            subprocess.Popen([sys.executable, "-c", "import beacon; beacon.hold('child')"])
            beacon.hold("holds")
        """,
    )
    sandbox.warm_up("--co")
    process, worker = start(sandbox, sandbox.pyseidon)
    child = sandbox.rendezvous.wait_for_hold("child")
    with worker, child:
        process.kill()
        worker.wait_gone()
        child.wait_gone()
    outcome = sandbox.finish(process)
    assert outcome.status == -signal.SIGKILL
    # And the next run finds everything in order.
    sandbox.same_warm("--co")


def test_vanished_terminal(holding: Sandbox) -> None:
    for program in (holding.pytest, holding.pyseidon):
        with holding.terminal(program, "-k", "holds") as terminal:
            worker = holding.rendezvous.wait_for_hold("holds")
            terminal.vanish()
            worker.wait_gone()
            worker.close()


@pytest.mark.product
def test_killed_while_stopped(holding: Sandbox) -> None:
    process, worker = start(holding, holding.pyseidon, "-k", "holds")
    with worker:
        process.send_signal(signal.SIGTSTP)
        eventually(lambda: state_of(worker.pid) == "T", "a stopped worker")
        process.kill()
        worker.wait_gone()
    assert holding.finish(process).status == -signal.SIGKILL


def test_ctrl_c_on_a_terminal(holding: Sandbox) -> None:
    shown = []
    for program in (holding.pytest, holding.pyseidon):
        with holding.terminal(program, "-k", "holds") as terminal:
            holding.rendezvous.wait_for_hold("holds").close()
            terminal.type("\x03")
            assert terminal.finish() == 2
            shown.append(terminal.shown())
    assert shown[1] == shown[0]


def test_ctrl_z_in_a_shell_with_job_control(holding: Sandbox) -> None:
    """The whole way: an interactive shell, Ctrl-Z, `fg`."""
    bash = shutil.which("bash")
    if not bash:
        pytest.skip("no bash on this machine")
    for program in (holding.pytest, holding.pyseidon):
        options = ("--norc", "--noprofile", "-i")
        with holding.terminal(Path(bash), *options, env={"PS1": "$ "}) as terminal:
            terminal.expect(r"\$ ")
            terminal.type(f"{program} -k holds\n")
            with holding.rendezvous.wait_for_hold("holds") as worker:
                terminal.type("\x1a")
                terminal.expect("Stopped")
                eventually(lambda w=worker: state_of(w.pid) == "T", "a stopped worker")
                terminal.type("fg\n")
                eventually(lambda w=worker: state_of(w.pid) != "T", "a worker that goes on")
            holding.rendezvous.let_go()
            terminal.expect("1 passed")
            terminal.type("echo status $?\n")
            terminal.expect("status 0")
            terminal.type("exit\n")
            terminal.finish()


def test_signals_before_the_worker_is_there(sandbox: Sandbox) -> None:
    """Nothing is lost, whenever it comes: the command ends by it, or pytest reports it."""
    sandbox.write("test_a.py", "import time\n\ndef test_a():\n    time.sleep(60)\n")
    sandbox.warm_up("--co")
    for milliseconds in range(0, 40, 4):
        process = sandbox.start(sandbox.pyseidon)
        # Not a wait for something: the point is to strike at every stage of a start.
        try:
            process.wait(milliseconds / 1000)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
        assert sandbox.finish(process, timeout=PATIENCE).status == -signal.SIGTERM
