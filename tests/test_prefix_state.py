"""What modules leave in each other: a run sees what its own imports have written, in their order.

A checkpoint in which other modules were executed too, or in another order, or in which a writer has
been edited since, gives another answer: often a green one that should be red.
"""

from __future__ import annotations

from .harness.cases import Case, each, edit, play, select
from .harness.sandbox import Sandbox

# ------------------------------------------------------------------ writers and what they write to

# Name: what is written to (`reg.py`), what each of the two writers does, how a test shows it.
# `NAME` is the writer's name, `TYPE` a type of its own.
WRITERS: dict[str, tuple[str, str, str]] = {
    "decorator": (
        "PLUGS = []\n\ndef register(plug):\n    PLUGS.append(plug())\n    return plug\n",
        "@reg.register\ndef plug():\n    return NAME\n",
        "reg.PLUGS",
    ),
    "init_subclass": (
        "class Base:\n    known = []\n\n    def __init_subclass__(cls, name):\n"
        "        Base.known.append(name)\n",
        "class Sub(reg.Base, name=NAME):\n    pass\n",
        "reg.Base.known",
    ),
    "metaclass": (
        "KNOWN = {}\n\nclass Meta(type):\n    def __init__(cls, *rest):\n"
        "        KNOWN[cls.__module__] = len(KNOWN)\n\nclass Base(metaclass=Meta):\n    pass\n",
        "class Sub(reg.Base):\n    pass\n",
        "reg.KNOWN",
    ),
    "subclasses": (
        "class Base:\n    pass\n",
        "class Sub(reg.Base):\n    pass\n",
        "[sub.__module__ for sub in reg.Base.__subclasses__()]",
    ),
    "singledispatch": (
        "import functools\n\n@functools.singledispatch\ndef kind(value):\n    return 'unknown'\n",
        "reg.kind.register(TYPE, lambda value: NAME)\n",
        "[reg.kind(value) for value in (1, '')]",
    ),
    "abc register": (
        "import abc\n\nclass Shape(abc.ABC):\n    pass\n",
        "reg.Shape.register(TYPE)\n",
        "[isinstance(value, reg.Shape) for value in (1, '')]",
    ),
    "monkeypatch": (
        "def answer():\n    return 'plain'\n",
        "before = reg.answer\nreg.answer = lambda: before() + NAME\n",
        "reg.answer()",
    ),
    "monkeypatched class": (
        "class Thing:\n    marks = ()\n",
        "reg.Thing.marks += (NAME,)\nsetattr(reg.Thing, NAME, property(lambda self: NAME))\n",
        "(reg.Thing.marks, [name for name in vars(reg.Thing) if name in ('one', 'two')])",
    ),
    "monkeypatched standard library": (
        "import string\n",
        "before = reg.string.capwords\nreg.string.capwords = lambda text: NAME + before(text)\n",
        "reg.string.capwords('')",
    ),
    "counter": (
        "import itertools\nimport sys\n\nCOUNT = itertools.count()\n",
        "NUMBER = next(reg.COUNT)\n",
        "[(n, reg.sys.modules[n].NUMBER) for n in ('one', 'two')"
        " if hasattr(reg.sys.modules.get(n), 'NUMBER')]",
    ),
    "cached function": (
        "import functools\n\n@functools.lru_cache\ndef cached(value):\n    return value\n",
        "reg.cached(NAME)\n",
        "reg.cached.cache_info()",
    ),
    "logging": (
        "import logging\n\nLOGGER = logging.getLogger('app')\n",
        "reg.LOGGER.setLevel(10 if TYPE is int else 20)\n"
        "reg.LOGGER.addHandler(reg.logging.NullHandler())\n"
        "reg.logging.getLogger('app.' + NAME).propagate = False\n",
        "(reg.LOGGER.level, len(reg.LOGGER.handlers),"
        " [n for n in reg.logging.root.manager.loggerDict if n.startswith('app')])",
    ),
    "copyreg": (
        "import copyreg\n",
        "class Thing:\n    pass\n\nreg.copyreg.pickle(Thing, lambda thing: NAME)\n",
        "[t.__module__ for t in reg.copyreg.dispatch_table if t.__name__ == 'Thing']",
    ),
    "codecs": (
        "import codecs\n\ndef known(name):\n    try:\n        return bool(codecs.lookup(name))\n"
        "    except LookupError:\n        return False\n",
        "reg.codecs.register(lambda n: reg.codecs.lookup('ascii') if n == 'my' + NAME else None)\n",
        "[reg.known('my' + name) for name in ('one', 'two')]",
    ),
    "context variable": (
        "import contextvars\n\nSEEN = contextvars.ContextVar('seen', default=())\n",
        "reg.SEEN.set((*reg.SEEN.get(), NAME))\n",
        "reg.SEEN.get()",
    ),
    "decimal": (
        "import decimal\n",
        "reg.decimal.getcontext().prec += 2 if TYPE is int else 3\n",
        "reg.decimal.getcontext().prec",
    ),
    "builtins": (
        "import builtins\n",
        "setattr(reg.builtins, 'from_' + NAME, NAME)\n",
        "[name for name in vars(reg.builtins) if name.startswith('from_')]",
    ),
    "environment": (
        "import os\n",
        "reg.os.environ['WRITTEN'] = reg.os.environ.get('WRITTEN', '') + NAME\n",
        "reg.os.environ.get('WRITTEN')",
    ),
    "sys.path": (
        "import sys\n",
        "reg.sys.path.append('/nowhere/' + NAME)\n",
        "[path for path in reg.sys.path if 'nowhere' in path]",
    ),
    "sys.modules": (
        "import sys\n",
        "reg.sys.modules['alias_' + NAME] = reg\n",
        "[name for name in reg.sys.modules if name.startswith('alias_')]",
    ),
    "warnings filters": (
        "import warnings\n\nSEEN = []\n",
        "reg.warnings.filterwarnings('ignore', message=NAME)\nreg.SEEN += (\n"
        "    f[1].pattern for f in reg.warnings.filters if f[1] and f[1].pattern in ('one', 'two')"
        "\n)\n",
        "reg.SEEN",
    ),
    "mimetypes": (
        "import mimetypes\n",
        "reg.mimetypes.add_type('text/' + NAME, '.x-' + NAME)\n",
        "[reg.mimetypes.guess_type('file.x-' + name)[0] for name in ('one', 'two')]",
    ),
    "atexit": (
        "import atexit\n",
        "reg.atexit.register(print, 'good bye from', NAME)\n",
        "reg.__name__",
    ),
    "weakref.finalize": (
        "import weakref\n\nclass Thing:\n    pass\n\nTHING = Thing()\n",
        "reg.weakref.finalize(reg.THING, print, 'finalized', NAME)\n",
        "len(reg.weakref.finalize._registry)",
    ),
    "audit hook": (
        "import sys\n\nHEARD = []\n",
        "reg.sys.addaudithook(\n"
        "    lambda event, rest: event == 'my.event' and reg.HEARD.append(NAME)\n)\n",
        "(reg.HEARD.clear(), reg.sys.audit('my.event'), list(reg.HEARD))",
    ),
    "fork hook": (
        "import os\n\nFORKED = []\n\ndef fork():\n    pid = os.fork()\n    if not pid:\n"
        "        os._exit(len(FORKED))\n    return os.waitpid(pid, 0)[1] >> 8\n",
        "reg.os.register_at_fork(after_in_child=lambda: reg.FORKED.append(NAME))\n",
        "(list(reg.FORKED), reg.fork())",
    ),
    "unraisable hook": (
        "import sys\n",
        "before = reg.sys.unraisablehook\n\n"
        "def hook(what):\n    print(NAME)\n    before(what)\n\nreg.sys.unraisablehook = hook\n",
        "reg.sys.unraisablehook.__module__",
    ),
}

WRITER = "import reg\n\nNAME = {name!r}\nTYPE = {type}\n\n{body}"
TEST = "{imports}\nimport reg\n\ndef test_shows():\n    print({show})\n"


def writers(name: str) -> Case:
    base, body, show = WRITERS[name]

    def test(*imports: str) -> str:
        return TEST.format(imports="\n".join(f"import {word}" for word in imports), show=show)

    return Case(
        name,
        {
            "reg.py": base,
            "one.py": WRITER.format(name="one", type="int", body=body),
            "two.py": WRITER.format(name="two", type="str", body=body),
            "test_both.py": test("one", "two"),
            "test_one.py": test("one"),
            "test_turned.py": test("two", "one"),
            "test_none.py": test(),
        },
        (
            select("test_one.py"),
            select("test_turned.py"),
            select("test_none.py"),
            # Everything is imported before anything runs.
            select(),
            # The writer is edited, and writes no more: what it wrote must be gone.
            edit("two.py", "import reg\n"),
            # And back; then nobody imports it.
            edit("two.py", WRITER.format(name="two", type="str", body=body)),
            edit("test_both.py", ("import two\n", "")),
        ),
        ("-rA", "test_both.py"),
    )


@each([writers(name) for name in WRITERS])
def test_writers(sandbox: Sandbox, case: Case) -> None:
    play(sandbox, case)
