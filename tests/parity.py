"""`make parity`: the test suites of real packages, by plain pytest and by pyseidon-test.

    make parity                      all of them
    make parity ARGS='click flask'   some
    make parity ARGS=--list          which there are

Each package's source distribution is unpacked, its suite is run by plain pytest twice (what these
two differ in is the suite's own chance and is left out of all comparisons), then by pyseidon-test:
cold, warm, warm again. Status, stdout, stderr and files written have to be the same.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from .harness.environments import REQUIREMENTS, WORK, Environment, make, wheel
from .harness.interpreters import DEFAULT, interpreters
from .harness.outcome import Outcome
from .harness.sandbox import Sandbox


@dataclass(frozen=True)
class Suite:
    package: str
    """Name and version, as pip takes it."""
    arguments: tuple[str, ...] = ("tests", "-q")
    requires: tuple[str, ...] = ()
    pytest: str = "8.4.2"

    @property
    def name(self) -> str:
        return self.package.split("==")[0].split("[")[0]


# Of many kinds: doctests, hypothesis, plugins, pytester, warnings as errors, flat and src layouts.
# None takes longer than half a minute.
SUITES = [
    Suite("click==8.1.8", pytest="8.3.5"),
    Suite("itsdangerous==2.2.0", requires=("freezegun",)),
    Suite("markupsafe==3.0.2"),
    Suite("jinja2==3.1.6", requires=("trio==0.28.0",)),
    Suite("flask==3.1.0", requires=("asgiref==3.8.1", "python-dotenv==1.1.0")),
    Suite("packaging==25.0", requires=("pretend==1.0.9",)),
    Suite(
        "pluggy==1.6.0",
        arguments=("testing", "-q", "-p", "no:benchmark"),
        requires=("pytest-benchmark",),
    ),
    Suite("attrs==25.3.0", requires=("hypothesis", "cloudpickle==3.1.1")),
    Suite("boltons==25.0.0", arguments=("tests", "boltons", "--doctest-modules", "-q")),
    Suite("sqlparse==0.5.3"),
    Suite("marshmallow==3.26.1", requires=("pytz==2025.2", "simplejson==3.20.1")),
    Suite("pytest-mock==3.15.1", requires=("pytest-asyncio",), pytest="8.4.2"),
]


def prepare(suite: Suite) -> tuple[Environment, Path]:
    """The package's environment and its unpacked sources."""
    home = WORK / "parity" / suite.name
    env = Environment(home / "env")
    stamp = home / "stamp"
    wanted = repr(suite)
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(home, ignore_errors=True)
        make(env.root, interpreters()[DEFAULT])
        env.install(
            "-c", REQUIREMENTS / "constraints.txt", *suite.requires, f"pytest=={suite.pytest}"
        )
        env.install(suite.package)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", suite.name, "--dest", str(home), suite.package]
        subprocess.run(command, check=True)
        [archive] = home.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            if sys.version_info >= (3, 12):
                tar.extractall(home / "unpacked", filter="data")
            else:
                tar.extractall(home / "unpacked")
        stamp.write_text(wanted)
    env.install("--no-deps", "--force-reinstall", wheel())
    [sources] = (home / "unpacked").iterdir()
    return env, sources


def check(suite: Suite) -> bool:
    env, sources = prepare(suite)
    sandbox = Sandbox(env)
    try:
        shutil.copytree(sources, sandbox.project, symlinks=True, dirs_exist_ok=True)
        plain, seconds = zip(*(timed(sandbox, sandbox.pytest, suite) for _ in range(2)))
        cold, _ = timed(sandbox, sandbox.pyseidon, suite)
        sandbox.until_ready("Z0")
        runs = [("cold", cold)]
        for number in range(2):
            warm, took = timed(sandbox, sandbox.pyseidon, suite)
            runs.append((f"warm {number + 1}", warm))
        level = sandbox.last_run().checkpoint
        found = {name: lines for name, run in runs if (lines := differences(plain, run))}
        verdict = "differs" if found else "same"
        summary = next((x for x in reversed(plain[0].stdout.splitlines()) if x.strip()), "")
        print(
            f"{verdict:8} {suite.package:24} plain {min(seconds):6.2f} s, warm {took:6.2f} s "
            f"at {level}; {summary.strip('= ')}",
            flush=True,
        )
        for name, lines in found.items():
            print(f"  {name}:")
            for line in lines[:20]:
                print(f"    {line[:160]}")
        return not found and level is not None
    finally:
        sandbox.close()


def timed(sandbox: Sandbox, program: Path, suite: Suite) -> tuple[Outcome, float]:
    begin = time.monotonic()
    outcome = sandbox.run(program, *suite.arguments)
    return outcome, time.monotonic() - begin


def differences(plain: tuple[Outcome, ...], run: Outcome) -> list[str]:
    """Lines that are in no plain run, and lines that are in every plain run and not in this."""
    known = [set(outcome.lines()) for outcome in plain]
    got = set(run.lines())
    more = [f"+ {line}" for line in run.lines() if not any(line in lines for lines in known)]
    less = [
        f"- {line}"
        for line in plain[0].lines()
        if all(line in k for k in known) and line not in got
    ]
    chance = bool(known[0] ^ known[1])
    if chance:
        # Plain runs differ among themselves: what is alike but for digits is theirs as well.
        unstable = {shape(line) for line in known[0] ^ known[1]}
        more = [line for line in more if shape(line[2:]) not in unstable]
        less = [line for line in less if shape(line[2:]) not in unstable]
    return less + more


def shape(line: str) -> str:
    return "".join("0" if c.isdigit() else c for c in line)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="suites to play; all, if none is named")
    parser.add_argument("--list", action="store_true", help="list the suites and end")
    options = parser.parse_args()
    unknown = set(options.names) - {suite.name for suite in SUITES}
    if unknown:
        known = ", ".join(suite.name for suite in SUITES)
        parser.error(f"no suite `{min(unknown)}`\nhint: the suites are {known}")
    chosen = [suite for suite in SUITES if not options.names or suite.name in options.names]
    if options.list:
        print("\n".join(suite.package for suite in chosen))
        return 0
    results = [check(suite) for suite in chosen]
    print(f"{sum(results)} of {len(results)} suites: the same, and warm")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
