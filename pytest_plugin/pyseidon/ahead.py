"""An import that a plugin makes late in every run, made before the fork and hidden until then.

hypothesis's plugin imports 80 modules in the summary of every run, whether or not a test uses
them: 60 to 100 ms. Here such an import is made while P0 is built, what it did is taken back, and a
worker gets it back at the moment at which the plugin makes the import. Nobody may be able to tell:

- Only imports that were read and tested are made ahead (`LATE`).
- They are made in a forked trial first. What an import can change beside adding modules is
  compared before and after (`world`); what cannot be taken back is a reason against it.
- In a worker they are put back only if the import would do now what it did then: same search
  path, finders, environment, rewriting, and the functions and classes that it used, and whatever
  else it depends on (`Adoption`, `Unpatched`).
  If not, they stay hidden for good, and the import runs as in plain pytest.
"""

import builtins
import gc
import os
import sys

from pyseidon import _zygote, bytecode, observe, worker
from pyseidon.adoption import Adoption
from pyseidon.effects import Hidden, Recorder, effects
from pyseidon.world import World, all_classes


class Late:
    """An import that `function` of the plugin `plugin` makes in every run.

    `imports` is the module it imports. `versions` are the oldest and newest releases of
    `distribution` that were tested. `counters` are variables of other modules to which the import
    adds, and of which it only asks whether they are above zero; `looked_for` are the modules whose
    being loaded it asks for.
    """

    def __init__(
        self, plugin, function, imports, distribution, versions, counters=(), looked_for=()
    ):
        self.plugin = plugin
        self.function = function
        self.imports = imports
        self.distribution = distribution
        self.versions = versions
        self.counters = set(counters)
        self.looked_for = looked_for

    def code(self):
        """That of the function, once the plugin is loaded; None if it has no such function."""
        function = getattr(sys.modules[self.plugin], self.function, None)
        return getattr(function, "__code__", None)


LATE = (
    Late(
        plugin="_hypothesis_pytestplugin",
        function="pytest_terminal_summary",
        imports="hypothesis.internal.observability",
        distribution="hypothesis",
        versions=((6, 100), (6, 170)),
        counters=[("_hypothesis_globals", "in_initialization")],
        looked_for=("sphinx", "annotated_types"),
    ),
)


def load(config):
    """Makes the import that every run of this `config` makes, if it can be taken back.

    Returns what is to be given to `hide`, or None, and why it is None, if there was something.
    """
    late = next((late for late in LATE if applies(late, config)), None)
    if late is None:
        return None, None
    reason = observe.try_out(lambda: make(late)[1] or observe.barrier())
    if reason:
        return None, f"each run imports `{late.imports}` itself: {reason}"
    hidden, reason = make(late)
    if reason:
        # The trial went well, and what has been done cannot be undone.
        _zygote.fail(f"importing `{late.imports}` ahead: {reason}")
    return hidden, None


def applies(late, config):
    plugin = sys.modules.get(late.plugin)
    if plugin is None or not config.pluginmanager.is_registered(plugin):
        return False
    code = late.code()
    if late.imports in sys.modules or code is None or late.imports not in code.co_names:
        return False
    if any(option.startswith("importtime") for option in sys._xoptions):
        return False
    try:
        version = observe.distributions(config)[late.distribution]
        version = tuple(map(int, version.split(".")[:2]))
    except (KeyError, ValueError):
        return False
    oldest, newest = late.versions
    return oldest <= version <= newest


def make(late):
    """Makes the import. Returns what it did, and why that cannot be taken back, or None."""
    hidden = Hidden(late)
    before = World()
    recorder = Recorder(hidden, before)
    known = observe.note_environment()
    # (pytest's own: what this module would import is another one, see `boot`.)
    warnings = sys.modules["warnings"]
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            builtins.__import__ = recorder.importing
            builtins.__import__(late.imports)
    except Exception as error:
        return hidden, f"it raised {error!r}"
    finally:
        builtins.__import__ = before.natural
        read = observe.environment_since(known)
    if read is None:
        return hidden, "it read the whole environment"
    # Compared when it is given back, so it is no reason against the checkpoint. (Past the recording
    # mapping: this is no read either.)
    hidden.environment = {name: dict.get(os.environ._data, name) for name in read}
    if warned:
        return hidden, f"it warned: {warned[0].message}"
    hidden.modules = {n: m for n, m in sys.modules.items() if n not in before.modules}
    # What was made again (`dataclass(slots=True)`) would be kept alive by being concealed.
    gc.collect()
    hidden.classes = [kind for kind in all_classes() if id(kind) not in before.all_classes]
    # PyO3 makes these once for each module in a process.
    hidden.lasting = [kind for kind in hidden.classes if kind.__module__ == "pyo3_runtime"]
    package = late.imports.partition(".")[0] + "."
    for name, module in hidden.modules.items():
        if name.startswith(package) and str(getattr(module, "__file__", "")).endswith(".so"):
            hidden.maker = name
    if hidden.lasting and hidden.maker is None:
        return hidden, f"`{hidden.lasting[0].__name__}` would not be made again"
    if worker.START.write_bytecode and bytecode.unwritten(hidden.modules.values())[0]:
        return hidden, "it would write byte code"
    if hidden.bound:
        # Its C code keeps what it asked for. If the import were made after all, it would not be
        # loaded again, and go on with modules that nobody else has.
        return hidden, f"`{min(hidden.bound)}` is imported by an extension module"
    hidden.effects = effects(hidden, before)
    return hidden, before.differences(hidden)


def hide(hidden):
    """Takes back what an import did, and has it put back when it is made."""
    for name in hidden.modules:
        del sys.modules[name]
    for effect in reversed(hidden.effects):
        effect.undo()
    _zygote.hide(hidden.late.imports, hidden.asked, hidden.classes, Adoption(hidden).adopt)
