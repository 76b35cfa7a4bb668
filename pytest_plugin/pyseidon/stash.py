"""Modules that were executed ahead of the run that imports them: recorded, hidden, given back.

In a zygote, import statements are executed for real while it is noted which module loads which
others, in order, and what each does beside: to the environment, to warning filters, at exit, and
which warnings it raises (`Recorder`). Then the modules are taken out of `sys.modules`, and what
they did is taken back (`Stash.hide`). In a worker, the import system is given each of them when it
looks for it, together with what was loaded on its behalf, in the same order and with the same
effects (`Stash.adopt`).
"""

import gc
import os
import sys

import _frozen_importlib
import posix

from pyseidon import _zygote, bytecode, refresh
from pyseidon.adoption import MOST_INTERRUPTIONS, is_own
from pyseidon.world import file_of, space_of


class Load:
    """The execution of one module, or of one import statement (which has no name).

    `steps` are what it did, in order: loads of other modules, and effects, which are functions
    that do it again, called with the frame of the import statement.
    """

    def __init__(self, name, statement=None):
        self.name = name
        self.statement = statement
        self.steps = []
        self.is_adopted = False
        # Of a module: what it left in `sys.modules`, other modules that it put there, what would
        # have written its byte code, and the package's namespace that it is to be bound in.
        self.module = None
        self.others = {}
        self.unwritten = ()
        self.bound_in = None
        self.filters = None

    def loads(self):
        """All loads in it, itself first."""
        found = [self]
        for load in found:
            found.extend(step for step in load.steps if type(step) is Load)
        return found

    def effects(self):
        """All effects in it, in the order in which they were had."""
        for step in self.steps:
            if type(step) is Load:
                yield from step.effects()
            else:
                yield step


class Recorder:
    """Notes what import statements do while `execute` executes them."""

    def __init__(self, warned):
        """`warned` is the list of warnings that were raised and shown."""
        self.warned = warned
        self.seen = len(warned)
        self.statements = []
        self.stack = []
        self.known = dict(sys.modules)
        self.written = dict(_zygote.written())
        # (The one that others have: what this module would import is another one, see `boot`.)
        self.atexit = sys.modules["atexit"]
        self.natural = {name: getattr(self.atexit, name) for name in ("register", "unregister")}
        self.stand_ins = {"register": self.register, "unregister": self.unregister}
        self.holders = self.count_holders()
        # (Its executors are loaded when they are asked for.)
        self.bound = set(space_of(self.known.get("concurrent.futures")))

    def execute(self, function):
        """Calls `function`, which executes one import statement. Returns why what that did cannot
        be taken back, in words, or None. Raises what it raises."""
        statement = Load(None)
        self.statements.append(statement)
        self.stack = [statement]
        path = list(sys.path)
        natural = _frozen_importlib._load_unlocked
        warnings = sys.modules["warnings"]
        _frozen_importlib._load_unlocked = _zygote.loading(natural, self.before, self.after)
        vars(self.atexit).update(self.stand_ins)
        statement.filters = list(warnings.filters)
        try:
            function()
            self.note()
        finally:
            _frozen_importlib._load_unlocked = natural
            vars(self.atexit).update(self.natural)
            self.put_back()
        after = list(warnings.filters)
        warnings.filters[:] = statement.filters
        for effect in statement.effects():
            if type(effect) is Filters:
                effect(None)
        if warnings.filters != after:
            return "it changes warning filters"
        if any(type(step) not in (Load, Bound) for step in statement.steps):
            # As a module's `__getattr__` does, or one that fails: the run executes these again.
            return "not only modules that it loads do something else"
        if self.is_kept():
            return "it keeps a function of `atexit` elsewhere than in a module's variable"
        if sys.path != path:
            return "it changes `sys.path`"
        return None

    def before(self, spec):
        self.note()
        load = Load(spec.name, self.statements[-1])
        load.filters = list(sys.modules["warnings"].filters)
        self.stack[-1].steps.append(load)
        self.stack.append(load)

    def after(self, is_loaded):
        self.note()
        load = self.stack.pop()
        inside = [effect for effect in load.effects() if type(effect) is Filters]
        known = load.filters + [entry for step in inside for entry in step.new]
        now = sys.modules["warnings"].filters
        new = [entry for entry in now if not any(entry is other for other in known)]
        if new:
            last = 0
            while last < len(new) < len(now) and now[-1 - last] is new[-1 - last]:
                last += 1
            first = len(new) - last
            load.steps.append(Filters(new[:first], new[first:]))
        if not is_loaded:
            # What it had loaded stays; a module it has not become.
            steps = self.stack[-1].steps
            at = steps.index(load)
            steps[at : at + 1] = load.steps

    def register(self, function, *args, **kwargs):
        """In place of `atexit.register`."""
        natural = self.natural["register"]
        self.stack[-1].steps.append(lambda frame: natural(function, *args, **kwargs))
        return function

    def unregister(self, function):
        """In place of `atexit.unregister`. What was registered before is left to the run too."""
        natural = self.natural["unregister"]
        self.stack[-1].steps.append(lambda frame: natural(function))

    def put_back(self):
        """In modules that have taken the functions themselves."""
        for name, module in list(sys.modules.items()):
            space = space_of(module) if name not in self.known else {}
            for key, value in list(space.items()):
                for kind, stand_in in self.stand_ins.items():
                    if type(value) is type(stand_in) and value == stand_in:
                        space[key] = self.natural[kind]

    def count_holders(self):
        """How many hold each of the functions that stand in."""
        return [sys.getrefcount(stand_in) for stand_in in self.stand_ins.values()]

    def is_kept(self):
        """Whether somebody has one of these, say in a class or as a default, to whom the natural
        one cannot be given back."""
        if self.count_holders() == self.holders:
            return False
        # Not what nobody can reach any more.
        gc.collect()
        return self.count_holders() != self.holders

    def note(self):
        """Notes what the innermost module did since the last call."""
        steps = self.stack[-1].steps
        now = dict(_zygote.written())
        if now != self.written:
            names = [n for n, value in now.items() if self.written.get(n, steps) != value]
            data = os.environ._data
            steps.append(Environment([(n, now[n], dict.get(data, n)) for n in names]))
            self.written = now
        space = space_of(sys.modules.get("concurrent.futures"))
        for name in sorted(EXECUTORS & set(space) - self.bound):
            steps.append(Bound(space, name))
            self.bound.add(name)
        for warning in self.warned[self.seen :]:
            steps.append(Warned(warning))
        self.seen = len(self.warned)


class Environment:
    """Variables that were set, or removed: `(name, value for C code, value in os.environ)`."""

    def __init__(self, written):
        self.written = written

    def __call__(self, frame):
        data = os.environ._data
        for name, value, shown in self.written:
            if shown is None:
                dict.pop(data, name, None)
            else:
                dict.__setitem__(data, name, shown)
            if value is None:
                posix.unsetenv(name)
            else:
                posix.putenv(name, value)


class Bound:
    """A name that a module gets when somebody asks for it."""

    def __init__(self, space, name):
        self.space = space
        self.name = name
        self.value = space[name]

    def __call__(self, frame):
        self.space[self.name] = self.value


# Those of `concurrent.futures`.
EXECUTORS = {"InterpreterPoolExecutor", "ProcessPoolExecutor", "ThreadPoolExecutor"}


class Filters:
    """Warning filters that were put before the others, or behind them."""

    def __init__(self, before, behind):
        self.before = before
        self.behind = behind
        self.new = [*before, *behind]

    def __call__(self, frame):
        warnings = sys.modules["warnings"]
        for entry in reversed(self.before):
            if entry in warnings.filters:
                warnings.filters.remove(entry)
            warnings.filters.insert(0, entry)
        for entry in self.behind:
            if entry not in warnings.filters:
                warnings.filters.append(entry)
        warnings._filters_mutated()


class Warned:
    """A warning that was raised."""

    def __init__(self, warning):
        self.warning = warning
        # The name of the module that it is attributed to; None for the one that imports.
        self.module = None
        # The module of which the compiler gives it.
        self.compiled = None

    def attribute(self, importer, modules):
        """Finds that module. Returns whether there is one."""
        if self.warning.filename == importer:
            return True
        for name, module in modules.items():
            if file_of(module) == self.warning.filename:
                self.module = name
                return True
        return False

    def is_shown_again(self, importer, warned):
        """Whether the present filters have it shown, if a module of the name `importer` imports.
        `warned` is the list that what is shown is added to."""
        name = importer if self.module is None else vars(sys.modules[self.module]).get("__name__")
        known = len(warned)
        try:
            self.issue(name or "<unknown>", self.warning.lineno, {})
        except Warning:
            return False
        return len(warned) == known + 1

    def __call__(self, frame):
        if self.compiled is not None and bytecode.unwritten([self.compiled])[1]:
            # A run before this one has written its byte code.
            return
        if self.module is None:
            space, lineno = frame.f_globals, frame.f_lineno
        else:
            space, lineno = vars(sys.modules[self.module]), self.warning.lineno
        registry = space.setdefault("__warningregistry__", {})
        self.issue(space.get("__name__") or "<unknown>", lineno, registry)

    def issue(self, module, lineno, registry):
        known = self.warning
        sys.modules["warnings"].warn_explicit(
            known.message,
            known.category,
            known.filename,
            lineno,
            module,
            registry,
            source=known.source,
        )


def importing(frame):
    """Of these frames and those that called it, the first that is not the import system's own: of
    `from package import module` it calls itself."""
    while frame.f_back and frame.f_code.co_filename.startswith("<frozen importlib."):
        frame = frame.f_back
    return frame


class Stash:
    """What was executed ahead, by the names of its modules."""

    def __init__(self, recorder, importer):
        """`importer` is the file that the import statements are in."""
        self.importer = importer
        self.statements = recorder.statements
        self.modules = {n: m for n, m in sys.modules.items() if n not in recorder.known}
        self.path = list(sys.path)
        self.finders = list(sys.meta_path), list(sys.path_hooks)
        self.natural = _frozen_importlib._find_and_load
        # Byte code of it that is fresh, see `bytecode.unwritten`.
        self.fresh = set()
        # Sources that were compiled.
        self.compiled = set()
        # What was found wrong while it was given back, in words.
        self.defect = None
        self.table = {}
        for load in self.loads():
            if load.name in self.modules:
                self.table[load.name] = load
                load.module = self.modules[load.name]
        # What nobody has loaded was put there by what was loaded next.
        others, load = {}, None
        for name, module in self.modules.items():
            if name in self.table:
                load = self.table[name]
                load.others.update(others)
                others = {}
            else:
                others[name] = module
        if load is not None:
            load.others.update(others)

    def loads(self):
        for statement in self.statements:
            yield from statement.loads()

    def trouble(self, importer, warned):
        """Why these warnings cannot be raised again by a module of the name `importer`, in words,
        or None. `warned` is the list that what is shown is added to."""
        for load in self.loads():
            for step in load.steps:
                if type(step) is not Warned:
                    continue
                if not step.attribute(self.importer, self.modules):
                    return f"a warning is attributed to `{step.warning.filename}`"
                if not step.is_shown_again(importer, warned):
                    return f"a warning may not be shown again: {step.warning.message}"
        return None

    def hide(self, environment, path, compiled):
        """Takes everything back. `environment` and `path` are what `os.environ` and `sys.path`
        were, `compiled` are sources that were compiled meanwhile."""
        for load in self.table.values():
            load.unwritten, fresh = bytecode.unwritten([load.module])
            if load.unwritten:
                self.note_compiler(load)
            self.fresh |= fresh
            space_of(load.module).pop("__warningregistry__", None)
            self.unbind(load)
        self.compiled = set(compiled)
        files = set(map(file_of, self.modules.values()))
        others, fresh = bytecode.unwritten((), self.compiled - files)
        self.fresh |= fresh
        if others:
            first = next(iter(self.table.values()))
            first.unwritten = [*first.unwritten, *others]
        for step in [s for load in self.loads() for s in load.steps if type(s) is Bound]:
            step.space.pop(step.name, None)
        for name in self.modules:
            del sys.modules[name]
        sys.path[:] = path
        self.reset_environment(environment)
        if self.table:
            stand_in = _zygote.finding(self.natural, self.table, self.adopt)
            _frozen_importlib._find_and_load = stand_in

    def note_compiler(self, load):
        """Which of its warnings are the compiler's: whoever finds byte code has none of them."""
        told = bytecode.warnings_of(load.module)
        for step in load.steps:
            if type(step) is Warned:
                known = step.warning
                if (known.category, str(known.message), known.lineno) in told:
                    step.compiled = load.module

    def reset_environment(self, environment):
        steps = [s for load in self.loads() for s in load.steps if type(s) is Environment]
        names = {name for step in steps for name, _, _ in step.written}
        former = ((name, environment.get(name)) for name in names)
        Environment([(name, value, value) for name, value in former])(None)

    def unbind(self, load):
        """From a package that was there before, or is given back before it."""
        package, _, name = load.name.rpartition(".")
        above = self.table.get(package)
        owner = sys.modules.get(package)
        if owner is None or (above is not None and load in above.loads()):
            return
        space = space_of(owner)
        if space.get(name) is load.module:
            del space[name]
            load.bound_in = space

    # ------------------------------------------------------------- adoption

    def adopt(self, name):
        """Called when the import system is about to look for one of the modules. Raises what a
        signal handler of the run raised meanwhile, as it may in any import."""
        frame = importing(sys._getframe(1))
        load = self.table[name]
        if sys.path != self.path or self.finders != (sys.meta_path, sys.path_hooks):
            self.defect = f"`{name}` is looked for under another search path"
        loads, effects = [], []
        if frame.f_code.co_filename == self.importer and frame.f_code.co_name == "<module>":
            self.collect(load.statement, loads, effects)
        at = name.find(".")
        while at > 0:
            # What a natural import would load first.
            if name[:at] in self.table:
                self.collect(self.table[name[:at]], loads, effects)
            at = name.find(".", at + 1)
        self.collect(load, loads, effects)
        modules = {}
        for load in loads:
            modules.update(load.others)
            modules[load.name] = load.module
        steps = [lambda: self.show(modules), lambda: self.bind(loads)]
        steps += [lambda effect=effect: effect(frame) for effect in effects]
        steps += [lambda: refresh.draw(modules), lambda: self.write(loads)]
        interruption, done = None, 0
        for _ in range(1 + MOST_INTERRUPTIONS):
            try:
                while done < len(steps):
                    steps[done]()
                    done += 1
                break
            except BaseException as error:
                # A signal handler's: the steps themselves raise nothing.
                interruption = error
                if is_own(error):
                    self.defect = f"giving `{name}` back raised {error!r}"
                    interruption = None
                    done += 1
        if interruption is not None:
            raise interruption

    def collect(self, load, loads, effects):
        """Adds what is not given back yet, in the order in which it was done."""
        if load.is_adopted:
            return
        load.is_adopted = True
        for step in load.steps:
            if type(step) is Load:
                self.collect(step, loads, effects)
            else:
                effects.append(step)
        if load.module is not None and self.table.get(load.name) is load:
            loads.append(load)

    def show(self, modules):
        for name in modules:
            if name in sys.modules and sys.modules[name] is not modules[name]:
                self.defect = f"`{name}` was imported by somebody else"
        sys.modules.update(modules)
        for name in modules:
            self.table.pop(name, None)
        if not self.table:
            _frozen_importlib._find_and_load = self.natural

    def bind(self, loads):
        for load in loads:
            if load.bound_in is not None:
                load.bound_in[load.name.rpartition(".")[2]] = load.module

    def write(self, loads):
        """The byte code that was missing or outdated."""
        if not sys.dont_write_bytecode:
            for load in loads:
                for write in load.unwritten:
                    write()
