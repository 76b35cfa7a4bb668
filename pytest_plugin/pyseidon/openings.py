"""Which place in the midst of conftests serves best after an edit, of whichever file it may be.

A checkpoint that is parked there is of use after an edit of what it has not executed: all files
that come later, and the rest of those that are open (`open_modules.py`). It spares what it has
executed. As nobody knows which file will be edited, each counts the same: the time that was spent
before a place, times the share of the project's files that are not over there.
"""

import os

from pyseidon import observe, open_modules

# An import of less is no reason to park.
LEAST = 0.005


class Openings:
    """Takes note of candidates while conftests are loaded. `is_project` tells of a file."""

    def __init__(self, is_project):
        self.is_project = is_project
        self.since = observe.clock()
        self.latest = self.since
        self.begun = []
        # Files of the project that have been executed to their ends.
        self.over = set()
        self.candidates = []
        # Of each conftest: the last import at its top level, and the line that that is in.
        self.conftests = {}

    def go_on(self):
        """In a child of a process that was parked: the time does not count."""
        self.since += observe.clock() - self.latest

    def begins(self):
        self.latest = observe.clock()
        self.begun.append(self.latest)

    def ends(self, file, frame, place):
        """The load of `file` (None if it has none) ends, that `frame` has begun. `place` is None
        if that is no place."""
        now = self.latest = observe.clock()
        took = now - self.begun.pop() if self.begun else 0
        if place is None:
            return
        is_own = file is not None and self.is_project(file)
        if is_own:
            self.over.add(file)
        opened = None
        if not is_own and took >= LEAST:
            opened = self.opened(frame)
            if opened:
                self.candidates.append((place, now - self.since, len(self.over), opened))
        nearest = frame
        while nearest is not None and nearest.f_code.co_filename.startswith("<frozen importlib"):
            nearest = nearest.f_back
        if nearest is not None and is_conftest(nearest):
            self.conftests[nearest.f_code.co_filename] = place, nearest.f_lineno, now

    def conftest_ends(self, path):
        self.over.add(path)

    def opened(self, frame):
        """`(file, line)` of the project's modules that are being executed."""
        found = []
        while frame is not None:
            code = frame.f_code
            if code.co_name == "<module>" and self.is_project(code.co_filename):
                found.append((code.co_filename, frame.f_lineno))
            frame = frame.f_back
        return found

    def best(self):
        """`(place, seconds)` that an edit is expected to be spared there, or None."""
        trees = {}
        found = []
        files = set(self.over)
        files.update(file for *_, opened in self.candidates for file, _ in opened)
        for place, seconds, over, opened in self.candidates:
            closed = over + sum(not is_at_import(trees, *at) for at in opened)
            found.append((seconds * (1 - closed / len(files)), place))
        seconds, place = max(found, default=(0, None))
        return (place, seconds) if place else None

    def before_ends(self):
        """Of each conftest at which one could be parked behind its last import: its path, and that
        place; in order."""
        trees = {}
        places = sorted(self.conftests.items(), key=lambda item: item[1][2])
        return [
            (os.path.abspath(path), place)
            for path, (place, line, _) in places
            if is_at_import(trees, path, line)
        ]


def is_conftest(frame):
    code = frame.f_code
    return code.co_name == "<module>" and os.path.basename(code.co_filename) == "conftest.py"


def is_at_import(trees, path, line):
    """Whether a module that is being executed at this line can be left open. `trees` keeps what has
    been read."""
    if path not in trees:
        text = open_modules.read(path) or b""
        compiled = open_modules.natural_compile
        try:
            open_modules.warning_is_error(lambda: compiled(text, path, "exec", dont_inherit=True))
            trees[path] = open_modules.parse(text, path)
        except (SyntaxError, ValueError):
            trees[path] = open_modules.parse("", path)
    return open_modules.import_at(trees[path], line) is not None
