"""The smallest scenario that still fails."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Callable, TypeVar

from .player import Failure
from .scenario import Run, Scenario, Step

Part = TypeVar("Part")


class Shrinker:
    """Takes parts away as long as what is left fails. What fails only now and then may stay larger
    than it need be, but never passes."""

    def __init__(self, fails: Callable[[Scenario], Failure | None], seconds: float):
        self.fails = fails
        self.end = time.monotonic() + seconds
        self.tried = 0
        self.failure: Failure

    def shrink(self, scenario: Scenario, failure: Failure) -> Scenario:
        self.failure = failure
        best = self._cut(scenario)
        while True:
            before = best
            for smaller in (self._steps, self._changes, self._files, self._blocks, self._runs):
                best = smaller(best)
            if best == before or self._out_of_time():
                return best

    # ------------------------------------------------------------------- trying

    def _out_of_time(self) -> bool:
        return time.monotonic() > self.end

    def _try(self, scenario: Scenario) -> Scenario | None:
        """The scenario up to the step that fails, if one does."""
        if self._out_of_time():
            return None
        self.tried += 1
        failure = self.fails(scenario)
        if failure is None:
            return None
        self.failure = failure
        return self._cut(scenario)

    def _cut(self, scenario: Scenario) -> Scenario:
        return replace(scenario, steps=scenario.steps[: self.failure.step + 1])

    def _less(
        self,
        best: Scenario,
        parts: Callable[[Scenario], Sequence[Part]],
        without: Callable[[Scenario, Sequence[Part]], Scenario],
    ) -> Scenario:
        """Takes away half of the parts at once, then quarters, down to single ones."""
        size = max(1, len(parts(best)) // 2)
        while True:
            start = 0
            while start < len(parts(best)) and not self._out_of_time():
                found = self._try(without(best, parts(best)[start : start + size]))
                if found is None:
                    start += size
                else:
                    best = found
            if size == 1:
                return best
            size //= 2

    # ------------------------------------------------------------------- parts

    def _steps(self, best: Scenario) -> Scenario:
        """A step that goes leaves its changes to the next one, if need be."""

        def without(scenario: Scenario, numbers: Sequence[int]) -> Scenario:
            kept = [s for n, s in enumerate(scenario.steps) if n not in numbers]
            return replace(scenario, steps=tuple(kept))

        def merged(scenario: Scenario, numbers: Sequence[int]) -> Scenario:
            steps: list[Step] = []
            held: tuple = ()
            for number, step in enumerate(scenario.steps):
                held += step.changes
                if number not in numbers:
                    steps.append(Step(held, step.run))
                    held = ()
            return replace(scenario, steps=tuple(steps))

        # The last step is the one that fails.
        def numbers(scenario: Scenario) -> Sequence[int]:
            return range(len(scenario.steps) - 1)

        best = self._less(best, numbers, without)
        return self._less(best, numbers, merged)

    def _changes(self, best: Scenario) -> Scenario:
        def places(scenario: Scenario) -> Sequence[tuple[int, int]]:
            steps = enumerate(scenario.steps)
            return [(s, c) for s, step in steps for c in range(len(step.changes))]

        def without(scenario: Scenario, unwanted: Sequence[tuple[int, int]]) -> Scenario:
            steps = [
                replace(
                    step,
                    changes=tuple(x for c, x in enumerate(step.changes) if (s, c) not in unwanted),
                )
                for s, step in enumerate(scenario.steps)
            ]
            return replace(scenario, steps=tuple(steps))

        return self._less(best, places, without)

    def _files(self, best: Scenario) -> Scenario:
        def without(scenario: Scenario, unwanted: Sequence[object]) -> Scenario:
            return replace(scenario, files=tuple(f for f in scenario.files if f not in unwanted))

        return self._less(best, lambda scenario: scenario.files, without)

    def _blocks(self, best: Scenario) -> Scenario:
        return self._less(
            best, Scenario.blocks, lambda scenario, some: scenario.without_blocks(set(some))
        )

    def _runs(self, best: Scenario) -> Scenario:
        """The simplest runs, all alike if that will do."""
        for number in range(len(best.steps)):
            for run in _simpler(best.steps[number].run):
                if number >= len(best.steps):
                    break
                if run == best.steps[number].run:
                    continue
                steps = list(best.steps)
                steps[number] = replace(steps[number], run=run)
                best = self._try(replace(best, steps=tuple(steps))) or best
        return best


def _simpler(run: Run) -> Iterator[Run]:
    yield Run(argv=run.argv[:1])
    yield Run()
    yield replace(run, env=())
    yield replace(run, cwd="")
    yield replace(run, keep=False)
    yield replace(run, plain_first=False)
    yield replace(run, wait="never")
    yield replace(run, wait="before")
    for number in range(len(run.argv)):
        yield replace(run, argv=run.argv[:number] + run.argv[number + 1 :])
