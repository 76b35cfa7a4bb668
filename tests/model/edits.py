"""What happens to a tree between two runs, as people, editors and other programs do it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Callable

from . import atoms
from .project import WIDELIB, WIDEPLUG, Draft
from .scenario import SITE, Block, Change

SHADOWS = {
    "colorsys.py": "SHADOW = 'colorsys'\n",
    "textwrap.py": "from inspect import cleandoc as dedent\nSHADOW = 'textwrap'\n",
    "csv.py": "SHADOW = 'csv'\n",
    "widelib.py": "NAMES = ['near']\n\n\ndef listen():\n    return 'near'\n",
    "late.py": "WORD = 'late, here'\n",
    "late/__init__.py": "WORD = 'late, a package'\n",
    "app.py": "SHADOW = 'a module beside the package'\n",
    "tests/app/__init__.py": "SHADOW = 'nearer'\n",
    "tests/probe.py": "def show(where):\n    print('shadowed', where)\n",
    "far.py": "WORD = 'near'\n",
    "conftest.py": "SHADOW = 'a new conftest'\n",
    "tests/conftest.py": "import sys\nsys.modules.pop('app.reg', None)\n",
    "tests/__init__.py": "",
    "sitecustomize.py": "print('customized by the project')\n",
}

DATA = {
    "flag.txt": "set\n",
    "local.txt": "local\n",
    "app/flag.txt": "set\n",
    "app/data/more.txt": "more\n",
    "app/data/words.txt": "other words\n",
    "app/local.py": "LOCAL = True\nfrom app.reg import NAMES\nNAMES.append('local')\n",
    "app/half.py": "import app.reg\napp.reg.NAMES.append('half')\n1 / 0\n",
    "app/extra/far.py": "WORD = 'far, again'\n",
}

SETTINGS = {
    "pytest.ini": "[pytest]\naddopts = -v\npythonpath = . src\n",
    ".pytest.ini": "[pytest]\naddopts = -rA\n",
    "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '-ra'\npythonpath = ['src', '.']\n",
    "tox.ini": "[pytest]\nfilterwarnings = error\n",
    "setup.cfg": "[tool:pytest]\naddopts = -q\n",
    "tests/pytest.ini": "[pytest]\n",
}


class Edits:
    """Draws changes to one draft, and remembers what is to be put right again."""

    def __init__(self, draft: Draft):
        self.draft = draft
        self.chance: random.Random = draft.chance
        self.good = dict(draft.files)
        """What a checkout brings back."""
        self.undo: list[Callable[[], list[Change]]] = []
        self.kinds: dict[str, tuple[int, Callable[[], list[Change]]]] = {
            "another version": (10, self.another_version),
            "new order": (3, self.new_order),
            "new statement": (4, self.new_statement),
            "less": (3, self.less),
            "broken": (4, self.broken),
            "removed": (3, self.removed),
            "renamed": (2, self.renamed),
            "shadowed": (3, self.shadowed),
            "package for a module": (2, self.package_for_a_module),
            "data": (4, self.data),
            "settings": (2, self.settings),
            "checkout": (3, self.checkout),
            "back": (5, self.back),
            "touched": (2, self.touched),
            "package without `__init__`": (1, self.without_init),
            "directory moved": (1, self.directory_moved),
            "link": (2, self.link),
            "byte code": (3, self.byte_code),
            "nothing": (6, list),
        }
        if draft.in_environment:
            self.kinds |= {
                "installed package edited": (4, self.site_edited),
                "installed": (2, self.installed),
                "path file": (2, self.path_file),
            }

    def draw(self) -> list[Change]:
        """The changes before one run; often what is broken is repaired with them."""
        changes: list[Change] = []
        if self.undo and self.chance.random() < 0.6:
            self.draft.drawn("edit: repaired")
            while self.undo:
                changes += self.undo.pop()()
        for _ in range(self.chance.choice([1, 1, 1, 2])):
            weights = [weight for weight, _ in self.kinds.values()]
            kind = self.chance.choices(list(self.kinds), weights)[0]
            made = self.kinds[kind][1]()
            if made or kind == "nothing":
                self.draft.drawn(f"edit: {kind}")
            changes += made
        return changes

    # --------------------------------------------------------------- the parts

    def write(self, path: str, blocks: list[Block]) -> Change:
        """In one of the ways in which programs save a file."""
        self.draft.files[path] = blocks
        how = self.chance.choices(["in place", "rename", "anew", "mmap"], [4, 4, 1, 2])[0]
        time = self.chance.choices(["now", "same", "second", "old", "future"], [12, 3, 3, 2, 1])[0]
        self.draft.drawn(f"how: {how}")
        self.draft.drawn(f"time: {time}")
        return Change("write", path, tuple(blocks), how=how, time=time)

    def put_back(self, path: str) -> None:
        """To be written as it is now, in a later step."""
        blocks = self.draft.files[path]
        self.undo.append(lambda: [self.write(path, blocks)])

    def some_file(self, least: int = 1, modules: int = 3) -> str | None:
        """Any that has parts; a conftest or a test module as often as one of many modules."""
        draft = self.draft
        groups = [draft.modules()] * modules + [draft.conftests, draft.tests[:1], draft.tests]
        present = [[p for p in paths if len(draft.files.get(p, ())) >= least] for paths in groups]
        present = [paths for paths in present if paths]
        return self.chance.choice(self.chance.choice(present)) if present else None

    # --------------------------------------------------------------- kinds

    def another_version(self) -> list[Change]:
        draft = self.draft
        found = [
            (path, number)
            for path, blocks in draft.files.items()
            for number, block in enumerate(blocks)
            if len(draft.versions.get(block.name, ())) > 1
        ]
        if not found:
            return []
        path, number = self.chance.choice(found)
        return [self.write(path, self._switched(path, number))]

    def _switched(self, path: str, number: int) -> list[Block]:
        blocks = list(self.draft.files[path])
        old = blocks[number]
        others = [text for text in self.draft.versions[old.name] if text != old.text]
        # Of the same size, more often than chance would have it.
        alike = [text for text in others if len(text) == len(old.text)]
        pool = alike if alike and self.chance.random() < 0.5 else others
        blocks[number] = replace(old, text=self.chance.choice(pool))
        return blocks

    def new_order(self) -> list[Change]:
        path = self.some_file(2)
        if path is None:
            return []
        blocks = list(self.draft.files[path])
        number = self.chance.randrange(len(blocks))
        blocks.insert(self.chance.randrange(len(blocks)), blocks.pop(number))
        return [self.write(path, blocks)]

    def new_statement(self) -> list[Change]:
        path = self.some_file()
        if path is None:
            return []
        leaf = path.rpartition("/")[2]
        below = int(leaf[1:-3]) if leaf[0] == "w" and leaf[1:-3].isdigit() else 2
        if path.endswith("/reg.py"):
            return []
        blocks = list(self.draft.files[path])
        blocks.insert(self.chance.randint(0, len(blocks)), self.draft.atom(below))
        return [self.write(path, blocks)]

    def less(self) -> list[Change]:
        path = self.some_file(2)
        if path is None:
            return []
        if self.chance.random() < 0.5:
            self.put_back(path)
        blocks = list(self.draft.files[path])
        del blocks[self.chance.randrange(len(blocks))]
        return [self.write(path, blocks)]

    def broken(self) -> list[Change]:
        path = self.some_file()
        if path is None:
            return []
        kind = self.chance.choice(sorted(atoms.BREAKS))
        self.draft.drawn(f"broken: {kind}")
        self.put_back(path)
        blocks = list(self.draft.files[path])
        # What stands before it is executed all the same, unless the file cannot be read at all.
        blocks.insert(self.chance.randint(0, len(blocks)), self.draft.block(atoms.BREAKS[kind]))
        return [self.write(path, blocks)]

    def removed(self) -> list[Change]:
        path = self.some_file(modules=9)
        if path is None:
            return []
        self.put_back(path)
        del self.draft.files[path]
        return [Change("remove", path)]

    def renamed(self) -> list[Change]:
        path = self.some_file(modules=9)
        if path is None:
            return []
        to = path[: -len(".py")] + "_new.py"
        blocks = self.draft.files.pop(path)
        self.draft.files[to] = blocks

        def back() -> list[Change]:
            self.draft.files.pop(to, None)
            self.draft.files[path] = blocks
            return [Change("move", to, to=path)]

        self.undo.append(back)
        return [Change("move", path, to=to)]

    def shadowed(self) -> list[Change]:
        name = self.chance.choice(sorted(SHADOWS))
        return self._added(self._placed(name), SHADOWS[name])

    def package_for_a_module(self) -> list[Change]:
        """A directory with `__init__.py` beside `x.py` wins over it."""
        modules = [p for p in self.draft.modules() if "/w" in p]
        if not modules:
            return []
        path = self.chance.choice(modules)[: -len(".py")]
        return self._added(f"{path}/__init__.py", "VALUE = 'a package'\nimport app.reg\n")

    def data(self) -> list[Change]:
        name = self.chance.choice(sorted(DATA))
        return self._added(self._placed(name), DATA[name])

    def settings(self) -> list[Change]:
        name = self.chance.choice(sorted(SETTINGS))
        return self._added(name, SETTINGS[name])

    def _placed(self, name: str) -> str:
        inside = name.startswith("app/") or (self.chance.random() < 0.5 and "/" not in name)
        return self.draft.code + name if inside else name

    def _added(self, path: str, text: str) -> list[Change]:
        """A file that is not there, or another content; to be undone, mostly."""
        before = self.draft.files.get(path)
        if self.chance.random() < 0.8:
            if before is not None:
                self.put_back(path)
            else:
                self.undo.append(lambda: self._away(path))
        return [self.write(path, [self.draft.block(text)])]

    def _away(self, path: str) -> list[Change]:
        self.draft.files.pop(path, None)
        directory = path.rpartition("/")[0]
        alone = directory and not any(p.startswith(directory + "/") for p in self.draft.files)
        return [Change("remove", directory if alone else path)]

    def checkout(self) -> list[Change]:
        """Another branch: many files at once, each taken away and written anew."""
        draft = self.draft
        paths = [p for p in draft.files if any(draft.versions.get(b.name) for b in draft.files[p])]
        changes = []
        for path in self.chance.sample(paths, min(len(paths), self.chance.randint(2, 6))):
            for number, block in enumerate(draft.files[path]):
                if len(draft.versions.get(block.name, ())) > 1 and self.chance.random() < 0.5:
                    draft.files[path] = self._switched(path, number)
            changes.append(Change("write", path, tuple(draft.files[path]), how="anew"))
        modules = [path for path in draft.modules() if "/w" in path]
        if modules and self.chance.random() < 0.3:
            gone = self.chance.choice(modules)
            self.put_back(gone)
            del draft.files[gone]
            changes.append(Change("remove", gone))
        return changes

    def back(self) -> list[Change]:
        """The first branch again, whatever has happened since."""
        draft = self.draft
        self.undo.clear()
        changes = [Change("remove", path) for path in draft.files if path not in self.good]
        changes += [
            Change("write", path, tuple(blocks), how="anew")
            for path, blocks in self.good.items()
            if draft.files.get(path) != blocks
        ]
        draft.files = dict(self.good)
        return changes

    def touched(self) -> list[Change]:
        path = self.some_file()
        if path is None:
            return []
        if self.chance.random() < 0.5:
            return [self.write(path, self.draft.files[path])]
        return [Change("touch", path)]

    def without_init(self) -> list[Change]:
        inits = [path for path in self.draft.files if path.endswith("__init__.py")]
        if not inits:
            return []
        path = self.chance.choice(inits)
        self.put_back(path)
        del self.draft.files[path]
        return [Change("remove", path)]

    def directory_moved(self) -> list[Change]:
        app = f"{self.draft.code}app"
        away = f"{self.draft.code}away"
        if self.chance.random() < 0.5:
            return [Change("move", app, to=away), Change("move", away, to=app)]
        self.undo.append(lambda: [Change("move", away, to=app)])
        return [Change("move", app, to=away)]

    def link(self) -> list[Change]:
        """A module becomes a link to a copy of it; writing in place then goes through the link."""
        path = self.some_file()
        if path is None:
            return []
        copy = "kept/" + path.replace("/", "-")
        return [Change("copy", path, to=copy), Change("link", path, to=copy)]

    def byte_code(self) -> list[Change]:
        app = f"{self.draft.code}app"
        how = self.chance.choice(["timestamp", "checked-hash", "unchecked-hash", "remove"])
        if how == "remove":
            return [Change("remove", f"{app}/__pycache__")]
        return [Change("compile", app, how=how)]

    # --------------------------------------------------------------- the environment

    def site_edited(self) -> list[Change]:
        path, text = self.chance.choice(sorted({**WIDELIB, **WIDEPLUG}.items()))
        n = self.draft.number()
        more = self.chance.choice(
            [
                f"EDITED = {n}\n",
                f"NAMES = ['edit {n}']\n",
                "import app.reg\napp.reg.NAMES.append('wide')\n",
                "import colorsys\n",
                "raise ImportError('half installed')\n",
            ]
        )
        if self.chance.random() < 0.3:
            more = ""
        block = self.draft.block(text + more)
        return [self.write(SITE + path, [block])]

    def installed(self) -> list[Change]:
        name = self.chance.choice(["widelib", "wideplug", "late"])
        version = f"2.{self.draft.number()}"
        files = {
            "widelib": WIDELIB,
            "wideplug": WIDEPLUG,
            "late": {"late.py": "WORD = 'installed 1.0'\n"},
        }[name]
        blocks = tuple(
            Block(path, text.replace("1.0", version)) for path, text in sorted(files.items())
        )
        return [Change("install", name, blocks, to=version)]

    def path_file(self) -> list[Change]:
        path = f"{SITE}model.pth"
        text = self.chance.choice(
            ["", "model_directory\n", "import sys; sys.model_pth = 1\n", "import colorsys\n"]
        )
        block = self.draft.block(text)
        far = self.draft.block("WORD = 'by a path file'\n")
        return [self.write(f"{SITE}model_directory/late.py", [far]), self.write(path, [block])]
