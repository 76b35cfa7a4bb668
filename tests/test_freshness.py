"""Never stale: whatever has changed since the last run, the next one knows.

Each test changes something that plain pytest would notice, and runs pyseidon-test right after it;
plain pytest says what the answer should have been. A warm run comes before each change, so that
there is something that could be stale.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from .harness.environments import Environment, write_wheel
from .harness.outcome import assert_same
from .harness.rendezvous import eventually
from .harness.sandbox import Sandbox

PLUGIN = "def pytest_report_header(config):\n    return 'tiny: {word}'\n"


@pytest.fixture
def project(new_sandbox, tiny_environment: Environment, tmp_path: Path) -> Sandbox:
    """With an environment of its own, which the test may change."""
    sandbox = new_sandbox(tiny_environment.clone(tmp_path / "env"))
    fill(sandbox)
    return sandbox


@pytest.fixture
def unchanging(new_sandbox, tiny_environment: Environment) -> Sandbox:
    """With an environment that is shared with other tests."""
    sandbox = new_sandbox(tiny_environment)
    fill(sandbox)
    return sandbox


def fill(sandbox: Sandbox) -> None:
    sandbox.write("pytest.ini", "[pytest]\n")
    sandbox.write("test_a.py", "def test_a():\n    pass\n")


def install(sandbox: Sandbox, name: str, version: str, modules: dict[str, str], **how) -> None:
    wheel = write_wheel(sandbox.base / "wheels", name, version, modules, **how)
    sandbox.environment.install("--no-deps", "--no-index", "--force-reinstall", wheel)


def make_warm(sandbox: Sandbox, *arguments: str, **how) -> None:
    sandbox.warm_up(*arguments, **how)
    sandbox.warm(*arguments, **how)


def says(sandbox: Sandbox, *words: str, **how) -> None:
    """Plain pytest shows these words now, and pyseidon-test exactly what plain pytest shows."""
    shown = sandbox.same_at_once(**how).stdout
    for word in words:
        assert word in shown, shown


# ------------------------------------------------------------------ the environment


def test_plugin_edited_in_site_packages(project: Sandbox) -> None:
    make_warm(project)
    (project.environment.site_packages / "tiny.py").write_text(PLUGIN.format(word="edited"))
    says(project, "tiny: edited")
    project.until_ready()
    project.same_warm()


def test_dependency_of_a_plugin_edited(project: Sandbox) -> None:
    make_warm(project)
    says(project, "tiny with one")
    (project.environment.site_packages / "tinydep.py").write_text("WORD = 'another'\n")
    says(project, "tiny with another")


def test_pytest_itself_edited(project: Sandbox) -> None:
    make_warm(project)
    terminal = project.environment.site_packages / "_pytest" / "terminal.py"
    text = terminal.read_text()
    # A new file, as pip would make it: the clone shares nothing with other environments.
    terminal.unlink()
    terminal.write_text(text.replace("test session starts", "edited session starts"))
    says(project, "edited session starts")


@pytest.mark.installs
def test_upgrade_of_a_plugin(project: Sandbox) -> None:
    make_warm(project)
    install(project, "tiny", "2.0", {"tiny.py": PLUGIN.format(word="two")}, plugin="tiny")
    says(project, "tiny: two", "tiny-2.0")


@pytest.mark.installs
def test_upgrade_of_a_dependency(project: Sandbox) -> None:
    make_warm(project)
    install(project, "tinydep", "2.0", {"tinydep.py": "WORD = 'two'\n"})
    says(project, "tiny with two")


@pytest.mark.installs
def test_new_plugin(project: Sandbox) -> None:
    make_warm(project)
    install(project, "more", "1.0", {"more.py": PLUGIN.format(word="more")}, plugin="more")
    says(project, "tiny: more", "more-1.0")


@pytest.mark.installs
def test_uninstalled_plugin(project: Sandbox) -> None:
    make_warm(project)
    project.environment.pip("uninstall", "--yes", "--quiet", "tiny")
    shown = project.same_at_once().stdout
    assert "tiny" not in shown


@pytest.mark.installs
def test_uninstalled_dependency(project: Sandbox) -> None:
    """Plain pytest cannot start any more: the same traceback."""
    make_warm(project)
    project.environment.pip("uninstall", "--yes", "--quiet", "tinydep")
    assert project.same_at_once().status != 0


@pytest.mark.installs
def test_another_pytest(project: Sandbox) -> None:
    make_warm(project)
    project.environment.install("pytest==8.4.2")
    says(project, "pytest-8.4.2")


def test_module_that_was_looked_for_in_vain(project: Sandbox) -> None:
    """A plugin tries an import and does without it; now it is there."""
    plugin = (
        "try:\n    import optional\n    WORD = optional.WORD\nexcept ImportError:\n"
        "    WORD = 'none'\n\ndef pytest_report_header(config):\n    return 'optional: ' + WORD\n"
    )
    (project.environment.site_packages / "tiny.py").write_text(plugin)
    make_warm(project)
    says(project, "optional: none")
    (project.environment.site_packages / "optional.py").write_text("WORD = 'here'\n")
    says(project, "optional: here")


def test_new_pth_file(project: Sandbox) -> None:
    """It puts a directory on `sys.path` in which there is a plugin's dependency, nearer."""
    make_warm(project)
    (project.environment.site_packages / "aaa.pth").write_text("import sys; sys.tiny_seen = 1\n")
    project.write(
        "conftest.py",
        "import sys\n\ndef pytest_report_header():\n    return f'{hasattr(sys, \"tiny_seen\")}'\n",
    )
    says(project, "True")


def test_removed_pth_file(project: Sandbox) -> None:
    elsewhere = project.base / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.py").write_text(PLUGIN.format(word="far"))
    pth = project.environment.site_packages / "far.pth"
    pth.write_text(f"{elsewhere}\n")
    make_warm(project, "-p", "far")
    pth.unlink()
    assert project.same_at_once("-p", "far").status != 0


def test_sitecustomize(project: Sandbox) -> None:
    make_warm(project)
    (project.environment.site_packages / "sitecustomize.py").write_text("print('customized')\n")
    says(project, "customized")


def test_environment_with_system_packages_switched_on(project: Sandbox) -> None:
    make_warm(project)
    config = project.environment.root / "pyvenv.cfg"
    config.write_text(config.read_text().replace("packages = false", "packages = true"))
    project.write(
        "conftest.py", "import sys\n\ndef pytest_report_header():\n    return str(sys.path)\n"
    )
    says(project)


def test_rewritten_script(project: Sandbox) -> None:
    """The `pytest` command itself, as `pip install --force-reinstall` or a user would change it."""
    make_warm(project)
    script = project.pytest
    script.write_text(script.read_text().replace("import sys", "import sys\nprint('wrapped')", 1))
    says(project, "wrapped")


# ------------------------------------------------------------------ same size, same time


@pytest.mark.parametrize("compiled", [True, False], ids=["with byte code", "without byte code"])
def test_rewritten_with_the_same_size_and_time(project: Sandbox, compiled: bool) -> None:
    """Plain Python then trusts its byte code, and is wrong: so are we. Without byte code it reads
    the source."""
    module = project.environment.site_packages / "tinydep.py"
    module.write_text("WORD = 'old'\n")
    os.utime(module, (10**9, 10**9))
    env = {} if compiled else {"PYTHONDONTWRITEBYTECODE": "1"}
    shutil.rmtree(module.parent / "__pycache__")
    make_warm(project, env=env)
    times = module.stat()
    module.write_text("WORD = 'new'\n")
    os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))
    says(project, "tiny with old" if compiled else "tiny with new", env=env)


def test_byte_code_appears(project: Sandbox) -> None:
    """Written by another command meanwhile, for the same source: nothing has changed."""
    shutil.rmtree(project.environment.site_packages / "__pycache__", ignore_errors=True)
    make_warm(project, env={"PYTHONDONTWRITEBYTECODE": "1"})
    project.plain()
    project.same_at_once()


def test_byte_code_that_does_not_fit_its_source(project: Sandbox) -> None:
    """Somebody has put other code there under the header that Python looks at."""
    make_warm(project)
    [cached] = (project.environment.site_packages / "__pycache__").glob("tinydep.*.pyc")
    other = project.base / "other.py"
    other.write_text("WORD = 'forged'\n")

    compiled = project.base / "other.pyc"
    run = f"import py_compile; py_compile.compile({str(other)!r}, {str(compiled)!r})"
    project.run(project.environment.python, "-c", run)
    cached.write_bytes(cached.read_bytes()[:16] + compiled.read_bytes()[16:])
    says(project, "tiny with forged")


def test_edits_in_quick_succession(project: Sandbox) -> None:
    """Each edit within the same second, run after run: the last one counts, always."""
    module = project.environment.site_packages / "tinydep.py"
    make_warm(project, env={"PYTHONDONTWRITEBYTECODE": "1"})
    shutil.rmtree(module.parent / "__pycache__", ignore_errors=True)
    for number in range(6):
        module.write_text(f"WORD = 'edit {number}'\n")
        says(project, f"tiny with edit {number}", env={"PYTHONDONTWRITEBYTECODE": "1"})


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytest.ini", "[pytest]\naddopts = -v\n"),
        ("pytest.ini", "[pytest]\npython_files = check_*.py\n"),
        ("pytest.ini", "[pytest\n"),
        ("pytest.ini", "[pytest]\naddopts = --no-such-option\n"),
        ("pytest.ini", "[pytest]\nminversion = 99\n"),
        ("pytest.ini", "[pytest]\nrequired_plugins = no-such-plugin\n"),
        (".pytest.ini", "[pytest]\naddopts = -v\n"),
        ("pyproject.toml", "[tool.pytest.ini_options]\naddopts = '-v'\n"),
        ("tox.ini", "[pytest]\naddopts = -v\n"),
        ("setup.cfg", "[tool:pytest]\naddopts = -v\n"),
        ("conftest.py", "def pytest_report_header():\n    return 'a new conftest'\n"),
    ],
    ids=lambda text: text.replace("\n", " "),
)
@pytest.mark.parametrize("before", ["pytest.ini", "none"])
def test_settings(sandbox: Sandbox, before: str, name: str, text: str) -> None:
    """Edited, where there was such a file; and created, where there was none."""
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    if before != "none":
        sandbox.write(before, "[pytest]\naddopts = -q\n")
    make_warm(sandbox)
    path = sandbox.write(name, text)
    sandbox.same_at_once()
    path.unlink()
    sandbox.same_at_once()


def test_settings_in_a_parent_directory(sandbox: Sandbox) -> None:
    sandbox.write("deep/test_a.py", "def test_a():\n    pass\n")
    sandbox.write(".git/HEAD")
    where = {"cwd": sandbox.project / "deep"}
    make_warm(sandbox, **where)
    sandbox.write("pytest.ini", "[pytest]\naddopts = -v\n")
    assert "PASSED" in sandbox.same_at_once(**where).stdout
    sandbox.write("setup.py", "")
    sandbox.same_at_once(**where)
    (sandbox.project / "pytest.ini").unlink()
    assert "PASSED" not in sandbox.same_at_once(**where).stdout


def test_settings_touched_but_equal(sandbox: Sandbox) -> None:
    """An editor that writes the same again costs nothing."""
    sandbox.write("pytest.ini", "[pytest]\naddopts = -v\n")
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    make_warm(sandbox)
    sandbox.write("pytest.ini", "[pytest]\naddopts = -v\n")
    sandbox.same_at_once()
    sandbox.until_ready()
    sandbox.same_warm()


# ------------------------------------------------------------------ variables and options


READS_ENVIRONMENT = """
import os

WORD = os.environ.get("TINY", "unset")

def pytest_report_header(config):
    return f"tiny read {WORD} at import, {os.getenv('TINY_LATE', 'unset')} now"
"""


def test_variable_that_a_plugin_read(project: Sandbox) -> None:
    (project.environment.site_packages / "tiny.py").write_text(READS_ENVIRONMENT)
    make_warm(project, env={"TINY": "one"})
    says(project, "tiny read one at import, unset now", env={"TINY": "one"})
    says(project, "tiny read two at import, unset now", env={"TINY": "two"})
    says(project, "tiny read unset at import, later now", env={"TINY_LATE": "later"})
    says(project, "tiny read  at import, unset now", env={"TINY": ""})


def test_whole_environment_read_by_a_plugin(project: Sandbox) -> None:
    (project.environment.site_packages / "tiny.py").write_text(
        "import os\n\nNAMES = sorted(name for name in os.environ if name.startswith('SHOP'))\n\n"
        "def pytest_report_header(config):\n    return f'shops: {NAMES}'\n"
    )
    make_warm(project)
    says(project, "shops: []")
    says(project, "shops: ['SHOP_A']", env={"SHOP_A": "1"})
    says(project, "shops: ['SHOP_B']", env={"SHOP_B": "1"})


@pytest.mark.parametrize(
    "env",
    [
        {"PYTEST_ADDOPTS": "-v"},
        {"PYTEST_ADDOPTS": "-p no:cacheprovider"},
        {"PYTEST_ADDOPTS": "--no-such-option"},
        {"PYTEST_PLUGINS": "mine"},
        {"PYTEST_PLUGINS": "no_such_module"},
        {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        {"PYTEST_DEBUG": "1"},
        {"PYTHONPATH": "shadow"},
        {"PYTHONWARNINGS": "error"},
        {"PYTHONOPTIMIZE": "2"},
        {"HOME": "/nowhere"},
    ],
    ids=lambda env: " ".join(map("=".join, env.items())),
)
def test_variables_of_pytest_and_python(unchanging: Sandbox, env: dict[str, str]) -> None:
    """Set for one run, and not for the next."""
    project = unchanging
    project.write("mine.py", PLUGIN.format(word="mine"))
    project.write("shadow/tinydep.py", "WORD = 'shadowed'\n")
    project.env["PYTHONPATH"] = str(project.project)
    make_warm(project)
    project.same_at_once(env=env)
    project.same_at_once()
    project.same_at_once(env=env)


OPTIONS = {
    "plugins": [
        ["-p", "mine"],
        ["-pmine"],
        ["-p", "no:tiny"],
        ["-p", "no:terminal"],
        ["-p", "no:cacheprovider"],
        ["-p", "no_such_plugin"],
        ["--import-mode=importlib"],
        ["--assert=plain"],
        ["--disable-plugin-autoload"],
    ],
    "settings": [
        ["-o", "addopts=-v"],
        ["-o", "cache_dir=elsewhere"],
        ["--override-ini=python_files=check_*.py"],
        ["-W", "error"],
        ["-W", "no such filter"],
        ["-c", "other.ini"],
        ["-c", "no_such.ini"],
        ["--config-file=other.ini"],
        ["--strict-markers", "--strict-config"],
    ],
    "places": [
        ["--rootdir=deep"],
        ["--rootdir=no_such_directory"],
        ["--confcutdir=deep"],
        ["--noconftest"],
        ["--basetemp=elsewhere"],
    ],
    "information": [
        ["--debug=trace.log", "-k", "nothing"],
        ["--version"],
        ["-VV"],
        ["--cache-show"],
        ["-k"],
        ["-h"],
    ],
    "selection": [
        ["--pyargs", "tiny"],
        ["@arguments.txt"],
        ["--", "test_a.py"],
        ["deep"],
        ["deep/../test_a.py", "test_a.py::test_a"],
    ],
}


@pytest.mark.parametrize("group", OPTIONS)
def test_options_of_one_run(unchanging: Sandbox, group: str) -> None:
    """Whatever is read before the checkpoint: another value is another run. Twice, as there may be
    a checkpoint for it the second time."""
    sandbox = unchanging
    sandbox.write("mine.py", PLUGIN.format(word="mine"))
    sandbox.write("other.ini", "[pytest]\naddopts = -v\n")
    sandbox.write("arguments.txt", "-v\n")
    sandbox.write("deep/test_deep.py", "def test_deep():\n    pass\n")
    sandbox.env["PYTHONPATH"] = str(sandbox.project)
    make_warm(sandbox)
    for options in OPTIONS[group] * 2:
        sandbox.same_at_once(*options)
    sandbox.same_at_once()


def test_a_checkpoint_that_refuses_leaves_no_byte_code(sandbox: Sandbox) -> None:
    """What it holds is no business of a run that it does not stand for."""
    sandbox.write("mine.py", PLUGIN.format(word="mine"))
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    sandbox.env["PYTHONPATH"] = str(sandbox.project)
    sandbox.warm_up("-p", "mine")
    sandbox.same_at_once("-p", "no:doctest")


def test_shadowing_module(project: Sandbox) -> None:
    """A module that comes nearer on `sys.path` than the one that is loaded."""
    near = project.base / "near"
    near.mkdir()
    env = {"PYTHONPATH": str(near)}
    make_warm(project, env=env)
    says(project, "tiny with one", env=env)
    (near / "tinydep.py").write_text("WORD = 'shadow'\n")
    says(project, "tiny with shadow", env=env)
    (near / "tinydep.py").unlink()
    says(project, "tiny with one", env=env)


def test_package_that_shadows_the_standard_library(project: Sandbox) -> None:
    near = project.base / "near"
    near.mkdir()
    env = {"PYTHONPATH": str(near)}
    make_warm(project, env=env)
    (near / "argparse.py").write_text("raise ImportError('shadowed argparse')\n")
    assert "shadowed argparse" in project.same_at_once(env=env).stderr


# ------------------------------------------------------------------ in the background


@pytest.mark.product
def test_rebuilt_in_the_background(project: Sandbox) -> None:
    """After an edit nobody has to run the tests for the next run to be warm."""
    make_warm(project)
    old = {c.pid for c in project.daemon.status().ready("P0")}
    (project.environment.site_packages / "tinydep.py").write_text("WORD = 'edited'\n")

    def is_new() -> bool:
        new = {c.pid for c in project.daemon.status().ready("P0")}
        return bool(new) and old.isdisjoint(new)

    eventually(is_new, "a checkpoint that was built after the edit")
    warm = project.warm()
    plain = project.plain()
    assert "tiny with edited" in plain.stdout
    assert_same(plain, warm)


@pytest.mark.product
def test_half_saved_plugin(project: Sandbox) -> None:
    """A syntax error while one types: plain pytest shows it, and after the next save all is well,
    without a word of ours."""
    make_warm(project)
    module = project.environment.site_packages / "tinydep.py"
    module.write_text("WORD = (\n")
    assert project.same_at_once().status != 0
    project.same_at_once()
    module.write_text("WORD = 'mended'\n")
    says(project, "tiny with mended")
    project.until_ready()
    project.same_warm()


@pytest.mark.product
def test_background_builds_have_no_effects(project: Sandbox) -> None:
    """A plugin that writes, connects or starts a process when it is imported does so once per run
    of the user's, and not when a checkpoint is built."""
    marks = project.base / "marks"
    marks.mkdir()
    (project.environment.site_packages / "tiny.py").write_text(
        "import os, tempfile\n\n"
        f"tempfile.mkstemp(dir={str(marks)!r})\n"
        f"os.system('touch ' + os.path.join({str(marks)!r}, 'child-%d' % os.getpid()))\n"
    )
    for expected in (1, 2, 3):
        project.first()
        # All that the run makes the daemon build is built then.
        project.until_ready()
        assert len(list(marks.glob("tmp*"))) == expected
        assert len(list(marks.glob("child*"))) == expected
