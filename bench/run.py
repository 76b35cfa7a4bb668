"""The benchmark: plain pytest, Pyseidon and its peers, interleaved, on four projects.

    python bench/run.py [--wheel FILE] [--rounds N] [--project NAME]... [--runner NAME]... [--quick]

See README.md beside this file for what is measured and how to read the result.
"""

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import measure
import overhead
import report
from environments import PROJECTS, ROOT, SELECTIONS, Environments, Unavailable, find_wheel
from ours import First, Warm
from probes import probe_all
from runners import (
    Cito,
    HotReloading,
    Original,
    Plain,
    PlainOlder,
    PytestFast,
    PytestFastPlugin,
    installed_pytest,
)

# The order of a round. Each round starts one further along, so that nobody always follows the
# same neighbour.
RUNNERS = (
    Plain,
    Warm,
    First,
    PytestFast,
    PytestFastPlugin,
    Cito,
    PlainOlder,
    HotReloading,
    Original,
)

# Enough for a median that moves by a few percent between repetitions on a quiet machine; the
# whole then takes about twenty minutes.
ROUNDS = 15
QUICK_ROUNDS = 3
# The first answers of a daemon are slower: it imports on demand.
WARM_UPS = 3


def log(text):
    print(text, file=sys.stderr, flush=True)


@dataclass
class Bench:
    work: Path
    scratch: Path
    environments: Environments
    log: object = staticmethod(log)
    restless: int = 0
    runs: int = 0
    copied: set = field(default_factory=set)

    def once(self, runner, arguments, timeout=measure.TIMEOUT):
        argv, environment = runner.command(arguments), runner.environment()
        return measure.run(argv, environment, runner.cwd, runner.output, timeout)

    def timed(self, runner, arguments):
        self.runs += 1
        self.restless += not measure.wait_until_quiet()
        return self.once(runner, arguments)


def wrong_answer(runner, selection, done):
    passed = runner.passed(done.output)
    if done.status == 0 and passed == selection.expected:
        return None
    last = (done.output.strip().splitlines() or ["no output"])[-1]
    return f"exit status {done.status}, {passed} passed of {selection.expected}: {last}"[:200]


def bring_up(bench, runners, selection):
    """Starts everyone and lets them warm up; returns those that can take part, and why not."""
    ready, absent = [], {}
    for runner in runners:
        try:
            runner.start(selection.arguments)
            for _ in range(WARM_UPS):
                done = bench.once(runner, selection.arguments)
                runner.after_run()
            wrong = wrong_answer(runner, selection, done)
            if wrong:
                raise Unavailable(wrong)
            ready.append(runner)
        except Unavailable as error:
            absent[runner.name] = str(error)
            runner.stop()
            log(f"  {runner.name}: {error}")
    return ready, absent


def measure_selection(bench, runners, selection, rounds):
    ready, absent = bring_up(bench, runners, selection)
    samples = {runner.name: [] for runner in ready}
    for number in range(rounds):
        shift = number % len(ready)
        for runner in ready[shift:] + ready[:shift]:
            done = bench.timed(runner, selection.arguments)
            sample = {"seconds": done.seconds, "wrong": wrong_answer(runner, selection, done)}
            sample["run"] = runner.after_run()
            samples[runner.name].append(sample)
        log(f"  {selection.name}: round {number + 1} of {rounds}")
    result = {name: {"absent": why} for name, why in absent.items()}
    for runner in ready:
        result[runner.name] = report.figures(runner, samples)
        result[runner.name]["checkpoint"] = runner.checkpoint()
        runner.stop()
    return result


def measure_project(bench, project, kinds, rounds):
    log(f"{project.name}: {project.title}")
    runners, absent = [], {}
    for kind in kinds:
        runner = kind(bench, project)
        try:
            runner.prepare()
            runners.append(runner)
        except Unavailable as error:
            absent[runner.name] = {"absent": str(error)}
            log(f"  {runner.name}: {error}")
    result = {"title": project.title, "selections": {}, "abilities": {}}
    result["pytest"] = {r.name: installed_pytest(r.venv) for r in runners}
    try:
        for selection in SELECTIONS:
            figures = measure_selection(bench, runners, selection, rounds)
            result["selections"][selection.name] = {**figures, **absent}
        for runner in runners:
            if not isinstance(runner, First):
                log(f"  abilities: {runner.name}")
                result["abilities"][runner.name] = probe_all(bench, runner)
    finally:
        for runner in runners:
            runner.stop()
    return result


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [kind.name for kind in RUNNERS]
    projects = [project.name for project in PROJECTS]
    parser.add_argument("--wheel", type=Path, help="the wheel to measure (default: newest built)")
    parser.add_argument("--rounds", type=int, help=f"rounds of each selection (default: {ROUNDS})")
    parser.add_argument("--project", action="append", choices=projects, help="only this one")
    parser.add_argument("--runner", action="append", choices=names, help="only this, and `plain`")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds")
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "bench", help="working place")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    wanted = set(options.runner or [kind.name for kind in RUNNERS])
    wanted |= {kind.base for kind in RUNNERS if kind.name in wanted} | {"plain"}
    kinds = [kind for kind in RUNNERS if kind.name in wanted]
    projects = [p for p in PROJECTS if not options.project or p.name in options.project]
    whole = not (options.quick or options.project or options.runner or options.rounds)

    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    ours = wanted & {Warm.name, First.name}
    wheel = None
    if ours:
        # A copy: `make wheel` in the meantime takes the original away.
        place = work / "wheel"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        wheel = Path(shutil.copy2(find_wheel(options.wheel, work, log), place))
    # Short, because a socket's path has at most 107 bytes.
    scratch = Path(tempfile.mkdtemp(prefix="psb-"))
    bench = Bench(work, scratch, Environments(work, wheel, log))
    result = {"machine": measure.machine(), "rounds": rounds, "projects": {}}
    result["load_before"] = measure.load()
    finished = False
    try:
        for project in projects:
            result["projects"][project.name] = measure_project(bench, project, kinds, rounds)
        if "warm" in wanted:
            result["overhead"] = overhead.measure_overhead(bench, log, rounds)
        finished = True
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        result["load_after"] = measure.load()
        result["runs"], result["not_quiet_before"] = bench.runs, bench.restless
        # What was measured until something failed is kept, but never as the whole.
        if result["projects"]:
            report.write(result, RUNNERS, whole and finished, work, scratch, log)


if __name__ == "__main__":
    main()
