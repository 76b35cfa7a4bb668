"""Whether what runs between the initial conftests and the first test module is quiet.

A checkpoint may already hold what that module imports while a run still reads its options, calls
`pytest_configure` and `pytest_sessionstart`, prints its header and collects. That is sound if all
this, the *gap*, neither looks at nor changes what imports see: modules, environment, search path,
import hooks, warning filters, logging.

pytest's own plugins are quiet there, but for options and settings below. Of other plugins' hooks
those in `QUIET` have been read, in the newest release and in older ones. A hook of a project is
quiet if it does nothing but register markers and options.
"""

import os
import sys

from pyseidon import observe

# Hooks that may be called in the gap. (`pytest_addoption` was called before, but what it names as
# an option's type or action is called when options are read for the last time.)
GAP = (
    *("pytest_addoption", "pytest_plugin_registered", "pytest_cmdline_main"),
    *("pytest_configure", "pytest_sessionstart", "pytest_report_header", "pytest_collection"),
    *("pytest_ignore_collect", "pytest_collect_directory", "pytest_collect_file"),
    *("pytest_pycollect_makemodule", "pytest_collectstart", "pytest_make_collect_report"),
    *("pytest_collectreport", "pytest_warning_recorded"),
    # Called by pytest-metadata's `pytest_configure`.
    "pytest_metadata",
)
# By distribution: the oldest release that was read, and the first one that was not.
# `marks`: it registers marks. Header: it makes lines of the header.
# Read and left out: pytest-dotenv reads a file into the environment at session start, `foo` if it
# is told none; inline-snapshot makes `snapshot()` work, which modules call when they are imported.
QUIET = {
    # Registers what `allure`'s decorators ask, see `IMPORTS`; with `--alluredir` opens its report.
    "allure-pytest": ((2, 16), (2, 17)),
    # `marks`, and a warning where its mode and pytest-asyncio's are both `auto`.
    "anyio": ((4, 3), (4, 17)),
    # Reads settings, header. Before 1.0 it replaced `Module.collect`.
    "pytest-asyncio": ((1, 0), (1, 6)),
    # Sets its own or pytest-asyncio's mode.
    "pytest-aiohttp": ((1, 1), (1, 2)),
    # Keeps `config` for `scenario()`, which fails without one, so whoever calls it while a
    # checkpoint is built ends the prefix. Options: other reporters, code that is missing.
    "pytest-bdd": ((7, 3), (9, 1)),
    # Makes its directory, imports its own storage (`GAP_IMPORTS`), header.
    "pytest-benchmark": ((4, 0), (5, 4)),
    # `marks`; everything else begins with `--cov`.
    "pytest-cov": ((5, 0), (7, 2)),
    # Its work is done before conftests; `django_is_set_up` says when the gap has nothing to do.
    "pytest-django": ((4, 8), (4, 15)),
    # Its work is done before conftests; header.
    "pytest-env": ((1, 1), (1, 9)),
    # `marks`.
    "pytest-flask": ((1, 3), (1, 4)),
    "pytest-freezer": ((0, 4), (0, 5)),
    "pytest-httpx": ((0, 30), (0, 37)),
    "pytest-repeat": ((0, 9), (0, 10)),
    "pytest-trio": ((0, 8), (0, 9)),
    "pytest-click": ((1, 1), (1, 2)),
    "respx": ((0, 21), (0, 24)),
    # `marks`; nothing else without `--html`.
    "pytest-html": ((4, 1), (4, 3)),
    # Counts initialisation as done, see `IMPORTS`; imports `hypothesis` for its options and, with
    # `-v`, for the header. Says no to a directory `.hypothesis`.
    "hypothesis": ((6, 100), (6, 171)),
    # Puts another reporter in pytest's place.
    "pytest-instafail": ((0, 5), (0, 6)),
    "pytest-sugar": ((1, 0), (1, 2)),
    # Reads platform, versions of plugins and variables of CI systems; header with `-v`.
    "pytest-metadata": ((3, 0), (3, 2)),
    # Wraps `assert_…` methods of `unittest.mock`'s classes, in place.
    "pytest-mock": ((3, 12), (3, 18)),
    # Looks at options.
    "nbval": ((0, 11), (0, 12)),
    "pytest-order": ((1, 2), (1, 6)),
    "pytest-picked": ((0, 5), (0, 6)),
    "pytest-profiling": ((1, 8), (1, 9)),
    "pytest-split": ((0, 9), (0, 12)),
    "pytest-xprocess": ((1, 0), (1, 1)),
    # Only Windows.
    "pytest-postgresql": ((10, 0), (10, 1)),
    # Draws a seed, and gives it to `random` and to what it imported when it was loaded itself
    # (numpy, Faker, factory_boy, model_bakery, polyfactory): all that in the gap, since 4.0 at
    # session start, before that in the header. Then loads entry points, see `seeders`.
    "pytest-randomly": ((3, 15), (5, 2)),
    # Reads its options; `marks`.
    "pytest-random-order": ((1, 2), (1, 3)),
    # `marks`, if pycurl is not there: it would be replaced, see `replaces_pycurl`.
    "pytest-recording": ((0, 13), (0, 15)),
    # `marks`; beside pytest-xdist it starts a server in a thread.
    "pytest-rerunfailures": ((14, 0), (16, 8)),
    # `marks`; keeps its options.
    "pytest-socket": ((0, 7), (0, 9)),
    # Patches pytest's classes.
    "pytest-subtests": ((0, 12), (0, 16)),
    # `marks`, reads variables and the clock, header.
    "pytest-timeout": ((2, 2), (2, 5)),
    # Does nothing without its options and settings.
    "typeguard": ((4, 6), (4, 7)),
    # `marks`, and what belongs to its session.
    "syrupy": ((4, 6), (7, 1)),
    # `marks`, reads options; distributes nothing without `-n`, `--dist`, `--tx`.
    "pytest-xdist": ((3, 5), (3, 9)),
}

# Options, by their place in `config.option`, with which the gap is not quiet.
LOUD_OPTIONS = frozenset(
    (
        # pytest's: another first test module, other things than tests, code of the user's choice.
        *("lf", "failedfirst", "newfirst", "stepwise", "stepwise_skip", "stepwise_reset"),
        *("cacheshow", "help", "version", "markers", "showfixtures", "show_fixtures_per_test"),
        *("doctestmodules", "pyargs", "ignore", "ignore_glob", "trace", "usepdb_cls", "pastebin"),
        # Root logger's level while tests are collected.
        *("log_level", "log_cli_level", "log_file_level"),
        # pytest-xdist
        *("numprocesses", "tx", "px", "looponfail", "distload"),
        # pytest-cov, pytest-html, pytest-picked, pytest-profiling, nbval
        *("cov_source", "htmlpath", "picked", "profile", "profile_svg"),
        *("nbval", "nbval_lax", "nbdime"),
        # pytest-bdd, allure-pytest, pytest-benchmark, pytest-xprocess, pytest-split
        *("generate_missing", "cucumber_json_path", "gherkin_terminal_reporter"),
        *("allure_report_dir", "benchmark_compare", "xkill", "xshow", "store_durations"),
        # hypothesis: each of them has it imported.
        *("hypothesis_profile", "hypothesis_verbosity", "hypothesis_show_statistics"),
        *("hypothesis_seed", "hypothesis_explain"),
        # typeguard
        *("typeguard_packages", "typeguard_typecheck_fail_callback"),
        *("typeguard_debug_instrumentation", "typeguard_forward_ref_policy"),
        "typeguard_collection_check_strategy",
    )
)
# Settings of ini files with which it is not quiet.
LOUD_SETTINGS = (
    *("log_level", "log_cli_level", "log_file_level"),
    *("mock_use_standalone_module", "typeguard-packages", "typeguard-typecheck-fail-callback"),
    *("typeguard-debug-instrumentation", "typeguard-forward-ref-policy"),
    "typeguard-collection-check-strategy",
)

# By distribution: modules that do something else at import before the gap than after it.
# hypothesis objects to some uses while plugins and conftests are loaded; `allure`'s decorators do
# nothing until its plugin is configured.
IMPORTS = {"hypothesis": ("hypothesis",), "allure-pytest": ("allure",)}

# What is imported in the gap in every run, by pytest and by distributions, in this order. Modules
# that the prefix loads too have to be loaded after these. (pytest also replaces `pdb.set_trace`.)
GAP_IMPORTS = {
    "pytest": ("faulthandler", "pdb"),
    "pytest-benchmark": ("pytest_benchmark.storage.file",),
}


def why_not(config):
    """Why the gap of this run is not quiet, in words, or None. For when conftests are loaded."""
    return (
        why_not_options(config)
        or why_not_conftests(config)
        or why_not_hooks(config)
        or django_is_set_up(config)
        or replaces_pycurl(config)
        or seeders(config)
        or header_imports(config)
    )


def gap_imports(config):
    """What is imported in the gap of this run, in order."""
    present = ["pytest", *(distribution for distribution, _ in owners(config).values())]
    return [name for key in GAP_IMPORTS if key in present for name in GAP_IMPORTS[key]]


def why_not_modules(config, names):
    """Why these modules may not be imported before the gap, in words, or None."""
    present = {distribution for distribution, _ in owners(config).values()}
    for distribution in present & set(IMPORTS):
        for name in names:
            if name.partition(".")[0] in IMPORTS[distribution]:
                return f"`{name}` is imported, which `{distribution}` prepares for in each run"
    return None


def why_not_options(config):
    spaces = [vars(config.option), vars(getattr(config, "known_args_namespace", config.option))]
    for space in spaces:
        for name, value in space.items():
            if name in LOUD_OPTIONS and value:
                return f"the option `{name}` is set"
            # (pytest-xdist's, and pytest-benchmark's.)
            if name == "dist" and value not in ("no", None):
                return "the option `dist` is set"
            if name == "benchmark_storage" and str(value).startswith("elasticsearch"):
                return "the option `benchmark_storage` is set"
    for name in LOUD_SETTINGS:
        try:
            value = config.getini(name)
        except (KeyError, ValueError):
            # Nobody has such a setting.
            continue
        if value and value not in ("false", "False", "0", "no"):
            return f"the setting `{name}` is set"
    return None


def why_not_conftests(config):
    for plugin in config.pluginmanager.get_plugins():
        space = getattr(plugin, "__dict__", {})
        if os.path.basename(str(space.get("__file__"))) != "conftest.py":
            continue
        for name in ("collect_ignore", "collect_ignore_glob"):
            if space.get(name):
                return f"`{name}` of `{shown(config, space['__file__'])}` decides what is collected"
    return None


def why_not_hooks(config):
    known = owners(config)
    for name in GAP:
        # (`config.hook` stands before it, and makes functions of some, until pytest 9.)
        caller = getattr(config.pluginmanager.hook, name, None)
        for implementation in caller.get_hookimpls() if caller is not None else ():
            if not is_quiet(name, implementation.function, known):
                owner = owner_of(config, implementation, known)
                return f"`{name}` of {owner} runs before the first test module"
    return None


def is_quiet(name, function, known):
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    # (Not `__module__`, which decorators copy.)
    module = function.__globals__.get("__name__", "")
    if module.startswith(("_pytest.", "pyseidon.")):
        return True
    distribution, version = known.get(module.partition(".")[0], (None, None))
    # (Who works on a plugin itself has it elsewhere.)
    installed = any(f"/{kind}-packages/" in code.co_filename for kind in ("site", "dist"))
    if installed and distribution in QUIET and is_read(distribution, version):
        return True
    if installed and distribution and name == "pytest_addoption":
        # Its options have been read before, with the plugins' types and actions.
        return True
    return does_nothing_else(code)


def is_read(distribution, version):
    oldest, unread = QUIET[distribution]
    try:
        version = tuple(map(int, version.split(".")[:2]))
    except ValueError:
        return False
    return oldest <= version < unread


def owners(config):
    """Top-level module of each installed plugin to its distribution's name and version."""
    versions = observe.distributions(config)
    found = {}
    for plugin, dist in config.pluginmanager.list_plugin_distinfo():
        path = getattr(getattr(dist, "_dist", dist), "_path", None)
        name = getattr(path, "name", "").rpartition(".")[0].partition("-")[0]
        name = name.replace("_", "-").lower()
        top = str(getattr(plugin, "__name__", "")).partition(".")[0]
        # (A namespace without a file may belong to several.)
        if name in versions and getattr(sys.modules.get(top), "__file__", None):
            found[top] = name, versions[name]
    return found


def owner_of(config, implementation, known):
    function = getattr(implementation.function, "__func__", implementation.function)
    module = getattr(function, "__globals__", {}).get("__name__", "")
    distribution, version = known.get(module.partition(".")[0], (None, None))
    if distribution:
        return f"`{distribution}` {version}"
    code = getattr(function, "__code__", None)
    return f"`{shown(config, code.co_filename if code else implementation.plugin_name)}`"


def shown(config, path):
    """A path as the user would write it."""
    root = str(config.rootpath) + os.sep
    return path[len(root) :] if path.startswith(root) else path


# ---------------------------------------------------------------- hooks of projects


# What a hook may call, and which of the names of builtins it may give as an option's type.
REGISTERING = ("addinivalue_line", "addoption", "addini", "getgroup")
TYPES = ("bool", "float", "int", "str")


def does_nothing_else(code):
    """Whether the function with this code only registers marks and options."""
    # pytest has imported it; an import of this module would come before pytest's own.
    import ast

    try:
        with open(code.co_filename, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return False
    for node in ast.walk(tree):
        if type(node) is not ast.FunctionDef or node.name != code.co_name:
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        if first == code.co_firstlineno:
            types = set(TYPES) - module_names(tree)
            given = {parameter.arg for parameter in node.args.args}
            return all(registers(statement, given, types) for statement in node.body)
    return False


def module_names(tree):
    """All that is stored or imported anywhere in a module."""
    found = set()
    for node in sys.modules["ast"].walk(tree):
        kind = type(node).__name__
        if kind == "Name" and type(node.ctx).__name__ == "Store":
            found.add(node.id)
        elif kind in ("FunctionDef", "ClassDef", "AsyncFunctionDef"):
            found.add(node.name)
        elif kind == "alias":
            found.add((node.asname or node.name).partition(".")[0])
    return found | (set(TYPES) if "*" in found else set())


def registers(statement, given, types):
    """Whether this only calls what registers something on one of the `given` names."""
    kind = type(statement).__name__
    value = getattr(statement, "value", None)
    if kind == "Pass" or (kind == "Return" and (value is None or is_constant(value))):
        return True
    if kind == "Expr" and is_constant(value):
        return True
    if kind == "Assign":
        # `group = parser.getgroup("...")`
        target = statement.targets[0]
        if len(statement.targets) != 1 or type(target).__name__ != "Name":
            return False
        if not is_registration(value, given, types):
            return False
        given.add(target.id)
        return True
    return kind == "Expr" and is_registration(value, given, types)


def is_registration(call, given, types):
    if type(call).__name__ != "Call" or type(call.func).__name__ != "Attribute":
        return False
    method, owner = call.func.attr, call.func.value
    if method not in REGISTERING:
        return False
    # The other: `parser.getgroup("...").addoption(...)`.
    if type(owner).__name__ == "Name":
        if owner.id not in given:
            return False
    elif not is_registration(owner, given, types):
        return False
    if method == "addinivalue_line" and not (call.args and is_text(call.args[0], "markers")):
        # A filter of warnings is one too.
        return False
    for keyword in call.keywords:
        value = keyword.value
        if keyword.arg == "type" and type(value).__name__ == "Name" and value.id in types:
            continue
        if keyword.arg is None or not is_constant(value):
            return False
    return all(map(is_constant, call.args))


def is_text(node, text):
    return type(node).__name__ == "Constant" and node.value == text


def is_constant(node):
    kind = type(node).__name__
    if kind in ("List", "Tuple"):
        return all(map(is_constant, node.elts))
    return kind == "Constant"


# ---------------------------------------------------------------- single plugins


def django_is_configured():
    """None without pytest-django."""
    django = sys.modules.get("django.conf")
    if "pytest_django" not in sys.modules:
        return None
    return django is not None and django.settings.configured


def django_is_set_up(config):
    """pytest-django calls `django.setup()` in the gap where it could not do so earlier."""
    apps = sys.modules.get("django.apps")
    if not django_is_configured() or (apps is not None and apps.apps.ready):
        return None
    return "`pytest_configure` of `pytest-django` sets up Django before the first test module"


def replaces_pycurl(config):
    if "pytest_recording" not in sys.modules or "pycurl" not in sys.modules:
        return None
    return "`pytest_configure` of `pytest-recording` replaces `pycurl`"


def seeders(config):
    """Entry points that pytest-randomly loads in the gap."""
    if "pytest_randomly" not in sys.modules:
        return None
    for directory in sys.path:
        try:
            names = os.listdir(directory or ".")
        except OSError:
            continue
        for name in names:
            if not name.endswith((".dist-info", ".egg-info")):
                continue
            try:
                with open(os.path.join(directory, name, "entry_points.txt"), "rb") as file:
                    text = file.read()
            except OSError:
                continue
            if b"pytest_randomly.random_seeder" in text:
                return f"`pytest-randomly` loads what `{name}` offers it"
    return None


def header_imports(config):
    """hypothesis's plugin imports it for the header where that is long."""
    options = getattr(config, "known_args_namespace", config.option)
    if "_hypothesis_pytestplugin" not in sys.modules or "hypothesis" in sys.modules:
        return None
    if max(getattr(options, "verbose", 0), getattr(config.option, "verbose", 0)) < 1:
        return None
    return "with `-v`, `pytest_report_header` of `hypothesis` imports it"
