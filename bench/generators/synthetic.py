"""A project of as many modules as wanted, of the standard library alone."""

import random

from . import parts

PACKAGE = 50
# A module imports three new ones and one or two that others import as well. All have a higher
# number, so nothing is imported in a circle, and the deepest chain stays far below Python's limit
# of recursion (it is some 25 modules long with 10,000).
BRANCHES = 3

SETTINGS = """# Written by the benchmark: {count} modules, all imported by one test file.
[tool.pytest.ini_options]
pythonpath = ["src"]
testpaths = ["tests"]
"""

CONFTEST = """import pytest
from app.service import Ledger


@pytest.fixture
def ledger():
    return Ledger({"pen": 3, "ink": 5})
"""

TEST = """from app.service import answer


def test_ledger(ledger):
    assert ledger.total() == 8
    assert answer(1) == 2
"""

SERVICE = """

Ledger = {Root}Service


def answer(n):
    return n + 1
"""


def path_of(number):
    return f"app.part_{number // PACKAGE:03}.unit_{number:05}"


def imported_by(number, count):
    first = number * BRANCHES + 1
    chosen = set(range(first, min(first + BRANCHES, count)))
    rng = random.Random(number)
    for _ in range(rng.randrange(3)):
        if number + 1 < count:
            chosen.add(rng.randrange(number + 1, count))
    return sorted(chosen)


def write_synthetic(place, count):
    files = {
        "pyproject.toml": SETTINGS.format(count=count),
        "src/app/__init__.py": "",
        "src/app/core.py": parts.CORE,
        "tests/conftest.py": CONFTEST,
        "tests/test_one.py": TEST,
    }
    for number in range(count):
        name = f"unit_{number:05}"
        imports = []
        for other in imported_by(number, count):
            package, _, module = path_of(other).rpartition(".")
            imports.append(f"from {package}.{module} import check_{module}  # noqa: F401")
        text = parts.module(name, f"Unit {number} of {count}.", imports, number)
        files[f"src/{path_of(number).replace('.', '/')}.py"] = text
        files[f"src/app/part_{number // PACKAGE:03}/__init__.py"] = ""
    root = "unit_00000"
    about = "What the tests begin with: it imports the first module, and so all."
    text = f'"""{about}"""\n\nfrom app.part_000.{root} import {parts.title(root)}Service\n'
    files["src/app/service.py"] = text + SERVICE.format(Root=parts.title(root))
    parts.write_files(place, files)
