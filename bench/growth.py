"""How the time of a warm run grows with the project: the same test over 100 to 10,000 modules."""

import subprocess

from environments import SELECTIONS, SIZES, Unavailable, synthetic
from ours import Warm
from references import Second
from rounds import log, measure_selection
from runners import Plain

# Everything is eight seconds long where there are 10,000 modules.
ROUNDS = 5
WARM_UPS = 1


def measure_growth(bench, sizes=SIZES, rounds=ROUNDS):
    result = {}
    for size in sizes:
        project = synthetic(size)
        log(f"{project.name}: {project.title}")
        runners = [kind(bench, project) for kind in (Plain, Warm, Second)]
        try:
            for runner in runners:
                runner.prepare()
                compile_all(runner)
            figures = measure_selection(bench, runners, SELECTIONS[0], rounds, WARM_UPS)
            result[project.name] = {"modules": size, "title": project.title, "one": figures}
        except Unavailable as error:
            log(f"  {project.name}: {error}")
            result[project.name] = {"modules": size, "title": project.title, "absent": str(error)}
        finally:
            for runner in runners:
                runner.stop()
    return result


def compile_all(runner):
    """As after the first run, on all processors: 10,000 modules take a minute on one."""
    command = [runner.venv / "bin" / "python", "-m", "compileall", "-q", "-j", "0"]
    subprocess.run([*command, runner.cwd / "src"], env=runner.environment(), check=True)


def slopes(growth):
    """Milliseconds for 1,000 modules more, from the smallest project to the largest: in what a
    warm run waits around pytest, and in pytest itself."""
    inside = {}
    for found in growth.values():
        warm = found.get("one", {}).get("warm", {})
        if "in_pytest_ms" in warm.get("inside", {}):
            inside[found["modules"]] = warm["inside"]
    if len(inside) < 2:
        return None
    low, high = min(inside), max(inside)
    thousands = (high - low) / 1000
    around = [inside[size]["added_around_pytest"]["median_ms"] for size in (low, high)]
    within = [inside[size]["in_pytest_ms"] for size in (low, high)]
    return {
        "from": low,
        "to": high,
        "validation_ms": round((around[1] - around[0]) / thousands, 2),
        "adoption_ms": round((within[1] - within[0]) / thousands, 2),
    }
