"""What an import does while it is made: who asks for what, and whose body does what."""

import os
import sys

from pyseidon.world import LEDGERS, REMEMBERED, loggers, rewriting_hook


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

    def notes(self, place, key):
        """Whether an effect on this entry of a dictionary is among those that were noted."""
        return any(effect.place is place and effect.key == key for effect in self.effects)


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
        self.owners = frozenset(owners)

    def undo(self):
        if self.kind in ("key", "finder"):
            del self.place[self.key]
        elif self.kind == "element":
            self.place.discard(self.key)
        elif self.kind == "value":
            self.place[self.key] = None
        else:
            self.place[self.key] -= self.value

    def redoing(self):
        """A function that does it again; called twice it does no more than once."""
        place, key, value = self.place, self.key, self.value
        if self.kind in ("key", "finder"):
            return lambda: place.setdefault(key, value)
        if self.kind == "element":
            return lambda: place.add(key)
        if self.kind == "value":
            value = value if place[key] is None else place[key]
        else:
            value += place[key]
        return lambda: place.__setitem__(key, value)


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


def package_of(namespace):
    """The package of the module with this namespace, as the import system finds it."""
    package = namespace.get("__package__")
    if package is None and namespace.get("__spec__") is not None:
        package = namespace["__spec__"].parent
    if package is None:
        name = namespace["__name__"]
        package = name if "__path__" in namespace else name.rpartition(".")[0]
    return package


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
            package = package_of(globals).split(".")
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


def found_in(hidden, directory):
    """Those of the modules that lie in this directory."""
    return [
        name
        for name, module in hidden.modules.items()
        if origin(module) and os.path.dirname(module_path(module)) == directory
    ]


def module_path(module):
    """Where a module was found: a package, by the name of its directory."""
    file = origin(module)
    return os.path.dirname(file) if hasattr(module, "__path__") else file


def origin(module):
    """The file that a module was loaded from, or None."""
    spec = getattr(module, "__spec__", None)
    return spec.origin if spec is not None and spec.has_location else None


def is_standard(module):
    """Whether it belongs to Python, and is not an installed package."""
    file = origin(module)
    if file is None:
        return module.__name__ in sys.builtin_module_names
    home = os.path.dirname(os.__file__) + os.sep
    return file.startswith(home) and "site-packages" not in file
