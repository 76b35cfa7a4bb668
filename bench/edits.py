"""What a run takes and answers after a file was edited.

Every project of this has four files with a line to edit, and a test that compares what it sees of
the one in question with a file that it reads when it runs. An edit changes both, so that the run
after it passes where it sees the edit, and takes no longer than one without an edit; twice in each
kind the file keeps what was right before the edit, and the run must fail. What is right is what
plain pytest says after the same edit.
"""

import statistics
import time
from dataclasses import dataclass

import generators
import measure
from environments import SELECTIONS, Unavailable
from probes import complaint
from rounds import bring_up, in_turn, log

ONE = SELECTIONS[0]
TIMEOUT = 30.0


@dataclass(frozen=True)
class Edit:
    name: str
    title: str


NOTHING = Edit("nothing", "no edit")
EDITS = (
    Edit("test", "the test's body"),
    Edit("conftest", "the conftest"),
    Edit("leaf", "a leaf module"),
    Edit("middle", "a module in the middle"),
)

# From saving the file to the start of the run: a command that saves and runs, and a hand that
# goes from the editor to the terminal.
DELAYS = {"at once": 0.0, "later": 0.5}

# Who does not answer so often in a row is not asked again: each time costs the whole timeout.
GIVEN_UP = 2


@dataclass
class Step:
    edit: Edit
    delay: str
    # The code alone is edited, so the test must fail.
    is_red: bool = False
    is_timed: bool = True


def steps(rounds, kinds):
    """The red ones come first: by the time that counts, the file is one that is edited again and
    again. A run without an edit in each kind, so that all of them meet the same machine."""
    found = []
    for edit in EDITS:
        if edit.name in kinds:
            found += [Step(edit, delay, True, False) for delay in ("later", "at once")]
            found += [Step(edit, delay) for _ in range(rounds) for delay in DELAYS]
            found.append(Step(NOTHING, "at once"))
    return found


class Edited:
    """A runner's copy of the project, and what its files have been edited to."""

    def __init__(self, runner):
        self.runner = runner
        self.count = 0
        self.now = dict.fromkeys(runner.project.edited, "")
        self.silent = 0

    def apply(self, step):
        if step.edit is NOTHING:
            return
        kind = step.edit.name
        self.count += 1
        before, self.now[kind] = self.now[kind], "." * self.count
        # Of the other files nothing is wanted: who missed an edit of one may see this one.
        wanted = before if step.is_red else self.now[kind]
        generators.write_wanted(self.runner.cwd, {kind: wanted})
        file = self.runner.cwd / self.runner.project.edited[kind]
        generators.revise(file, self.count)

    def play(self, bench, step):
        bench.quiet(self.runner)
        self.apply(step)
        time.sleep(DELAYS[step.delay])
        done = bench.once(self.runner, ONE.arguments, timeout=TIMEOUT)
        run = self.runner.after_run()
        verdict = verdict_of(self.runner, done)
        self.silent = 0 if verdict in ("passed", "failed") else self.silent + 1
        return {
            "edit": step.edit.name,
            "delay": step.delay,
            "timed": step.is_timed,
            "seconds": done.seconds,
            "verdict": verdict,
            "checkpoint": run and run["checkpoint"],
        }


def verdict_of(runner, done):
    if done.status == 0:
        passed = runner.passed(done.output)
        return "passed" if passed == ONE.expected else f"ran {passed} tests"
    if done.status == 1 or "1 failed" in done.output:
        return "failed"
    return complaint(done)


def measure_edits(bench, runners, rounds, kinds):
    """By runner, its samples; plain pytest must be the first of the runners."""
    ready, absent = bring_up(bench, runners, ONE)
    if not ready or ready[0] is not runners[0]:
        raise Unavailable("plain pytest does not pass the test")
    result = {name: {"absent": why} for name, why in absent.items()}
    edited = [Edited(runner) for runner in ready]
    samples = {runner.name: [] for runner in ready}
    planned = steps(rounds, kinds)
    for number, step in enumerate(planned):
        for each in in_turn([it for it in edited if it.silent < GIVEN_UP], number):
            samples[each.runner.name].append({"step": number, **each.play(bench, step)})
        right = samples[ready[0].name][-1]["verdict"]
        if right != ("failed" if step.is_red else "passed"):
            raise Unavailable(f"plain pytest {right} after an edit of {step.edit.title}")
        log(f"  edits: step {number + 1} of {len(planned)}: {step.edit.title}, {step.delay}")
    oracle = {sample["step"]: sample for sample in samples[ready[0].name]}
    for runner in ready:
        result[runner.name] = summarise(samples[runner.name], oracle, planned)
        runner.stop()
    return result


def summarise(samples, oracle, planned):
    result = {}
    for edit in (NOTHING, *EDITS):
        for delay in DELAYS:
            asked = [s for s in planned if s.edit is edit and s.delay == delay]
            found = [s for s in samples if (s["edit"], s["delay"]) == (edit.name, delay)]
            if asked:
                result[f"{edit.name}, {delay}"] = cell(found, oracle, len(asked))
    return result


def cell(samples, oracle, asked):
    """The figures of one kind of edit; a run that was not made any more is no right answer."""
    right = [s for s in samples if s["verdict"] == oracle[s["step"]]["verdict"]]
    wrong = [s["verdict"] for s in samples if s not in right]
    timed = [s for s in right if s["timed"]]
    result = {"asked": asked, "right": len(right), "wrong": wrong}
    if timed:
        result.update(measure.summary([s["seconds"] for s in timed]))
        result["samples_ms"] = {s["step"]: round(s["seconds"] * 1e3, 2) for s in timed}
        pairs = [oracle[s["step"]]["seconds"] / s["seconds"] for s in timed]
        result["times_faster"] = round(statistics.median(pairs), 3)
        served = [s["checkpoint"] for s in timed if s["checkpoint"]]
        if served:
            result["served_by"] = {level: served.count(level) for level in sorted(set(served))}
    return result
