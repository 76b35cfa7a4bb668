"""Takes modules that we needed first out of `sys.modules`: plain pytest imports them in its own
order, and makes their classes anew."""

import gc
import sys

from pyseidon import _zygote


def forget(names):
    """Takes these modules away, and conceals those of their classes of which there will be two."""
    modules = {name: sys.modules.pop(name) for name in names}
    made_anew = {
        name
        for name, module in modules.items()
        if name.startswith("pyseidon") or str(getattr(module, "__file__", "")).endswith(".py")
    }
    # An extension module's classes are made once or for each import, depending on the module.
    others = set(modules) - made_anew
    for name in others:
        before = set(sys.modules)
        __import__(name)
        for new in set(sys.modules) - before:
            del sys.modules[new]
    found = {}
    for value in gc.get_objects():
        if issubclass(type(value), type):
            place = value.__dict__.get("__module__"), value.__qualname__
            if type(place[0]) is str and place[0] in modules:
                found.setdefault(place, []).append(value)
    _zygote.conceal_own(
        [
            value
            for (module, _), values in found.items()
            for value in values
            if module in made_anew or len(values) > 1
        ]
    )
