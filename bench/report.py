"""Turns samples into figures, and figures into JSON, a Markdown table and a chart."""

import json
from pathlib import Path

import chart
import edits
import goals
import growth
from chart import TIMES
from environments import BENCH, ROOT, SELECTIONS
from probes import PROBES

NONE = "\N{EN DASH}"


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
    lines = []
    for name, project in result["projects"].items():
        if selection.name not in project["selections"]:
            continue
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
    head = f"## {selection.title[0].upper()}{selection.title[1:]}"
    return [head, "", *lines] if lines else []


NOTHING_COLUMN = (edits.NOTHING, "at once")


def inside_table(result):
    rows, held = [], []
    for name, project in result["projects"].items():
        for selection in SELECTIONS:
            warm = project["selections"].get(selection.name, {}).get("warm", {})
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


def edits_tables(result, titles):
    lines = []
    for name, project in result["projects"].items():
        found = project.get("edits")
        if not found:
            continue
        columns = [NOTHING_COLUMN]
        columns += [(edit, delay) for edit in edits.EDITS for delay in edits.DELAYS]
        measured = {key for cells in found.values() for key in cells}
        columns = [it for it in columns if f"{it[0].name}, {it[1]}" in measured]
        rows = []
        for runner, cells in found.items():
            if "absent" in cells:
                said = f"did not take part: {cells['absent']}"
                rows.append([titles[runner], said, *[""] * (len(columns) - 1)])
                continue
            asked = (cells.get(f"{edit.name}, {delay}") for edit, delay in columns)
            rows.append([titles[runner], *map(edit_cell, asked)])
        head = [
            edit.title if edit is edits.NOTHING else f"{edit.title}, {delay}"
            for edit, delay in columns
        ]
        lines += [f"**{name}**: {project['title']}", "", *table(["", *head], rows)]
    if not lines:
        return []
    about = (
        "Median ms of a run that follows an edit at once, or 500 ms later; the file is one that is "
        "edited again and again. *Wrong*: how many answers were not those of plain pytest after "
        "the same edit (two in each kind are edits that must make the test fail)."
    )
    return ["## After an edit", "", about, "", *lines]


def edit_cell(cell):
    if not cell:
        return ""
    said = [milliseconds(cell["median_ms"])] if "median_ms" in cell else []
    wrong = cell["asked"] - cell["right"]
    if wrong:
        said.append(f"**{wrong} of {cell['asked']} wrong**")
    return " ".join(said)


def memory_table(result):
    rows = []
    for name, project in result["projects"].items():
        found = project.get("memory")
        if not found:
            continue
        if "absent" in found:
            rows.append([name, NONE, NONE, NONE, found["absent"]])
            continue
        cells = [f"{found['plain_peak_kib'] / 1024:.0f}"]
        for kind in ("one", "three"):
            whole, ratio = found[kind]["pss_kib"] / 1024, found[kind]["times_plain"]
            cells.append(f"{whole:.0f} ({times(ratio)})")
        levels = [process["level"] for process in found["three"]["processes"]]
        rows.append([name, *cells, ", ".join(levels)])
    if not rows:
        return []
    head = ["", "peak of a plain run", "parked, one selection", "parked, three", "checkpoints"]
    return [
        "## Memory",
        "",
        "MiB: the peak resident set size of one plain run of the one test file, and the "
        "proportional set sizes of all parked processes of the root, standbys included, after one "
        "selection and after three in turn.",
        "",
        *table(head, rows),
    ]


def growth_table(result):
    found = result.get("growth")
    if not found:
        return []
    rows = []
    for project in found.values():
        cells = [f"{project['modules']:,}"]
        if "absent" in project:
            rows.append([*cells, *[NONE] * 6, project["absent"]])
            continue
        one = project["one"]
        warm = one["warm"]
        for runner in ("plain", "warm", "second"):
            median = one[runner].get("median_ms")
            cells.append(milliseconds(median) if median else NONE)
        cells.append(times(warm.get("times_faster")))
        inside = warm.get("inside", {})
        if "in_pytest_ms" in inside:
            cells.append(milliseconds(inside["added_around_pytest"]["median_ms"]))
            cells.append(milliseconds(inside["in_pytest_ms"]))
        else:
            cells += [NONE, NONE]
        held = warm.get("checkpoint")
        cells.append(f"{held['level']}, {held['traced_files']:,} files" if held else NONE)
        rows.append(cells)
    head = ["modules", "pytest", "pyseidon-test", "second `pytest.main`", "times faster"]
    lines = [
        "## Growth with the number of modules",
        "",
        "Median ms of one test file that imports all modules of a synthetic project.",
        "",
        *table([*head, "added around", "in pytest", "served by"], rows),
    ]
    slope = growth.slopes(found)
    if slope:
        lines += [
            f"For 1,000 modules more, from {slope['from']:,} to {slope['to']:,}: "
            f"{slope['validation_ms']:.1f} ms around pytest, {slope['adoption_ms']:.1f} ms in it.",
            "",
        ]
    return lines


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


def markdown(result, kinds, yardsticks):
    machine = result["machine"]
    before, after = result["load_before"][0], result["load_after"][0]
    lines = [
        "# Benchmark",
        "",
        f"{machine['day']}, Python {machine['python']}, {machine['cpus']} CPUs ({machine['cpu']}), "
        f"{machine['memory_gib']} GiB, {machine['system']}; load {before} before and {after} "
        f"after; {result['rounds']} rounds, all runners in turn; {result['runs']} runs, before "
        f"{result['not_quiet_before']} of them the machine was busy; {result['minutes']} minutes.",
        "",
        "*Times faster* is the median over the rounds of plain pytest's time divided by the "
        "runner's in the same round; below 1 it is slower. How to read the rest: "
        "`bench/README.md`.",
        "",
    ]
    for selection in SELECTIONS:
        lines += selection_table(result, selection, kinds)
    lines += edits_tables(result, {kind.name: kind.title for kind in (*kinds, *yardsticks)})
    lines += growth_table(result)
    lines += memory_table(result)
    lines += inside_table(result)
    lines += overhead_lines(result)
    lines += abilities_table(result, kinds)
    lines += goals_lines(result["goals"])
    taken = {name for project in result["projects"].values() for name in project["pytest"]}
    taken |= {name for project in result["projects"].values() for name in project.get("edits", ())}
    known = (*kinds, *yardsticks)
    notes = [f"- **{k.title}**: {k.note}" for k in known if k.note and k.name in taken]
    if notes:
        lines += ["## Notes on the runners", "", *notes]
    return "\n".join(lines) + "\n"


def goals_lines(found):
    if not found:
        return []
    rows = [
        [it["about"], it["wanted"], it["reached"], "ok" if it["ok"] else "**missed**"]
        for it in found
    ]
    reached = sum(it["ok"] for it in found)
    return [
        "## Goals",
        "",
        f"What the project wants of itself on an idle machine: {reached} of {len(found)} reached.",
        "",
        *table(["", "goal", "reached", ""], rows),
    ]


# ---------------------------------------------------------------- files


def write(result, kinds, yardsticks, whole, work, scratch, log):
    """A part or a quick run does not replace the figures that the README shows."""
    result["goals"] = goals.goals(result)
    place = BENCH / "results" if whole else work / "results"
    place.mkdir(parents=True, exist_ok=True)

    def shareable(text):
        # Reasons are in the words of others, who like to name places on this machine.
        for path in (scratch, work, ROOT, Path.home()):
            text = text.replace(str(path), "...")
        return text

    document = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (place / "latest.json").write_text(shareable(document))
    text = shareable(markdown(result, kinds, yardsticks))
    (place / "latest.md").write_text(text)
    picture = ROOT / "docs" / "bench.svg" if whole else place / "bench.svg"
    picture.parent.mkdir(exist_ok=True)
    titles = [(kind.name, kind.title.replace("`", "")) for kind in kinds]
    picture.write_text(chart.draw(result, titles))
    print(text)
    for line in [*goals.lines(result["goals"]), f"written to {place}"]:
        log(line)
