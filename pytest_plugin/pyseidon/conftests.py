"""Goes on from P0 through the conftests that pytest loads first, and parks behind them: Z2.

pytest itself loads them here, at their place and in its own way, under the arguments and the
environment of a run that is the template. So nothing of what they do has to be taken back or given
back. What another run may have otherwise is compared when its arguments are taken: the options
that were read on the way, the directories that the arguments name, and the conftests that it would
load. Streams are the one thing that no two runs share: what was captured on the way is put into a
capture of the run's own.
"""

import copy
import gc
import os
import sys
import weakref

from pyseidon import _zygote, arguments, barriers, bytecode, observe, worker

LOAD = "pytest_load_initial_conftests"
MAIN = "pytest_cmdline_main"
# Plugins whose `pytest_load_initial_conftests` has been read: of the arguments they look at
# options, which are watched, and at the directories that are named.
KNOWN = ("pytest_cov.plugin", "pytest_django.plugin", "pytest_dotenv.plugin", "pytest_env.plugin")
NOTHING = object()


class ParserTrap:
    """A method of pytest's `Parser` that calls `sprung(frame)` first when `Config.parse` asks for
    it, right after the hook that loads conftests."""

    def __init__(self, natural, config, sprung):
        self.natural = natural
        self.config = config
        self.sprung = sprung

    def __get__(self, parser, owner=None):
        frame = sys._getframe(1)
        if (
            parser is not None
            and frame.f_code.co_name == "parse"
            and frame.f_globals.get("__name__") == "_pytest.config"
            # Not that of another pytest, begun by a conftest.
            and frame.f_locals.get("self") is self.config
        ):
            self.sprung(frame)
        return self.natural.__get__(parser, owner)


def go_on(order, config, args, prepared, trap, park):
    """Becomes the template in `order`, and has `park(facts, holds, args, take, modules)` called
    behind the conftests. `prepared` and `args` are those of P0, `trap` is `park.Trap`."""
    worker.become_template(order)
    before = Before(config)
    reason = prepared.take(args)
    if reason:
        _zygote.fail(f"these arguments: {reason}")
    observe.start_plugins("a conftest")
    watched = watch(config.known_args_namespace)
    parser = type(config._parser)
    name = "parse_setoption" if hasattr(parser, "parse_setoption") else "parse"
    natural = parser.__dict__[name]
    relay = type(config.hook)

    def too_far(frame):
        _zygote.fail("pytest went past the point behind the conftests")

    def behind(frame):
        setattr(parser, name, natural)
        delattr(relay, MAIN)
        namespace = config.known_args_namespace
        namespace.__class__ = namespace.__class__.__base__
        behind_conftests(order, config, args, before, watched, park)

    setattr(parser, name, ParserTrap(natural, config, behind))
    # A conftest may have put something else in the parser's place.
    setattr(relay, MAIN, trap(MAIN, ("main", "_main"), too_far))


def watch(namespace):
    """Begins to note what is read of the options. Returns a set of names that is still filled."""
    read = set()

    class Watched(type(namespace)):
        def __getattribute__(self, name):
            # pytest itself looks in the named files' directories for conftests, which are compared.
            by = sys._getframe(1).f_globals.get("__name__", "")
            if name != "file_or_dir" or not by.startswith("_pytest."):
                read.add(name)
            return super().__getattribute__(name)

    namespace.__class__ = Watched
    return read


def behind_conftests(order, config, args, before, read, park):
    """Parks at Z2. Returns in children."""
    captured, reason = Captured.release(config)
    facts = observe.stop()
    reason = reason or observe.barrier() or loaded_otherwise()
    if reason:
        _zygote.fail(reason)
    worker.note_environment(order.env)
    modules = conftest_modules(config)
    facts["modules"] += observe.files_of(modules)
    paths = conftest_paths(config)
    facts["probes"] += probes(config, paths)
    argv = [os.fsdecode(arg) for arg in order.argv]
    prepared = arguments.prepare(config, argv, True, before.defaults)
    passed = Passed(config, prepared, places(args), before, read, paths, captured)
    if "__dict__" in read or sees_arguments(config, before):
        facts["argv_read"] = True
    loaded = len(modules)
    holds = f"{loaded} conftest" + ("" if loaded == 1 else "s")
    new = len(sys.modules) - before.modules
    holds += f", {new} modules that they import" if new > 0 else ""
    park(facts, holds, args, passed.take, bytecode.with_others(modules))


class Before:
    """What P0 held that conftests may change and a run's arguments are read with."""

    def __init__(self, config):
        self.config = config
        self.modules = len(sys.modules)
        self.plugins = set(map(id, config.pluginmanager.get_plugins()))
        self.defaults = copy.copy(config.option)
        parser = config._parser
        owners = [parser, parser._anonymous, *parser._groups]
        argparse_parser = getattr(parser, "optparser", None)
        if argparse_parser is not None:
            # Since 9.0 it is made once; before, from the groups at each reading.
            owners += [argparse_parser, *argparse_parser._action_groups]
        self.contents = {}
        for owner in owners:
            for value in vars(owner).values():
                if type(value) in (list, dict):
                    self.contents[id(value)] = value, copy.copy(value)

    def exchange(self):
        """Puts the parser's options as they were then, or, called again, as they were before."""
        for key, (place, other) in list(self.contents.items()):
            now = copy.copy(place)
            if type(place) is list:
                place[:] = other
            else:
                place.clear()
                place.update(other)
            self.contents[key] = place, now


class Passed:
    """What lies between P0 and Z2, to be compared with what a run would have there."""

    def __init__(self, config, prepared, places, before, read, paths, captured):
        self.config = config
        self.prepared = prepared
        self.namespace = config.known_args_namespace
        self.before = before
        self.read = read
        self.paths = paths
        self.places = places
        self.captured = captured

    def take(self, args):
        """As `arguments.Prepared.take`."""
        self.before.exchange()
        try:
            reason = self.prepared.take(args)
        finally:
            self.before.exchange()
        if reason:
            return reason
        namespace = self.config.known_args_namespace
        for name in sorted(self.read - {"__dict__"}):
            then, now = getattr(self.namespace, name, NOTHING), getattr(namespace, name, NOTHING)
            if then is not now and then != now:
                return f"the option `{name}` differs"
        if places(args) != self.places:
            return "other directories are named"
        if conftest_paths(self.config) != self.paths:
            return "other conftests are loaded"
        self.captured.resume()
        return None


def sees_arguments(config, before):
    """Whether anybody on the way may have looked at all of the arguments."""
    for implementation in config.hook.pytest_load_initial_conftests.get_hookimpls():
        name = implementation.function.__module__
        if not name.startswith("_pytest.") and name not in KNOWN:
            return True
    for implementation in config.hook.pytest_plugin_registered.get_hookimpls():
        # Called with the configuration itself.
        if not implementation.function.__module__.startswith("_pytest."):
            return True
    for implementation in config.hook.pytest_addoption.get_hookimpls():
        is_new = id(implementation.plugin) not in before.plugins
        if is_new and "pluginmanager" in implementation.argnames:
            return True
    for implementation in config.hook.pytest_addhooks.get_hookimpls():
        if id(implementation.plugin) not in before.plugins:
            return True
    return False


def places(args):
    """The directories that arguments name."""
    found = {}
    for arg in args:
        path = arg.partition("::")[0]
        if not arg.startswith("-") and path and os.path.exists(path):
            path = os.path.abspath(path)
            found[path if os.path.isdir(path) else os.path.dirname(path)] = None
    return list(found)


def conftest_paths(config):
    """Of each directory in which pytest would look for conftests first, in order: the paths where
    one may be, and whether there is one.

    pytest's own function says which directories; it only does not get to load anything.
    """
    manager = config.pluginmanager
    # Before 8.0 the one has both jobs.
    name = "_loadconftestmodules"
    if not hasattr(type(manager), name):
        name = "_getconftestmodules"
    known = {key: vars(manager).get(key) for key in ("_confcutdir", "_noconftest", "_using_pyargs")}
    asked = []
    vars(manager)[name] = lambda path, *others, **more: asked.append(str(path))
    try:
        config.pytest_load_initial_conftests(early_config=config)
        found = {}
        for path in asked if not manager._noconftest else ():
            directory = path if os.path.isdir(path) else os.path.dirname(path)
            pathlib = sys.modules["pathlib"]
            here = pathlib.Path(directory)
            for parent in reversed((here, *here.parents)):
                if manager._is_in_confcutdir(parent):
                    conftest = str(parent / "conftest.py")
                    found[conftest] = os.path.isfile(conftest)
    finally:
        del vars(manager)[name]
        vars(manager).update(known)
    return list(found.items())


def loaded_otherwise():
    """What was loaded from source by a loader that is not Python's own nor pytest's, in words, or
    None. It may compile in its own way, and keep its own byte code."""
    external = sys.modules["_frozen_importlib_external"]
    for name, module in list(sys.modules.items()):
        loader = getattr(module, "__dict__", {}).get("__loader__")
        kind = type(loader)
        if issubclass(kind, external.SourceLoader) and kind is not external.SourceFileLoader:
            return f"`{name}` is loaded by `{kind.__module__}.{kind.__qualname__}`"
    return None


def conftest_modules(config):
    """The conftests that are loaded, also those that another of the same name has replaced in
    `sys.modules`."""
    plugins = config.pluginmanager.get_plugins()
    module = type(sys)
    return [
        plugin
        for plugin in plugins
        if type(plugin) is module
        and os.path.basename(str(getattr(plugin, "__file__", ""))) == "conftest.py"
    ]


def probes(config, paths):
    """What pytest asks for to find conftests, and to tell the packages that they are in."""
    found = {path for path, _ in paths}
    for path in list(found):
        directory = os.path.dirname(path)
        while True:
            found.add(os.path.join(directory, "__init__.py"))
            parent = os.path.dirname(directory)
            if not os.path.isfile(os.path.join(directory, "__init__.py")) or parent == directory:
                break
            directory = parent
    return sorted(found)


class Captured:
    """What was captured while conftests were loaded, and who kept a captured stream."""

    def __init__(self, manager, texts, handlers):
        self.manager = manager
        self.texts = texts
        self.handlers = handlers

    @classmethod
    def release(cls, config):
        """Ends pytest's capture of this process. Returns what `resume` is called on, and why no
        capture of another process can take its place, or None."""
        manager = config.pluginmanager.getplugin("capturemanager")
        capturing = manager and manager._global_capturing
        if capturing is None:
            return cls(None, (), ()), None
        streams = [(name, stream_of(getattr(capturing, key))) for name, key in STREAMS]
        if any(stream is not None and stream.closed for _, stream in streams):
            return None, "a conftest has closed a stream that output is captured in"
        texts = manager.read_global_capture()
        settings = [barriers.settings_of(stream) for _, stream in streams]
        handlers = []
        for reference in sys.modules["logging"]._handlerList:
            handler = reference()
            for name, stream in streams:
                if handler is not None and vars(handler).get("stream") is stream is not None:
                    handlers.append((handler, name))
                    handler.stream = None
        manager.stop_global_capturing()
        objects = [(name, o) for name, s in streams for o in (s, getattr(s, "buffer", None))]
        kept = [(name, weakref.ref(o)) for name, o in objects if o is not None]
        del capturing, streams, objects
        stream = handler = reference = None
        gc.collect()
        for name, reference in kept:
            if reference() is not None:
                return None, f"a conftest keeps `sys.{name}`, which is another object in each run"
        manager.start_global_capturing()
        capturing = manager._global_capturing
        fresh = [barriers.settings_of(stream_of(getattr(capturing, key))) for _, key in STREAMS]
        manager.stop_global_capturing()
        if settings != fresh:
            return None, "a conftest changes the settings of a standard stream"
        return cls(manager, tuple(texts), handlers), None

    def resume(self):
        """Begins a capture as pytest would have, and fills it as conftests would have."""
        if self.manager is None:
            return
        self.manager.start_global_capturing()
        capturing = self.manager._global_capturing
        for text, capture in zip(self.texts, (capturing.out, capturing.err)):
            if text:
                capture.tmpfile.write(text)
        for handler, name in self.handlers:
            handler.stream = getattr(sys, name)
        self.manager.suspend_global_capture()


STREAMS = (("stdin", "in_"), ("stdout", "out"), ("stderr", "err"))


def stream_of(capture):
    """What a capture puts in the place of one of `sys`'s streams."""
    if capture is None:
        return None
    return getattr(capture, "syscapture", capture).tmpfile
