"""Makes a forked child the process that the caller would have started: Python's own state.

(What the kernel keeps of a process is set before, by the extension.) The order of things is that
of an interpreter's start where that can be told apart.
"""

import io
import os
import sys
import time

import _signal
import posix

from pyseidon import _zygote, refresh


class Start:
    """What a process remembers of its start."""

    write_bytecode = True
    # `(encoding, errors)` of stdin, stdout, stderr as the interpreter chose them.
    streams = ()
    # False if streams were asked to be unbuffered.
    buffered = True
    # The interpreter as called, with its options.
    interpreter = ()
    script = ""
    # What was put into the environment since: see `difference`. And whether the time zone in it has
    # been taken over (`time.tzset`).
    environment = ()
    has_set_zone = False
    # Functions that write byte code which plain pytest would have written.
    unwritten = ()


START = Start()


def become(order):
    """Takes over environment, arguments, streams and signals from `order`."""
    set_environment(order.env)
    set_arguments(order.argv)
    set_streams()
    set_ignored(order.ignored)
    sys.dont_write_bytecode = not START.write_bytecode
    _zygote.tell_screen_size()
    refresh.refresh()


def write_bytecode():
    """Writes what plain pytest would have written by now. Not before it is certain that this
    child stands for the run: another checkpoint may hold other modules."""
    if not sys.dont_write_bytecode:
        for write in START.unwritten:
            write()
    # They hold pytest's configuration, and with it the streams, which this module would outlive.
    START.unwritten = ()


def become_template(order):
    """Takes over what a deeper zygote's build depends on."""
    set_environment(order.env)
    set_arguments(order.argv)


def set_environment(entries):
    """Fills `os.environ` as `os` does at its import: the first of a name wins.

    C code's environment has been replaced already.
    """
    data = os.environ._data
    data.clear()
    for entry in entries:
        name, separator, value = entry.partition(b"=")
        if separator:
            data.setdefault(name, value)
    time.tzset()
    for name, value, shown in START.environment:
        if shown is None:
            data.pop(name, None)
        else:
            data[name] = shown
        if value is None:
            posix.unsetenv(name)
        else:
            posix.putenv(name, value)
    if START.has_set_zone:
        time.tzset()


def note_environment(entries):
    """Notes what this process has done to an environment that began as `entries`."""
    START.environment = difference(entries)
    zone = time.tzname, time.timezone, time.altzone, time.daylight
    time.tzset()
    START.has_set_zone = zone == (time.tzname, time.timezone, time.altzone, time.daylight)


def difference(entries):
    """What this process has written to an environment that began as `entries`.

    Triples of a name, its value for C code, and its value in `os.environ`; None for removed ones.
    Written are variables that were set or removed, also to what they were, and what differs
    because the interpreter itself has set it when it started.
    """
    before = {}
    for entry in entries:
        name, separator, value = entry.partition(b"=")
        if separator:
            before.setdefault(name, value)
    after = os.environ._data
    written = {name: value for name, value in after.items() if before.get(name) != value}
    written.update({name: None for name in before if name not in after})
    written.update(_zygote.written())
    return [(name, value, after.get(name)) for name, value in written.items()]


def set_arguments(argv):
    """Arguments after the script."""
    argv = [os.fsdecode(arg) for arg in argv]
    sys.argv[1:] = argv
    set_orig_argv(argv)


def set_orig_argv(argv):
    """`sys.orig_argv` (Python 3.10 and later): the whole command line."""
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[:] = [*START.interpreter, START.script, *argv]


def set_streams():
    """Standard streams as `create_stdio` of CPython's `pylifecycle.c` makes them."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        stream = make_stream(fd, name, mode)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def make_stream(fd, name, mode):
    """The text stream for a standard descriptor, or None where that is closed."""
    try:
        os.fstat(fd)
    except OSError:
        return None
    buffered = START.buffered
    writing = mode == "w"
    buffering = 0 if writing and not buffered else -1
    buffer = io.open(fd, mode + "b", buffering, closefd=False)
    raw = buffer.raw if buffering else buffer
    raw.name = f"<{name}>"
    encoding, errors = START.streams[fd]
    stream = io.TextIOWrapper(
        buffer,
        encoding=encoding,
        errors=errors,
        newline="\n",
        line_buffering=buffered and (raw.isatty() or fd == 2),
        write_through=not buffered,
    )
    stream.mode = mode
    return stream


def set_ignored(ignored):
    """Signals that the caller ignores; for Python's own table too."""
    for number in range(1, 65):
        if ignored & 1 << number - 1 and number not in (_signal.SIGKILL, _signal.SIGSTOP):
            try:
                _signal.signal(number, _signal.SIG_IGN)
            except (OSError, ValueError):
                # Two real-time signals belong to the C library.
                pass
