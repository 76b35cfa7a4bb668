"""What an import does while it is made: whom it asks for, and what it leaves behind."""

import sys

from pyseidon.world import LEDGERS, REMEMBERED, loggers, rewriting_hook


class Hidden:
    """What an import did."""

    def __init__(self, late):
        self.late = late
        # In the order in which they came into `sys.modules`: when their bodies were done.
        self.modules = {}
        # Names that import statements asked for and that were not loaded, in order.
        self.asked = []
        # Names that could not be imported.
        self.missing = set()
        # Modules that were there before and were asked for.
        self.used = {}
        # What extension modules among them asked for when they were loaded.
        self.bound = set()
        self.classes = []
        # Those of them that another import would not make anew, and the module that has made them.
        self.lasting = []
        self.maker = None
        self.effects = []
        self.environment = {}

    def notes(self, place, key):
        """Whether an effect on this entry of a dictionary is among those that can be undone."""
        return any(effect.place is place and effect.key == key for effect in self.effects)


class Effect:
    """Something that can be taken back and done again.

    `kind` is `key` (added to the dictionary `place`), `element` (added to the set `place`),
    `value` (the variable `key` of the namespace `place` was None) or `count` (`value` was added to
    that variable).
    """

    def __init__(self, kind, place, key, value):
        self.kind = kind
        self.place = place
        self.key = key
        self.value = value

    def undo(self):
        if self.kind == "key":
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
        if self.kind == "key":
            return lambda: place.setdefault(key, value)
        if self.kind == "element":
            return lambda: place.add(key)
        if self.kind == "value":
            value = value if place[key] is None else place[key]
        else:
            value += place[key]
        return lambda: place.__setitem__(key, value)


class Recorder:
    """Notes, in place of `__import__`, what is asked for."""

    def __init__(self, hidden, before):
        self.hidden = hidden
        self.before = before
        # Imports that are being made, the innermost last.
        self.pending = []

    def importing(self, name, globals=None, locals=None, fromlist=(), level=0):
        full = name
        if level:
            package = package_of(globals).split(".")
            full = ".".join(package[: len(package) - level + 1] + ([name] if name else []))
        if full not in sys.modules:
            self.hidden.asked.append(full)
            if self.is_by_extension(sys._getframe(1)):
                self.hidden.bound.add(full)
        self.pending.append(full)
        try:
            module = self.before.natural(name, globals, locals, fromlist, level)
        except ImportError:
            self.hidden.missing.add(full)
            raise
        finally:
            self.pending.pop()
        for asked in (full, *(f"{full}.{part}" for part in fromlist or () if type(part) is str)):
            if asked in self.before.modules:
                self.hidden.used[asked] = self.before.modules[asked]
        return module

    def is_by_extension(self, frame):
        """Whether an extension module asks, while it is loaded: it has no frame, so the import
        system's own come before that of any module's body."""
        while frame.f_code.co_name != "<module>":
            if frame.f_code.co_filename.startswith("<frozen importlib") and self.pending:
                return True
            frame = frame.f_back
        return False


def package_of(namespace):
    """The package of the module with this namespace, as the import system finds it."""
    package = namespace.get("__package__")
    if package is None and namespace.get("__spec__") is not None:
        package = namespace["__spec__"].parent
    if package is None:
        name = namespace["__name__"]
        package = name if "__path__" in namespace else name.rpartition(".")[0]
    return package


def effects(hidden, before):
    """What was added since to where additions can be taken back."""
    ledgers = [
        (before.spaces[name][key], before.containers[name, key][1])
        for name, key in LEDGERS
        if (name, key) in before.containers
    ]
    ledgers.append((loggers(), before.loggers))
    for name, value in vars(rewriting_hook()).items():
        if type(value) in (dict, set):
            ledgers.append((value, before.rewriting.get(name, ())))
    found = [
        Effect("element", place, key, None)
        if type(place) is set
        else Effect("key", place, key, place[key])
        for place, known in ledgers
        for key in place
        if key not in known
    ]
    for name, module in hidden.modules.items():
        package, _, tail = name.rpartition(".")
        space = before.spaces.get(package)
        if space is not None and tail not in space:
            found.append(Effect("key", vars(before.modules[package]), tail, module))
    for name, key in (*REMEMBERED, *hidden.late.counters):
        former = before.spaces.get(name, {}).get(key)
        space = vars(before.modules[name]) if name in before.modules else {}
        if space.get(key) is former:
            continue
        if former is None:
            found.append(Effect("value", space, key, space[key]))
        else:
            found.append(Effect("count", space, key, space[key] - former))
    return found
