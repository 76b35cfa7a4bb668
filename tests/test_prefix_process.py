"""What modules do to their process when they are imported.

A worker is a copy of a process that has done it, or has not: descriptors with their offsets, locks
and children, threads, timers, handlers, streams, values that must be new in each run. Each effect
is tried in a conftest and in a module which a test imports, and with a module of its own that comes
before and one that comes after it.
"""

from __future__ import annotations

import pytest

from .harness.cases import Case, edit, imports_for, play, select
from .harness.sandbox import Sandbox

# What a module does, and then what a test shows of it: of the module `effect`. `unseen(value)` is
# false where an earlier run had the same value, `since(time)` where it lies before this run,
# `runs()` counts them.
TOOLS = """
import os

def unseen(value):
    path = os.path.join(os.environ["HOME"], "seen")
    with open(path, "a+") as file:
        file.seek(0)
        seen = repr(value) + "\\n" in file.readlines()
        file.write(repr(value) + "\\n")
    return not seen

def since(time):
    with open(os.path.join(os.environ["HOME"], "started")) as file:
        return float(file.read()) <= time

def runs():
    with open(os.path.join(os.environ["HOME"], "runs")) as file:
        return len(file.read())
"""

EFFECTS: dict[str, tuple[str, str]] = {
    # ------------------------------------------------------------------ output and streams
    "prints": ("print('effect speaks')", ""),
    "prints to stderr": ("print('effect speaks', file=sys.stderr)", ""),
    "writes to descriptor 1": ("os.write(1, b'effect writes\\n')", ""),
    "replaces stdout": (
        "class Loud(io.TextIOBase):\n    def write(self, text):\n"
        "        return before.write(text.replace('passed', 'PASSED'))\n\n"
        "before = sys.stdout\nsys.stdout = Loud()",
        "effect.before is sys.__stdout__, type(sys.stdout).__name__",
    ),
    "keeps stdout": ("OUT = sys.stdout\nERR = sys.stderr", "effect.OUT.closed, effect.OUT.name"),
    "writes to what it has kept": ("OUT = sys.stdout", "effect.OUT.write('late words')"),
    "asks for a terminal": (
        "TTY = sys.stdout.isatty(), os.isatty(0), sys.stdin.isatty()",
        "effect.TTY",
    ),
    "configures logging": (
        "logging.basicConfig(stream=sys.stderr, level=10)\nlogging.info('at import')",
        "logging.info('in a test'), len(logging.root.handlers)",
    ),
    "logs to what stdout is": (
        "HANDLER = logging.StreamHandler(sys.stdout)\nlogging.getLogger('x').addHandler(HANDLER)",
        "logging.getLogger('x').warning('hello'), effect.HANDLER.stream.closed",
    ),
    "dup of a descriptor": ("FD = os.dup(1)", "os.write(effect.FD, b'by the copy\\n')"),
    # ------------------------------------------------------------------ where and who
    "changes directory": ("os.makedirs('sub', exist_ok=True); os.chdir('sub')", "os.getcwd()"),
    "changes umask": ("os.umask(0o027)", "oct(os.umask(0o022))"),
    "nice": ("os.nice(1)", "os.nice(0)"),
    "limits": (
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))",
        "resource.getrlimit(resource.RLIMIT_NOFILE)",
    ),
    "affinity": (
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
        "len(os.sched_getaffinity(0))",
    ),
    "process number": ("PID = os.getpid()", "effect.PID == os.getpid()"),
    # ------------------------------------------------------------------ environment
    "sets a variable": ("os.environ['SET'] = 'x'", "os.environ['SET'], os.environb[b'SET']"),
    "removes a variable": ("del os.environ['TERM']", "os.environ.get('TERM')"),
    "sets a variable unseen by Python": (
        "os.putenv('SET', 'x')",
        "os.environ.get('SET'), subprocess.run(['printenv', 'SET'], capture_output=True).stdout",
    ),
    "replaces the environment": ("os.environ = dict(os.environ, SET='x')", "type(os.environ)"),
    "changes the time zone": ("os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()", "time.tzname"),
    "changes arguments": ("sys.argv.append('more')", "sys.argv[1:]"),
    "changes sys.path": ("sys.path.insert(0, '/nowhere')", "sys.path[:2]"),
    "replaces sys.path": ("sys.path = ['/nowhere', *sys.path]", "sys.path[:2]"),
    "changes meta path": (
        "class Finder:\n    @staticmethod\n    def find_spec(name, path=None, target=None):\n"
        "        asked.append(name)\n\nasked = []\nsys.meta_path.insert(0, Finder)",
        "'before' in effect.asked, 'after' in effect.asked",
    ),
    "replaces import": (
        "def imports(name, *rest):\n    asked.append(name)\n    return before(name, *rest)\n\n"
        "asked = []\nbefore = builtins.__import__\nbuiltins.__import__ = imports",
        "'before' in effect.asked, 'after' in effect.asked",
    ),
    # ------------------------------------------------------------------ chance and time
    "seeds": ("random.seed(7)", "random.random()"),
    "draws": ("DRAWN = random.random()", "unseen(effect.DRAWN)"),
    "draws from the system": (
        "DRAWN = os.urandom(8), secrets.token_hex(), uuid.uuid4()",
        "unseen(effect.DRAWN)",
    ),
    "draws from its own": ("RANDOM = random.Random()", "unseen(effect.RANDOM.random())"),
    "reads the clock": ("NOW = time.time()", "since(effect.NOW)"),
    "reads the date": (
        "NOW = datetime.datetime.now()\nNOW_TOO = datetime.datetime.now(datetime.timezone.utc)",
        "since(effect.NOW.timestamp()), since(effect.NOW_TOO.timestamp())",
    ),
    "reads other clocks": (
        "NOW = [time.monotonic(), time.perf_counter()]\nTIME = time.time",
        "since(time.time() - time.monotonic() + effect.NOW[0]), since(effect.TIME())",
    ),
    "reads the clock as a default": (
        "def now(value=time.time()):\n    return value\n\nclass Row:\n    made = time.time_ns()",
        "since(effect.now()), since(effect.Row.made / 1e9)",
    ),
    # ------------------------------------------------------------------ files and descriptors
    "opens a file": ("HANDLE = open(__file__)", "effect.HANDLE.readline(), effect.HANDLE.tell()"),
    "keeps a descriptor": (
        "FD = os.open(__file__, os.O_RDONLY)",
        "os.read(effect.FD, 9), os.lseek(effect.FD, 0, 1), os.get_inheritable(effect.FD)",
    ),
    "leaves a file unflushed": (
        "FILE = open('out', 'w')\nFILE.write('buffered')",
        "effect.FILE.write('more')",
    ),
    "appends to a file": (
        "with open(os.path.join(os.environ['HOME'], 'log'), 'a') as file:\n    file.write('x')",
        "len(open(os.path.join(os.environ['HOME'], 'log')).read()) - runs()",
    ),
    "swallows what stops it": (
        "try:\n    os.mkdir(os.path.join(os.environ['HOME'], 'made'))\n    MADE = True\n"
        "except BaseException:\n    MADE = False\nif MADE:\n    "
        "atexit.register(os.rmdir, os.path.join(os.environ['HOME'], 'made'))",
        "effect.MADE, os.path.isdir(os.path.join(os.environ['HOME'], 'made'))",
    ),
    "makes a directory": (
        "MADE = tempfile.mkdtemp(prefix='effect')",
        "os.path.isdir(effect.MADE), unseen(effect.MADE)",
    ),
    "temporary directory that goes away": (
        "MADE = tempfile.TemporaryDirectory()",
        "os.path.isdir(effect.MADE.name), unseen(effect.MADE.name)",
    ),
    "temporary file": (
        "FILE = tempfile.TemporaryFile()",
        "effect.FILE.write(b'12'), effect.FILE.flush(), effect.FILE.seek(0, 2)",
    ),
    "locks a file": (
        "LOCK = open(os.path.join(os.environ['HOME'], 'lock'), 'w')\n"
        "fcntl.flock(LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "",
    ),
    "database in a file": (
        "DB = sqlite3.connect(os.path.join(os.environ['HOME'], 'db'))\n"
        "DB.execute('create table if not exists t (x)')",
        "effect.DB.execute('insert into t values (1)').rowcount",
    ),
    "database in memory": (
        "DB = sqlite3.connect(':memory:')\nDB.execute('create table t (x)')",
        "effect.DB.execute('insert into t values (1)').lastrowid",
    ),
    "memory that processes share": (
        "SHARED = mmap.mmap(-1, 8)",
        "effect.SHARED[0], effect.SHARED.write_byte(1)",
    ),
    "value that processes share": (
        "VALUE = multiprocessing.Value('i', 0)",
        "effect.VALUE.value, setattr(effect.VALUE, 'value', 1)",
    ),
    "lock that processes share": (
        "LOCK = multiprocessing.Lock()",
        "effect.LOCK.acquire(block=False)",
    ),
    "pipe": (
        "ENDS = os.pipe2(os.O_NONBLOCK)",
        "os.write(effect.ENDS[1], b'x'), len(os.read(effect.ENDS[0], 9))",
    ),
    "listens": (
        "SERVER = socket.socket()\nSERVER.bind(('127.0.0.1', 0))\nSERVER.listen()",
        "unseen(effect.SERVER.getsockname())",
    ),
    "event loop": (
        "LOOP = asyncio.new_event_loop()\natexit.register(LOOP.close)",
        "effect.LOOP.run_until_complete(asyncio.sleep(0, 'slept'))",
    ),
    "poller": (
        "POLL = select.epoll()\nENDS = os.pipe()\nPOLL.register(ENDS[0], 1)",
        "effect.POLL.poll(0), os.write(effect.ENDS[1], b'x'), len(effect.POLL.poll(1))",
    ),
    # ------------------------------------------------------------------ processes and threads
    "starts a process": (
        "CHILD = subprocess.Popen(['cat'], stdin=-1)\natexit.register(CHILD.communicate)",
        "effect.CHILD.poll()",
    ),
    "asks a process": (
        "SAID = subprocess.run(['cat', os.environ['HOME'] + '/started'], capture_output=True)",
        "since(float(effect.SAID.stdout))",
    ),
    "starts a thread": (
        "STOP = threading.Event()\nTHREAD = threading.Thread(target=STOP.wait, name='mine',"
        " daemon=True)\nTHREAD.start()",
        "effect.THREAD.is_alive(), [t.name for t in threading.enumerate()]",
    ),
    "thread that has ended": (
        "SEEN = []\n\ndef see():\n    SEEN.append(threading.get_native_id())\n\n"
        "THREAD = threading.Thread(target=see)\nTHREAD.start()\nTHREAD.join()",
        "unseen(effect.SEEN), threading.active_count()",
    ),
    "pool of threads": (
        "from concurrent.futures import ThreadPoolExecutor\nPOOL = ThreadPoolExecutor(1)\n"
        "ONE = POOL.submit(int, 1).result()",
        "effect.POOL.submit(int, 2).result()",
    ),
    "timer of a thread": (
        "TIMER = threading.Timer(1000, print)\nTIMER.daemon = True\nTIMER.start()",
        "effect.TIMER.is_alive()",
    ),
    "value of a thread": (
        "LOCAL = threading.local()\nLOCAL.x = 1\nIDENT = threading.get_ident()\n"
        "NATIVE = threading.get_native_id()",
        "effect.LOCAL.x, effect.IDENT == threading.get_ident(),"
        " effect.NATIVE == threading.get_native_id()",
    ),
    # ------------------------------------------------------------------ signals and ends
    "handles a signal": (
        "signal.signal(signal.SIGUSR1, lambda *rest: HEARD.append(1))\nHEARD = []",
        "signal.raise_signal(signal.SIGUSR1), effect.HEARD",
    ),
    "ignores interrupts": (
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "signal.getsignal(signal.SIGINT)",
    ),
    "sets a timer": (
        "signal.setitimer(signal.ITIMER_REAL, 1000)",
        "signal.getitimer(signal.ITIMER_REAL)[0] > 0",
    ),
    "blocks a signal": (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [])",
    ),
    "at exit": ("atexit.register(print, 'good bye')", ""),
    "at exit, taken back": (
        "atexit.register(print, 'good bye')\natexit.unregister(print)",
        "",
    ),
    "suspended generator": (
        "def generate():\n    try:\n        yield 1\n    finally:\n        print('finished')\n\n"
        "GENERATOR = generate()\nnext(GENERATOR)",
        "effect.GENERATOR.gi_frame is None",
    ),
    "object with an end": (
        "class Thing:\n    def __del__(self):\n        print('deleted')\n\nTHING = Thing()",
        "effect.THING is not None",
    ),
    "cycle with an end": (
        "class Thing:\n    def __del__(self):\n        os.write(1, b'deleted\\n')\n\n"
        "def make():\n    thing = Thing()\n    thing.thing = thing\n\nmake()",
        # (How much else there is to collect differs: README, limits.)
        "gc.collect() > 0",
    ),
    "faulthandler": ("faulthandler.disable()", "faulthandler.is_enabled()"),
    # ------------------------------------------------------------------ the interpreter
    "warnings filters": (
        "warnings.simplefilter('ignore')\nCOUNT = len(warnings.filters)",
        "effect.COUNT, warnings.warn('seen?')",
    ),
    "warns": ("warnings.warn('effect warns', DeprecationWarning)", ""),
    "shows warnings its way": (
        "SEEN = []\nwarnings.showwarning = lambda *rest: SEEN.append(str(rest[0]))\n"
        "warnings.warn('effect warns')",
        "effect.SEEN, warnings.showwarning.__module__",
    ),
    "locale": ("locale.setlocale(locale.LC_ALL, 'C')", "locale.setlocale(locale.LC_ALL)"),
    "recursion limit": ("sys.setrecursionlimit(4321)", "sys.getrecursionlimit()"),
    "switch interval": ("sys.setswitchinterval(0.25)", "sys.getswitchinterval()"),
    "collector": (
        "gc.disable(); gc.set_threshold(1234)\nAT = []\ngc.callbacks.append(AT.append)\n",
        "gc.isenabled(), gc.get_threshold()[0], effect.AT.append in gc.callbacks",
    ),
    "socket time limit": ("socket.setdefaulttimeout(12)", "socket.getdefaulttimeout()"),
    "exception hook": (
        "sys.excepthook = lambda *rest: print('hooked')\nthreading.excepthook = sys.excepthook",
        "sys.excepthook.__module__",
    ),
    "breakpoint hook": ("sys.breakpointhook = print", "breakpoint('hooked')"),
    "tracing": (
        "CALLS = []\n\ndef trace(frame, event, rest):\n    CALLS.append(frame.f_code.co_name)\n\n"
        "sys.settrace(trace)",
        "sys.gettrace() is effect.trace, 'test_shows' in effect.CALLS",
    ),
    "profile": (
        "CALLS = []\n\ndef profile(frame, event, rest):\n    CALLS.append(frame.f_code.co_name)\n\n"
        "sys.setprofile(profile)",
        "sys.getprofile() is effect.profile, 'test_shows' in effect.CALLS",
    ),
    "writes no byte code": ("sys.dont_write_bytecode = True", "sys.dont_write_bytecode"),
    "memory of C": ("C = ctypes.CDLL(None)\nC.srand(7)", "effect.C.rand()"),
    "changes its own name": (
        "sys.modules[__name__] = types.SimpleNamespace(__name__='other', SET=1)",
        "effect",
    ),
}

# With `-s` what is written at import is shown, in its order.
UNCAPTURED = [
    "prints",
    "prints to stderr",
    "writes to descriptor 1",
    "replaces stdout",
    "keeps stdout",
    "at exit",
]

TEST = """
import before
{first}
import after
from tools import runs, since, unseen
{imports}
import effect

def test_shows():
    print({show})
"""

# What the process is like where the module was not imported. Under pytest's own capture.
WITHOUT = """
import faulthandler, gc, locale, logging, os, resource, signal, socket, subprocess, sys, threading
import time, warnings

import before

def test_b():
    print(before.WORD, os.getcwd(), oct(os.umask(0o022)), os.nice(0), len(os.sched_getaffinity(0)))
    print(resource.getrlimit(resource.RLIMIT_NOFILE), len(os.listdir("/proc/self/fd")))
    print(os.environ.get("SET"), os.environ.get("TERM"), type(os.environ), time.tzname)
    print(subprocess.run(["printenv", "SET"], stdout=-1).stdout, sys.argv, sys.path)
    print([getattr(finder, "__name__", type(finder).__name__) for finder in sys.meta_path])
    print(__import__.__module__, type(sys.stdout), len(logging.root.handlers), logging.root.level)
    print([t.name for t in threading.enumerate()], signal.getitimer(signal.ITIMER_REAL)[0] > 0)
    print([(n, signal.getsignal(n)) for n in (2, 10, 12)], signal.pthread_sigmask(0, []))
    print(len(warnings.filters), warnings.showwarning.__module__, faulthandler.is_enabled())
    print(locale.setlocale(locale.LC_ALL), sys.getrecursionlimit(), sys.getswitchinterval())
    print(gc.isenabled(), gc.get_threshold(), socket.getdefaulttimeout(), sys.dont_write_bytecode)
    print(sys.excepthook, threading.excepthook, sys.breakpointhook, sys.gettrace())
    print(sys.getprofile(), "effect" in sys.modules)
"""


def case_of(name: str, place: str) -> Case:
    effect, show = EFFECTS[name]
    imports = imports_for(f"{effect} {show}")
    return Case(
        name,
        {
            "conftest.py": "import before\nimport effect\n" if place == "conftest" else "",
            "tools.py": TOOLS,
            "before.py": "WORD = 'before'\n",
            "after.py": "WORD = 'after'\n",
            "effect.py": f"{imports}\n{effect}\n",
            "test_a.py": TEST.format(
                first="import effect" if place == "module" else "", imports=imports, show=show
            ),
            "test_b.py": WITHOUT,
        },
        # In a conftest the effect is there in every run, else not in this one.
        (edit("before.py", "WORD = 'other'\n"),)
        if place == "conftest"
        else (select("test_b.py"), select("test_a.py")),
        ("-rA", "-s") if name in UNCAPTURED else ("-rA",),
    )


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("place", ["conftest", "module"])
def test_effect(sandbox: Sandbox, name: str, place: str) -> None:
    play(sandbox, case_of(name, place))
