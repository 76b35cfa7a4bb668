"""The Pythons of this machine that the product supports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

SUPPORTED = ["3.9", "3.10", "3.11", "3.12", "3.13"]
DEFAULT = f"{sys.version_info[0]}.{sys.version_info[1]}"


@cache
def interpreters() -> dict[str, Path]:
    """Version to executable. The one that runs the tests (Make's `PYTHON`) is always there."""
    # `_base_executable`: the tests themselves run in a virtual environment.
    found = {DEFAULT: Path(getattr(sys, "_base_executable", sys.executable))}
    for version in SUPPORTED:
        if version in found:
            continue
        for candidate in [shutil.which(f"python{version}"), *_from_pyenv(version)]:
            executable = candidate and _ask(str(candidate), version)
            if executable:
                found[version] = Path(executable)
                break
    return dict(sorted(found.items(), key=lambda item: int(item[0].split(".")[1])))


def _ask(candidate: str, version: str) -> str | None:
    """The real path of an interpreter: a pyenv shim is a script, and fails where its version is
    not switched on."""
    code = "import sys, venv; print('%d.%d' % sys.version_info[:2]); print(sys.executable)"
    try:
        answer = subprocess.run(
            [candidate, "-I", "-c", code], capture_output=True, text=True, timeout=30, check=False
        ).stdout.split("\n")
    except OSError:
        return None
    return answer[1] if answer[0] == version else None


def _from_pyenv(version: str) -> list[Path]:
    pyenv = shutil.which("pyenv")
    if pyenv is None:
        return []
    root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False)
    versions = Path(root.stdout.strip() or os.devnull) / "versions"
    return sorted(versions.glob(f"{version}.*/bin/python{version}"), reverse=True)
