"""Turns samples into figures, and figures into JSON, a Markdown table and a chart."""

import json
import statistics
from pathlib import Path

import chart
from chart import TIMES
from environments import BENCH, PROJECTS, ROOT, SELECTIONS
from measure import summary
from probes import PROBES

NONE = "\N{EN DASH}"


def figures(runner, samples):
    """What is known of one runner on one selection."""
    own = samples[runner.name]
    right = [sample for sample in own if not sample["wrong"]]
    result = {"wrong": [sample["wrong"] for sample in own if sample["wrong"]]}
    if not right:
        return {**result, "absent": result["wrong"][0]}
    result.update(summary([sample["seconds"] for sample in right]))
    result["samples_ms"] = [round(sample["seconds"] * 1e3, 2) for sample in right]
    base = samples.get(runner.base)
    if base and runner.base != runner.name:
        result["base"] = runner.base
        # By round, so that what the machine did meanwhile hits both.
        pairs = [
            theirs["seconds"] / ours["seconds"]
            for theirs, ours in zip(base, own)
            if not theirs["wrong"] and not ours["wrong"]
        ]
        result["times_faster"] = round(statistics.median(pairs), 3) if pairs else None
    runs = [sample for sample in right if sample["run"]]
    if runs:
        result["inside"] = inside(runs)
    return result


def inside(samples):
    """Where the time of our own runs went, by the daemon's account of each."""
    runs = [sample["run"] for sample in samples]
    result = {"served_by": {}}
    for run in runs:
        result["served_by"][run["checkpoint"]] = result["served_by"].get(run["checkpoint"], 0) + 1
    told = [sample for sample in samples if sample["run"]["seconds"]]
    if not told:
        return result
    for index, part in enumerate(("before", "in", "after")):
        values = [sample["run"]["seconds"][index] for sample in told]
        result[f"{part}_pytest_ms"] = round(statistics.median(values) * 1e3, 2)
    added = [sample["seconds"] - sample["run"]["seconds"][1] for sample in told]
    result["added_around_pytest"] = summary(added)
    for way in sorted({sample["run"]["exit"] for sample in told}):
        taken = [sample for sample in told if sample["run"]["exit"] == way]
        result[f"{way.lower()}_exit"] = {
            **summary([sample["seconds"] for sample in taken]),
            "after_pytest_ms": round(
                statistics.median(s["run"]["seconds"][2] for s in taken) * 1e3, 2
            ),
        }
    return result


# ---------------------------------------------------------------- Markdown


def row(cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def table(head, rows):
    # The first column is a name, the others are figures.
    marks = [":--"] + ["--:"] * (len(head) - 1)
    return [row(head), row(marks), *(row(cells) for cells in rows), ""]


def milliseconds(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def times(value):
    if value is None:
        return NONE
    digits = 0 if value >= 20 else 1 if value >= 2 else 2
    return f"{value:.{digits}f}{TIMES}"


def selection_table(result, selection, kinds):
    lines = [f"## {selection.title[0].upper()}{selection.title[1:]}", ""]
    for name, project in result["projects"].items():
        rows = []
        for kind in kinds:
            found = project["selections"][selection.name].get(kind.name)
            if not found:
                continue
            if "absent" in found:
                rows.append([kind.title, NONE, NONE, NONE, f"did not take part: {found['absent']}"])
                continue
            wrong = f"{len(found['wrong'])} wrong" if found["wrong"] else ""
            faster = times(found["times_faster"]) if "times_faster" in found else "1"
            if found.get("base", "plain") != "plain":
                faster += " (to pytest 8.3)"
            if kind.name == "plain-older":
                faster = NONE
            cells = [found["n"], milliseconds(found["min_ms"]), milliseconds(found["median_ms"])]
            rows.append([kind.title, *cells, " ".join(filter(None, [faster, wrong]))])
        lines += [f"**{name}**: {project['title']}", ""]
        lines += table(["", "runs", "min ms", "median ms", "times faster"], rows)
    return lines


def inside_table(result):
    rows, held = [], []
    for name, project in result["projects"].items():
        for selection in SELECTIONS:
            warm = project["selections"][selection.name].get("warm", {})
            found, checkpoint = warm.get("inside"), warm.get("checkpoint")
            if checkpoint and selection is SELECTIONS[0]:
                held.append(f"- {name}: {held_by(checkpoint)}")
            if not found or "in_pytest_ms" not in found:
                continue
            ways = [
                f"{way}: {exit_['n']} runs, median {milliseconds(exit_['median_ms'])} ms"
                for way in ("short", "full", "abrupt")
                if (exit_ := found.get(f"{way}_exit"))
            ]
            rows.append(
                [
                    f"{name}, {selection.name}",
                    ", ".join(
                        f"{level} {TIMES} {count}" for level, count in found["served_by"].items()
                    ),
                    *(
                        milliseconds(found[f"{part}_pytest_ms"])
                        for part in ("before", "in", "after")
                    ),
                    milliseconds(found["added_around_pytest"]["median_ms"]),
                    "; ".join(ways),
                ]
            )
    if not rows:
        return []
    head = ["", "served by", "before", "in pytest", "after", "added around", "way of leaving"]
    return [
        "## Inside a warm run",
        "",
        "Medians in ms. *Before* is from the daemon's order to entering pytest, *after* from "
        "leaving it to the worker's end; *added around* is what the caller waits beyond the time "
        "in pytest.",
        "",
        *table(head, rows),
        "What the checkpoints hold:",
        "",
        *held,
        "",
    ]


def held_by(checkpoint):
    files, directories = checkpoint["traced_files"], checkpoint["traced_directories"]
    said = f"{checkpoint['level']} with {checkpoint['holds']}; {files:,} files and "
    said += f"{directories:,} directories are checked before each run"
    if checkpoint["shallow"]:
        said += f"; not deeper: {checkpoint['shallow']}"
    return said


def overhead_lines(result):
    found = result.get("overhead")
    if not found:
        return []
    lines = ["## Fixed costs", ""]
    for label, value in found["lines"]:
        lines.append(f"- {label}: {value}")
    return [*lines, ""]


def abilities_table(result, kinds):
    """One mark for all projects if they agree, else by project; the reasons below."""
    rows, reasons = [], []
    for kind in kinds:
        cells = []
        for probe in PROBES:
            found = {
                name: project["abilities"][kind.name][probe.name]
                for name, project in result["projects"].items()
                if kind.name in project["abilities"]
            }
            bad = {name: why for name, why in found.items() if why}
            if not found:
                cells.append("")
            elif not bad:
                cells.append("yes")
            else:
                cells.append("no" if len(bad) == len(found) else "not on " + ", ".join(bad))
                for why in sorted(set(bad.values())):
                    reasons.append(f"- {kind.title}, {probe.title}: {why}")
        if any(cells):
            rows.append([kind.title, *cells])
    if not rows:
        return []
    return [
        "## What each can do",
        "",
        "Tried on each project, with the answer compared: see `bench/probes.py`.",
        "",
        *table(["", *(probe.title for probe in PROBES)], rows),
        *reasons,
        "",
    ]


def markdown(result, kinds):
    machine = result["machine"]
    before, after = result["load_before"][0], result["load_after"][0]
    lines = [
        "# Benchmark",
        "",
        f"{machine['day']}, Python {machine['python']}, {machine['cpus']} CPUs ({machine['cpu']}), "
        f"{machine['memory_gib']} GiB, {machine['system']}; load {before} before and {after} "
        f"after; {result['rounds']} rounds, all runners in turn; {result['runs']} runs, before "
        f"{result['not_quiet_before']} of them the machine was busy.",
        "",
        "*Times faster* is the median over the rounds of plain pytest's time divided by the "
        "runner's in the same round; below 1 it is slower. How to read the rest: "
        "`bench/README.md`.",
        "",
    ]
    for selection in SELECTIONS:
        lines += selection_table(result, selection, kinds)
    lines += inside_table(result)
    lines += overhead_lines(result)
    lines += abilities_table(result, kinds)
    taken = {name for project in result["projects"].values() for name in project["pytest"]}
    notes = [f"- **{k.title}**: {k.note}" for k in kinds if k.note and k.name in taken]
    if notes:
        lines += ["## Notes on the runners", "", *notes]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- goals

# What the project wants of itself for one test file, on an idle machine.
TIMES_FASTER = {"nodeps": 3.0, "plugins": 5.0, "web": 1.0, "data": 1.0}
FIRST_RUN = 1.05
ADDED_MS = 10.0
PER_1000_FILES_MS = 2.0


def goals(result):
    """For whoever runs the benchmark, not for the table: what was wanted and what was reached."""
    found = []
    for name, project in result["projects"].items():
        one = project["selections"]["one"]
        faster = one.get("warm", {}).get("times_faster")
        if faster:
            wanted = TIMES_FASTER[name]
            found.append((f"{name}: {times(faster)} faster", f"{wanted:.0f}", faster >= wanted))
        first = one.get("first", {}).get("times_faster")
        if first:
            said = f"{name}: first run takes {1 / first:.2f} of plain pytest"
            found.append((said, f"{FIRST_RUN}", 1 / first <= FIRST_RUN))
    overhead = result.get("overhead", {})
    if "per_1000_files_ms" in overhead:
        added = overhead["added_around_pytest"]["warm"]["median_ms"]
        found.append((f"{added:.1f} ms around pytest", f"{ADDED_MS:.0f}", added <= ADDED_MS))
        each = overhead["per_1000_files_ms"]
        said = f"{each:.1f} ms for 1,000 files"
        found.append((said, f"{PER_1000_FILES_MS:.0f}", each <= PER_1000_FILES_MS))
    return [f"{'ok' if ok else 'MISSED':7}{said} (goal: {goal})" for said, goal, ok in found]


# ---------------------------------------------------------------- files


def write(result, kinds, whole, work, scratch, log):
    """A part or a quick run does not replace the figures that the README shows."""
    place = BENCH / "results" if whole else work / "results"
    place.mkdir(parents=True, exist_ok=True)

    def shareable(text):
        # Reasons are in the words of others, who like to name places on this machine.
        for path in (scratch, work, ROOT, Path.home()):
            text = text.replace(str(path), "...")
        return text

    document = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (place / "latest.json").write_text(shareable(document))
    text = shareable(markdown(result, kinds))
    (place / "latest.md").write_text(text)
    picture = ROOT / "docs" / "bench.svg" if whole else place / "bench.svg"
    picture.parent.mkdir(exist_ok=True)
    picture.write_text(chart.draw(result, [(kind.name, kind.title) for kind in kinds], PROJECTS))
    print(text)
    for line in [*goals(result), f"written to {place}"]:
        log(line)
