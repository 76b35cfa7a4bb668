"""Virtual environments in which the product is installed as a user would install it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .interpreters import DEFAULT, interpreters

REPOSITORY = Path(__file__).resolve().parents[2]
WORK = REPOSITORY / ".work"
REQUIREMENTS = REPOSITORY / "tests" / "requirements"

# Every line of pytest that is supported, by its last release.
PYTESTS = ["7.4.4", "8.0.2", "8.1.2", "8.2.2", "8.3.5", "8.4.2", "9.0.3", "9.1.1", "9.2.0"]


def newest_pytest(python: str) -> str:
    # pytest 9 wants Python 3.10.
    return "8.4.2" if python == "3.9" else PYTESTS[-1]


def wheel() -> Path:
    """The wheel under test: the one that `make wheel` has built."""
    found = sorted((WORK / "dist").glob("pyseidon-*.whl"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError("no wheel in `.work/dist`: run `make wheel`")
    return found[-1]


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    root: Path

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def python(self) -> Path:
        return self.bin / "python"

    @property
    def site_packages(self) -> Path:
        [path] = (self.root / "lib").glob("python3*/site-packages")
        return path

    def pip(self, *arguments: str | Path) -> None:
        # The driver's pip: the subjects have none, as with `uv venv`.
        command = [sys.executable, "-m", "pip", "--python", self.python, *arguments]
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")

    def install(self, *requirements: str | Path) -> None:
        self.pip("install", "--quiet", *requirements)

    def compile(self, empty: Path) -> None:
        """Has a run of pytest write the byte code of what it imports, some of it rewritten, which
        no installer writes. Before that is there nothing is imported ahead of a run's end."""
        command, env = [str(self.bin / "pytest")], {"PATH": os.defpath}
        done = subprocess.run(command, cwd=empty, env=env, capture_output=True, check=False)
        # There are no tests.
        assert done.returncode == 5, done

    def clone(self, to: Path) -> Environment:
        """A copy that a test may spoil, made in half a second."""
        copy = make(to, self.python.resolve())
        shutil.copytree(self.site_packages, copy.site_packages, symlinks=True, dirs_exist_ok=True)
        for script in self.bin.iterdir():
            target = copy.bin / script.name
            if target.exists() or script.is_symlink():
                continue
            # First lines of scripts name the environment.
            content = script.read_bytes().replace(bytes(self.root) + b"/", bytes(to) + b"/")
            if content.startswith(b"\x7fELF"):
                shutil.copy2(script, target)
            else:
                target.write_bytes(content)
                shutil.copymode(script, target)
        return copy


def make(root: Path, python: Path) -> Environment:
    command = [python, "-m", "venv", "--clear", "--without-pip", root]
    subprocess.run([str(word) for word in command], check=True)
    return Environment(root)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Tests run in several processes that share the environments."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def environment(python: str = DEFAULT, pytest: str | None = None, also: str = "") -> Environment:
    """The environment with this Python, this pytest, and `requirements/<also>.txt`.

    Made when it is first asked for; the wheel in it is replaced when there is another one."""
    pytest = pytest or newest_pytest(python)
    name = "-".join(filter(None, [f"py{python}", f"pytest{pytest}", also]))
    env = Environment(WORK / "env" / name)
    requirements = [f"pytest=={pytest}", "-c", str(REQUIREMENTS / "constraints.txt")]
    content = (REQUIREMENTS / "constraints.txt").read_text()
    if also:
        requirements += ["-r", str(REQUIREMENTS / f"{also}.txt")]
        content += (REQUIREMENTS / f"{also}.txt").read_text()
    base = f"{interpreters()[python]} {pytest} {hashlib.sha256(content.encode()).hexdigest()}"
    product = hashlib.sha256(wheel().read_bytes()).hexdigest()
    with _locked(WORK / "env" / f"{name}.lock"):
        stamps = [env.root / "base.stamp", env.root / "product.stamp"]
        if _read(stamps[0]) != base:
            make(env.root, interpreters()[python])
            env.install(*requirements)
            stamps[0].write_text(base)
        if _read(stamps[1]) != product:
            env.install("--no-deps", "--force-reinstall", wheel())
            stamps[1].write_text(product)
    return env


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def write_wheel(
    directory: Path,
    name: str,
    version: str,
    modules: dict[str, str],
    plugin: str | None = None,
    requires: tuple[str, ...] = (),
) -> Path:
    """A wheel of a few modules, without a build backend and so without a network.

    `plugin` names the module that is to be pytest's, by the entry point."""
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    files = {
        **modules,
        f"{info}/METADATA": "\n".join(lines) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if plugin:
        files[f"{info}/entry_points.txt"] = f"[pytest11]\n{name} = {plugin}\n"
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
    return path
