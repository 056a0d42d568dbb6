"""Small faults for a Python file, one at a time: what the driver puts into the code.

Not touched, because no test of behaviour can see them: docstrings, annotations, `if TYPE_CHECKING`, calls of a logger,
and texts that only people read. Such a text is one in a `raise`, the reason or fix of a Fault, or one with two words of
small letters side by side.
"""

from __future__ import annotations

import ast
import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple

_COMPARISONS = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_SENTENCE = re.compile(r"[a-z]{2}[,:;]? [a-z]{2}|[a-z]{2}[,:;]? \0|\0[,:;]? [a-z]{2}")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_REMOVED = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Raise, ast.Continue, ast.Break, ast.Delete)
_FAULTS = ("Fault", "_Rule")
_LOGGERS = ("log", "_log", "logger")


class Mutant(NamedTuple):
    """One fault. Number, line and extent are of the file as it is now; the rest names it in tests/survivors.txt."""

    number: int
    file: str
    function: str  # "" in the module's own body
    text: str  # the line that it is in
    mutation: str
    line: int
    extent: tuple[int, int]  # the lines of the statement, or of the head of a compound one
    outermost: tuple[str, int] | None  # name and first line of the function, or method, whose code it is in

    @property
    def key(self) -> str:
        """What stays the same when lines are added above it."""
        return " | ".join((self.file, self.function, self.text, self.mutation))


class _Edit(NamedTuple):
    holder: ast.AST
    field: str
    value: Any
    mutation: str
    where: ast.AST


class Source:
    """A file's text and its mutants."""

    def __init__(self, file: str, text: str):
        """Args: file: its name, for the mutants."""
        self.file = file
        self._lines = text.splitlines()
        self._tree = ast.parse(text)
        self._edits: list[_Edit] = []
        self.mutants: list[Mutant] = []
        seen: Counter[str] = Counter()
        for edit, function, extent, outermost in _Walk(self._tree).found:
            line = edit.where.lineno  # type: ignore[attr-defined]
            mutation = edit.mutation
            one = Mutant(
                len(self.mutants) + 1, file, function, self._lines[line - 1].strip(), mutation, line, extent, outermost
            )
            seen[one.key] += 1
            if seen[one.key] > 1:
                one = one._replace(mutation=f"{mutation} #{seen[one.key]}")
            self.mutants.append(one)
            self._edits.append(edit)

    def extent(self, outermost: tuple[str, int]) -> tuple[int, int]:
        """The lines of a function, by its name and its first line."""
        for node in ast.walk(self._tree):
            if isinstance(node, _FUNCTIONS) and (node.name, _first_line(node)) == outermost:
                return outermost[1], node.end_lineno or outermost[1]
        raise ValueError(f"no function {outermost[0]} begins in line {outermost[1]}")

    def code(self, mutant: Mutant | None, path: str) -> CodeType:
        """The compiled module with this fault in it.

        Raises:
            SyntaxError: It cannot be compiled.
        """
        if mutant is None:
            return compile(self._tree, path, "exec", dont_inherit=True)
        with self._edited(self._edits[mutant.number - 1]):
            try:
                return compile(ast.fix_missing_locations(self._tree), path, "exec", dont_inherit=True)
            except ValueError as err:
                raise SyntaxError(str(err)) from None

    @contextlib.contextmanager
    def _edited(self, edit: _Edit) -> Iterator[None]:
        before = getattr(edit.holder, edit.field)
        setattr(edit.holder, edit.field, edit.value)
        try:
            yield
        finally:
            setattr(edit.holder, edit.field, before)


def _first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _for_people(node: ast.AST) -> bool:
    """Whether a text is a sentence."""
    if isinstance(node, ast.JoinedStr):
        parts = [str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values]
        return bool(_SENTENCE.search("".join(parts)))
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(_SENTENCE.search(node.value))


def _is_log(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in _LOGGERS
    )


class _Walk:
    """Visits a tree and keeps where it is."""

    def __init__(self, tree: ast.Module):
        self.found: list[tuple[_Edit, str, tuple[int, int], tuple[str, int] | None]] = []
        self._names: list[str] = []
        self._extent = (1, 1)
        self._outermost: tuple[str, int] | None = None
        self._silent = 0  # inside a raise, or the reason of a Fault
        self._body(tree, "body")

    def _add(self, holder: ast.AST, field: str, value: Any, mutation: str, where: ast.AST | None = None) -> None:
        if isinstance(value, ast.expr):
            ast.copy_location(value, where or holder)
        edit = _Edit(holder, field, value, mutation, where or holder)
        self.found.append((edit, ".".join(self._names), self._extent, self._outermost))

    def _body(self, holder: ast.AST, field: str) -> None:
        body = getattr(holder, field)
        for at, statement in enumerate(body):
            docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if docstring or isinstance(statement, (ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal, ast.Pass)):
                continue
            if isinstance(statement, ast.Expr) and _is_log(statement.value):
                continue
            first = _first_line(statement)
            inner = getattr(statement, "body", None)
            last = max(first, inner[0].lineno - 1) if inner else statement.end_lineno or first
            self._extent = (first, last)
            if self._removable(statement):
                without = [*body[:at], ast.copy_location(ast.Pass(), statement), *body[at + 1 :]]
                self._add(holder, field, without, f"remove: {_short(statement)}", statement)
            self._statement(statement)

    def _removable(self, statement: ast.stmt) -> bool:
        if isinstance(statement, ast.AnnAssign) and statement.value is None:
            return False
        if isinstance(statement, ast.Expr):
            return isinstance(statement.value, (ast.Call, ast.Await))
        # Without a constant of its own a module cannot be imported: that says nothing.
        return self._outermost is not None and isinstance(statement, _REMOVED)

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, _FUNCTIONS):
            self._function(node)
            return
        if isinstance(node, ast.ClassDef):
            self._names.append(node.name)
            for part in [*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)]:
                self._expression(part)
            self._body(node, "body")
            self._names.pop()
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.If):
            self._condition(node, "test")
        elif isinstance(node, ast.While):
            self._add(node, "test", ast.Constant(value=False), f"while {_short(node.test)} → False", node.test)
        elif isinstance(node, ast.Return) and not (
            node.value is None or (isinstance(node.value, ast.Constant) and node.value.value is None)
        ):
            self._add(node, "value", ast.Constant(value=None), f"return {_short(node.value)} → None")
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            self._add(node.exc, "func", ast.Name("Exception", ast.Load()), f"raise {_short(node.exc.func)} → Exception")
        self._parts(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._names.append(node.name)
        for part in [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self._expression(part)
        outer = self._outermost
        if outer is None:
            self._outermost = (node.name, _first_line(node))
        self._body(node, "body")
        self._outermost = outer
        self._names.pop()

    def _parts(self, node: ast.AST) -> None:
        """Visit what is in a statement: expressions, then blocks."""
        extent, silent = self._extent, isinstance(node, ast.Raise)
        self._silent += silent
        blocks = ("body", "orelse", "finalbody")
        for field, value in ast.iter_fields(node):
            if field in blocks or field in ("annotation", "handlers", "cases"):
                continue
            for at, part in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(part, ast.withitem):
                    self._child(part, "context_expr", 0, part.context_expr)
                else:
                    self._child(node, field, at, part)
        self._silent -= silent
        if isinstance(node, ast.AugAssign):
            self._operator(node)
        for field in blocks:
            if isinstance(getattr(node, field, None), list):
                self._body(node, field)
        for handler in getattr(node, "handlers", []):
            self._extent = (handler.lineno, handler.lineno)
            self._handler(handler)
            self._body(handler, "body")
        for case in getattr(node, "cases", []):
            if case.guard is not None:
                self._condition(case, "guard")
                self._expression(case.guard)
            self._body(case, "body")
        self._extent = extent

    def _handler(self, node: ast.ExceptHandler) -> None:
        if node.type is None:
            return
        nothing = ast.Tuple([], ast.Load())
        self._add(node, "type", ast.copy_location(nothing, node.type), f"except {_short(node.type)} → ()", node.type)
        if isinstance(node.type, ast.Tuple):
            for at, each in enumerate(node.type.elts):
                rest = [*node.type.elts[:at], *node.type.elts[at + 1 :]]
                self._add(node.type, "elts", rest, f"except without {_short(each)}")

    def _condition(self, node: ast.AST, field: str) -> None:
        test = getattr(node, field)
        for value in (True, False):
            self._add(node, field, ast.Constant(value=value), f"if {_short(test)} → {value}", test)

    def _operator(self, node: ast.BinOp | ast.AugAssign) -> None:
        if type(node.op) in _ARITHMETIC:
            other = _ARITHMETIC[type(node.op)]()
            self._add(node, "op", other, f"{_short(node)} → {type(other).__name__}")

    def _expression(self, node: ast.AST) -> None:
        if _is_log(node) or (isinstance(node, ast.JoinedStr) and (self._silent or _for_people(node))):
            for part in getattr(node, "values", []):
                if isinstance(part, ast.FormattedValue):
                    self._expression(part.value)
            return
        if isinstance(node, ast.Constant):
            self._constant(node)
        elif isinstance(node, ast.Compare):
            for at, operator in enumerate(node.ops):
                other = _COMPARISONS[type(operator)]()
                ops = [*node.ops[:at], other, *node.ops[at + 1 :]]
                self._add(node, "ops", ops, f"{_short(node)} → {type(other).__name__}")
        elif isinstance(node, ast.BoolOp):
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            self._add(node, "op", other, f"{_short(node)} → {type(other).__name__}")
        elif isinstance(node, ast.BinOp):
            self._operator(node)
        elif isinstance(node, ast.IfExp):
            self._condition(node, "test")
        elif isinstance(node, ast.comprehension):
            for at, test in enumerate(node.ifs):
                without = [*node.ifs[:at], *node.ifs[at + 1 :]]
                self._add(node, "ifs", without, f"for … if {_short(test)} → True", test)
        elif isinstance(node, ast.Slice):
            for field in ("lower", "upper"):
                if getattr(node, field) is not None:
                    self._add(node, field, None, f"slice {_short(node)} without {field} bound")
        elif isinstance(node, ast.Call):
            for at, keyword in enumerate(node.keywords):
                if keyword.arg:
                    rest = [*node.keywords[:at], *node.keywords[at + 1 :]]
                    self._add(node, "keywords", rest, f"without {_short(keyword)}", keyword)
        elif isinstance(node, ast.Yield) and node.value is not None:
            self._add(node, "value", ast.Constant(value=None), f"yield {_short(node.value)} → None")
        fault = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FAULTS
        for field in node._fields:
            value = getattr(node, field)
            for at, part in enumerate(value if isinstance(value, list) else [value]):
                silent = fault and field == "args" and at > 0
                self._silent += silent
                self._child(node, field, at, part)
                self._silent -= silent

    def _child(self, node: ast.AST, field: str, at: int, part: object) -> None:
        """Visit one part of a node, the at-th of the field where that is a list."""
        if isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.Not):
            value = getattr(node, field)
            new = [*value[:at], part.operand, *value[at + 1 :]] if isinstance(value, list) else part.operand
            edit = _Edit(node, field, new, f"{_short(part)} → without not", part)
            self.found.append((edit, ".".join(self._names), self._extent, self._outermost))
        if isinstance(part, ast.AST) and not isinstance(part, (ast.expr_context, ast.operator, ast.cmpop)):
            self._expression(part)

    def _constant(self, node: ast.Constant) -> None:
        value = node.value
        new: object = None
        if isinstance(value, bool):
            new = not value
        elif isinstance(value, (int, float)):
            new = value + 1
        elif isinstance(value, str) and value and not self._silent and not _for_people(node):
            new = f"Q~{value}"
        elif isinstance(value, bytes) and value:
            new = b"Q~" + value
        if new is not None:
            self._add(node, "value", new, f"{_short(node)} → {new!r:.60}")
