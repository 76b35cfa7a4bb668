"""Pyseidon's own two runners: warm, and the first run of a project whose daemon is not there."""

import json
import subprocess
import time

from environments import Unavailable
from runners import Plain

# From a run's end until the daemon counts it, and until all checkpoints stand that it wants.
NOTED_LIMIT = 2.0
BUILT_LIMIT = 120.0
# When none was built in that time, it will not come for the next question either.
IMPATIENT = 5.0
PAUSE = 0.02

# From shallow to deep. A level of another name is new, and so taken for deeper than these.
LEVELS = ("plain", "Z0", "P0", "Z1", "Z2", "Z3")
# The beginning of the reason for a checkpoint that is still to come.
NOT_YET = "not prepared yet"


def depth(level):
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def is_settled(document):
    """Whether the daemon has built all that it wants for now."""
    for root in document.get("roots", []):
        is_due = root["state"] == "building" or (root["state"] == "waiting" and root["why"])
        states = {process["state"] for process in root["processes"]}
        if is_due or states - {"ready", "leaving"}:
            return False
        if any(shape["why"].startswith(NOT_YET) for shape in root["unprepared"]):
            return False
    return True


class Warm(Plain):
    name = "warm"
    title = "pyseidon-test"

    def __init__(self, bench, project):
        super().__init__(bench, project)
        self.seen = 0
        self.patience = BUILT_LIMIT

    def environment(self):
        return {
            **super().environment(),
            # It must be said, or `CI` in the environment would mean plain pytest.
            "PYSEIDON": "1",
            # Neither the daemons nor the learned things of whoever runs the benchmark.
            "XDG_RUNTIME_DIR": str(self.bench.scratch),
            "XDG_CACHE_HOME": str(self.bench.scratch / "cache"),
        }

    def command(self, arguments):
        return [self.venv / "bin" / "pyseidon-test", *arguments]

    def start(self, arguments):
        """Runs until nothing deeper comes any more, or the time for it is over.

        A deeper checkpoint may need another run to be learned from, so that the daemon being at
        rest is not enough: two runs in a row must have found the same checkpoints."""
        if not arguments:
            return
        deadline, run, before = time.monotonic() + self.patience, None, None
        while time.monotonic() < deadline:
            self.bench.once(self, arguments)
            run = self.after_run()
            self.before_run()
            found = run and (run["checkpoint"], self.prepared())
            if found and found == before and depth(run["checkpoint"]) >= depth("P0"):
                return
            before = found
        self.patience = IMPATIENT
        why = run and run["why"]
        self.bench.log(f"  {self.name}: no P0 has served: {why or 'no daemon'}")

    def before_run(self):
        """Until the daemon is at rest. The end of this is not checked: where it never is, the
        figures are those of a daemon that never is, and the log says it."""
        deadline = time.monotonic() + self.patience
        while not is_settled(self.status()):
            if time.monotonic() > deadline:
                self.bench.log(f"  {self.name}: the daemon does not come to rest")
                self.patience = IMPATIENT
                return
            time.sleep(PAUSE)

    def prepared(self):
        """The checkpoints that there are."""
        return sorted((p["level"], p["shape"] or "") for p in self.processes())

    def processes(self):
        found = [p for root in self.status().get("roots", []) for p in root["processes"]]
        return [process for process in found if process["state"] == "ready"]

    def after_run(self):
        """The daemon's account of the run that has just ended."""
        deadline = time.monotonic() + NOTED_LIMIT
        while time.monotonic() < deadline:
            run = next(reversed(self.records()), None)
            # Our own process has been reaped, so a plain run is over whatever the record says.
            if run and run["id"] > self.seen and (run["parts"] or not run["checkpoint"]):
                self.seen = run["id"]
                return {
                    "checkpoint": run["checkpoint"] or "plain",
                    "why": run["why"],
                    "exit": run["exit"],
                    "seconds": run["parts"],
                }
            time.sleep(PAUSE)
        return None

    def records(self):
        return self.status().get("runs", [])

    def checkpoint(self):
        """What the deepest checkpoint holds, and why it is not deeper."""
        ready = self.processes()
        if not ready:
            return None
        # Those of the same level and the same command line are alike.
        deepest = max(ready, key=lambda it: (depth(it["level"]), it["traced_files"]))
        names = ("level", "holds", "shallow", "traced_files", "traced_directories", "pss_kib")
        return {name: deepest[name] for name in names}

    def status(self):
        done = self.daemon("status", "--json")
        documents = json.loads(done.stdout) if done.returncode == 0 else []
        return documents[0] if documents else {}

    def daemon(self, *arguments):
        return subprocess.run(
            [self.venv / "bin" / "pyseidon-daemon", *arguments],
            cwd=self.cwd,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def stop(self):
        self.seen = 0
        done = self.daemon("stop")
        if done.returncode:
            raise Unavailable(f"`pyseidon-daemon stop` failed: {done.stderr.strip()}")


class First(Warm):
    """Its daemon is stopped after each run: every run is the first."""

    name = "first"
    title = "pyseidon-test, first run"
    note = "The daemon is stopped before, so the run starts it and is plain pytest itself."

    def start(self, arguments):
        pass

    def after_run(self):
        self.stop()

    def checkpoint(self):
        return None
