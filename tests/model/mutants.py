"""Subjects that are wrong on purpose: what does not catch them is no test.

Each is a program in the place of pyseidon-test. `stale` replays what it once recorded. The others
are pytest's own script with a few lines before it: earlier designs for preloading, each refuted by
some case, and one whose lines do nothing, which must pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable

from ..harness.sandbox import Sandbox

STALE = """\
#!/bin/sh
key={records}/$(printf '%s ' "$PWD" "$@" | cksum | tr ' ' -)
if ! [ -e "$key.status" ]; then
    {pytest} "$@" >"$key.out" 2>"$key.err"
    echo $? >"$key.status"
fi
cat "$key.out"
cat "$key.err" >&2
exit "$(cat "$key.status")"
"""

SCRIPT = """\
{first}
def ahead():
    import sys
    sys.path[0] = {directory!r}
    sys.argv[0] = {pytest!r}
{ahead}
ahead()
del ahead
{rest}
"""

# Imports all modules of the project, in the order of their names, and keeps quiet about it: prints
# nothing, leaves no byte code, and undoes the simplest effects.
IMPORT = """\
    before = list(sys.modules)
    import atexit, glob, os, warnings
    project = {project!r}
    code = os.path.join(project, "src") if os.path.isdir(project + "/src/app") else project
    path, environment, here = list(sys.path), dict(os.environ), os.getcwd()
    compiled, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    streams = os.dup(1), os.dup(2)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    sys.path.insert(0, code)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for file in sorted(glob.glob(code + "/app/*.py")):
            name = "app." + os.path.basename(file)[:-3]
            try:
                __import__(name[:-len(".__init__")] if name.endswith(".__init__") else name)
            except BaseException:
                pass
    sys.stdout.flush()
    sys.stderr.flush()
    for stream, saved in zip((1, 2), streams):
        os.dup2(saved, stream)
    os.closerange(3, 20)
    atexit._clear()
    sys.dont_write_bytecode = compiled
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(here)
    new = [name for name in sys.modules if name not in before]
    app = [name for name in new if name.partition(".")[0] == "app"]
"""

# Takes them away again, so that the run imports them itself: what they wrote elsewhere stays.
DISCARD = "    for name in new: del sys.modules[name]\n"

# Gives each of the project's out at the import that asks for it, in the state that it has by now.
ADOPT = """\
    import functools
    import importlib.machinery as machinery
    stash = {{name: sys.modules[name] for name in app}}
    for name in new:
        del sys.modules[name]
    for name in stash:
        above, _, leaf = name.rpartition(".")
        vars(stash[above]).pop(leaf, None) if above in stash else None
    find = machinery.PathFinder.find_spec

    class SourceFileLoader(machinery.SourceFileLoader):
        def create_module(self, spec):
            return stash.pop(spec.name)

        def exec_module(self, module):
            self.get_code(module.__name__)

    def find_spec(name, path=None, target=None):
        spec = find(name, path, target)
        if spec and spec.origin and name in stash:
            spec.loader = SourceFileLoader(name, spec.origin)
        return spec

    machinery.PathFinder.find_spec = functools.partial(find_spec)
"""

AHEAD = {
    "nothing": "    pass\n",
    "visible": IMPORT,
    "discarded": IMPORT + DISCARD,
    "adopted": IMPORT + ADOPT,
}


def stale(sandbox: Sandbox) -> Path:
    records = sandbox.base / "records"
    records.mkdir()
    return _program(sandbox, STALE.format(records=records, pytest=sandbox.pytest))


def ahead(name: str) -> Callable[[Sandbox], Path]:
    def make(sandbox: Sandbox) -> Path:
        first, rest = sandbox.pytest.read_text(encoding="utf-8").split("\n", 1)
        text = SCRIPT.format(
            first=first,
            directory=str(sandbox.pytest.parent),
            pytest=str(sandbox.pytest),
            ahead=AHEAD[name].format(project=str(sandbox.project)),
            rest=rest,
        )
        return _program(sandbox, text)

    return make


def _program(sandbox: Sandbox, text: str) -> Path:
    path = sandbox.base / "pytest"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path
