"""Goes on from P0 through the conftests that pytest loads first, and parks behind them, or in their
midst: where something ahead cannot be kept, or what follows may be edited (`stops.py`,
`openings.py`): Z2.

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

from pyseidon import _zygote, arguments, bytecode, observe, open_modules, stops, worker
from pyseidon.captured import Captured
from pyseidon.world import space_of

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
    """Becomes the template in `order`, and has `park(parts)` called behind the conftests, or in
    their midst. `prepared` and `args` are those of P0, `trap` is `park.Trap`."""
    worker.become_template(order)
    way = Way(order, config, args, trap, park)
    reason = prepared.take(args)
    if reason:
        _zygote.fail(f"these arguments: {reason}")
    way.record()


class Way:
    """From P0 to where it is parked; and on from there, if that lies in the midst."""

    def __init__(self, order, config, args, trap, park):
        self.order = order
        self.config = config
        self.args = args
        self.trap = trap
        self.park = park
        self.before = Before(config)
        self.read = set()
        self.places = stops.Places(
            config.pluginmanager, order.before, self.at_place, loaded_otherwise
        )
        self.parser = type(config._parser)
        self.name = "parse_setoption" if hasattr(self.parser, "parse_setoption") else "parse"
        self.natural = self.parser.__dict__[self.name]
        self.relay = type(config.hook)

    def record(self):
        """Notes what is read from here on, and has it come to an end."""
        observe.start_plugins("a conftest")
        watch(self.config.known_args_namespace, self.read)
        self.places.watch()
        self.places.following.stand_in()
        setattr(self.parser, self.name, ParserTrap(self.natural, self.config, self.behind))
        # A conftest may have put something else in the parser's place.
        setattr(self.relay, MAIN, self.trap(MAIN, ("main", "_main"), too_far))

    def take_away(self):
        self.places.following.take_away()
        setattr(self.parser, self.name, self.natural)
        delattr(self.relay, MAIN)
        namespace = self.config.known_args_namespace
        namespace.__class__ = namespace.__class__.__base__

    def behind(self, frame):
        self.take_away()
        self.park(prepare(self, is_midway=False))

    def at_place(self):
        self.take_away()
        try:
            self.places.following.pause()
            self.park(prepare(self, is_midway=True))
            self.places.following.go_on()
        except BaseException as error:
            # Raised on, it could be caught by code that is imported, and the build would go on.
            if _zygote.is_building():
                _zygote.fail(f"parking {self.order.before} raised {error!r}")
            raise

    def go_on(self, order, passed):
        """In a child that is to become a deeper checkpoint: as `go_on` from P0."""
        worker.become_template(order)
        self.order = order
        reason = self.places.go_on(order.before)
        if reason:
            _zygote.fail(reason)
        reason = passed.compare(self.args)
        if reason:
            _zygote.fail(f"these arguments: {reason}")
        self.record()
        passed.captured.resume()


def too_far(frame):
    _zygote.fail("pytest went past the point behind the conftests")


def watch(namespace, read):
    """Begins to note what is read of the options, in a set of their names."""

    class Watched(type(namespace)):
        def __getattribute__(self, name):
            # pytest itself looks in the named files' directories for conftests, which are compared.
            by = sys._getframe(1).f_globals.get("__name__", "")
            if name != "file_or_dir" or not by.startswith("_pytest."):
                read.add(name)
            return super().__getattribute__(name)

    namespace.__class__ = Watched


class Parts:
    """What a Z2, or a Z3, is parked with."""

    def __init__(self, config, args, passed, facts, holds, modules):
        self.config = config
        # The list that pytest's frames hold.
        self.args = args
        # What puts a run's arguments in.
        self.passed = passed
        self.facts = facts
        self.holds = holds
        # Those that a run would have written byte code of.
        self.modules = modules
        # Why it is not parked further on, or None.
        self.shallow = None
        # Whether suspended generators may have something to do at the end of a run.
        self.has_generators = True
        # Where one could have been parked before a file was executed.
        self.places = ()
        # Goes on from the midst of conftests towards a deeper checkpoint.
        self.go_on = None
        # Modules that are hidden until a run imports them (`stash`).
        self.stash = None
        # Has what is open go on as its file is now; returns why it cannot, or None.
        self.follow = lambda: None

    def take(self):
        reason = self.passed.take(self.args)
        if not reason:
            broken = self.follow()
            if broken:
                _zygote.refuse(broken, for_now=True)
        return reason


def prepare(way, is_midway):
    """What to park with at this point."""
    order, config, args, before = way.order, way.config, way.args, way.before
    captured, reason = Captured.release(config, is_midway)
    on_stack = is_midway and kept_on_stack()
    observe.stop()
    reason = reason or on_stack or observe.barrier() or loaded_otherwise(sys.modules.values())
    if reason:
        # Found by comparing. What did it is not known, unless nobody could say.
        _zygote.fail(reason, None if order.before == stops.UNKNOWN else stops.UNKNOWN)
    modules = conftest_modules(config)
    new = len(sys.modules) - before.modules
    worker.note_environment(order.env)
    warned = Warned()
    paths, _ = conftest_paths(config)
    argv = [os.fsdecode(arg) for arg in order.argv]
    if not is_midway:
        before.settle()
    prepared = arguments.prepare(config, argv, True, before.defaults)
    warned.forget()
    anchors = anchors_in(sys._getframe()) if is_midway else None
    named = named_places(args)
    passed = Passed(config, prepared, named, before, way.read, paths, captured, anchors)
    argv_read = "__dict__" in way.read or sees_arguments(config, before)

    def facts():
        found = observe.facts()
        found["modules"] += observe.files_of(modules)
        found["probes"] += probes(config, paths)
        found["argv_read"] |= argv_read
        found["heads"] = open_modules.heads(opened)
        under_way = {module.path for module in opened}
        ends = way.places.openings.before_ends()
        found["conftests"] = [(path, place) for path, place in ends if path not in under_way]
        found["opening"] = way.places.openings.best()
        return found

    opened = list(way.places.opened)
    loaded = len(modules)
    holds = f"{loaded} conftest" + ("" if loaded == 1 else "s")
    holds += f", {new} modules that they import" if new > 0 else ""
    parts = Parts(config, args, passed, facts, holds, bytecode.with_others(modules))
    parts.places = way.places.by_file()
    if is_midway:
        parts.shallow = f"parked {order.before}: {order.because}"
        parts.has_generators = stops.foreign_generators(gc.get_objects(), way.places.core)
        parts.go_on = lambda order: way.go_on(order, passed)
        parts.follow = way.places.follow
    return parts


def kept_on_stack():
    """What running functions keep that no child has, in words, or None: behind conftests none of
    theirs is left."""
    for name in ("argv", "orig_argv"):
        # In `sys`, in the loop's variable and in the call.
        value = getattr(sys, name, None)
        if type(value) is not list and value is not None and sys.getrefcount(value) > 3:
            return f"a conftest keeps `sys.{name}`, which is another object in each run"
    return None


class Warned:
    """Warnings that are collected while conftests are loaded: reading arguments adds none."""

    def __init__(self):
        self.log = getattr(sys.modules["warnings"]._showwarnmsg_impl, "__self__", None)
        self.count = len(self.log) if type(self.log) is list else 0

    def forget(self):
        if type(self.log) is list:
            del self.log[self.count :]


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

    def settle(self):
        """Forgets what is as it was: exchanging it would write to each option's count of
        references, in every run."""
        for key, (place, other) in list(self.contents.items()):
            now, was = members(place), members(other)
            if len(now) == len(was) and all(a is b for a, b in zip(now, was)):
                del self.contents[key]

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


def members(place):
    """What a list or a dictionary holds, in order."""
    return place if type(place) is list else [*place, *place.values()]


class Passed:
    """What lies between P0 and Z2, to be compared with what a run would have there."""

    def __init__(self, config, prepared, places, before, read, paths, captured, anchors):
        self.config = config
        self.prepared = prepared
        self.namespace = config.known_args_namespace
        self.before = before
        self.read = read
        self.paths = paths
        self.places = places
        self.captured = captured
        # In the midst: pytest's list of what is named, which it is going through.
        self.anchors = anchors

    def take(self, args):
        """As `arguments.Prepared.take`."""
        reason = self.compare(args)
        if not reason:
            self.captured.resume()
        return reason

    def again(self, order, args, captured):
        """The same, in a deeper checkpoint with the arguments in `order`; `captured` is what it
        has captured itself."""
        argv = [os.fsdecode(arg) for arg in order.argv]
        prepared = arguments.prepare(self.config, argv, True, self.before.defaults)
        captured = self.captured.and_then(captured)
        return Passed(
            self.config,
            prepared,
            named_places(args),
            self.before,
            self.read,
            self.paths,
            captured,
            None,
        )

    def compare(self, args):
        """The same, without the capture."""
        warned = Warned()
        try:
            return self._take(args)
        finally:
            warned.forget()

    def _take(self, args):
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
        if named_places(args) != self.places:
            return "other directories are named"
        paths, anchors = conftest_paths(self.config)
        if paths != self.paths:
            return "other conftests are loaded"
        if self.anchors is not None and anchors is not self.anchors and anchors != self.anchors:
            # They are in the same directories, of which pytest looks into each once. But the
            # template's own files may be gone, and pytest would look elsewhere if all were.
            self.anchors.extend(anchors)
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


def named_places(args):
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
    one may be, and whether there is one; and pytest's list of what it looks at for that.

    pytest's own function says which directories; it only does not get to load anything.
    """
    manager = config.pluginmanager
    # Before 8.0 the one has both jobs.
    name = "_loadconftestmodules"
    if not hasattr(type(manager), name):
        name = "_getconftestmodules"
    known = {key: vars(manager).get(key) for key in ("_confcutdir", "_noconftest", "_using_pyargs")}
    asked, lists = [], []

    def note(path, *others, **more):
        asked.append(str(path))
        lists[:] = [anchors_in(sys._getframe(1))]

    vars(manager)[name] = note
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
    return list(found.items()), lists[0] if lists else []


def anchors_in(frame):
    """The list that pytest is going through in the function that looks for conftests: since 9.2
    what was found of the arguments, before the arguments themselves."""
    while frame is not None:
        if frame.f_code.co_name == "_set_initial_conftests":
            found = frame.f_locals
            return found["anchors"] if "anchors" in found else found["args"]
        frame = frame.f_back
    return None


def loaded_otherwise(modules):
    """What of these was loaded from source by a loader that is not Python's own nor pytest's, in
    words, or None. It may compile in its own way, and keep its own byte code."""
    external = sys.modules["_frozen_importlib_external"]
    for module in list(modules):
        loader = space_of(module).get("__loader__")
        kind = type(loader)
        if issubclass(kind, external.SourceLoader) and kind is not external.SourceFileLoader:
            return f"`{module.__name__}` is loaded by `{kind.__module__}.{kind.__qualname__}`"
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
