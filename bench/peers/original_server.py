"""A server for the original `pyseidon` client, as good as its users could write one.

It does what that project is for: load slowly once, then fork for every client. Loaded are pytest
with all its modules, the plugins, and the installed packages that the project imports (named on
the command line), not the project's own code: nobody would notice when that is edited. The
collector is frozen and the worker leaves without finalisation, because that is fastest.

    python original_server.py SOCKET [MODULE...]
"""

import gc
import importlib
import importlib.metadata
import os
import pkgutil
import sys

import _pytest
import pyseidon
import pytest


def preload(names):
    own = [f"_pytest.{module.name}" for module in pkgutil.iter_modules(_pytest.__path__)]
    plugins = [
        entry.value.partition(":")[0]
        for distribution in importlib.metadata.distributions()
        for entry in distribution.entry_points
        if entry.group == "pytest11"
    ]
    for name in [*own, *plugins, *names]:
        importlib.import_module(name)


def handler():
    arguments = sys.argv
    sys.argv = ["pytest", *arguments]
    status = pytest.main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


preload(sys.argv[2:])
gc.collect()
gc.freeze()
pyseidon.Pyseidon(sys.argv[1]).run(handler)
