"""Gives a run what was imported ahead, at the import that asks for it."""

import builtins
import os
import sys

import _thread

from pyseidon import _zygote, refresh
from pyseidon.walk import walked
from pyseidon.world import Module, isinstance_of, loggers, rewriting_hook, spaces

# Functions that pytest replaces for the time of a run or of its summary.
REPLACED = {
    *("excepthook", "unraisablehook", "breakpointhook", "displayhook"),
    *("showwarning", "_showwarnmsg_impl"),
}


class Adoption:
    """Puts back what an import did, or says why the import would do something else."""

    def __init__(self, hidden):
        self.hidden = hidden
        self.code = hidden.late.code()
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


def origin(module):
    """The file that a module was loaded from, or None."""
    spec = getattr(module, "__spec__", None)
    return spec.origin if spec is not None and spec.has_location else None
