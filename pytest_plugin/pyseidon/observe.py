"""What a zygote reads on its way to where it parks.

Files, directories and imports are seen by the extension's audit hook. This module sees the rest:
environment variables through a recording mapping, arguments through a recording list, and, while
plugins are loaded, reads of clocks, seeds, terminals and paths through a profile function (see
the extension's `profile`). What a fork cannot carry over is found by comparing before and after.
"""

import gc
import os
import sys
import time

import _signal
import posix

from pyseidon import _zygote, refresh

STATE = None

# Of module `time`: those that tell something else each time, at least without an argument.
CLOCKS = (
    *(f"{name}{unit}" for unit in ("", "_ns") for name in ("time", "monotonic", "perf_counter")),
    *(f"{name}{unit}" for unit in ("", "_ns") for name in ("process_time", "thread_time")),
    *("clock_gettime", "clock_gettime_ns", "localtime", "gmtime", "ctime", "asctime", "strftime"),
)


class State:
    """One observation."""

    def __init__(self, texts, files):
        self.texts = texts
        self.files = files
        self.env_read = set()
        self.env_all = False
        self.argv_read = False
        self.world = None


class Environment(dict):
    """`os.environ`'s data while a zygote is being built: notes which variables are read."""

    def __getitem__(self, name):
        STATE.env_read.add(name)
        return dict.__getitem__(self, name)

    def __contains__(self, name):
        STATE.env_read.add(name)
        return dict.__contains__(self, name)

    def get(self, name, default=None):
        STATE.env_read.add(name)
        return dict.get(self, name, default)

    def pop(self, name, *default):
        STATE.env_read.add(name)
        return dict.pop(self, name, *default)

    def setdefault(self, name, value):
        STATE.env_read.add(name)
        return dict.setdefault(self, name, value)

    def whole(self):
        STATE.env_all = True
        return super()

    def __iter__(self):
        return self.whole().__iter__()

    def __len__(self):
        return self.whole().__len__()

    def __eq__(self, other):
        return self.whole().__eq__(other)

    def __ne__(self, other):
        return self.whole().__ne__(other)

    __hash__ = None

    def keys(self):
        return self.whole().keys()

    def values(self):
        return self.whole().values()

    def items(self):
        return self.whole().items()

    def copy(self):
        return dict(self.whole().items())


class Arguments(list):
    """`sys.argv` while plugins are loaded: notes reads by code other than pytest's own."""

    def note(self):
        if sys._getframe(2).f_globals.get("__name__", "").partition(".")[0] != "_pytest":
            STATE.argv_read = True
        return super()

    def __getitem__(self, at):
        return self.note().__getitem__(at)

    def __iter__(self):
        return self.note().__iter__()

    def __len__(self):
        return self.note().__len__()

    def __contains__(self, item):
        return self.note().__contains__(item)

    def __eq__(self, other):
        return self.note().__eq__(other)

    __hash__ = None

    def __add__(self, other):
        return self.note().__add__(other)

    def copy(self):
        return self.note().copy()

    def index(self, *args):
        return self.note().index(*args)

    def count(self, item):
        return self.note().count(item)


def start(texts, files):
    """Begins to record. `texts` are start-up files whose words count as reads of the variables
    they name, `files` what else was read before."""
    global STATE
    STATE = State(texts, files)
    put_environment(Environment(os.environ._data))


def start_plugins():
    """Goes on recording in a zygote that is to load plugins."""
    put_environment(Environment(os.environ._data))
    STATE.world = world()
    argv = Arguments(sys.argv)
    sys.argv = argv
    core = [
        os.path.dirname(sys.modules[name].__file__)
        for name in ("_pytest", "pytest", "pluggy", "iniconfig", "packaging")
        if name in sys.modules
    ]
    known = [(rule.file, rule.kind) for rule in refresh.RULES]
    _zygote.observe(impure_functions(), stdlib_directories(), [d + os.sep for d in core], known)
    sys.setprofile(_zygote.profile)


def impure_functions():
    """C functions whose results depend on more than files and variables, by kind."""
    random = sys.modules["random"]
    datetime = sys.modules["datetime"]
    generator = random.Random(0)
    stream = sys.stdout
    return {
        "clock": [
            *(getattr(time, name) for name in CLOCKS if hasattr(time, name)),
            datetime.datetime.now,
            datetime.datetime.utcnow,
            datetime.datetime.today,
            datetime.date.today,
        ],
        "random": [
            posix.urandom,
            *([posix.getrandom] if hasattr(posix, "getrandom") else []),
            generator.random,
            generator.getrandbits,
        ],
        # The class's own method, below `random.Random.seed`.
        "seed": [super(random.Random, generator).seed],
        "process": [posix.getpid, posix.getppid, posix.getpgid, posix.getpgrp, posix.getsid],
        "terminal": [
            posix.isatty,
            stream.isatty,
            stream.buffer.isatty,
            *([stream.buffer.raw.isatty] if hasattr(stream.buffer, "raw") else []),
            posix.get_terminal_size,
        ],
        "cwd": [posix.getcwd, posix.getcwdb],
        "path": [posix.stat, posix.lstat, posix.access, posix.readlink],
        "fork": [posix.register_at_fork, _signal.signal, _signal.setitimer, _signal.set_wakeup_fd],
    }


def stop():
    """Ends recording. Returns what Python can tell of what was read, for `_zygote.park`."""
    sys.setprofile(None)
    _zygote.unwatch()
    found = _zygote.findings()
    state = STATE
    if isinstance(sys.argv, Arguments):
        sys.argv = list(list.__iter__(sys.argv))
    environment = os.environ._data
    # The interpreter's own mapping: `os.environ` of plain Python is backed by it.
    natural = posix.environ
    natural.clear()
    natural.update(dict.items(environment))
    put_environment(natural)
    refresh.GENERATORS.extend(found.get("unseeded", ()))
    return {
        "modules": module_files(),
        "names": sorted({name.partition(".")[0] for name in sys.modules}),
        "packages": packages(),
        "sys_path": [os.path.abspath(path) for path in sys.path],
        "files": list(state.files),
        "texts": list(state.texts),
        "env_read": set(state.env_read),
        "env_all": state.env_all,
        "argv_read": state.argv_read,
        "cwd_read": bool(found.get("cwd")),
        "terminal_read": bool(found.get("terminal")),
        "probes": list(found.get("probes", ())),
    }


def put_environment(data):
    os.environ._data = data
    os.environb._data = data


def module_files():
    """`(file, byte code's place or None)` of every module that has a file."""
    found = []
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        file = names.get("__file__")
        if not isinstance(file, str):
            continue
        cached = names.get("__cached__")
        found.append((file, cached if isinstance(cached, str) else None))
    return found


def packages():
    """The directories of every package."""
    found = {}
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__dict__", {}).get("__path__")
        if path is not None:
            try:
                found[name] = [os.path.abspath(entry) for entry in path if isinstance(entry, str)]
            except TypeError:
                continue
    return found


def stdlib_directories():
    """Where the standard library is, as prefixes of file names."""
    home = os.path.dirname(os.__file__)
    return [home + os.sep, "<frozen "]


def startup_texts():
    """Files whose text was run when the interpreter started: `.pth` files, and modules outside
    the standard library that are loaded already."""
    home = os.path.dirname(os.__file__) + os.sep
    found = []
    for directory in sys.path:
        if os.path.basename(directory) in ("site-packages", "dist-packages"):
            try:
                names = os.listdir(directory)
            except OSError:
                continue
            found += [os.path.join(directory, name) for name in names if name.endswith(".pth")]
    for file, _ in module_files():
        if not file.startswith(home) or "site-packages" in file:
            found.append(file)
    return found


def interpreter_files():
    """What the interpreter itself was made of."""
    binary = os.path.realpath(sys.executable)
    here = os.path.dirname(sys.executable)
    return [
        sys.executable,
        binary,
        os.path.join(here, "pyvenv.cfg"),
        os.path.join(os.path.dirname(here), "pyvenv.cfg"),
    ]


def world():
    """What a forked child does not get, or what is set anew in it."""
    return {
        "descriptors": sorted(os.listdir("/proc/self/fd"))[:-1],
        "threads": len(os.listdir("/proc/self/task")),
        "signal handlers": [_signal.getsignal(n) for n in range(1, 65) if n not in (32, 33)],
        "working directory": os.getcwd(),
        "standard streams": [id(sys.stdin), id(sys.stdout), id(sys.stderr)],
    }


def barrier():
    """Why a fork could not carry over what plugins have done, or None."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if os.fstat(1).st_size:
        with open("/proc/self/fd/1", errors="replace") as file:
            return f"a plugin printed {file.read(200).strip()!r}"
    after = world()
    for name, before in STATE.world.items():
        if name == "descriptors":
            continue
        if after[name] != before:
            return f"a plugin changed the process's {name}"
    for name in ("stdin", "stdout", "stderr"):
        # What was there at Z0 is frozen, so it is not among the referrers.
        if gc.get_referrers(getattr(sys, name)):
            return f"a plugin keeps `sys.{name}`, which is another object in each run"
    if len(after["descriptors"]) != len(STATE.world["descriptors"]):
        return "a plugin left a descriptor open"
    return None
