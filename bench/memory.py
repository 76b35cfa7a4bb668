"""What the parked processes of a root take, against one plain run.

Proportional set sizes are added, so that pages which several share count once. What the daemon
takes itself is no part of it and told beside.
"""

import json
import subprocess
import sys
import time

from environments import SELECTIONS, Unavailable

# Three in turn: whoever works on something runs its file, its directory, and that of a neighbour.
TURNS = (
    SELECTIONS[0].arguments,
    SELECTIONS[1].arguments,
    ("tests/many/test_many_00.py",),
)

STEADY_LIMIT = 120

# In a process of its own, and a small one: the peak that a child is charged with begins with that
# of the process which started it.
PEAK = """
import json, os, sys
argv = json.loads(sys.argv[1])
pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=[
    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, 1, 2)])
_, status, usage = os.wait4(pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss]))
"""


def measure_memory(bench, plain, warm):
    """After one file again and again, and after three selections in turn."""
    result = {"plain_peak_kib": peak_of(plain, TURNS[0])}
    try:
        warm.start(TURNS[0])
        until_steady(warm)
        result["one"] = parked(warm)
        for arguments in TURNS[1:]:
            warm.start(arguments)
        bench.once(warm, TURNS[0])
        warm.after_run()
        warm.before_run()
        until_steady(warm)
        result["three"] = parked(warm)
    finally:
        warm.stop()
    for kind in ("one", "three"):
        whole = result[kind]["pss_kib"]
        result[kind]["times_plain"] = round(whole / result["plain_peak_kib"], 3)
    return result


def peak_of(runner, arguments):
    """The peak resident set size of one run, and of the largest process that it started."""
    command = json.dumps([str(word) for word in runner.command(arguments)])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PEAK, command],
        cwd=runner.cwd,
        env=runner.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    status, peak = json.loads(done.stdout)
    if status:
        raise Unavailable(f"plain pytest ended with status {status}")
    return peak


def until_steady(warm):
    """Until what is not needed has ended: the Z0 half a minute after something was grown from it,
    standbys a minute after another checkpoint has taken their place."""
    end = time.monotonic() + STEADY_LIMIT
    while not all(map(is_steady, warm.status().get("roots", []))):
        if time.monotonic() > end:
            raise Unavailable("what is not needed does not end")
        time.sleep(0.5)


def is_steady(root):
    standbys = [process for process in root["processes"] if process["standby"]]
    return root["z0_retired"] and len(standbys) <= 1


def parked(warm):
    document = warm.status()
    roots = [root for root in document.get("roots", []) if root["processes"]]
    if not roots:
        raise Unavailable("no process is parked")
    # There is one: nothing that makes another root has changed.
    (root,) = roots
    processes, whole = [], 0
    for process in root["processes"]:
        standby = process["standby"]["pss_kib"] if process["standby"] else 0
        own = process["pss_kib"] or 0
        whole += own + standby
        processes.append({"level": process["level"], "pss_kib": own, "standby_pss_kib": standby})
    return {"pss_kib": whole, "processes": processes, "daemon_pss_kib": document["pss_kib"]}
