"""What ends a process that builds or serves, and what leaves it alone."""

from __future__ import annotations

import signal
from typing import Callable

import pytest

from .harness.daemon import processes_with
from .harness.rendezvous import eventually
from .harness.sandbox import Sandbox

pytestmark = pytest.mark.product

HANGS = """
    import os

    while os.path.exists({flag!r}):
        pass
    """


def test_stop_ends_a_plugin_that_hangs(sandbox: Sandbox) -> None:
    """It hangs in the checkpoint only: the plain run before was over when the flag came up."""
    flag = sandbox.base / "flag"
    sandbox.write("hangs.py", HANGS.format(flag=str(flag)))
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    sandbox.write_beacon()
    # The checkpoints are built when the run is over.
    sandbox.write("conftest.py", "import beacon\n\ndef pytest_unconfigure(): beacon.hold('over')\n")
    sandbox.env["PYTHONPATH"] = str(sandbox.project)
    process = sandbox.start(sandbox.pyseidon, "-p", "hangs")
    sandbox.rendezvous.wait_for_hold("over").close()
    flag.touch()
    sandbox.rendezvous.let_go()
    assert sandbox.finish(process).status == 0
    eventually(
        lambda: [c for c in sandbox.daemon.status().checkpoints if c.level == "P0" and c.pid],
        "a builder that is known",
    )
    sandbox.daemon.stop()
    eventually(lambda: not processes_with(str(sandbox.runtime)), "no process")


@pytest.fixture
def prepared(sandbox: Sandbox) -> Sandbox:
    sandbox.write_beacon()
    sandbox.write("test_a.py", "import beacon\n\ndef test_a():\n    beacon.hold('holds')\n")
    sandbox.warm_up("--co")
    return sandbox


def at_once(sandbox: Sandbox) -> Callable[[], object]:
    return lambda: True


def when_it_is_known(sandbox: Sandbox) -> Callable[[], object]:
    before = sandbox.last_run().raw["id"]
    return lambda: sandbox.last_run().raw["id"] > before


def when_it_has_a_worker(sandbox: Sandbox) -> Callable[[], object]:
    before = sandbox.last_run().raw["id"]
    return lambda: sandbox.last_run().raw["id"] > before and sandbox.last_run().raw["pid"]


def when_it_has_begun(sandbox: Sandbox) -> Callable[[], object]:
    def has_begun() -> bool:
        sandbox.rendezvous.wait_for_hold("holds").close()
        return True

    return has_begun


@pytest.mark.parametrize(
    "moment", [at_once, when_it_is_known, when_it_has_a_worker, when_it_has_begun]
)
def test_a_killed_client_costs_no_checkpoint(prepared: Sandbox, moment) -> None:
    before = {c.pid for c in prepared.daemon.status().checkpoints}
    for _ in range(4):
        has_come = moment(prepared)
        run = prepared.start(prepared.pyseidon)
        eventually(has_come, "the moment")
        run.send_signal(signal.SIGKILL)
        prepared.finish(run)
    prepared.same_warm("--co")
    assert {c.pid for c in prepared.daemon.status().checkpoints} == before
