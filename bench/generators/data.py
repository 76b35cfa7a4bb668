"""Forecasts of sales: twelve packages over numpy, pandas and scikit-learn, some 370 own modules.

Tables with their types, transformers, measures and plain services in turn; each builds upon its
neighbour and upon the package before it. The conftest imports the pipelines and with them all.
"""

from . import parts

PACKAGES = (
    "schemas",
    "ingest",
    "storage",
    "cleaning",
    "calendars",
    "features",
    "encoders",
    "estimators",
    "evaluation",
    "forecasting",
    "reports",
    "pipelines",
)
MODULES = 30
WORDS = ("sales", "stock", "prices", "weather", "visits", "offers")

LEAF = "app.pipelines.wording"
MIDDLE = f"app.encoders.{WORDS[15 % len(WORDS)]}_15"

EDITED = {
    "test": "tests/test_one.py",
    "conftest": "tests/conftest.py",
    "leaf": f"src/{LEAF.replace('.', '/')}.py",
    "middle": f"src/{MIDDLE.replace('.', '/')}.py",
}

SETTINGS = """# Written by the benchmark: a data project of several hundred own modules.
[tool.pytest.ini_options]
pythonpath = ["src"]
testpaths = ["tests"]
"""

CONFTEST = f"""import pandas as pd
import pytest
from app import pipelines  # noqa: F401

EDITED = ""  {parts.REVISION}


@pytest.fixture
def sales():
    return pd.DataFrame({{"day": [0.0, 1.0, 2.0, 3.0], "sold": [1.0, 3.0, 5.0, 7.0]}})


@pytest.fixture
def edited():
    return EDITED
"""

TEST = f"""import json
from pathlib import Path

import pytest
from {MIDDLE} import revision as middle
from {LEAF} import revision as leaf
from app.service import trend


def test_trend(sales, edited):
    body = ""  {parts.REVISION}
    assert trend(sales) == pytest.approx(2.0)
    seen = {{"test": body, "conftest": edited, "leaf": leaf(), "middle": middle()}}
    wanted = json.loads(Path(__file__).with_name("wanted.json").read_text())
    assert {{name: seen[name] for name in wanted}} == wanted
"""

TABLE = '''

{NAME}_TYPES = {{
    "day": "datetime64[ns]",
    "article": "string",
    "amount": "int64",
    "price": "float64",
    "is_open": "bool",
}}
{NAME}_EMPTY = pd.DataFrame({{key: pd.Series(dtype=kind) for key, kind in {NAME}_TYPES.items()}})


def read_{name}(rows):
    """A table with all columns, also where there are no rows."""
    if not rows:
        return {NAME}_EMPTY.copy()
    return pd.DataFrame(rows).astype({NAME}_TYPES)


def {name}_by_day(table):
    """Sums by day, and a mean price weighted by the amounts."""
    table = table.assign(turnover=table["amount"] * table["price"])
    sums = table.groupby("day")[["amount", "turnover"]].sum()
    sums["price"] = sums["turnover"] / sums["amount"].where(sums["amount"] != 0)
    return sums


def join_{name}(left, right):
    """Both tables by day and article; what is missing on the right is zero."""
    found = left.merge(right, on=["day", "article"], how="left", suffixes=("", "_right"))
    return found.fillna({{"amount_right": 0, "price_right": 0.0}})
'''

TRANSFORMER = '''

class {Name}Scaler(TransformerMixin, BaseEstimator):
    """Centres columns and cuts what lies too far out."""

    def __init__(self, width={a}.0, columns=None):
        self.width = width
        self.columns = columns

    def fit(self, X, y=None):
        values = np.asarray(X, dtype=float)
        self.mean_ = values.mean(axis=0)
        self.scale_ = np.where(values.std(axis=0) > 0, values.std(axis=0), 1.0)
        self.n_features_in_ = values.shape[1]
        return self

    def transform(self, X):
        values = (np.asarray(X, dtype=float) - self.mean_) / self.scale_
        return np.clip(values, -self.width, self.width)


class {Name}Lagger(TransformerMixin, BaseEstimator):
    """Adds what was so many rows before."""

    def __init__(self, lags=(1, {a})):
        self.lags = lags

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        table = pd.DataFrame(X)
        return pd.concat([table, *(table.shift(lag) for lag in self.lags)], axis=1)


def {name}_pipeline(width={a}.0):
    return Pipeline([("scale", {Name}Scaler(width)), ("fit", LinearRegression())])
'''

MEASURE = '''

{NAME}_WEIGHTS = np.array([1.0, 0.5, 0.25, 0.125]) / {a}


@registered("measure of {name}")
def {name}_loss(wanted, found):
    """A mean of squares in which recent rows count more."""
    wanted, found = np.asarray(wanted, dtype=float), np.asarray(found, dtype=float)
    gaps = (wanted - found)[-len({NAME}_WEIGHTS) :] ** 2
    return float((gaps * {NAME}_WEIGHTS[: len(gaps)]).sum())


@registered("bias of {name}")
def {name}_bias(wanted, found):
    """Above zero: too little was forecast."""
    gaps = np.asarray(wanted, dtype=float) - np.asarray(found, dtype=float)
    return float(np.nanmean(gaps)) if gaps.size else 0.0


def smooth_{name}(values, width={a}):
    """A moving mean of the same length."""
    kernel = np.ones(width) / width
    return np.convolve(np.asarray(values, dtype=float), kernel, mode="same")
'''

KINDS = (
    (("import pandas as pd",), TABLE),
    (
        (
            "import numpy as np",
            "import pandas as pd",
            "from sklearn.base import BaseEstimator, TransformerMixin",
            "from sklearn.linear_model import LinearRegression",
            "from sklearn.pipeline import Pipeline",
        ),
        TRANSFORMER,
    ),
    (("import numpy as np",), MEASURE),
    ((), ""),
)


def write_data(place):
    service = parts.PROJECTS / "data" / "src" / "app" / "service.py"
    files = {
        "pyproject.toml": SETTINGS,
        "src/app/__init__.py": "",
        "src/app/core.py": parts.CORE,
        "src/app/service.py": service.read_text(),
        "tests/conftest.py": CONFTEST,
        "tests/test_one.py": TEST,
    }
    for index, package in enumerate(PACKAGES):
        names = [name_of(number) for number in range(MODULES)]
        imports = [f"from . import {name}\n" for name in names]
        if index:
            imports.insert(0, f"from app import {PACKAGES[index - 1]}  # noqa: F401\n")
        about = f'"""{package.title()}: all of it, for whoever imports the package."""\n\n'
        listed = f"\n__all__ = {names}\n"
        files[f"src/app/{package}/__init__.py"] = about + "".join(imports) + listed
        for number, name in enumerate(names):
            files[f"src/app/{package}/{name}.py"] = unit(index, package, number)
    wording = parts.module("wording", "Words that reports use.", [], 0, parts.revision_function())
    files[EDITED["leaf"]] = wording
    parts.write_files(place, files)
    parts.write_wanted(place, {})


def name_of(number):
    return f"{WORDS[number % len(WORDS)]}_{number:02}"


def check_from(package, name):
    return f"from app.{package}.{name} import check_{package}_{name}  # noqa: F401"


def unit(index, package, number):
    lines, block = KINDS[(index + number) % len(KINDS)]
    own = name_of(number)
    imports = list(lines)
    # The package asks for its modules, and every third of them for the package.
    if number % 3 == 0:
        imports.append(f"from app import {package}  # noqa: F401")
    if number:
        imports.append(check_from(package, name_of(number - 1)))
    if index:
        imports.append(check_from(PACKAGES[index - 1], own))
    name = f"{package}_{own}"
    if index == len(PACKAGES) - 1 and number == MODULES - 1:
        imports.append(f"from {LEAF} import check_wording  # noqa: F401")
    words = {"name": name, "Name": parts.title(name), "NAME": name.upper(), "a": 2 + number % 6}
    tail = block.format(**words)
    if f"app.{package}.{own}" == MIDDLE:
        tail += parts.revision_function()
    about = f"{own.replace('_', ' ').title()} in {package}."
    return parts.module(name, about, imports, 100 * index + number, tail)
