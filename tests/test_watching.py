"""Noticed at once: what changes on disk is followed in the background, before anybody asks.

In each test nobody runs anything after the change. That the checkpoint's process ends shows that
it was noticed; then there is a new one, and its answer is plain pytest's.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .harness.environments import Environment
from .harness.namespace import Namespace
from .harness.outcome import assert_same
from .harness.rendezvous import Process, eventually
from .harness.sandbox import Sandbox

pytestmark = pytest.mark.product

PLUGIN = """
import optional_package.word
from tinydep import WORD

try:
    import optional
except ImportError:
    optional = None

def pytest_report_header(config):
    return f"tiny with {WORD}, {optional_package.word.WORD}, {optional and optional.WORD}"
"""


@pytest.fixture
def project(new_sandbox, tiny_environment: Environment, tmp_path: Path) -> Sandbox:
    sandbox = new_sandbox(tiny_environment.clone(tmp_path / "env"))
    packages = sandbox.environment.site_packages
    (packages / "tiny.py").write_text(PLUGIN)
    (packages / "optional_package").mkdir()
    (packages / "optional_package" / "word.py").write_text("WORD = 'plain'\n")
    sandbox.write("pytest.ini", "[pytest]\n")
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    return sandbox


@contextmanager
def noticed(sandbox: Sandbox) -> Iterator[None]:
    """What is done in here makes the daemon let go of what it has."""
    [checkpoint] = sandbox.daemon.status().ready("P0")
    assert checkpoint.pid
    with Process(checkpoint.pid) as process:
        assert process.alive
        yield
        process.wait_gone()


def assert_followed(sandbox: Sandbox, *words: str, **how) -> None:
    """Without a run there is soon a checkpoint again, and it says what plain pytest says. (Which
    comes second: it writes byte code, which is a change too.)"""
    ready = sandbox.daemon.status
    eventually(lambda: ready().ready("P0"), "a checkpoint that was built after the change")
    warm = sandbox.warm(**how)
    plain = sandbox.plain(**how)
    assert_same(plain, warm)
    for word in words:
        assert word in plain.stdout, plain
    sandbox.until_ready()
    sandbox.same_warm(**how)


def test_edited(project: Sandbox) -> None:
    project.warm_up()
    with noticed(project):
        (project.environment.site_packages / "tinydep.py").write_text("WORD = 'edited'\n")
    assert_followed(project, "tiny with edited")


def test_saved_as_editors_do(project: Sandbox) -> None:
    """A new file is put in the place of the old one."""
    project.warm_up()
    packages = project.environment.site_packages
    with noticed(project):
        (packages / "tinydep.py~").write_text("WORD = 'saved'\n")
        (packages / "tinydep.py~").replace(packages / "tinydep.py")
    assert_followed(project, "tiny with saved")


def test_deleted_and_there_again(project: Sandbox) -> None:
    """Nothing can be built in between: that it can again is noticed too."""
    project.warm_up()
    module = project.environment.site_packages / "tinydep.py"
    with noticed(project):
        module.unlink()
    eventually(lambda: project.daemon.status().given_up, "a build that failed")
    module.write_text("WORD = 'back'\n")
    assert_followed(project, "tiny with back")


def test_new_file(project: Sandbox) -> None:
    """A module that was looked for in vain."""
    project.warm_up()
    with noticed(project):
        (project.environment.site_packages / "optional.py").write_text("WORD = 'new'\n")
    assert_followed(project, "plain, new")


def test_many_at_once(project: Sandbox) -> None:
    """As an installation or a checkout: what counts is how it is in the end."""
    packages = project.environment.site_packages
    names = [f"part{number}" for number in range(300)]
    for name in names:
        (packages / f"{name}.py").write_text("WORD = 'old'\n")
    (packages / "tinydep.py").write_text(
        "".join(f"import {name}\n" for name in names) + "WORD = part299.WORD\n"
    )
    project.warm_up()
    with noticed(project):
        for word in ("first", "second", "third"):
            for name in names:
                (packages / f"{name}.py").unlink()
                (packages / f"{name}.py").write_text(f"WORD = '{word} time'\n")
    assert_followed(project, "tiny with third time")


def test_directory_that_goes_and_comes_again(project: Sandbox) -> None:
    """Removed and made anew, then renamed and another one put in its place: a watch goes with its
    directory, so what changes in the new one shows whether there is a new watch."""
    package = project.environment.site_packages / "optional_package"
    word = package / "word.py"
    project.warm_up()
    with noticed(project):
        shutil.rmtree(package)
        package.mkdir()
        word.write_text("WORD = 'again'\n")
    assert_followed(project, "again")
    with noticed(project):
        word.write_text("WORD = 'once more'\n")
    assert_followed(project, "once more")
    with noticed(project):
        package.rename(package.with_name("aside"))
        package.mkdir()
        word.write_text("WORD = 'other'\n")
    assert_followed(project, "other")
    with noticed(project):
        word.write_text("WORD = 'another'\n")
    assert_followed(project, "another")


def test_written_through_a_mapping(project: Sandbox) -> None:
    """The kernel tells nobody. The run itself looks."""
    module = project.environment.site_packages / "tinydep.py"
    module.write_text("WORD = 'old'\n")
    # Python would trust its byte code for a source of the same size and second.
    os.utime(module, (10**9, 10**9))
    project.warm_up()
    assert "tiny with old" in project.same_warm().stdout
    with open(module, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        at = mapped.find(b"old")
        mapped[at : at + 3] = b"new"
        mapped.flush()
        assert "tiny with new" in project.same_at_once().stdout


def test_status_looks_itself(project: Sandbox) -> None:
    """It calls nothing ready that no run would be given, told or not."""
    module = project.environment.site_packages / "tinydep.py"
    module.write_text("WORD = 'old'\n")
    os.utime(module, (10**9, 10**9))
    project.warm_up()
    [former] = project.daemon.status().ready("P0")
    with open(module, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:] = mapped[:].replace(b"old", b"new")
        mapped.flush()
        assert former.pid not in [c.pid for c in project.daemon.status().ready("P0")]
    project.until_ready()
    assert "tiny with new" in project.same_warm().stdout


# ------------------------------------------------------------------ where nothing is told


def watched_inodes(daemon: int) -> set[tuple[int, int]]:
    """Device and inode of each directory in which the daemon has a watch."""
    found = set()
    for info in Path(f"/proc/{daemon}/fdinfo").iterdir():
        try:
            lines = info.read_text().splitlines()
        except FileNotFoundError:
            # A connection that has just been closed, as that of the question for the daemon's pid.
            continue
        for line in lines:
            if line.startswith("inotify "):
                fields = dict(word.split(":", 1) for word in line.split()[1:])
                found.add((int(fields["sdev"], 16), int(fields["ino"], 16)))
    return found


def inode(path: str | Path) -> tuple[int, int]:
    """As `fdinfo` writes it: the kernel's own form of a device number has 20 bits for the minor."""
    data = os.stat(path)
    return os.major(data.st_dev) << 20 | os.minor(data.st_dev), data.st_ino


def skip_without(namespace: Namespace) -> None:
    if namespace.why_not:
        pytest.skip(f"not to be had here: {namespace.why_not}")


def test_no_watch_left(project: Sandbox) -> None:
    """The limit is reached: the directories without a watch are looked at."""
    packages = project.environment.site_packages
    with Namespace(watches=1) as namespace:
        skip_without(namespace)
        project.warm_up(before=namespace.enter)
        watched = watched_inodes(project.daemon.status().pid)
        assert len(watched) == 1 and inode(packages) not in watched
        assert "max_user_watches" in project.log()
        with noticed(project):
            (packages / "tinydep.py").write_text("WORD = 'edited'\n")
        assert_followed(project, "tiny with edited", before=namespace.enter)
        with noticed(project):
            (packages / "optional.py").write_text("WORD = 'new'\n")
        assert_followed(project, "plain, new", before=namespace.enter)
        with noticed(project):
            (packages / "optional.py").unlink()
        assert_followed(project, "plain, None", before=namespace.enter)


def test_changed_by_another_machine(project: Sandbox) -> None:
    """On a network file system: this kernel knows nothing of it, and may even have kept what it
    was told a minute ago."""
    theirs, here = project.base / "theirs", project.base / "here"
    theirs.mkdir()
    here.mkdir()
    (theirs / "tinydep.py").write_text("WORD = 'theirs'\n")
    project.env["PYTHONPATH"] = str(here)
    with Namespace(remote=(theirs, here)) as namespace:
        skip_without(namespace)
        project.warm_up(before=namespace.enter)
        assert "tiny with theirs" in project.same_warm(before=namespace.enter).stdout
        for word in ("edited", "edited again"):
            with noticed(project):
                (theirs / "tinydep.py").write_text(f"WORD = '{word}'\n")
            assert_followed(project, f"tiny with {word},", before=namespace.enter)
        with noticed(project):
            (theirs / "optional.py").write_text("WORD = 'new'\n")
        assert_followed(project, "plain, new", before=namespace.enter)
        project.daemon.stop()


# ------------------------------------------------------------------ nothing in vain

# Plain pytest, and where all lies that it reads or looks for.
READS = """
import contextlib, json, os, sys

seen = set(sys.path)

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        with contextlib.suppress(OSError):
            seen.add(os.path.dirname(os.path.abspath(os.fsdecode(arguments[0]))))

sys.addaudithook(hook)
import pytest

assert pytest.main([]) == 0
for module in list(sys.modules.values()):
    for name in (getattr(module, "__file__", None), getattr(module, "__cached__", None)):
        seen.add(os.path.dirname(name or ""))
with open("/proc/self/maps") as maps:
    seen.update(os.path.dirname(line.split(None, 5)[5]) for line in maps if "/" in line)
for start in (sys.prefix, sys.base_prefix):
    seen.update([start, os.path.join(start, "bin"), os.path.join(start, "lib")])
seen.update(os.path.dirname(os.path.realpath(path)) for path in [sys.executable])
with open(sys.argv[1], "w") as out:
    found = [os.stat(path) for path in seen if os.path.isdir(path)]
    json.dump([[os.major(s.st_dev) << 20 | os.minor(s.st_dev), s.st_ino] for s in found], out)
"""


def test_only_what_was_loaded_is_watched(project: Sandbox) -> None:
    """Not the project, its tests, its repository or what lies beside what was loaded."""
    packages = project.environment.site_packages
    aside = [
        project.write("deep/inside/data.txt").parent,
        project.write(".git/objects/aa/bb").parent,
        project.write("node_modules/one/two/three.js").parent,
        project.project / "deep",
        project.base,
    ]
    (packages / "optional_package" / "never").mkdir()
    (packages / "optional_package" / "never" / "imported.py").write_text("")
    aside.append(packages / "optional_package" / "never")
    project.warm_up()
    project.same_warm()
    watched = watched_inodes(project.daemon.status().pid)
    assert inode(packages) in watched
    assert inode(packages / "optional_package") in watched
    assert not [path for path in aside if inode(path) in watched]

    reads = project.base / "reads.py"
    reads.write_text(READS)
    out = project.base / "read.json"
    project.run(project.environment.python, "-I", str(reads), str(out))
    read = {(device, number) for device, number in json.loads(out.read_text())}
    product = {inode(packages / "pyseidon")}
    assert not watched - read - product
