"""Which imports a test module makes before it does anything else: its quiet prefix.

A checkpoint may import what a test module's import statements load, and leave the rest of the
module to the run, as far as the rest is *quiet*: it runs no code but Python's and pytest's own,
cannot fail, and decides nothing about later imports. That is read off the syntax tree here, for
the Python that runs this. What is not known to be quiet ends the prefix: a prefix that is too
short costs time, one that is too long can cost the right answer.

Two things cannot be seen in one module's text, and are the caller's to look at: whether
`typing.TYPE_CHECKING`, `sys.version_info` and `sys.platform` are what they are by nature, and
whether what is imported imports the test module back.
"""

import os
import sys

# `pytest.mark.NAME` warns or, with `--strict-markers`, fails where the name is not registered.
# These are registered by plugins of pytest that hardly anybody turns off.
MARKS = frozenset(("parametrize", "skip", "skipif", "usefixtures", "xfail"))

# Of a module's or class's own names with two underscores: those that tell nobody anything while
# imports are made. (`__path__`, `__package__`, `__builtins__` and others do.)
HARMLESS = frozenset(
    (
        *("__all__", "__author__", "__authors__", "__copyright__", "__credits__", "__date__"),
        *("__doc__", "__email__", "__license__", "__maintainer__", "__status__", "__version__"),
        *("__test__", "__tracebackhide__", "__unittest_skip__"),
        # Methods of which `type` takes notice only by their name.
        *("__init__", "__call__", "__enter__", "__exit__", "__aenter__", "__aexit__", "__bool__"),
        *("__iter__", "__next__", "__aiter__", "__anext__", "__len__", "__contains__", "__del__"),
        *("__getitem__", "__setitem__", "__delitem__", "__getattr__", "__repr__", "__str__"),
        *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__add__"),
    )
)

# What annotations may name without having bound it.
GENERICS = frozenset(("dict", "frozenset", "list", "set", "tuple", "type"))
BUILTINS = GENERICS | frozenset(("bool", "bytes", "complex", "float", "int", "object", "str"))

# What may be caught around imports.
IMPORT_ERRORS = frozenset(("ImportError", "ModuleNotFoundError"))

# Module and name of what the rules below know by heart.
KNOWN_MODULES = frozenset(("pytest", "sys", "typing"))
TYPE_CHECKING = "typing.TYPE_CHECKING"
KNOWN_NAMES = {
    ("typing", "TYPE_CHECKING"): TYPE_CHECKING,
    ("typing_extensions", "TYPE_CHECKING"): TYPE_CHECKING,
}


class Root:
    """A test module, or another file at which a run begins to import.

    `statements` are the statements of its quiet prefix that import something, in order: execute
    each by `exec(compile(ast.Module([node], []), path, "exec"), namespace)`, all in one namespace;
    what one of them raises ends the prefix. `digest` is their text: a root with an equal one
    imports the same. `cut` says in words where and why the prefix ends, and is None if nothing
    ends it.
    """

    def __init__(self, statements, digest, cut):
        self.statements = statements
        self.digest = digest
        self.cut = cut


class Loud(Exception):
    """Raised at what ends the prefix; it holds the node, and what is wrong in words."""


def imports_of(source, path, marks=MARKS):
    """What the module with these bytes imports before it does anything else.

    `marks` are the marks known to be registered.
    """
    # pytest has imported both; imports of this module would come before pytest's own.
    import ast
    import warnings

    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            tree = ast.parse(source, path)
            # Errors that only the compiler sees.
            compile(tree, path, "exec", dont_inherit=True)
        if warned:
            # An error, in some runs: then nothing is imported.
            line = warned[0].lineno
            return Root([], (), f"line {line}: the compiler warns: {warned[0].message}")
        reader = Reader(ast.unparse, Names(), marks, os.path.basename(path).partition(".")[0])
        cut = reader.read(tree.body)
        digest = tuple(ast.dump(node) for node in reader.statements)
    except SyntaxError as error:
        return Root([], (), f"line {error.lineno or 1}: a syntax error: {error.msg}")
    except (ValueError, MemoryError, RecursionError) as error:
        return Root([], (), f"line 1: it cannot be compiled: {error or type(error).__name__}")
    return Root(reader.statements, digest, cut)


class Names:
    """What the names of a module, or of a class in it, are known to stand for."""

    def __init__(self, outer=None):
        # Name to one of `KNOWN_MODULES` or of `KNOWN_NAMES`.
        self.known = dict(outer.known) if outer else {}
        # Bound for certain.
        self.bound = set(outer.bound) if outer else set()
        # Bound at some time, so not the builtin of that name.
        self.touched = set(outer.touched) if outer else set()
        # Whether names were bound that are not to be seen.
        self.star = outer.star if outer else False
        self.future = outer.future if outer else False

    def is_builtin(self, name):
        return name not in self.touched and not self.star

    def bind(self, node, name, known=None, certain=True):
        if name.startswith("__") and name.endswith("__") and name not in HARMLESS:
            raise Loud(node, f"`{name}` is bound")
        if self.known.get(name, known) != known:
            raise Loud(node, f"`{name}` is bound to something else")
        if known and certain:
            self.known[name] = known
        self.touched.add(name)
        if certain:
            self.bound.add(name)

    def bind_unseen(self):
        self.star = True
        self.known.clear()


class Reader:
    """Reads statements for as long as they are quiet."""

    def __init__(self, unparse, names, marks, stem):
        self.unparse = unparse
        self.names = names
        self.marks = marks
        # The module's own name.
        self.stem = stem
        self.statements = []
        # Whether what is read now is a part of a statement that is executed whole.
        self.inside = False
        self.in_class = False

    def read(self, body):
        """Returns why the prefix ends in these statements, or None."""
        try:
            self.read_all(body)
        except Loud as loud:
            node, what = loud.args
            return f"line {node.lineno}: {what}"
        return None

    def read_all(self, body):
        for node in body:
            rule = getattr(self, "read_" + type(node).__name__.lower(), None)
            if rule is None:
                raise Loud(node, f"the statement `{self.text(node)}`")
            rule(node)

    def emit(self, node):
        if not self.inside:
            self.statements.append(node)

    def text(self, node):
        if node.end_lineno - node.lineno > 30:
            return "..."
        text = self.unparse(node).strip().partition("\n")[0]
        return text if len(text) <= 60 else text[:57] + "..."

    # ------------------------------------------------------------ imports

    def check_import(self, node, *modules):
        if self.in_class:
            raise Loud(node, "an import in a class")
        if any(self.stem in module.split(".") for module in modules if module):
            raise Loud(node, f"`{self.text(node)}` may import this module itself")

    def read_import(self, node):
        self.check_import(node, *(alias.name for alias in node.names))
        for alias in node.names:
            first = alias.name.partition(".")[0]
            # `import a.b` binds `a`, `import a.b as c` binds `a.b`.
            target = alias.name if alias.asname else first
            known = target if target in KNOWN_MODULES else None
            self.names.bind(node, alias.asname or first, known, certain=not self.inside)
        self.emit(node)

    def read_importfrom(self, node):
        self.check_import(node, node.module, *(alias.name for alias in node.names))
        absolute = node.module if not node.level else None
        for alias in node.names:
            if alias.name == "*":
                self.names.bind_unseen()
                continue
            known = KNOWN_NAMES.get((absolute, alias.name))
            self.names.bind(node, alias.asname or alias.name, known, certain=not self.inside)
            if absolute == "__future__" and alias.name == "annotations":
                self.names.future = True
        self.emit(node)

    def read_try(self, node):
        """`try: import a` with `except ImportError`, executed whole."""
        if self.in_class:
            raise Loud(node, "a `try` statement in a class")
        if node.finalbody:
            raise Loud(node, "a `try` statement with `finally`")
        for handler in node.handlers:
            kinds = handler.type
            kinds = kinds.elts if type(kinds).__name__ == "Tuple" else [kinds]
            if not all(self.is_import_error(kind) for kind in kinds):
                raise Loud(handler, "an `except` of something else than `ImportError`")
        outer, self.inside = self.inside, True
        for body in (node.body, *(handler.body for handler in node.handlers), node.orelse):
            for inner in body:
                if type(inner).__name__ not in ("Import", "ImportFrom", "Assign", "Pass", "Try"):
                    raise Loud(inner, f"`{self.text(inner)}` within `try`")
            self.read_all(body)
        for handler in node.handlers:
            if handler.name:
                self.names.bind(handler, handler.name, certain=False)
                self.names.bound.discard(handler.name)
        self.inside = outer
        self.emit(node)

    def is_import_error(self, node):
        return is_name(node) and node.id in IMPORT_ERRORS and self.names.is_builtin(node.id)

    def is_importorskip(self, node):
        """`pytest.importorskip("literal", ...)`."""
        if not is_call(node) or not self.is_pytests(node.func, "importorskip"):
            return False
        if not node.args or not is_text(node.args[0]):
            return False
        values = node.args + [keyword.value for keyword in node.keywords]
        return all(is_constant(value) or self.is_import_error(value) for value in values) and all(
            keyword.arg in ("minversion", "reason", "exc_type") for keyword in node.keywords
        )

    def read_importorskip(self, node, call):
        self.check_import(node, call.args[0].value)
        if self.inside:
            raise Loud(node, f"a call of `{self.text(call.func)}()` within `try`")
        self.emit(node)

    # ------------------------------------------------------------ what binds names

    def read_pass(self, node):
        pass

    def read_expr(self, node):
        value = node.value
        if self.is_importorskip(value):
            self.read_importorskip(node, value)
        elif type(value).__name__ != "Constant":
            raise Loud(node, self.describe(value))

    def read_assign(self, node):
        for target in node.targets:
            if not is_name(target):
                raise Loud(node, f"an assignment to `{self.text(target)}`")
        skips = self.is_importorskip(node.value)
        marks = not self.inside and self.is_marks(node.value)
        if not (skips or marks or is_constant(node.value)):
            raise Loud(node, self.describe(node.value))
        for target in node.targets:
            self.names.bind(node, target.id, certain=not self.inside)
        if skips:
            self.read_importorskip(node, node.value)

    def read_annassign(self, node):
        if not node.simple:
            raise Loud(node, f"an assignment to `{self.text(node.target)}`")
        if node.value is not None and not is_constant(node.value):
            raise Loud(node, self.describe(node.value))
        self.check_annotation(node, node.annotation)
        if node.value is not None:
            self.names.bind(node, node.target.id)

    def read_functiondef(self, node):
        self.check_decorators(node, fixtures=True)
        if getattr(node, "type_params", None):
            raise Loud(node, f"type parameters of `{node.name}`")
        given = node.args
        for default in (*given.defaults, *given.kw_defaults):
            if default is not None and not is_constant(default):
                raise Loud(default, f"the default `{self.text(default)}` in `{node.name}`")
        parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        for parameter in parameters:
            if parameter is not None and parameter.annotation is not None:
                self.check_annotation(node, parameter.annotation)
        if node.returns is not None:
            self.check_annotation(node, node.returns)
        self.names.bind(node, node.name)

    read_asyncfunctiondef = read_functiondef

    def read_classdef(self, node):
        self.check_decorators(node, fixtures=False)
        if getattr(node, "type_params", None):
            raise Loud(node, f"type parameters of `{node.name}`")
        if node.bases or node.keywords:
            base = (node.bases or [keyword.value for keyword in node.keywords])[0]
            raise Loud(node, f"the class `{node.name}` has the base `{self.text(base)}`")
        outer = self.names, self.in_class
        self.names, self.in_class = Names(self.names), True
        self.read_all(node.body)
        self.names, self.in_class = outer
        self.names.bind(node, node.name)

    # ------------------------------------------------------------ conditions

    def read_if(self, node):
        """Only the branch that is taken counts."""
        if self.in_class:
            raise Loud(node, "an `if` statement in a class")
        taken = self.decide(node.test)
        if taken is None:
            raise Loud(node, f"a condition: `{self.text(node.test)}`")
        self.read_all(node.body if taken else node.orelse)

    def decide(self, test):
        """What the condition comes to, or None if that is not known."""
        if type(test).__name__ == "UnaryOp" and type(test.op).__name__ == "Not":
            value = self.decide(test.operand)
            return None if value is None else not value
        if self.means(test) == TYPE_CHECKING:
            return False
        if is_call(test) and not test.keywords and all(map(is_constant, test.args)):
            method = test.func
            if not is_attribute(method) or method.attr not in ("startswith", "endswith"):
                return None
            if self.means(method.value) != "sys.platform":
                return None
        elif type(test).__name__ == "Compare" and len(test.ops) == 1:
            if self.means(part_of(test.left)) not in ("sys.platform", "sys.version_info"):
                return None
            if not is_constant(test.comparators[0]):
                return None
        else:
            return None
        names = {name: sys for name, known in self.names.known.items() if known == "sys"}
        try:
            return bool(eval(self.unparse(test), {"__builtins__": {}, **names}))
        except Exception:
            # The module itself would fail here.
            return None

    def means(self, node):
        """What a name, or an attribute of one, is known to stand for."""
        if is_name(node):
            return self.names.known.get(node.id)
        if is_attribute(node) and is_name(node.value) and node.value.id in self.names.known:
            return f"{self.names.known[node.value.id]}.{node.attr}"
        return None

    # ------------------------------------------------------------ pytest's own

    def is_pytests(self, node, name):
        """Whether this is `pytest.NAME`, and `pytest` was imported under its name."""
        return (
            is_attribute(node)
            and node.attr == name
            and is_name(node.value)
            and node.value.id == "pytest"
            and self.names.known.get("pytest") == "pytest"
        )

    def mark(self, node):
        """The name of a mark, if this is one that can be made without harm."""
        call = node if is_call(node) else None
        node = node.func if call else node
        if not is_attribute(node) or not self.is_pytests(node.value, "mark"):
            return None
        if node.attr not in self.marks:
            return None
        if call and not all(self.is_argument(value) for value in arguments(call)):
            return None
        return node.attr

    def is_marks(self, node):
        """A mark or a list of some."""
        if type(node).__name__ in ("List", "Tuple"):
            return all(self.is_marks(element) for element in node.elts)
        return self.mark(node) is not None

    def is_argument(self, node):
        """A constant, or a list of constants and `pytest.param(...)`."""
        if is_constant(node):
            return True
        if type(node).__name__ in ("List", "Tuple"):
            return all(self.is_argument(element) for element in node.elts)
        if not is_call(node) or not self.is_pytests(node.func, "param"):
            return False
        for keyword in node.keywords:
            if keyword.arg == "id":
                quiet = is_text(keyword.value)
            else:
                mark = self.mark(keyword.value) if keyword.arg == "marks" else None
                quiet = mark not in (None, "usefixtures")
            if not quiet:
                return False
        return all(is_constant(value) for value in node.args)

    def is_fixture(self, node):
        """`pytest.fixture`, with arguments at which it does not fail."""
        if self.is_pytests(node, "fixture"):
            return True
        if not is_call(node) or not self.is_pytests(node.func, "fixture") or node.args:
            return False
        for keyword in node.keywords:
            value = keyword.value
            if keyword.arg in ("params", "ids"):
                quiet = type(value).__name__ in ("List", "Tuple") and is_constant(value)
            elif keyword.arg in ("scope", "name"):
                quiet = is_text(value) and value.value != "request"
            else:
                quiet = keyword.arg == "autouse" and type(value).__name__ == "Constant"
            if not quiet:
                return False
        return True

    def check_decorators(self, node, fixtures):
        made = 0
        for decorator in node.decorator_list:
            if fixtures and node.name != "request" and self.is_fixture(decorator):
                made += 1
            elif self.mark(decorator) is None:
                text = self.text(decorator)
                raise Loud(decorator, f"the decorator `{text}` of `{node.name}`")
        if made and len(node.decorator_list) > 1:
            # Some versions of pytest warn, others fail.
            raise Loud(node, f"`{node.name}` is a fixture with another decorator")

    # ------------------------------------------------------------ values

    def check_annotation(self, node, annotation):
        if not self.names.future and not self.is_quiet_annotation(annotation):
            raise Loud(node, f"the annotation `{self.text(annotation)}`")

    def is_quiet_annotation(self, node):
        """Attributes are not: a module's may be made when it is asked for."""
        if is_name(node):
            return node.id in self.names.bound or node.id in BUILTINS
        if type(node).__name__ == "Subscript":
            base, index = node.value, node.slice
            parts = index.elts if type(index).__name__ == "Tuple" else [index]
            return (
                is_name(base)
                and base.id in GENERICS
                and self.names.is_builtin(base.id)
                and all(self.is_quiet_annotation(part) for part in parts)
            )
        return type(node).__name__ == "Constant"

    def describe(self, value):
        if is_call(value):
            return f"a call of `{self.text(value.func)}()`"
        return f"the expression `{self.text(value)}`"


def is_name(node):
    return type(node).__name__ == "Name"


def is_attribute(node):
    return type(node).__name__ == "Attribute"


def is_call(node):
    return type(node).__name__ == "Call"


def is_text(node):
    return type(node).__name__ == "Constant" and type(node.value) is str


def part_of(node):
    """The `a` of `a[0]`, `a[:2]` or `a.major`; otherwise the node itself."""
    if type(node).__name__ == "Subscript":
        index = node.slice
        parts = [index]
        if type(index).__name__ == "Slice":
            parts = [part for part in (index.lower, index.upper, index.step) if part is not None]
        return node.value if all(map(is_constant, parts)) else node
    if is_attribute(node) and node.attr in ("major", "minor", "micro"):
        return node.value
    return node


def arguments(call):
    """Those of a call; None stands for `**names`, which is no constant."""
    return [*call.args, *(word.value if word.arg else None for word in call.keywords)]


def is_constant(node):
    """A literal of which Python makes the same value each time, and cannot fail to."""
    name = type(node).__name__
    if name == "Dict":
        return all(map(is_hashable, node.keys)) and all(map(is_constant, node.values))
    if name == "Set":
        return all(map(is_hashable, node.elts))
    if name in ("List", "Tuple"):
        return all(map(is_constant, node.elts))
    return is_number_or_text(node)


def is_hashable(node):
    if type(node).__name__ == "Tuple":
        return all(map(is_hashable, node.elts))
    return is_number_or_text(node)


def is_number_or_text(node):
    if type(node).__name__ == "UnaryOp" and type(node.op).__name__ in ("UAdd", "USub"):
        node = node.operand
        return type(node).__name__ == "Constant" and type(node.value) in (int, float, complex)
    return type(node).__name__ == "Constant"
