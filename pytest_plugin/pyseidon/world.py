"""What an import can change beside adding modules, as far as Python shows it.

Compared are `sys.modules`, the namespaces of modules and of the classes in them, the dictionaries,
lists, sets and queues in those, loggers, pytest's import hook, and what `facts` lists. Not seen are
registries behind functions of C code: `codecs.register`, `ABC.register`, context variables, the
locale. What is imported ahead has been read for these.
"""

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


class World:
    """All that an import could change and that Python shows.

    `concerns(name, module)` says of which modules more is looked at than that they are there.
    """

    def __init__(self, concerns=lambda name, module: True):
        self.natural = builtins.__import__
        self.modules = dict(sys.modules)
        self.concerned = {n: m for n, m in self.modules.items() if concerns(n, m)}
        self.spaces = {name: dict(space) for name, space in spaces(self.concerned)}
        self.classes = {}
        for space in self.spaces.values():
            for value in space.values():
                if isinstance_of(value, type) and value not in self.classes:
                    self.classes[value] = dict(vars(value))
        # Held, so that no other class gets the address of one of them.
        self.all_classes = {id(kind): kind for kind in all_classes()}
        self.containers = dict(containers(self))
        self.facts = facts()
        self.loggers = dict(loggers())
        self.rewriting = {
            name: value.copy() if type(value) in (dict, set) else value
            for name, value in vars(rewriting_hook()).items()
        }

    def differences(self, hidden, harmless=()):
        """What has changed and was not noted in `hidden`, in words, or None. `harmless` are
        variables `(module or class, name)`, classes and facts that do not count."""
        for name, module in self.modules.items():
            if sys.modules.get(name) is not module:
                return f"it replaced or removed the module `{name}`"
        for name, space in spaces(self.concerned):
            reason = self.difference_in_space(hidden, name, space, harmless)
            if reason:
                return reason
        for kind, before in self.classes.items():
            name = f"{kind.__module__}.{kind.__qualname__}"
            if name not in harmless and not is_same(vars(kind), before):
                return f"it changed the class `{kind.__qualname__}` of `{kind.__module__}`"
        for place, before in self.containers.items():
            reason = place not in harmless and difference_in_container(place, before)
            if reason:
                return reason
        for name, after in facts().items():
            if name not in harmless and after != self.facts[name]:
                return f"it changed the {name}"
        if "loggers" in harmless:
            return None
        return self.difference_in_loggers() or self.difference_in_rewriting()

    def difference_in_space(self, hidden, name, space, harmless=()):
        before = self.spaces[name]
        for key, value in space.items():
            if (name, key) in harmless:
                continue
            if key not in before:
                if hidden.modules.get(f"{name}.{key}") is not value:
                    return f"it set `{key}` of `{name}`"
            elif value is not before[key] and not hidden.notes(space, key):
                return f"it set `{key}` of `{name}`"
        if any(key not in space for key in before):
            return f"it removed a name from `{name}`"
        return None

    def difference_in_loggers(self):
        for name, logger in loggers().items():
            if self.loggers.get(name) is not logger and (
                name in self.loggers or name.partition(".")[0] in self.loggers
            ):
                return f"it made the logger `{name}`"
        if any(name not in loggers() for name in self.loggers):
            return "it removed a logger"
        return None

    def difference_in_rewriting(self):
        """The same of pytest's import hook, which may have seen and rewritten more modules."""
        for name, value in vars(rewriting_hook()).items():
            before = self.rewriting.get(name)
            if type(value) is dict:
                changed = any(value.get(k, NOTHING) is not v for k, v in before.items())
            elif type(value) is set:
                changed = not before <= value
            else:
                changed = value is not before
            if changed:
                return f"it set `{name}` of pytest's import hook"
        return None


def isinstance_of(value, kind):
    """Not `isinstance`, which asks the object itself."""
    return issubclass(type(value), kind)


def all_classes():
    """Every class, also those that C code has made for good, which the collector does not know."""
    found = {object: None}
    for kind in (todo := [object]):
        for child in type.__subclasses__(kind):
            if child not in found:
                found[child] = None
                todo.append(child)
    return list(found)


def spaces(modules):
    """`(name, namespace)` of each module, past what a module's class puts before it."""
    namespace = Module.__dict__["__dict__"]
    for name, module in modules.items():
        if isinstance_of(module, Module):
            yield name, namespace.__get__(module)


def space_of(module):
    """The namespace of what is in `sys.modules`, without asking it: it may do something when an
    attribute is asked for. Empty for what is no module."""
    namespace = Module.__dict__["__dict__"]
    return namespace.__get__(module) if isinstance_of(module, Module) else {}


def file_of(module):
    """The same of its file, or None."""
    file = space_of(module).get("__file__")
    return file if isinstance(file, str) else None


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


def is_same(after, before):
    """Whether two mappings hold the very same things."""
    return len(after) == len(before) and all(
        after.get(key, NOTHING) is value for key, value in before.items()
    )


def elements(container):
    """A copy: what is held cannot be replaced by something at the same address."""
    return dict(container) if isinstance_of(container, dict) else list(container)


def difference_in_container(place, before):
    container, copy = before
    if place == ("sys", "modules") or place in CACHES:
        # (Modules are looked at one by one.)
        return None
    name, key = place
    after = elements(container)
    if type(copy) is list:
        same = len(after) == len(copy) and all(a is b for a, b in zip(after, copy))
    elif place in LEDGERS:
        same = all(after.get(k, NOTHING) is v for k, v in copy.items())
    else:
        same = is_same(after, copy)
    return None if same else f"it changed `{key}` of `{name}`"


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
        "logging handlers": (logging.root.level, list(logging.root.handlers)),
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
