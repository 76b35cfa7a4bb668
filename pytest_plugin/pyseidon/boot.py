"""Starts a zygote: run by the daemon as `python boot.py CONTROL SCRIPT`.

The process then runs the `pytest` script just as `python SCRIPT` would, with nothing of ours in
`sys.modules`, in `sys.path` or on the stack, until a trap that was set here makes it park.
"""

import sys


def load():
    """Imports the package's modules and takes them out of `sys.modules` again.

    Returns them by name. Modules of the standard library that they needed go too: plain pytest
    will import them in its own order.
    """
    import os

    before = set(sys.modules)
    codecs = set(sys.modules["encodings"]._cache)
    finders = set(sys.path_importer_cache)
    here = os.path.dirname(os.path.abspath(__file__))
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    sys.path.insert(0, os.path.dirname(here))
    import pyseidon._zygote
    import pyseidon.ahead
    import pyseidon.arguments
    import pyseidon.barriers
    import pyseidon.bytecode
    import pyseidon.captured
    import pyseidon.conftests
    import pyseidon.first_module
    import pyseidon.forget
    import pyseidon.observe
    import pyseidon.park
    import pyseidon.quiet
    import pyseidon.quiet_plugins
    import pyseidon.refresh
    import pyseidon.stash
    import pyseidon.stops
    import pyseidon.worker

    del sys.path[0]
    loaded = {
        name.partition(".")[2]: sys.modules[name]
        for name in sys.modules
        if name.startswith("pyseidon.")
    }
    pyseidon.forget.forget(set(sys.modules) - before)
    forget_codecs(codecs)
    # (The interpreter has asked whether this very file is a directory or an archive.)
    for path in (set(sys.path_importer_cache) - finders) | {sys.argv[0]}:
        sys.path_importer_cache.pop(path, None)
    return loaded


def forget_codecs(known):
    """Has Python look codecs up again that were not among `known`, and so import them again.

    In its development mode an extension module cannot be loaded without one.
    """
    cache = sys.modules["encodings"]._cache
    new = set(cache) - known
    if not new:
        return
    import _codecs

    for name in new:
        del cache[name]
    if hasattr(_codecs, "_forget_codec"):
        # Python 3.9.
        for name in new:
            _codecs._forget_codec(name)
        return

    def nobody(name):
        return None

    # Taking a search function away empties the interpreter's own cache.
    _codecs.register(nobody)
    _codecs.unregister(nobody)


def main():
    """Never returns: a child of this process goes on, see `launch` in the extension."""
    control, script = int(sys.argv[1]), sys.argv[2]
    write_bytecode = not sys.dont_write_bytecode
    # A zygote writes no byte code: written between two quick edits, it could make even plain
    # pytest stale.
    sys.dont_write_bytecode = True
    modules = load()
    park = modules["park"]
    modules["_zygote"].launch(lambda: park.begin(control, script, write_bytecode))


if __name__ == "__main__":
    main()
