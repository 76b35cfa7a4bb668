"""`make model`: random projects, edits and selections, each run compared with plain pytest.

make model                              a thousand steps from a random seed
make model STEPS=10000 SEED=1 JOBS=4    as many, of the seeds 1, 2, 3, …; four at a time
make model REPLAY=.work/model/7.json    what an earlier failure was shrunk to
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from ..harness.environments import WORK, Environment
from . import generate
from .player import Played, model_environment, play
from .scenario import Scenario
from .shrink import Shrinker

FAILURES = WORK / "model"


def report(scenario: Scenario, played: Played, env: Environment, seconds: float) -> str:
    """Shrinks a failure, stores it, and says how to play it again."""
    assert played.failure is not None
    seed = scenario.seed
    whole = len(scenario.steps)
    shrinker = Shrinker(lambda smaller: play(smaller, env).failure, seconds)
    scenario = shrinker.shrink(scenario, played.failure)
    FAILURES.mkdir(parents=True, exist_ok=True)
    path = FAILURES / f"{seed}.json"
    path.write_text(scenario.dump(), encoding="utf-8")
    return (
        f"{shrinker.failure.text}\n\n"
        f"shrunk from {whole} to {len(scenario.steps)} steps in {shrinker.tried} tries:\n"
        f"{scenario}\n\n"
        f"to play the shrunk steps again: make model REPLAY={path.relative_to(WORK.parent)}\n"
        f"to play all steps of the seed:  make model STEPS={whole} SEED={seed}"
    )


def one(seed: int, steps: int, root: Path, seconds: float) -> tuple[int, Played, str]:
    """In a process of its own."""
    scenario = generate.scenario(seed, steps)
    played = play(scenario, Environment(root))
    text = report(scenario, played, Environment(root), seconds) if played.failure else ""
    return seed, played, text


def all_of(steps: int, seed: int, jobs: int, env: Environment, seconds: float) -> Iterator[tuple]:
    """Each seed's result, as it comes."""
    with ProcessPoolExecutor(jobs) as pool:
        running: set[Future] = set()
        asked = 0
        while running or asked < steps:
            while asked < steps and len(running) < 2 * jobs:
                length = min(generate.STEPS, steps - asked)
                running.add(pool.submit(one, seed, length, env.root, seconds))
                asked += length
                seed += 1
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def replay(path: Path, env: Environment) -> int:
    scenario = Scenario.load(path.read_text(encoding="utf-8"))
    print(scenario, flush=True)
    played = play(scenario, env)
    print(f"\n{played.failure.text}" if played.failure else "\nno difference")
    return 1 if played.failure else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=1000, help="how many in all")
    parser.add_argument("--seed", type=int, help="the first one")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--shrink", type=float, default=240, help="seconds for each failure")
    parser.add_argument("--replay", type=Path, help="a stored scenario")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="psd-model-") as base:
        env = model_environment(Path(base) / "env")
        if options.replay:
            return replay(options.replay, env)
        print(f"{options.steps} steps from seed {seed}", flush=True)
        begin = time.monotonic()
        levels: Counter[str] = Counter()
        steps = 0
        failed = []
        for number, played, text in all_of(options.steps, seed, options.jobs, env, options.shrink):
            steps += played.steps
            levels += played.levels
            if text:
                failed.append(number)
                print(f"\nseed {number} differs\n{text}\n", flush=True)
            elif sys.stdout.isatty() or steps // 200 > (steps - played.steps) // 200:
                print(f"{steps} steps, {len(failed)} differences", flush=True)
        served = ", ".join(f"{count} {level}" for level, count in levels.most_common())
        print(
            f"{steps} steps in {time.monotonic() - begin:.0f} s, {len(failed)} differences"
            f"{' in seeds ' + ' '.join(map(str, sorted(failed))) if failed else ''}; "
            f"served by: {served}"
        )
        return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
