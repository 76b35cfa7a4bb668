"""The benchmark: plain pytest, Pyseidon and its peers, interleaved, on small and large projects.

    python bench/run.py [--wheel FILE] [--rounds N] [--project NAME]... [--runner NAME]... [--quick]

See README.md beside this file for what is measured and how to read the result.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import edits
import growth
import measure
import memory
import overhead
import report
from environments import (
    LARGE,
    PROJECTS,
    ROOT,
    SELECTIONS,
    SIZES,
    Environments,
    Unavailable,
    find_wheel,
)
from ours import First, Warm
from probes import probe_all
from references import Packages, Second
from rounds import Bench, log, measure_selection
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
    Second,
)

# Who is asked after edits. Not the original server: it loads installed packages alone, so that an
# edit of the project costs it nothing and gains it nothing. Not `pytest --fast`: it has the daemon
# of `pytest-fast` and does the work of plain pytest besides.
AFTER_EDITS = (Plain, Packages, Warm, PytestFast, Cito, HotReloading)

SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    rounds: int
    edit_rounds: int
    edits: tuple
    growth_rounds: int
    projects: tuple
    sizes: tuple
    # Without it the second selection, the abilities and the fixed costs are left out.
    is_whole: bool


# Enough for a median that moves by a few percent between repetitions on a quiet machine; the
# whole then takes about forty minutes.
WHOLE = Extent(10, 3, tuple(edit.name for edit in edits.EDITS), 5, (*PROJECTS, *LARGE), SIZES, True)
# One small project, a large one, and two sizes.
QUICK_PROJECTS = ("nodeps", "web-large")
QUICK = Extent(
    3,
    1,
    ("test", "middle"),
    2,
    tuple(project for project in (*PROJECTS, *LARGE) if project.name in QUICK_PROJECTS),
    (100, 1000),
    False,
)


def measure_project(bench, project, kinds, extent):
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
    is_small = project in PROJECTS
    try:
        for selection in SELECTIONS if is_small and extent.is_whole else SELECTIONS[:1]:
            figures = measure_selection(bench, runners, selection, extent.rounds)
            result["selections"][selection.name] = {**figures, **absent}
        if is_small and extent.is_whole:
            for runner in runners:
                if not isinstance(runner, (First, Second)):
                    log(f"  abilities: {runner.name}")
                    result["abilities"][runner.name] = probe_all(bench, runner)
        measure_parked(bench, runners, result)
        if project.edited:
            measure_after_edits(bench, project, kinds, extent, result)
    finally:
        for runner in runners:
            runner.stop()
    return result


def measure_parked(bench, runners, result):
    by_kind = {type(runner): runner for runner in runners}
    if Warm in by_kind:
        log("  memory")
        try:
            result["memory"] = memory.measure_memory(bench, by_kind[Plain], by_kind[Warm])
        except Unavailable as error:
            log(f"  memory: {error}")
            result["memory"] = {"absent": str(error)}


def measure_after_edits(bench, project, kinds, extent, result):
    # Copies of their own: what the selections and the daemons left behind does not matter then.
    runners, absent = [], {}
    for kind in AFTER_EDITS:
        if kind in kinds or (kind is Packages and Warm in kinds):
            runner = kind(bench, project)
            try:
                runner.prepare()
                runners.append(runner)
            except Unavailable as error:
                absent[runner.name] = {"absent": str(error)}
    try:
        measured = edits.measure_edits(bench, runners, extent.edit_rounds, extent.edits)
        result["edits"] = {**measured, **absent}
    except Unavailable as error:
        log(f"  edits: {error}")
        result["edits"] = {runner.name: {"absent": str(error)} for runner in runners}
    finally:
        for runner in runners:
            runner.stop()


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [kind.name for kind in RUNNERS]
    projects = [*(project.name for project in (*PROJECTS, *LARGE)), SYNTHETIC]
    parser.add_argument("--wheel", type=Path, help="the wheel to measure (default: newest built)")
    parser.add_argument("--rounds", type=int, help=f"rounds of each selection ({WHOLE.rounds})")
    parser.add_argument("--project", action="append", choices=projects, help="only this one")
    parser.add_argument("--runner", action="append", choices=names, help="only this, and `plain`")
    parser.add_argument("--quick", action="store_true", help="a little of everything")
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "bench", help="working place")
    return parser.parse_args(arguments)


def extent_of(options):
    """What is asked for: `--project` chooses from everything, also for a quick run."""
    base = QUICK if options.quick else WHOLE
    projects, sizes = base.projects, base.sizes
    if options.project:
        projects = tuple(p for p in WHOLE.projects if p.name in options.project)
        sizes = sizes if SYNTHETIC in options.project else ()
    rounds = options.rounds or base.rounds
    return replace(
        base,
        rounds=rounds,
        edit_rounds=min(rounds, base.edit_rounds),
        growth_rounds=min(rounds, base.growth_rounds),
        projects=projects,
        sizes=sizes,
    )


def main(arguments=None):
    options = parse(arguments)
    extent = extent_of(options)
    # Whoever ends it wants the daemons ended as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    wanted = set(options.runner or [kind.name for kind in RUNNERS])
    wanted |= {kind.base for kind in RUNNERS if kind.name in wanted} | {"plain"}
    kinds = [kind for kind in RUNNERS if kind.name in wanted]
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
    result = {"machine": measure.machine(), "rounds": extent.rounds, "projects": {}}
    result["load_before"] = measure.load()
    finished, started = False, time.monotonic()
    try:
        for project in extent.projects:
            result["projects"][project.name] = measure_project(bench, project, kinds, extent)
        if Warm in kinds and extent.sizes:
            result["growth"] = growth.measure_growth(bench, extent.sizes, extent.growth_rounds)
        if Warm in kinds and extent.is_whole:
            result["overhead"] = overhead.measure_overhead(bench, log, extent.rounds)
        finished = True
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        result["load_after"] = measure.load()
        result["runs"], result["not_quiet_before"] = bench.runs, bench.restless
        # What was measured until something failed is kept, but never as the whole.
        result["minutes"] = round((time.monotonic() - started) / 60, 1)
        if result["projects"] or "growth" in result:
            report.write(result, RUNNERS, (Packages,), whole and finished, work, scratch, log)


if __name__ == "__main__":
    main()
