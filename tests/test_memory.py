"""What all parked processes take together, and what goes when there is too much of it, or too
little for others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from .harness.rendezvous import eventually
from .harness.sandbox import Sandbox

pytestmark = pytest.mark.product

# Of which 1.5 are aimed at. Each level has a copy of the 10 MB that go on changing until a run
# ends: where as little is imported as here that is half of all, and a Z3 makes it 0.5 more. What
# libraries take counts by the share, so other processes on the machine make it less, and a machine
# without any makes it 0.1 more.
MOST = {"Z2": 1.7, "Z3": 2.4}

# A Z0 is kept for half a minute.
PATIENCE = 90

# In a process of its own, and a small one: the peak that a child is charged with begins with that
# of the process which started it.
PEAK = """
import json, os, sys
argv = json.loads(sys.argv[1])
pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=[
    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, 1, 2)])
_, status, usage = os.wait4(pid, 0)
sys.exit(status) if status else print(usage.ru_maxrss)
"""

# Takes memory until as much is left in its control group as is asked for, and says so.
HOG = """
import sys
taken = []
for line in sys.stdin:
    left, group = line.split()
    while True:
        limit, used = (int(open(f"{group}/{name}").read()) for name in sys.argv[1:3])
        stat = dict(line.split() for line in open(f"{group}/memory.stat"))
        files = sum(int(stat.get(f"total_{kind}", stat.get(kind))) for kind in (
            "inactive_file", "active_file"))
        more = limit - used + files - int(left)
        if more < 1 << 20:
            break
        taken.append(bytearray(b"x") * (more // 2))
    print("taken", flush=True)
"""


@pytest.fixture
def project(sandbox: Sandbox) -> Sandbox:
    sandbox.write("app.py", "def answer():\n    return 42\n")
    sandbox.write(
        "tests/conftest.py",
        """
        import decimal

        import app
        import pytest

        @pytest.fixture
        def number():
            return decimal.Decimal(app.answer())
        """,
    )
    sandbox.write("tests/test_a.py", "def test_a(number):\n    assert number == 42\n")
    sandbox.write("pytest.ini", "[pytest]\npythonpath = .\n")
    # What a run writes is taken away behind it: that alone would end a Z2.
    sandbox.env["PYTHONDONTWRITEBYTECODE"] = "1"
    return sandbox


def document(sandbox: Sandbox) -> dict[str, Any]:
    return sandbox.daemon.status().raw


def until_z0_retired(sandbox: Sandbox) -> None:
    def has_retired() -> bool:
        (root,) = document(sandbox)["roots"]
        levels = [process["level"] for process in root["processes"]]
        return root["z0_retired"] and "Z0" not in levels

    eventually(has_retired, "the end of the Z0", timeout=PATIENCE)


def peak_kib(sandbox: Sandbox, *arguments: str) -> int:
    command = [sys.executable, "-I", "-S", "-c", PEAK]
    command.append(json.dumps([str(sandbox.pytest), *arguments]))
    done = subprocess.run(
        command,
        cwd=sandbox.project,
        env=sandbox.environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def parked_kib(sandbox: Sandbox) -> int:
    (root,) = document(sandbox)["roots"]
    whole = 0
    for process in root["processes"]:
        standby = process["standby"]
        whole += process["pss_kib"] + (standby["pss_kib"] if standby else 0)
    return whole


@pytest.mark.parametrize("named, level", [("tests", "Z2"), ("tests/test_a.py", "Z3")])
def test_all_parked_processes_of_a_root(project: Sandbox, named: str, level: str) -> None:
    """After its runs have taught what a standby is to copy: it takes the most then."""
    project.write("late.py", "import json\n")
    project.write(
        "tests/test_a.py", "import late\n\ndef test_a(number):\n    assert number == 42\n"
    )
    project.first(named)
    for _ in range(5):
        project.until_ready(level)
        project.warm(named, at=level)
    project.until_ready(level)
    until_z0_retired(project)
    (checkpoint,) = project.daemon.status().ready(level)
    assert checkpoint.standby is not None, "it would take less than in a run's way"
    parked, peak = parked_kib(project), peak_kib(project, named)
    assert parked <= MOST[level] * peak, f"{parked} KiB are {parked / peak:.2f} times {peak} KiB"


def test_edits_are_followed_without_a_z0(project: Sandbox) -> None:
    """Of a conftest and its imports by what stands; of an ini file by building all anew."""
    project.warm_up("tests", depth="Z2")
    until_z0_retired(project)
    project.write("app.py", "def answer():\n    return 41\n")
    assert project.same_at_once("tests").status == 1
    project.assert_served("P0")
    project.until_ready("Z2")
    project.same_warm("tests", at="Z2")
    project.write("pytest.ini", "[pytest]\npythonpath = .\naddopts = -v\n")
    project.same_at_once("tests")
    project.until_ready("Z2")
    project.same_warm("tests", at="Z2")


def test_other_options_without_a_z0(project: Sandbox) -> None:
    project.warm_up("tests", depth="Z2")
    project.same_warm("tests", at="Z2")
    until_z0_retired(project)
    other = ("tests", "-p", "no:cacheprovider")
    project.same_at_once(*other)
    assert "not prepared yet" in str(project.last_run().why)
    project.until_ready("Z2")
    project.same_warm(*other)
    project.until_ready("P0")
    project.same_warm("tests")


def test_at_most_three_roots(project: Sandbox) -> None:
    """The least recently used goes, with its processes."""
    roots = {}
    languages = ("C.UTF-8", "C", "POSIX")
    for language in languages:
        project.warm_up("tests", env={"LANG": language})
        (roots[language],) = {root["id"] for root in document(project)["roots"]} - set(
            roots.values()
        )
    project.warm("tests", env={"LANG": languages[0]})
    project.warm_up("tests", env={"LANG": "en_US.UTF-8"})
    left = {root["id"] for root in document(project)["roots"]}
    assert len(left) == 3
    assert roots["C"] not in left
    assert {roots["C.UTF-8"], roots["POSIX"]} < left


class Group:
    """A control group with a limit of memory, and a process in it that takes as much as is
    asked."""

    LIMIT = 1 << 30

    def __init__(self, place: Path, limit: str, usage: str):
        self.place = place
        (place / limit).write_text(str(self.LIMIT))
        self.hog = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", HOG, limit, usage],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=self.enter,
        )

    def enter(self) -> None:
        (self.place / "cgroup.procs").write_text(str(os.getpid()))

    def leave_available(self, share: float) -> None:
        assert self.hog.stdin is not None and self.hog.stdout is not None
        self.hog.stdin.write(f"{int(share * self.LIMIT)} {self.place}\n")
        self.hog.stdin.flush()
        assert self.hog.stdout.readline() == "taken\n"

    def end_hog(self) -> None:
        self.hog.kill()
        self.hog.communicate()


@pytest.fixture
def group() -> Iterator[Group]:
    """Of the second version, or else of the first."""
    made = None
    for base, limit, usage in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        place = None
        with suppress(OSError):
            place = Path(tempfile.mkdtemp(prefix="psd-", dir=base))
            if (place / limit).exists():
                made = Group(place, limit, usage)
                break
        if place is not None:
            place.rmdir()
    if made is None:
        pytest.skip("no control group with a limit of memory can be made here")
    yield made
    made.end_hog()

    def is_empty() -> bool:
        with suppress(OSError):
            made.place.rmdir()
        return not made.place.exists()

    # What the daemon has left ends soon after it.
    eventually(is_empty, "the end of all processes in the group", timeout=PATIENCE)


def test_memory_that_is_short(group: Group, project: Sandbox) -> None:
    """Where the group has enough nothing goes; then standbys, then all else; and when there is
    enough again, all comes again."""
    project.first("tests", before=group.enter)
    project.until_ready("Z2")
    eventually(lambda: standbys(project) > 0, "a standby")
    assert document(project)["memory_short"] is None

    group.leave_available(0.085)
    eventually(lambda: standbys(project) == 0, "the end of the standbys")
    shown = document(project)
    assert [gone["what"] for gone in shown["gone"]] == ["the standbys"]
    assert "MiB of the control group are available" in shown["memory_short"]
    assert project.daemon.status().ready("Z2")
    project.warm("tests", at="Z2", before=group.enter)

    group.leave_available(0.02)
    order: list[str] = []

    def is_all_gone() -> bool:
        shown = document(project)
        order[:] = [gone["what"] for gone in shown["gone"]]
        # (What an ended process held is available again, and may be enough for a while.)
        if order[-1] != "a Z2":
            group.leave_available(0.02)
        return not project.daemon.status().deepest()

    eventually(is_all_gone, "the end of all checkpoints", timeout=PATIENCE)
    levels = [what for what in order if what.startswith("a ")]
    assert levels == [what for what in ("a Z0", "a P0", "a Z2") if what in levels]
    assert levels[-1] == "a Z2"
    text = project.daemon.command("status").stdout
    assert "memory is short" in text
    assert "ended a Z2" in text

    group.end_hog()
    eventually(lambda: document(project)["memory_short"] is None, "enough memory")
    project.until_ready("Z2")
    project.warm("tests", at="Z2", before=group.enter)
    project.daemon.stop()


def standbys(sandbox: Sandbox) -> int:
    return sum(c.standby is not None for c in sandbox.daemon.status().checkpoints)
