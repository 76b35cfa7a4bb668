"""One timed call of `pytest.main` in a process that is warm already: what we are measured against.

    python in_process.py HOW REPORT [ARGUMENT...]

HOW is `second`: pytest.main is called twice, with everything left loaded, and the second call
counts. Or `packages`: a forked child runs the tests and says what it has imported; of that the
installed modules are imported here, and then the first call counts: it executes the conftest and
the project's modules, and finds the packages loaded. An installed module that cannot be imported
outside a run (Django's models want settings) is left to the call.

The seconds and the status of the call that counts go to the file REPORT.
"""

import importlib
import json
import os
import sys
import time
import warnings


def main():
    how, report, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]
    script = os.path.join(os.path.dirname(sys.executable), "pytest")
    # What the script `pytest` would find in their place.
    sys.argv[:] = [script, *arguments]
    sys.path[0] = os.path.dirname(script)
    if how == "packages":
        load(installed_of_a_run(arguments))
    else:
        call(arguments)
    status, seconds = call(arguments)
    with open(report, "w") as file:
        json.dump({"status": status, "seconds": seconds}, file)
    # Without the end of the interpreter, which is not timed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def call(arguments):
    import pytest

    started = time.perf_counter()
    status = pytest.main(list(arguments))
    sys.stdout.flush()
    return int(status), time.perf_counter() - started


def installed_of_a_run(arguments):
    """The names of the modules that a run has loaded and that are not the project's, in order."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        call(arguments)
        here = os.getcwd() + os.sep
        names = [
            name
            for name, module in list(sys.modules.items())
            if not str(getattr(module, "__file__", None) or "").startswith(here)
        ]
        with open(writer, "w") as file:
            json.dump(names, file)
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        names = json.load(file)
    os.wait()
    return names


def load(names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            try:
                importlib.import_module(name)
            except Exception:
                continue


main()
