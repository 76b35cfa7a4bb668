"""Gives a run what was imported ahead, at the import that asks for it."""

import builtins
import os
import sys

import _thread
import posix

from pyseidon import _zygote, refresh
from pyseidon.unpatched import Unpatched
from pyseidon.world import LEDGERS, loggers, rewriting_hook

# A handler that raises each time, at a rate that leaves no time for a step, gets its way.
MOST_INTERRUPTIONS = 10


class Adoption:
    """Puts back what an import did, or says why the import would do something else."""

    def __init__(self, hidden):
        self.hidden = hidden
        self.code = hidden.late.code()
        self.finders = list(sys.meta_path), list(sys.path_hooks)
        self.natural = builtins.__import__
        self.thread = _thread.get_ident()
        self.loaded = {name: name in sys.modules for name in hidden.late.looked_for}
        self.modules = sys.modules
        self.unpatched = Unpatched(hidden)
        self.ledgers = [
            (name, key, getattr(sys.modules[name], key))
            for name, key in LEDGERS
            if hasattr(sys.modules.get(name), key)
        ]
        self.directory = posix.getcwd()
        self.depth = sys.getrecursionlimit()
        self.cached = places_of_bytecode()
        self.distributions = distributions()
        self.search = sys.modules["_frozen_importlib_external"].PathFinder.find_spec
        tops = {name.partition(".")[0] for name in hidden.missing}
        self.missing = tops - set(hidden.modules) - set(sys.modules)
        self.rewriting = rewriting_hook()
        self.patterns = getattr(self.rewriting, "fnpats", None)
        self.marked = set(getattr(self.rewriting, "_must_rewrite", ()))
        self.instance = set(vars(self.rewriting))

    def adopt(self):
        """Called when the import is about to be made by the frame above.

        Returns None, or why it is to be made. Raises what a signal handler of the run raised
        meanwhile, as it may in any import.
        """
        try:
            reason = self.mismatch(sys._getframe(1))
        except Exception as error:
            if not is_own(error):
                raise
            reason = f"it raised {error!r}"
        if reason is None:
            self.commit()
        elif self.hidden.lasting:
            self.reveal_lasting(reason)
        return reason

    def reveal_lasting(self, reason):
        """Shows classes that the import does not make anew when it loads what has made them."""

        def reveal():
            _zygote.reveal(self.hidden.lasting)
            return reason

        maker = self.hidden.maker
        if maker in sys.modules:
            reveal()
        else:
            _zygote.hide(maker, [maker], [], reveal)

    def commit(self):
        """Puts everything back, or, if signals do not leave it the time, as much as an interrupted
        import would have loaded."""
        modules = self.hidden.modules
        steps = [lambda: sys.modules.update(modules)]
        steps.append(lambda: _zygote.reveal(self.hidden.classes))
        steps += [effect.redoing() for effect in self.hidden.effects]
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

    def mismatch(self, importer):
        hidden = self.hidden
        if importer.f_code is not self.code:
            return f"`{hidden.late.imports}` is imported by `{importer.f_code.co_filename}`"
        if sys.gettrace() or sys.getprofile() or is_monitored():
            return "the run is traced"
        if self.thread != _thread.get_ident():
            return "another thread imports it"
        if builtins.__import__ is not self.natural:
            return "`__import__` was replaced"
        if self.finders != (sys.meta_path, sys.path_hooks):
            return "there are other finders"
        if sys.modules is not self.modules:
            return "`sys.modules` was replaced"
        if sys.getrecursionlimit() < self.depth:
            return "the recursion limit is lower"
        for name in hidden.modules:
            if name in sys.modules:
                return f"`{name}` was imported before"
        for name, there in self.loaded.items():
            if (name in sys.modules) is not there:
                return f"`{name}` {'is gone' if there else 'was imported before'}"
        return self.mismatch_in_used() or self.mismatch_in_rewriting() or self.mismatch_in_search()

    def mismatch_in_used(self):
        """What the modules use of others, and of the environment."""
        for name, module in self.hidden.used.items():
            if sys.modules.get(name) is not module:
                return f"`{name}` is another module"
        reason = self.unpatched.difference()
        if reason:
            return reason
        for name, key, place in self.ledgers:
            if getattr(sys.modules[name], key, None) is not place:
                return f"`{key}` of `{name}` was replaced"
        if posix.getcwd() != self.directory:
            return "the working directory is another one"
        for name, value in self.hidden.environment.items():
            if os.environ._data.get(name) != value:
                return f"`{os.fsdecode(name)}` has another value in the environment"
        for effect in self.hidden.effects:
            if effect.kind == "count" and not effect.place.get(effect.key, 0) > 0:
                return f"`{effect.key}` is not above zero"
            if effect.place is loggers():
                top = effect.key.partition(".")[0]
                if any(name.partition(".")[0] == top for name in loggers()):
                    return f"there is a logger `{top}`"
        return None

    def mismatch_in_rewriting(self):
        """What pytest's import hook would rewrite."""
        if set(vars(self.rewriting)) != self.instance:
            return "pytest's import hook was changed"
        if getattr(self.rewriting, "fnpats", None) != self.patterns:
            return "other files are rewritten"
        for mark in set(getattr(self.rewriting, "_must_rewrite", ())) - self.marked:
            if any(f"{name}.".startswith(f"{mark}.") for name in self.hidden.modules):
                return f"`{mark}` is to be rewritten"
        return None

    def mismatch_in_search(self):
        """Where the modules would be found, their byte code, and plugins of theirs."""
        if places_of_bytecode() != self.cached:
            return "byte code is kept elsewhere"
        for name, module in self.hidden.modules.items():
            place = origin(module)
            if "." in name or place is None:
                continue
            found = self.search(name)
            if found is None or found.origin != place:
                return f"`{name}` is found elsewhere"
        for name in self.missing:
            if self.search(name) is not None:
                return f"`{name}` is found now"
        if distributions() != self.distributions:
            return "other distributions are found"
        return None


def is_own(error):
    """Whether it was raised by code of this package, or by the import system that it asked, and not
    by a signal handler that ran in it."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename.startswith(
        (os.path.dirname(__file__), "<frozen importlib")
    )


def places_of_bytecode():
    return sys.pycache_prefix, sys.implementation.cache_tag


def distributions():
    """Where `importlib.metadata` would find distributions, which may have plugins for what is
    imported: `(entry of the search path, names)`."""
    found = []
    for entry in sys.path:
        try:
            names = posix.listdir(entry or ".")
        except NotADirectoryError:
            # An archive.
            names = [entry]
        except (OSError, TypeError):
            continue
        names = [n for n in names if n == entry or n.lower().endswith((".dist-info", ".egg-info"))]
        if names:
            found.append((entry, sorted(names)))
    return found


def is_monitored():
    monitoring = getattr(sys, "monitoring", None)
    return monitoring is not None and any(monitoring.get_tool(tool) for tool in range(6))


def origin(module):
    """The file that a module was loaded from, or None."""
    spec = getattr(module, "__spec__", None)
    return spec.origin if spec is not None and spec.has_location else None
