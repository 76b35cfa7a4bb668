"""The module that a generated project's tests ask what state they are in.

It goes into the project as `probe.py` (its source, unchanged): imports of the standard library,
and functions that do nothing before they are called. What it says is printed and written to a
file, so that it is compared also where pytest captures the output of tests that pass.
"""

import atexit
import builtins
import decimal
import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
_lines = []


def show(where):
    """Prints the state of this process, in an order and a wording that two plain runs share."""
    first = not _lines
    text = "\n".join([f"--- {where}", *_state()])
    _lines.append(text)
    print(text)
    with open(os.path.join(HERE, "probe.log"), "w" if first else "a") as log:
        log.write(text + "\n")


def fresh(nanoseconds):
    """Whether a clock was read in this run: the stamp is made anew before each."""
    return nanoseconds >= os.stat(os.path.join(HERE, os.pardir, "stamp")).st_mtime_ns


def new(value):
    """Whether a random value was never seen before, in any run."""
    path = os.path.join(HERE, os.pardir, "seen")
    with open(path, "a+") as seen:
        seen.seek(0)
        old = f"{value}\n" in seen.readlines()
        seen.write(f"{value}\n")
    return not old


_CHECKS = {"fresh": fresh, "new": new, "own": lambda pid: pid == os.getpid()}


def simple(value, depth=3):
    """Whether its text says all there is to say, and the same in each run."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return True
    if isinstance(value, (list, tuple)):
        return depth > 0 and all(simple(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return depth > 0 and all(simple(v, depth - 1) for pair in value.items() for v in pair)
    return False


def ours(module):
    file = getattr(module, "__file__", None)
    name = getattr(module, "__name__", "")
    if not isinstance(file, str):
        return name.startswith("stub")
    return file.startswith(HERE + os.sep) or "wide" in name


def _state():
    modules = [(name, module) for name, module in list(sys.modules.items()) if ours(module)]
    yield f"modules {[name for name, _ in modules]}"
    yield f"all modules {len(sys.modules)} {zlib.crc32(' '.join(sys.modules).encode())}"
    for name, module in modules:
        if module is sys.modules.get(__name__):
            continue
        values = {
            key: value
            for key, value in list(vars(module).items())
            if not key.startswith("_") and simple(value)
        }
        spec = getattr(module, "__spec__", None)
        yield f"{name} {spec and type(spec.loader).__name__} {values}"
        for check, key in vars(module).get("CHECKS", ()):
            # In this run drawn, read, asked for: true whatever it was.
            if key in vars(module):
                yield f"  {key} {check} {_CHECKS[check](vars(module)[key])}"
    yield f"environment { {k: v for k, v in os.environ.items() if k.startswith('MODEL_')} }"
    yield f"path {sys.path}"
    yield f"finders {[_name(f) for f in sys.meta_path]} {len(sys.path_hooks)}"
    yield f"argv {sys.argv[1:]} in {os.getcwd()}"
    for action, message, category, module, line in warnings.filters:
        texts = [getattr(pattern, "pattern", pattern) for pattern in (message, module)]
        yield f"filter {action} {texts} {category.__name__} {line}"
    loggers = {"": logging.root, **dict(sorted(logging.root.manager.loggerDict.items()))}
    for name, logger in loggers.items():
        if isinstance(logger, logging.Logger):
            handlers = [type(handler).__name__ for handler in logger.handlers]
            yield f"logger {name!r} {logger.level} {handlers} {logger.propagate} {logger.disabled}"
    yield f"exit {atexit._ncallbacks()} threads {[t.name for t in threading.enumerate()]}"
    mask = os.umask(0o22)
    os.umask(mask)
    yield f"umask {mask:o} descriptors {len(os.listdir('/proc/self/fd'))} timezone {time.tzname}"
    handlers = {s: signal.getsignal(s) for s in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    yield f"signals { {int(s): _name(h) for s, h in handlers.items()} }"
    yield f"limits {sys.getrecursionlimit()} {gc.isenabled()} {gc.get_threshold()}"
    yield f"decimal {decimal.getcontext().prec}"
    yield f"builtins {[name for name in vars(builtins) if name.startswith('MODEL')]}"
    yield f"hooks {_name(sys.excepthook)} {_name(sys.displayhook)} {sys.gettrace()}"
    stack = []
    frame = sys._getframe(2)
    while frame:
        stack.append(frame.f_code.co_name)
        frame = frame.f_back
    yield f"stack {len(stack)} {zlib.crc32(' '.join(stack).encode())}"


def _name(thing):
    return getattr(thing, "__name__", None) or type(thing).__name__
