"""The worker is the process that the user expected: all that it can find out about itself.

`fixtures/facts/facts.py` asks; here plain pytest's answers are compared with those of a worker, at
four moments of a run, and in several surroundings.
"""

from __future__ import annotations

import ast
import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from .harness.environments import environment
from .harness.interpreters import DEFAULT, interpreters
from .harness.projects import FIXTURES
from .harness.sandbox import Sandbox

FACTS = [
    function.name
    for function in ast.parse((FIXTURES / "facts" / "facts.py").read_text()).body
    if isinstance(function, ast.FunctionDef) and function.decorator_list
]
MOMENTS = [
    "while the conftest is imported",
    "when pytest is configured",
    "in a test",
    "at exit",
]

Answers = dict  # moment to fact to answer


def ask(sandbox: Sandbox, run: Callable[..., Any], *arguments: str, **how: Any) -> Answers:
    answers = sandbox.base / "facts.jsonl"
    answers.unlink(missing_ok=True)
    how["env"] = {"FACTS": str(answers), **how.get("env", {})}
    outcome = run(*arguments, **how)
    assert outcome.status == 0, outcome
    return {
        record["moment"]: record["facts"]
        for record in map(json.loads, answers.read_text().splitlines())
    }


@pytest.fixture(scope="module", params=list(interpreters()), ids=lambda v: f"py{v}")
def answers(request: pytest.FixtureRequest) -> Iterator[tuple[Answers, Answers]]:
    """Of plain pytest and of a worker."""
    sandbox = Sandbox(environment(request.param))
    try:
        sandbox.copy(FIXTURES / "facts")
        plain = ask(sandbox, sandbox.plain)
        ask(sandbox, sandbox.warm_up)
        yield plain, ask(sandbox, sandbox.warm)
    finally:
        sandbox.close()


@pytest.mark.xdist_group("facts")
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("fact", FACTS)
def test_fact(answers: tuple[Answers, Answers], fact: str, moment: str) -> None:
    plain, worker = answers
    assert worker[moment][fact] == plain[moment][fact]


def assert_all_the_same(
    sandbox: Sandbox, *arguments: str, run: str = "warm", **how: Any
) -> Answers:
    plain = ask(sandbox, sandbox.plain, *arguments, **how)
    worker = ask(sandbox, getattr(sandbox, run), *arguments, **how)
    for moment in MOMENTS:
        different = {
            fact: {"plain": plain[moment][fact], "worker": worker[moment][fact]}
            for fact in plain[moment]
            if worker[moment][fact] != plain[moment][fact]
        }
        assert not different, f"{moment}:\n{json.dumps(different, indent=1)}"
    return worker


@pytest.fixture
def facts(sandbox: Sandbox) -> Sandbox:
    sandbox.copy(FIXTURES / "facts")
    return sandbox


@pytest.mark.parametrize("capture", ["no", "sys", "fd", "tee-sys"])
def test_ways_to_capture(facts: Sandbox, capture: str) -> None:
    ask(facts, facts.warm_up, f"--capture={capture}")
    assert_all_the_same(facts, f"--capture={capture}")


def lower(which: int, soft: int, hard: int | None = None) -> None:
    resource.setrlimit(which, (soft, hard or resource.getrlimit(which)[1]))


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"before": lambda: os.umask(0o027)}, id="umask"),
        pytest.param({"before": lambda: lower(resource.RLIMIT_NOFILE, 200)}, id="soft limit"),
        pytest.param({"before": lambda: lower(resource.RLIMIT_NOFILE, 200, 300)}, id="hard limit"),
        pytest.param({"before": lambda: lower(resource.RLIMIT_CORE, 0)}, id="core"),
        pytest.param({"before": lambda: lower(resource.RLIMIT_STACK, 4 << 20)}, id="stack"),
        pytest.param(
            {"before": lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})}, id="cpus"
        ),
        pytest.param({"before": lambda: os.nice(3)}, id="nice"),
        pytest.param({"before": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}, id="nohup"),
        pytest.param(
            {"before": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}, id="in background"
        ),
        pytest.param(
            {"before": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [10, 15])},
            id="signals blocked",
        ),
        pytest.param({"before": lambda: os.close(0)}, id="stdin closed"),
        pytest.param({"start_new_session": True}, id="session"),
        pytest.param({"before": lambda: [os.dup2(1, 7), os.dup2(0, 40)]}, id="more descriptors"),
    ],
)
def test_inherited_by_every_process(facts: Sandbox, how: dict[str, Any]) -> None:
    """What the caller hands down arrives: where the checkpoint was made for such a caller, and
    where it was made for another one."""
    ask(facts, facts.warm_up, **how)
    assert_all_the_same(facts, **how)
    ask(facts, facts.warm_up)
    assert_all_the_same(facts)
    assert_all_the_same(facts, **how)


@pytest.mark.parametrize("closed", [{1}, {2}, {0, 1}, {0, 1, 2}], ids=str)
def test_closed_streams(facts: Sandbox, closed: set[int]) -> None:
    """pytest itself gets into trouble then: into the same."""

    def close() -> None:
        for fd in closed:
            os.close(fd)

    variables = {"FACTS": os.devnull}
    facts.warm_up(env=variables)
    facts.same_warm(before=close, env=variables)


@pytest.mark.parametrize(
    "variables",
    [
        {"SHOP": "corner", "EMPTY": "", "NOT ASCII": "größe"},
        {"LANG": None},
        {"LANG": "C", "LC_ALL": "POSIX"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TZ": "Asia/Kathmandu"},
        {"PYTHONHASHSEED": "0"},
        {"PYTHONHASHSEED": "42"},
        {"PYTHONIOENCODING": "latin-1:replace"},
        {"PYTHONUNBUFFERED": "1"},
        {"PYTHONWARNINGS": "ignore::UserWarning,error::ResourceWarning"},
        {"PYTHONDONTWRITEBYTECODE": "1"},
        {"PYTHONDEVMODE": "1"},
        {"PYTHONOPTIMIZE": "1"},
        {"PYTHONPATH": "/nowhere:.:"},
        {"PYTHONSAFEPATH": "1"},
        {"PYTHONNOUSERSITE": "1"},
        {"PYTHONFAULTHANDLER": "1"},
        {"PYTHONTRACEMALLOC": "3"},
        {"PYTHONPYCACHEPREFIX": "/tmp/psd-no-such-prefix"},
        {"HOME": "/nowhere", "PATH": "/usr/bin:/bin"},
        {"COLUMNS": "50", "LINES": "9"},
        {"PYTEST_ADDOPTS": "-v"},
        {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    ],
    ids=lambda variables: " ".join(f"{k}={v}" for k, v in variables.items()),
)
def test_environment_variables(facts: Sandbox, variables: dict[str, str | None]) -> None:
    ask(facts, facts.warm_up, env=variables)
    assert_all_the_same(facts, env=variables)


def test_variables_that_change_between_runs(facts: Sandbox) -> None:
    """One checkpoint serves them all: nothing of it depends on these."""
    ask(facts, facts.warm_up)
    for variables in ({"A": "1"}, {"B": "2", "A": None}, {}, {"TMPDIR": "/tmp"}):
        assert_all_the_same(facts, env=variables)


def test_time_zone_that_changes_between_runs(facts: Sandbox) -> None:
    """The C library keeps it from the first time that it was asked for."""
    ask(facts, facts.warm_up)
    for zone in ("UTC-3", "Asia/Kathmandu", None, "UTC-3"):
        assert_all_the_same(facts, env={"TZ": zone}, run="first")


def test_a_variable_twice(facts: Sandbox) -> None:
    """`execve` allows it; a shell may hand on what it was handed."""
    runner = facts.base / "twice.py"
    runner.write_text(
        "import ctypes, sys\n"
        "program, *env = [word.encode() for word in sys.argv[1:]]\n"
        "def array(items): return (ctypes.c_char_p * (len(items) + 1))(*items, None)\n"
        "ctypes.CDLL(None).execve(program, array([program]), array(env))\n"
    )
    answers_file = facts.base / "facts.jsonl"

    def run(program: Path) -> str:
        answers_file.unlink(missing_ok=True)
        variables = {**facts.env, "FACTS": str(answers_file)}
        entries = [f"{k}={v}" for k, v in variables.items()] + ["TWICE=1", "TWICE=2"]
        outcome = facts.run(facts.environment.python, str(runner), str(program), *entries)
        assert outcome.status == 0, outcome
        return answers_file.read_text()

    ask(facts, facts.warm_up)

    def environments(text: str) -> list[Any]:
        records = [json.loads(line)["facts"] for line in text.splitlines()]
        return [[r["environment"], r["environment_in_c"]] for r in records]

    plain = environments(run(facts.pytest))
    assert environments(run(facts.pyseidon)) == plain


def test_default_python_is_among_them() -> None:
    assert DEFAULT in interpreters()
