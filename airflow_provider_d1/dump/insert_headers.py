"""Read an INSERT up to its values: the table, and the column of each value.

All INSERTs of a table usually begin with the same bytes, so the reader parses these once and then compares bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_d1.dump.literals import Literal, LiteralReader
from airflow_provider_d1.dump.schema import is_internal, unquote
from airflow_provider_d1.dump.statements import NAME, SPACE, check_statement_text
from airflow_provider_d1.exceptions import D1DumpError
from airflow_provider_d1.validation import fold_case

if TYPE_CHECKING:
    from airflow_provider_d1.dump.schema import DeclaredColumn, TableSchema

#: everything up to the opening parenthesis of the first row
INSERT_HEADER = re.compile(
    rb"INSERT(?=\W)" + SPACE + rb"INTO(?=\W)" + SPACE + rb"(?P<table>" + NAME + rb")" + SPACE
    + rb"(?:\((?P<columns>" + SPACE + NAME + SPACE + rb"(?:," + SPACE + NAME + SPACE + rb")*+)\)" + SPACE + rb")?"
    + rb"VALUES" + SPACE + rb"\(",
    re.IGNORECASE,
)  # fmt: skip
_SPACE = re.compile(SPACE)
_NAME = re.compile(NAME)
_COMMA = re.compile(SPACE + rb",")


@dataclass(frozen=True, slots=True)
class InsertHeader:
    """The properties of all INSERTs that begin with the same bytes.

    :param prefix: these bytes, up to and including the opening parenthesis of the first row.
    :param schema: the table; None for SQLite's and Cloudflare's own tables, which are not staged.
    :param layout: for each value of a row, the index of its column in ``schema.columns``.
    :param defaults: for each column that the rows omit, its index and its DEFAULT.
    """

    prefix: bytes
    schema: TableSchema | None
    layout: tuple[int, ...] = ()
    defaults: tuple[tuple[int, Literal], ...] = ()


def read_header(match: re.Match[bytes], tables: Mapping[str, TableSchema], offset: int) -> InsertHeader:
    """Resolve the names in an INSERT.

    :param match: of ``INSERT_HEADER``.
    :param tables: the tables that the dump has created so far, by folded name.
    :param offset: where the INSERT starts in the dump, for errors.
    :raises D1DumpError: for an unknown table or column, and for an omitted column whose DEFAULT is not a literal.
    """
    prefix = bytes(match.group())
    check_statement_text(prefix, offset)
    name = decode_name(match["table"], offset)
    if is_internal(name):
        return InsertHeader(prefix, None)
    schema = tables.get(fold_case(name))
    if schema is None:
        problem = (
            "INSERT before CREATE TABLE"
            if tables
            else "the dump has INSERT but no CREATE TABLE: export it again without no_schema"
        )
        raise D1DumpError(problem, offset=offset, table=name)
    if match["columns"] is None:
        return InsertHeader(prefix, schema, tuple(range(len(schema.columns))))
    listed = [decode_name(part.group(), offset) for part in _names(match["columns"])]
    layout, defaults = _layout(schema, listed, offset)
    return InsertHeader(prefix, schema, layout, defaults)


def decode_name(quoted: bytes, offset: int) -> str:
    """Return a quoted or bare name without its quotes."""
    try:
        return unquote(bytes(quoted)).decode()
    except UnicodeDecodeError:
        raise D1DumpError("invalid UTF-8 in a name", offset=offset) from None


def _names(columns: bytes) -> list[re.Match[bytes]]:
    names: list[re.Match[bytes]] = []
    at = 0
    while True:
        space = _SPACE.match(columns, at)
        match = _NAME.match(columns, space.end() if space else at)
        if match is None:
            return names
        names.append(match)
        comma = _COMMA.match(columns, match.end())
        if comma is None:
            return names
        at = comma.end()


def _layout(
    schema: TableSchema, listed: list[str], offset: int
) -> tuple[tuple[int, ...], tuple[tuple[int, Literal], ...]]:
    """Match an INSERT's column list with the table: the column of each value, and the defaults of the others."""
    by_name = {fold_case(column.name): index for index, column in enumerate(schema.columns)}
    layout = []
    for name in listed:
        index = by_name.get(fold_case(name))
        if index is None:
            raise D1DumpError(f"INSERT names the unknown column {name!r}", offset=offset, table=schema.name)
        layout.append(index)
    if len(set(layout)) != len(layout):
        raise D1DumpError("INSERT names a column twice", offset=offset, table=schema.name)
    defaults = tuple(
        (index, _default(column, schema, offset)) for index, column in enumerate(schema.columns) if index not in layout
    )
    return tuple(layout), defaults


def _default(column: DeclaredColumn, schema: TableSchema, offset: int) -> Literal:
    """Evaluate the DEFAULT of a column that an INSERT omits."""
    if column.rowid_alias:
        problem = f"INSERT omits the INTEGER PRIMARY KEY {column.name!r}, which SQLite would number itself"
        raise D1DumpError(problem, offset=offset, table=schema.name)
    problem = f"INSERT omits column {column.name!r}, whose DEFAULT cannot be evaluated"
    if column.default is None:
        return Literal(None)
    sql = column.default.encode()
    while sql.startswith(b"(") and sql.endswith(b")"):
        sql = sql[1:-1].strip()
    reader = LiteralReader(sql)
    try:
        literal = reader.value()
    except D1DumpError:
        raise D1DumpError(problem, offset=offset, table=schema.name) from None
    if reader.at != len(sql):
        raise D1DumpError(problem, offset=offset, table=schema.name)
    return literal
