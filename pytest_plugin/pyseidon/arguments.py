"""Lets a child that was parked inside pytest go on with the caller's arguments.

At P0 pytest has read arguments, ini files and early options of some earlier run. All of that is
read again here, by pytest's own code on a fresh `Config` that stops where plugins would be
loaded, and compared. If it is equal, the parked `Config` is as it would be for the caller, but
for what the arguments themselves say, which is put in.

Read and tested on pytest 7.4, 8.0 to 8.4, and 9.0 to 9.2: in all of them `_checkversion` is the
first thing after the arguments were read for the first time.
"""

import copy
import sys

# What early reading of the arguments decides on, and plugins are loaded by.
EARLY = (
    "assertmode",
    "debug",
    "disable_plugin_autoload",
    "help",
    "inifilename",
    "override_ini",
    "plugins",
    "pythonwarnings",
    "rootdir",
    "strict",
    "strict_config",
    "strict_markers",
    "traceconfig",
    "version",
)
# What ini files and the root directory came to.
SETUP = (
    "_rootpath",
    "_inipath",
    "inicfg",
    "_inicfg",
    "_override_ini",
    "_ignored_config_files",
)


# Raised in place of `Config._checkversion`. Its class is one that is there anyway: one of ours
# would show in `Exception.__subclasses__()`.
STOP = GeneratorExit("the arguments are read")


class Prepared:
    """A parked `Config`, and a fresh one to read the caller's arguments with."""

    def __init__(self, config, early, fresh, all_loaded, defaults):
        self.config = config
        self.early = early
        self.fresh = fresh
        self.all_loaded = all_loaded
        self.defaults = defaults

    def take(self, args):
        """Puts the caller's arguments in; `args` is the list that pytest's frames hold.

        Returns None, or why the parked state is not the caller's. Prints and changes nothing then
        but what only this process holds.
        """
        try:
            return self._take(args)
        except BaseException as error:
            return f"reading the arguments raised {type(error).__name__}"

    def _take(self, args):
        config, fresh = self.config, self.fresh
        read_arguments(fresh, sys.argv[1:])
        early = early_options(fresh)
        for name in EARLY:
            if early[name] != self.early[name]:
                return f"the option `{name}` differs"
        for name in SETUP:
            # What the objects hold: `inicfg` is a property since 9.2, and warns.
            if vars(fresh).get(name) != vars(config).get(name):
                return f"`{name.strip('_')}` differs"
        config.invocation_params = fresh.invocation_params
        args[:] = fresh.pyseidon_args
        if not self.all_loaded:
            # The second reading is still to come.
            config.known_args_namespace = fresh.known_args_namespace
            return None
        base = self.defaults if reads_defaults_again() else fresh.known_args_namespace
        namespace = config._parser.parse_known_args(args, namespace=copy.copy(base))
        if namespace.confcutdir is None:
            inipath = config.inipath
            namespace.confcutdir = str(config.rootpath if inipath is None else inipath.parent)
        config.known_args_namespace = namespace
        self.fresh = None
        return None


def prepare(config, argv, all_loaded, defaults=None):
    """Before parking: what the parked `config` was made from, and a fresh one.

    `argv` is what the parked run was given; `all_loaded` whether it parks after the second
    reading of the arguments, the one that knows the plugins' options; `defaults` the options'
    values before that reading, if others have come since.
    """
    first = fresh_config(argv)
    read_arguments(first, argv)
    early, fresh = early_options(first), fresh_config(argv)
    return Prepared(config, early, fresh, all_loaded, defaults or config.option)


def fresh_config(argv):
    """A `Config` as pytest's start makes it, with the same core plugins left out by `-p no:`."""
    return sys.modules["_pytest.config"].get_config(list(argv))


def read_arguments(config, argv):
    """Lets `config` read arguments and ini files as far as pytest does before it loads plugins."""

    def stop():
        raise STOP

    pathlib = sys.modules["pathlib"]
    args = list(argv)
    config.invocation_params = config.InvocationParams(
        args=args, plugins=None, dir=pathlib.Path.cwd()
    )
    config._checkversion = stop
    try:
        config.parse(args)
    except GeneratorExit as stopped:
        if stopped is not STOP:
            raise
        STOP.__traceback__ = STOP.__context__ = None
    del config._checkversion
    config.pyseidon_args = args


def early_options(config):
    namespace = config.known_args_namespace
    return {name: getattr(namespace, name, None) for name in EARLY}


def reads_defaults_again():
    """Since 9.0 the reading after the plugins begins from the defaults; before it went on from
    the first reading."""
    version = sys.modules["_pytest"].__version__
    return int(version.partition(".")[0]) >= 9
