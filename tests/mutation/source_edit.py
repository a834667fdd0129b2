"""Find a piece of Python by its syntax tree and replace it: line breaks, quotes and parentheses do not matter."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Span:
    """A piece of source: byte offsets, the column where it starts, and what kind of code can replace it."""

    start: int
    end: int
    column: int
    kind: str


def find(source: str, within: str, old: str) -> list[Span]:
    """Return where ``old`` occurs inside the class or function ``within``.

    ``within`` is a name such as ``"Class.method"``; empty means the whole module.
    ``old`` is an expression, one or more statements, or one entry of a dictionary (``"key": value``).
    """
    scopes = _scopes(_tree(source), within.split(".") if within else [])
    return [span for scope in scopes for span in _matches(scope, _parse(old), _line_starts(source))]


def replace(source: str, span: Span, new: str) -> str:
    """Return ``source`` with ``new`` in place of ``span``; an empty ``new`` removes a statement."""
    if span.kind == "statement":
        text = textwrap.indent(ast.unparse(ast.parse(new or "pass")), " " * span.column).strip()
    elif span.kind == "entry":
        text = new
    else:
        text = f"({ast.unparse(ast.parse(new, mode='eval'))})"
    raw = source.encode()
    return (raw[: span.start] + text.encode() + raw[span.end :]).decode()


_tree = lru_cache(maxsize=None)(ast.parse)


def _parse(old: str) -> list[ast.stmt] | ast.Dict:
    try:
        return ast.parse(textwrap.dedent(old)).body
    except SyntaxError:
        entry = ast.parse(f"{{{old}}}", mode="eval").body
        assert isinstance(entry, ast.Dict), f"neither code nor an entry of a dictionary: {old}"
        return entry


def _scopes(tree: _Scope, path: list[str]) -> Iterator[_Scope]:
    """Yield every class or function that ``path`` names; functions inside ``if`` and ``with`` blocks count too."""
    if not path:
        yield tree
        return
    todo: list[ast.AST] = list(ast.iter_child_nodes(tree))
    while todo:
        node = todo.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name == path[0]:
                yield from _scopes(node, path[1:])
        else:
            todo.extend(ast.iter_child_nodes(node))


def _matches(scope: _Scope, old: list[ast.stmt] | ast.Dict, lines: list[int]) -> Iterator[Span]:
    if isinstance(old, ast.Dict):
        yield from _entries(scope, old, lines)
        return
    yield from _statements(scope, old, lines)
    if len(old) == 1 and isinstance(old[0], ast.Expr):
        statements = {id(node.value) for node in ast.walk(scope) if isinstance(node, ast.Expr)}
        for node in ast.walk(scope):
            if isinstance(node, ast.expr) and id(node) not in statements and _same(node, old[0].value):
                yield _span(node, node, lines, "expression")


def _entries(scope: _Scope, old: ast.Dict, lines: list[int]) -> Iterator[Span]:
    for node in ast.walk(scope):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if key is not None and _same(ast.Dict([key], [value]), old):
                    yield _span(key, value, lines, "entry")


def _statements(scope: _Scope, old: list[ast.stmt], lines: list[int]) -> Iterator[Span]:
    for node in ast.walk(scope):
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if not isinstance(body, list):
                continue
            for first in range(len(body) - len(old) + 1):
                found = body[first : first + len(old)]
                if all(_same(*pair) for pair in zip(found, old, strict=True)):
                    yield _span(found[0], found[-1], lines, "statement")


def _same(one: ast.AST, other: ast.AST) -> bool:
    return type(one) is type(other) and ast.dump(one) == ast.dump(other)


def _span(first: ast.AST, last: ast.AST, lines: list[int], kind: str) -> Span:
    start = lines[first.lineno - 1] + first.col_offset  # type: ignore[attr-defined]
    end = lines[last.end_lineno - 1] + last.end_col_offset  # type: ignore[attr-defined]
    return Span(start, end, first.col_offset, kind)  # type: ignore[attr-defined]


def _line_starts(source: str) -> list[int]:
    starts = [0]
    for line in source.encode().split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    return starts
