"""Installed in every way that is promised, and what a newcomer without Rust reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from .harness.environments import REPOSITORY, environment, make, wheel
from .harness.interpreters import DEFAULT, interpreters
from .harness.sandbox import Sandbox

PROGRAMS = ["pyseidon", "pyseidon-daemon", "pyseidon-test"]


def cargo_environ() -> dict[str, str]:
    """Shares what cargo has built already, so that only our own crates are built again."""
    target = os.environ.get("CARGO_TARGET_DIR", str(REPOSITORY / "target"))
    return {**os.environ, "CARGO_TARGET_DIR": target, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a source distribution holds, unpacked: all later steps start from that alone."""
    directory = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "build", "--sdist", "--outdir", directory, REPOSITORY]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=cargo_environ()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [archive] = directory.glob("pyseidon-*.tar.gz")
    with tarfile.open(archive) as tar:
        if sys.version_info >= (3, 12):
            tar.extractall(directory, filter="data")
        else:
            tar.extractall(directory)
    return directory / archive.name[: -len(".tar.gz")]


def works(sandbox: Sandbox) -> None:
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    assert sandbox.same().status == 0


@pytest.mark.installs
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("install")
def test_editable_from_the_source_distribution(
    sources: Path, tmp_path: Path, new_sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sdist is complete, and `pip install -e` gives a product that works."""
    env = make(tmp_path / "env", interpreters()[DEFAULT])
    monkeypatch.setattr(os, "environ", cargo_environ())
    env.install("--editable", sources)
    env.install("pytest==8.4.2", "pygments==2.21.0")
    assert list((sources / "pytest_plugin" / "pyseidon").glob("_zygote*.so"))
    works(new_sandbox(env))


@pytest.mark.installs
@pytest.mark.xdist_group("install")
def test_source_distribution_holds_what_the_checkout_holds(sources: Path) -> None:
    for name in ["Cargo.lock", "Makefile", "LICENSE", "README.md", "CHANGELOG.md", ".ci/run"]:
        assert (sources / name).is_file(), name
    for pattern in ("src/**/*.rs", "pytest_plugin/**/*.py", "tests/**/*.py", "fixtures/**/*.py"):
        ours = {str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob(pattern)}
        theirs = {str(path.relative_to(sources)) for path in sources.glob(pattern)}
        assert ours == theirs
        assert ours
    assert not list(sources.rglob("*.pyc"))


@pytest.mark.installs
def test_without_rust(tmp_path: Path) -> None:
    """`pip install .` says what is missing and where to get it."""
    copy = tmp_path / "checkout"
    ignore = shutil.ignore_patterns(".git", ".work", "target", "build", "*.so")
    shutil.copytree(REPOSITORY, copy, ignore=ignore, symlinks=True)
    env = make(tmp_path / "env", interpreters()[DEFAULT])
    tools = tmp_path / "bin"
    tools.mkdir()
    command = [sys.executable, "-m", "pip", "--python", env.python, "install", "--no-deps", copy]
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        # Neither cargo nor rustc: not even by rustup's own directory.
        env={**cargo_environ(), "PATH": "/nowhere", "HOME": str(tmp_path)},
    )
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "Rust" in said, said
    assert "rustup.rs" in said, said


def test_the_wheel(tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel()) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    assert wheel().name.split("-")[2:4] == ["cp39", "abi3"]
    [metadata] = tmp_path.glob("*.dist-info/METADATA")
    assert "Requires-Dist" not in metadata.read_text(), "pytest is the user's"
    # A `pytest11` entry point would show up in every plain run of the environment.
    assert not [name for name in names if name.endswith("entry_points.txt")]
    assert [name for name in names if name.endswith("_zygote.abi3.so")]
    for program in PROGRAMS:
        [path] = tmp_path.glob(f"*.data/scripts/{program}")
        content = path.read_bytes()
        assert content.startswith(b"\x7fELF")
        assert b"libpython" not in content, "only a zygote holds Python"


@pytest.mark.parametrize("python", interpreters())
def test_every_python(new_sandbox, python: str) -> None:
    works(new_sandbox(environment(python)))


def test_plain_pytest_cannot_tell_that_it_is_installed(tmp_path: Path, new_sandbox) -> None:
    sandbox = new_sandbox(environment().clone(tmp_path / "env"))
    sandbox.write(
        "test_a.py",
        """
        import sys

        def test_a():
            assert not [name for name in sys.modules if "pyseidon" in name]
        """,
    )
    with_it = sandbox.plain("-v", "--trace-config")
    sandbox.environment.pip("uninstall", "--yes", "--quiet", "pyseidon")
    without = sandbox.plain("-v", "--trace-config")
    from .harness.outcome import assert_same

    assert_same(without, with_it)


def test_program_starts_fast(sandbox: Sandbox) -> None:
    """No interpreter behind it: a hundred starts in less time than five of Python's."""
    import time

    def seconds(command: list[str], times: int) -> float:
        begin = time.monotonic()
        for _ in range(times):
            subprocess.run(command, capture_output=True, check=True, cwd=sandbox.project)
        return time.monotonic() - begin

    daemon = str(sandbox.environment.bin / "pyseidon-daemon")
    python = str(sandbox.environment.python)
    # The best of three: the machine has other things to do.
    ours = min(seconds([daemon, "--version"], 20) for _ in range(3)) / 20
    theirs = min(seconds([python, "-c", "pass"], 5) for _ in range(3)) / 5
    assert ours < theirs / 2, f"{ours * 1000:.1f} ms; Python {theirs * 1000:.1f} ms"


def test_help_and_version_are_those_of_pytest(sandbox: Sandbox) -> None:
    for option in ("--help", "--version", "-h", "-V", "-VV"):
        plain = sandbox.same_at_once(option)
        assert plain.status == 0
        assert "pyseidon" not in plain.stdout
