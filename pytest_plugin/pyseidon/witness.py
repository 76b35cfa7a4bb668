"""Says what a run saw, for `pyseidon-daemon verify`: a plugin for plain and warm runs alike.

In: the path in the variable `PYSEIDON_WITNESS`; without it nothing is written. Out, at the very
end of the run and at once: a JSON document there, with the reports of tests and collectors,
warnings, the names in `sys.modules` in order, and what every module's namespace holds. An error
while writing is raised, and pytest shows it: `verify` then finds no document.

Nothing is imported here that pytest has not loaded, and nothing read of the surroundings, so that
the plugin can be in a checkpoint. It reads what the run leaves, and calls no code of the user's.

PYTEST_DONT_REWRITE: there is no assertion here.
"""

import os
import sys

import pytest

VARIABLE = "PYSEIDON_WITNESS"

# Of a value that is longer, its beginning and a checksum tell as much.
SHOWN = 200
# Plain tuples in tuples are looked into so far.
DEPTH = 3

SCALARS = (type(None), bool, int, float, complex, str, bytes)
CONTAINERS = (tuple, list, dict, set, frozenset, bytearray)

# The time of an import; locks that every fork takes away and Python looks at when it ends.
BY_NATURE = {("logging", "_startTime"), ("threading", "_shutdown_locks")}

REPORTS = []
COLLECTED = []
WARNINGS = []


def pytest_runtest_logreport(report):
    REPORTS.append(report)


def pytest_collectreport(report):
    if not report.passed:
        COLLECTED.append(report)


@pytest.hookimpl(optionalhook=True)
def pytest_warning_recorded(warning_message, when, nodeid, location):
    category = warning_message.category
    WARNINGS.append(
        {
            "category": f"{category.__module__}.{category.__qualname__}",
            "message": str(warning_message.message),
            "file": str(warning_message.filename),
            "line": warning_message.lineno,
            "when": when,
            "node": nodeid,
        }
    )


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    path = os.environ.get(VARIABLE)
    # Processes of xdist are not the run.
    if path and not hasattr(config, "workerinput"):
        modules = list(sys.modules.items())
        write(path, modules)


def write(path, modules):
    """Puts the document into place whole: who finds it may believe it."""
    # They were not to be in the list of modules.
    import json

    document = {
        "outcomes": [told(report) for report in REPORTS],
        "collection": [told(report) for report in COLLECTED],
        "warnings": WARNINGS,
        "modules": [str(name) for name, _ in modules],
        "namespaces": {
            str(name): namespace(str(name), module) for name, module in modules if theirs(name)
        },
    }
    text = json.dumps(clean(document))
    with open(f"{path}.part", "w", encoding="ascii") as file:
        file.write(text)
    os.rename(f"{path}.part", path)


def theirs(name):
    """Whether the module is of the run: Pyseidon's own are not."""
    return str(name).partition(".")[0] != "pyseidon"


def told(report):
    """A report: node, phase, outcome, text of the failure, captured output."""
    when = getattr(report, "when", None) or "collect"
    outcome = report.outcome
    reason = getattr(report, "wasxfail", None)
    if reason is not None:
        outcome += f", expected to fail: {reason}"
    sections = "".join(f"[{title}]\n{text}\n" for title, text in report.sections)
    return {
        "node": report.nodeid,
        "when": when,
        "outcome": outcome,
        "text": report.longreprtext,
        "captured": sections,
    }


def namespace(module_name, module):
    """What a module's names hold, by name; without what differs by its nature."""
    try:
        # A lazy module would load itself at any other way of asking.
        names = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {"": kind(module)}
    if type(names) is not dict:
        return {"": kind(module)}
    return {
        str(name): value(held)
        for name, held in list(names.items())
        if (module_name, name) not in BY_NATURE
    }


def value(held, depth=DEPTH):
    """A value without what differs from process to process: no address, no order of a set."""
    if type(held) in SCALARS:
        return scalar(held)
    if type(held) is tuple and depth and all(is_plain(item, depth - 1) for item in held):
        return shortened("(" + ", ".join(value(item, depth - 1) for item in held) + ")")
    if type(held) in CONTAINERS:
        return f"{type(held).__name__} of {len(held)}"
    return kind(held)


def is_plain(held, depth):
    if type(held) is tuple:
        return bool(depth) and all(is_plain(item, depth - 1) for item in held)
    return type(held) in SCALARS


def scalar(held):
    if type(held) is int and held.bit_length() > 4 * SHOWN:
        # Python refuses to write large ones in decimal.
        return shortened(hex(held))
    return shortened(repr(held))


def shortened(text):
    if len(text) <= SHOWN:
        return text
    import zlib

    checksum = zlib.crc32(text.encode("utf-8", "backslashreplace"))
    return f"{text[:SHOWN]}... of {len(text)} characters, {checksum:08x}"


def kind(held):
    """The name of a value's type, asked of the type's own class: no code of theirs runs."""
    own = type.__dict__["__qualname__"].__get__(type(held))
    return f"a {own}"


def clean(document):
    """The document with text that JSON can carry: what is no Unicode is spelled out."""
    if type(document) is dict:
        return {clean(name): clean(held) for name, held in document.items()}
    if type(document) is list:
        return [clean(held) for held in document]
    if isinstance(document, str):
        return str.encode(document, "utf-8", "backslashreplace").decode()
    return document
