"""Runs several runners in turn on one selection, and keeps what each run took and answered."""

import sys
from dataclasses import dataclass
from pathlib import Path

import figures
import measure
from environments import Environments, Unavailable

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
    was_quiet: bool = True
    runs: int = 0

    def once(self, runner, arguments, timeout=measure.TIMEOUT):
        argv, environment = runner.command(arguments), runner.environment()
        done = measure.run(argv, environment, runner.cwd, runner.output, timeout)
        return runner.finished(done)

    def quiet(self, runner):
        """Before a run that counts."""
        self.runs += 1
        runner.before_run()
        limit = measure.QUIET_LIMIT if self.was_quiet else measure.RESTLESS_LIMIT
        self.was_quiet = measure.wait_until_quiet(limit)
        self.restless += not self.was_quiet

    def timed(self, runner, arguments):
        self.quiet(runner)
        return self.once(runner, arguments)


def wrong_answer(runner, selection, done):
    passed = runner.passed(done.output)
    if done.status == 0 and passed == selection.expected:
        return None
    last = (done.output.strip().splitlines() or ["no output"])[-1]
    return f"exit status {done.status}, {passed} passed of {selection.expected}: {last}"[:200]


def bring_up(bench, runners, selection, warm_ups=WARM_UPS):
    """Starts everyone and lets them warm up; returns those that can take part, and why not."""
    ready, absent = [], {}
    for runner in runners:
        try:
            runner.start(selection.arguments)
            for _ in range(warm_ups):
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


def in_turn(runners, number):
    """Each round starts one further along, so that nobody always follows the same neighbour."""
    shift = number % len(runners) if runners else 0
    return runners[shift:] + runners[:shift]


def measure_selection(bench, runners, selection, rounds, warm_ups=WARM_UPS):
    ready, absent = bring_up(bench, runners, selection, warm_ups)
    samples = {runner.name: [] for runner in ready}
    for number in range(rounds):
        for runner in in_turn(ready, number):
            done = bench.timed(runner, selection.arguments)
            sample = {"seconds": done.seconds, "wrong": wrong_answer(runner, selection, done)}
            sample["run"] = runner.after_run()
            samples[runner.name].append(sample)
        log(f"  {selection.name}: round {number + 1} of {rounds}")
    result = {name: {"absent": why} for name, why in absent.items()}
    for runner in ready:
        result[runner.name] = figures.of_selection(runner, samples)
        result[runner.name]["checkpoint"] = runner.checkpoint()
        runner.stop()
    return result
