"""All that an import can change and that Python shows, and what of it can be taken back."""

import atexit
import builtins
import gc
import os
import sys

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
