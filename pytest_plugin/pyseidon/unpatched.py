"""What an import uses of others: whether somebody has replaced a part of it since."""

import sys

from pyseidon.world import Module, isinstance_of, spaces

# What pytest replaces for the time of a run or of its summary, and what a worker sets.
REPLACED = {
    *("excepthook", "unraisablehook", "breakpointhook", "displayhook"),
    *("showwarning", "_showwarnmsg_impl", "dont_write_bytecode"),
}
# Used by every import, or by hypothesis to look for its plugins, without being asked for.
MACHINERY = (
    *("builtins", "_frozen_importlib", "_frozen_importlib_external", "importlib.metadata"),
    "_pytest.assertion.rewrite",
)
# Of `type.__flags__`: a class that can be changed.
HEAP_TYPE = 1 << 9


class Unpatched:
    """Functions, classes, modules and plain values in the modules that were asked for and in the
    modules that these have in their namespaces (`os.path`); and methods of the classes that what
    was imported names or derives from."""

    def __init__(self, hidden):
        modules = dict(hidden.used)
        for _, space in list(spaces(hidden.used)):
            for name, value in list(space.items()):
                if isinstance_of(value, Module):
                    # (Past what its class puts before it: to ask a lazy module is to load it.)
                    own = dict(spaces({name: value}))[name].get("__name__", name)
                    modules.setdefault(own if isinstance_of(own, str) else name, value)
        modules.update((name, sys.modules[name]) for name in MACHINERY if name in sys.modules)
        self.values = {
            name: (space, [(k, v) for k, v in space.items() if k not in REPLACED and is_fixed(v)])
            for name, space in spaces(modules)
        }
        self.methods = [
            (kind, [(k, v) for k, v in vars(kind).items() if is_method(v)])
            for kind in classes_for(hidden)
        ]

    def difference(self):
        """What was replaced, in words, or None."""
        for name, (space, values) in self.values.items():
            for key, value in values:
                now = space.get(key)
                if now is not value and (callable(value) or now != value):
                    return f"`{key}` of `{name}` was replaced"
        for kind, methods in self.methods:
            space = vars(kind)
            for key, value in methods:
                if space.get(key) is not value:
                    return f"`{kind.__qualname__}.{key}` of `{kind.__module__}` was replaced"
            if len(methods) != sum(map(is_method, space.values())):
                return f"`{kind.__qualname__}` of `{kind.__module__}` has a new method"
        return None


def is_fixed(value):
    """Whether a module's variable with this value is one that only a patch changes: a function, a
    class, a module, a plain value. (Containers are changed, not replaced; None stands for what is
    not known yet.)"""
    return callable(value) or isinstance_of(value, (Module, str, bytes, bool, tuple, frozenset))


def is_method(value):
    return callable(value) or isinstance_of(value, (property, classmethod, staticmethod))


def classes_for(hidden):
    """Not all that the modules have: popular plugins patch some of these, as pytest-mock does."""
    found = {}
    for _, space in spaces(hidden.modules):
        found.update((value, None) for value in space.values() if isinstance_of(value, type))
    for kind in hidden.classes:
        found.update(dict.fromkeys((*kind.__mro__, *type(kind).__mro__)))
    for name in MACHINERY:
        for value in vars(sys.modules[name]).values() if name in sys.modules else ():
            if isinstance_of(value, type) and value.__module__ == name:
                found[value] = None
    for kind in hidden.classes:
        found.pop(kind, None)
    return [kind for kind in found if kind.__flags__ & HEAP_TYPE]
