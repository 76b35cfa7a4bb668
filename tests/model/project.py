"""A first tree: the layout of a project, modules of atoms that import each other, motifs, tests."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from . import atoms
from .motifs import MOTIFS
from .scenario import SITE, Block, Change

REGISTRY = """\
import abc
import functools

NAMES = []
PLUGS = []
SETTINGS = {}
TURN = [0]


def register(function):
    PLUGS.append(function)
    NAMES.append(function.__name__)
    return function


def turn():
    TURN[0] += 1
    return TURN[0]


class Base:
    tables = {}
    below = []

    def __init_subclass__(cls, table=None, **how):
        super().__init_subclass__(**how)
        Base.below.append(cls.__name__)
        if table in Base.tables:
            raise ValueError(f"table `{table}` is already defined")
        if table:
            Base.tables[table] = cls.__name__


class Shape(abc.ABC):
    pass


@functools.singledispatch
def shown(value):
    return repr(value)


def state():
    return [
        [cls.__name__ for cls in Base.__subclasses__()],
        Base.below,
        Base.tables,
        [plug.__name__ for plug in PLUGS],
        [kind.__name__ for kind in shown.registry],
        [shown(value) for value in (1j, b"", {}, "")],
        [isinstance(value, Shape) for value in (frozenset(), {}, 1)],
    ]
"""

# The installed package that projects import; its second module writes into its first one.
WIDELIB = {
    "widelib/__init__.py": "from widelib.core import NAMES, VERSION, listen\n",
    "widelib/core.py": "VERSION = '1.0'\nNAMES = ['core']\n\n\ndef listen():\n    return 'no'\n",
    "widelib/more.py": (
        "from widelib import core\ncore.NAMES.append('more')\ncore.listen = lambda: 'listening'\n"
        "import widelib\nwidelib.listen = core.listen\n"
    ),
    "widelib/old.py": (
        "import warnings\nwarnings.warn('use widelib', DeprecationWarning, stacklevel=2)\n"
    ),
    # Longer than an opening has to spare, on a quick machine too.
    "widelib/slow.py": "import time\n\ntime.sleep(0.3)\nSUM = 1\n",
}

# And the plugin, which shows what it read when it was imported: at the end, as one that does so
# before the first test module has no run served from a Z3.
WIDEPLUG = {
    "wideplug.py": (
        "import os\n\nREAD = os.environ.get('MODEL_PLUG', 'unset')\n\n\n"
        "def pytest_terminal_summary(terminalreporter):\n"
        "    terminalreporter.write_line('wide 1.0 ' + READ)\n"
    ),
}


@dataclass
class Draft:
    """A tree that grows and changes, with all versions that its blocks may have."""

    chance: random.Random
    files: dict[str, list[Block]] = field(default_factory=dict)
    versions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By a block's name: the texts it may have."""
    kinds: set[str] = field(default_factory=set)
    code: str = ""
    """Where `app` lies: `` or `src/`."""
    tests: list[str] = field(default_factory=list)
    conftests: list[str] = field(default_factory=list)
    numbers: int = 0
    in_environment: bool = False
    """This project's environment is changed too."""

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def drawn(self, kind: str) -> None:
        self.kinds.add(kind)

    def block(self, *versions: str, first: int = 0) -> Block:
        block = Block(f"b{self.number()}", versions[first])
        self.versions[block.name] = versions
        return block

    def put(self, path: str, *versions: str, first: int = 0) -> None:
        self.files.setdefault(path, []).append(self.block(*versions, first=first))

    def modules(self) -> list[str]:
        """The project's modules, as paths."""
        special = {*self.tests, *self.conftests, "probe.py"}
        return [p for p in self.files if p.endswith(".py") and p not in special]

    def atom(self, below: int) -> Block:
        """One statement; it imports modules of the web below this number only."""
        kind = atoms.draw_kind(self.chance)
        self.drawn(f"atom: {kind}")
        n = self.number()
        leaf = self.chance.choice(["reg", *(f"w{number}" for number in range(below))])
        value = self.chance.randint(100, 999)
        texts = [
            atoms.write(kind, version, n, value, f"app.{leaf}")
            for version in range(len(atoms.ATOMS[kind]))
        ]
        # The same with other values, of the same size.
        texts += [text.replace(str(value), str(1099 - value)) for text in texts]
        first = self.chance.randrange(len(texts))
        return self.block(*dict.fromkeys([texts[first], *texts]))


def first_tree(chance: random.Random) -> Draft:
    draft = Draft(chance)
    layout = chance.choice(["flat", "flat", "tests", "tests", "conftest", "package", "src", "src"])
    draft.drawn(f"layout: {layout}")
    _settings(draft, layout)
    below = "" if layout == "flat" else "tests/"
    if layout == "conftest" or chance.random() < 0.6:
        draft.conftests.append("conftest.py")
    if below and chance.random() < 0.6:
        draft.conftests.append(f"{below}conftest.py")
    draft.tests = [f"{below}test_{number}.py" for number in range(chance.randint(2, 4))]
    if below and chance.random() < 0.3:
        draft.tests.append("tests/unit/test_9.py")
        if chance.random() < 0.5:
            draft.conftests.append("tests/unit/conftest.py")
    if layout == "package":
        draft.put("tests/__init__.py", "")
        if "tests/unit/test_9.py" in draft.tests:
            draft.put("tests/unit/__init__.py", "")

    probe = Path(__file__).with_name("probe.py").read_text(encoding="utf-8")
    draft.put("probe.py", probe)
    app = f"{draft.code}app/"
    draft.put(f"{app}__init__.py", "")
    draft.put(f"{app}reg.py", REGISTRY)
    for place in sorted({app, "", below}):
        draft.put(f"{place}data/words.txt", "some words\n", "more words\n", "all of the words\n")
        draft.put(f"{place}extra/far.py", f"WORD = 'far, {place}'\n", f"WORD = 'gone {place}'\n")
    if chance.random() < 0.03:
        draft.drawn("layout: the root is a package")
        draft.put("__init__.py", "")

    for path in draft.conftests:
        draft.put(path, "")
    heads: dict[str, list[Block]] = {path: [] for path in draft.tests}
    bodies: dict[str, list[Block]] = {path: [] for path in draft.tests}
    web = chance.randint(2, 7)
    for number in range(web):
        for _ in range(chance.randint(1, 4)):
            draft.files.setdefault(f"{app}w{number}.py", []).append(draft.atom(number))
    for name in chance.sample(sorted(MOTIFS), chance.randint(1, 4)):
        _add_motif(draft, name, heads, bodies)
    for path in draft.conftests:
        if chance.random() < 0.6:
            _import_some(draft, draft.files[path], web)
        for _ in range(chance.choice([0, 0, 1, 2])):
            draft.files[path].append(draft.atom(web))
        chance.shuffle(draft.files[path])
    if draft.conftests and chance.random() < 0.4:
        draft.drawn("imports what takes long")
        _import_slow(draft, [f"{app}w{number}.py" for number in range(web)])
    for path in draft.tests:
        _import_some(draft, heads[path], web)
        if chance.random() < 0.25:
            heads[path].append(draft.atom(web))
        _finish_tests(draft, path, heads[path], bodies[path])
    return draft


def _settings(draft: Draft, layout: str) -> None:
    chance = draft.chance
    draft.code = "src/" if layout == "src" else ""
    paths = {"src": "pythonpath = src .\n", "tests": "pythonpath = .\n"}.get(layout, "")
    rest = (
        "addopts = -ra\n",
        "addopts = -q --import-mode=importlib\n" if paths else "addopts = -q\n",
        "addopts = --import-mode=append\n",
        "filterwarnings = error\n",
        "filterwarnings =\n    error::DeprecationWarning:test_0\n    ignore::UserWarning\n",
        "addopts = --strict-markers -p no:cacheprovider\n",
        "log_cli = true\nlog_level = INFO\n",
        "testpaths = tests\n",
        "markers =\n    slow: takes long\n",
    )
    ini = chance.choice(["pytest.ini", "tox.ini", "pytest.ini"])
    draft.put(ini, "[pytest]\n" + paths)
    draft.put(ini, "", *rest, first=chance.choice([0, 0, chance.randint(1, len(rest))]))


def _import_some(draft: Draft, blocks: list[Block], web: int) -> None:
    chance = draft.chance
    for number in chance.sample(range(web), chance.randint(1, min(web, 3))):
        shapes = [
            f"import app.w{number}\n",
            f"from app import w{number}\n",
            f"from app.w{number} import *\n",
            f"import app.w{(number + 1) % web}, app.w{number}\n",
            f"import app.w{number} as w\n",
        ]
        chance.shuffle(shapes)
        blocks.append(draft.block(*shapes))


def _import_slow(draft: Draft, web: list[str]) -> None:
    chance = draft.chance
    shapes = [
        "import widelib.slow\n",
        "from widelib import slow\n",
        "from widelib.slow import (\n    SUM,\n)\n",
        "import widelib, widelib.slow as slow\n",
        "try:\n    import widelib.slow\nexcept ImportError:\n    pass\n",
    ]
    chance.shuffle(shapes)
    blocks = draft.files[chance.choice([*draft.conftests, chance.choice(web)])]
    blocks.insert(chance.randint(0, len(blocks)), draft.block(*shapes))


def _add_motif(
    draft: Draft, name: str, heads: dict[str, list[Block]], bodies: dict[str, list[Block]]
) -> None:
    chance = draft.chance
    draft.drawn(f"motif: {name}")
    n = draft.number()
    # The first test module is where the deepest checkpoints end.
    path = chance.choice([draft.tests[0], chance.choice(draft.tests)])
    if not draft.conftests and "conftest" in MOTIFS[name]:
        draft.conftests.append("conftest.py")
        draft.put("conftest.py", "")
    for where, texts in MOTIFS[name].items():
        versions = [Template(text).substitute(n=n) for text in texts]
        first = 0 if chance.random() < 0.6 else chance.randrange(len(versions))
        block = draft.block(*versions, first=first)
        if where == "head":
            heads[path].append(block)
        elif where == "body":
            bodies[path].append(block)
        elif where == "conftest":
            draft.files[chance.choice(draft.conftests)].append(block)
        else:
            file = Template(where).substitute(n=n)
            draft.files.setdefault(draft.code + file, []).append(block)


def _finish_tests(draft: Draft, path: str, head: list[Block], body: list[Block]) -> None:
    chance = draft.chance
    chance.shuffle(head)
    shows = draft.block(
        "def test_state():\n    probe.show(__name__)\n    assert reg.state() == [], reg.NAMES\n",
        "def test_state():\n    probe.show(__name__)\n    print(reg.state())\n",
        "def test_state(capsys, tmp_path):\n    probe.show(__name__)\n    print(reg.state())\n",
        first=chance.randrange(3),
    )
    body.insert(chance.randint(0, len(body)), shows)
    starts = ("import probe\n", "import os\nimport probe\n", '"""Says."""\nimport probe\n')
    start = draft.block(*starts, first=chance.choice([0, 0, 2]))
    registry = draft.block("from app import reg\n")
    head.insert(0 if chance.random() < 0.7 else len(head), start)
    head.insert(chance.randint(0, len(head)), registry)
    draft.files[path] = head + body


def as_changes(draft: Draft) -> tuple[Change, ...]:
    return tuple(Change("write", path, tuple(blocks)) for path, blocks in draft.files.items())


def site_files() -> dict[str, str]:
    """What of site-packages a scenario may edit."""
    return {SITE + path: text for path, text in {**WIDELIB, **WIDEPLUG}.items()}
