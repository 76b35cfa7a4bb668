"""Checkpoints that are parked in the midst of conftests' imports: something ahead cannot be kept.

Each case says where the checkpoint has to be parked: that P0 answers rightly is known from others.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from .harness import sandbox as harness
from .harness.cases import Case, Twist, each, edit, files_of, imports_for, play, select
from .harness.environments import PYTESTS, environment, newest_pytest
from .harness.interpreters import DEFAULT, interpreters
from .harness.sandbox import Sandbox

# What cannot be kept, and what a test can see of it.
BARRIERS = {
    "random number": ("DRAWN = random.random()", "0 <= barrier.DRAWN < 1"),
    "system's random number": ("DRAWN = os.urandom(4)", "len(barrier.DRAWN)"),
    "global seed": ("random.seed(7)", "random.random()"),
    "clock": ("NOW = time.time()", "0 <= time.time() - barrier.NOW < 60"),
    "process number": ("PID = os.getpid()", "barrier.PID == os.getpid()"),
    "thread": (
        "DONE = []\nTHREAD = threading.Thread(target=DONE.append, args=[1])\n"
        "THREAD.start()\nTHREAD.join()",
        "barrier.DONE",
    ),
    "process": ("OUT = subprocess.run(['echo', 'out'], capture_output=True).stdout", "barrier.OUT"),
    "server": (
        "SERVER = socket.socket()\nSERVER.bind(('127.0.0.1', 0))\nSERVER.listen()",
        "barrier.SERVER.fileno() > 2",
    ),
    "signal handler": (
        "CAUGHT = []\nsignal.signal(signal.SIGUSR1, lambda *rest: CAUGHT.append(1))",
        "os.kill(os.getpid(), signal.SIGUSR1), barrier.CAUGHT",
    ),
    "written file": (
        "with open(os.path.join(os.environ['HOME'], 'log'), 'w') as file:\n    file.write('x')",
        "os.path.exists(os.path.join(os.environ['HOME'], 'log'))",
    ),
    # Found by comparing, at the end.
    "open file": ("FILE = open(__file__)", "barrier.FILE.readline()"),
    "open descriptor": ("FD = os.open(__file__, os.O_RDONLY)", "os.read(barrier.FD, 6)"),
    "directory": ("os.chdir('sub')", "os.path.basename(os.getcwd())"),
    "umask": ("os.umask(0o027)", "oct(os.umask(0o022))"),
    "kept stream": ("OUT = sys.stdout", "barrier.OUT is sys.stdout, barrier.OUT.closed"),
    "arguments": ("sys.argv.append('more')", "sys.argv[-1]"),
    "kept arguments": ("ARGV = sys.argv", "barrier.ARGV is sys.argv"),
    "shared memory": ("SHARED = mmap.mmap(-1, 8)", "barrier.SHARED[0]"),
}

PROJECT = {
    "pytest.ini": "[pytest]\npythonpath = .\n",
    "sub/empty.txt": "",
    "early.py": "WORD = 'early'\n",
    "first.py": "WORD = 'first'\n",
    "inner.py": "import first\nimport barrier\nimport last\n\nWORD = first.WORD + last.WORD\n",
    "last.py": "import sys\n\nWORD = 'last'\nSEEN = 'barrier' in sys.modules\n",
    "late.py": "WORD = 'late'\n",
    "conftest.py": "import early\nimport inner\nimport late\n\nWORD = early.WORD + late.WORD\n",
}

TEST = """
import sys
{imports}
import barrier, conftest, early, inner, late

def test_shows():
    print({show})

def test_words():
    print(conftest.WORD, inner.WORD, inner.last.SEEN)
    print([n for n, m in sys.modules.items() if "psd-" in str(getattr(m, "__file__", ""))])
"""


def assert_parked(sandbox: Sandbox, where: str) -> None:
    """The last run was served by a checkpoint that is parked there (a pattern)."""
    if harness.REFERENCE:
        return
    run = sandbox.last_run()
    assert run.checkpoint == "Z2", f"served by {run.checkpoint}: {run.why}"
    assert re.match(f"parked {where}", run.why or ""), f"not {where}: {run.why}"


def play_parked(sandbox: Sandbox, case: Case, where: str) -> None:
    """Plays a case; before each twist, and at the end, runs are served from there."""
    play(sandbox, Case(case.name, case.files, (), case.arguments, case.how))
    assert_parked(sandbox, where)
    if case.twists:
        play(sandbox, case)


@pytest.mark.parametrize("name", BARRIERS)
def test_barrier_of_a_module(sandbox: Sandbox, name: str) -> None:
    """In a module that a module imports which the conftest imports."""
    code, show = BARRIERS[name]
    imports = imports_for(f"{code} {show}")
    files = {
        **PROJECT,
        "barrier.py": f"{imports}\n{code}\n",
        "test_a.py": TEST.format(imports=imports, show=show),
    }
    twists = (
        edit("first.py", ("first", "other")),
        edit("late.py", ("late", "later")),
        select("-k", "words"),
    )
    # Its imports of standard modules are kept, if there are any that nobody else needs.
    standard = "|".join(re.findall(r"\w+$", imports, re.M))
    where = rf"(before `barrier`|behind `({standard})[\w.]*`)"
    play_parked(sandbox, Case(name, files, twists), where)


# In each case: `draws` is the module that cannot be kept.
COMMON = """
-- pytest.ini
[pytest]
pythonpath = .
-- early.py
WORD = "early"
-- late.py
WORD = "late"
-- draws.py
import random

DRAWN = random.random()
WORD = "drawn"
-- test_a.py
import conftest

def test_a():
    print(conftest.WORD)
"""

SHOWS_STACK = """
-- shows.py
import inspect
import sys
import _frozen_importlib
import _imp
import threading

waits = _frozen_importlib._blocking_on

def frames(frame):
    while frame is not None:
        yield frame.f_code.co_name, frame.f_lineno, frame.f_code.co_filename.rsplit("/", 1)[-1]
        frame = frame.f_back

def locks():
    for name, reference in sorted(_frozen_importlib._module_locks.items()):
        lock = reference()
        if lock is not None:
            yield name, lock.owner == threading.get_ident(), repr(lock.count)

def loading():
    for name, module in sys.modules.items():
        if getattr(getattr(module, "__spec__", None), "_initializing", False):
            yield name

WORD = (
    [(f.function, f.lineno, f.filename.rsplit("/", 1)[-1]) for f in inspect.stack()],
    list(frames(sys._getframe())),
    list(locks()),
    list(loading()),
    # Since Python 3.12 it stays, with nothing for who waits for nothing.
    (_imp.lock_held(), any(getattr(waits, "data", waits).values())),
    (sys.gettrace(), sys.getprofile(), sys.exc_info()),
)
"""

WARNS = """
-- warns.py
import warnings

def warn():
    warnings.warn("from inside", UserWarning, stacklevel=1)
    warnings.warn("from the module", UserWarning, stacklevel=2)
    warnings.warn("from who imports it", UserWarning, stacklevel=3)
    warnings.warn("from further out", DeprecationWarning, stacklevel=4)

warn()
"""


def case(
    name: str, where: str, text: str, *twists: Twist, arguments: tuple[str, ...] = ("-rA",)
) -> tuple[str, Case]:
    """A case with the files in `COMMON`, and where it is parked."""
    return where, Case(name, {**files_of(COMMON), **files_of(text)}, twists, arguments)


CASES = [
    case(
        "conftest itself",
        "behind `early`",
        """
        -- conftest.py
        import random
        import early

        DRAWN = random.random()
        WORD = early.WORD
        """,
        edit("early.py", ("early", "edited")),
        edit("conftest.py", ("DRAWN", "DREW"), True),
        edit("conftest.py", ("DREW = random.random()", "DREW = 1"), True),
    ),
    case(
        "package",
        # Which is imported for the sake of the module.
        "behind `pkg.sub`",
        """
        -- conftest.py
        import pkg.sub.draws
        import pkg.late

        WORD = pkg.WORD, pkg.sub.WORD, pkg.late.WORD
        -- pkg/__init__.py
        WORD = "package"
        -- pkg/sub/__init__.py
        from pkg import early

        WORD = early.WORD
        -- pkg/sub/draws.py
        import random

        DRAWN = random.random()
        -- pkg/early.py
        WORD = "early"
        -- pkg/late.py
        WORD = "late"
        """,
        edit("pkg/early.py", ("early", "edited")),
        edit("pkg/late.py", ("late", "later")),
        edit("pkg/sub/__init__.py", "WORD = 'sub'\n"),
    ),
    case(
        "body of a package",
        "behind `pkg.early`",
        """
        -- conftest.py
        import pkg.late

        WORD = pkg.early.WORD, pkg.late.WORD
        -- pkg/__init__.py
        import time
        from pkg import early

        NOW = time.time()
        -- pkg/early.py
        WORD = "early"
        -- pkg/late.py
        WORD = "late"
        """,
        edit("pkg/early.py", ("early", "edited")),
        edit("pkg/late.py", ("late", "later")),
    ),
    case(
        "import in a function",
        "before `draws`",
        SHOWS_STACK
        + """
-- conftest.py
import early

def load(name):
    kept = early.WORD
    try:
        raise KeyError(name)
    except KeyError:
        module = __import__(name)
    return kept + module.WORD

WORD = load("draws")
import shows

WORD = WORD, shows.WORD
""",
        edit("early.py", ("early", "edited")),
    ),
    case(
        "import by name",
        "before `draws`",
        SHOWS_STACK
        + """
-- conftest.py
import importlib
import early

WORD = [importlib.import_module(name).WORD for name in ("early", "draws", "shows")]
""",
        edit("early.py", ("early", "edited")),
    ),
    case(
        "stack right behind it",
        "before `shows`",
        SHOWS_STACK.replace(
            "import threading\n", "import threading\nimport os\nPID = os.getpid()\n"
        )
        + """
-- between.py
import shows

WORD = shows.WORD
-- conftest.py
import inspect
import early
import between

WORD = between.WORD
""",
        edit("early.py", ("early", "edited"), True),
    ),
    case(
        "warnings",
        "before `draws`",
        WARNS
        + """
-- conftest.py
import warnings
import early

warnings.warn("before")
import draws
import warns

warnings.warn("after")
WORD = 1
""",
        edit("warns.py", ("from inside", "from within")),
        edit("conftest.py", ('"before"', '"earlier"')),
        select("-W", "error::DeprecationWarning"),
    ),
    case(
        "output",
        "before `draws`",
        """
        -- conftest.py
        import sys
        import early

        print("before")
        print("error before", file=sys.stderr)
        import draws

        print("after")
        print("error after", file=sys.stderr)
        WORD = 1

        def pytest_configure():
            print("configured")
        """,
        # Captured output of conftests is shown if one fails.
        edit("conftest.py", ('"after"', '"after it"'), True),
        edit("conftest.py", ("WORD = 1", "raise KeyError")),
        edit("conftest.py", ("raise KeyError", "WORD = 2")),
    ),
    case(
        "output to Python's streams",
        "before `draws`",
        """
        -- conftest.py
        import early

        print("before")
        import draws

        print("after")
        WORD = 1
        """,
        edit("conftest.py", ('"after"', '"after it"'), True),
        edit("conftest.py", ("WORD = 1", "raise KeyError")),
        arguments=("-rA", "--capture=sys"),
    ),
    case(
        "output that is not captured",
        "before `draws`",
        """
        -- conftest.py
        import early
        import draws

        print("after")
        WORD = 1
        """,
        edit("conftest.py", ('"after"', '"after it"')),
        arguments=("-rA", "-s"),
    ),
    case(
        "output that is not captured, before it",
        "behind `early`",
        """
        -- conftest.py
        import early

        print("before")
        import draws

        print("after")
        WORD = 1
        """,
        edit("conftest.py", ('"before"', '"earlier"')),
        arguments=("-rA", "-s"),
    ),
    case(
        "error",
        "before `draws`",
        """
        -- conftest.py
        import early
        import draws
        import fails

        WORD = fails.WORD
        -- fails.py
        def fail():
            return 1 / ZERO

        ZERO = 1
        WORD = fail()
        """,
        edit("fails.py", ("ZERO = 1", "ZERO = 0")),
        Twist("long", arguments=("-rA", "--full-trace")),
        edit("fails.py", ("ZERO = 0", "import nowhere")),
        edit("fails.py", ("import nowhere", "ZERO = 2")),
    ),
    case(
        "thread that imports",
        "before `draws`",
        """
        -- conftest.py
        import importlib
        import threading
        import early
        import draws

        def load():
            FOUND.append(importlib.import_module("other").WORD)

        FOUND = []
        THREAD = threading.Thread(target=load)
        THREAD.start()
        THREAD.join()
        WORD = FOUND
        -- other.py
        import early

        WORD = early.WORD
        """,
        edit("early.py", ("early", "edited")),
    ),
    case(
        "logging that is being configured",
        # Its lock would be free in a child.
        "behind `early`",
        """
        -- conftest.py
        import logging.config
        import early

        logging.config.dictConfig({
            "version": 1,
            "handlers": {"own": {"class": "handlers.Own"}},
            "root": {"handlers": ["own"], "level": "INFO"},
        })
        logging.info("configured")
        WORD = early.WORD, [type(handler).__name__ for handler in logging.root.handlers]
        -- handlers.py
        import logging
        import draws
        import late

        class Own(logging.NullHandler):
            pass
        """,
        edit("handlers.py", ("NullHandler", "Handler")),
    ),
    case(
        "conftest on a second level",
        "behind `deep`",
        """
        -- deep.py
        WORD = "deep"
        -- conftest.py
        import early

        WORD = early.WORD
        -- tests/conftest.py
        import early

        TOP = early.WORD
        -- tests/sub/conftest.py
        import time
        import deep

        NOW = time.time()
        -- tests/sub/test_one.py
        import deep
        import early

        def test_one():
            print(early.WORD, deep.WORD)
        -- tests/sub/test_two.py
        def test_two(request):
            print(request.config.args, request.config.invocation_params.args)
        -- tests/other/test_other.py
        def test_other():
            pass
        """,
        select("tests/sub/test_two.py"),
        select("tests/sub/test_two.py", "tests/sub/test_one.py"),
        select("tests/sub/test_one.py::test_one", "-k", "test_one"),
        edit("tests/sub/test_one.py", None),
        select("tests/sub/test_two.py"),
        select("tests/other"),
        select("tests/sub"),
        select(),
        edit("early.py", ("early", "edited"), True),
        arguments=("-rA", "tests/sub/test_one.py"),
    ),
    case(
        "conftest after one that is whole",
        "before `.*/sub/conftest.py`",
        """
        -- conftest.py
        import early

        WORD = early.WORD
        -- sub/conftest.py
        import time

        NOW = time.time()

        def pytest_addoption(parser):
            parser.addoption("--deep", default="no")
        -- sub/test_sub.py
        def test_sub(request):
            print(request.config.getoption("--deep"))
        """,
        select("sub", "--deep=yes"),
        edit("sub/conftest.py", ('"no"', '"none"')),
        edit("sub/conftest.py", ("NOW = time.time()", "NOW = 1"), True),
        arguments=("-rA", "sub"),
    ),
    case(
        "options and plugins of a conftest",
        "behind `late`",
        """
        -- conftest.py
        pytest_plugins = ["mine"]
        WORD = 1

        def pytest_addoption(parser):
            parser.addoption("--deep", default="no")
        -- mine.py
        import time
        import late

        NOW = time.time()

        def pytest_addoption(parser):
            parser.addoption("--wide", default="no")

        def pytest_report_header(config):
            return [config.getoption("--wide"), config.getoption("--deep"), late.WORD]
        """,
        select("--deep=1", "--wide=2"),
        select("--wide=2", "test_a.py"),
        edit("late.py", ("late", "later")),
        edit("mine.py", ("NOW = time.time()", "NOW = 1"), True),
    ),
    case(
        "two barriers",
        # The first is only found when the build that stops before the second compares.
        "before `opens`",
        """
        -- conftest.py
        import early
        import opens
        import draws

        WORD = draws.WORD
        -- opens.py
        FILE = open(__file__)
        """,
        edit("opens.py", "FILE = None\n", True),
        edit("draws.py", ("random.random()", "1"), True),
        edit("draws.py", 'import time\n\nNOW = time.time()\nWORD = "again"\n'),
    ),
]


@each([found for _, found in CASES])
def test_case(sandbox: Sandbox, case: Case) -> None:
    where = next(where for where, found in CASES if found.name == case.name.partition(", named")[0])
    play_parked(sandbox, case, where)


# A Python's way to import and to profile, and a pytest's way to load conftests, differ.
VERSIONS = [
    *((python, newest_pytest(python)) for python in interpreters() if python != DEFAULT),
    *((DEFAULT, version) for version in PYTESTS if version != newest_pytest(DEFAULT)),
]
DIFFERENT = ["import in a function", "warnings", "error", "conftest on a second level"]


@pytest.mark.parametrize("name", DIFFERENT)
@pytest.mark.parametrize("python, version", VERSIONS, ids=lambda word: word)
def test_version(new_sandbox, python: str, version: str, name: str) -> None:
    where, case = next(found for found in CASES if found[1].name == name)
    # Few of the twists: that all of them go well is known of one version.
    case = replace(case, twists=case.twists[:3])
    play_parked(new_sandbox(environment(python, version)), case, where)


MODES = """
-- tests/early.py
WORD = "early"
-- tests/conftest.py
import sys
import early

TESTS = early.WORD
-- tests/unit/conftest.py
import time
import inspect

import deep

NOW = time.time()
STACK = [(frame.function, frame.filename.rsplit("/", 1)[-1]) for frame in inspect.stack()]
PATH = [entry.rsplit("/", 1)[-1] for entry in sys.path] if "sys" in globals() else None
NAMES = __name__, __file__.rsplit("/", 2)
-- deep.py
WORD = "deep"
-- tests/unit/test_a.py
import sys

def test_a(request):
    plugins = [p for p in request.config.pluginmanager.get_plugins() if hasattr(p, "NAMES")]
    print([(p.NAMES, p.PATH, p.STACK) for p in plugins])
    print([n for n, m in sys.modules.items() if "psd-" in str(getattr(m, "__file__", ""))])
"""


@pytest.mark.parametrize("is_package", [False, True])
@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_import_mode(sandbox: Sandbox, mode: str, is_package: bool) -> None:
    files = files_of(MODES)
    files["pytest.ini"] = "[pytest]\npythonpath = . tests\n"
    if mode == "append" and not is_package:
        # Two modules of one name: pytest does not take the second.
        files["tests/other/conftest.py"] = files.pop("tests/conftest.py")
    if is_package:
        files.update({"tests/__init__.py": "", "tests/unit/__init__.py": "import late\n"})
        files["late.py"] = ""
    twists = (
        edit("deep.py", ("deep", "edited"), True),
        edit("tests/unit/conftest.py", ("NOW = time.time()", "NOW = 1"), True),
        edit("tests/unit/conftest.py", ("NOW = 1", "NOW = time.time()"), True),
    )
    arguments = ("-rA", f"--import-mode={mode}", "tests/unit/test_a.py")
    play_parked(sandbox, Case(mode, files, twists, arguments), "behind `deep`")


CELERY = """
-- app.py
from celery import Celery

app = Celery("app", broker="memory://", backend="cache+memory://")

@app.task
def add(one, other):
    return one + other
-- conftest.py
import app

WORD = app.app.main
-- test_a.py
import app

def test_a():
    print(app.add.apply(args=(1, 2)).get(), app.add.name)
"""


def test_celery(new_sandbox) -> None:
    """billiard draws a random number when it is imported."""
    sandbox = new_sandbox(environment(also="libraries"))
    twists = (edit("app.py", ("one + other", "one - other")),)
    arguments = ("-rA", "-p", "no:django", "-p", "no:env", "-p", "no:freezer")
    case = Case("celery", CELERY, twists, arguments)
    play_parked(sandbox, case, r"(before|behind) `[\w.]+`: `.*/billiard/.*random number")


NUMPY = """
-- conftest.py
import numpy
import seeds
import late

WORD = float(numpy.random.rand())
-- seeds.py
import numpy

numpy.random.seed(7)
-- late.py
WORD = "late"
-- test_a.py
import conftest
import numpy

def test_a():
    print(conftest.WORD, float(numpy.random.rand()))
"""


def test_numpy_that_is_seeded(new_sandbox) -> None:
    sandbox = new_sandbox(environment(also="libraries"))
    twists = (edit("seeds.py", ("7", "8")), edit("late.py", ("late", "later"), True))
    arguments = ("-rA", "-p", "no:django", "-p", "no:env", "-p", "no:freezer")
    # Which is loaded when it is first asked for.
    where = "behind `numpy.random`: a conftest seeds"
    play_parked(sandbox, Case("numpy", NUMPY, twists, arguments), where)


@pytest.mark.product
def test_status_says_where_and_why(sandbox: Sandbox) -> None:
    _, case = CASES[0]
    play(sandbox, Case(case.name, case.files))
    shown = sandbox.daemon.command("status").stdout
    found = re.search(r"Z2 .*\n(.*\n)*? *not deeper: parked behind `early`: .*random number", shown)
    assert found, shown
    assert "up to behind `early`" in sandbox.log()
    last = sandbox.daemon.command("last").stdout
    assert "parked behind `early`" in last, last


@pytest.mark.product
def test_what_gains_nothing_is_no_checkpoint(sandbox: Sandbox) -> None:
    """Right before the first conftest it would be another P0."""
    files = {"conftest.py": "import os\nPID = os.getpid()\n", "test_a.py": "def test_a(): pass\n"}
    play(sandbox, Case("nothing", files))
    run = sandbox.last_run()
    assert run.checkpoint == "P0" and "identity" in (run.why or ""), run
