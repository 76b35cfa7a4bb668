"""A run ends as pytest ends: its exit status, or its death by a signal, with all output there."""

from __future__ import annotations

import signal
import subprocess

import pytest

from .harness.environments import environment
from .harness.interpreters import interpreters
from .harness.outcome import assert_same
from .harness.sandbox import Sandbox

SIGNALS = [
    "ABRT",
    "SEGV",
    "BUS",
    "FPE",
    "ILL",
    "KILL",
    "TERM",
    "HUP",
    "USR1",
    "PIPE",
    "ALRM",
    "QUIT",
]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 1),
        (["-k", "passes"], 0),
        (["-k", "interrupts"], 2),
        (["-p", "no:cacheprovider", "--internal"], 3),
        (["--no-such-option"], 4),
        (["no_such_file.py"], 4),
        (["-k", "nothing"], 5),
        (["-k", "warns", "--max-warnings=0"], 6),
        (["-k", "leaves_with_7"], 7),
        (["-k", "leaves_with_255"], 255),
        (["-k", "leaves_with_256"], 0),
        (["-k", "system_exit"], 1),
        (["-k", "os_exit"], 11),
        (["-k", "exec"], 0),
    ],
    ids=str,
)
def test_exit_status(sandbox: Sandbox, arguments: list[str], status: int) -> None:
    sandbox.write(
        "conftest.py",
        """
        def pytest_addoption(parser):
            parser.addoption("--internal", action="store_true")

        def pytest_collection_modifyitems(config):
            if config.getoption("--internal"):
                raise RuntimeError("inside")
        """,
    )
    sandbox.write(
        "test_a.py",
        """
        import os
        import sys
        import warnings

        import pytest

        def test_passes():
            pass

        def test_fails():
            assert 0

        def test_warns():
            warnings.warn("once")

        def test_interrupts():
            if "interrupts" in sys.argv:
                raise KeyboardInterrupt

        @pytest.mark.skipif("-k" not in sys.argv, reason="alone only")
        class TestAlone:
            def test_leaves_with_7(self):
                pytest.exit("seven", returncode=7)

            def test_leaves_with_255(self):
                pytest.exit("all bits", returncode=255)

            def test_leaves_with_256(self):
                pytest.exit("one bit too many", returncode=256)

            def test_system_exit(self):
                sys.exit(9)

            def test_os_exit(self):
                print("lost, as pytest has captured it")
                os._exit(11)

            def test_exec(self):
                os.execvp("echo", ["echo", "another program"])
        """,
    )
    sandbox.warm_up("--co")
    early = ["-p", "no:cacheprovider"]
    if arguments[:2] == early:
        sandbox.warm_up("--co", *early)
    # What leaves with a usage error has not got as far as the checkpoint in every case.
    at_once = sandbox.same_at_once(*arguments)
    assert at_once.status == status, at_once
    if status not in (4,):
        sandbox.same_warm(*arguments)


@pytest.mark.parametrize("name", SIGNALS)
def test_death_by_signal(sandbox: Sandbox, name: str) -> None:
    """Also with faulthandler's last words, which pytest switches on."""
    number = int(getattr(signal, f"SIG{name}"))
    sandbox.write(
        "test_a.py",
        f"""
        import os
        import signal

        def test_before():
            pass

        def test_dies():
            if {number} != signal.SIGKILL and {number} not in (4, 6, 7, 8, 11):
                signal.signal({number}, signal.SIG_DFL)
            os.kill(os.getpid(), {number})
        """,
    )
    sandbox.warm_up("--co")
    assert sandbox.same_warm("-v").status == -number


def test_death_by_a_real_time_signal(sandbox: Sandbox) -> None:
    sandbox.write("test_a.py", "import os\n\ndef test_a():\n    os.kill(os.getpid(), 40)\n")
    sandbox.warm_up("--co")
    assert sandbox.same_warm().status == -40


@pytest.mark.parametrize("name", ["KILL", "SEGV", "TERM"])
def test_a_shell_sees_what_it_would_have_seen(sandbox: Sandbox, name: str) -> None:
    number = int(getattr(signal, f"SIG{name}"))
    sandbox.write("test_a.py", f"import os\n\ndef test_a():\n    os.kill(os.getpid(), {number})\n")
    sandbox.warm_up("--co")
    shown = []
    for program in (sandbox.pytest, sandbox.pyseidon):
        done = subprocess.run(
            ["sh", "-c", f"{program} >/dev/null 2>&1; echo $?"],
            cwd=sandbox.project,
            env=sandbox.env,
            capture_output=True,
            text=True,
            check=True,
        )
        shown.append(done.stdout.strip())
    assert shown == [str(128 + number)] * 2


def test_output_is_complete_when_the_command_ends(sandbox: Sandbox) -> None:
    """As much as fits into no pipe, written right before the end, into a file and into a pipe that
    is read late."""
    sandbox.write(
        "test_a.py",
        """
        import atexit
        import sys

        def test_a():
            pass

        def pytest_unconfigure():
            pass

        for number in range(3):
            atexit.register(sys.__stdout__.write, f"{number}" * 700_000 + "\\n")
        """,
    )
    sandbox.warm_up("--co")
    target = sandbox.base / "output"
    with target.open("wb") as file:
        process = sandbox.start(sandbox.pyseidon, "-q", stdout=file)
        assert process.wait(60) == 0
        # Not later: the command has ended.
        assert target.stat().st_size > 2_100_000
        sandbox.finish(process)
    plain = sandbox.plain("-q")
    assert len(plain.stdout) > 2_100_000
    assert_same(plain, sandbox.warm("-q"))


def test_full_disk(sandbox: Sandbox) -> None:
    sandbox.write("test_a.py", "def test_a():\n    print('x' * 10_000)\n")
    sandbox.warm_up()
    with open("/dev/full", "wb") as full:
        sandbox.same_warm("-s", stdout=full)


def test_broken_pipe(sandbox: Sandbox) -> None:
    """The reader has gone, as in `pytest | head -1`."""
    import os

    sandbox.write("test_a.py", "def test_a():\n    print('x' * 100_000)\n")
    sandbox.warm_up()
    outcomes = []
    for program in (sandbox.pytest, sandbox.pyseidon):
        reading, writing = os.pipe()
        os.close(reading)
        outcomes.append(sandbox.run(program, "-s", stdout=writing))
        os.close(writing)
    assert_same(*outcomes)


@pytest.mark.product
@pytest.mark.parametrize("also", ["", "few"])
@pytest.mark.parametrize("python", interpreters(), ids=lambda v: f"py{v}")
@pytest.mark.parametrize("named, level", [((), "Z2"), (("test_a.py",), "Z3")])
def test_the_short_way_where_nothing_waits_for_the_end(
    new_sandbox, python: str, also: str, named: tuple[str, ...], level: str
) -> None:
    sandbox = new_sandbox(environment(python, also=also))
    sandbox.write("helper.py", "X = 1\n")
    sandbox.write("test_a.py", "import helper\n\ndef test_a():\n    pass\n")
    sandbox.same(*named, at=level)
    assert sandbox.last_run().raw["exit"] == "Short"


GENERATORS = {
    "counts": ("number = 0\n    while True:\n        yield number\n        number += 1\n", "Short"),
    "goes through others": ("for number in range(3):\n        yield number\n", "Short"),
    "has something to do": (
        "try:\n        yield\n    finally:\n        open('left', 'w').write('closed')\n",
        "Full",
    ),
    "goes through what closes": (
        "import os\n    class Closes:\n        def __iter__(self):\n            return self\n"
        "        def __next__(self):\n            return 1\n"
        "        def close(self, write=os.write):\n            write(1, b'closed')\n"
        "    yield from Closes()\n",
        "Full",
    ),
    "holds something open": (
        "import contextlib\n    with contextlib.closing(open('left', 'w')) as file:\n"
        "        file.write('held')\n        yield\n",
        "Full",
    ),
}


@pytest.mark.parametrize("python", interpreters(), ids=lambda v: f"py{v}")
@pytest.mark.parametrize("what", GENERATORS)
def test_a_generator_that_waits(new_sandbox, python: str, what: str) -> None:
    """One in a module that a checkpoint holds, and one of the run's own."""
    sandbox = new_sandbox(environment(python))
    body, exit_path = GENERATORS[what]
    code = f"def wait():\n    {body}\nWAITING = wait()\nnext(WAITING)\n"
    # (Two that have something to do are destroyed in no order that anybody relies on.)
    sandbox.write("helper.py", code if exit_path == "Short" else "")
    sandbox.write("conftest.py", "import helper\n")
    sandbox.write("test_a.py", f"{code}\ndef test_a():\n    pass\n")
    sandbox.same(at="Z2")
    assert sandbox.last_run().raw["exit"] == exit_path


def test_a_captured_stream_that_is_kept(sandbox: Sandbox) -> None:
    """pytest closes it."""
    sandbox.write("test_a.py", "import sys\n\nKEPT = sys.stdout\n\ndef test_a():\n    pass\n")
    sandbox.same()
    assert sandbox.last_run().raw["exit"] == "Short"


@pytest.mark.parametrize("python", interpreters(), ids=lambda v: f"py{v}")
def test_a_coroutine_that_nobody_awaits(new_sandbox, python: str) -> None:
    sandbox = new_sandbox(environment(python))
    sandbox.write(
        "test_a.py",
        """
        async def wait():
            pass

        WAITING = wait()

        def test_a():
            pass
        """,
    )
    assert "was never awaited" in sandbox.same("-s").stderr


def test_who_is_told_of_the_last_collection(sandbox: Sandbox) -> None:
    sandbox.write(
        "test_a.py",
        """
        import atexit
        import gc
        import os

        over = []
        atexit.register(over.append, True)

        def told(phase, info):
            if over:
                os.write(1, f"{phase}\\n".encode())

        def test_a():
            gc.callbacks.append(told)
        """,
    )
    assert "start" in sandbox.same().stdout


@pytest.mark.parametrize("error", ["ZeroDivisionError('of a handler')", "SystemExit(3)"])
@pytest.mark.parametrize("python", interpreters(), ids=lambda v: f"py{v}")
def test_a_handler_that_raises(new_sandbox, python: str, error: str) -> None:
    sandbox = new_sandbox(environment(python))
    sandbox.write(
        "test_a.py",
        f"""
        import atexit

        def end():
            raise {error}

        def test_a():
            atexit.register(end)
        """,
    )
    sandbox.same()


def test_at_exit_in_order(sandbox: Sandbox) -> None:
    """Handlers last in first out, threads before them, and what only the end of the interpreter
    does: buffers of files that stay open, generators that wait, objects with `__del__`."""
    sandbox.write(
        "test_a.py",
        """
        import atexit
        import sys
        import threading
        import weakref

        class Last:
            def __del__(self):
                sys.__stdout__.write("deleted\\n")

        def waiting():
            try:
                yield
            finally:
                open("generator", "w").write("closed")

        KEPT = Last()
        WAITING = waiting()
        next(WAITING)
        OPEN = open("buffered", "w")

        def say(word):
            sys.__stdout__.write(f"{word}\\n")

        def test_a():
            OPEN.write("in the buffer")
            atexit.register(say, "first")
            atexit.register(say, "second")
            weakref.finalize(KEPT, say, "finalized")
            threading.Timer(0.1, say, ["thread"]).start()
        """,
    )
    sandbox.warm_up("--co")
    plain = sandbox.same_warm()
    assert plain.files["buffered"] == b"in the buffer"
    assert plain.stdout.index("thread") < plain.stdout.index("second") < plain.stdout.index("first")


def test_exception_at_the_very_end(sandbox: Sandbox) -> None:
    sandbox.write(
        "conftest.py",
        """
        import atexit

        def fail():
            raise RuntimeError("late")

        atexit.register(fail)

        def pytest_unconfigure():
            raise RuntimeError("later")
        """,
    )
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    sandbox.warm_up()
    sandbox.same_warm()


def test_children_outlive_the_run(sandbox: Sandbox) -> None:
    """What a test leaves running goes on, as it does after plain pytest."""
    sandbox.write_beacon()
    sandbox.write(
        "test_a.py",
        """
        import subprocess
        import sys

        CHILD = "import beacon; beacon.hold('child'); beacon.announce('done')"

        def test_a():
            null = subprocess.DEVNULL
            command = [sys.executable, "-c", CHILD]
            child = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
            child.returncode = 0  # silences the complaint that it still runs
        """,
    )
    sandbox.warm_up("--co")
    for program in (sandbox.pytest, sandbox.pyseidon):
        assert sandbox.run(program).status == 0
        sandbox.rendezvous.wait_for_hold("child").close()
        sandbox.rendezvous.let_go()
        sandbox.rendezvous.wait_for("done")
    sandbox.assert_served("P0")


def test_hardly_any_memory_left_at_the_end(sandbox: Sandbox) -> None:
    """What looks for objects with something to do at the end needs some. How much is left by other
    things cannot be known, so several amounts are tried."""
    sandbox.write(
        "conftest.py",
        """
        import atexit, os, resource

        HELD = []

        @atexit.register
        def use_up():
            with open("/proc/self/statm") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
            for size in (1 << 20, 1 << 16, 1 << 12, 1 << 10):
                try:
                    while True:
                        HELD.append(bytearray(size))
                except MemoryError:
                    pass
            left = int(os.environ["LEFT"])
            resource.setrlimit(resource.RLIMIT_AS, (used + left, resource.RLIM_INFINITY))
        """,
    )
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    sandbox.warm_up(env={"LEFT": "0"})
    for left in range(0, 1 << 16, 1 << 12):
        sandbox.same_warm(env={"LEFT": str(left)})
