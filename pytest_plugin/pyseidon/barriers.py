"""What a fork cannot carry over, found by comparing before and after: barriers.

Also what start-up code may not do, which was done before anything of ours could see it.
"""

import gc
import os
import sys

import _signal

from pyseidon import _zygote, refresh

# What start-up code may not do, as it is done before anything of ours could see it: the same
# things that end the loading of plugins in a checkpoint.
STARTUP_IMPURE = (
    *("getpid", "getppid", "urandom", "uuid1", "uuid4", "random."),
    *("time.time", "time()", "perf_counter", "monotonic", ".now(", ".today("),
    *("Popen", "subprocess", "os.system", "socket", "open(", "Thread("),
    *("isatty", "getcwd", "sys.argv", "register_at_fork", "signal.signal"),
    *("environ", "getenv", "settrace", "setprofile", "addaudithook", "meta_path", "seed("),
    *("print(", "sys.std", "write", "sys.path_hooks", "ctypes"),
)
# Read, and found to do none of it at start-up, though a function of theirs may.
STARTUP_KNOWN = (
    *("_distutils_hack", "distutils-precedence.pth", "_virtualenv", "__editable__"),
    *("a1_coverage.pth", "pytest-cov.pth", "init_cov_core.pth"),
)


NAMES = ("stdin", "stdout", "stderr")


def at_startup(texts):
    """Why no process that started like this one can stand for another, or None."""
    reason = printed("start-up code")
    if reason:
        return reason
    if sys.flags.inspect:
        return "the interpreter was told to become interactive at the end"
    now = world()
    # 0, 1, 2, the control channel, and the directory that is being listed.
    if now["descriptors"] != 5:
        return "start-up code left a descriptor open"
    if now["threads"] != 1:
        return "start-up code started a thread"
    if any(callable(h) and h is not _signal.default_int_handler for h in now["signal handlers"]):
        return "start-up code handles signals"
    for path in texts:
        if any(known in path for known in STARTUP_KNOWN):
            continue
        # In bytes: the first text file makes Python 3.9 import what pytest imports later.
        with open(path, "rb") as file:
            text = file.read().decode(errors="replace")
        for word in STARTUP_IMPURE:
            if word in text:
                return f"`{path}`, run at start-up, has `{word}` in it"
    return None


def printed(who):
    """What was written to the standard streams, in words, or None."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if not os.fstat(1).st_size:
        return None
    with open("/proc/self/fd/1", "rb") as file:
        return f"{who} printed {file.read(200).decode(errors='replace').strip()!r}"


def world():
    """What a forked child does not get, or what is set anew in it."""
    mask = os.umask(0)
    os.umask(mask)
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": 1 if is_beside_openblas() else len(os.listdir("/proc/self/task")),
        "signal handlers": [_signal.getsignal(n) for n in range(1, 65) if n not in (32, 33)],
        "blocked signals": _signal.pthread_sigmask(_signal.SIG_BLOCK, ()),
        "working directory": os.getcwd(),
        "umask": mask,
        "processors": os.sched_getaffinity(0),
        "resource limits": limits(),
        "switch for byte code": repr(sys.dont_write_bytecode),
        # A lock or a queue between processes would be one for all runs.
        "shared memory": shared_memory(),
        "standard streams": [(id(s), settings_of(s)) for s in streams()],
    }


def streams():
    return [getattr(sys, f"{dunder}{name}{dunder}") for dunder in ("", "__") for name in NAMES]


def settings_of(stream):
    """What can be set of a text stream, which each run has its own of."""
    names = ("encoding", "errors", "line_buffering", "write_through")
    return [getattr(stream, name, None) for name in names], dict(getattr(stream, "__dict__", {}))


def is_beside_openblas():
    """Whether OpenBLAS is loaded, which numpy is linked with: its threads are native, end before a
    fork and are made anew on both sides when they are needed."""
    with open("/proc/self/maps", "rb") as file:
        return b"openblas" in file.read()


def found(state):
    """Why a fork could not carry over what plugins have done, or None."""
    who = state.who
    reason = printed(who)
    if reason:
        return reason
    if state.argv_changed:
        return f"{who} changes `sys.argv`"
    if state.argv_kept or is_argv_kept(state):
        return f"{who} keeps `sys.argv`, which is another object in each run"
    if state.has_drawn:
        return f"{who} seeds numpy's global generator, or draws from it"
    after = world()
    for name, before in state.world.items():
        if name == "descriptors":
            continue
        if after[name] != before:
            return f"{who} changed the process's {name}"
    refresh.HANDLERS[:] = stream_handlers()
    rebound = {id(owner) for handler, _ in refresh.HANDLERS for owner in (handler, vars(handler))}
    rebound |= {id(getattr(sys, name)) for name in NAMES}
    rebound.update(state.copies)
    for name in (*NAMES, *(f"__{name}__" for name in NAMES)):
        # What was there at Z0 is frozen, so it is not among the referrers.
        # No variable may hold it here: before Python 3.11 that would be in a dictionary.
        owners = gc.get_referrers(getattr(sys, name))
        owners += gc.get_referrers(getattr(getattr(sys, name), "buffer", object()))
        if any(id(owner) not in rebound for owner in owners):
            return f"{who} keeps `sys.{name}`, which is another object in each run"
    if has_read_input():
        return f"{who} reads the standard input"
    if after["descriptors"] != state.world["descriptors"]:
        return f"{who} left a descriptor open"
    return None


class Comparison:
    """What `found` compares, and the end of pytest's capture, cheap enough for each module."""

    def __init__(self, state, output, numpy_state):
        self.state = state
        self.output = output
        self.numpy_state = numpy_state
        self.world = world()
        names = (*NAMES, "argv")
        self.counts = {name: sys.getrefcount(getattr(sys, name)) for name in names}
        self.owners = {name: set(map(id, gc.get_referrers(getattr(sys, name)))) for name in NAMES}

    def difference(self):
        """What is different now, as `found` says it, or None."""
        who = self.state.who
        one = os.fstat(1)
        reason = printed(who) if (one.st_dev, one.st_ino) == self.output else None
        if reason:
            return reason
        if tuple(list.__iter__(sys.argv)) != self.state.argv:
            return f"{who} changes `sys.argv`"
        drawn = _zygote.numpy_made() or self.state.numpy
        if drawn is not None and drawn != self.numpy_state():
            return f"{who} seeds numpy's global generator, or draws from it"
        after = world()
        for name, before in self.world.items():
            if after[name] != before:
                if name == "descriptors":
                    return f"{who} left a descriptor open"
                return f"{who} changed the process's {name}"
        for name, before in self.counts.items():
            # Who keeps it counts as a reference. (The search for owners looks at every object.)
            count = sys.getrefcount(getattr(sys, name))
            if count > before and (
                is_argv_kept(self.state) if name == "argv" else self.is_kept(name)
            ):
                return f"{who} keeps `sys.{name}`, which is another object in each run"
            self.counts[name] = count
        return None

    def is_kept(self, name):
        rebound = {id(o) for handler, _ in stream_handlers() for o in (handler, vars(handler))}
        known = self.owners[name] | rebound
        owners = gc.get_referrers(getattr(sys, name))
        return any(id(owner) not in known and not hasattr(owner, "f_code") for owner in owners)


def shared_memory():
    """The places of memory that a forked process would write to for others as well."""
    # In bytes: the first text file makes Python 3.9 import what pytest imports later.
    with open("/proc/self/maps", "rb") as file:
        fields = [line.split() for line in file]
    return [field[0] for field in fields if field[1].endswith(b"s") and b"w" in field[1]]


def stream_handlers():
    """Logging handlers that were made for a standard stream: `(handler, name)`."""
    logging = sys.modules["logging"]
    found = []
    for reference in logging._handlerList:
        handler = reference()
        for name in ("stdout", "stderr"):
            # (`logging.lastResort` asks for the stream each time.)
            if handler is not None and vars(handler).get("stream") is getattr(sys, name):
                found.append((handler, name))
    return found


def limits():
    with open("/proc/self/limits", "rb") as file:
        return file.read()


def has_read_input():
    """Whether somebody has moved on in the line that `grow` gave as standard input."""
    try:
        return os.lseek(0, 0, os.SEEK_CUR) != 0
    except OSError:
        return False


def is_argv_kept(state):
    """Whether anybody but `sys` and a running function holds a recording list of arguments."""
    return any(
        type(vars(sys).get(name, [])) is not list
        and any(
            referrer is not sys.__dict__
            and id(referrer) not in state.copies
            and not hasattr(referrer, "f_code")
            for referrer in gc.get_referrers(vars(sys)[name])
        )
        for name in ("argv", "orig_argv")
    )
