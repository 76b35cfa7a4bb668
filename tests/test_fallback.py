"""Whatever is wrong with the tool, pytest runs: plainly, with one line that says why, and once."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import socket
import struct
from pathlib import Path

import pytest

from .harness.daemon import processes_with
from .harness.outcome import Outcome, assert_same
from .harness.rendezvous import eventually
from .harness.sandbox import Sandbox

pytestmark = pytest.mark.product

PREFIX = "pyseidon: running plain pytest: "


@pytest.fixture
def project(sandbox: Sandbox) -> Sandbox:
    fill(sandbox)
    return sandbox


def fill(sandbox: Sandbox) -> None:
    sandbox.write("pytest.ini", "[pytest]\n")
    sandbox.write(
        "test_a.py",
        """
        import os

        def test_a():
            with open(os.environ["COUNT"], "a") as count:
                count.write(".")
            assert os.environ.get("FAIL") is None
        """,
    )
    sandbox.env["COUNT"] = str(sandbox.base / "count")


def falls_back(sandbox: Sandbox, because: str, *arguments: str, **how) -> Outcome:
    """The answer is plain pytest's, the tests ran once, and one line on stderr says why."""
    plain = sandbox.plain(*arguments, **how)
    count = Path(sandbox.env["COUNT"])
    count.unlink()
    outcome = sandbox.first(*arguments, **how)
    assert count.read_text() == ".", "how often the tests ran"
    line, _, rest = outcome.stderr.partition("\n")
    assert line.startswith(PREFIX), outcome
    assert because in line, outcome
    outcome.stderr = rest
    assert_same(plain, outcome)
    return outcome


def is_silent(sandbox: Sandbox, *arguments: str, **how) -> None:
    """Plain pytest without a word and without a daemon."""
    sandbox.same_at_once(*arguments, **how)
    assert not processes_with(str(sandbox.runtime))
    assert not (sandbox.runtime / "pyseidon").exists()


# ------------------------------------------------------------------ asked for


@pytest.mark.parametrize(
    "env",
    [
        {"PYSEIDON": "0"},
        {"PYSEIDON": None, "CI": "true"},
        {"PYSEIDON": None, "CI": "1"},
        {"PYSEIDON": "0", "CI": "true"},
        {"PYSEIDON": "", "CI": "true"},
        {"PYTHONHASHSEED": "random"},
    ],
    ids=str,
)
def test_plain_pytest_is_asked_for(project: Sandbox, env: dict[str, str | None]) -> None:
    is_silent(project, env=env)


@pytest.mark.parametrize(
    "env",
    [
        {"PYSEIDON": "1", "CI": "true"},
        {"PYSEIDON": None},
        {"PYSEIDON": None, "CI": ""},
        {"PYTHONHASHSEED": ""},
    ],
    ids=str,
)
def test_it_is_not(project: Sandbox, env: dict[str, str | None]) -> None:
    project.same(env=env)


def test_a_daemon_that_runs_is_not_used_then(project: Sandbox) -> None:
    project.warm_up()
    before = len(project.daemon.status().runs)
    project.same_at_once(env={"PYSEIDON": "0"})
    assert len(project.daemon.status().runs) == before


def test_arguments_that_can_be_read_only_once(project: Sandbox) -> None:
    """`@<(…)`: who has read them must run them."""
    project.write("sub/other.ini", "[pytest]\n")
    project.warm_up("-v")
    outcomes = []
    for program in (project.pytest, project.pyseidon):
        reading, writing = os.pipe()
        os.write(writing, b"-c\nsub/other.ini\n")
        os.close(writing)
        outcomes.append(project.run(program, f"@/dev/fd/{reading}", pass_fds=[reading]))
        os.close(reading)
    assert "configfile: other.ini" in outcomes[0].stdout
    assert_same(*outcomes)
    # A file can be read again.
    project.write("arguments", "-q\n")
    project.same("@arguments")


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_limited_memory(project: Sandbox, limit: str) -> None:
    """A worker has more of either than a process of its own."""
    project.warm_up()
    which = getattr(resource, limit)

    def lower() -> None:
        resource.setrlimit(which, (1 << 32, resource.getrlimit(which)[1]))

    runs = len(project.daemon.status().runs)
    assert_same(project.plain(before=lower), project.first(before=lower))
    assert len(project.daemon.status().runs) == runs


def test_the_tests_see_their_exit_status(project: Sandbox) -> None:
    """Also where the tool is not used: the very process that was started becomes pytest."""
    assert project.same_at_once(env={"PYSEIDON": "0", "FAIL": "1"}).status == 1


# ------------------------------------------------------------------ the runtime directory


def test_no_permission_for_the_runtime_directory(project: Sandbox) -> None:
    """Somebody else's `pyseidon` is in the way."""
    directory = project.runtime / "pyseidon"
    directory.mkdir(mode=0o700)
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(directory, 65534, 65534)
    try:
        falls_back(project, "belongs to user `65534` (hint: remove it, or name another directory")
    finally:
        os.chown(directory, os.geteuid(), os.getegid())


def test_open_runtime_directory(project: Sandbox) -> None:
    (project.runtime / "pyseidon").mkdir()
    (project.runtime / "pyseidon").chmod(0o777)
    directory = project.runtime / "pyseidon"
    falls_back(project, f"its mode is `777`, not `700` (hint: `chmod 700 {directory}`)")
    assert not processes_with(str(project.runtime))


def test_link_in_place_of_the_runtime_directory(project: Sandbox) -> None:
    target = project.base / "target"
    target.mkdir(mode=0o700)
    (project.runtime / "pyseidon").symlink_to(target)
    falls_back(project, "not a directory")
    assert list(target.iterdir()) == []


def test_file_in_place_of_the_runtime_directory(project: Sandbox) -> None:
    (project.runtime / "pyseidon").write_text("in the way")
    falls_back(project, "not a directory")


def test_runtime_directory_that_cannot_be_written(project: Sandbox) -> None:
    project.runtime.chmod(0o500)
    falls_back(project, "ermission", before=obey_permissions)


def obey_permissions() -> None:
    """Root may write anywhere, by a capability: the next program is started without it."""
    PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):
        raise OSError("the capability cannot be dropped")


@pytest.mark.parametrize("value", ["/no/such/directory", "relative", "", None])
def test_no_usable_runtime_directory_of_the_session(project: Sandbox, value: str | None) -> None:
    """The user's own directory below `/tmp` takes its place, and is as private."""
    common = Path(f"/tmp/pyseidon-{os.geteuid()}")
    how = {"env": {"XDG_RUNTIME_DIR": value}}
    project.env.pop("XDG_RUNTIME_DIR")
    # Our own processes are found by the environment, so the tag goes elsewhere.
    project.env["TAG"] = str(project.runtime)
    project.same_at_once(**how)
    stat = common.lstat()
    assert (stat.st_uid, stat.st_mode & 0o777) == (os.geteuid(), 0o700)
    project.daemon.command("stop", env=how["env"])


def test_path_too_long_for_a_socket(project: Sandbox) -> None:
    long = project.base / ("long" * 25)
    long.mkdir(mode=0o700)
    project.env["TAG"] = str(project.runtime)
    project.env["XDG_RUNTIME_DIR"] = str(long)
    project.same()
    assert len(str(project.daemon.status().socket)) < 107
    project.daemon.stop()


def test_runtime_directory_is_private(project: Sandbox) -> None:
    project.first()
    directory = project.runtime / "pyseidon"
    assert directory.stat().st_mode & 0o777 == 0o700
    for path in directory.iterdir():
        assert path.lstat().st_uid == os.geteuid()


# ------------------------------------------------------------------ what is at the other end


def the_socket(sandbox: Sandbox) -> Path:
    """Where the daemon of this project listens; nobody does any more."""
    sandbox.first()
    path = sandbox.daemon.status().socket
    pid = sandbox.daemon.status().pid
    sandbox.daemon.stop()
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "an end of the daemon")
    path.unlink(missing_ok=True)
    return path


def impostor(path: Path, says: bytes, uid: int | None = None) -> int:
    """A process that listens there and answers every connection with these bytes."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid:
        os.close(tell)
        os.read(ready, 1)
        os.close(ready)
        return pid
    try:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        if uid is not None:
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        # The kernel notes the listener's owner here.
        listener.listen()
        os.write(tell, b".")
        os.close(tell)
        while True:
            connection, _ = listener.accept()
            try:
                connection.sendall(says)
                while connection.recv(65536):
                    pass
            except OSError:
                pass
            connection.close()
    finally:
        os._exit(0)


@pytest.mark.parametrize(
    "says",
    [
        pytest.param(b"", id="silence"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="another protocol"),
        pytest.param(b"\xff" * 64, id="oversized message"),
        pytest.param(struct.pack("<II", 3, 0) + b"\xff\xff\xff", id="malformed message"),
        pytest.param(struct.pack("<II", 0, 200), id="missing descriptors"),
        pytest.param(os.urandom(4096), id="noise"),
    ],
)
def test_garbage_from_the_socket(project: Sandbox, says: bytes) -> None:
    path = the_socket(project)
    pid = impostor(path, says)
    try:
        falls_back(project, "")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        path.unlink(missing_ok=True)
    project.same_at_once()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_socket_of_another_user(project: Sandbox) -> None:
    """Nothing of the run is handed to it: not even the environment."""
    path = the_socket(project)
    pid = impostor(path, b"", uid=65534)
    try:
        falls_back(project, "user")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        path.unlink(missing_ok=True)


def speak(path: Path, *messages: bytes) -> bytes:
    """What the daemon answers, to the end of the connection."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        answer = b""
        try:
            for message in messages:
                connection.sendall(message)
            while data := connection.recv(65536):
                answer += data
        except (BrokenPipeError, ConnectionResetError):
            pass
        return answer


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another protocol"),
        pytest.param(b"\xff" * 8, id="oversized"),
        pytest.param(struct.pack("<II", 64 << 20, 0), id="announced as oversized"),
        pytest.param(struct.pack("<II", 2, 0) + b"\xff\xff", id="malformed"),
        pytest.param(struct.pack("<II", 2, 250) + b"\0\0", id="descriptors that did not come"),
    ],
)
def test_garbage_to_the_daemon(project: Sandbox, message: bytes) -> None:
    """It ends that connection and no other."""
    project.warm_up()
    status = project.daemon.status()
    speak(status.socket, message)
    project.same_warm()
    assert project.daemon.status().pid == status.pid


def test_connections_that_say_nothing(project: Sandbox) -> None:
    """Sixty of them, held open and half-spoken."""
    project.warm_up()
    path = project.daemon.status().socket
    idle = []
    for number in range(60):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        connection.sendall(b"\x10\0\0\0"[: number % 5])
        idle.append(connection)
    project.same_warm()
    for connection in idle:
        connection.close()


# ------------------------------------------------------------------ a broken installation


def test_no_daemon_program(own_sandbox: Sandbox) -> None:
    fill(own_sandbox)
    (own_sandbox.environment.bin / "pyseidon-daemon").unlink()
    falls_back(own_sandbox, "pyseidon-daemon")


def test_extension_that_cannot_be_loaded(own_sandbox: Sandbox) -> None:
    """The first run is plain as always; the later ones say why they are."""
    fill(own_sandbox)
    [extension] = (own_sandbox.environment.site_packages / "pyseidon").glob("_zygote*.so")
    extension.write_bytes(b"not an extension")
    plain = own_sandbox.plain()
    for _ in range(3):
        outcome = own_sandbox.first()
        lines = outcome.stderr.splitlines()
        assert len(lines) <= 1
        assert all(line.startswith(PREFIX) for line in lines)
        outcome.stderr = ""
        assert_same(plain, outcome)


def test_no_package(own_sandbox: Sandbox) -> None:
    """The programs are there and their Python half is not."""
    fill(own_sandbox)
    shutil.rmtree(own_sandbox.environment.site_packages / "pyseidon")
    falls_back(own_sandbox, "pyseidon")


def test_no_pytest(own_sandbox: Sandbox) -> None:
    """As a shell says it of a missing command."""
    own_sandbox.pytest.unlink()
    outcome = own_sandbox.first(env={"PATH": "/usr/bin:/bin"})
    assert outcome.status == 127
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("pyseidon: error: ")
    assert "hint: " in outcome.stderr


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("/nonexistent/python", "does not exist"),
        ("/bin/ls", "there is no `pytest` beside `/bin/ls`"),
        ("python-of-nobody", "is not on `PATH`"),
    ],
)
def test_python_without_pytest(project: Sandbox, python: str, words: str) -> None:
    """A wish that cannot be met is an error: any other pytest would be the wrong one."""
    outcome = project.first(env={"PYSEIDON_PYTHON": python})
    assert (outcome.status, outcome.stdout) == (127, "")
    said, _, hint = outcome.stderr.partition("\n\nhint: ")
    assert said.startswith("pyseidon: error: ")
    assert python in said
    assert words in said
    assert "`PYSEIDON_PYTHON`" in hint
    done = project.daemon.command("start", env={"PYSEIDON_PYTHON": python})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == outcome.stderr.removeprefix("pyseidon: ")


def test_pytest_that_is_no_python_script(own_sandbox: Sandbox) -> None:
    """A wrapper of the user's: it is run as it is."""
    fill(own_sandbox)
    script = own_sandbox.pytest
    real = script.with_name("real-pytest")
    script.rename(real)
    script.write_text(f'#!/bin/sh\necho wrapped\nexec {real} "$@"\n')
    script.chmod(0o755)
    falls_back(own_sandbox, "")


def test_limits_too_low_for_a_daemon(project: Sandbox) -> None:
    """So few descriptors that it may not even get its socket: the answer is right all the same."""
    import resource

    for number in (6, 10, 20, 64):
        how = {"before": lambda n=number: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))}
        plain = project.plain(**how)
        outcome = project.first(**how)
        outcome.stderr = "".join(
            line for line in outcome.stderr.splitlines(True) if not line.startswith(PREFIX)
        )
        assert_same(plain, outcome, f"with {number} descriptors")
