"""Where and with what a run is started: directories, links, inherited descriptors, chance."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from .harness.environments import environment
from .harness.outcome import Outcome, assert_same
from .harness.sandbox import Sandbox

WHERE = """
    import os
    import sys

    def test_where():
        print(os.getcwd(), os.environ.get("PWD"), __file__, sys.path[0], os.path.realpath("."))
        assert 0
    """

MAIN = """
    import __main__
    import sys

    def test_main():
        frame = sys._getframe()
        while frame.f_back:
            frame = frame.f_back
        print(__main__.__file__, __main__.__loader__.path, frame.f_code.co_filename)
        print(sys.argv, getattr(sys, "orig_argv", None))
        print([path for path in sys.path_importer_cache if path.endswith("pytest")])
        assert 0
    """


def test_directory_by_a_link(sandbox: Sandbox) -> None:
    """The shell's idea of where it is (`PWD`) and the kernel's both arrive."""
    sandbox.write("pytest.ini", "[pytest]\n")
    sandbox.write("deep/test_where.py", WHERE)
    link = sandbox.base / "link"
    link.symlink_to(sandbox.project / "deep")
    how = {"cwd": link, "env": {"PWD": str(link)}}
    sandbox.warm_up(**how)
    sandbox.same_warm(**how)
    # These have another root directory for pytest.
    sandbox.same_at_once(str(link / "test_where.py"), **how)
    sandbox.same_at_once("../link/test_where.py", **how)


@pytest.mark.product
@pytest.mark.parametrize(
    "spelled", ["{up}/env/bin", "{base}//env/bin", "{base}/project/../env/bin", "./link/bin"]
)
def test_commands_by_another_spelling(sandbox: Sandbox, spelled: str) -> None:
    """As a shell starts what is typed, or found by a relative entry of `PATH`."""
    (sandbox.base / "env").symlink_to(sandbox.environment.root)
    (sandbox.project / "link").symlink_to(sandbox.environment.root)
    sandbox.write("test_where.py", WHERE)
    sandbox.write("test_main.py", MAIN)
    spelled = spelled.format(up="..", base=sandbox.base)

    def run(name: str) -> Outcome:
        # (`Path` would put it straight.)
        return sandbox.run(f"{spelled}/{name}")  # type: ignore[arg-type]

    plain = run("pytest")
    assert_same(plain, run("pyseidon-test"), "the first run")
    sandbox.until_ready()
    assert_same(plain, run("pyseidon-test"), "the warm run")
    sandbox.assert_served("P0")


@pytest.mark.parametrize("place", [".", "deep", "deep/er", "other"])
def test_one_daemon_for_all_directories_of_a_project(sandbox: Sandbox, place: str) -> None:
    sandbox.write("pytest.ini", "[pytest]\n")
    for name in ("test_top.py", "deep/test_where.py", "deep/er/test_er.py", "other/test_o.py"):
        sandbox.write(name, WHERE)
    sandbox.warm_up("-q")
    plain = sandbox.plain("-q", cwd=sandbox.project / place)
    assert_same(plain, sandbox.first("-q", cwd=sandbox.project / place))


def test_what_a_shell_says_of_the_command(sandbox: Sandbox) -> None:
    """A shell tells in `_` by what path it has found a command."""
    sandbox.write("test_a.py", "import os\n\ndef test_a():\n    print(os.environ['_'])\n")
    bash = Path("/bin/bash")
    sandbox.run(bash, "-c", "pyseidon-test; exit $?")
    sandbox.until_ready()
    for spelled in ("{}", str(sandbox.environment.bin / "{}")):
        plain, warm = (
            sandbox.run(bash, "-c", spelled.format(program) + " -s; exit $?")
            for program in ("pytest", "pyseidon-test")
        )
        sandbox.assert_served("P0", warm)
        assert str(sandbox.pytest) in plain.stdout
        assert_same(plain, warm)
    # What does not name us is not ours to change.
    sandbox.same("-s", env={"_": "/usr/bin/env"})


def test_deleted_directory(sandbox: Sandbox) -> None:
    """The shell stands in a directory that somebody has removed."""
    sandbox.write("test_where.py", WHERE)
    sandbox.warm_up()
    outcomes = []
    for program in (sandbox.pytest, sandbox.pyseidon):
        gone = sandbox.base / "gone"
        gone.mkdir()
        run = sandbox.run(
            program, str(sandbox.project), cwd=gone, before=lambda gone=gone: os.rmdir(gone)
        )
        outcomes.append(run)
    assert_same(*outcomes)


def test_unreadable_directory(sandbox: Sandbox) -> None:
    sandbox.write("test_where.py", WHERE)
    sandbox.warm_up()
    sandbox.same_at_once("no_such_directory")
    sandbox.same_at_once(cwd=sandbox.home)


def test_inherited_descriptors(sandbox: Sandbox) -> None:
    """As a shell's `3<file`, or make's job server: the test can use them, nothing else is open."""
    sandbox.write(
        "test_a.py",
        """
        import os

        def test_a():
            os.write(5, os.read(4, 100).upper())
        """,
    )
    sandbox.warm_up("--co")
    for program in (sandbox.pytest, sandbox.pyseidon):
        out, into = os.pipe()
        back, answer = os.pipe()
        os.write(into, b"through a pipe")
        process = sandbox.start(
            program,
            before=lambda out=out, answer=answer: [os.dup2(out, 4), os.dup2(answer, 5)],
            close_fds=False,
        )
        os.close(answer)
        assert sandbox.finish(process).status == 0
        # To the end: nobody else holds the other side.
        with os.fdopen(back, "rb") as reading:
            assert reading.read() == b"THROUGH A PIPE"
        os.close(into)
        os.close(out)
    sandbox.assert_served("P0")


def test_input_from_a_pipe_and_a_file(sandbox: Sandbox) -> None:
    sandbox.write(
        "test_a.py", "import sys\n\ndef test_a():\n    print(sys.stdin.read())\n    assert 0\n"
    )
    sandbox.warm_up("--co", "-s")
    sandbox.same_warm("-s", input=b"from a pipe\n")
    source = sandbox.base / "input"
    source.write_text("from a file\n")
    for program in (sandbox.pytest, sandbox.pyseidon):
        with source.open("rb") as stdin:
            outcome = sandbox.run(program, "-s", stdin=stdin)
            assert "from a file" in outcome.stdout
            # The position is shared with the caller, as it is after any child.
            assert os.lseek(stdin.fileno(), 0, os.SEEK_CUR) == 12


def test_hash_seed_varies(sandbox: Sandbox) -> None:
    """A zygote has one seed for life, so a project gets another zygote from time to time."""
    sandbox.write(
        "test_a.py", "import os\n\ndef test_a():\n    os.write(1, b'%d\\n' % hash('abc'))\n"
    )
    sandbox.warm_up("-sq")
    seen = set()
    for _ in range(45):
        seen.add(sandbox.first("-sq").stdout.split()[0])
        if len(seen) > 1:
            break
        sandbox.until_ready()
    assert len(seen) > 1, "45 runs with the same hash seed"


@pytest.mark.parametrize("seed", ["0", "1", "4294967295"])
def test_hash_seed_that_was_asked_for(sandbox: Sandbox, seed: str) -> None:
    sandbox.write(
        "test_a.py", "def test_a():\n    print(hash('abc'), {'a', 'b', 'c'})\n    assert 0\n"
    )
    sandbox.same(env={"PYTHONHASHSEED": seed})


def test_random_hash_seed_that_was_asked_for(sandbox: Sandbox) -> None:
    sandbox.write(
        "test_a.py", "import os\n\ndef test_a():\n    os.write(1, b'%d\\n' % hash('abc'))\n"
    )
    env = {"PYTHONHASHSEED": "random"}
    runs = {sandbox.first("-sq", env=env).stdout.split()[0] for _ in range(3)}
    assert len(runs) == 3


def test_wrong_hash_seed(sandbox: Sandbox) -> None:
    """The interpreter's own complaint."""
    sandbox.same_at_once(env={"PYTHONHASHSEED": "odd"})


def test_arguments_that_are_not_text(sandbox: Sandbox) -> None:
    sandbox.write(
        "test_a.py", "import sys\n\ndef test_a():\n    print(ascii(sys.argv))\n    assert 0\n"
    )
    sandbox.warm_up()
    for arguments in (
        ["-k", "größe or test_a"],
        ["-k", os.fsdecode(b"\xff or test_a")],
        ["-k", ""],
    ):
        sandbox.same_at_once(*arguments)


def test_very_many_arguments(sandbox: Sandbox) -> None:
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    sandbox.warm_up()
    sandbox.same_warm(*[f"--deselect=test_a.py::test_{n:060}" for n in range(1500)], "-q")


def test_program_reached_by_a_link(sandbox: Sandbox) -> None:
    """`~/bin/pyseidon-test` as a link into the environment: plain pytest by a link is the model."""
    sandbox.write(
        "test_a.py", "import sys\n\ndef test_a():\n    print(sys.path, sys.prefix)\n    assert 0\n"
    )
    sandbox.warm_up()
    directory = sandbox.home / "bin"
    directory.mkdir()
    (directory / "pyseidon-test").symlink_to(sandbox.pyseidon)
    plain = sandbox.plain()
    linked = sandbox.run(directory / "pyseidon-test", env={"PATH": "/usr/bin:/bin"})
    assert linked.status == plain.status, linked
    assert str(sandbox.environment.root) in linked.stdout


def test_environment_moved_away_between_runs(own_sandbox: Sandbox) -> None:
    """No pytest any more: the message of a shell, and its status."""
    sandbox = own_sandbox
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    sandbox.warm_up()
    sandbox.pytest.unlink()
    outcome = sandbox.first() if sandbox.pyseidon.exists() else None
    if outcome:
        assert outcome.status == 127
        assert outcome.stdout == ""
        assert "pytest" in outcome.stderr


def test_cache_directory_cannot_be_written(sandbox: Sandbox) -> None:
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    shutil.rmtree(sandbox.cache)
    sandbox.cache.write_text("in the way")
    sandbox.same()


@pytest.mark.parametrize("option", ["-Xutf8", "-Werror::ResourceWarning", "-OO", "-B"])
def test_options_in_the_first_line_of_the_script(tmp_path: Path, new_sandbox, option: str) -> None:
    sandbox = new_sandbox(environment().clone(tmp_path / "env"))
    lines = sandbox.pytest.read_text().split("\n", 1)
    sandbox.pytest.write_text(f"{lines[0]} {option}\n{lines[1]}")
    sandbox.write(
        "test_a.py",
        """
        import sys

        def test_a():
            print(sys.flags, sys.warnoptions, sys._xoptions)
            raise ValueError
        """,
    )
    sandbox.same()
