"""Whether what runs between the initial conftests and the first test module is quiet: the list of
plugins, and what projects do there, looked at from inside real runs of plain pytest."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from .harness.environments import PYTESTS, Environment, environment, write_wheel

# Asks right after the initial conftests were loaded, as a checkpoint would.
CHECK = """
import json
import os
import sys

import pytest

def state():
    modules = list(sys.modules)
    return {
        "modules": modules,
        "environment": dict(os.environ),
        # Where the test module is comes first, by then.
        "path": sys.path[-len(BEFORE.get("path", sys.path)):],
        "finders": [str(type(finder)) for finder in sys.meta_path],
        "hooks": list(map(str, sys.path_hooks)),
        "directory": os.getcwd(),
        "level": sys.modules["logging"].root.level,
    }

BEFORE = {}

@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config):
    yield
    known = set(sys.modules)
    from pyseidon import quiet_plugins
    answer = {
        "reason": quiet_plugins.why_not(early_config),
        "modules": quiet_plugins.why_not_modules(early_config, ["os", "hypothesis.stateful"]),
    }
    with open(os.environ["ANSWER"], "w") as file:
        json.dump(answer, file)
    for name in set(sys.modules) - known:
        del sys.modules[name]
    for names in quiet_plugins.GAP_IMPORTS.values():
        for name in names:
            if name.partition(".")[0] in sys.modules or name in quiet_plugins.GAP_IMPORTS["pytest"]:
                __import__(name)
    BEFORE.update(state())

def look():
    with open(os.environ["ANSWER"] + ".gap", "w") as file:
        json.dump([BEFORE, state()], file)
"""

TEST = """
import check
check.look()

def test_a():
    pass
"""


class Project:
    def __init__(self, root: Path, env: Environment) -> None:
        self.root = root
        self.env = env
        (root / "checks").mkdir()
        (root / "checks" / "check.py").write_text(CHECK)
        (root / "project").mkdir()
        self.write("test_a.py", TEST)
        self.write("pytest.ini", "[pytest]\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def ask(self, *arguments: str, **variables: str) -> dict:
        """What `quiet_plugins` says inside a run with these arguments."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        answer = self.root / "answer"
        done = subprocess.run(
            [self.env.python, self.env.bin / "pytest", "-p", "check", *arguments, "test_a.py"],
            cwd=self.root / "project",
            env={**kept, "PYTHONPATH": str(self.root / "checks"), "ANSWER": str(answer)}
            | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.exists(), done.stdout + done.stderr
        found = json.loads(answer.read_text())
        self.output = done.stdout + done.stderr
        return found

    def why_not(self, *arguments: str, **variables: str) -> str | None:
        return self.ask(*arguments, **variables)["reason"]

    def gap(self) -> tuple[dict, dict]:
        """What imports see before and after the gap of the last run."""
        path = self.root / "answer.gap"
        assert path.exists(), self.output
        before, after = json.loads(path.read_text())
        return before, after


@pytest.fixture(scope="module")
def with_plugins() -> Environment:
    return environment(pytest="8.4.2", also="plugins")


@pytest.fixture(params=["7.4.4", PYTESTS[-1]])
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Project:
    return Project(tmp_path, environment(pytest=request.param))


@pytest.fixture
def many(tmp_path: Path, with_plugins: Environment) -> Project:
    return Project(tmp_path, with_plugins)


def nothing_happened(project: Project) -> None:
    before, after = project.gap()
    new = [name for name in after["modules"] if name not in set(before["modules"])]
    assert new == ["test_a"]
    for name in before:
        if name != "modules":
            assert after[name] == before[name], name


@pytest.mark.parametrize("version", PYTESTS)
def test_pytest_alone_is_quiet(tmp_path: Path, version: str) -> None:
    project = Project(tmp_path, environment(pytest=version))
    assert project.why_not() is None
    nothing_happened(project)


def test_nineteen_plugins_are_quiet(many: Project) -> None:
    assert many.why_not() is None
    nothing_happened(many)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--lf"], "lf"),
        (["--ff"], "failedfirst"),
        (["--nf"], "newfirst"),
        (["--sw"], "stepwise"),
        (["--ignore=x"], "ignore"),
        (["--doctest-modules"], "doctestmodules"),
        (["--pyargs"], "pyargs"),
        (["--markers"], "markers"),
        (["--fixtures"], "showfixtures"),
        (["--trace"], "trace"),
        (["--log-level=INFO"], "log_level"),
        (["-n1"], "numprocesses"),
        (["--dist=load"], "dist"),
        (["--tx=popen"], "tx"),
        (["--cov=."], "cov_source"),
        (["--html=report.html"], "htmlpath"),
        (["--hypothesis-seed=1"], "hypothesis_seed"),
        (["--cucumberjson=a.json"], "cucumber_json_path"),
        (["--benchmark-storage=elasticsearch+http://localhost"], "benchmark_storage"),
    ],
)
def test_options_that_are_not_quiet(many: Project, arguments: list[str], option: str) -> None:
    assert many.why_not(*arguments) == f"the option `{option}` is set"


@pytest.mark.parametrize(
    "arguments",
    [["-k", "a"], ["-xq"], ["-n0"], ["--no-cov"], ["--tb=short"], ["--deselect=x"], ["--co"]],
)
def test_options_that_are_quiet(many: Project, arguments: list[str]) -> None:
    assert many.why_not(*arguments) is None
    nothing_happened(many)


def test_settings_that_are_not_quiet(project: Project) -> None:
    project.write("pytest.ini", "[pytest]\nlog_cli_level = DEBUG\n")
    assert project.why_not() == "the setting `log_cli_level` is set"


def test_a_header_that_imports_hypothesis(many: Project) -> None:
    assert many.why_not("-v") == "with `-v`, `pytest_report_header` of `hypothesis` imports it"
    before, after = many.gap()
    assert "hypothesis" in set(after["modules"]) - set(before["modules"])
    many.write("conftest.py", "import hypothesis\n")
    assert many.why_not("-v") is None
    nothing_happened(many)


def test_modules_that_a_plugin_prepares_for(many: Project) -> None:
    reason = "`hypothesis.stateful` is imported, which `hypothesis` prepares for in each run"
    assert many.ask()["modules"] == reason
    assert many.ask("-p", "no:hypothesispytest")["modules"] is None


FIRST = "runs before the first test module"
CONFTESTS = [
    ("", None),
    ("import os\nX = os.getcwd()\ndef pytest_runtest_setup(item): print(item)", None),
    ("def pytest_configure(config): pass", None),
    ("def pytest_configure(config):\n    'text'\n    return None", None),
    ("def pytest_configure(config): config.addinivalue_line('markers', 'slow: is slow')", None),
    ("def pytest_addoption(parser):\n    parser.addoption('--a', type=int, help='')"
     "\n    group = parser.getgroup('b')\n    group.addoption('--b', choices=['c', 'd'])"
     "\n    parser.getgroup('e').addoption('--e')\n    parser.addini('f', 'help', default=[])",
     None),
    ("def pytest_report_header(config): return 'header'", None),
    ("import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_configure(config): pass", None),
    ("import app\ndef pytest_configure(config): app.X = 1", "pytest_configure"),
    ("def pytest_configure(config): config.addinivalue_line('filterwarnings', 'error')",
     "pytest_configure"),
    ("def pytest_configure(config):\n    assert 1\n", "pytest_configure"),
    ("import app\ndef pytest_configure(config): app.addinivalue_line('markers', 'a')",
     "pytest_configure"),
    ("def pytest_configure(config): config.addinivalue_line('markers', str(config.args))",
     "pytest_configure"),
    ("def pytest_addoption(parser): parser.addoption('--a', type=lambda text: 1)",
     "pytest_addoption"),
    ("def int(text): return 1\ndef pytest_addoption(parser): parser.addoption('--a', type=int)",
     "pytest_addoption"),
    ("import pytest\n@pytest.hookimpl(hookwrapper=True)\ndef pytest_collection(session): yield",
     "pytest_collection"),
    ("def pytest_sessionstart(session): print()", "pytest_sessionstart"),
    ("def pytest_report_header(config): return str(config)", "pytest_report_header"),
    ("def pytest_collect_file(file_path): print()", "pytest_collect_file"),
    ("def pytest_ignore_collect(collection_path): print()", "pytest_ignore_collect"),
    ("def pytest_collectstart(collector): print()", "pytest_collectstart"),
    ("pytest_configure = print", "pytest_configure"),
    ("import app\nclass Plugin:\n    def pytest_configure(self, config): app.X = 1\n"
     "def pytest_addoption(parser, pluginmanager): pluginmanager.register(Plugin())",
     "pytest_addoption"),
]  # fmt: skip


@pytest.mark.parametrize(("conftest", "hook"), CONFTESTS)
def test_conftests(project: Project, conftest: str, hook: str | None) -> None:
    project.write("app.py", "def addinivalue_line(*args): pass\n")
    project.write("conftest.py", conftest + "\n")
    reason = project.why_not(PYTHONPATH=f"{project.root}/checks:{project.root}/project")
    assert reason == (hook and f"`{hook}` of `conftest.py` {FIRST}")


@pytest.mark.parametrize("name", ["collect_ignore", "collect_ignore_glob"])
def test_a_conftest_that_ignores_files(project: Project, name: str) -> None:
    project.write("conftest.py", f"{name} = ['b*']\n")
    assert project.why_not() == f"`{name}` of `conftest.py` decides what is collected"


ACTING = "def pytest_configure(config):\n    config.seen = len(config.args)\n"
MARKS = "def pytest_configure(config):\n    config.addinivalue_line('markers', 'a')\n"


@pytest.mark.parametrize(
    ("name", "version", "module", "text", "owner"),
    [
        # Listed, in a version that was read, in one after these, before these, with no number.
        ("pytest-order", "1.3.1", "pytest_order", ACTING, None),
        ("pytest-order", "1.99.1", "pytest_order", ACTING, "`pytest-order` 1.99.1"),
        ("pytest-order", "0.1", "pytest_order", ACTING, "`pytest-order` 0.1"),
        ("pytest-order", "next", "pytest_order", ACTING, "`pytest-order` next"),
        # Not listed.
        ("pytest-other", "1.3.1", "pytest_other", ACTING, "`pytest-other` 1.3.1"),
        ("pytest-other", "1.3.1", "pytest_other", MARKS, None),
    ],
)
def test_versions(
    own_environment: Environment,
    tmp_path: Path,
    name: str,
    version: str,
    module: str,
    text: str,
    owner: str | None,
) -> None:
    wheel = write_wheel(
        tmp_path / "wheels", name.replace("-", "_"), version, {f"{module}.py": text}, module
    )
    # (Not by pip, which takes no version like `next`.)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(own_environment.site_packages)
    project = Project(tmp_path, own_environment)
    assert project.why_not() == (owner and f"`pytest_configure` of {owner} {FIRST}")


def test_a_listed_plugin_that_is_being_worked_on(project: Project) -> None:
    """It lies in the project, not among what is installed."""
    project.write("pytest_order.py", ACTING)
    reason = project.why_not("-p", "pytest_order", PYTHONPATH=f"{project.root}/checks:.")
    assert reason == f"`pytest_configure` of `pytest_order.py` {FIRST}"
