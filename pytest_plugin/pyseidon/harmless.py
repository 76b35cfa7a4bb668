"""What imports that are executed ahead of the first test module may do to what was there before.

They may write where nothing looks that runs between there and here, see `quiet_plugins`; and they
may not look at what is another thing then than now.
"""

import os
import sys

from _operator import is_

from pyseidon import _zygote
from pyseidon.stash import EXECUTORS
from pyseidon.world import NOTHING, file_of, space_of

# What imports change in the standard library and what nothing quiet looks at.
HARMLESS = {
    # Restored, or done again, by the stash.
    "environment",
    "loggers",
    ("warnings", "filters"),
    *(("concurrent.futures", name) for name in EXECUTORS),
    # Where handlers are ended, the latest first; a weak reference to each.
    ("logging", "_handlerList"),
    # How to copy and pickle objects of further classes.
    ("copyreg", "dispatch_table"),
    # What is done at the end of the main thread.
    ("threading", "_threading_atexits"),
    ("time", "tzname"),
    "weakref.finalize",
    ("weakref.finalize", "_registry"),
    ("mimetypes", "inited"),
    ("mimetypes", "_db"),
    ("_ctypes", "_pointer_type_cache"),
    ("ctypes", "_pointer_type_cache"),
    ("ctypes", "_c_functype_cache"),
    ("functools", "_convert"),
    # `typing_extensions` puts its own there, for its own types; nothing else is told apart by it.
    *(
        ("typing", f"_{name}")
        for name in ("check_generic", "collect_parameters", "collect_type_vars")
    ),
}
# The same as long as something is only added: what was found or registered before stays.
GROWING = {
    ("encodings", "_cache"),
    ("_csv", "_dialects"),
    # What clears its caches: one for each function that has one.
    ("typing", "_cleanups"),
    ("ipaddress._BaseV4", "_netmask_cache"),
    ("ipaddress._BaseV6", "_netmask_cache"),
    ("logging", "_levelToName"),
    ("logging", "_nameToLevel"),
    *(("urllib.parse", f"uses_{part}") for part in ("relative", "netloc", "params")),
    *(("urllib.parse", f"uses_{part}") for part in ("query", "fragment")),
}


def is_looked_at(config, name, module):
    """Whether what runs in the gap may look at this module."""
    if config.pluginmanager.is_registered(module):
        return True
    top = name.partition(".")[0]
    if top in ("_pytest", "pytest", "pluggy", "iniconfig", "packaging"):
        return True
    file = file_of(module)
    if file is None:
        # (Cython makes modules without one to share its types.)
        return top in sys.builtin_module_names
    home = os.path.dirname(os.__file__) + os.sep
    return file.startswith(home) and "site-packages" not in file


def grown(world):
    """The places where only something was added that nothing quiet looks at."""
    enum = sys.modules["enum"]
    # A flag keeps each combination that was made.
    flags = {
        (f"{kind.__module__}.{kind.__qualname__}", "_value2member_map_")
        for kind in world.classes
        if issubclass(kind, enum.Flag)
    }
    found = set()
    for place in (GROWING | flags) & set(world.containers):
        container, copy = world.containers[place]
        if type(copy) is list:
            same = all(map(is_, container, copy)) and len(container) >= len(copy)
        else:
            same = all(container.get(key, NOTHING) is value for key, value in copy.items())
        if same:
            found.add(place)
    finders, known = world.containers["sys", "meta_path"]
    names = [type(finder).__name__ for finder in finders[len(known) :]]
    if finders[: len(known)] == known and set(names) == {"_SixMetaPathImporter"}:
        # It finds nothing but what the module `six` that it belongs to has under other names.
        found.add(("sys", "meta_path"))
    return found


def kept(modules):
    """Whether one has taken what pytest puts something else in the place of, in words, or None."""
    replaced = {
        id(getattr(sys.modules[name], key)): f"{name}.{key}"
        for name, key in REPLACED
        if hasattr(sys.modules.get(name), key)
    }
    for name, module in modules.items():
        for value in list(space_of(module).values()) if name != "pdb" else ():
            if id(value) in replaced:
                return f"`{name}` keeps `{replaced[id(value)]}`, which pytest replaces"
    return None


REPLACED = (
    *(("pdb", "set_trace"), ("sys", "unraisablehook"), ("threading", "excepthook")),
    *(("warnings", "filters"), ("warnings", "_showwarnmsg_impl")),
)


def climbs():
    """Whether somebody has gone up the stack of calls, which is another one here than in a run, in
    words, or None. A caller's name, or its caller's, is asked for by many."""
    dis, home = sys.modules["dis"], os.path.dirname(os.__file__) + os.sep
    for code, back in _zygote.frames():
        if code.co_filename == home + "inspect.py" and code.co_name == "currentframe":
            code = back
        if code is None or code.co_filename in (home + "logging/__init__.py", home + "warnings.py"):
            # They go no further than to whom they are called by.
            continue
        all_of_it = code.co_filename in (home + "inspect.py", home + "traceback.py")
        if all_of_it or ("f_back" in code.co_names and has_loop(dis, code)):
            return f"`{code.co_name}` of `{code.co_filename}` goes up the stack of calls"
    return None


def has_loop(dis, code):
    jumps = {*dis.hasjabs, *dis.hasjrel}
    return any(i.opcode in jumps and i.argval <= i.offset for i in dis.get_instructions(code))
