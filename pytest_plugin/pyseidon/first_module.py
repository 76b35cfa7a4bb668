"""Executes ahead what the first test module imports, and parks where Z2 does: Z3.

The process is forked from a Z2, so conftests are loaded. What pytest does between there and the
import of the first test module, the gap, is not done here: it has to be quiet (`quiet_plugins`),
as have the statements between the module's imports (`quiet`). What the imports load is stashed and
given back when the module asks for it (`stash`). What they write into modules that were there
before is left, as long as nothing in the gap looks at it (`is_looked_at`).

The test module itself is no input: a worker reads it again, and compares what its imports are. So
an edit of a test costs nothing.
"""

import gc
import os
import sys

from pyseidon import _zygote, barriers, bytecode, conftests, observe, quiet, quiet_plugins, worker
from pyseidon.captured import Captured
from pyseidon.effects import Hidden
from pyseidon.harmless import HARMLESS, climbs, grown, is_looked_at, kept
from pyseidon.stash import Recorder, Stash
from pyseidon.world import World, file_of

# Raised in place of `importlib.import_module`. Its class is one that is there anyway.
STOP = GeneratorExit("the module's name is known")

MARKS = ("filterwarnings", "skip", "skipif", "xfail", "parametrize", "usefixtures")


class FirstModule:
    """The first test module that a run will import, as far as its arguments tell."""

    def __init__(self, config, known=None):
        """`known` is one whose source was read before. Raises OSError, or ValueError with the
        reason in words if it is not certain which module is the first."""
        self.config = config
        options = config.known_args_namespace
        self.mode = options.importmode
        if str(self.mode) == "importlib":
            raise ValueError("`--import-mode=importlib` imports each module apart")
        arguments = options.file_or_dir
        if any("::" in argument for argument in arguments[1:]) and "::" not in arguments[0]:
            raise ValueError("of a later file only some tests are named, so that one is first")
        paths = [os.path.abspath(argument.partition("::")[0]) for argument in arguments]
        # What pytest rewrites because it is named.
        self.named = set(paths)
        if not paths or not paths[0].endswith(".py") or not os.path.isfile(paths[0]):
            raise ValueError("the first argument is no test file")
        if not all(map(os.path.exists, paths)):
            raise ValueError("not all that is named is there, so no test module is imported")
        self.path = paths[0]
        if os.path.basename(self.path) in ("conftest.py", "__init__.py"):
            raise ValueError("the first argument is no test module")
        with open(self.path, "rb") as file:
            self.source = file.read()
        if known is not None and known.source == self.source:
            self.root = known.root
        else:
            self.root = quiet.imports_of(self.source, self.path)
        self.name, self.search = self.find()
        # See `have_stand_in`.
        self.stand_in, self.is_read = None, False

    def is_like(self, other):
        """Whether imports of another one are the same."""
        return self.facts() == other.facts()

    def facts(self):
        return self.path, self.mode, self.root.digest, self.name, self.search

    def have_stand_in(self):
        """Makes what stands for the module in `sys.modules` while its imports are executed. It may
        be counted; who reads it, or keeps it, would see another one in the run."""

        class StandIn(type(sys)):
            def __getattribute__(stand_in, key):
                by = sys._getframe(1).f_globals.get("__name__")
                if not str(by).startswith("pyseidon."):
                    self.is_read = True
                return super().__getattribute__(key)

        self.stand_in = StandIn(self.name)

    def looked_at(self):
        """Whether somebody has read that, or keeps it, in words, or None."""
        # In `self`, in the call and in `sys.modules`.
        if self.is_read or sys.getrefcount(self.stand_in) > 2 + (self.name in sys.modules):
            return "it looks at the test module in `sys.modules`"
        return None

    def find(self):
        """The module's name, and `sys.path` as pytest extends it for this module."""
        pathlib = sys.modules["_pytest.pathlib"]
        importlib = sys.modules["importlib"]
        natural, names, path = importlib.import_module, [], list(sys.path)

        def stop(name, package=None):
            names.append(name)
            raise STOP

        more = {}
        if "consider_namespace_packages" in pathlib.import_path.__code__.co_varnames:
            more["consider_namespace_packages"] = self.config.getini("consider_namespace_packages")
        importlib.import_module = stop
        try:
            file = pathlib.Path(self.path)
            pathlib.import_path(file, mode=self.mode, root=self.config.rootpath, **more)
        except GeneratorExit as stopped:
            if stopped is not STOP:
                raise
            STOP.__traceback__ = None
        finally:
            importlib.import_module = natural
            search, sys.path[:] = list(sys.path), path
        return names[0], search


class Marks:
    """Stands for pytest's configuration where `pytest.mark` looks for known marks: it has none
    yet when it would have one in the run."""

    def __init__(self, config):
        self.lines = [*config.getini("markers"), *MARKS]
        self.is_asked = False

    def getini(self, name):
        return self.lines

    def __getattr__(self, name):
        # An unknown mark is warned of, or an error.
        self.is_asked = True
        raise AttributeError(name)


class Gap:
    """The state in which pytest imports test modules, as far as imports may notice it: output is
    captured, warnings are filtered and recorded, and the root logger has handlers."""

    def __init__(self, config):
        self.config = config
        self.manager = config.pluginmanager.getplugin("capturemanager")
        self.root = sys.modules["logging"].root
        self.generator = sys.modules["_pytest.mark.structures"].MARK_GEN
        self.marks = Marks(config)
        self.has_logged = False
        # pytest-django's `pytest_configure` looks at it where somebody has imported Django.
        self.has_django = "django" in sys.modules and quiet_plugins.django_is_configured() is False

    def enter(self):
        # What is there already does not count as kept by what is imported; and the collector would
        # write to each object, and so copy each page.
        gc.freeze()
        if self.manager is not None:
            self.manager.start_global_capturing()
        if "_pytest.logging" in sys.modules:
            self.handlers = [self.handler() for _ in range(2)]
            self.root.handlers.extend(self.handlers)
        self.generator._config = self.marks
        self.once = dict(sys.modules["warnings"].onceregistry)
        self.warned = self.record_warnings()

    def record_warnings(self):
        """By pytest's own filters. Returns the list of those that are shown."""
        plugin = sys.modules.get("_pytest.warnings")
        if plugin is not None and self.config.pluginmanager.is_registered(plugin):
            self.context = plugin.catch_warnings_for_item(
                config=self.config, ihook=self.config.hook, when="collect", item=None
            )
            self.context.__enter__()
            warned = self.context.gen.gi_frame.f_locals["log"]
            if warned is not None:
                return warned
            self.context.__exit__(None, None, None)
        self.context = sys.modules["warnings"].catch_warnings(record=True)
        return self.context.__enter__()

    def handler(self):
        def note(record):
            self.has_logged = True

        found = sys.modules["logging"].NullHandler()
        found.handle = note
        return found

    def leave(self):
        """All but the capture, which is released by the caller."""
        # Else pytest would tell of them.
        self.warned.clear()
        self.context.__exit__(None, None, None)
        once = sys.modules["warnings"].onceregistry
        once.clear()
        once.update(self.once)
        self.generator._config = None
        for handler in vars(self).pop("handlers", ()):
            self.root.removeHandler(handler)

    def trouble(self):
        """What would be seen in the run, in words, or None."""
        if self.marks.is_asked:
            return "it uses a mark that is not known before the run"
        if self.has_logged:
            return "it logs"
        if self.has_django and quiet_plugins.django_is_configured():
            return "it configures Django, which `pytest-django` looks at before"
        return None


def go_on(order, parts):
    """Becomes the template in `order`, in a child of the Z2 that was parked with `parts`. Returns
    what to park with. Ends the process where something cannot be taken back: the next one stops
    before that."""
    worker.become_template(order)
    config, args, passed = parts.config, parts.args, parts.passed
    # What is read here is compared in each worker.
    _zygote.unwatch()
    reason = passed.compare(args) or quiet_plugins.why_not(config)
    try:
        module = reason or FirstModule(config)
    except (OSError, ValueError) as error:
        reason = str(error)
    if reason:
        _zygote.fail(reason)
    environment, path = dict(os.environ._data), list(sys.path)
    compiled = set(map(os.fspath, _zygote.compiled()))
    gap, process = Gap(config), barriers.world()
    gap.enter()
    _zygote.resume()
    handler = observe.natural("faulthandler")
    switches = [value for value in vars(handler).values() if callable(value)]
    # pytest switches it on in between.
    observe.start_plugins("the first test module", {"fork": switches})
    sys.path[:] = module.search
    written = _zygote.written()
    module.have_stand_in()
    # Beside this process: it takes as long.
    verdict = _zygote.attempt_beside()
    if verdict is None:
        reason = compare(order, module, config, gap)
        _zygote.fail(reason) if reason else _zygote.end_trial()
    recorder, cut = Recorder(gap.warned), module.root.cut
    labels = []
    known, label = {*sys.modules, module.name}, ""
    # What ends this build while a statement is executed: the next one stops before that.
    _zygote.watch_loads([], print, lambda: (label, executed(known)) if label else None)
    todo = statements(module, config)
    try:
        for label, statement in todo:
            if label == order.before:
                cut = f"{label}: {order.because}"
                break
            labels.append(label)
            reason = execute(recorder, statement, gap, module) or taken(config, known)
            if reason:
                _zygote.fail(reason, label, executed(known))
    finally:
        todo.close()
    failed = verdict()
    if failed:
        fail_at(failed, labels, executed(known))
    label, module.stand_in = "", None
    stash = Stash(recorder, module.path)
    reason = stash.trouble(module.name, gap.warned)
    gap.leave()
    captured, kept_stream = Captured.release(config, is_active=True)
    _zygote.survey(gc, True)
    # What was there is no owner of the streams that come back.
    gc.freeze()
    observe.capture_is_gone(process)
    observe.stop()
    reason = reason or kept_stream or observe.barrier()
    reason = reason or conftests.loaded_otherwise(sys.modules.values())
    if not reason and not stash.table:
        reason = cut or "the first test module imports nothing new"
    reason = reason or captured.printed()
    if reason:
        _zygote.fail(reason)
    stash.hide(environment, path, set(map(os.fspath, _zygote.compiled())) - compiled)
    _zygote.set_written(written)
    worker.note_environment(order.env)
    failed = _zygote.attempt(lambda: rehearse(module, stash, config, labels))
    if failed:
        fail_at(failed, labels, executed(known | set(stash.modules)))
    count = len(stash.modules)
    holds = f"{count} module" + ("" if count == 1 else "s")
    holds += f" that `{os.path.basename(module.path)}` imports"
    modules = bytecode.with_others(conftests.conftest_modules(config))
    passed = Passed(config, module, stash, passed.again(order, args, captured))
    deeper = conftests.Parts(
        config, args, passed, lambda: observe.facts(stash.modules), holds, modules
    )
    deeper.shallow, deeper.stash = cut, stash
    return deeper


def fail_at(reason, labels, files):
    """Ends this build for a reason that begins with the statement that is to blame."""
    culprit = next((label for label in labels if reason.startswith(f"{label}: ")), None)
    if culprit:
        reason = reason[len(culprit) + 2 :]
    _zygote.fail(reason, culprit, files)


def executed(known):
    """Files that may have something to do with what went wrong, as they are not installed: those
    of modules that are not among `known`, and of those that are being loaded."""
    files = {file_of(module) for name, module in list(sys.modules.items()) if name not in known}
    return sorted(
        os.path.abspath(file)
        for file in files
        if isinstance(file, str) and "/site-packages/" not in file
    )


class Passed:
    """What lies between P0 and Z3, to be compared with what a run would have there."""

    def __init__(self, config, module, stash, conftests):
        self.config = config
        self.module = module
        self.stash = stash
        self.conftests = conftests

    def take(self, args):
        """As `arguments.Prepared.take`."""
        return self.conftests.take(args) or mismatch(self.config, self.module, self.stash)


def statements(module, config):
    """`(label, function)` of what is to be executed: what pytest and its plugins import in the gap,
    the packages that the module is in, and its imports."""
    importlib = sys.modules["importlib"]
    for name in quiet_plugins.gap_imports(config):
        if name not in sys.modules:
            yield f"`{name}`, which pytest imports", lambda name=name: importlib.import_module(name)
    package = module.name.rpartition(".")[0]
    if package:
        yield f"the package `{package}`", lambda: importlib.import_module(package)
    yield from imports(module)


def imports(module):
    """The same of the module's imports alone. While they are executed the module has a stand-in in
    `sys.modules`, where what is imported may look for it."""
    if module.name in sys.modules:
        # It is not imported again.
        return
    space = {
        "__name__": module.name,
        "__package__": module.name.rpartition(".")[0],
        "__file__": module.path,
        "__builtins__": sys.modules["builtins"],
    }
    sys.modules[module.name] = module.stand_in or type(sys)(module.name)
    try:
        counts = {}
        for node in module.root.statements:
            ast = sys.modules["ast"]
            code = compile(ast.Module([node], []), module.path, "exec", dont_inherit=True)
            text = ast.unparse(node).partition("\n")[0][:60]
            count = counts[text] = counts.get(text, 0) + 1
            # By its text: what stands elsewhere in the file may be edited.
            label = f"`{text}`" if count == 1 else f"`{text}` ({count})"
            yield label, lambda code=code: exec(code, space)
    finally:
        sys.modules.pop(module.name, None)


def compare(order, module, config, gap):
    """In a trial: whether the module's imports change anything that is there already. Returns what
    is changed by which, in words, or None.

    Not in the process that will be parked: to compare all that is there is to take, and so to copy,
    each page of it, 10 MB more for each such checkpoint."""
    world = World(lambda name, value: is_looked_at(config, name, value))
    # A trial has streams, and memory that it shares, of its own.
    observe.STATE.world = barriers.world()
    observe.STATE.copies = [id(world.spaces["sys"])]
    # Copies of what owns the streams are no further owners.
    gc.freeze()
    recorder = Recorder(gap.warned)
    _zygote.note_frames()
    for label, statement in statements(module, config):
        if label == order.before:
            break
        reason = execute(recorder, statement, gap, module) or climbs()
        reason = reason or difference(world, module)
        if reason:
            return f"{label}: {reason}"
    return None


def execute(recorder, statement, gap, module):
    """Executes one statement. Returns why it cannot be executed ahead, in words, or None."""
    try:
        reason = recorder.execute(statement)
    except BaseException as error:
        return f"it raises {type(error).__name__}: {error}"
    return reason or gap.trouble() or module.looked_at()


def difference(world, module):
    """Whether what is there already was changed, in words, or None."""
    hidden = Hidden(None)
    hidden.modules = {n: m for n, m in sys.modules.items() if n not in world.modules}
    for name, loaded in hidden.modules.items():
        if name != module.name and file_of(loaded) in module.named:
            return f"it imports the test module `{name}`"
    return world.differences(hidden, HARMLESS | grown(world)) or observe.barrier()


def taken(config, known):
    """What modules that are not among `known` have taken that is another thing when the run imports
    them, in words, or None."""
    modules = {name: module for name, module in sys.modules.items() if name not in known}
    return kept(modules) or quiet_plugins.why_not_modules(config, modules)


def rehearse(module, stash, config, labels):
    """In a trial: whether everything is given back when the module asks for it. Returns what went
    wrong, in words, or None."""
    gap = Gap(config)
    gap.enter()
    sys.path[:] = module.search
    known = list(sys.modules)
    pending = list(stash.statements)
    todo = statements(module, config)
    try:
        for label, statement in todo:
            if label not in labels:
                break
            statement()
            loads = pending.pop(0).loads()
            if any(load.name in stash.table for load in loads):
                return f"{label}: it is not asked for in the same way again"
    finally:
        todo.close()
    gap.leave()
    if [name for name in sys.modules if name not in known] != list(stash.modules):
        return "other modules are there when all is given back"
    return stash.defect


def mismatch(config, module, stash):
    """In a worker: why its first test module is another one, in words, or None."""
    reason = quiet_plugins.why_not_options(config) or quiet_plugins.header_imports(config)
    if reason:
        return reason
    try:
        now = FirstModule(config, module)
    except (OSError, ValueError) as error:
        return str(error)
    if not module.is_like(now):
        return "the first test module imports something else"
    for name, loaded in stash.modules.items():
        if file_of(loaded) in now.named:
            return f"the test module `{name}` is imported by another one"
    return None
