"""The extension: what `src/zygote` gives to the package's own modules."""

from collections.abc import Sequence
from types import CodeType
from typing import Any, Callable, Literal, NoReturn, Optional

class Order:
    kind: Literal["begin", "grow", "run"]
    script: bytes
    argv: list[bytes]
    env: list[bytes]
    cwd: bytes
    python: bytes
    python_options: list[bytes]
    ignored: int
    level: Optional[str]
    before: Optional[str]
    because: Optional[str]

def launch(enter: Callable[[], tuple[Any, dict[str, Any]]]) -> NoReturn: ...
def on_import(
    original: Callable[..., Any],
    packages: list[str],
    namespace: dict[str, Any],
    callback: Callable[[], None],
) -> Callable[..., Any]: ...
def begin(control: int) -> Order:
    """Takes the control channel (a descriptor) over; gives the first order, or RuntimeError."""

def park(
    facts: Callable[[], dict[str, Any]],
    holds: str,
    shallow: Optional[str],
    places: list[tuple[str, str]],
) -> Order:
    """Reports what was built (`facts` is called in a child), serves orders; gives its order in a
    child. RuntimeError elsewhere."""

def fail(reason: str, before: Optional[str] = None, files: list[str] = ...) -> NoReturn:
    """Tells the daemon, or a trial's parent, why nothing was built; ends the process. `before` says
    up to where it can be, `files` what that depends on."""

def is_building() -> bool: ...
def broken() -> NoReturn:
    """In a build: what is to be executed cannot be compiled, so pytest would end here."""

def refuse(reason: str, for_now: bool = False) -> NoReturn:
    """Tells why this worker cannot run, or not as files are `for_now`; ends it. RuntimeError unless
    a worker before pytest."""

def executing(
    natural: Callable[..., Any],
    open: dict[int, Any],
    left: type[BaseException],
    ended: Callable[[dict[str, Any], int, Any], tuple[Optional[CodeType], Any]],
) -> Callable[..., Any]:
    """A stand-in for `exec` that asks `ended(namespace, how, tracer)` what to execute then, and for
    the trace function to set, for namespaces whose addresses are in `open`."""

def leave_frame(frame: Any, line: int, left: type[BaseException]) -> None:
    """Has `left` raised in this frame at its next statement behind `line`."""

def leave_no_frame() -> None:
    """It need not any more."""

def leaving() -> None:
    """Our trace function is about to raise, for which Python takes it away."""

def waits(generator: object) -> bool:
    """Whether a suspended generator or coroutine has something to do when it ends."""

def inherited() -> None: ...
def tell_screen_size() -> None:
    """In a worker: puts `LINES` and `COLUMNS` where readline has put them, if it was imported."""

def enter() -> None:
    """Tells the caller that pytest begins here. RuntimeError unless a worker before pytest."""

def attempt(function: Callable[[], Optional[str]]) -> Optional[str]:
    """Calls it in a forked child; gives what it gave, or why that came to nothing. Never raises."""

def conceal_own(classes: list[type]) -> None:
    """Has no `__subclasses__()` show them, or our own exception. TypeError if that cannot be."""

def reveal(classes: list[type]) -> None:
    """Has concealed classes shown, after those that are shown already. Raises TypeError for what
    is no class."""

def hide(
    name: str, asked: list[str], classes: list[type], adopt: Callable[[], Optional[str]]
) -> None:
    """Has a run's import of `name` call `adopt`, which gives back the modules that are `asked` for,
    or says why not. What it raises is raised by the import."""

def survey(gc: Any) -> None:
    """Notes whether any object that `gc` knows has something to do at the end. Never raises."""

def watch() -> None: ...
def unwatch() -> None: ...
def resume() -> None:
    """Goes on to record a build after `unwatch`, from nothing."""

def note_frames() -> None:
    """Begins to note who asks for frames."""

def frames() -> list[tuple[CodeType, CodeType | None]]:
    """Who has asked for one since the last call: the code of each, and that of its caller."""

def finding(
    natural: Callable[..., Any], stashed: dict[str, Any], adopt: Callable[[str], None]
) -> Callable[..., Any]:
    """A stand-in for `_find_and_load` that calls `adopt(name)` first for the names in `stashed`."""

def loading(
    natural: Callable[..., Any], before: Callable[[Any], None], after: Callable[[bool], None]
) -> Callable[..., Any]:
    """A stand-in for `_load_unlocked` that calls `before(spec)`, then `after(is_loaded)`."""

def compiled() -> list[Any]: ...
def attempt_beside() -> Optional[Callable[[], Optional[str]]]:
    """Forks a trial that goes on as this process does, until `end_trial` or `fail`. Returns a
    function that waits for its verdict, a reason or None; and None in the trial."""

def end_trial() -> None: ...
def set_written(entries: list[tuple[bytes, Optional[bytes]]]) -> None:
    """Has `written` give these: what was written since was taken back."""

def written() -> list[tuple[bytes, Optional[bytes]]]: ...
def stage(name: str) -> None: ...
def observe(
    functions: dict[str, list[Any]],
    late: Sequence[tuple[str, str, str]],
    find_spec: Any,
    stdlib: list[str],
    core: list[str],
    known: list[tuple[str, str]],
    numpy: Callable[[], str | None],
) -> None: ...
def record_loads(functions: list[tuple[Any, Literal["name", "module"]]]) -> None:
    """Begins to note when each call of a function with one of these codes, which loads a module
    and is given its `name` or the `module`, begins and returns."""

def cost_of_watching(seconds: float) -> None:
    """Has so much taken off what loads took, for each event of `watch_calls` meanwhile."""

def watch_calls(on: bool) -> None:
    """Has the extension look at all calls from here on, as a profile function does; or ends it."""

def findings() -> dict[str, Any]: ...
def numpy_made() -> Any: ...
def watch_loads(
    codes: list[Any],
    boundary: Callable[[Any, bool, bool], None],
    blame: Callable[[], Optional[tuple[str, list[str]]]],
) -> None: ...
