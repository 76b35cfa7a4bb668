"""Times one process, waits for a quiet machine, and says what machine it was."""

import os
import platform
import signal
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

# No run of the benchmark takes longer than a few seconds: what takes this long hangs.
TIMEOUT = 120.0

# Daemons work on after a run has ended (build, fork ahead, watch), and that work would be charged
# to the next runner. A tenth of a second is ten ticks of /proc/stat, and 30 % of one CPU is more
# than any idle daemon here takes. On a machine that others use it is never quiet: then the run
# starts all the same, and the report says how often; and it is not waited for so long again
# before it has been quiet once, or three runs in four of the time would be waiting.
QUIET_SAMPLE = 0.1
QUIET_SHARE = 0.3
QUIET_LIMIT = 2.0
RESTLESS_LIMIT = 0.3


@dataclass
class Finished:
    seconds: float
    status: int
    output: str


def run(argv, env, cwd, output_file, timeout=TIMEOUT):
    """Runs `argv` as a shell would, with its output in a file, and times it to its end."""
    # posix_spawn has no working directory of its own, and Popen's start is dearer than ours.
    os.chdir(cwd)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(output_file), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    argv = [str(argument) for argument in argv]
    started = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, env, file_actions=actions)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        _, status, _ = os.wait4(pid, 0)
        seconds = time.perf_counter() - started
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    output = Path(output_file).read_text(encoding="utf-8", errors="replace")
    return Finished(seconds, os.waitstatus_to_exitcode(status), output)


def _busy_seconds():
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    # user nice system idle iowait irq softirq steal; guest time is part of user time.
    return sum(fields[index] for index in (0, 1, 2, 5, 6, 7)) / os.sysconf("SC_CLK_TCK")


def wait_until_quiet(limit=QUIET_LIMIT):
    """Whether the machine became quiet within the limit."""
    deadline = time.monotonic() + limit
    while True:
        before, since = _busy_seconds(), time.monotonic()
        time.sleep(QUIET_SAMPLE)
        if (_busy_seconds() - before) / (time.monotonic() - since) < QUIET_SHARE:
            return True
        if time.monotonic() > deadline:
            return False


def summary(samples):
    return {
        "n": len(samples),
        "min_ms": round(min(samples) * 1e3, 2),
        "median_ms": round(statistics.median(samples) * 1e3, 2),
    }


def machine():
    """Facts that matter to the figures, none that name the machine."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": model,
        "memory_gib": round(memory / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def load():
    return [round(value, 2) for value in os.getloadavg()]
