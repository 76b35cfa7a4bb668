"""A plugin that does at its import what no checkpoint can hold: P0 lies right before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .harness.environments import PYTESTS, environment, write_wheel
from .harness.sandbox import Sandbox

CLOCK = """
import time

STARTED = time.time()

def pytest_report_header(config):
    return f"started {STARTED > 1}"
"""


def with_plugin(new_sandbox, tmp_path: Path, version: str, text: str) -> Sandbox:
    env = environment(pytest=version).clone(tmp_path / "env")
    wheel = write_wheel(tmp_path, "clock", "1.0", {"clock.py": text}, plugin="clock")
    env.install("--no-deps", "--no-index", wheel)
    sandbox = new_sandbox(env)
    sandbox.write("pytest.ini", "[pytest]\naddopts = -rA\n")
    sandbox.write("test_a.py", "def test_a():\n    pass\n")
    return sandbox


@pytest.mark.parametrize("strict", [False, True], ids=["", "warnings are errors"])
@pytest.mark.parametrize("version", PYTESTS)
def test_a_plugin_that_reads_the_clock(
    new_sandbox, tmp_path: Path, version: str, strict: bool
) -> None:
    sandbox = with_plugin(new_sandbox, tmp_path, version, CLOCK)
    outcome = sandbox.same(*(["-W", "error"] if strict else []))
    assert "started True" in outcome.stdout
