"""Byte code that a plain run would have left behind.

A zygote writes none (see `boot`). Where it found none that was fresh, plain pytest would have
written it when it imported the module; so each child does it, with the very functions that would
have, before it goes on.
"""

import os
import sys


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
            found.append(lambda loader=loader: loader.get_code(""))
    for module in modules:
        names = getattr(module, "__dict__", {})
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
                found.append(lambda loader=loader, name=spec.name: loader.get_code(name))
        elif rewrite is not None and isinstance(loader, rewrite.AssertionRewritingHook):
            source, target = rewritten_paths(rewrite, file)
            if rewrite._read_pyc(source, target) is not None:
                fresh.add(str(target))
            elif is_writable(str(target)):
                found.append(
                    lambda paths=(source, target), hook=loader: write(rewrite, hook, *paths)
                )
    return found, fresh


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
