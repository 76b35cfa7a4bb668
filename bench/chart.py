"""The chart for the README: medians of one test file, as bars on a logarithmic axis."""

import math
from dataclasses import dataclass
from typing import Optional
from xml.sax.saxutils import escape

WIDTH = 900
MARGIN = 22
GAP = 20
PANEL = (WIDTH - 2 * MARGIN - GAP) / 2
LABEL = 152
VALUE = 112
BARS = PANEL - LABEL - VALUE
ROW = 21
BAR = 13
HEAD = 62
PANEL_HEAD = 30
AXIS = 30
FOOT = 44

TIMES = "\N{MULTIPLICATION SIGN}"
DAGGER = "\N{DAGGER}"

FRESHNESS = ("environment", "edit", "constant")

# The card has a ground of its own: a picture on a page follows the system's mode and not the
# page's, so text without a ground would vanish on pages that differ from the system.
STYLE = """
    .ground { fill: #ffffff; stroke: #d5dae0 }
    text { font: 12px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #24292f }
    .title { font-size: 17px; font-weight: 600 }
    .panel { font-size: 13px; font-weight: 600 }
    .faint { fill: #656d76; font-size: 11px }
    .ours { font-weight: 600 }
    .grid { stroke: #e4e8ec }
    .bar-plain { fill: #8c959f } .bar-ours { fill: #0f766e } .bar-peer { fill: #b8995a }
    .bar-first { fill: #0f766e; fill-opacity: .45 }
    .bar-stale { fill: #b8995a; fill-opacity: .2; stroke: #b8995a; stroke-dasharray: 4 2 }
    @media (prefers-color-scheme: dark) {
      .ground { fill: #151b23; stroke: #30363d }
      text { fill: #e6edf3 }
      .faint { fill: #9198a1 }
      .grid { stroke: #2a313b }
      .bar-plain { fill: #6e7781 } .bar-ours, .bar-first { fill: #2dd4bf }
      .bar-peer, .bar-stale { fill: #9c8450 } .bar-stale { stroke: #b39a63 }
    }
"""


@dataclass
class Bar:
    kind: str
    title: str
    # Milliseconds, or nothing: then there is only what is said.
    value: Optional[float]
    said: str

    @property
    def emphasis(self):
        return "ours" if self.kind == "ours" else ""


def kind_of(name, project):
    if name in ("warm", "first"):
        return "ours" if name == "warm" else "first"
    if name.startswith("plain") or name == "second":
        return "plain"
    # A time for an answer that may be of yesterday is not to be mistaken for the others.
    found = project.get("abilities", {}).get(name, {})
    blind = any(found.get(probe) for probe in FRESHNESS)
    cells = project.get("edits", {}).get(name, {})
    blind = blind or any(is_wrong(cell) for cell in cells.values() if isinstance(cell, dict))
    return "stale" if blind else "peer"


def is_wrong(cell):
    return cell["right"] < cell["asked"]


def selection_panel(name, project, titles):
    bars = []
    for runner, title in titles:
        figures = project["selections"]["one"].get(runner, {})
        if "median_ms" not in figures:
            continue
        value = figures["median_ms"]
        said = f"{value:,.0f} ms"
        if figures.get("times_faster") and not runner.startswith("plain"):
            said += f" · {short_times(figures['times_faster'])}"
            said += DAGGER if figures["base"] != "plain" else ""
        bars.append(Bar(kind_of(runner, project), title, value, said))
    return f"{name}: {project['title']}", bars


def edit_panel(name, project, titles):
    """The run that follows half a second after the edit that reaches furthest."""
    bars = []
    for runner, title in titles:
        cell = project["edits"].get(runner, {}).get("middle, later")
        if not cell:
            continue
        value = cell.get("median_ms")
        said = f"{value:,.0f} ms" if value else "wrong answer"
        kind = "plain" if runner == "plain" else "ours" if runner == "warm" else "peer"
        bars.append(Bar("stale" if is_wrong(cell) else kind, title, value, said))
    return f"{name}: 500 ms after an edit of a module in the middle", bars


def growth_panel(growth, runner, title, kind):
    bars = []
    for project in growth.values():
        figures = project.get("one", {}).get(runner, {})
        if "median_ms" in figures:
            value = figures["median_ms"]
            said = f"{value:,.0f} ms"
            if figures.get("times_faster") and kind == "ours":
                said += f" · {short_times(figures['times_faster'])}"
            bars.append(Bar(kind, f"{project['modules']:,} modules", value, said))
    return title, bars


def panels_of(result, titles):
    projects = result["projects"].items()
    panels = [selection_panel(name, project, titles) for name, project in projects]
    panels += [edit_panel(name, it, titles) for name, it in projects if it.get("edits")]
    if result.get("growth"):
        panels.append(
            growth_panel(result["growth"], "plain", "synthetic projects: pytest", "plain")
        )
        panels.append(
            growth_panel(result["growth"], "warm", "synthetic projects: pyseidon-test", "ours")
        )
    return [(title, bars) for title, bars in panels if any(bar.value for bar in bars)]


def steps(low, high):
    """1, 3, 10, 30 … from below `low` to above `high`."""
    found, decade = [], 10 ** math.floor(math.log10(low))
    while True:
        for factor in (1, 3):
            step = decade * factor
            if step <= low:
                found = [step]
            else:
                found.append(step)
                if step >= high:
                    return found
        decade *= 10


def draw(result, titles):
    panels = panels_of(result, titles)
    medians = [bar.value for _, bars in panels for bar in bars if bar.value]
    # The shortest bar must still be seen.
    axis = [step for step in steps(min(medians) / 1.6, max(medians)) if step < max(medians)]
    ends = axis[0], max(medians)

    lines, height = [], HEAD
    for first in range(0, len(panels), 2):
        pair = panels[first : first + 2]
        tall = max(len(bars) for _, bars in pair) * ROW
        for column, panel in enumerate(pair):
            x = MARGIN + column * (PANEL + GAP)
            lines += draw_panel(x, height, panel, axis, ends, tall)
        height += PANEL_HEAD + tall + AXIS
    height += FOOT
    machine = result["machine"]
    footer = [
        f"Medians of {result['rounds']} interleaved rounds, logarithmic axis; {TIMES}: how many "
        f"times faster than pytest in the same round, {DAGGER} than pytest 8.3.",
        "Dashed: wrong answers after an edit or with a changed variable. "
        f"Python {machine['python']}, {machine['cpus']} CPUs, {machine['day']}.",
    ]
    size = f'width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="Benchmark">',
            f"  <style>{STYLE}  </style>",
            '  <rect class="ground" x=".5" y=".5" rx="8" '
            f'width="{WIDTH - 1}" height="{height - 1:.0f}"/>',
            text(MARGIN, 34, "One test file, in milliseconds (shorter is better)", "title"),
            *lines,
            text(MARGIN, height - 32, footer[0], "faint"),
            text(MARGIN, height - 15, footer[1], "faint"),
            "</svg>",
            "",
        ]
    )


def draw_panel(x, y, panel, axis, ends, tall):
    title, bars = panel
    left, right = map(math.log, ends)
    start = x + LABEL

    def place(value):
        return start + BARS * (math.log(value) - left) / (right - left)

    lines = [text(x, y + 12, title, "panel")]
    top = y + PANEL_HEAD - 8
    for step in axis:
        at = place(step)
        lines.append(
            f'  <line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{top + tall}"/>'
        )
        # Every step a line, every decade a number: there is no room for more.
        if math.log10(step).is_integer():
            lines.append(text(at, top + tall + 14, f"{step:,}", "faint", "middle"))
    for number, bar in enumerate(bars):
        middle = top + number * ROW + ROW / 2
        lines.append(text(start - 8, middle + 4, bar.title, bar.emphasis, "end"))
        width = 0
        if bar.value:
            width = BARS
            length = max(place(bar.value) - start, 1)
            lines.append(
                f'  <rect class="bar-{bar.kind}" x="{start}" y="{middle - BAR / 2:.1f}" '
                f'width="{length:.1f}" height="{BAR}" rx="2"/>'
            )
        lines.append(text(start + width + 8, middle + 4, bar.said, bar.emphasis))
    return lines


def short_times(value):
    return f"{value:.0f}{TIMES}" if value >= 10 else f"{value:.1f}{TIMES}"


def text(x, y, content, kind="", anchor=""):
    attributes = f' class="{kind}"' if kind else ""
    attributes += f' text-anchor="{anchor}"' if anchor else ""
    return f'  <text x="{x:.1f}" y="{y:.1f}"{attributes}>{escape(content)}</text>'
