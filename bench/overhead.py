"""The costs that are the same whatever the tests do: the client's start, and the trace."""

import shutil
import statistics

import measure
from environments import PROJECTS, SELECTIONS, Unavailable, read_pins
from ours import Warm

# A process of a millisecond needs many runs; they take no time.
CLIENT_RUNS = 200

# Twice the unit of the figure, so that it stands out of the noise of two medians.
BALLAST = 2000


def measure_overhead(bench, log, rounds):
    log("overhead")
    result = {"lines": []}
    nodeps = next(project for project in PROJECTS if project.name == "nodeps")
    try:
        venv = bench.environments.main(nodeps)
        client_start(bench, venv, result)
        traced_files(bench, nodeps, rounds, result)
    except Unavailable as error:
        result["lines"].append(("not measured", str(error)))
    return result


def client_start(bench, venv, result):
    """The client where `pytest` is a script that does nothing, against that script alone."""
    place = bench.scratch / "floor"
    shutil.rmtree(place, ignore_errors=True)
    (place / "bin").mkdir(parents=True)
    shutil.copy2(venv / "pyvenv.cfg", place)
    client = shutil.copy2(venv / "bin" / "pyseidon-test", place / "bin" / "pyseidon-test")
    script = place / "bin" / "pytest"
    script.write_text("#!/bin/true\n")
    script.chmod(0o755)
    # Told to run plain pytest, so that no daemon comes in.
    environment = {"PATH": "/usr/bin:/bin", "PYSEIDON": "0"}
    output = bench.scratch / "floor.out"
    times = {"client": [], "script": []}
    for _ in range(CLIENT_RUNS):
        for name, program in (("client", client), ("script", script)):
            done = measure.run([program], environment, place, output)
            if done.status:
                raise Unavailable(f"the client ended with status {done.status}: {done.output}")
            times[name].append(done.seconds)
    own = [a - b for a, b in zip(times["client"], times["script"])]
    result["client"] = {name: measure.summary(values) for name, values in times.items()}
    result["client"]["own_median_ms"] = round(statistics.median(own) * 1e3, 2)
    both = result["client"]
    result["lines"].append(
        (
            "start of the client, with `pytest` a program that does nothing",
            f"min {both['client']['min_ms']:.2f} ms, median {both['client']['median_ms']:.2f} ms "
            f"({both['own_median_ms']:.2f} ms more than that program alone)",
        )
    )


class Ballast(Warm):
    """The same project in an environment with a plugin that imports thousands of files."""

    name = "ballast"

    def prepare(self):
        super().prepare()
        environments, wheel = self.bench.environments, self.bench.environments.wheel
        pins = read_pins(self.project.requirements)
        self.venv = environments.get("nodeps-ballast", pins, wheel)
        (packages,) = self.venv.glob("lib/python*/site-packages")
        install_ballast(packages)


def install_ballast(packages):
    place = packages / "bench_ballast"
    place.mkdir(exist_ok=True)
    names = [f"part_{number:04}" for number in range(BALLAST)]
    for name in names:
        (place / f"{name}.py").write_text("")
    (place / "__init__.py").write_text("")
    (place / "plugin.py").write_text("".join(f"import bench_ballast.{name}\n" for name in names))
    about = packages / "bench_ballast-1.0.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-ballast\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[pytest11]\nballast = bench_ballast.plugin\n")
    (about / "RECORD").write_text("")


def traced_files(bench, project, rounds, result):
    """What a file in the trace costs: the time around pytest with and without the ballast."""
    light, heavy = Warm(bench, project), Ballast(bench, project)
    arguments = SELECTIONS[0].arguments
    added = {light.name: [], heavy.name: []}
    try:
        for runner in (light, heavy):
            runner.prepare()
            runner.start(arguments)
        for _ in range(max(rounds, 10)):
            for runner in (light, heavy):
                done = bench.timed(runner, arguments)
                run = runner.after_run()
                if done.status == 0 and run and run["seconds"]:
                    added[runner.name].append(done.seconds - run["seconds"][1])
    finally:
        light.stop()
        heavy.stop()
    if not all(added.values()):
        raise Unavailable("the runs were not warm")
    difference = statistics.median(added["ballast"]) - statistics.median(added["warm"])
    result["added_around_pytest"] = {n: measure.summary(values) for n, values in added.items()}
    result["per_1000_files_ms"] = round(difference * 1e3 / (BALLAST / 1000), 2)
    result["lines"] += [
        (
            "time added around pytest, project without dependencies",
            f"median {result['added_around_pytest']['warm']['median_ms']:.1f} ms",
        ),
        (
            "for every 1,000 files more in the trace",
            f"{result['per_1000_files_ms']:.2f} ms (measured with {BALLAST} modules of a plugin)",
        ),
    ]
