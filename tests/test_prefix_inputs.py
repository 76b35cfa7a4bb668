"""What modules read when they are imported: the next run knows what has changed since.

A checkpoint in which the module was executed holds the old answer. Each input is read in a module
that a conftest imports, and in one that a test imports; then it changes as it would outside.
"""

from __future__ import annotations

import os
import resource
import sqlite3
import zipfile

import pytest

from .harness.cases import Case, How, Twist, below, edit, imports_for, play
from .harness.sandbox import Sandbox

FILES = {
    "data/one.txt": "one\n",
    "data/config.json": '{"word": "one"}\n',
    "data/config.ini": "[main]\nword = one\n",
    "pkg/__init__.py": "",
    "pkg/sub.py": "WORD = 'sub'\n",
    "pkg/data.txt": "one\n",
    "reg.py": "WORD = 'reg'\n",
}


def link(sandbox: Sandbox, to: str) -> None:
    path = sandbox.project / "link"
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def rename(sandbox: Sandbox) -> None:
    """As editors and deployment tools replace a file."""
    sandbox.write("data/new.txt", "two\n").replace(sandbox.project / "data/one.txt")


def archive(sandbox: Sandbox, word: str) -> None:
    with zipfile.ZipFile(sandbox.project / "data.zip", "w") as file:
        file.writestr("one.txt", word)


def database(sandbox: Sandbox, word: str) -> None:
    with sqlite3.connect(sandbox.project / "data.db") as connection:
        connection.execute("create table if not exists words (word)")
        connection.execute("insert into words values (?)", [word])
    connection.close()


def age(sandbox: Sandbox, seconds: int) -> None:
    os.utime(sandbox.project / "data/one.txt", (seconds, seconds))


def env(what: str, **values: str | None) -> Twist:
    return Twist(what, how=How(values))


SET = env("WORD is set", WORD="two")
NEW = edit("data/two.txt", "two\n")
OTHER = edit("data/one.txt", "two\n")
LOCAL = edit("local.json", "{}\n")
HERE = "os.path.dirname(__file__)"

# What is read, and what changes it. `WORD` is `one` where a name begins with `had`.
INPUTS: dict[str, tuple[str, Twist]] = {
    # ------------------------------------------------------------------ paths that are looked at
    "exists": ("os.path.exists('local.json')", LOCAL),
    "exists beside the module": (f"os.path.exists(os.path.join({HERE}, 'local.json'))", LOCAL),
    "exists in a directory that is not there": (
        "os.path.exists('new/local.json')",
        edit("new/local.json", ""),
    ),
    "exists no more": ("os.path.exists('data/one.txt')", edit("data/one.txt", None)),
    "is file": ("(pathlib.Path(__file__).parent / 'local.json').is_file()", LOCAL),
    "is directory": ("os.path.isdir('new')", edit("new/file", "")),
    "access": ("os.access('local.json', os.R_OK)", LOCAL),
    "mode": (
        "oct(os.stat('data/one.txt').st_mode)",
        Twist("chmod", act=lambda s: (s.project / "data/one.txt").chmod(0o700)),
    ),
    "size": ("os.path.getsize('data/one.txt')", edit("data/one.txt", "three\n")),
    "time": ("os.path.getmtime('data/one.txt') == 1e9", Twist("age", act=lambda s: age(s, 10**9))),
    "link": (
        "os.readlink('link') if os.path.islink('link') else None",
        Twist("link", act=lambda s: link(s, "data")),
    ),
    "real path": ("os.path.realpath('link')", Twist("link", act=lambda s: link(s, "data"))),
    "listdir": ("sorted(os.listdir('data'))", NEW),
    "scandir": ("sorted(e.name for e in os.scandir('data'))", NEW),
    "iterdir": ("sorted(p.name for p in pathlib.Path('data').iterdir())", NEW),
    "glob": ("sorted(glob.glob('data/*.txt'))", NEW),
    "glob by a path": ("sorted(map(str, pathlib.Path('.').rglob('*.txt')))", NEW),
    "walk": ("sorted(name for *_, names in os.walk('data') for name in names)", NEW),
    "found program": (
        "shutil.which('tool', path='data')",
        Twist(
            "a program",
            act=lambda s: s.write("data/tool", "#!/bin/sh\n").chmod(0o755),
        ),
    ),
    # ------------------------------------------------------------------ files that are read
    "open": ("open('data/one.txt').read()", OTHER),
    "open, another of the same size by rename": (
        "open('data/one.txt').read()",
        Twist("rename", act=rename),
    ),
    "open through a link": (
        "os.path.exists('link') and open('link').read()",
        Twist("link", act=lambda s: link(s, "data/one.txt")),
    ),
    "open in vain": ("tried(lambda: open('local.json').read())", LOCAL),
    "open with os": ("os.read(os.open('data/one.txt', os.O_RDONLY), 9)", OTHER),
    "open relative to a directory": (
        "os.read(os.open('one.txt', 0, dir_fd=os.open('data', os.O_DIRECTORY)), 9)",
        OTHER,
    ),
    "read text": ("(pathlib.Path(__file__).parent / 'data/one.txt').read_text()", OTHER),
    "map": ("bytes(mmap.mmap(os.open('data/one.txt', 0), 0, prot=mmap.PROT_READ))", OTHER),
    "json": (
        "json.load(open('data/config.json'))['word']",
        edit("data/config.json", '{"word": "two"}\n'),
    ),
    "configuration": (
        "(lambda c: (c.read(['data/config.ini', 'local.ini']), c['main']['word']))"
        "(configparser.ConfigParser())",
        edit("local.ini", "[main]\nword = two\n"),
    ),
    "resource": (
        "importlib.resources.files('pkg').joinpath('data.txt').read_text()",
        edit("pkg/data.txt", "two\n"),
    ),
    "package data": ("pkgutil.get_data('pkg', 'data.txt')", edit("pkg/data.txt", "two\n")),
    "source of a module": ("open(__import__('reg').__file__).read()", edit("reg.py", "WORD = 1\n")),
    "line of a file": ("linecache.getline('data/one.txt', 1)", OTHER),
    "archive": (
        "os.path.exists('data.zip') and zipfile.ZipFile('data.zip').read('one.txt')",
        Twist("archive", act=lambda s: archive(s, "two")),
    ),
    "database": (
        "sqlite3.connect('file:data.db?mode=ro', uri=True)"
        ".execute('select count(*) from words').fetchone() if os.path.exists('data.db') else 0",
        Twist("database", act=lambda s: database(s, "two")),
    ),
    "by another process": (
        "subprocess.run(['cat', 'data/one.txt'], capture_output=True).stdout",
        OTHER,
    ),
    # ------------------------------------------------------------------ modules that are looked for
    "find_spec": ("importlib.util.find_spec('late') is None", edit("late.py", "")),
    "find_spec of a package": (
        "importlib.util.find_spec('pkg.late') is None",
        edit("pkg/late.py", ""),
    ),
    "optional import": ("tried(lambda: __import__('late').WORD)", edit("late.py", "WORD = 1\n")),
    "optional import by name": (
        "tried(lambda: importlib.import_module('late').WORD)",
        edit("late.py", "WORD = 1\n"),
    ),
    "import by name": (
        "importlib.import_module('pkg.' + open('data/one.txt').read().strip()"
        ".replace('one', 'sub')).WORD",
        Twist("other name", {"data/one.txt": "other\n", "pkg/other.py": "WORD = 'other'\n"}),
    ),
    "modules of a package": (
        "[m.name for m in pkgutil.iter_modules(__import__('pkg').__path__)]",
        edit("pkg/late.py", ""),
    ),
    "sys.modules": (
        "'reg' in sys.modules",
        edit("tools.py", ("import os\n", "import os\n\nimport reg\n")),
    ),
    "distributions": (
        "[d.version for d in importlib.metadata.distributions() if d.metadata['Name'] == 'late']",
        edit("late-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: late\nVersion: 1.0\n"),
    ),
    "entry points": (
        "[e.name for e in importlib.metadata.entry_points().select(group='late')]",
        Twist(
            "a distribution",
            {
                "late-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: late\nVersion: 1.0\n",
                "late-1.0.dist-info/entry_points.txt": "[late]\nmine = reg:WORD\n",
            },
        ),
    ),
    # ------------------------------------------------------------------ environment
    "getenv": ("os.getenv('WORD')", SET),
    "get": ("os.environ.get('WORD', 'none')", SET),
    "in": ("'WORD' in os.environ", SET),
    "key error": ("tried(lambda: os.environ['WORD'])", SET),
    "had, changed": ("os.environ['WORD']", SET),
    "had, taken away": ("os.environ.get('WORD')", env("WORD is taken away", WORD=None)),
    "bytes": ("os.environb.get(b'WORD')", SET),
    "copy": ("os.environ.copy().get('WORD')", SET),
    "whole": ("dict(os.environ).get('WORD')", SET),
    "names": ("'WORD' in list(os.environ)", SET),
    "items": ("[v for k, v in os.environ.items() if k == 'WORD']", SET),
    "length": ("len(os.environ)", SET),
    "merged": ("{**os.environ}.get('WORD')", SET),
    "data": ("os.environ._data.get(b'WORD')", SET),
    "posix": ("__import__('posix').environ.get(b'WORD')", SET),
    "expandvars": ("os.path.expandvars('$WORD')", SET),
    "by C": ("ctypes_getenv(b'WORD')", SET),
    "by a child": ("subprocess.run(['printenv', 'WORD'], capture_output=True).stdout", SET),
    "home": ("os.path.expanduser('~/x')", env("HOME", HOME="/nowhere")),
    "home by a path": ("str(pathlib.Path.home())", env("HOME", HOME="/nowhere")),
    "temporary directory": ("tempfile.gettempdir()", env("TMPDIR", TMPDIR="/var/tmp")),
    "search path": ("shutil.which('env')", env("PATH", PATH="/nowhere")),
    "user": ("getpass.getuser()", env("LOGNAME", LOGNAME="somebody")),
    "columns": ("shutil.get_terminal_size().columns", env("COLUMNS", COLUMNS="77")),
    "time zone": ("time.localtime(0).tm_hour, time.tzname", env("TZ", TZ="Asia/Tokyo")),
    "locale": ("locale.setlocale(locale.LC_CTYPE, '')", env("LC_ALL", LC_ALL="C")),
    "PYTHONPATH": ("sys.path[:3]", env("PYTHONPATH", PYTHONPATH="/nowhere")),
    "module by PYTHONPATH": (
        "tried(lambda: __import__('one_more').WORD)",
        Twist("PYTHONPATH", {"data/one_more.py": "WORD = 1\n"}, how=How({"PYTHONPATH": "data"})),
    ),
    "PYTHONWARNINGS": (
        "sys.warnoptions",
        env("filters", PYTHONWARNINGS="error::BytesWarning"),
    ),
    "PYTHONOPTIMIZE": ("__debug__, sys.flags.optimize", env("-O", PYTHONOPTIMIZE="1")),
    "PYTHONHASHSEED": ("hash('word')", env("a seed", PYTHONHASHSEED="7")),
    # ------------------------------------------------------------------ what a process inherits
    "arguments": ("sys.argv[1:]", Twist("-v", arguments=("-rA", "-v"))),
    "name of the program": (
        "(os.path.basename(sys.argv[0]), os.path.basename(__import__('__main__').__file__),"
        " sys.orig_argv[2:] if hasattr(sys, 'orig_argv') else None)",
        Twist("-v", arguments=("-rA", "-v")),
    ),
    "directory": (
        "os.getcwd()",
        below("data", ".."),
    ),
    "directory by a path": (
        "pathlib.Path('x').absolute()",
        below("data", ".."),
    ),
    "umask": (
        "(lambda mask: (oct(mask), os.umask(mask)))(os.umask(0))",
        Twist("umask", how=How(before=lambda: os.umask(0o077))),
    ),
    "limit": (
        "resource.getrlimit(resource.RLIMIT_NOFILE)[0]",
        Twist(
            "ulimit -Sn",
            how=How(
                before=lambda: resource.setrlimit(
                    resource.RLIMIT_NOFILE, (345, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
                )
            ),
        ),
    ),
    "processors": (
        "len(os.sched_getaffinity(0))",
        Twist(
            "taskset",
            how=How(before=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})),
        ),
    ),
    "ignored signal": (
        "__import__('signal').getsignal(1) is __import__('signal').SIG_IGN",
        Twist("nohup", how=How(before=lambda: __import__("signal").signal(1, 1))),
    ),
}

TOOLS = """
import os

def tried(function):
    try:
        return function()
    except Exception as error:
        return type(error).__name__

def ctypes_getenv(name):
    import ctypes

    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    return getenv(name)
"""

READER = """
{imports}
from tools import ctypes_getenv, tried

VALUE = {value}
"""


@pytest.mark.parametrize("name", list(INPUTS))
@pytest.mark.parametrize("place", ["conftest", "module"])
def test_input(sandbox: Sandbox, name: str, place: str) -> None:
    value, twist = INPUTS[name]
    how = How()
    if name.startswith("had"):
        how = How({"WORD": "one"})
    elif name == "PYTHONHASHSEED":
        how = How({"PYTHONHASHSEED": "5"})
    case = Case(
        name,
        {
            **FILES,
            "tools.py": TOOLS,
            "reader.py": READER.format(imports=imports_for(value), value=value),
            "conftest.py": "import reader\n" if place == "conftest" else "",
            "test_a.py": "import reader\n\ndef test_shows():\n    print(reader.VALUE)\n",
        },
        (twist,),
        how=how,
    )
    play(sandbox, case)
