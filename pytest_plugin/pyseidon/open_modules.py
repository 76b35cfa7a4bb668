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

# Taken before anybody can have put another one in its place.
natural_compile = compile


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
        if at is None or not is_same(code, self.whole):
            # Python may have taken byte code of another text for that of this one.
            return None
        head = self.text.splitlines(keepends=True)[: tree.body[at].end_lineno]
        # Without an end, or with one that does not count, the statement may go on.
        ends = head[-1].endswith((b"\n", b"\r")) and not head[-1].rstrip(b"\r\n").endswith(b"\\")
        return sum(map(len, head)) if ends else None

    def is_last(self):
        """Whether nothing follows the import that is under way, in the text that is executed."""
        tree = parse(self.text, self.path)
        return import_at(tree, self.frame.f_lineno) == len(tree.body) - 1

    def compile(self, text):
        """The tree of a text, and the code that its loader makes of it. Raises SyntaxError also
        where the compiler only warns: plain pytest would show that."""
        return warning_is_error(lambda: self._compile(text))

    def _compile(self, text):
        what = text
        if self.rewrites():
            what = parse(text, self.path)
            self.rewrite(what, text)
        code = natural_compile(what, self.path, "exec", dont_inherit=True)
        return parse(text, self.path), code

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
            natural_compile(read(self.path), self.path, "exec", dont_inherit=True)
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
        if is_same(now, self.whole):
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
        if at is None or not is_same(code, now):
            return f"`{self.path}` is not what Python would execute", 0, None
        line = tree.body[at].end_lineno
        return None, line, (warning_is_error(lambda: self.tail(text, at, code)), code)

    def tail(self, text, at, whole):
        """The code of the statements behind that number `at`. `whole` is that of all."""
        ast = sys.modules["ast"]
        tree = parse(text, self.path)
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
        code = natural_compile(tree, self.path, "exec", flags=flags, dont_inherit=True)
        return with_constants(code, dict(constants(self.frame.f_code)))


# How the execution of a module's code has ended: see `_zygote.executing`.
ENDED, LEFT, RAISED = range(3)


class Following:
    """Has open modules go on in the text of now."""

    def __init__(self):
        # By the addresses of the namespaces of all that are open: what is due, or None. The
        # stand-in for `exec` looks at this very dictionary.
        self.open = {}
        # The same addresses, from the outermost.
        self.stack = []
        # Codes of parts of a module, and of the whole text that each is a part of.
        self.wholes = {}
        # The module that is about to leave its frame, and the trace function that was set.
        self.armed = None
        self.former = None

    def exec_in(self):
        """The namespaces in which the import system and pytest look for `exec`."""
        names = ("_frozen_importlib_external", "_pytest.assertion.rewrite")
        return [vars(sys.modules[name]) for name in names]

    def stand_in(self):
        """From here on modules that begin may be left."""
        builtins = sys.modules["builtins"]
        stand_in = _zygote.executing(builtins.exec, self.open, Left, self.ended)
        for namespace in self.exec_in():
            namespace["exec"] = stand_in

    def take_away(self):
        for namespace in self.exec_in():
            namespace.pop("exec", None)

    def prepare(self, opened):
        """Looks what is to follow in each of these, which are in order from the outermost. Returns
        why they cannot go on, or None."""
        found = {}
        for module in opened:
            reason, line, codes = module.what_follows()
            if reason:
                return reason
            key = id(module.frame.f_globals)
            if key in found:
                return f"`{module.path}` is executed within itself"
            # What was due there before still is, if nothing else has come.
            due = found[key] = self.open.get(key)
            if codes is not None:
                self.wholes[id(codes[0])] = codes
                is_last = due.is_last if due else module.is_last()
                former = self.executed(module.frame)
                found[key] = Due(module.frame, line, *codes, former, is_last)
        self.stack = list(found)
        self.open.clear()
        self.open.update(found)
        return None

    def whole(self, frame):
        """The code of the whole text that is executed in this frame, or is to be from here on."""
        due = self.open.get(id(frame.f_globals))
        return due.whole if due else self.executed(frame)

    def executed(self, frame):
        code = frame.f_code
        return self.wholes.get(id(code), (code, code))[1]

    def go_on(self):
        """Called right before what is under way goes on."""
        tracer = sys.gettrace()
        mine = self.arm(tracer)
        if mine is not tracer:
            sys.settrace(mine)

    def pause(self):
        """Undoes that."""
        self.former = self.disarm(sys.gettrace(), False)
        if self.former is not sys.gettrace():
            sys.settrace(self.former)
        self.former = None

    def arm(self, tracer):
        """Python is to tell of the next statement of the innermost module that is open, if that is
        to be left. `tracer` is the trace function of whoever; returns the one to set."""
        due = self.open.get(self.stack[-1]) if self.stack else None
        if due is None:
            return tracer
        self.armed, self.former = due, tracer
        if tracer is None:
            # Nobody sees this one.
            _zygote.leave_frame(due.frame, due.line, Left)
            return None
        due.frame.f_trace = self.trace
        return self.trace

    def disarm(self, tracer, has_left):
        """The other way round. `has_left`: Python has taken the trace function away."""
        due, self.armed = self.armed, None
        if due is None:
            return tracer
        _zygote.leave_no_frame()
        if self.former is not None:
            due.frame.f_trace = None
        # Somebody else's that was set since stays.
        return self.former if has_left or tracer == self.trace else tracer

    def trace(self, frame, event, arg):
        """For who traces already."""
        due = self.armed
        if due is None or frame is not due.frame:
            return self.former and self.former(frame, event, arg)
        if event == "line" and frame.f_lineno > due.line:
            now = sys.gettrace()
            self.former = self.former if now == self.trace else now
            _zygote.leaving()
            raise Left
        return self.trace

    def ended(self, namespace, how, tracer):
        """The execution of an open module's code has ended, while `tracer` was the trace function.
        Returns the code that follows, or None, and the trace function to set."""
        key = id(namespace)
        due = self.open.pop(key)
        tracer = self.disarm(tracer, how == LEFT)
        if due is not None and how != RAISED:
            if how == ENDED and not due.is_last:
                # Somebody has taken the trace function away: the former text was executed.
                reason = f"`{due.frame.f_code.co_filename}` was edited, and could not be left"
                if _zygote.is_building():
                    _zygote.fail(reason)
                raise RuntimeError(f"pyseidon: {reason}; run this again")
            set_annotations(namespace, has_annotations(due.former), has_annotations(due.whole))
            self.open[key] = None
            return due.code, tracer
        del self.stack[self.stack.index(key) :]
        return None, self.arm(tracer)


class Due:
    """A module that is to leave its frame behind the import that ends in `line`, and to execute
    `code`, a part of `whole`; `is_last`: nothing follows in its former text."""

    def __init__(self, frame, line, code, whole, former, is_last):
        self.frame = frame
        self.line = line
        self.code = code
        self.whole = whole
        # That of the text which the frame executes.
        self.former = former
        self.is_last = is_last


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


# Of these a compiler has one object for all that are equal in a text.
SHARED = (str, bytes, int, float, complex, tuple)


def constants(code):
    """`((type, repr), object)` of the constants of a code, and of those within."""
    for value in code.co_consts:
        if isinstance(value, type(code)):
            yield from constants(value)
        elif type(value) in SHARED:
            yield (type(value), repr(value)), value


def with_constants(code, known):
    """The same code with these objects in the place of equal ones."""
    found = []
    for value in code.co_consts:
        if isinstance(value, type(code)):
            value = with_constants(value, known)
        elif type(value) in SHARED:
            value = known.get((type(value), repr(value)), value)
        found.append(value)
    return code.replace(co_consts=tuple(found))


def is_same(one, other):
    """Whether two codes are the same, lines included: Python compares these since 3.11."""
    return one == other and list(lines_of(one)) == list(lines_of(other))


def lines_of(code):
    yield code.co_firstlineno
    yield getattr(code, "co_linetable", None) or code.co_lnotab
    for value in code.co_consts:
        if isinstance(value, type(code)):
            yield from lines_of(value)


def heads(opened):
    """Of the files of these of which not all has been executed: how many bytes have."""
    found = {}
    if sys.pycache_prefix is not None:
        # How often a module was loaded is told by its byte code, which lies elsewhere then.
        return found
    for module in opened:
        path = os.path.abspath(module.path)
        length = None if path in found else module.length()
        found[path] = length
    return {path: length for path, length in found.items() if length is not None}


def parse(text, path):
    ast = sys.modules["ast"]
    return natural_compile(text, path, "exec", flags=ast.PyCF_ONLY_AST, dont_inherit=True)


def import_at(tree, line):
    """The number of the statement that holds this line, if it is an import with lines of its own
    that can be left; else None."""
    ast = sys.modules["ast"]
    ends = 0
    for number, node in enumerate(tree.body):
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        if first <= line <= node.end_lineno:
            follows = tree.body[number + 1 : number + 2]
            is_alone = ends < first and all(next.lineno > node.end_lineno for next in follows)
            is_import = isinstance(node, (ast.Import, ast.ImportFrom))
            # Python tells of the line of `try: one` when that is being tried already.
            catches = any(
                hasattr(next, "handlers") and next.body[0].lineno == next.lineno for next in follows
            )
            return number if is_alone and is_import and not catches else None
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


def set_annotations(namespace, had, has):
    """Has `__annotations__` be where the whole text would have put it: before all that a module
    executes, behind what the import system has put there."""
    if had and not has:
        if namespace.get("__annotations__") == {}:
            del namespace["__annotations__"]
    elif has and not had and "__annotations__" not in namespace:
        names = list(namespace)
        later = names[names.index("__builtins__") + 1 :] if "__builtins__" in names else []
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
