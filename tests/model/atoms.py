"""Statements that a module executes when it is imported: one kind each, in several versions.

`$n` is a number that no other statement of the project has, `$v` a value of three digits, `$other`
another module of the project that this one may import, `$leaf` the last part of its name.
"""

from __future__ import annotations

import random
from string import Template

# Kind to versions. An edit puts another version in the place of the present one.
ATOMS: dict[str, tuple[str, ...]] = {
    "value": ("VALUE_$n = $v\n", "VALUE_$n = [$v, $v]\n"),
    "same size": ("WORD_$n = 'abc'\n", "WORD_$n = 'abd'\n", "WORD_$n = 'xyz'\n"),
    "register": (
        "from app import reg\nreg.NAMES.append('one $n')\n",
        "from app import reg\nreg.NAMES.insert(0, 'two $n')\n",
        "from app import reg\nreg.NAMES.clear()\n",
        "from app import reg\nreg.NAMES += ['half $n']\nreg.NAMES.sort()\n",
    ),
    "register by a decorator": (
        "from app.reg import register\n\n@register\ndef plug_$n():\n    return $v\n",
        "from app.reg import register\n\ndef plug_$n():\n    return $v\n",
    ),
    "count": ("from app import reg\nORDER_$n = reg.turn()\n",),
    "subclass": (
        "from app import reg\n\nclass Sub$n(reg.Base):\n    size = $v\n",
        "from app import reg\n\nclass Sub$n(reg.Base, table='t$n'):\n    size = $v\n",
        "from app import reg\n\nclass Sub$n:\n    size = $v\n",
    ),
    "singledispatch": (
        "from app import reg\n\n@reg.shown.register(complex)\ndef _(value):\n"
        "    return 'shown $n'\n",
        "from app import reg\n\n@reg.shown.register(bytes)\ndef _(value):\n    return 'shown $n'\n",
    ),
    "abstract base": (
        "from app import reg\n\nclass Like$n:\n    pass\n\nreg.Shape.register(Like$n)\n",
        "from app import reg\nreg.Shape.register(frozenset)\n",
    ),
    "patch a module": (
        "import $other\n$other.patched = 'by $n'\n",
        "import $other\nfor name in list(vars($other)):\n"
        "    if name.startswith('VALUE_'):\n        setattr($other, name, $v)\n",
        "import $other\n$other.patched = getattr($other, 'patched', '') + '$n '\n",
    ),
    "patch the library": (
        "import colorsys\ncolorsys.MODEL_$n = $v\n",
        "import textwrap\ntextwrap.dedent = lambda text: 'patched $n'\n",
        "import json\njson.JSONEncoder.item_separator = ' $n '\n",
        "import builtins\nbuiltins.MODEL_$n = $v\n",
    ),
    "read the environment": (
        "import os\nENV_$n = os.environ.get('MODEL_A', 'unset')\n",
        "import os\nENV_$n = os.getenv('MODEL_B')\n",
        "import os\nENV_$n = sorted(name for name in os.environ if name.startswith('MODEL_'))\n",
        "import os\nENV_$n = 'MODEL_A' in os.environ\n",
        "from os import environ\nENV_$n = dict(environ).get('MODEL_A')\n",
        "import os\nENV_$n = os.path.expandvars('$$MODEL_A/$$MODEL_B')\n",
    ),
    "write the environment": (
        "import os\nos.environ['MODEL_B'] = 'set $n'\n",
        "import os\nos.environ.setdefault('MODEL_A', 'default $n')\n",
        "import os\nos.environ.pop('MODEL_A', None)\n",
        "import os\nos.environ['MODEL_PATH'] = os.environ.get('MODEL_PATH', '') + ':$n'\n",
    ),
    "probe a path": (
        "import os\nHAS_$n = os.path.exists('flag.txt')\n",
        "import pathlib\nHAS_$n = (pathlib.Path(__file__).parent / 'flag.txt').is_file()\n",
        "import os\nHAS_$n = sorted(os.listdir(os.path.join(os.path.dirname(__file__), 'data')))\n",
        "import glob, os\nHAS_$n = len(glob.glob(os.path.dirname(__file__) + '/data/*.txt'))\n",
        "import os\nHAS_$n = os.access(os.path.dirname(__file__) + '/flag.txt', os.R_OK)\n",
        "import os\nHAS_$n = os.path.getsize(os.path.dirname(__file__) + '/data/words.txt')\n",
        "import os\nHAS_$n = sorted(e.name for e in os.scandir(os.path.dirname(__file__))"
        " if e.is_dir() and e.name != '__pycache__')\n",
    ),
    "read a file": (
        "import os\nwith open(os.path.dirname(__file__) + '/data/words.txt') as file:\n"
        "    TEXT_$n = file.read()\n",
        "import pathlib\nTEXT_$n = pathlib.Path(__file__).with_name('data').joinpath("
        "'words.txt').read_text()\n",
        "import importlib.resources\nTEXT_$n = importlib.resources.files('app').joinpath("
        "'data/words.txt').read_text()\n",
        "import pkgutil\nTEXT_$n = pkgutil.get_data('app', 'data/words.txt').decode()\n",
        "try:\n    TEXT_$n = open('local.txt').read()\nexcept OSError as error:\n"
        "    TEXT_$n = type(error).__name__\n",
    ),
    "arguments": (
        "import sys\nARGS_$n = len(sys.argv)\n",
        "import sys\nARGS_$n = '-k' in sys.argv\n",
        "from sys import argv\nARGS_$n = argv[1:]\n",
    ),
    "directory": (
        "import os\nCWD_$n = os.path.basename(os.getcwd())\n",
        "import os\nCWD_$n = os.path.relpath(__file__)\n",
        "import pathlib\nCWD_$n = pathlib.Path('.').resolve().name\n",
    ),
    "loaded modules": (
        "import sys\nSEEN_$n = '$other' in sys.modules\n",
        "import sys\nSEEN_$n = sorted(name for name in sys.modules if name.startswith('app.'))\n",
        "import sys\nSEEN_$n = [n for n in ('json', 'probe', 'csv') if n in sys.modules]\n",
        "import sys\nSEEN_$n = len(sys.modules)\n",
    ),
    "main module": (
        "import os, __main__\nMAIN_$n = os.path.basename(__main__.__file__)\n",
        "import sys\nMAIN_$n = sorted(vars(sys.modules['__main__']))\n",
    ),
    "find a module": (
        "import importlib.util\nFOUND_$n = importlib.util.find_spec('late') is not None\n",
        "try:\n    import late\n    FOUND_$n = late.WORD\nexcept ImportError as error:\n"
        "    FOUND_$n = str(error)\n",
        "import importlib.metadata\nFOUND_$n = importlib.metadata.version('widelib')\n",
    ),
    "warn": (
        "import warnings\nwarnings.warn('old $n', DeprecationWarning, stacklevel=2)\n",
        "import warnings\nwarnings.warn('here $n', UserWarning)\n",
        "import warnings\nwarnings.warn('far $n', FutureWarning, stacklevel=3)\n",
        "import warnings\nwarnings.warn_explicit('told $n', UserWarning, 'elsewhere.py', $v)\n",
    ),
    "filter warnings": (
        "import warnings\nwarnings.filterwarnings('ignore', 'old $n')\n",
        "import warnings\nwarnings.simplefilter('error', FutureWarning)\n",
        "import warnings\nwarnings.filterwarnings('always', module='app')\n",
        "import warnings\nwith warnings.catch_warnings():\n"
        "    warnings.simplefilter('ignore')\n    import $other\n",
    ),
    "print at exit": (
        "import atexit\natexit.register(print, 'exit $n')\n",
        "import atexit\n\n@atexit.register\ndef leave():\n    print('left $n', flush=True)\n",
        "import weakref\n\nclass Held$n:\n    pass\n\nHELD = Held$n()\n"
        "weakref.finalize(HELD, print, 'finalized $n')\n",
    ),
    "print": (
        "print('importing $n')\n",
        "import sys\nsys.stderr.write('importing $n\\n')\n",
        "import os\nos.write(1, b'written $n\\n')\n",
    ),
    "log": (
        "import logging\nlogging.getLogger('app').setLevel($v)\n",
        "import logging\nlogging.getLogger('app.l$n').addHandler(logging.NullHandler())\n",
        "import logging\nlogging.getLogger(__name__).warning('logged $n')\n",
        "import logging\nlogging.basicConfig(level=logging.INFO)\n",
        "import logging\nlogging.disable(logging.INFO)\n",
    ),
    "extend the path": (
        "import os, sys\nsys.path.insert(0, os.path.join(os.path.dirname(__file__), 'extra'))\n"
        "import far\nFAR_$n = far.WORD\n",
        "import os, sys\nsys.path.append(os.path.join(os.path.dirname(__file__), 'extra'))\n",
        "import os\n__path__ = [os.path.join(os.path.dirname(__file__), 'extra')]\n",
    ),
    "context": (
        "import decimal\ndecimal.getcontext().prec = 7 + $n\n",
        "import contextvars\nVAR_$n = contextvars.ContextVar('v$n', default=1)\nVAR_$n.set($v)\n",
        "import random\nrandom.seed($v)\n_state = random.random()\nDRAWN = _state\n",
    ),
    "process": (
        "import os\nos.umask(0o077)\n",
        "import signal\nsignal.signal(signal.SIGUSR1, signal.SIG_IGN)\n",
        "import sys\nsys.setrecursionlimit(2000 + $n)\n",
        "import gc\ngc.set_threshold(600 + $n)\n",
        "import sys\n\ndef hook_$n(*what):\n    sys.__excepthook__(*what)\n\n"
        "sys.excepthook = hook_$n\n",
        "import os, time\nos.environ['TZ'] = 'Asia/Tokyo'\ntime.tzset()\n",
        "import os\nos.chdir(os.path.dirname(os.path.abspath(__file__)))\n",
    ),
    "hold": (
        "import threading\nEVENT_$n = threading.Event()\nthreading.Thread(target=EVENT_$n.wait, "
        "daemon=True, name='waits $n').start()\n",
        "import os\nFILE_$n = open(os.path.dirname(__file__) + '/data/words.txt')\n",
        "OUT_$n = open('left-$n.txt', 'w')\nOUT_$n.write('buffered $n')\n",
        "def steps():\n    try:\n        yield $v\n    finally:\n        print('closed $n')\n\n"
        "STEPS_$n = steps()\nnext(STEPS_$n)\n",
        "class Ends:\n    def __del__(self, say=print):\n        say('gone $n')\n\n"
        "ENDS_$n = Ends()\n",
    ),
    "act": (
        "import subprocess\nDONE_$n = subprocess.run(['true']).returncode\n",
        "with open('made-$n.txt', 'a') as file:\n    file.write('made $n\\n')\n",
        "import tempfile\nwith tempfile.TemporaryFile() as file:\n    file.write(b'$n')\n",
    ),
    "random": (
        "import time\n_clock_$n = time.time_ns()\nCHECKS = [('fresh', '_clock_$n')]\n",
        "import uuid\n_uuid_$n = str(uuid.uuid4())\nCHECKS = [('new', '_uuid_$n')]\n",
        "import random\n_drawn_$n = random.getrandbits(64)\nCHECKS = [('new', '_drawn_$n')]\n",
        "import os\n_bytes_$n = os.urandom(8).hex()\nCHECKS = [('new', '_bytes_$n')]\n",
        "import os\n_pid_$n = os.getpid()\nCHECKS = [('own', '_pid_$n')]\n",
        "import datetime\n_clock_$n = int(datetime.datetime.now().timestamp() * 1e6 + 1) * 1000\n"
        "CHECKS = [('fresh', '_clock_$n')]\n",
    ),
    "conditional import": (
        "import os\nif os.environ.get('MODEL_A'):\n    import $other\n",
        "import os\nif os.path.exists('flag.txt'):\n    import $other\n",
        "import sys\nif sys.version_info >= (3, 9):\n    import $other\n",
        "try:\n    from _fast_$n import speed\nexcept ImportError:\n    import $other as speed\n",
        "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    import $other\n",
        "import sys\nif 'app.reg' in sys.modules:\n    import $other\n",
    ),
    "import": (
        "import $other\n",
        "from $other import *\n",
        "import importlib\nMODULE = importlib.import_module('$other')\n",
        "from app import $leaf\n",
        "__import__('$other')\n",
        "import widelib\nWIDE_$n = list(widelib.NAMES)\n",
        "import widelib.more\n",
        "from widelib import old\n",
        "import csv, colorsys\n",
    ),
    "import later": (
        "def late_$n():\n    import $other\n    return sorted(vars($other))\n",
        "def __getattr__(name):\n    if name == 'lazy_$n':\n        import $other\n"
        "        return $other\n    raise AttributeError(name)\n",
    ),
    "import anew": (
        "import sys\nsys.modules.pop('$other', None)\nimport $other\n",
        "import importlib, $other\nimportlib.reload($other)\n",
        "import sys\nsys.modules.setdefault('stub_$n', type(sys)('stub_$n'))\n",
        "import sys\n\nclass Stand(type(sys)):\n    word = '$n'\n\n"
        "sys.modules[__name__].__class__ = Stand\n",
    ),
    "importer": (
        "import sys\n_frame = sys._getframe(1)\nwhile 'importlib' in _frame.f_code.co_filename:\n"
        "    _frame = _frame.f_back\nFROM_$n = _frame.f_globals['__name__']\n",
        "import traceback\nSTACK_$n = [f.name for f in traceback.extract_stack()]\n",
        "import inspect\nDEPTH_$n = len(inspect.stack(0))\n",
    ),
    "finder": (
        "import sys\n\nclass Finder:\n    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name.startswith('app'):\n            asked.append(name)\n\n"
        "asked = []\nsys.meta_path.insert(0, Finder)\n",
        "import sys\n\ndef hooked(path):\n    raise ImportError\n\nsys.path_hooks.append(hooked)\n",
    ),
    "codec": (
        "import codecs\ncodecs.register(lambda name: None)\n",
        "import copyreg\ncopyreg.pickle(complex, lambda value: (complex, (value.real, $n)))\n",
        "import mimetypes\nmimetypes.add_type('model/$n', '.model')\n",
        "import socket\nsocket.setdefaulttimeout($v)\n",
    ),
    "fail softly": (
        "try:\n    import app.half\nexcept Exception as error:\n    HALF_$n = repr(error)\n",
        "import contextlib\nwith contextlib.suppress(ImportError):\n    import app.nowhere_$n\n",
    ),
}

# They end a prefix, or a whole run, or make most of what follows uninteresting: drawn less often.
HEAVY = {"hold", "act", "process", "finder", "random", "context", "import anew"}

BREAKS = {
    "syntax error": "def broken(:\n",
    "unclosed": "broken = (\n",
    "exception": "raise RuntimeError('broken')\n",
    "exit": "raise SystemExit(3)\n",
    "missing module": "import no_such_module\n",
    "missing name": "from app.reg import no_such_name\n",
    "null byte": "broken = '\0'\n",
    "tabs": "if True:\n\tbroken = 1\n        broken = 2\n",
}


def draw_kind(chance: random.Random) -> str:
    kinds = list(ATOMS)
    return chance.choices(kinds, [1 if kind in HEAVY else 4 for kind in kinds])[0]


def write(kind: str, version: int, n: int, v: int, other: str) -> str:
    text = Template(ATOMS[kind][version])
    return text.substitute(n=n, v=v, other=other, leaf=other.rpartition(".")[2])
