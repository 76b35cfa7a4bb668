"""What a child must draw anew, because plain pytest would have: clocks, seeds, identities.

Everything here undoes an effect of time that passed, or of a process number that changed, between
a zygote's parking and its child. The standard library's own hooks (`os.register_at_fork`) have
run before.
"""

import os
import sys
import time

# Unseeded generators that were made on the way to where the zygote parked.
GENERATORS = []
# `(logging handler, name of its standard stream)`: made at import (charset_normalizer does it).
HANDLERS = []


def refresh():
    """Brings a fresh child up to date."""
    modules = sys.modules
    # What `importlib.invalidate_caches` does, but for forgetting paths that were not there: a
    # plain run would not look at them again either.
    for finder in list(sys.path_importer_cache.values()):
        if hasattr(finder, "invalidate_caches"):
            finder.invalidate_caches()
    metadata = modules.get("importlib.metadata")
    if metadata is not None:
        # A class method only since Python 3.12.
        metadata.MetadataPathFinder().invalidate_caches()
    logging = modules.get("logging")
    if logging is not None:
        nanoseconds = isinstance(logging._startTime, int)
        logging._startTime = time.time_ns() if nanoseconds else time.time()
    threading = modules.get("threading")
    if threading is not None and hasattr(threading, "main_thread"):
        main = threading.main_thread()
        if getattr(main, "_native_id", None) is not None:
            main._set_native_id()
    for handler, name in HANDLERS:
        handler.stream = getattr(sys, name)
    for generator in GENERATORS:
        generator.seed()
    draw(modules)


def draw(modules):
    """Has these modules take anew what they took when they were imported."""
    if "numpy.random" in modules:
        modules["numpy.random"].seed()
    for rule in RULES:
        if rule.module in modules:
            rule.draw(modules[rule.module])


class Rule:
    """A module that takes something at its import that its own code only uses later.

    `file` is how its file's name ends and `kind` what it takes (see the extension's `profile`):
    that read is no reason against a checkpoint, because `draw(module)` takes it again in every
    child, in the same way, or because nothing depends on it (`nothing`, with the reason).
    """

    def __init__(self, module, file, kind, draw):
        self.module = module
        self.file = file
        self.kind = kind
        self.draw = draw


def draw_randomly(module):
    # 3.1 to 3.16 draw the default seed at import, as here; since 4.0 it is drawn when configured.
    if hasattr(module, "default_seed"):
        module.default_seed = sys.modules["random"].Random().getrandbits(32)


def draw_execnet(module):
    # Only shown in its debug trace.
    module.pid = os.getpid()


def draw_dateutil(module):
    # The parser's idea of this century.
    info = module.DEFAULTPARSER.info
    info._year = time.localtime().tm_year
    info._century = info._year // 100 * 100


def draw_hypothesis(module):
    # When the run began, for its reports.
    module._imported_at = time.time()


def draw_joblib(module):
    # The name of a semaphore by which it has found out whether there can be any.
    if hasattr(module, "name") and hasattr(module, "_rand"):
        module.name = f"/joblib-{os.getpid()}-{next(module._rand)}"


def draw_f2py(module):
    # The date in the head of C code that it generates.
    then = module.generationtime
    module.generationtime = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    former, now = (time.asctime(time.gmtime(at)) for at in (then, module.generationtime))
    module.module_rules["modulebody"] = module.module_rules["modulebody"].replace(former, now)


def nothing(module):
    pass


RULES = (
    Rule("pytest_randomly", "/pytest_randomly/__init__.py", "seed", draw_randomly),
    Rule("pytest_randomly", "/pytest_randomly/__init__.py", "random", draw_randomly),
    Rule("execnet.gateway_base", "/execnet/gateway_base.py", "process", draw_execnet),
    Rule("dateutil.parser._parser", "/dateutil/parser/_parser.py", "clock", draw_dateutil),
    Rule(
        "hypothesis.internal.observability",
        "/hypothesis/internal/observability.py",
        "clock",
        draw_hypothesis,
    ),
    Rule("numpy.f2py.rules", "/numpy/f2py/rules.py", "clock", draw_f2py),
    *(
        Rule("joblib._multiprocessing_helpers", "/joblib/_multiprocessing_helpers.py", kind, draw)
        for kind, draw in (("process", draw_joblib), ("random", nothing))
    ),
    # Samples in the examples of docstrings, which say of themselves that they may vary.
    Rule(
        "scipy.stats._distribution_infrastructure",
        "/scipy/stats/_distribution_infrastructure.py",
        "random",
        nothing,
    ),
    # Converts a constant.
    Rule("aiohttp.cookiejar", "/aiohttp/cookiejar.py", "clock", nothing),
    # Whether the kernel has a file for each process.
    Rule("psutil._pslinux", "/psutil/_pslinux.py", "process", nothing),
    # Identifiers that a terminal tells one program's links apart by.
    Rule("rich.style", "/rich/style.py", "random", nothing),
    # Forgets its helper process in a child: there is none. (Python's own does since 3.14.)
    *(
        Rule(
            f"{package}.backend.resource_tracker",
            f"{end}/backend/resource_tracker.py",
            "fork",
            nothing,
        )
        for package, end in (("joblib.externals.loky", "/joblib/externals/loky"), ("loky", "/loky"))
    ),
    # Forgets its threads in a child: there are none.
    Rule("trio._core._thread_cache", "/trio/_core/_thread_cache.py", "fork", nothing),
)
