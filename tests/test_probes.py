"""Fourteen inputs that broke other runners, as their users and we have seen it.

Each is one sentence about what a run must never be fooled by.
"""

from __future__ import annotations

import signal
import time

import pytest

from .harness.environments import environment
from .harness.outcome import assert_same
from .harness.sandbox import Sandbox


@pytest.mark.parametrize("place", ["src", "."])
def test_a_and_b_an_edit_is_seen_through_another_module(sandbox: Sandbox, place: str) -> None:
    """`b` has copied a value of `a`: forgetting `a` alone is not enough. Also with modules that
    lie where no watcher would look for them."""
    sandbox.write("pytest.ini", f"[pytest]\npythonpath = {place}\n")
    sandbox.write(f"{place}/a.py", "VALUE = 1\n")
    sandbox.write(f"{place}/b.py", "from a import VALUE\n")
    sandbox.write("tests/test_b.py", "import b\n\ndef test_b():\n    assert b.VALUE == 1\n")
    assert sandbox.same().status == 0
    sandbox.write(f"{place}/a.py", "VALUE = 2\n")
    assert sandbox.same_at_once().status == 1
    sandbox.write(f"{place}/a.py", "VALUE = 1\n")
    assert sandbox.same_at_once().status == 0


def test_c_a_deleted_test_file_is_gone(sandbox: Sandbox) -> None:
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    gone = sandbox.write("test_b.py", "def test_b():\n    pass\n")
    sandbox.same("-v")
    gone.unlink()
    assert "1 passed" in sandbox.same_at_once("-v").stdout


def test_d_any_environment_variable_counts(sandbox: Sandbox) -> None:
    sandbox.write("shop.py", "import os\n\nNAME = os.environ.get('SHOP')\n")
    sandbox.write("test_a.py", "import shop\n\ndef test_a():\n    assert shop.NAME == 'corner'\n")
    sandbox.warm_up(env={"SHOP": "corner"})
    assert sandbox.same_at_once(env={"SHOP": "corner"}).status == 0
    assert sandbox.same_at_once(env={"SHOP": "market"}).status == 1
    assert sandbox.same_at_once().status == 1


def test_e_no_two_runs_draw_the_same_numbers(new_sandbox) -> None:
    """A forked copy of a random generator would give all runs the same 'chance'."""
    sandbox = new_sandbox(environment(also="numpy"))
    sandbox.write(
        "test_a.py",
        """
        import os
        import random
        import secrets
        import uuid

        import numpy

        AT_IMPORT = [random.random(), numpy.random.random()]

        def test_a():
            drawn = [*AT_IMPORT, random.random(), numpy.random.random(), uuid.uuid4().hex,
                     secrets.token_hex(4), numpy.random.default_rng().random(), os.urandom(4).hex()]
            os.write(1, (" ".join(map(str, drawn)) + "\\n").encode())
        """,
    )
    sandbox.write("warm_numpy.py", "import numpy.random\n")
    arguments = ("-s", "-q", "-p", "warm_numpy")
    # One thread: a package that starts some is not kept in a process that is to be forked.
    env = {"PYTHONPATH": str(sandbox.project), "OPENBLAS_NUM_THREADS": "1"}
    sandbox.warm_up(*arguments, env=env)
    runs = [sandbox.warm(*arguments, env=env).stdout.split("\n")[0].split() for _ in range(3)]
    assert all(len(run) == 8 for run in runs), runs
    for column in zip(*runs):
        assert len(set(column)) == len(runs), column


def test_f_what_a_test_changes_is_gone_in_the_next_run(sandbox: Sandbox) -> None:
    sandbox.write("shop.py", "OPEN = True\n")
    sandbox.write(
        "test_a.py",
        """
        import json
        import os
        import sys

        import shop

        def test_a():
            assert shop.OPEN and not hasattr(json, "changed") and "CHANGED" not in os.environ
            shop.OPEN = False
            json.changed = True
            os.environ["CHANGED"] = "1"
            sys.path.append("/changed")
            os.chdir("/")
            os.umask(0)

        def test_b():
            assert "/changed" in sys.path
        """,
    )
    assert sandbox.same().status == 0
    assert sandbox.same_warm().status == 0


BREAKPOINT = """
    def test_a():
        answer = 42
        breakpoint()
        assert answer == 42
    """


def test_g_breakpoint_without_input(sandbox: Sandbox) -> None:
    sandbox.write("test_a.py", BREAKPOINT)
    sandbox.warm_up()
    sandbox.same_warm()
    sandbox.same_warm(input=b"p answer\nc\n", at="P0")
    sandbox.same_warm("-s", input=b"p answer\nc\n")
    sandbox.same_warm()


def test_g_breakpoint_on_a_terminal(sandbox: Sandbox) -> None:
    sandbox.write("test_a.py", BREAKPOINT)
    sandbox.warm_up()
    shown = []
    for program in (sandbox.pytest, sandbox.pyseidon, sandbox.pyseidon):
        with sandbox.terminal(program) as terminal:
            terminal.expect(r"\(Pdb\) ")
            terminal.type("p answer + 1\n")
            terminal.expect(r"43\r\n\(Pdb\) ")
            terminal.type("c\n")
            assert terminal.finish() == 0
            shown.append(terminal.shown())
    assert shown[1] == shown[0]
    assert shown[2] == shown[0]
    sandbox.same_warm("-k", "nothing")


def test_h_the_run_after_an_interrupted_one_starts_at_once(sandbox: Sandbox) -> None:
    sandbox.write_beacon()
    sandbox.write(
        "test_a.py",
        """
        import beacon

        def test_holds():
            beacon.hold("in the test")

        def test_quick():
            pass
        """,
    )
    sandbox.warm_up("-k", "quick")
    interrupted = sandbox.start(sandbox.pyseidon, "-k", "holds")
    sandbox.rendezvous.wait_for_hold("in the test").close()
    interrupted.send_signal(signal.SIGINT)
    # Not even waiting for the first one to be gone.
    begin = time.monotonic()
    sandbox.warm("-k", "quick")
    # It takes some 50 ms. The test above would hold it up for ever, a restart for half a second.
    took = time.monotonic() - begin
    assert sandbox.finish(interrupted).status == 2
    assert took < 5


def test_i_two_at_once_do_not_wait_for_each_other(sandbox: Sandbox) -> None:
    sandbox.write_beacon()
    sandbox.write(
        "test_a.py",
        """
        import beacon

        def test_holds():
            beacon.hold("in the test")
        """,
    )
    sandbox.warm_up("--co")
    one = sandbox.start(sandbox.pyseidon)
    sandbox.rendezvous.wait_for_hold("in the test").close()
    two = sandbox.start(sandbox.pyseidon)
    sandbox.rendezvous.wait_for_hold("in the test").close()
    sandbox.rendezvous.let_go(2)
    outcomes = [sandbox.finish(one), sandbox.finish(two)]
    assert [outcome.status for outcome in outcomes] == [0, 0], outcomes


def test_j_no_tests_are_not_a_success(sandbox: Sandbox) -> None:
    assert sandbox.same().status == 5
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    assert sandbox.same_at_once("-k", "nothing").status == 5


def test_k_raw_output_reaches_the_caller(sandbox: Sandbox) -> None:
    sandbox.write(
        "test_a.py",
        r"""
        import os
        import sys

        def test_a():
            os.write(1, b"raw\x00\xff\n")
            os.write(2, b"raw error\n")
            print("printed", flush=True)
            os.system("echo from a child")
            sys.stderr.write("no newline")
        """,
    )
    plain = sandbox.same("-s")
    assert "raw\x00\\xff" in plain.stdout
    assert "from a child" in plain.stdout


def test_l_coverage_counts_what_it_counts_cold(new_sandbox) -> None:
    sandbox = new_sandbox(environment(pytest="8.4.2", also="few"))
    sandbox.write("pytest.ini", "[pytest]\naddopts = --cov=shop --cov-report=term-missing\n")
    sandbox.write(
        "shop.py", "import json\n\nA = 1\n\ndef sell():\n    return A\n\ndef buy():\n    return 2\n"
    )
    sandbox.write("conftest.py", "import shop\n")
    sandbox.write("test_a.py", "import shop\n\ndef test_a():\n    assert shop.sell() == 1\n")
    plain = sandbox.same()
    assert "TOTAL" in plain.stdout
    assert ".coverage" in plain.files
    sandbox.same_warm()


def test_m_a_pipe_that_captured_the_first_run_ends(sandbox: Sandbox) -> None:
    """The daemon that the first run has started lives on and holds nothing of it."""
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    process = sandbox.start(sandbox.pyseidon)
    # Reads to the end of both pipes.
    assert sandbox.finish(process, timeout=20).status == 0
    sandbox.until_ready()


def test_n_warnings_as_errors_with_plugins(new_sandbox) -> None:
    sandbox = new_sandbox(environment(pytest="8.4.2", also="plugins"))
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    for arguments in (("-W", "error"), ("-W", "error::DeprecationWarning"), ()):
        first = sandbox.first(*arguments)
        plain = sandbox.plain(*arguments)
        assert_same(plain, first, f"{arguments}")
        assert_same(plain, sandbox.first(*arguments), f"{arguments}, again")
    sandbox.until_ready()
    sandbox.same_warm()
