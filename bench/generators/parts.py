"""What modules are made of: text that looks, weighs and takes as long as what people write.

A module has 50 to 200 lines. Which parts it has depends on its number alone.
"""

import json
import random
import re
from pathlib import Path

# The small projects: the large ones take a file or two from them.
PROJECTS = Path(__file__).resolve().parents[1] / "projects"

# The benchmark edits lines that end with this: see `edits.py`.
REVISION = "# the benchmark edits this"
_VALUE = re.compile(rf'"[.]*"(?=  {REVISION}$)', re.MULTILINE)

CORE = '''"""What every part of the project uses: a register and two decorators."""

import functools
import logging

REGISTER = {}

log = logging.getLogger(__name__)


def registered(name):
    """Enters a class or function under a name, once."""

    def enter(thing):
        if name in REGISTER:
            raise ValueError(f"{name} is there already")
        REGISTER[name] = thing
        return thing

    return enter


def noted(function):
    """Says at debug level that the function was called."""

    @functools.wraps(function)
    def call(*arguments, **options):
        log.debug("%s is called", function.__qualname__)
        return function(*arguments, **options)

    return call
'''

_CONSTANTS = """
{NAME}_STATES = ("new", "open", "held", "done", "void")
{NAME}_LIMITS = {{"small": {a}, "medium": {b}, "large": {c}}}
{NAME}_NAMES = {{state: state.title() for state in {NAME}_STATES}}
DEFAULT_{NAME}_TIMEOUT = {a}.5
"""

_FUNCTIONS = '''

@functools.lru_cache(maxsize=128)
def {name}_limit(size):
    """The most that one order of this size may hold; unknown sizes are small."""
    try:
        return {NAME}_LIMITS[size]
    except KeyError:
        return {NAME}_LIMITS["small"]


@noted
def check_{name}(value, *, strict=False):
    """The value, if it is one that can be kept.

    With `strict` a value at the limit is refused as well, because the next step adds one.
    """
    if value < 0:
        raise ValueError("a value below zero")
    limit = {name}_limit("large")
    if value > limit or (strict and value == limit):
        raise ValueError(f"{{value}} is more than {{limit}}")
    return value
'''

_SERVICE = '''

@registered("{name}")
class {Name}Service:
    """Keeps values by key and answers questions about them."""

    retries = {a}
    timeout = DEFAULT_{NAME}_TIMEOUT

    def __init__(self, source=None):
        self._source = source or {{}}
        self._seen = set()

    def __len__(self):
        return len(self._source)

    def __contains__(self, key):
        return key in self._source

    @property
    def is_empty(self):
        return not self._source

    @noted
    def add(self, key, value):
        """Keeps a value under its key; answers whether the key was new."""
        is_new = key not in self._source
        self._source[key] = check_{name}(value)
        self._seen.add(key)
        return is_new

    def total(self, keys=None):
        """The sum over all keys, or over some."""
        keys = self._source if keys is None else keys
        return sum(self._source[key] for key in keys if key in self._source)

    def by_size(self):
        """Keys in three groups."""
        groups = {{name: [] for name in {NAME}_LIMITS}}
        for key, value in sorted(self._source.items()):
            for name, limit in {NAME}_LIMITS.items():
                if value <= limit:
                    groups[name].append(key)
                    break
        return groups

    @classmethod
    def from_lines(cls, lines):
        """Reads `key=value` lines; empty ones and comments are left out."""
        found = cls()
        for line in lines:
            line = line.strip()
            if line and not line.startswith("#"):
                key, _, value = line.partition("=")
                found.add(key, int(value))
        return found
'''

_RECORD = '''

@dataclasses.dataclass(frozen=True)
class {Name}Record:
    """One line of what was done."""

    key: str
    value: int = {a}
    state: str = "new"
    tags: tuple = ()
    parts: dict = dataclasses.field(default_factory=dict)

    def with_state(self, state):
        if state not in {NAME}_STATES:
            raise ValueError(f"{{state}} is no state")
        return dataclasses.replace(self, state=state)

    @property
    def is_over(self):
        return self.state in ("done", "void")
'''

_ENUM = '''

class {Name}Kind(enum.Enum):
    """What sorts there are."""

    SIMPLE = "simple"
    GROUPED = "grouped"
    NESTED = "nested"
    FOREIGN = "foreign"

    @property
    def is_deep(self):
        return self in ({Name}Kind.NESTED, {Name}Kind.FOREIGN)
'''

_ERRORS = '''

class {Name}Error(Exception):
    """Something about {name} that the caller can mend."""

    def __init__(self, key, why):
        super().__init__(f"{{key}}: {{why}}")
        self.key = key
        self.why = why


class {Name}Missing({Name}Error):
    """There is no such key."""
'''

_TUPLE = '''

class {Name}Range(typing.NamedTuple):
    """From one value to another, both included."""

    low: int
    high: int = {c}

    def holds(self, value):
        return self.low <= value <= self.high


def {name}_ranges(edges):
    """Ranges between edges, the last one open."""
    edges = sorted(edges)
    ranges = [{Name}Range(low, high - 1) for low, high in zip(edges, edges[1:])]
    return [*ranges, {Name}Range(edges[-1])]
'''

# How many modules in ten have the part. A dataclass, an enumeration and a named tuple are by far
# the dearest to import: they write code of their own.
_SOMETIMES = ((_RECORD, 4), (_ENUM, 2), (_ERRORS, 5), (_TUPLE, 1))


def title(name):
    return "".join(word.title() for word in name.split("_"))


def module(name, about, imports, number, tail=""):
    """The text of a module; `imports` are whole lines, and `tail` ends it."""
    rng = random.Random(number)
    a = rng.randrange(2, 9)
    words = {"name": name, "Name": title(name), "NAME": name.upper()}
    words.update(a=a, b=a * 10, c=a * 100)
    parts = [part for part, share in _SOMETIMES if rng.randrange(10) < share]
    blocks = [_CONSTANTS, _FUNCTIONS, _SERVICE, *parts]
    text = "".join(block.format(**words) for block in blocks)
    standard = ["dataclasses", "enum", "functools", "typing"]
    used = [f"import {module}\n" for module in standard if f"{module}." in text]
    own = ["from app.core import noted, registered\n", *(f"{line}\n" for line in imports)]
    head = f'"""{about}"""\n\n{"".join(used)}\n{"".join(own)}'
    return f"{head}{text}{tail}"


def revision_function(name="revision"):
    """A function whose answer is the edit that its module has seen last."""
    return f'\n\ndef {name}():\n    return ""  {REVISION}\n'


def revise(path, number):
    """One more dot for each edit: a file that keeps its size within a second may be taken for
    unchanged by Python itself, and that would not be the runner's mistake."""
    text, count = _VALUE.subn(f'"{"." * number}"', path.read_text())
    if count != 1:
        raise ValueError(f"{path.name} has {count} lines to edit")
    path.write_text(text)


def write_wanted(place, wanted):
    """What the test compares with, read when it runs: no module of anybody's."""
    (place / "tests" / "wanted.json").write_text(json.dumps(wanted))


def write_files(place, files):
    for name, text in files.items():
        path = Path(place, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
