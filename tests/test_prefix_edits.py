"""Edits of what a warm run has executed, in all the ways in which files come to differ."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .harness.cases import Case, Twist, below, each, edit, play, select, write
from .harness.daemon import processes_with
from .harness.outcome import assert_same, difference
from .harness.rendezvous import eventually
from .harness.sandbox import Sandbox

PROJECT = """
    -- app/__init__.py
    from app.models import NAME
    -- app/models.py
    NAME = "one"
    SIZE = len(open(__file__).read())
    -- app/data.txt
    one
    -- helpers.py
    import app

    def check(value):
        assert value == app.NAME
    -- conftest.py
    import pytest

    import app

    WORD = "conftest"

    @pytest.fixture
    def name():
        return app.NAME + WORD
    -- test_a.py
    import app.models
    import helpers

    def test_a(name):
        print(name, app.models.SIZE)
        helpers.check("one")
    -- test_b.py
    def test_b(name):
        print(name)
    """


def keep_times(sandbox: Sandbox, name: str, old: str, new: str) -> None:
    """As version control and archives do: another content, the same time and size."""
    path = sandbox.project / name
    before = path.stat()
    write(sandbox, {name: (old, new)})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def by_rename(sandbox: Sandbox, name: str, old: str, new: str) -> None:
    path = sandbox.project / name
    beside = path.with_suffix(".swp")
    beside.write_text(path.read_text().replace(old, new))
    beside.replace(path)


def by_link(sandbox: Sandbox, name: str, text: str) -> None:
    path = sandbox.project / name
    path.unlink()
    target = sandbox.base / "elsewhere.py"
    target.write_text(text)
    path.symlink_to(target)


def act(what: str, function, unnoticed: bool = False) -> Twist:
    return Twist(what, act=function, unnoticed=unnoticed)


MODEL = "app/models.py"

CASES = [
    Case(
        "module of a package",
        PROJECT,
        (
            edit(MODEL, ('"one"', '"two"')),
            edit(MODEL, ('"two"', '"three"')),
            edit(MODEL, ('"three"', '"one"')),
        ),
    ),
    Case(
        "each file in turn",
        PROJECT,
        (
            edit("app/__init__.py", "from app.models import NAME\n\nNAME += '!'\n"),
            edit("helpers.py", ("app.NAME", "app.NAME[:-1]")),
            edit("conftest.py", ('"conftest"', '"edited"')),
            edit("test_a.py", ('"one"', '"two"')),
            edit("test_b.py", ("test_b", "test_edited")),
        ),
    ),
    Case(
        "broken and repaired",
        PROJECT,
        (
            edit(MODEL, ('"one"', '"one')),
            edit(MODEL, ('"one', '"one"')),
            edit(MODEL, ('"one"', "1 / 0")),
            edit(MODEL, ("1 / 0", '"two"')),
            edit("conftest.py", ("import app", "import nowhere")),
            edit("conftest.py", ("import nowhere", "import app")),
        ),
    ),
    Case(
        "conftest that is broken, and repaired",
        PROJECT,
        (
            edit("conftest.py", ("def name()", "def name(")),
            edit("conftest.py", ("def name(", "def name()")),
            edit("conftest.py", ("import app", "raise SystemExit(3)")),
            edit("conftest.py", ("raise SystemExit(3)", "import app; raise KeyError")),
            edit("conftest.py", ("; raise KeyError", "")),
        ),
    ),
    Case(
        "same size and same time",
        PROJECT,
        # The byte code of each run is taken away: plain pytest reads the source.
        (
            act("a module", lambda s: keep_times(s, MODEL, '"one"', '"two"')),
            act("a helper", lambda s: keep_times(s, "helpers.py", "==", "!=")),
            act("a conftest", lambda s: keep_times(s, "conftest.py", '"conftest"', '"conftext"')),
        ),
    ),
    Case(
        "by rename and by link",
        PROJECT,
        (
            act("rename", lambda s: by_rename(s, MODEL, '"one"', '"two"')),
            act("rename of a conftest", lambda s: by_rename(s, "conftest.py", "conftest", "other")),
            act("link", lambda s: by_link(s, MODEL, 'NAME = "linked"\nSIZE = 0\n')),
            act(
                "behind the link",
                lambda s: (s.base / "elsewhere.py").write_text('NAME = "edited"\nSIZE = 0\n'),
            ),
        ),
    ),
    Case(
        "what is only touched",
        PROJECT,
        (
            act("a module", lambda s: os.utime(s.project / MODEL, (1e9, 1e9)), True),
            act("a conftest", lambda s: os.utime(s.project / "conftest.py", (1e9, 1e9)), True),
            act("a directory", lambda s: os.utime(s.project / "app", (1e9, 1e9)), True),
            act("a mode", lambda s: (s.project / MODEL).chmod(0o600), True),
        ),
    ),
    Case(
        "module that goes and comes again",
        PROJECT,
        (
            edit("helpers.py", None),
            edit("helpers.py", "def check(value):\n    assert value == 'two'\n"),
            edit("conftest.py", None),
            edit("conftest.py", "import pytest\n\n@pytest.fixture\ndef name():\n    return 'x'\n"),
        ),
    ),
    Case(
        "new module that comes first",
        PROJECT,
        (
            # A package wins over a module, and the nearer directory over the farther one.
            edit("helpers/__init__.py", "def check(value):\n    print('package')\n"),
            edit("app/models/__init__.py", "NAME = 'package'\nSIZE = 0\n"),
            edit("random.py", "import sys\n\nprint('random', file=sys.stderr)\n", True),
        ),
    ),
    Case(
        "new module that shadows the standard library's",
        """
        -- conftest.py
        import colorsys
        -- test_a.py
        import colorsys
        import wave

        def test_a():
            print(colorsys.__name__, colorsys.__dict__.get("WORD"), wave.__dict__.get("WORD"))
        """,
        (
            edit("colorsys.py", "WORD = 'mine'\n"),
            edit("wave.py", "WORD = 'mine'\n"),
            edit("colorsys.py", None),
        ),
    ),
    Case(
        "new test files, and such that go",
        PROJECT,
        (
            edit("test_0.py", "import helpers\n\ndef test_0():\n    pass\n"),
            edit("sub/test_c.py", "import app\n\ndef test_c():\n    print(app.NAME)\n"),
            edit("sub/conftest.py", "import app\n\napp.NAME = 'sub'\n"),
            edit("test_a.py", None),
            edit("sub/test_c.py", None),
        ),
    ),
    Case(
        "the order of imports",
        """
        -- reg.py
        R = []
        -- one.py
        import reg

        reg.R.append("one")
        -- two.py
        import reg

        reg.R.append("two")
        -- conftest.py
        import one
        -- test_a.py
        import two
        import reg

        def test_a():
            print(reg.R)
        """,
        (
            edit("conftest.py", "import two\nimport one\n"),
            edit("conftest.py", "import two\n"),
            edit("test_a.py", ("import two\n", "import one\nimport two\n")),
            edit("two.py", "import one\nimport reg\n\nreg.R.append('two')\n"),
        ),
    ),
    Case(
        "two selections in turn",
        PROJECT,
        (
            select("test_b.py"),
            select("test_a.py"),
            Twist("an edit", {MODEL: ('"one"', '"two"')}, ("-rA", "test_b.py")),
            select("test_a.py"),
            select("-x"),
            select("test_b.py"),
            below("app", "../test_b.py"),
        ),
    ),
]


@each(CASES)
def test_edits(sandbox: Sandbox, case: Case) -> None:
    play(sandbox, case)


def leave(sandbox: Sandbox, program: Path, *arguments: str) -> None:
    """A run whose files stay: byte code and pytest's cache."""
    sandbox.finish(sandbox.start(program, *arguments))


def play_with_byte_code(sandbox: Sandbox) -> None:
    write(sandbox, {"pytest.ini": "[pytest]\n", "helpers.py": "WORD = 'one'\n"})
    write(sandbox, {"conftest.py": "import helpers\n"})
    write(sandbox, {"test_a.py": "import helpers\n\ndef test_a():\n    print(helpers.WORD)\n"})
    leave(sandbox, sandbox.pytest)
    sandbox.warm_up("-rA")
    for _ in range(2):
        sandbox.first("-rA")
        sandbox.until_ready()
    assert_same(sandbox.plain("-rA"), sandbox.first("-rA"))


def test_same_size_and_time_with_byte_code(sandbox: Sandbox) -> None:
    """Plain Python trusts its byte code then, and is wrong: so are we."""
    play_with_byte_code(sandbox)
    keep_times(sandbox, "helpers.py", "'one'", "'two'")
    assert "one\n" in sandbox.same_at_once("-rA").stdout
    sandbox.until_ready()
    sandbox.same_at_once("-rA")
    # Without the byte code it reads the source.
    shutil.rmtree(sandbox.project / "__pycache__")
    assert "two\n" in sandbox.same_at_once("-rA").stdout
    sandbox.until_ready()
    sandbox.same_at_once("-rA")


def test_byte_code_of_another_source(sandbox: Sandbox) -> None:
    """Byte code with the source's time and size is what counts, whatever it was compiled from."""
    play_with_byte_code(sandbox)
    source = sandbox.project / "helpers.py"
    before = source.stat()
    keep_times(sandbox, "helpers.py", "'one'", "'two'")
    shutil.rmtree(sandbox.project / "__pycache__")
    leave(sandbox, sandbox.pytest)
    keep_times(sandbox, "helpers.py", "'two'", "'one'")
    assert source.stat().st_mtime_ns == before.st_mtime_ns
    assert "two\n" in sandbox.same_at_once("-rA").stdout
    sandbox.until_ready()
    assert "two\n" in sandbox.same_at_once("-rA").stdout


def test_byte_code_that_runs_leave(sandbox: Sandbox) -> None:
    """After an edit the first run writes byte code; it makes no later run differ, or stale."""
    play_with_byte_code(sandbox)
    for word in ("two", "three", "four"):
        write(sandbox, {"helpers.py": f"WORD = {word!r}\n"})
        leave(sandbox, sandbox.pyseidon, "-rA")
        assert f"{word}\n" in sandbox.same_at_once("-rA").stdout
        sandbox.until_ready()
        leave(sandbox, sandbox.pyseidon, "-rA")
        assert f"{word}\n" in sandbox.same_at_once("-rA").stdout


def test_byte_code_that_goes_while_a_checkpoint_parks(sandbox: Sandbox) -> None:
    """Whether a run has to write it must not depend on when one looks."""
    # What follows when it is known which byte code is fresh begins with a collection.
    sandbox.write(
        "conftest.py",
        """
        import gc
        import sys
        import time

        def pause(phase, info):
            caller = sys._getframe().f_back
            if phase == "start" and caller is not None and caller.f_code.co_name == "wait":
                time.sleep(3)

        gc.callbacks.append(pause)
        import mod
        """,
    )
    sandbox.write("mod.py", "WORD = 'mod'\n")
    sandbox.write("test_a.py", "import mod\n\ndef test_a():\n    pass\n")
    leave(sandbox, sandbox.pytest)
    [byte_code] = (sandbox.project / "__pycache__").glob("mod.*")
    leave(sandbox, sandbox.pyseidon)
    if sandbox.pyseidon != sandbox.pytest:
        eventually(
            lambda: any(map(sleeps, processes_with(str(sandbox.runtime)))),
            "a checkpoint that collects",
        )
    byte_code.unlink()
    sandbox.until_ready()
    # Before plain pytest writes it: the daemon would learn that it comes and goes.
    warm = sandbox.first()
    plain = sandbox.plain()
    assert any("mod." in name for name in plain.files)
    assert_same(plain, warm, "the warm run")


def sleeps(pid: int) -> bool:
    """In `clock_nanosleep`, which nothing of ours calls."""
    number = {"x86_64": "230", "aarch64": "115"}[os.uname().machine]
    try:
        return Path(f"/proc/{pid}/syscall").read_text().startswith(f"{number} ")
    except OSError:
        return False


def test_edit_by_a_test(sandbox: Sandbox) -> None:
    """The run itself edits what it has imported: the next one sees it."""
    write(
        sandbox,
        {
            "pytest.ini": "[pytest]\n",
            "helpers.py": "COUNT = 0\n",
            "conftest.py": "import helpers\n",
            "test_a.py": "import helpers\n\ndef test_a():\n    print(helpers.COUNT)\n"
            "    with open(helpers.__file__, 'w') as file:\n"
            "        file.write(f'COUNT = len({\"x\" * (helpers.COUNT + 1)!r})\\n')\n",
        },
    )
    sandbox.warm_up("-rA")
    for _ in range(4):
        plain = sandbox.plain("-rA")
        shows = sandbox.finish(sandbox.start(sandbox.pyseidon, "-rA"))
        # What plain pytest wrote was taken back; this stays.
        plain.files = {}
        assert_same(plain, shows)
        sandbox.until_ready()
    # And once more right after it, with no time to notice.
    plain = sandbox.plain("-rA")
    plain.files = {}
    leave(sandbox, sandbox.pyseidon)
    later = sandbox.finish(sandbox.start(sandbox.pyseidon, "-rA"))
    assert difference(plain, later)
    assert (sandbox.project / "helpers.py").read_text() == "COUNT = len('xxxxxx')\n"


@pytest.mark.parametrize("mode", ["checked-hash", "unchecked-hash"])
def test_byte_code_that_stands_for_a_hash(sandbox: Sandbox, mode: str) -> None:
    """Outdated byte code of the first kind is written anew, whatever the source's time; that of the
    second is never outdated."""
    sandbox.write("mod.py", "WORD = 'one'\n")
    sandbox.write("conftest.py", "import mod\n")
    sandbox.write("test_a.py", "import mod\n\ndef test_a():\n    print(mod.WORD)\n")
    compiling = [
        str(sandbox.environment.python),
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode",
        mode,
        "mod.py",
    ]
    subprocess.run(compiling, cwd=sandbox.project, check=True)
    times = os.stat(sandbox.project / "mod.py")
    sandbox.write("mod.py", "WORD = 'two'\n")
    os.utime(sandbox.project / "mod.py", ns=(times.st_atime_ns, times.st_mtime_ns))
    shown = sandbox.same("-rA", at="Z2").stdout
    assert ("two" if mode == "checked-hash" else "one") in shown
