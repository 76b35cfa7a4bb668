"""Virtual environments with pinned contents, the wheel, and copies of the projects."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Callable, Optional

import generators

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
PEERS = BENCH / "peers"

FILES_OF_MANY = 20
TESTS_PER_FILE = 10
MANY = FILES_OF_MANY * TESTS_PER_FILE


class Unavailable(Exception):
    """A runner cannot take part; the message says why, in the report."""


@dataclass(frozen=True)
class Selection:
    name: str
    title: str
    arguments: tuple
    expected: int


SELECTIONS = (
    Selection("one", "one test file", ("tests/test_one.py",), 1),
    Selection("many", f"{MANY} trivial tests in {FILES_OF_MANY} files", ("tests/many",), MANY),
)


@dataclass(frozen=True)
class Project:
    name: str
    title: str
    # Installed packages that the original server may load ahead.
    heavy: tuple = ()
    # An option of pytest or of a plugin that makes it write this file: who honours it?
    option: str = "--junitxml=report.xml"
    # Writes the project into a directory, where it is none of those in `projects/`; it then has
    # the requirements, and so the environments, of the project named by `like`.
    generate: Optional[Callable] = None
    like: str = ""
    # By the kind of edit, the file that is edited.
    edited: dict = field(default_factory=dict)

    @property
    def source(self):
        return BENCH / "projects" / self.name

    @property
    def requirements(self):
        return BENCH / "projects" / self.environment / "requirements.txt"

    @property
    def environment(self):
        return self.like or self.name

    @property
    def option_file(self):
        return self.option.partition("=")[2]


PROJECTS = (
    Project("nodeps", "no dependencies"),
    Project("plugins", "17 popular plugins", ("httpx",), "--html=report.html"),
    # Not rest_framework: most of it wants configured settings at import.
    Project("web", "Django and REST framework", ("django.contrib.admin", "django.test")),
    Project("data", "numpy, pandas, scikit-learn", ("numpy", "pandas", "sklearn.pipeline")),
)

LARGE = (
    Project(
        "web-large",
        "Django, 420 own modules",
        ("django.contrib.admin", "django.test"),
        generate=generators.write_web,
        like="web",
        edited=generators.WEB_EDITED,
    ),
    Project(
        "data-large",
        "pandas, scikit-learn, 370 own modules",
        ("numpy", "pandas", "sklearn.pipeline"),
        generate=generators.write_data,
        like="data",
        edited=generators.DATA_EDITED,
    ),
)

SIZES = (100, 300, 1000, 3000, 10000)


def synthetic(count):
    return Project(
        f"synthetic-{count}",
        f"{count:,} modules of the standard library alone",
        generate=partial(generators.write_synthetic, count=count),
        like="nodeps",
    )


def copy_project(project, place):
    """A fresh copy, with the many trivial tests: 20 files, because one file is the other case."""
    shutil.rmtree(place, ignore_errors=True)
    if project.generate:
        project.generate(place)
    else:
        shutil.copytree(project.source, place, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    many = place / "tests" / "many"
    many.mkdir()
    for file in range(FILES_OF_MANY):
        lines = ["from app.service import answer\n"]
        for test in range(TESTS_PER_FILE):
            number = file * TESTS_PER_FILE + test
            lines.append(
                f"\n\ndef test_{file:02}_{test}():\n    assert answer({number}) == {number + 1}\n"
            )
        (many / f"test_many_{file:02}.py").write_text("".join(lines))


def read_pins(*files):
    """Name to requirement; a later file wins, and comments are left out."""
    pins = {}
    for file in files:
        for line in Path(file).read_text().splitlines():
            if line and not line.startswith("#"):
                pins[line.partition("==")[0].lower().replace("_", "-")] = line
    return pins


@dataclass
class Environments:
    """Below `work`; each is made once and again when what is in it changes."""

    work: Path
    wheel: Path
    log: object
    failures: dict = field(default_factory=dict)

    def get(self, name, pins, wheel=None):
        """The directory of the environment `name`, holding exactly `pins` and the wheel."""
        if name in self.failures:
            raise Unavailable(self.failures[name])
        place = self.work / "venvs" / name
        wanted = "\n".join(sorted(pins.values()))
        if wheel:
            wanted += "\n" + hashlib.sha256(wheel.read_bytes()).hexdigest()
        wanted = f"{sys.version}\n{wanted}\n"
        stamp = place / "bench-contents.txt"
        if stamp.exists() and stamp.read_text() == wanted:
            return place
        self.log(f"making the environment {name}")
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, with_pip=True, symlinks=True)
        try:
            pip(place, *sorted(pins.values()), *([wheel] if wheel else []))
        except Unavailable as error:
            self.failures[name] = str(error)
            raise
        stamp.write_text(wanted)
        return place

    def main(self, project):
        """The project with Pyseidon: what plain pytest and we run in."""
        pins = read_pins(project.requirements)
        return self.get(f"{project.environment}-main", pins, self.wheel)

    def with_peer(self, project, peer, older_pytest=False):
        """The project with a peer. The pins of the project win."""
        own = read_pins(project.requirements)
        if older_pytest:
            own.update({n: p for n, p in read_pins(PEERS / "pytest8.txt").items() if n in own})
        return self.get(
            f"{project.environment}-{peer}", {**read_pins(PEERS / f"{peer}.txt"), **own}
        )

    def tool(self, peer):
        """A peer that is a program of its own, which is told the project's interpreter."""
        return self.get(peer, read_pins(PEERS / f"{peer}.txt"))


def pip(place, *requirements):
    """Installs with the caller's own pip configuration, and nothing else of the caller's."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_"))}
    # --prefer-binary and exact pins: what is missing for this Python fails early and says so.
    command = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--prefer-binary"]
    command += ["--disable-pip-version-check", *requirements]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = said[0].removeprefix("ERROR: ") if said else "pip failed"
        raise Unavailable(f"does not install: {why}")


def find_wheel(given, work, log):
    """The wheel named on the command line, else the one of `make wheel`, else a new one."""
    if given:
        return Path(given).resolve()
    made = newest(ROOT / ".work" / "dist")
    if made:
        return made
    log("building the wheel")
    place = work / "dist"
    shutil.rmtree(place, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", place, ROOT]
    subprocess.run(command, check=True)
    return newest(place)


def newest(place):
    wheels = sorted(place.glob("pyseidon-*.whl"), key=lambda wheel: wheel.stat().st_mtime)
    return wheels[-1] if wheels else None
