"""Modules that are in the midst of being executed where a build parks.

Of the file of such a module no more has been executed than its *head*, which ends with the import
that is under way. What follows may be edited, and the checkpoint stands all the same: who goes on
from it completes the import, leaves the frame that executes the former text, and executes the
statements that follow in the text of now, with the same namespace and called from the same place.

That can be done where the import is a statement by itself at the module's top level. Of other files
that are open all counts, as of those that have been executed.
"""

import os
import sys

from pyseidon import _zygote


class Left(BaseException):
    """Leaves the frame of a module's former text."""


class OpenModule:
    """A module in the midst of being executed, in `frame`, called by `loader`."""

    def __init__(self, frame, whole, loader, module, home):
        self.frame = frame
        # The code of its whole text.
        self.whole = whole
        self.loader = loader
        self.module = module
        # The namespace in which the loader finds `exec`.
        self.home = home
        self.path = frame.f_code.co_filename
        self.text = read(self.path)

    @classmethod
    def of(cls, frame, following):
        """The one that this frame executes; None if it executes none, or in a way of its own."""
        caller = frame.f_back
        bootstrap = sys.modules["_frozen_importlib"]
        external = sys.modules["_frozen_importlib_external"]
        rewriting = sys.modules["_pytest.assertion.rewrite"]
        if caller is not None and caller.f_code is bootstrap._call_with_frames_removed.__code__:
            caller = caller.f_back
        if frame.f_code.co_name != "<module>" or caller is None:
            return None
        codes = {
            external._LoaderBasics.exec_module.__code__: external.SourceFileLoader,
            rewriting.AssertionRewritingHook.exec_module.__code__: rewriting.AssertionRewritingHook,
        }
        kind = codes.get(caller.f_code)
        if kind is None or not os.path.isabs(frame.f_code.co_filename):
            return None
        found = caller.f_locals
        if type(found["self"]) is not kind or vars(found["module"]) is not frame.f_globals:
            return None
        return cls(frame, following.whole(frame), found["self"], found["module"], caller.f_globals)

    def length(self):
        """How many bytes of its text have been executed; None if that cannot be told."""
        try:
            tree, code = self.compile(self.text)
            at = import_at(tree, self.frame.f_lineno)
        except (SyntaxError, ValueError):
            return None
        if at is None or code != self.whole:
            # Python may have taken byte code of another text for that of this one.
            return None
        lines = self.text.splitlines(keepends=True)
        return sum(map(len, lines[: tree.body[at].end_lineno]))

    def compile(self, text):
        """The tree of a text, and the code that its loader makes of it. Raises SyntaxError also
        where the compiler only warns: plain pytest would show that."""
        return warning_is_error(lambda: self._compile(text))

    def _compile(self, text):
        ast = sys.modules["ast"]
        if self.rewrites():
            tree = ast.parse(text, filename=self.path)
            self.rewrite(tree, text)
            return ast.parse(text), compile(tree, self.path, "exec", dont_inherit=True)
        code = compile(text, self.path, "exec", dont_inherit=True)
        return ast.parse(text), code

    def rewrites(self):
        return self.home["__name__"] == "_pytest.assertion.rewrite"

    def rewrite(self, tree, text):
        """As pytest does it."""
        self.home["rewrite_asserts"](tree, text, self.path, self.loader.config)

    def what_is_loaded_now(self):
        """The code that the loader would execute now. With that comes what else it does: it may
        write byte code."""
        found = []
        self.home["exec"] = lambda code, namespace: found.append(code)
        try:
            warning_is_error(lambda: self.loader.exec_module(self.module))
        finally:
            del self.home["exec"]
        return found[0]

    def compiles(self):
        """Whether it is more than a warning that keeps it from being compiled."""
        try:
            compile(read(self.path), self.path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, TypeError):
            return False
        return True

    def what_follows(self):
        """Why nothing else can follow here than what was to; or None, and the last line of the
        import that is under way, and the codes of what follows it in the text of now and of that
        text: None for what was to follow."""
        try:
            now = self.what_is_loaded_now()
        except Exception as error:
            if _zygote.is_building() and not self.compiles():
                _zygote.broken()
            return f"loading `{self.path}` now raises {type(error).__name__}", 0, None
        if now == self.whole:
            return None, 0, None
        length = self.length()
        text = read(self.path)
        if length is None or text is None or text[:length] != self.text[:length]:
            return f"`{self.path}` is another in what is executed of it", 0, None
        try:
            tree, code = self.compile(text)
        except (SyntaxError, ValueError):
            return f"`{self.path}` cannot be compiled", 0, None
        at = import_at(tree, self.frame.f_lineno)
        if code != now or at is None:
            return f"`{self.path}` is not what Python would execute", 0, None
        line = tree.body[at].end_lineno
        return None, line, (warning_is_error(lambda: self.tail(text, at, code)), code)

    def tail(self, text, at, whole):
        """The code of the statements behind that number `at`. `whole` is that of all."""
        ast = sys.modules["ast"]
        tree = ast.parse(text, filename=self.path)
        under_way = tree.body[at]
        if self.rewrites():
            self.rewrite(tree, text)
        numbers = [number for number, node in enumerate(tree.body) if node is under_way]
        rest = tree.body[numbers[0] + 1 :]
        while rest and is_text(rest[0]):
            # It would be taken for the docstring.
            del rest[0]
        # The interpreter's own names for these bits are in `__future__`.
        names = sys.modules["__future__"].all_feature_names
        features = [getattr(sys.modules["__future__"], name) for name in names]
        flags = whole.co_flags & sum({feature.compiler_flag for feature in features})
        tree = ast.Module(body=rest, type_ignores=[])
        return compile(tree, self.path, "exec", flags=flags, dont_inherit=True)


class Following:
    """Has open modules go on in the text of now.

    `left` holds those that are to leave their frame, by their namespace's address."""

    def __init__(self):
        self.find = sys.modules["_frozen_importlib"]._find_and_load.__code__
        self.left = {}
        self.due = []
        # Codes of parts of a module, and of the whole text that each is a part of.
        self.wholes = {}
        # How many loads are under way.
        self.depth = 0
        # In a worker nobody else looks at what is loaded.
        self.is_run = False

    def exec_in(self):
        """The namespaces in which the import system and pytest look for `exec`."""
        names = ("_frozen_importlib_external", "_pytest.assertion.rewrite")
        return [vars(sys.modules[name]) for name in names]

    def stand_in(self):
        """From here on modules that begin may be left."""
        builtins = sys.modules["builtins"]
        stand_in = _zygote.executing(builtins.exec, self.left, Left, self.follow)
        for namespace in self.exec_in():
            namespace["exec"] = stand_in

    def take_away(self):
        for namespace in self.exec_in():
            namespace.pop("exec", None)

    def prepare(self, opened, is_behind):
        """Looks what is to follow in each of these, which are in order from the outermost;
        `is_behind`: the innermost load is over. Returns why they cannot go on, or None."""
        for module in opened:
            reason, line, codes = module.what_follows()
            if reason:
                return reason
            if codes is not None:
                frame = module.frame
                self.wholes[id(codes[0])] = codes
                # What was due there before is so no more.
                due = Due(frame, self.loads_under(frame), line, *codes)
                self.left[id(frame.f_globals)] = due
        self.due = sorted(self.left.values(), key=lambda due: due.height)
        self.depth = self.loads_under(sys._getframe()) - is_behind
        return None

    def whole(self, frame):
        """The code of the whole text that is executed in this frame, or from here on."""
        due = self.left.get(id(frame.f_globals))
        code = frame.f_code
        return due.whole if due else self.wholes.get(id(code), (code, code))[1]

    def loads_under(self, frame):
        count = 0
        while frame is not None:
            count += frame.f_code is self.find
            frame = frame.f_back
        return count

    def begin(self):
        """To be called right before what is under way goes on."""
        if self.due and self.is_run:
            _zygote.follow_loads(self.find, self.on_load)
        self.arm()

    def on_load(self, begins):
        """A load begins or ends."""
        self.depth += 1 if begins else -1
        self.arm()

    def arm(self):
        """Python is to tell of the next statement of the innermost, but not of what others do while
        something is loaded for it: that would slow them down."""
        if not self.due:
            return
        due = self.due[-1]
        is_near = self.depth == due.depth
        if is_near and due.frame.f_trace is None:
            due.frame.f_trace = self.trace
            sys.settrace(self.trace)
        elif not is_near and due.frame.f_trace is not None:
            self.disarm(due)

    def disarm(self, due):
        sys.settrace(None)
        due.frame.f_trace = None

    def trace(self, frame, event, arg):
        due = self.due[-1] if self.due else None
        if due is None or frame is not due.frame:
            return None
        if event == "line" and frame.f_lineno > due.line:
            self.disarm(due)
            _zygote.leaving()
            raise Left
        return self.trace

    def follow(self, namespace, has_left):
        """See `_zygote.executing`. What follows, or None."""
        due = self.left.pop(id(namespace))
        self.due.remove(due)
        if due.frame.f_trace is not None:
            self.disarm(due)
        if not self.due and self.is_run:
            _zygote.follow_no_more()
        self.arm()
        if not has_left:
            return None
        set_annotations(namespace, has_annotations(due.whole))
        return due.code


class Due:
    """A module that is to leave its frame behind the import that ends in `line`."""

    def __init__(self, frame, depth, line, code, whole):
        self.frame = frame
        self.depth = depth
        self.line = line
        self.code = code
        self.whole = whole
        # How many frames are under it.
        self.height = height(frame)


def height(frame):
    count = 0
    while frame is not None:
        count += 1
        frame = frame.f_back
    return count


def opened(frame, is_project, following):
    """The modules of the project that are open on the stack, from the outermost."""
    found = []
    while frame is not None:
        if is_project(frame.f_code.co_filename):
            module = OpenModule.of(frame, following)
            if module is not None and module.text is not None:
                found.append(module)
        frame = frame.f_back
    return found[::-1]


def heads(opened):
    """Of the files of these of which not all has been executed: how many bytes have."""
    found = {}
    for module in opened:
        path = os.path.abspath(module.path)
        length = None if path in found else module.length()
        found[path] = length
    return {path: length for path, length in found.items() if length is not None}


def import_at(tree, line):
    """The number of the statement that holds this line, if it is an import with lines of its own;
    else None."""
    ast = sys.modules["ast"]
    ends = 0
    for number, node in enumerate(tree.body):
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        if first <= line <= node.end_lineno:
            follows = tree.body[number + 1 : number + 2]
            is_alone = ends < first and all(next.lineno > node.end_lineno for next in follows)
            is_import = isinstance(node, (ast.Import, ast.ImportFrom))
            return number if is_alone and is_import else None
        ends = node.end_lineno
    return None


def is_text(node):
    ast = sys.modules["ast"]
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant and isinstance(node.value.value, str)


def has_annotations(code):
    """Whether a module's code begins by making `__annotations__`."""
    number = sys.modules["opcode"].opmap.get("SETUP_ANNOTATIONS")
    return number in code.co_code[::2]


def set_annotations(namespace, has):
    """Has `__annotations__` be where the whole text would have put it: before all that a module
    executes, behind what the import system has put there."""
    had = "__annotations__" in namespace
    if had and not has:
        del namespace["__annotations__"]
    elif has and not had:
        names = list(namespace)
        later = names[names.index("__builtins__") + 1 :]
        kept = [(name, namespace.pop(name)) for name in later]
        namespace["__annotations__"] = {}
        namespace.update(kept)


def warning_is_error(call):
    """Calls it, with SyntaxError for what the compiler warns of. (The version of the filters stays,
    as in `bytecode.silently`.)"""
    filters = sys.modules["warnings"].filters
    filters.insert(0, ("error", None, Warning, None, 0))
    try:
        return call()
    except Warning as warning:
        raise SyntaxError(str(warning)) from None
    finally:
        del filters[0]


def read(path):
    """A file's bytes, or None."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None
