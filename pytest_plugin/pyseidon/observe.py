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

from pyseidon import _zygote, barriers, forget, refresh
from pyseidon.world import space_of

STATE = None

# Taken before anybody can have put another one in its place.
clock = time.perf_counter

# Of module `time`: those that tell something else each time, at least without an argument.
CLOCKS = (
    *(f"{name}{unit}" for unit in ("", "_ns") for name in ("time", "monotonic", "perf_counter")),
    *(f"{name}{unit}" for unit in ("", "_ns") for name in ("process_time", "thread_time")),
    *("clock_gettime", "clock_gettime_ns", "localtime", "gmtime", "ctime", "asctime", "strftime"),
)

# The same in modules that may be loaded later: `(module, name, kind)`.
LATE = (
    ("_ssl", "RAND_bytes", "random"),
    ("_ssl", "RAND_pseudo_bytes", "random"),
    # What stays when the process has gone.
    ("_posixshmem", "shm_open", "outside"),
    ("_posixshmem", "shm_unlink", "outside"),
    # `subprocess` says so itself; `multiprocessing` starts its helpers by it.
    ("_posixsubprocess", "fork_exec", "outside"),
)


class State:
    """One observation."""

    def __init__(self, texts, files):
        self.texts = texts
        self.files = files
        self.env_read = set()
        self.env_all = False
        self.argv_read = False
        self.argv_kept = False
        # What it is, unless somebody changes it, and whether somebody did.
        self.argv = ()
        self.argv_changed = False
        # The interpreter's own mapping of the environment.
        self.natural = posix.environ
        self.stdlib = tuple(stdlib_directories())
        self.world = None
        # The state of numpy's global generator when it was made, and whether it has another now.
        self.numpy = None
        self.has_drawn = False
        # Identities of copies of namespaces that were made to compare them.
        self.copies = ()
        # Who is being loaded, in words.
        self.who = "start-up code"
        # What is known when it ends, for `facts`.
        self.found = {}


# The two recording classes are made for each build and gone with it: a class that is still there
# shows in the `__subclasses__()` of its base.


def recording_environment(data):
    """A stand-in for `os.environ`'s data that notes which variables are read."""

    class Environment(dict):
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

    return Environment(data)


def recording_arguments(argv):
    """A stand-in for `sys.argv` that notes reads by code other than pytest's own."""

    class Arguments(list):
        def note(self):
            """Who asks: not the script, not pytest, nor the standard library on their behalf."""
            frame = sys._getframe(2)
            while frame is not None and frame.f_code.co_filename.startswith(STATE.stdlib):
                frame = frame.f_back
            asker = "" if frame is None else frame.f_globals.get("__name__", "")
            if asker.partition(".")[0] not in ("", "__main__", "_pytest", "pytest"):
                STATE.argv_read = True
            return super()

        def __getitem__(self, at):
            # The first is the script, for every run of this root.
            return list.__getitem__(self, 0) if at == 0 else self.note().__getitem__(at)

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

    return Arguments(argv)


def start(texts, files):
    """Begins to record. `texts` are start-up files whose words count as reads of the variables
    they name, `files` what else was read before."""
    global STATE
    STATE = State(texts, files)
    put_environment(recording_environment(os.environ._data))


def start_plugins(who="a plugin", more=()):
    """Goes on recording in a zygote that is to load what `who` says. `more` are further functions
    as those of `impure_functions`."""
    STATE.who = who
    # As true as before, and told apart from what anybody else sets.
    sys.dont_write_bytecode = 2
    put_environment(recording_environment(os.environ._data))
    STATE.world = barriers.world()
    STATE.argv = tuple(sys.argv)
    sys.argv = recording_arguments(sys.argv)
    if hasattr(sys, "orig_argv"):
        sys.orig_argv = recording_arguments(sys.orig_argv)
    core = [
        os.path.dirname(sys.modules[name].__file__)
        for name in ("_pytest", "pytest", "pluggy", "iniconfig", "packaging")
        if name in sys.modules
    ]
    core.append(os.path.dirname(__file__))
    known = [(rule.file, rule.kind) for rule in refresh.RULES]
    find_spec = sys.modules["importlib.util"].find_spec.__code__
    core = [directory + os.sep for directory in core]
    stdlib = stdlib_directories()
    functions = impure_functions()
    for kind, others in dict(more).items():
        functions[kind] = [*functions[kind], *others]
    _zygote.observe(functions, LATE, find_spec, stdlib, core, known, numpy_state)
    _zygote.record_loads(loading_functions())
    _zygote.watch_calls(True)


def capture_is_gone(before):
    """For who had captured output while `start_plugins` was called; `before` is `barriers.world()`
    from before that."""
    STATE.world.update({name: before[name] for name in ("standard streams", "descriptors")})


def loading_functions():
    """`(code, what it is given)` of the functions by which modules are loaded: by their names, and,
    where somebody has found one by himself, from the module that is to be executed."""
    bootstrap = sys.modules["_frozen_importlib"]
    external = sys.modules["_frozen_importlib_external"]
    found = [
        (bootstrap._find_and_load_unlocked.__code__, "name"),
        (external._LoaderBasics.exec_module.__code__, "module"),
    ]
    rewriting = sys.modules.get("_pytest.assertion.rewrite")
    if rewriting is not None:
        found.append((rewriting.AssertionRewritingHook.exec_module.__code__, "module"))
    return found


def impure_functions():
    """C functions whose results depend on more than files and variables, by kind."""
    # C modules, imported here and forgotten again where pytest has not imported them.
    generator = natural("_random").Random(0)
    moment = natural("_datetime")
    uuid, thread = natural("_uuid"), natural("_thread")
    resource, terminal = natural("resource"), natural("termios")
    stream = sys.stdout
    return {
        "clock": [
            *(getattr(time, name) for name in CLOCKS if hasattr(time, name)),
            moment.datetime.now,
            moment.datetime.utcnow,
            moment.datetime.today,
            moment.date.today,
        ],
        "random": [
            posix.urandom,
            *([posix.getrandom] if hasattr(posix, "getrandom") else []),
            generator.random,
            generator.getrandbits,
        ],
        # The C class's own method, below `random.Random.seed`.
        "seed": [generator.seed],
        "process": [
            *(posix.getpid, posix.getppid, posix.getpgid, posix.getpgrp, posix.getsid),
            *(posix.umask, posix.sched_getaffinity, posix.times, posix.fstat, posix.ttyname),
            *(resource.getrlimit, terminal.tcgetattr, thread.get_native_id, _signal.getsignal),
            *(_signal.sigpending, _signal.getitimer),
            *([uuid.generate_time_safe] if hasattr(uuid, "generate_time_safe") else []),
        ],
        "terminal": [
            posix.isatty,
            stream.isatty,
            stream.buffer.isatty,
            *([stream.buffer.raw.isatty] if hasattr(stream.buffer, "raw") else []),
            posix.get_terminal_size,
        ],
        "cwd": [posix.getcwd, posix.getcwdb],
        "path": [posix.stat, posix.lstat, posix.access, posix.readlink],
        "entry": [an_entry().stat, an_entry().inode],
        "fork": [
            *(posix.register_at_fork, _signal.signal, _signal.setitimer, _signal.alarm),
            _signal.set_wakeup_fd,
        ],
        "state": [generator.getstate, generator.setstate],
        # No audit event tells of these.
        "outside": [
            *(posix.dup2, posix.mkfifo, posix.mknod, posix.setpgid, posix.setsid, sys.getprofile),
        ],
    }


def an_entry():
    with os.scandir("/") as entries:
        return next(entries)


def natural(name):
    """A C module of the standard library, with `sys.modules` as it was."""
    known = sys.modules.get(name)
    if known is not None:
        return known
    before = set(sys.modules)
    module = __import__(name)
    forget.forget(set(sys.modules) - before)
    return module


def try_out(function):
    """Calls `function` in a forked trial. Returns what that returned, or why it came to nothing:
    None if all went well."""
    _zygote.watch_calls(False)
    try:
        return _zygote.attempt(lambda: (begin_trial(), function())[1])
    finally:
        _zygote.watch_calls(True)


def begin_trial():
    # It shares memory with its parent, to tell what came of it.
    STATE.world["shared memory"] = barriers.shared_memory()
    _zygote.watch_calls(True)


def note_environment():
    """Begins to record reads of the environment apart; for `environment_since`."""
    known = STATE.env_read, STATE.env_all
    STATE.env_read, STATE.env_all = set(), False
    return known


def environment_since(known):
    """The variables that were read since, or None if all were. None of it counts any more."""
    read = None if STATE.env_all else STATE.env_read
    STATE.env_read, STATE.env_all = known
    return read


def stop():
    """Ends recording."""
    watched = pace() if STATE.world else 0
    _zygote.watch_calls(False)
    _zygote.unwatch()
    _zygote.cost_of_watching(max(watched - pace(), 0) if watched else 0)
    found = _zygote.findings()
    state = STATE
    drawn = found.get("numpy") or state.numpy
    state.has_drawn = drawn is not None and drawn != numpy_state()
    state.numpy = drawn
    if state.argv:
        state.argv_kept = barriers.is_argv_kept(state)
        sys.argv = list(list.__iter__(sys.argv))
        state.argv_changed = tuple(sys.argv) != state.argv
    if type(getattr(sys, "orig_argv", None)) is not list and hasattr(sys, "orig_argv"):
        sys.orig_argv = list(list.__iter__(sys.orig_argv))
    environment = os.environ._data
    # The interpreter's own mapping: `os.environ` of plain Python is backed by it.
    natural = state.natural
    natural.clear()
    natural.update(dict.items(environment))
    put_environment(natural)
    refresh.GENERATORS.extend(found.get("unseeded", ()))
    state.found = {
        "sys_path": [os.path.abspath(path) for path in sys.path],
        "files": [*state.files, *(str(path) for path in found.get("inspected", ()))],
        "texts": list(state.texts),
        "env_read": set(state.env_read) | user_site_variables(),
        "env_all": state.env_all,
        "argv_read": state.argv_read,
        "cwd_read": bool(found.get("cwd")) or not all(map(os.path.isabs, sys.path)),
        "terminal_read": bool(found.get("terminal")),
        "probes": list(found.get("probes", ())),
    }


def facts(more=()):
    """What Python can tell of what was read, for `_zygote.park`. `more` are modules that count as
    well, by name.

    Called in a child: asking every module for its file writes to every module's count of
    references, and the pages that these lie in would be no other process's any more.
    """
    modules = {**sys.modules, **dict(more)}
    return {
        **STATE.found,
        "hidden": {name for name in modules if name not in sys.modules},
        "modules": files_of(modules.values()),
        "names": sorted({name.partition(".")[0] for name in modules} | STARTUP_NAMES),
        "packages": packages(modules),
        "heads": {},
        "conftests": [],
        "opening": None,
    }


def pace():
    """Seconds for what is one event under a profile function, on average of the four kinds."""

    def called():
        len(())

    fastest = 1
    for _ in range(5):
        begin = clock()
        for _ in range(100):
            called()
        fastest = min(fastest, clock() - begin)
    return fastest / 400


def distributions(config):
    """The versions of the installed distributions whose plugins `config` has loaded.

    From the names of their `.dist-info` directories: reading what is in them would import modules
    that pytest imports later.
    """
    found = {}
    for _, dist in config.pluginmanager.list_plugin_distinfo():
        path = getattr(getattr(dist, "_dist", dist), "_path", None)
        name, _, version = getattr(path, "name", "").rpartition(".")[0].partition("-")
        if name:
            found[name.replace("_", "-").lower()] = version
    return found


def put_environment(data):
    os.environ._data = data
    os.environb._data = data
    posix.environ = data


def files_of(modules):
    """`(file, byte code's place or None)` of those of these that have a file."""
    found = []
    for module in modules:
        names = space_of(module)
        file = names.get("__file__")
        if not isinstance(file, str):
            continue
        cached = names.get("__cached__")
        cached = os.path.abspath(cached) if isinstance(cached, str) else None
        found.append((os.path.abspath(file), cached))
    return found


def packages(modules):
    """The directories of every package among these."""
    found = {}
    namespace = sys.modules["_frozen_importlib_external"]._NamespacePath
    for name, module in modules.items():
        path = space_of(module).get("__path__")
        if type(path) is namespace:
            # Asked itself it looks for the package that it is in, which may be hidden.
            path = path._path
        if path is not None:
            try:
                found[name] = [os.path.abspath(entry) for entry in path if isinstance(entry, str)]
            except TypeError:
                continue
    return found


def user_site_variables():
    """What `site` read to find the user's own packages, if it looked for them."""
    site = sys.modules.get("site")
    if site is None or not site.ENABLE_USER_SITE:
        return set()
    return {b"HOME", b"PYTHONUSERBASE", b"XDG_CONFIG_HOME"}


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
    ours = os.path.abspath(sys.modules["__main__"].__file__)
    for file, _ in files_of(list(sys.modules.values())):
        if file != ours and (not file.startswith(home) or "site-packages" in file):
            found.append(file)
    return found


def interpreter_files():
    """What the interpreter itself was made of."""
    here = os.path.dirname(sys.executable)
    return [
        sys.executable,
        os.path.realpath(sys.executable),
        os.path.join(here, "pyvenv.cfg"),
        os.path.join(os.path.dirname(here), "pyvenv.cfg"),
    ]


# What `site` tries to import, before anything of ours could see that it was not there.
STARTUP_NAMES = {"sitecustomize", "usercustomize"}


def numpy_state():
    """That of numpy's global generator, or None until it is made: nobody's call of its C code is
    seen, and each worker seeds it anew."""
    module = sys.modules.get("numpy.random.mtrand")
    generator = getattr(module, "_rand", None)
    if generator is None:
        return None
    state = generator.get_state(legacy=False)
    return repr((state["state"]["key"].tobytes(), *map(state.get, ("has_gauss", "gauss"))))


def startup_barrier():
    """Why no process that started like this one can stand for another, or None."""
    return barriers.at_startup(STATE.texts)


def barrier():
    """Why a fork could not carry over what was done since `start_plugins`, or None."""
    return barriers.found(STATE)
