"""An import that a plugin makes late in every run, made before the fork and hidden until then.

hypothesis's plugin imports 80 modules in the summary of every run, whether or not a test uses
them: 60 to 100 ms. Here such an import is made while P0 is built, what it did is taken back, and a
worker gets it back at the moment at which the plugin makes the import. Nobody may be able to tell:

- Only imports that were read and tested are made ahead (`LATE`).
- They are made in a forked trial first. All that an import can change beside adding modules is
  compared before and after; what cannot be taken back is a reason against it (`make`).
- In a worker they are put back only if the import would do now what it did then: same search
  path, finders, environment, rewriting, and the functions and classes that it used (`Adoption`).
  If not, they stay hidden for good, and the import runs as in plain pytest.
- Modules of the standard library among them may be imported earlier, by pytest itself or a test:
  then they are put back on their own, with what their import would load.
"""

import atexit
import builtins
import gc
import os
import sys

import _thread

from pyseidon import _zygote, bytecode, observe, refresh, worker

Module = type(sys)
NOTHING = type(sys.implementation)()

# Caches in the standard library whose content depends on what was asked and tells nothing else.
CACHES = {("re", "_cache"), ("re", "_cache2"), ("platform", "_sys_version_cache")}
# Dictionaries of which additions are taken back, and put back.
LEDGERS = {
    ("linecache", "cache"),
    ("sys", "path_importer_cache"),
    ("typing", "_overload_registry"),
}
# The same, each in a variable that is None before.
REMEMBERED = {("platform", "_uname_cache")}
# Functions that pytest replaces for the time of a run or of its summary.
REPLACED = {
    *("excepthook", "unraisablehook", "breakpointhook", "displayhook"),
    *("showwarning", "_showwarnmsg_impl"),
}


class Late:
    """An import that `function` of the plugin `plugin` makes in every run.

    `imports` is the module it imports. `versions` are the oldest and newest releases of
    `distribution` that were tested. `counters` are variables of other modules to which the import
    adds, and of which it only asks whether they are above zero; `looked_for` are the modules whose
    being loaded it asks for.
    """

    def __init__(
        self, plugin, function, imports, distribution, versions, counters=(), looked_for=()
    ):
        self.plugin = plugin
        self.function = function
        self.imports = imports
        self.distribution = distribution
        self.versions = versions
        self.counters = set(counters)
        self.looked_for = looked_for


LATE = (
    Late(
        plugin="_hypothesis_pytestplugin",
        function="pytest_terminal_summary",
        imports="hypothesis.internal.observability",
        distribution="hypothesis",
        versions=((6, 100), (6, 170)),
        counters=[("_hypothesis_globals", "in_initialization")],
        looked_for=("sphinx", "annotated_types"),
    ),
)


class Hidden:
    """What an import did, and how."""

    def __init__(self, late):
        self.late = late
        # In the order in which they came into `sys.modules`: when their bodies were done.
        self.modules = {}
        # What each module's body asked for, in order, loaded or not.
        self.walk = {}
        self.classes = []
        # Names that could not be imported.
        self.missing = set()
        self.effects = []
        # Modules that were there and were asked for, by whom.
        self.used = {}
        self.environment = {}


class Effect:
    """Something that the bodies of the modules `owners` did.

    `kind` is `key` (added to the dictionary `place`), `element` (added to the set `place`),
    `value` (the variable `key` of the namespace `place` was None), `count` (`value` was added to
    that variable), or `finder` (like `key`, by the search for the first of `owners`, whichever
    that is).
    """

    def __init__(self, kind, place, key, value, owners):
        self.kind = kind
        self.place = place
        self.key = key
        self.value = value
        self.owners = owners

    def undo(self):
        if self.kind in ("key", "finder"):
            del self.place[self.key]
        elif self.kind == "element":
            self.place.discard(self.key)
        elif self.kind == "value":
            self.place[self.key] = None
        else:
            self.place[self.key] -= self.value

    def redo(self):
        if self.kind in ("key", "finder"):
            self.place.setdefault(self.key, self.value)
        elif self.kind == "element":
            self.place.add(self.key)
        elif self.kind == "value":
            if self.place[self.key] is None:
                self.place[self.key] = self.value
        else:
            self.place[self.key] += self.value


def load(config):
    """Makes the import that every run of this `config` makes, if it can be taken back.

    Returns what is to be given to `hide`, or None, and why it is None, if there was something.
    """
    late = next((late for late in LATE if applies(late, config)), None)
    if late is None:
        return None, None
    reason = observe.try_out(lambda: make(late)[1] or observe.barrier())
    if reason:
        return None, f"each run imports `{late.imports}` itself: {reason}"
    hidden, reason = make(late)
    if reason:
        # The trial went well, and what has been done cannot be undone.
        _zygote.fail(f"importing `{late.imports}` ahead: {reason}")
    return hidden, None


def applies(late, config):
    plugin = sys.modules.get(late.plugin)
    if plugin is None or not config.pluginmanager.is_registered(plugin):
        return False
    if late.imports in sys.modules or late.imports not in code_of(late).co_names:
        return False
    if any(option.startswith("importtime") for option in sys._xoptions):
        return False
    try:
        version = observe.distributions(config)[late.distribution]
        version = tuple(map(int, version.split(".")[:2]))
    except (KeyError, ValueError):
        return False
    oldest, newest = late.versions
    return oldest <= version <= newest


def code_of(late):
    function = getattr(sys.modules[late.plugin], late.function, None)
    return getattr(function, "__code__", make.__code__)


def make(late):
    """Makes the import. Returns what it did, and why that cannot be taken back, or None."""
    hidden = Hidden(late)
    before = World()
    recorder = Recorder(hidden, before)
    known = observe.note_environment()
    # (pytest's own: what this module would import is another one, see `boot`.)
    warnings = sys.modules["warnings"]
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            builtins.__import__ = recorder.importing
            builtins.__import__(late.imports)
    except Exception as error:
        return hidden, f"it raised {error!r}"
    finally:
        builtins.__import__ = before.natural
        read = observe.environment_since(known)
    if read is None:
        return hidden, "it read the whole environment"
    hidden.environment = {name: os.environ._data.get(name) for name in read}
    if warned:
        return hidden, f"it warned: {warned[0].message}"
    hidden.modules = {n: m for n, m in sys.modules.items() if n not in before.modules}
    hidden.classes = [kind for kind in all_classes() if id(kind) not in before.all_classes]
    if worker.START.write_bytecode and bytecode.unwritten(hidden.modules.values()):
        return hidden, "it would write byte code"
    for effect in hidden.effects:
        if effect.place is sys.path_importer_cache:
            effect.kind = "finder"
            effect.owners = found_in(hidden, effect.key) or effect.owners
    reason = before.differences(hidden)
    if not reason and walked(hidden, late.imports, before.modules)[0] != list(hidden.modules):
        reason = "its modules were not loaded by import statements alone"
    return hidden, reason


def found_in(hidden, directory):
    """Those of the modules that lie in this directory."""
    return [
        name
        for name, module in hidden.modules.items()
        if origin(module) and os.path.dirname(module_path(module)) == directory
    ]


def origin(module):
    """The file that a module was loaded from, or None."""
    spec = getattr(module, "__spec__", None)
    return spec.origin if spec is not None and spec.has_location else None


def module_path(module):
    """Where a module was found: a package, by the name of its directory."""
    file = origin(module)
    return os.path.dirname(file) if hasattr(module, "__path__") else file


def walked(hidden, name, loaded):
    """What an import of `name` loads if `loaded` are there: names in the order in which they come
    into `sys.modules`, in that in which they are begun, and those that import statements name."""
    done, seen, asked = [], {}, [name]

    def visit(name):
        parent = name.rpartition(".")[0]
        if parent:
            visit(parent)
        if name in loaded or name in seen or name not in hidden.modules:
            return
        seen[name] = None
        for wanted in hidden.walk.get(name, ()):
            if wanted not in loaded and wanted not in seen and wanted in hidden.modules:
                asked.append(wanted)
            visit(wanted)
        done.append(name)

    visit(name)
    return done, list(seen), asked


def ancestors(name):
    """A module's packages, the outermost first, and itself."""
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def has_spec(name):
    return getattr(sys.modules[name], "__spec__", None) is not None


class Recorder:
    """Notes, in place of `__import__`, who asks for what, and whose body does what."""

    def __init__(self, hidden, before):
        self.hidden = hidden
        self.before = before
        self.ledgers = [
            *(before.spaces[m][v] for m, v in LEDGERS if v in before.spaces.get(m, ())),
            loggers(),
            *(v for v in vars(rewriting_hook()).values() if type(v) in (dict, set)),
        ]
        self.variables = [
            ("value" if place in REMEMBERED else "count", vars(before.modules[place[0]]), place[1])
            for place in (*REMEMBERED, *hidden.late.counters)
            if place[1] in before.spaces.get(place[0], ())
        ]
        self.known = [set(ledger) for ledger in self.ledgers]
        self.values = [space[key] for _, space, key in self.variables]
        # Imports that are being made, the innermost last.
        self.pending = []
        self.attached = set()

    def importing(self, name, globals=None, locals=None, fromlist=(), level=0):
        importer = self.importer(sys._getframe(1))
        self.note([importer])
        before = set(sys.modules)
        full = name
        if level:
            package = globals["__package__"].split(".")
            full = ".".join(package[: len(package) - level + 1] + ([name] if name else []))
        parts = [f"{full}.{part}" for part in fromlist or () if type(part) is str]
        walk = self.hidden.walk.setdefault(importer, [])
        walk.append(full)
        self.pending.append(full)
        try:
            module = self.before.natural(name, globals, locals, fromlist, level)
        except ImportError:
            self.hidden.missing.add(full)
            raise
        finally:
            self.pending.pop()
            # What is not noted yet was done by a body that this import itself asked for.
            loaded = [name for name in (*ancestors(full), *parts) if name in sys.modules]
            self.note([name for name in loaded if name not in before] or [importer])
            self.attach([name for name in sys.modules if name not in before])
        walk += [part for part in parts if part in sys.modules]
        for asked in (full, *parts):
            if asked in self.before.modules:
                self.hidden.used.setdefault(asked, set()).add(importer)
        return module

    def attach(self, new):
        """Notes modules that an extension module has put beside itself, without an import: they
        have no spec, and come before it."""
        for at, name in enumerate(new):
            if has_spec(name) or name in self.attached:
                continue
            self.attached.add(name)
            maker = next(filter(has_spec, new[at:]), None)
            self.hidden.walk.setdefault(maker, []).append(name)

    def importer(self, frame):
        """The module whose body runs: its frame is the first, but that of an extension module,
        which has none."""
        while frame.f_code.co_name != "<module>":
            if frame.f_code.co_filename.startswith("<frozen importlib") and self.pending:
                return self.pending[-1]
            frame = frame.f_back
        return frame.f_globals["__name__"]

    def note(self, owners):
        """Finds out what the bodies that ran since the last time have done."""
        effects = self.hidden.effects
        for at, ledger in enumerate(self.ledgers):
            known = self.known[at]
            if len(ledger) == len(known):
                continue
            for key in [key for key in ledger if key not in known]:
                known.add(key)
                if type(ledger) is set:
                    effects.append(Effect("element", ledger, key, None, owners))
                else:
                    effects.append(Effect("key", ledger, key, ledger[key], owners))
        for at, (kind, space, key) in enumerate(self.variables):
            value, before = space[key], self.values[at]
            if value is not before:
                self.values[at] = value
                change = value if kind == "value" else value - before
                effects.append(Effect(kind, space, key, change, owners))


class World:
    """All that an import could change and that Python shows."""

    def __init__(self):
        self.natural = builtins.__import__
        self.modules = dict(sys.modules)
        self.spaces = {name: dict(space) for name, space in spaces(self.modules)}
        self.classes = {}
        for space in self.spaces.values():
            for value in space.values():
                if isinstance_of(value, type) and value not in self.classes:
                    self.classes[value] = dict(vars(value))
        self.all_classes = set(map(id, all_classes()))
        self.containers = dict(containers(self))
        self.facts = facts()
        self.loggers = dict(loggers())
        self.rewriting = {
            name: value.copy() if type(value) in (dict, set) else value
            for name, value in vars(rewriting_hook()).items()
        }

    def differences(self, hidden):
        """Fills in what can be taken back. Returns what cannot, or None."""
        for name, space in spaces(self.modules):
            reason = self.difference_in_space(hidden, name, space)
            if reason:
                return reason
        for kind, before in self.classes.items():
            after = vars(kind)
            if len(after) != len(before) or any(after[k] is not v for k, v in before.items()):
                return f"it changed the class `{kind.__qualname__}` of `{kind.__module__}`"
        for place, before in self.containers.items():
            reason = difference_in_container(place, before)
            if reason:
                return reason
        for name, after in facts().items():
            if after != self.facts[name]:
                return f"it changed the {name}"
        return self.difference_in_loggers(hidden) or self.difference_in_rewriting(hidden)

    def difference_in_space(self, hidden, name, space):
        before = self.spaces[name]
        for key, value in space.items():
            if key not in before:
                submodule = f"{name}.{key}"
                if hidden.modules.get(submodule) is not value:
                    return f"it set `{key}` of `{name}`"
                hidden.effects.append(Effect("key", space, key, value, [submodule]))
            elif value is not before[key] and not is_noted(hidden, space, key):
                return f"it set `{key}` of `{name}`"
        if any(key not in space for key in before):
            return f"it removed a name from `{name}`"
        return None

    def difference_in_loggers(self, hidden):
        for name, logger in loggers().items():
            if self.loggers.get(name) is not logger and (
                name in self.loggers or name.partition(".")[0] in self.loggers
            ):
                return f"it made the logger `{name}`"
        if any(name not in loggers() for name in self.loggers):
            return "it removed a logger"
        return None

    def difference_in_rewriting(self, hidden):
        """Which modules pytest's import hook has seen and rewritten."""
        for name, value in vars(rewriting_hook()).items():
            before = self.rewriting.get(name)
            if type(value) not in (dict, set) and value is not before:
                return f"it set `{name}` of pytest's import hook"
        return None


def is_noted(hidden, space, key):
    return any(effect.place is space and effect.key == key for effect in hidden.effects)


def isinstance_of(value, kind):
    """Not `isinstance`, which asks the object itself."""
    return issubclass(type(value), kind)


def all_classes():
    return [value for value in gc.get_objects() if isinstance_of(value, type)]


def spaces(modules):
    """`(name, namespace)` of each module, past what a module's class puts before it."""
    namespace = Module.__dict__["__dict__"]
    for name, module in modules.items():
        if isinstance_of(module, Module):
            yield name, namespace.__get__(module)


def containers(world):
    """`((owner's name, key), (container, its elements))` in namespaces and classes."""
    owners = [
        *world.spaces.items(),
        *((f"{c.__module__}.{c.__qualname__}", d) for c, d in world.classes.items()),
    ]
    collections = sys.modules["collections"]
    kinds = {dict, list, set, collections.deque, collections.OrderedDict, collections.defaultdict}
    seen = set()
    for name, space in owners:
        for key, value in space.items():
            if type(value) in kinds and id(value) not in seen:
                seen.add(id(value))
                yield (name, key), (value, elements(value))


def elements(container):
    if isinstance_of(container, dict):
        return {id(key): id(value) for key, value in container.items()}
    return [id(element) for element in container]


def difference_in_container(place, before):
    container, elements_before = before
    if place == ("sys", "modules") or place in CACHES or elements(container) == elements_before:
        return None
    name, key = place
    if place not in LEDGERS:
        return f"it changed `{key}` of `{name}`"
    after = elements(container)
    if any(after.get(k) != v for k, v in elements_before.items()):
        return f"it removed something from `{key}` of `{name}`"
    return None


def facts():
    """What is not in any namespace."""
    logging, random = sys.modules["logging"], sys.modules.get("random")
    return {
        "exit functions": atexit._ncallbacks(),
        "environment": dict(dict.items(os.environ._data)),
        "collector": (gc.isenabled(), gc.get_threshold(), len(gc.callbacks)),
        "recursion limit": sys.getrecursionlimit(),
        "switch interval": sys.getswitchinterval(),
        "random state": random and random.getstate(),
        "logging handlers": list(logging.root.handlers),
        "tracing": sys.gettrace(),
    }


def loggers():
    return sys.modules["logging"].Logger.manager.loggerDict


def rewriting_hook():
    """pytest's import hook, or, without one, something without attributes."""
    for finder in sys.meta_path:
        if type(finder).__module__ == "_pytest.assertion.rewrite":
            return finder
    return NOTHING


def hide(hidden):
    """Takes back what an import did, and has it put back when it is made."""
    for name in hidden.modules:
        del sys.modules[name]
    for effect in reversed(hidden.effects):
        effect.undo()
    # Of others than the plugin, a run may have back what belongs to Python itself.
    standard = [name for name, module in hidden.modules.items() if is_standard(module)]
    _zygote.hide(hidden.late.imports, standard, hidden.classes, Adoption(hidden).adopt)


class Adoption:
    """Puts back what an import did, or says why the import would do something else."""

    def __init__(self, hidden):
        self.hidden = hidden
        self.code = code_of(hidden.late)
        self.adopted = set()
        self.finders = list(sys.meta_path), list(sys.path_hooks)
        self.natural = builtins.__import__
        self.thread = _thread.get_ident()
        self.loaded = {name: name in sys.modules for name in hidden.late.looked_for}
        used = {name: sys.modules[name] for name in hidden.used}
        self.functions = {
            name: (space, [(k, v) for k, v in space.items() if k not in REPLACED and is_code(v)])
            for name, space in spaces(used)
        }
        self.used = used
        self.search = sys.modules["_frozen_importlib_external"].PathFinder.find_spec
        tops = {name.partition(".")[0] for name in hidden.missing}
        self.missing = tops - set(hidden.modules) - set(sys.modules)
        self.rewriting = rewriting_hook()
        self.patterns = getattr(self.rewriting, "fnpats", None)
        self.marked = set(getattr(self.rewriting, "_must_rewrite", ()))

    def adopt(self, name):
        """Called when `name` is about to be imported by the frame above.

        Returns `(None, what was asked for)`, or `(reason, [])`.
        """
        order, begun, asked = walked(self.hidden, name, sys.modules)
        reason = self.mismatch(name, order, sys._getframe(1))
        if reason:
            return reason, []
        self.adopted.update(order)
        modules = {name: self.hidden.modules[name] for name in order}
        sys.modules.update(modules)
        last = name == self.hidden.late.imports
        places = {name: at for at, name in enumerate(order)}
        # (Those of an extension module may be named otherwise: they come with the last.)
        made = [kind for kind in self.hidden.classes if last or kind.__module__ in places]
        _zygote.reveal([(kind, places.get(kind.__module__)) for kind in made])
        effects = [e for e in self.hidden.effects if any(owner in modules for owner in e.owners)]
        # Finders come into being when they are first needed, all else when a body is done.
        begun = {name: at for at, name in enumerate(begun)}
        effects.sort(
            key=lambda effect: (
                min(begun[owner] for owner in effect.owners if owner in begun)
                if effect.kind == "finder"
                else 0
            )
        )
        for effect in effects:
            effect.redo()
        for rule in refresh.RULES:
            if rule.module in modules:
                rule.draw(modules[rule.module])
        return None, asked

    def mismatch(self, name, order, importer):
        hidden = self.hidden
        if name == hidden.late.imports and importer.f_code is not self.code:
            return f"`{name}` is imported by `{importer.f_code.co_filename}`"
        if sys.gettrace() or sys.getprofile() or is_monitored():
            return "the run is traced"
        if self.thread != _thread.get_ident():
            return "another thread imports it"
        if builtins.__import__ is not self.natural:
            return "`__import__` was replaced"
        if self.finders != (sys.meta_path, sys.path_hooks):
            return "there are other finders"
        for known, module in hidden.modules.items():
            if sys.modules.get(known, module) is not module:
                return f"`{known}` was imported before"
            if known in self.adopted and known not in sys.modules:
                return f"`{known}` is imported again"
        for known, there in self.loaded.items():
            if (known in sys.modules) is not there:
                return f"`{known}` was imported before"
        importing = set(order)
        for effect in hidden.effects:
            owners = set(effect.owners)
            if effect.kind == "finder":
                continue
            if owners & importing and not all(o in importing or o in sys.modules for o in owners):
                return f"what `{effect.owners[0]}` does cannot be told apart"
        return (
            self.mismatch_in_used(importing)
            or self.mismatch_in_rewriting(importing)
            or self.mismatch_in_search(importing)
        )

    def mismatch_in_used(self, importing):
        """What the modules use of others, and of the environment."""
        for known, importers in self.hidden.used.items():
            if importers.isdisjoint(importing):
                continue
            if sys.modules.get(known) is not self.used[known]:
                return f"`{known}` is another module"
            space, functions = self.functions.get(known, ({}, ()))
            for key, value in functions:
                if space.get(key) is not value:
                    return f"`{key}` of `{known}` was replaced"
        for known, value in self.hidden.environment.items():
            if os.environ._data.get(known) != value:
                return f"`{os.fsdecode(known)}` has another value in the environment"
        for effect in self.hidden.effects:
            if effect.kind == "count" and not effect.place.get(effect.key, 0) > 0:
                return f"`{effect.key}` is not above zero"
            if effect.place is loggers() and importing.intersection(effect.owners):
                top = effect.key.partition(".")[0]
                if any(known.partition(".")[0] == top for known in loggers()):
                    return f"there is a logger `{top}`"
        return None

    def mismatch_in_rewriting(self, importing):
        """What pytest's import hook would rewrite."""
        if getattr(self.rewriting, "fnpats", None) != self.patterns:
            return "other files are rewritten"
        for mark in set(getattr(self.rewriting, "_must_rewrite", ())) - self.marked:
            if any(f"{name}.".startswith(f"{mark}.") for name in importing):
                return f"`{mark}` is to be rewritten"
        return None

    def mismatch_in_search(self, importing):
        """Where the modules would be found."""
        for name in importing:
            if "." in name:
                continue
            place = origin(self.hidden.modules[name])
            if place is None:
                continue
            found = self.search(name)
            if found is None or found.origin != place:
                return f"`{name}` is found elsewhere"
        for name in self.missing:
            if self.search(name) is not None:
                return f"`{name}` is found now"
        return None


def is_code(value):
    return callable(value) or isinstance_of(value, Module)


def is_monitored():
    monitoring = getattr(sys, "monitoring", None)
    return monitoring is not None and any(monitoring.get_tool(tool) for tool in range(6))


def is_standard(module):
    """Whether it belongs to Python, and is not an installed package."""
    file = origin(module)
    if file is None:
        return module.__name__ in sys.builtin_module_names
    home = os.path.dirname(os.__file__) + os.sep
    return file.startswith(home) and "site-packages" not in file
