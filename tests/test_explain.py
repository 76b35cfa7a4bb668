"""`pyseidon-daemon explain`: what it says of checkpoints, and the waterfall of their imports."""

from __future__ import annotations

import json
import os
import re
import signal
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from .harness.environments import Environment, environment, write_wheel
from .harness.interpreters import interpreters
from .harness.rendezvous import eventually
from .harness.sandbox import Sandbox

pytestmark = pytest.mark.product

NOT_RUNNING = 3
WRONG_USAGE = 2

PROJECT = {
    "pytest.ini": "[pytest]\n",
    "conftest.py": """
        import importlib

        import app.models

        importlib.import_module("late")
        try:
            import missing_one
        except ImportError:
            pass
        """,
    "app/__init__.py": "",
    "app/models.py": "import app.fields\nimport colorsys\n",
    "app/fields.py": "from . import slow\n",
    "app/slow.py": "import time\n\ntime.sleep(0.05)\n",
    "late.py": "",
    "test_a.py": "import app.models\nimport nntools\n\ndef test_a():\n    pass\n",
    "nntools.py": "",
}

# Tells what plain pytest has imported before and after it loads its first conftests. What C code
# puts into `sys.modules` as a part of itself (`pyexpat.errors`) was not imported by anybody.
PROBE = """
import sys

SEEN = {}

def imported():
    modules = list(sys.modules.items())
    return [name for name, module in modules if getattr(module, "__spec__", None) is not None]

def before(hook_name, implementations, arguments):
    if hook_name == "pytest_load_initial_conftests":
        SEEN["before"] = imported()

def after(outcome, hook_name, implementations, arguments):
    if hook_name == "pytest_load_initial_conftests":
        SEEN["after"] = imported()

def pytest_addoption(parser, pluginmanager):
    pluginmanager.add_hookcall_monitoring(before, after)

def pytest_unconfigure(config):
    import json
    import os

    with open(os.environ["PROBED"], "w") as file:
        json.dump(SEEN, file)
"""


@pytest.fixture
def project(sandbox: Sandbox) -> Sandbox:
    return filled(sandbox)


def filled(sandbox: Sandbox) -> Sandbox:
    for name, text in PROJECT.items():
        sandbox.write(name, text)
    return sandbox


@pytest.fixture
def warm(project: Sandbox) -> Sandbox:
    project.warm_up(depth="Z2")
    return project


def explain(sandbox: Sandbox, *arguments: str) -> str:
    done = sandbox.daemon.command("explain", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    return done.stdout


def explained(sandbox: Sandbox, *arguments: str) -> dict[str, Any]:
    [document] = json.loads(explain(sandbox, "--json", *arguments))
    return document


def checkpoints(document: dict[str, Any]) -> list[dict[str, Any]]:
    """All of the tree, what a checkpoint was forked from before it."""
    found = [branch for root in document["roots"] for branch in root["checkpoints"]]
    for branch in found:
        found += branch["deeper"]
    return found


def imports_of(sandbox: Sandbox, level: str) -> dict[str, Any]:
    [branch] = [it for it in checkpoints(explained(sandbox)) if it["level"] == level]
    return branch["imports"]


def written(sandbox: Sandbox, name: str) -> Path:
    """The waterfall, of which what is said goes elsewhere than the tree."""
    path = sandbox.base / name
    done = sandbox.daemon.command("explain", "--waterfall", str(path))
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"wrote `{path}`: 3 checkpoints, ")
    assert "Z2" in done.stdout
    return path


SVG = "{http://www.w3.org/2000/svg}"


def bars(text: str) -> dict[str, dict[str, list[ElementTree.Element]]]:
    """The bars of each level's panel, by the names of their modules."""
    found = {}
    for panel in ElementTree.fromstring(text).iter(f"{SVG}g"):
        if panel.get("class") != "panel":
            continue
        level = (panel.findtext(f"{SVG}text") or "").partition(",")[0]
        modules = found.setdefault(level, {})
        for bar in panel.iter(f"{SVG}g"):
            if bar.get("data-module"):
                modules.setdefault(bar.get("data-module"), []).append(bar)
    return found


def loaded(panel: dict[str, list[ElementTree.Element]]) -> set[str]:
    """The modules that were found and did not raise."""
    return {
        name
        for name, group in panel.items()
        if any("failed" not in bar.get("class", "").split() for bar in group)
    }


def plain_imports(sandbox: Sandbox, *arguments: str) -> dict[str, set[str]]:
    """What plain pytest imports where a P0 and a Z2 would."""
    probe = sandbox.base / "probe"
    probe.mkdir()
    (probe / "probe.py").write_text(PROBE)
    told = sandbox.base / "probed.json"
    env: dict[str, str | None] = {"PYTHONPATH": str(probe), "PROBED": str(told)}
    assert sandbox.plain("-p", "probe", *arguments, env=env).status == 0
    seen = {when: set(names) for when, names in json.loads(told.read_text()).items()}
    # The script, up to where it would call pytest.
    code = f"exec(open({str(sandbox.pytest)!r}, 'rb').read(), {{'__name__': ''}})"
    asked = f"{code}; import sys; print(*sys.modules)"
    start = sandbox.run(sandbox.environment.python, "-c", asked)
    return {
        "P0": seen["before"] - set(start.stdout.split()) - {"probe"},
        "Z2": seen["after"] - seen["before"],
    }


# ------------------------------------------------------------------ the tree


def test_the_tree_for_people(warm: Sandbox) -> None:
    warm.warm()
    text = explain(warm)
    status = warm.daemon.status()
    places = []
    for level in ("Z0", "P0", "Z2"):
        [checkpoint] = status.ready(level)
        [line] = [it for it in text.splitlines() if f"pid {checkpoint.pid}," in it]
        assert re.match(rf" *(└ )?{level}  ready  .* MiB, built in ", line), line
        places.append((text.index(line), line.index(level)))
    # Each below what it was forked from, and further to the right.
    assert places == sorted(places)
    assert len({column for _, column in places}) == 3
    assert re.search(r"holds: 1 conftest, .*; \d+ more modules", text)
    assert re.search(r"imports, .*s: app .*s \(4 modules\)", text)
    assert "spares a run about" in text
    assert re.search(r"last 2 runs: 1 warm, about .*s spared in all\n +an estimate", text)
    assert not re.search(r"[ \t]$", text, re.MULTILINE)


def test_the_tree_for_tools(warm: Sandbox) -> None:
    warm.warm()
    document = explained(warm)
    assert document["version"] == 1
    assert document["project"] == str(warm.project)
    z0, p0, z2 = checkpoints(document)
    assert [it["level"] for it in (z0, p0, z2)] == ["Z0", "P0", "Z2"]
    assert z0["deeper"] == [p0]
    assert p0["deeper"] == [z2]
    for above, below in ((z0, p0), (p0, z2)):
        assert below["modules"] == above["modules"] + below["added"]
        spared = above["spares_seconds"] + below["imports"]["seconds"]
        assert below["spares_seconds"] == pytest.approx(spared)
        assert 0 < below["imports"]["seconds"] < below["build_seconds"]
    assert z0["spares_seconds"] == z0["build_seconds"]
    assert z0["added"] == z0["modules"] > 100
    assert [it["served"] for it in (z0, p0, z2)] == [0, 0, 1]
    assert not z0["imports"]["watched"]
    cold, last = document["runs"]
    assert cold["spared"] is None
    assert last["spared"] == pytest.approx(z2["spares_seconds"])


def test_what_each_import_took(warm: Sandbox) -> None:
    imports = imports_of(warm, "Z2")
    loads = {load["name"]: load for load in imports["loads"]}
    nested = ["conftest", "app.models", "app.fields", "app.slow"]
    assert [loads[name]["depth"] for name in nested] == [0, 1, 2, 3]
    # It sleeps for 50 ms, and whoever imports it waits for that. (What watching is thought to have
    # taken is taken off.)
    assert loads["app.slow"]["own"] >= 45_000
    for name in nested:
        assert loads[name]["took"] >= 45_000
        assert loads[name]["own"] <= loads[name]["took"]
    for above, below in zip(nested, nested[1:]):
        outer, inner = loads[above], loads[below]
        assert outer["start"] <= inner["start"]
        assert inner["start"] + inner["took"] <= outer["start"] + outer["took"] + 1
        assert outer["took"] - outer["own"] >= inner["took"]
    assert loads["missing_one"]["end"] == "failed"
    assert loads["late"]["end"] == "held"
    own = sum(load["own"] for load in imports["loads"]) / 1e6
    assert imports["seconds"] == pytest.approx(own)
    assert imports["left_out"] == 0
    app = imports["packages"][0]
    assert (app["name"], app["modules"]) == ("app", 4)
    assert app["seconds"] >= 0.045


def test_nothing_runs(project: Sandbox) -> None:
    picture = project.base / "a.svg"
    done = project.daemon.command("explain", "--waterfall", str(picture))
    assert (done.returncode, done.stderr) == (NOT_RUNNING, "")
    assert done.stdout == project.daemon.command("status").stdout
    assert not picture.exists()
    done = project.daemon.command("explain", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (NOT_RUNNING, [])


@pytest.mark.parametrize(
    ("env", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=str,
)
def test_on_a_terminal(warm: Sandbox, env: dict[str, str], coloured: bool) -> None:
    with warm.terminal(warm.daemon.program, "explain", env=env) as terminal:
        assert terminal.finish() == 0
    assert ("\x1b[" in terminal.text) == coloured


def test_help(project: Sandbox) -> None:
    done = project.daemon.command("explain", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("--waterfall", "--json", ".svg", ".html", "PYTEST ARGS"):
        assert word in done.stdout


# ------------------------------------------------------------------ causes


def incidents(sandbox: Sandbox, kind: str) -> list[dict[str, Any]]:
    document = explained(sandbox)
    return [it for root in document["roots"] for it in root["incidents"] if it["kind"] == kind]


def test_an_edit_is_named_as_the_cause(warm: Sandbox) -> None:
    path = warm.write("app/fields.py", "from . import slow\n\nNEW = 1\n")
    warm.warm()
    [stale] = incidents(warm, "stale")
    assert (stale["level"], stale["why"], stale["along"]) == ("Z2", f"`{path}` changed", [])
    assert re.search(rf"\d+ s ago  Z2 stale: `{re.escape(str(path))}` changed\n", explain(warm))


def test_what_goes_with_a_z0_is_told(own_sandbox: Sandbox) -> None:
    filled(own_sandbox).warm_up(depth="Z2")
    [hooks] = own_sandbox.environment.site_packages.glob("pluggy/_hooks.py")
    hooks.write_text(hooks.read_text() + "\n# Another line.\n")
    own_sandbox.first()
    [stale] = incidents(own_sandbox, "stale")
    assert (stale["level"], stale["along"]) == ("Z0", ["P0", "Z2"])
    assert str(hooks) in stale["why"]


def test_a_process_that_was_killed_is_told(warm: Sandbox) -> None:
    [p0] = warm.daemon.status().ready("P0")
    assert p0.pid
    os.kill(p0.pid, signal.SIGKILL)
    eventually(lambda: incidents(warm, "lost"), "the loss")
    [lost] = incidents(warm, "lost")
    assert lost["level"] == "P0"


def test_why_there_is_no_deeper_one(project: Sandbox) -> None:
    """In the words of the daemon: those that `status` has."""
    project.write("conftest.py", "import time\n\nNOW = time.time()\n")
    project.warm_up()
    [root] = project.daemon.status().raw["roots"]
    [missing] = root["unprepared"]
    assert "reads the clock" in missing["why"]
    text = explain(project)
    assert f"    no Z2  {missing['why']}\n" in text
    [failed] = incidents(project, "failed")
    assert (failed["level"], failed["why"]) == ("Z2", missing["why"])


def test_a_plugin_that_is_not_kept(new_sandbox: Any, own_environment: Environment) -> None:
    """What follows it is loaded by each run, and the reason is told."""
    body = "import time\n\nNOW = time.time()\n"
    wheels = own_environment.root / "wheels"
    wheel = write_wheel(wheels, "clocky", "1.0", {"clocky.py": body}, plugin="clocky")
    own_environment.install("--no-deps", "--no-index", wheel)
    sandbox = filled(new_sandbox(own_environment))
    sandbox.warm_up()
    text = explain(sandbox)
    assert re.search(r"    below P0  each run loads `clocky` and what follows: .*clock", text)
    # What a run did not find there it has imported itself.
    sandbox.warm()
    assert "clocky" not in {load["name"] for load in imports_of(sandbox, "P0")["loads"]}


def test_what_runs_import_themselves(warm: Sandbox) -> None:
    warm.warm("-q")
    eventually(lambda: warm.last_run().raw["status"] is not None, "the end of the run")
    [natural] = explained(warm, "-q")["natural"]
    names = dict(natural["packages"])
    assert names["nntools"] == 1
    assert "app" not in names
    assert re.search(r"imports \d+ modules itself, .*nntools.*\n.*not recorded", explain(warm))


# ------------------------------------------------------------------ a selection


def test_what_would_serve_a_run(warm: Sandbox) -> None:
    [z2] = warm.daemon.status().ready("Z2")
    asked = explained(warm, "-x", "-k", "nothing")["asked"]
    assert (asked["checkpoint"], asked["pid"], asked["why"]) == ("Z2", z2.pid, None)
    # Asking has not begun anything.
    assert len(warm.daemon.status().runs) == 1
    other = explained(warm, "--co", "app")
    assert other["asked"]["checkpoint"] == "P0"
    assert other["asked"]["why"] == "the first run with these options"
    assert [it["level"] for it in checkpoints(other)] == ["Z0", "P0"]
    assert f"answer   would be served by Z2, pid {z2.pid}\n" in explain(warm, "-v")


def test_the_answer_is_what_then_happens(warm: Sandbox) -> None:
    warm.write("conftest.py", "import app.fields\n")
    variable = {"PYTEST_ADDOPTS": "-p no:cacheprovider"}
    certain = []
    for arguments, env in (([], {}), (["-s"], {}), (["-p", "no:doctest"], {}), ([], variable)):
        done = warm.daemon.command("explain", "--json", *(arguments or ["-q"]), env=env)
        [document] = json.loads(done.stdout)
        warm.first(*(arguments or ["-q"]), env=env)
        answer = document["asked"]
        assert not answer["certain"] or answer["checkpoint"] == warm.last_run().checkpoint
        certain.append(answer["certain"])
        warm.until_ready()
    assert certain == [True, True, False, True]


# ------------------------------------------------------------------ the waterfall


def assert_drawn_as_imported(sandbox: Sandbox) -> dict[str, set[str]]:
    """What was drawn of each level is what plain pytest imports there."""
    expected = plain_imports(sandbox)
    assert expected["Z2"] >= {"conftest", "app", "app.models", "app.slow", "late", "colorsys"}
    sandbox.warm_up(depth="Z2")
    drawn = bars(written(sandbox, "a.svg").read_text())
    for level, modules in expected.items():
        assert loaded(drawn[level]) == modules
    assert "missing_one" in set(drawn["Z2"]) - loaded(drawn["Z2"])
    assert drawn["Z0"] == {}
    return expected


@pytest.mark.parametrize("python", interpreters(), ids=lambda v: f"py{v}")
def test_the_picture_shows_what_plain_pytest_imports(new_sandbox: Any, python: str) -> None:
    assert_drawn_as_imported(filled(new_sandbox(environment(python))))


@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_plugins_and_modes_of_import(
    new_sandbox: Any, tiny_environment: Environment, mode: str
) -> None:
    sandbox = filled(new_sandbox(tiny_environment))
    sandbox.write("pytest.ini", f"[pytest]\npythonpath = .\naddopts = --import-mode={mode}\n")
    assert assert_drawn_as_imported(sandbox)["P0"] >= {"tiny", "tinydep"}


def test_the_picture_is_in_scale_and_can_be_read(warm: Sandbox) -> None:
    document = ElementTree.parse(written(warm, "a.svg")).getroot()
    assert document.tag == f"{SVG}svg"
    ids = (document.get("aria-labelledby") or "").split()
    texts = {it.get("id"): it.text for it in document.iter() if it.get("id")}
    assert all(texts[name] for name in ids)
    loads = {load["name"]: load for load in imports_of(warm, "Z2")["loads"]}
    drawn = bars(written(warm, "a.svg").read_text())["Z2"]
    fills, scales = {}, set()
    for name, load in loads.items():
        for bar in drawn[name]:
            title, rect = bar.find(f"{SVG}title"), bar.find(f"{SVG}rect")
            assert title is not None
            assert rect is not None
            assert (title.text or "").startswith(f"{name}: {load['took'] / 1e3:.2f} ms, ")
            if load["end"] == "held":
                fills.setdefault(name.partition(".")[0], set()).add(rect.get("fill"))
            if load["took"] > 20_000:
                scales.add(round(float(rect.get("width", 0)) / load["took"] * 1e3, 2))
    assert all(len(colours) == 1 for colours in fills.values())
    assert len(fills["app"] | fills["late"]) == 2
    assert len(scales) == 1
    rows = [float(drawn[name][0].find(f"{SVG}rect").get("y", 0)) for name in ("app", "app.slow")]
    assert rows[0] < rows[1]


def test_a_file_needs_nothing_else(warm: Sandbox) -> None:
    for name in ("a.svg", "a.html"):
        text = written(warm, name).read_text()
        assert re.findall(r"https?://[^\"' ]+", text) == [SVG[1:-1]]
        assert not re.search(r"\b(src|href)=|@import|url\(|\bfetch\b|\bimport\(", text)
        assert "prefers-color-scheme:dark" in text
        assert ("<script" in text) == (name == "a.html")


def test_the_page_holds_the_same_picture(warm: Sandbox) -> None:
    page = written(warm, "a.html").read_text()
    assert page.startswith("<!doctype html>")
    [svg] = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    picture = written(warm, "b.svg").read_text()
    assert {level: set(panel) for level, panel in bars(svg).items()} == {
        level: set(panel) for level, panel in bars(picture).items()
    }
    # As XML, a missing end of an element is an error.
    table = ElementTree.fromstring(re.findall(r"<table>.*</table>", page, re.DOTALL)[0])
    assert table.findtext(".//td") == "app.slow"


def test_only_the_branch_of_a_selection_is_drawn(warm: Sandbox) -> None:
    warm.warm_up("-p", "no:doctest", depth="Z2")
    path = warm.base / "a.svg"
    for arguments, count in (([], 5), (["-p", "no:doctest"], 3)):
        done = warm.daemon.command("explain", "--waterfall", str(path), *arguments)
        assert done.returncode == 0
        panels = ElementTree.parse(path).getroot().iter(f"{SVG}g")
        assert sum(panel.get("class") == "panel" for panel in panels) == count


@pytest.mark.parametrize("name", ["a.png", "svg", "a.svg.gz"])
def test_an_unknown_ending(warm: Sandbox, name: str) -> None:
    done = warm.daemon.command("explain", "--waterfall", str(warm.base / name))
    assert (done.returncode, done.stdout) == (WRONG_USAGE, "")
    assert "hint: end the name in `.svg`" in done.stderr
    assert not (warm.base / name).exists()


def test_a_place_that_cannot_be_written(warm: Sandbox) -> None:
    done = warm.daemon.command("explain", "--waterfall", "nowhere/a.svg")
    assert done.returncode == 1
    assert done.stderr.startswith("error: writing `nowhere/a.svg`: ")


def test_there_is_nothing_to_draw(project: Sandbox) -> None:
    assert project.daemon.command("start").returncode == 0
    done = project.daemon.command("explain", "--waterfall", "a.svg")
    assert done.returncode == 1
    assert "hint: run `pyseidon-test` once" in done.stderr
    assert not (project.project / "a.svg").exists()
