"""hypothesis's plugin imports 80 modules in every run's summary. A worker has them already: nobody
may be able to tell, before that moment or after it."""

from __future__ import annotations

import json

import pytest

from .harness.environments import environment
from .harness.interpreters import interpreters
from .harness.sandbox import Sandbox

# Releases between the first that imports late and the newest that was tested.
RELEASES = ["6.100.0", "6.112.0", "6.125.0", "6.151.0", "6.170.15"]

LOOKING = """
import atexit
import enum
import gc
import json
import linecache
import os
import random
import sys

def below(kind):
    names = [f"{child.__module__}.{child.__name__}" for child in kind.__subclasses__()]
    return [name for name in names if name not in ONCE]

def everything(kind, seen):
    for child in type.__subclasses__(kind):
        if child not in seen:
            seen.add(child)
            everything(child, seen)
    return seen

def loaded():
    return [name for name in sys.modules if name.partition(".")[0] in LATE]

LATE = ("hypothesis", "sortedcontainers", "fractions", "gzip")
# The tool needs them before pytest does, and Python 3.9 makes them once and for all.
ONCE = ()
if sys.version_info < (3, 10):
    ONCE = ("termios.error", "resource.struct_rusage", "unicodedata.UCD")
BASES = (random.Random, enum.Enum, Exception, BaseException, tuple, dict)

def look():
    hook = [f for f in sys.meta_path if type(f).__name__ == "AssertionRewritingHook"][0]
    rewritten = hook._rewritten_names
    return {
        "modules": list(sys.modules),
        "attributes": {name: sorted(vars(sys.modules[name])) for name in loaded()},
        "classes": {k.__name__: below(k) for k in BASES},
        # (The order in which Python readies its own classes depends on who uses them first.)
        "all classes": sorted(
            {f"{kind.__module__}.{kind.__qualname__}" for kind in everything(object, set())}
            - set(ONCE)
        ),
        "finders": list(sys.path_importer_cache),
        "lines": [name for name in linecache.cache if "hypothesis" in name],
        "rewritten": list(rewritten) if isinstance(rewritten, dict) else sorted(rewritten),
        "initialising": vars(sys.modules.get("_hypothesis_globals", sys)).get("in_initialization"),
        "exits": atexit._ncallbacks(),
        "filters": len(sys.modules["warnings"].filters),
    }

def pytest_unconfigure(config):
    with open(os.environ["LOOKED"], "a") as file:
        json.dump(look(), file)
"""

TEST = """
import json
import os

from conftest import loaded, look

def test_nothing_is_there_yet():
    assert not loaded()
    with open(os.environ["LOOKED"], "a") as file:
        print(json.dumps(look()), file=file)
"""


def looks(sandbox: Sandbox) -> None:
    sandbox.write("conftest.py", LOOKING)
    sandbox.write("test_a.py", TEST)


def looked(sandbox: Sandbox, run, *arguments: str):
    """In the test, and when the run was over."""
    answers = sandbox.base / "looked"
    answers.unlink(missing_ok=True)
    outcome = run(*arguments, env={"LOOKED": str(answers)})
    assert outcome.status == 0, outcome
    return [json.loads(line) for line in answers.read_text().splitlines()]


def ahead(sandbox: Sandbox) -> object:
    """What became of what was imported ahead in the last run."""
    return sandbox.last_run().ahead


def assert_adopted(sandbox: Sandbox) -> None:
    assert ahead(sandbox) == "Adopted", sandbox.daemon.status()


def assert_invisible(sandbox: Sandbox) -> None:
    looks(sandbox)
    looked(sandbox, sandbox.plain)
    plain = looked(sandbox, sandbox.plain)
    looked(sandbox, sandbox.warm_up)
    warm = looked(sandbox, sandbox.warm)
    for moment, (expected, found) in enumerate(zip(plain, warm)):
        for what, value in expected.items():
            assert found[what] == value, (moment, what)
    assert len(warm) == len(plain) == 2
    assert [name for name in plain[1]["modules"] if name not in plain[0]["modules"]]
    assert_adopted(sandbox)


@pytest.mark.parametrize("python", interpreters(), ids=lambda v: f"py{v}")
def test_nobody_can_tell(new_sandbox, late_environment, python: str) -> None:
    assert_invisible(new_sandbox(late_environment(python)))


@pytest.mark.parametrize("release", RELEASES)
def test_releases(new_sandbox, late_environment, tmp_path, release: str) -> None:
    env = late_environment().clone(tmp_path / "env")
    env.install(f"hypothesis=={release}")
    assert_invisible(new_sandbox(env))


@pytest.fixture
def sandbox(new_sandbox, late_environment) -> Sandbox:
    return new_sandbox(late_environment())


def test_what_hypothesis_itself_does_is_the_same(sandbox: Sandbox) -> None:
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    sandbox.same()
    assert_adopted(sandbox)
    sandbox.same_warm("--hypothesis-show-statistics")
    assert "Natural" in ahead(sandbox)
    sandbox.write(
        "test_b.py",
        """
        from hypothesis import given, strategies

        @given(strategies.integers())
        def test_b(n):
            assert n < 1000
        """,
    )
    sandbox.same("--hypothesis-seed=1")
    assert "Natural" in ahead(sandbox)
    sandbox.same_warm("--hypothesis-seed=1", "-k", "test_a")
    assert "Natural" in ahead(sandbox)


@pytest.mark.parametrize(
    ("conftest", "why"),
    [
        pytest.param(
            "import sortedcontainers",
            "`sortedcontainers.sortedlist` was imported before",
            id="one of them was imported",
        ),
        pytest.param(
            """
            import sys, types
            sys.modules["sortedcontainers"] = types.ModuleType("sortedcontainers")
            sys.modules["sortedcontainers"].SortedList = list
            """,
            "`sortedcontainers` was imported before",
            id="one is replaced",
        ),
        pytest.param(
            "import os; os.environ['HYPOTHESIS_NO_PLUGINS'] = '1'",
            "`HYPOTHESIS_NO_PLUGINS` has another value in the environment",
            id="environment",
        ),
        pytest.param(
            """
            import random
            class Random(random.Random):
                pass
            random.Random = Random
            """,
            "`Random` of `random` was replaced",
            id="a patched class",
        ),
        pytest.param(
            """
            import builtins
            natural = builtins.__import__
            def importing(name, *args):
                if name.startswith("hypothesis"):
                    print("importing", name)
                return natural(name, *args)
            builtins.__import__ = importing
            """,
            "is imported by",
            id="an import function",
        ),
        pytest.param(
            """
            import sys
            class Finder:
                @staticmethod
                def find_spec(name, path=None, target=None):
                    if name.startswith("hypothesis"):
                        print("finding", name)
            sys.meta_path.insert(0, Finder)
            """,
            "there are other finders",
            id="a finder",
        ),
        pytest.param(
            """
            import sys
            def pytest_terminal_summary():
                sys.setprofile(lambda *args: None)
            """,
            "the run is traced",
            id="a profiler",
        ),
        pytest.param(
            "import sys; sys.platform = 'win32'",
            "`platform` of `sys` was replaced",
            id="a patched value",
        ),
        pytest.param(
            "import sys, types; sys.modules['annotated_types'] = types.ModuleType('a')",
            "`annotated_types` was imported before",
            id="looked for",
        ),
        pytest.param(
            """
            import sys
            import json as other
            del sys.modules["json"]
            import json
            """,
            "`json` is another module",
            id="another module",
        ),
        pytest.param(
            """
            import _hypothesis_globals
            def pytest_terminal_summary():
                _hypothesis_globals.in_initialization = 0
            """,
            "`in_initialization` is not above zero",
            id="a counter",
        ),
        pytest.param(
            "def pytest_configure(): import hypothesis.internal.observability",
            "is imported by",
            id="imported by a conftest",
        ),
        pytest.param(
            "import pytest; pytest.register_assert_rewrite('sortedcontainers.sortedlist')",
            "`sortedcontainers.sortedlist` is to be rewritten",
            id="rewriting",
        ),
    ],
)
def test_an_import_that_would_do_something_else_is_made(
    sandbox: Sandbox, conftest: str, why: str
) -> None:
    sandbox.write("conftest.py", conftest)
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    sandbox.same("-s")
    found = ahead(sandbox)
    assert isinstance(found, dict) and why in found["Natural"], sandbox.daemon.status().raw


def test_a_variable_that_only_the_import_reads_is_no_reason_against_the_rest(
    sandbox: Sandbox,
) -> None:
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    sandbox.warm_up()
    sandbox.same_warm(env={"HYPOTHESIS_NO_PLUGINS": "1"})
    assert "has another value in the environment" in ahead(sandbox)["Natural"]


@pytest.mark.parametrize("delay", [0.0002, 0.0005, 0.001, 0.002])
def test_a_signal_during_the_import_is_not_lost(sandbox: Sandbox, delay: float) -> None:
    """Ctrl-C, or the alarm of a time limit, in the middle of it."""
    sandbox.write(
        "conftest.py",
        f"""
        import signal

        import pytest

        def handle(number, frame):
            raise KeyboardInterrupt

        @pytest.hookimpl(tryfirst=True)
        def pytest_terminal_summary():
            signal.signal(signal.SIGALRM, handle)
            signal.setitimer(signal.ITIMER_REAL, {delay})

        @pytest.hookimpl(trylast=True)
        def pytest_unconfigure():
            # Later than anything here takes.
            signal.sigtimedwait([signal.SIGALRM], 0.1)
        """,
    )
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    sandbox.warm_up("--co", "-q")
    plain, warm = sandbox.plain("-q"), sandbox.warm("-q")
    assert (warm.status, "KeyboardInterrupt" in str(warm)) == (
        plain.status,
        "KeyboardInterrupt" in str(plain),
    )


def test_what_it_loads_of_python_is_loaded_anew_by_others(sandbox: Sandbox) -> None:
    """In a test, in another interpreter, after having been taken away."""
    sandbox.write(
        "test_a.py",
        """
        import sys

        import pytest

        def test_alone():
            assert "fractions" not in sys.modules
            import fractions
            fractions.marker = 1
            assert sys.modules.pop("fractions") is fractions
            import fractions as again
            assert not hasattr(again, "marker")
            assert fractions.Fraction in fractions.numbers.Rational.__subclasses__()
            del sys.modules["fractions"]

        @pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="crashes in plain pytest too")
        def test_other_interpreter():
            interpreters = pytest.importorskip("_xxsubinterpreters")
            other = interpreters.create()
            interpreters.run_string(other, "import fractions")
            interpreters.destroy(other)
            assert "fractions" not in sys.modules
        """,
    )
    assert sandbox.same().status == 0


def test_who_listens_to_imports_hears_them(sandbox: Sandbox) -> None:
    sandbox.write(
        "conftest.py",
        """
        import sys
        heard = []
        sys.addaudithook(lambda event, args: event == "import" and heard.append(args[0]))

        def pytest_unconfigure():
            print(*(name for name in heard if "hypothesis" in name), sep="\\n")
        """,
    )
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    assert "hypothesis.internal.observability" in sandbox.same("-s").stdout
    assert ahead(sandbox) == "Nothing"


def test_a_module_of_that_name_in_the_project_is_found_first(sandbox: Sandbox) -> None:
    sandbox.write("conftest.py", "import sys; sys.path.insert(0, 'src')\n")
    sandbox.write("src/sortedcontainers.py", "raise ImportError('not the one you know')\n")
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    assert "not the one you know" in str(sandbox.same())
    assert "`sortedcontainers` is found elsewhere" in ahead(sandbox)["Natural"]


def test_an_extension_module_that_holds_on_to_others_is_left_alone(new_sandbox) -> None:
    """`_asyncio` keeps asyncio's exceptions: a second asyncio would have others."""
    sandbox = new_sandbox(environment(also="few"))
    sandbox.write(
        "test_a.py",
        """
        import asyncio

        async def cancelled():
            task = asyncio.ensure_future(asyncio.sleep(10))
            await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                return True

        def test_a():
            assert asyncio.run(cancelled())
        """,
    )
    assert sandbox.same().status == 0
    assert "by an extension module" in json.dumps(sandbox.daemon.status().raw["roots"])


def test_files_of_other_names_are_rewritten(sandbox: Sandbox) -> None:
    sandbox.write("pytest.ini", "[pytest]\npython_files = *.py\n")
    sandbox.write("check.py", "def test_a():\n    pass\n")
    sandbox.same()
    assert_adopted(sandbox)


def test_the_names_of_a_run_in_a_run_are_its_own(sandbox: Sandbox) -> None:
    """pytester takes modules away again that a test run in the process has loaded."""
    sandbox.write("conftest.py", "pytest_plugins = ['pytester']\n")
    sandbox.write(
        "test_a.py",
        """
        import sys

        def test_a(pytester):
            pytester.makepyfile(test_inner="def test_inner(): pass")
            pytester.runpytest_inprocess().assert_outcomes(passed=1)
            assert "hypothesis" not in sys.modules
        """,
    )
    sandbox.same()
    assert ahead(sandbox) == {"Natural": "there are other finders"}


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        ("import warnings; warnings.warn('old')", "it warned: old"),
        ("import logging; logging.getLogger('extra.new')", "it made the logger `extra.new`"),
        ("import atexit; atexit.register(print)", "it changed the exit functions"),
        ("import os; os.environ['NEW'] = '1'", "it changed the environment"),
        ("import os; dict(os.environ)", "it read the whole environment"),
        ("import json; json.loads = print", "it set `loads` of `json`"),
        ("import json; json.JSONEncoder.new = 1", "it changed the class `JSONEncoder`"),
        ("import sys; sys.path.append('/new')", "it changed `path` of `sys`"),
        ("import sys; sys.modules['json'] = sys", "it replaced or removed the module `json`"),
        ("import sys; del sys.modules['json']", "it replaced or removed the module `json`"),
        ("import sys; globals()['argv'] = sys.argv", "it set `argv` of `extra_hook`"),
        ("import linecache; linecache.cache.clear()", "it changed `cache` of `linecache`"),
        ("import random; random.seed(1)", "seeds the global generator"),
        ("import time; time.time()", "reads the clock"),
        ("print('loud')", "a plugin printed 'loud'"),
        ("open('new', 'w')", "`open to write`"),
        ("1 / 0", "division by zero"),
    ],
)
def test_what_cannot_be_taken_back_is_not_made_ahead(
    new_sandbox, late_environment, tmp_path, hook: str, why: str
) -> None:
    """hypothesis loads plugins of its own when it is imported. This one is pytest's, too, so it
    is loaded before, and what it does is all that stands in the way."""
    env = late_environment().clone(tmp_path / "env")
    info = env.site_packages / "extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
    points = "[hypothesis]\nextra = extra_hook:hook\n[pytest11]\nextra = extra_hook\n"
    (info / "entry_points.txt").write_text(points)
    module = f"""
import json, linecache, logging, random
linecache.getline(__file__, 1)
logging.getLogger("extra")

def hook():
    {hook}
"""
    (env.site_packages / "extra_hook.py").write_text(module)
    sandbox = new_sandbox(env)
    sandbox.write("test_a.py", "import json\n\ndef test_a():\n    print(json.__name__)\n")
    sandbox.same("-s")
    assert ahead(sandbox) == "Nothing"
    assert why in json.dumps(sandbox.daemon.status().raw["roots"])
