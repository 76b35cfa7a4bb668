"""Where a zygote parks, and what its children go on with.

A zygote is a plain run of the `pytest` script that waits at one of two points. At each, a trap
calls `_zygote.park`, which reports to the daemon and forks; in a child it returns an order, and
the child goes on with the run, as the caller's process (`run`) or as a deeper zygote (`grow`).

- **Z0**: the script's import of pytest is done, nothing else. The trap is a stand-in for
  `__import__`.
- **P0**: plugins are loaded and their options added; `pytest_load_initial_conftests` is about to
  be called. The trap is a descriptor on pluggy's hook relay: reading that attribute parks.
  If a plugin cannot be in a checkpoint, P0 is right before it is loaded: the trap is a descriptor
  in place of `EntryPoint.load`.

Both traps are taken away before parking, and neither leaves a frame on the stack or an object in
a namespace: when a child goes on, the call that parked just returns what it would have returned.
"""

import builtins
import gc
import os
import sys

from pyseidon import (
    _zygote,
    ahead,
    arguments,
    bytecode,
    conftests,
    first_module,
    observe,
    worker,
)

# pytest versions whose start has been read and tested; others are served from Z0.
OLDEST, NEWEST = (7, 4), (9, 3)

INITIAL_CONFTESTS = "pytest_load_initial_conftests"
CMDLINE_MAIN = "pytest_cmdline_main"
# The functions of `Config` that read arguments: before 9.2, and since.
CONFIG_PARSE = ("_preparse", "parse")


def begin(control, script, write_bytecode):
    """Makes this process the one that `python SCRIPT` would be.

    `control` is the descriptor of the control channel, `write_bytecode` whether plain Python
    would write byte code. Returns the script's code and the namespace to execute it in.
    """
    order = _zygote.begin(control)
    worker.START.write_bytecode = write_bytecode
    worker.START.streams = [(s.encoding, s.errors) for s in (sys.stdin, sys.stdout, sys.stderr)]
    worker.START.buffered = not sys.stdout.write_through
    worker.START.interpreter = [os.fsdecode(order.python), *map(os.fsdecode, order.python_options)]
    worker.START.script = script
    sys.argv[:] = [script]
    worker.set_orig_argv([])
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.path.dirname(os.path.realpath(script)))
    texts = observe.startup_texts()
    # As the interpreter does it: all but the arguments have the file's place, not put straight.
    place = script if script.startswith("/") else f"{os.getcwd()}/{script}"
    with open(script, "rb") as file:
        code = compile(file.read(), place, "exec", dont_inherit=True)
    namespace = main_namespace(place)
    _zygote.watch()
    observe.start(texts, [os.path.abspath(script), *observe.interpreter_files()])
    # Where the interpreter asked whether the script is a directory or an archive.
    sys.path_importer_cache[place] = None
    natural = builtins.__import__

    def imported():
        builtins.__import__ = natural
        at_pytest(order)

    builtins.__import__ = _zygote.on_import(natural, ["pytest", "_pytest"], namespace, imported)
    return code, namespace


def main_namespace(script):
    """The namespace of a fresh `__main__` as CPython makes it for a script, key by key."""
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    loader = sys.modules["_frozen_importlib_external"].SourceFileLoader
    namespace = main.__dict__
    namespace["__loader__"] = loader("__main__", script)
    namespace["__annotations__"] = {}
    namespace["__builtins__"] = builtins
    namespace["__file__"] = script
    namespace["__cached__"] = None
    return namespace


def at_pytest(order):
    """Parks at Z0. Returns in children."""
    observe.stop()
    barrier = observe.startup_barrier()
    if barrier:
        _zygote.fail(barrier)
    worker.note_environment(order.env)
    version = sys.modules["_pytest"].__version__
    order = wait(observe.facts, f"pytest {version}", why_not_deeper(version))
    if order.kind == "run":
        enter(order, None)
        return
    try:
        grow(order)
    except Exception as error:
        _zygote.fail(f"going on towards P0 raised {error!r}")


def enter(order, take_arguments):
    """Makes this child the caller's process and enters pytest; ends it where that is impossible."""
    try:
        worker.become(order)
        _zygote.inherited()
        reason = take_arguments() if take_arguments else None
        if not reason:
            worker.write_bytecode()
    except BaseException as error:
        reason = f"becoming the caller's process raised {error!r}"
    if reason:
        _zygote.refuse(reason)
    _zygote.enter()


def wait(facts, holds, shallow, modules=None, has_generators=False, places=(), stash=None):
    """Parks. Returns the order of a child. `facts` gives what was read, in another process;
    `modules` are those that a run would write byte code of, if not only what is in `sys.modules`;
    `has_generators` says whether any that is suspended may have something to do at the end;
    `places` are those before files that were executed; `stash` writes the byte code of its own
    modules."""
    modules = modules or list(sys.modules.values())
    compiled = set(map(os.fspath, _zygote.compiled())) - (stash.compiled if stash else set())
    # One look decides both what a child writes and what must stay as it is: byte code may come and
    # go at any time.
    worker.START.unwritten, fresh = bytecode.unwritten(modules, compiled)
    if stash:
        fresh |= stash.fresh
    # The collector would otherwise touch, and so copy, every page of every child.
    gc.collect()
    _zygote.survey(gc, has_generators)
    gc.freeze()
    return _zygote.park(lambda: {**facts(), "fresh": fresh}, holds, shallow, list(places))


def why_not_deeper(version):
    """Why there is no P0 for this pytest, or None."""
    try:
        found = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        return f"pytest {version} is no release"
    if not OLDEST <= found < NEWEST:
        return f"pytest {version} is not among the tested versions"
    return None


def grow(order):
    """Goes on towards P0, as the run in `order` would."""
    worker.become_template(order)
    observe.start_plugins()
    hooks = sys.modules["pluggy._hooks"]
    relay = getattr(hooks, "HookRelay", None) or hooks._HookRelay
    entry_point = sys.modules["importlib.metadata"].EntryPoint
    natural_load = entry_point.__dict__["load"]

    def take_away():
        entry_point.load = natural_load
        delattr(relay, INITIAL_CONFTESTS)
        delattr(relay, CMDLINE_MAIN)

    def at_plugins(frame):
        take_away()
        park_in_config(order, frame, all_loaded=True)

    def too_far(frame):
        _zygote.fail("pytest went past the point where it parks")

    def at_plugin(name):
        barrier = observe.barrier()
        if barrier:
            _zygote.fail(barrier)
        if name == order.before:
            take_away()
            park_in_config(order, config_frame(), all_loaded=False)
        else:
            _zygote.stage(name)

    entry_point.load = LoadTrap(natural_load, at_plugin)
    setattr(relay, INITIAL_CONFTESTS, Trap(INITIAL_CONFTESTS, CONFIG_PARSE, at_plugins))
    setattr(relay, CMDLINE_MAIN, Trap(CMDLINE_MAIN, ("main", "_main"), too_far))


def config_frame():
    """The frame of pytest's `Config` that is reading arguments and loading plugins."""
    frame = sys._getframe(1)
    while not (
        frame.f_code.co_name in CONFIG_PARSE and frame.f_globals.get("__name__") == "_pytest.config"
    ):
        frame = frame.f_back
    return frame


class LoadTrap:
    """`EntryPoint.load`, calling `sprung(name)` first for each of pytest's plugins."""

    def __init__(self, natural, sprung):
        self.natural = natural
        self.sprung = sprung

    def __get__(self, entry_point, owner=None):
        if entry_point is not None and entry_point.group == "pytest11":
            self.sprung(entry_point.name)
        return self.natural.__get__(entry_point, owner)


class Trap:
    """An attribute of pluggy's hook relay that calls `sprung(frame)` when pytest's own start,
    one of `functions` in `_pytest.config`, reads it in order to call the hook."""

    def __init__(self, name, functions, sprung):
        self.name = name
        self.functions = functions
        self.sprung = sprung

    def __get__(self, relay, owner=None):
        if relay is None:
            return self
        try:
            hook = relay.__dict__[self.name]
        except KeyError:
            raise AttributeError(self.name) from None
        frame = sys._getframe(1)
        if frame.f_globals.get("__name__") == "_pytest.config.compat":
            # `Config.hook` stands before the relay.
            frame = frame.f_back
        if (
            frame.f_code.co_name in self.functions
            and frame.f_globals.get("__name__") == "_pytest.config"
        ):
            self.sprung(frame)
        return hook

    def __set__(self, relay, hook):
        relay.__dict__[self.name] = hook


def park_in_config(order, frame, all_loaded):
    """Parks at P0, in the frame of pytest's `Config`. Returns in children."""
    config = frame.f_locals["self"]
    args = frame.f_locals["args"]
    hidden, shallow = None, f"each run loads `{order.before}` and what follows: {order.because}"
    if all_loaded:
        # Of the last plugin; and nobody may fork beside a thread.
        barrier = observe.barrier()
        if barrier:
            _zygote.fail(barrier)
        _zygote.stage("")
        hidden, shallow = ahead.load(config)
    observe.stop()
    barrier = observe.barrier()
    if barrier:
        _zygote.fail(barrier)
    if hidden:
        ahead.hide(hidden)
    worker.note_environment(order.env)
    prepared = arguments.prepare(config, [os.fsdecode(arg) for arg in order.argv], all_loaded)
    names = sorted(observe.distributions(config))
    version = sys.modules["_pytest"].__version__
    plugins = f"{len(names)} plugin" + ("" if len(names) == 1 else "s")
    holds = f"pytest {version}, {plugins}" + (": " if names else "") + ", ".join(names)
    if hidden:
        holds += f"; and `{hidden.late.distribution}` for the end of a run"
    more = hidden.modules if hidden else ()
    order = wait(lambda: observe.facts(more), holds, shallow)
    if order.kind == "run":
        enter(order, lambda: prepared.take(args))
    elif all_loaded:
        conftests.go_on(order, config, args, prepared, Trap, park_behind_conftests)
    else:
        _zygote.fail(shallow)


def park_behind_conftests(parts):
    """Parks at Z2, in whose children a Z3 may be grown. Returns in workers, and where pytest goes
    on towards a deeper checkpoint."""
    order = wait(
        parts.facts,
        parts.holds,
        parts.shallow,
        parts.modules,
        parts.has_generators,
        parts.places,
        parts.stash,
    )
    if order.kind == "run":
        enter(order, parts.take)
    elif parts.go_on and order.level == "Z2":
        parts.go_on(order)
    elif parts.go_on:
        _zygote.fail(parts.shallow)
    else:
        try:
            deeper = first_module.go_on(order, parts)
        except Exception as error:
            _zygote.fail(f"going on towards Z3 raised {error!r}")
        park_behind_conftests(deeper)
