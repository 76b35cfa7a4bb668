"""Places in the midst of conftests' imports at which a Z2 can park.

A conftest, or something that it imports, may do what no checkpoint can hold: a *barrier*. The build
that meets one names the last place before it, and the next build parks there. A fork is a
continuation: all that was executed stays, what follows is each run's own, and nothing has to be
undone or done again.

(One is also parked where most is spared after an edit, or before a file that is edited again and
again: see `openings.py`, and `edits.rs` of the daemon.)

Places are the beginnings and the ends of loads: of modules, by the one function of the import
system that all imports end up in, before it has looked for anything; and of conftests, by pytest's
function. They are told apart by what is loaded, and for the how many'th time, which is the same in
each build, as long as the files are the same.

Most barriers are seen when they are about to happen, so the place before is known. Some are only
found at the end, by comparing with the beginning. Then one more build compares at each place, and
names the last one at which there was no difference.
"""

import os
import sys

from pyseidon import _zygote, barriers, observe, open_modules, openings
from pyseidon.world import space_of

# See `UNKNOWN` of the protocol.
UNKNOWN = "?"


class Places:
    """Those of one build.

    `wanted` is where it is to park: there `park()` is called, which returns in children; or
    `UNKNOWN`. `otherwise` tells of a list of modules whether one was loaded in a way of its own.
    """

    def __init__(self, manager, wanted, park, otherwise):
        self.manager = manager
        self.wanted = wanted
        self.park = park
        self.otherwise = otherwise
        self.find = sys.modules["_frozen_importlib"]._find_and_load.__code__
        self.conftest = type(manager)._importconftest.__code__
        self.counts = {}
        # Names of the loads that have begun; None for what was there.
        self.loading = []
        # The latest place; none until something was loaded, as P0 is as good.
        self.last = None
        self.has_loaded = False
        # What was loaded, and the place before it.
        self.begun = []
        self.output = output()
        self.comparison = None
        names = ("_pytest", "pluggy", "pyseidon")
        homes = [os.path.dirname(sys.modules[n].__file__) for n in names if n in sys.modules]
        self.core = tuple(home + os.sep for home in (*homes, os.path.dirname(__file__)))
        self.openings = openings.Openings(self.is_project)
        self.following = open_modules.Following()
        # Those that are in the midst of being executed where it is parked.
        self.opened = []

    def watch(self):
        _zygote.watch_loads([self.find, self.conftest], self.pass_by, self.blame)

    def pass_by(self, frame, begins, ends):
        """Called by the profile function; `frame` is that of a load that begins, or ends (well, or
        by raising)."""
        try:
            place = self.begin(frame) if begins else self.end(ends)
            if place is not None and (not self.has_begun() or is_logging_locked()):
                place = None
            self.note(frame, begins, place)
            if place is None:
                return
            if self.wanted == UNKNOWN:
                self.compare(frame, begins)
            self.has_loaded = self.has_loaded or not begins
            if self.has_loaded:
                self.last = place
                if begins:
                    self.begun.append((self.loaded_by(frame), place))
        except BaseException as error:
            _zygote.fail(f"looking at what is imported raised {error!r}")
        if place == self.wanted:
            following = self.following
            self.opened = open_modules.opened(frame.f_back, self.is_project, following)
            self.park()

    def note(self, frame, begins, place):
        if begins:
            self.openings.begins()
        elif frame.f_code is self.find:
            module = sys.modules.get(frame.f_locals["name"])
            file = space_of(module).get("__file__")
            file = file if isinstance(file, str) else None
            self.openings.ends(file, frame.f_back, place)
        else:
            self.openings.ends(None, None, None)
            self.openings.conftest_ends(str(frame.f_locals["conftestpath"]))

    def go_on(self, wanted):
        """In a child of a process that is parked at a place. Returns why it cannot, or None."""
        self.openings.go_on()
        self.comparison = None
        reason = self.follow()
        self.wanted = wanted
        return reason

    def follow(self):
        """The same of the modules that are open; in a worker no more than that."""
        opened, self.opened = self.opened, []
        return self.following.prepare(opened)

    def loaded_by(self, frame):
        """A module's name, or a conftest's path."""
        if frame.f_code is self.find:
            return frame.f_locals["name"]
        return str(frame.f_locals["conftestpath"])

    def by_file(self):
        """Files of the project that were executed, in order, and the place before each."""
        found = {}
        for what, place in self.begun:
            names = space_of(sys.modules.get(what))
            file = what if os.path.isabs(what) else names.get("__file__")
            if isinstance(file, str) and self.is_project(file):
                found.setdefault(os.path.abspath(file), place)
        return list(found.items())

    def begin(self, frame):
        what = self.loaded_by(frame)
        # A conftest's own beginning has its path to show, and there may be many of this name.
        if what in sys.modules or what.rpartition(".")[2] == "conftest":
            self.loading.append(None)
            return None
        count = self.counts[what] = self.counts.get(what, 0) + 1
        self.loading.append(f"`{what}`" if count == 1 else f"`{what}` (load {count})")
        return f"before {self.loading[-1]}"

    def end(self, ends):
        name = self.loading.pop() if self.loading else None
        return f"behind {name}" if name and ends else None

    def has_begun(self):
        """Whether pytest's capture has begun, if there is to be any. (It imports something too.)"""
        if self.manager.getplugin("capture") is None:
            return True
        capture = self.manager.getplugin("capturemanager")
        return capture is not None and capture._global_capturing is not None

    def compare(self, frame, begins):
        """Ends the build if something has changed since the last place."""
        if self.comparison is None:
            self.comparison = barriers.Comparison(observe.STATE, self.output, observe.numpy_state)
            return
        reason = self.comparison.difference()
        if not begins and frame.f_code is self.find:
            reason = reason or self.otherwise([sys.modules.get(frame.f_locals["name"])])
        if reason:
            _zygote.fail(reason, self.last, self.files(frame.f_back if begins else frame))

    def blame(self):
        """Called when something ends this build that is about to happen."""
        return self.last and (self.last, self.files(sys._getframe().f_back))

    def files(self, frame):
        """Those of the innermost load that is not the standard library's, and of what runs for it:
        with another content they may do something else."""
        found = {}
        while frame is not None:
            code = frame.f_code
            if code is self.conftest:
                found[str(frame.f_locals["conftestpath"])] = None
                break
            if code is self.find:
                module = sys.modules.get(frame.f_locals["name"])
                file = space_of(module).get("__file__")
                if isinstance(file, str) and not self.is_own(file):
                    found[file] = None
                    break
            elif not self.is_own(code.co_filename):
                found[code.co_filename] = None
            frame = frame.f_back
        return [file for file in found if os.path.isabs(file)]

    def is_own(self, file):
        """Whether it is the standard library's, pytest's, or ours."""
        is_standard = file.startswith(observe.STATE.stdlib)
        return file.startswith(self.core) or (is_standard and "/site-packages/" not in file)

    def is_project(self, file):
        return os.path.isabs(file) and "/site-packages/" not in file and not self.is_own(file)


def is_logging_locked():
    """Whether logging is being configured: in a child its lock is free, and would be let go of once
    more. (Locks of others stay as they are: a child is the thread that holds them.)"""
    lock = getattr(sys.modules.get("logging"), "_lock", None)
    return lock is not None and lock._is_owned()


def output():
    """What file the standard output is, as long as nothing captures it."""
    found = os.fstat(1)
    return found.st_dev, found.st_ino


def foreign_generators(objects, core):
    """Whether code that is not pytest's has left a generator suspended that has something to do
    when it ends. Those of pytest's own hooks belong to calls on the stack, which will return."""
    frames = {"generator": "gi_frame", "coroutine": "cr_frame", "async_generator": "ag_frame"}
    for value in objects:
        name = frames.get(type(value).__name__)
        frame = getattr(value, name, None) if name else None
        is_foreign = frame is not None and not frame.f_code.co_filename.startswith(core)
        if is_foreign and _zygote.waits(value):
            return True
    return False
