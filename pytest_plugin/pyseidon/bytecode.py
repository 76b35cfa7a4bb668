"""Byte code that a plain run would have left behind.

A zygote writes none (see `boot`). Where it found none that was fresh, plain pytest would have
written it when it imported the module; so each child does it, with the very functions that would
have, before it goes on.
"""

import os
import sys

from pyseidon.world import space_of


def unwritten(modules, compiled=()):
    """What of these modules' byte code is missing or outdated: functions that write it; and the
    paths of that which is fresh. `compiled` are sources that were compiled beside: modules may have
    put something else in their place."""
    found, fresh = [], set()
    external = sys.modules["_frozen_importlib_external"]
    rewrite = sys.modules.get("_pytest.assertion.rewrite")
    compiled = set(map(os.fspath, compiled))
    for path in sorted(compiled):
        cached = external.cache_from_source(path)
        if is_fresh(cached, path):
            fresh.add(cached)
        elif is_writable(cached):
            loader = external.SourceFileLoader("", path)
            found.append(silently(lambda loader=loader: loader.get_code("")))
    for module in modules:
        names = space_of(module)
        loader, spec = names.get("__loader__"), names.get("__spec__")
        file = names.get("__file__")
        if spec is None or not isinstance(file, str) or not file.endswith(".py"):
            continue
        if type(loader) is external.SourceFileLoader and file not in compiled:
            cached = names.get("__cached__")
            if not isinstance(cached, str):
                continue
            if is_fresh(cached, file):
                fresh.add(os.path.abspath(cached))
            elif is_writable(cached):
                code = lambda loader=loader, name=spec.name: loader.get_code(name)  # noqa: E731
                found.append(silently(code))
        elif rewrite is not None and isinstance(loader, rewrite.AssertionRewritingHook):
            source, target = rewritten_paths(rewrite, file)
            if rewrite._read_pyc(source, target) is not None:
                fresh.add(str(target))
            elif is_writable(str(target)):
                paths = source, target
                found.append(silently(lambda p=paths, h=loader: write(rewrite, h, *p)))
    return found, fresh


def silently(write):
    """A function that calls this one without the compiler's warnings: they were given before. (The
    version of the filters stays: with another one, warnings that were shown are shown again.)"""

    def call():
        filters = sys.modules["warnings"].filters
        filters.insert(0, ("ignore", None, Warning, None, 0))
        try:
            write()
        finally:
            del filters[0]

    return call


def warnings_of(module):
    """What the compiler warns of in this module: `(category, text, line)`."""
    warnings = sys.modules["warnings"]
    with open(space_of(module)["__file__"], "rb") as file:
        source = file.read()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        compile(source, space_of(module)["__file__"], "exec", dont_inherit=True)
    return {(warning.category, str(warning.message), warning.lineno) for warning in told}


def with_others(modules):
    """All modules that are loaded, and these."""
    loaded = list(sys.modules.values())
    known = set(map(id, loaded))
    return loaded + [module for module in modules if id(module) not in known]


def is_fresh(cached, file):
    """Whether byte code stands for its source, by the header that PEP 552 defines."""
    try:
        with open(cached, "rb") as stream:
            header = stream.read(16)
        source = os.stat(file)
    except OSError:
        return False
    if len(header) < 16 or header[:4] != sys.modules["_frozen_importlib_external"].MAGIC_NUMBER:
        return False
    flags = int.from_bytes(header[4:8], "little")
    if flags > 3:
        return False
    if flags & 1:
        checks = sys.modules["_imp"].check_hash_based_pycs
        if checks == "never" or not (flags & 2 or checks == "always"):
            # Never outdated.
            return True
        try:
            with open(file, "rb") as stream:
                return header[8:] == sys.modules["importlib.util"].source_hash(stream.read())
        except OSError:
            return False
    stamp = int(source.st_mtime) & 0xFFFFFFFF, source.st_size & 0xFFFFFFFF
    return stamp == (
        int.from_bytes(header[8:12], "little"),
        int.from_bytes(header[12:16], "little"),
    )


def is_writable(cached):
    """Whether `__pycache__` can be written to, or made."""
    cache = os.path.dirname(cached)
    return os.access(cache if os.path.isdir(cache) else os.path.dirname(cache), os.W_OK)


def rewritten_paths(rewrite, file):
    """Where pytest keeps the rewritten byte code of `file`: `(source, byte code)`."""
    source = rewrite.Path(file)
    return source, rewrite.get_cache_dir(source) / (source.name[:-3] + rewrite.PYC_TAIL)


def write(rewrite, hook, source, target):
    if rewrite._read_pyc(source, target) is not None:
        # An earlier child has written it.
        return
    state = hook.config.stash[rewrite.assertstate_key]
    if rewrite.try_makedirs(target.parent):
        stamp, code = rewrite._rewrite_test(source, hook.config)
        rewrite._write_pyc(state, code, stamp, target)
