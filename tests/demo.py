"""`make demo`: the same tests by plain pytest, by a first `pyseidon-test` and by a warm one."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

from .harness.outcome import Outcome, difference
from .harness.projects import load
from .harness.sandbox import Sandbox

SELECTION = ["tests/test_shop.py", "-k", "total"]


def timed(sandbox: Sandbox, program: Path) -> tuple[float, Outcome]:
    begin = time.monotonic()
    outcome = sandbox.finish(sandbox.start(program, *SELECTION))
    return time.monotonic() - begin, outcome


def row(what: str, seconds: float, ratio: float | None = None) -> None:
    bar = "█" * max(1, round(seconds * 15))
    times = f"  {ratio:.1f} times as fast" if ratio else ""
    print(f"  {what:<46}{seconds:7.3f} s  {bar}{times}")


def main() -> int:
    [project] = [project for project in load() if project.name == "demo"]
    print("making an environment with 17 pytest plugins…", flush=True)
    sandbox = Sandbox(project.in_environment())
    try:
        sandbox.copy(project.directory)
        # Compiles everything once, so that nobody is charged for it.
        timed(sandbox, sandbox.pytest)
        print(f"\n  {' '.join(SELECTION)}\n")
        plain = [timed(sandbox, sandbox.pytest) for _ in range(3)]
        usual = statistics.median(seconds for seconds, _ in plain)
        row("pytest", usual)
        first, outcome = timed(sandbox, sandbox.pyseidon)
        row("pyseidon-test, first run (starts the daemon)", first)
        sandbox.until_ready()
        warm = [timed(sandbox, sandbox.pyseidon) for _ in range(5)]
        best = statistics.median(seconds for seconds, _ in warm)
        row("pyseidon-test, warm", best, usual / best)
        sandbox.assert_served("P0")
        print("\nwhat the warm run printed:\n")
        print(warm[-1][1].stdout)
        for got in [outcome, *(outcome for _, outcome in warm)]:
            found = difference(plain[0][1], got)
            if found:
                print(f"which is not what plain pytest printed:\n{found}")
                return 1
        print("(the same as plain pytest: status, stdout, stderr)")
        return 0
    finally:
        sandbox.close()


if __name__ == "__main__":
    sys.exit(main())
