"""Gives a run what was imported ahead, at the import that asks for it."""

import builtins
import os
import sys

import _thread

from pyseidon import _zygote, refresh
from pyseidon.walk import origin, walked
from pyseidon.world import Module, isinstance_of, loggers, rewriting_hook, spaces

# Functions that pytest replaces for the time of a run or of its summary.
REPLACED = {
    *("excepthook", "unraisablehook", "breakpointhook", "displayhook"),
    *("showwarning", "_showwarnmsg_impl"),
}


# A handler that raises each time, at a rate that leaves no time for a step, gets its way.
MOST_INTERRUPTIONS = 10


class Adoption:
    """Puts back what an import did, or says why the import would do something else."""

    def __init__(self, hidden):
        self.hidden = hidden
        self.code = hidden.late.code()
        self.adopted = set()
        self.concealed = hidden.classes
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

        Returns `(None, what was asked for)`, or `(reason, [])`. Raises what a signal handler of
        the run raised meanwhile, as it may in any import.
        """
        try:
            order, begun, asked = walked(self.hidden, name, sys.modules)
            reason = self.mismatch(name, order, sys._getframe(1))
        except Exception as error:
            if not is_own(error):
                raise
            reason = f"it raised {error!r}"
        if reason:
            return reason, []
        self.adopted.update(order)
        self.commit(order, begun, last=name == self.hidden.late.imports)
        return None, asked

    def commit(self, order, begun, last):
        """Puts modules back, all or none: an interrupted import of many modules would leave them
        half done, too, but none that a test has seen before."""
        modules = {name: self.hidden.modules[name] for name in order}
        effects = [e for e in self.hidden.effects if not e.owners.isdisjoint(modules)]
        # Finders come into being when they are first needed, all else when a body is done.
        rank = {name: at for at, name in enumerate(begun)}
        effects.sort(
            key=lambda e: min(rank[o] for o in e.owners if o in rank) if e.kind == "finder" else 0
        )
        steps = [lambda: sys.modules.update(modules)]
        made = self.made_by(order, last)
        steps.append(lambda: _zygote.reveal(made))
        steps += [effect.redoing() for effect in effects]
        steps += [
            lambda rule=rule: rule.draw(modules[rule.module])
            for rule in refresh.RULES
            if rule.module in modules
        ]
        interruption, done = None, 0
        for _ in range(1 + MOST_INTERRUPTIONS):
            try:
                while done < len(steps):
                    steps[done]()
                    done += 1
                break
            except BaseException as error:
                # A signal handler's: the steps themselves raise nothing, and may be made twice.
                interruption = error
        if interruption is not None:
            raise interruption

    def made_by(self, order, last):
        """The classes that are revealed with these modules, each with its module's place among
        them, where plain Python makes them in another order than the one they were made in."""
        places = {name: at for at, name in enumerate(order)}
        # (Those of an extension module may be named otherwise: they come with the last.)
        made, still = [], []
        for kind in self.concealed:
            (made if last or kind.__module__ in places else still).append(kind)
        self.concealed = still
        if order == [name for name in self.hidden.modules if name in places]:
            return [(kind, None) for kind in made]
        return [(kind, places.get(kind.__module__)) for kind in made]

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
                return f"`{known}` {'is gone' if there else 'was imported before'}"
        importing = set(order)
        for effect in hidden.effects:
            if effect.kind == "finder" or effect.owners.isdisjoint(importing):
                continue
            if not all(owner in importing or owner in sys.modules for owner in effect.owners):
                return f"what `{min(effect.owners)}` does cannot be told apart"
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


def is_own(error):
    """Whether it was raised by code of this package, and not by a signal handler that ran in it."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename.startswith(os.path.dirname(__file__))


def is_code(value):
    return callable(value) or isinstance_of(value, Module)


def is_monitored():
    monitoring = getattr(sys, "monitoring", None)
    return monitoring is not None and any(monitoring.get_tool(tool) for tool in range(6))
