"""What each runner can do, found out by trying: a fast answer to another question is no gain.

Plain pytest passes all of them: it is asked too, as the check of the probes.
"""

import time
from dataclasses import dataclass

from environments import MANY, TESTS_PER_FILE, Unavailable

# Long enough for the slowest watcher among the peers (it polls every two seconds), and longer
# than anybody needs from saving a file to running a test.
AFTER_EDIT = 2.5
TIMEOUT = 30.0

ENVIRONMENT_TEST = """import os


def test_environment():
    assert os.environ["BENCH_PROBE"] == "1"
"""


@dataclass(frozen=True)
class Probe:
    name: str
    title: str


PROBES = (
    Probe("subset", "one file"),
    Probe("keyword", "`-k`"),
    Probe("option", "an option that writes a report"),
    Probe("environment", "sees a changed variable"),
    Probe("edit", "sees an edited function"),
    Probe("constant", "sees an edited constant"),
)


def probe_all(bench, runner):
    """By probe: `None` if the runner can, else why not."""
    answers = {}
    for probe in PROBES:
        try:
            answers[probe.name] = globals()[f"probe_{probe.name}"](bench, runner)
        except Unavailable as error:
            answers[probe.name] = str(error)
        finally:
            runner.extra = {}
            runner.stop()
    return answers


def ask(bench, runner, arguments, expected):
    """Runs, and says what is wrong with the answer."""
    done = bench.once(runner, arguments, timeout=TIMEOUT)
    passed = runner.passed(done.output)
    if done.status == 0 and passed == expected:
        return None
    if done.status == 0:
        return f"ran {passed} tests instead of {expected}"
    return complaint(done)


def complaint(done):
    if done.status < 0:
        return f"no answer after {TIMEOUT:.0f} s"
    lines = [line for line in done.output.splitlines() if "error" in line.lower()]
    return (lines or [f"exit status {done.status}"])[-1].strip()[:120]


def probe_subset(bench, runner):
    runner.start(())
    return ask(bench, runner, ("tests/test_one.py",), 1)


def probe_keyword(bench, runner):
    runner.start(())
    return ask(bench, runner, ("tests/many", "-k", "test_00_"), TESTS_PER_FILE)


def probe_option(bench, runner):
    report = runner.cwd / runner.project.option_file
    report.unlink(missing_ok=True)
    runner.start(())
    wrong = ask(bench, runner, ("tests/test_one.py", runner.project.option), 1)
    if not wrong and not report.exists():
        wrong = f"`{runner.project.option}` wrote nothing"
    return wrong


def probe_environment(bench, runner):
    (runner.cwd / "tests" / "test_environment.py").write_text(ENVIRONMENT_TEST)
    arguments = ("tests/test_environment.py",)
    runner.extra = {"BENCH_PROBE": "1"}
    runner.start(arguments)
    wrong = ask(bench, runner, arguments, 1)
    if wrong:
        return wrong
    runner.extra = {"BENCH_PROBE": "2"}
    return must_fail(bench, runner, arguments, "passed with the old value")


def probe_edit(bench, runner):
    """A function's body, in a module that the tests import it from."""
    source = runner.cwd / "src" / "app" / "service.py"
    right = source.read_text()
    wrong = right.replace("n + 1", "n + 1 + 1").replace("(n) + 1", "(n) + 1 + 1")
    return edit(bench, runner, ("tests/many",), MANY, source, wrong)


def probe_constant(bench, runner):
    """A constant that a second module has imported by name."""
    source = runner.cwd / "src" / "app" / "limits.py"
    source.write_text("LIMIT = 1\n")
    (source.parent / "rules.py").write_text("from app.limits import LIMIT\n\n__all__ = ['LIMIT']\n")
    test = "from app.rules import LIMIT\n\n\ndef test_limit():\n    assert LIMIT == 1\n"
    (runner.cwd / "tests" / "test_limit.py").write_text(test)
    return edit(bench, runner, ("tests/test_limit.py",), 1, source, "LIMIT = 1 + 1\n")


def edit(bench, runner, arguments, expected, source, new):
    right = source.read_text()
    runner.start(arguments)
    wrong = ask(bench, runner, arguments, expected)
    if wrong:
        return wrong
    try:
        source.write_text(new)
        time.sleep(AFTER_EDIT)
        return must_fail(bench, runner, arguments, "passed with the old code")
    finally:
        source.write_text(right)


def must_fail(bench, runner, arguments, otherwise):
    done = bench.once(runner, arguments, timeout=TIMEOUT)
    if done.status == 1 or "1 failed" in done.output:
        return None
    return otherwise if done.status == 0 else complaint(done)
