"""What the project wants of itself on an idle machine, and what of it was reached.

A goal whose figure is missing is a goal that was missed: what was asked for and could not be
measured is not left out.
"""

from chart import TIMES
from figures import ratio
from growth import slopes

# One test file, against plain pytest in the same round.
TIMES_FASTER = {
    "nodeps": 3.0,
    "plugins": 14.0,
    "web": 6.0,
    "data": 18.0,
    "web-large": 10.0,
    "data-large": 10.0,
}
FIRST_RUN = 1.05
ADDED_MS = 10.0
PER_1000_FILES_MS = 2.0

# Against a second `pytest.main` in one process; the two figures above come on top.
TIMES_SECOND = 1.3

# After an edit, against a run of the same loop without one.
TIMES_AFTER_TEST = 1.3
TIMES_AFTER_MODULE = 1.5

# The parked processes of a root, against the peak of one plain run.
TIMES_PEAK = 1.5

# For 1,000 modules more.
VALIDATION_MS = 2.0
ADOPTION_MS = 10.0

NOT_PEERS = ("plain", "plain-older", "warm", "first", "second")


def goals(result):
    """Every goal of what was measured: what it is about, the wanted, the reached, and whether."""
    found = []
    for name, project in result["projects"].items():
        one = project["selections"]["one"]
        if "warm" in one:
            found += of_project(name, one)
        if "warm" in project.get("edits", {}):
            found += of_edits(name, project["edits"])
        if "memory" in project:
            found += of_memory(name, project["memory"])
    if "growth" in result:
        found += of_growth(result["growth"])
    if "overhead" in result:
        found += of_overhead(result["overhead"])
    return found


def at_most(about, wanted, reached, unit=""):
    return entry(about, f"at most {wanted:g}{unit}", reached, unit, lambda it: it <= wanted)


def at_least(about, wanted, reached, unit=""):
    return entry(about, f"at least {wanted:g}{unit}", reached, unit, lambda it: it >= wanted)


def entry(about, wanted, reached, unit, is_reached):
    ok = reached is not None and is_reached(reached)
    said = "not measured" if reached is None else f"{reached:.4g}{unit}"
    return {"about": about, "wanted": wanted, "reached": said, "ok": ok}


def of_project(name, one):
    warm = one["warm"]
    faster = at_least(f"{name}: faster", TIMES_FASTER[name], warm.get("times_faster"), TIMES)
    found = [faster]
    if "first" in one:
        first = one["first"].get("times_faster")
        about = f"{name}: first run, of plain pytest's time"
        found.append(at_most(about, FIRST_RUN, first and 1 / first, TIMES))
    peers = {
        peer: ratio(figures.get("samples_ms", []), warm.get("samples_ms", []))
        for peer, figures in one.items()
        if peer not in NOT_PEERS and "absent" not in figures
    }
    if peers:
        best = min(peers, key=lambda peer: peers[peer] or 0)
        about = f"{name}: ahead of every peer (closest: {best})"
        found.append(entry(about, f"above 1{TIMES}", peers[best], TIMES, lambda it: it > 1))
    if "second" in one:
        found.append(of_second(name, one))
    return found


def of_second(name, one):
    warm, second = one["warm"], one["second"]
    held = warm.get("checkpoint")
    more = ADDED_MS + PER_1000_FILES_MS * (held["traced_files"] if held else 0) / 1000
    allowed = [ms and TIMES_SECOND * ms + more for ms in second.get("samples_ms", [])]
    about = (
        f"{name}: of what a second `pytest.main` allows ({TIMES_SECOND:g}{TIMES} + {more:.1f} ms)"
    )
    return at_most(about, 1.0, ratio(warm.get("samples_ms", []), allowed), TIMES)


def of_edits(name, edits):
    warm, packages = edits["warm"], edits.get("packages", {})
    still = warm.get("nothing, at once", {}).get("median_ms")

    def against_still(edit, delay, wanted):
        """Medians: the runs without an edit are other rounds."""
        own = warm.get(f"{edit}, {delay}", {}).get("median_ms")
        about = f"{name}: run {WHEN[delay]} an edit of {NAMES[edit]}, of the warm time"
        return at_most(about, wanted, own / still if own and still else None, TIMES)

    def against_packages(edit, delay):
        samples = [by.get(f"{edit}, {delay}", {}).get("samples_ms", {}) for by in (warm, packages)]
        shared = sorted(set(samples[0]) & set(samples[1]))
        about = f"{name}: run {WHEN[delay]} an edit of {NAMES[edit]}, of the time to execute "
        about += "conftest and project"
        return at_most(about, 1.0, ratio(*([s[k] for k in shared] for s in samples)), TIMES)

    found = []
    # A quick run edits fewer kinds of files.
    asked = {key.partition(",")[0] for key in edits["plain"]}
    if "test" in asked:
        found += [against_still("test", delay, TIMES_AFTER_TEST) for delay in ("at once", "later")]
    if "conftest" in asked:
        found += [against_packages("conftest", delay) for delay in ("at once", "later")]
    for edit in ("leaf", "middle"):
        if edit in asked:
            found.append(against_packages(edit, "at once"))
            found.append(against_still(edit, "later", TIMES_AFTER_MODULE))
    cells = [cell for cell in warm.values() if isinstance(cell, dict)]
    wrong = sum(cell["asked"] - cell["right"] for cell in cells) if cells else None
    return [*found, at_most(f"{name}: wrong answers after edits", 0, wrong)]


WHEN = {"at once": "at once after", "later": "500 ms after"}

NAMES = {
    "test": "the test's body",
    "conftest": "the conftest",
    "leaf": "a leaf module",
    "middle": "a module in the middle",
}


def of_memory(name, memory):
    return [
        at_most(
            f"{name}: parked processes after {said}, of the peak of a plain run",
            TIMES_PEAK,
            memory.get(kind, {}).get("times_plain"),
            TIMES,
        )
        for kind, said in (("one", "one selection"), ("three", "three selections"))
    ]


def of_growth(growth):
    found = [of_second(name, it["one"]) for name, it in growth.items() if "one" in it]
    slope = slopes(growth) or {}
    about = "growth for 1,000 modules more"
    for part, wanted in (("validation", VALIDATION_MS), ("adoption", ADOPTION_MS)):
        where = "around pytest (validation)" if part == "validation" else "in pytest (adoption)"
        found.append(at_most(f"{about}, {where}", wanted, slope.get(f"{part}_ms"), " ms"))
    return found


def of_overhead(overhead):
    added = overhead.get("added_around_pytest", {}).get("warm", {}).get("median_ms")
    each = overhead.get("per_1000_files_ms")
    return [
        at_most("nodeps: added around pytest", ADDED_MS, added, " ms"),
        at_most("for 1,000 files more in the trace", PER_1000_FILES_MS, each, " ms"),
    ]


def lines(found):
    return [
        f"{'ok' if it['ok'] else 'MISSED':7}{it['about']}: {it['reached']} (goal: {it['wanted']})"
        for it in found
    ]
