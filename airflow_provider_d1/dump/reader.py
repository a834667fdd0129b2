"""The cutter: a dump's bytes in, tables and blocks of rows out. No input or output of its own, nothing is executed.

    reader = DumpReader()
    for data in stream:                       # slices of any size
        for item in reader.feed(data): …      # TableStarted | Block
    for item in reader.finish(): …

Threads: a :class:`DumpReader` belongs to one thread. Blocks are immutable;
:func:`~airflow_provider_d1.dump.blocks.parse_block` is pure and may run in any thread, several at once, in any order.
It spends most of its time outside the GIL.

Order: a table's :class:`TableStarted` comes before its blocks; blocks come in dump order, so do the rows within one. A
table without rows has no block. Normally a table's blocks follow each other, but a dump may go back to a table after
another one started (all CREATEs first, then the rows), so a table is known to be complete only when
:meth:`DumpReader.finish` returns. ``sqlite_sequence``, ``sqlite_stat*`` and ``_cf_*`` never appear.

Types: each :class:`~airflow_provider_d1.dump.columns.ParsedColumn` has the type that follows from its own block's
evidence alone, so the types of one column may differ from block to block, in both directions, and no block depends on
another. Add up the evidence; ``part_type(affinity, sum)`` is what to write next, ``cast(array, evidence, type)``
makes it so, for a block (with the block's evidence) as for a part that is written already (with the part's evidence). A
sum that changes ``part_type`` closes the part. ``part_type`` only ever widens, except from the type of a column that
had only NULLs. When all rows are known, ``final_type`` is the type of every part; parts of another type are cast once
more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_provider_d1.dump.blocks import Block
from airflow_provider_d1.dump.literals import Literal, LiteralReader
from airflow_provider_d1.dump.runs import run_end
from airflow_provider_d1.dump.schema import Column, TableSchema, parse_create_table
from airflow_provider_d1.dump.statements import (
    NAME,
    SPACE,
    find_statement_end,
    fold,
    tokens,
    unquote,
)
from airflow_provider_d1.exceptions import D1DumpError

BLOCK_SIZE = 5 << 20
#: no statement of a dump is longer; D1's rows end at 2 MB, as hex at 4
MAX_STATEMENT = 128 << 20

_SPACE = re.compile(SPACE)
_INSERT = re.compile(
    rb"INSERT(?=\W)" + SPACE + rb"INTO(?=\W)" + SPACE + rb"(?P<table>" + NAME + rb")" + SPACE
    + rb"(?:\((?P<columns>" + SPACE + NAME + SPACE + rb"(?:," + SPACE + NAME + SPACE + rb")*+)\)" + SPACE + rb")?"
    + rb"VALUES" + SPACE + rb"\(",
    re.IGNORECASE,
)  # fmt: skip
_NAME = re.compile(NAME)
#: the table's name may be cut off where the dump ends; then nobody knows what it is
_SUBJECT = re.compile(
    rb"(?:INSERT(?=\W)" + SPACE + rb"INTO|CREATE(?=\W)" + SPACE + rb"TABLE(?:(?=\W)" + SPACE + rb"IF(?=\W)" + SPACE
    + rb"NOT(?=\W)" + SPACE + rb"EXISTS)?)(?=\W)" + SPACE + rb"(?P<table>" + NAME + rb")(?=.)",
    re.IGNORECASE | re.DOTALL,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TableStarted:
    """The dump creates a table.

    :param schema: the table.
    :param offset: where its CREATE TABLE stands in the dump.
    """

    schema: TableSchema
    offset: int


@dataclass(frozen=True, slots=True)
class _Insert:
    """What all INSERTs with the same words before their values have in common; schema None: not to be staged."""

    prefix: bytes
    schema: TableSchema | None
    layout: tuple[int, ...] = ()
    defaults: tuple[tuple[int, Literal], ...] = ()


class DumpReader:
    """Cuts a dump into tables and blocks of rows.

    :param block_size: bytes that a block aims at; a longer row makes a longer block.
    :param temporal: collect evidence of dates and times (``parse_temporal``).
    """

    def __init__(self, *, block_size: int = BLOCK_SIZE, temporal: bool = False) -> None:
        self._block_size = block_size
        self._temporal = temporal
        self._buffer = bytearray()
        self._shown = False  # whether blocks show parts of the buffer
        self._offset = 0  # of the buffer's first byte in the dump
        self._wanted = block_size  # look again when the buffer holds that much
        self._tables: dict[str, TableSchema] = {}
        self._insert: _Insert | None = None
        self._triggered: set[str] = set()  # tables with an INSERT trigger
        self._finished = False

    @property
    def offset(self) -> int:
        """How many bytes were understood so far."""
        return self._offset

    def feed(self, data: bytes | bytearray | memoryview) -> list[TableStarted | Block]:
        """Take the next bytes; return what they complete.

        :raises D1DumpError: for a statement that no dump holds.
        """
        self._buffer += data
        items: list[TableStarted | Block] = []
        while len(self._buffer) >= self._wanted:
            before = self._offset
            self._cut(items, final=False)
            if self._offset == before:
                if len(self._buffer) > MAX_STATEMENT:
                    raise D1DumpError(f"a statement longer than {MAX_STATEMENT >> 20} MiB", offset=self._offset)
                self._wanted = len(self._buffer) * 2  # a long statement is looked at a few times, not at each slice
            else:
                self._wanted = self._block_size
        return items

    def finish(self) -> list[TableStarted | Block]:
        """Say that the dump ends here; return what is left of it.

        :raises D1DumpError: when it ends inside a statement, or was empty.
        """
        items: list[TableStarted | Block] = []
        if self._finished:
            return items
        self._finished = True
        if not self._offset and not self._buffer.strip():
            raise D1DumpError("the dump is empty; even that of an empty database holds a PRAGMA", offset=0)
        self._cut(items, final=True)
        return items

    def _cut(self, items: list[TableStarted | Block], *, final: bool) -> None:
        """Cut complete statements off the buffer, until more bytes are needed (or, at the end, all are gone)."""
        at = 0
        limit = len(self._buffer)
        while True:
            space = _SPACE.match(self._buffer, at)
            start = space.end() if space else at
            if start - at > 2 and (final or start < limit):  # more than the end of a line, and all of it
                _check_words(bytes(self._buffer[at:start]), self._offset + at)
            if start == limit:
                if final:
                    at = start
                break
            if not final and limit - start < self._block_size and at:
                break  # less than a block is left: wait, so that blocks do not shrink
            end = self._statement(start, items, final=final)
            if end < 0:
                if final:
                    raise D1DumpError(
                        "the dump ends inside a statement", offset=self._offset + start, table=self._subject(start)
                    )
                break
            at = end
        if self._shown:
            self._buffer, self._shown = self._buffer[at:], False
        else:
            del self._buffer[:at]
        self._offset += at

    def _subject(self, start: int) -> str | None:
        """Return the table that an INSERT or a CREATE TABLE is about, as far as it can be told."""
        match = _SUBJECT.match(self._buffer, start)
        return None if match is None else unquote(bytes(match["table"])).decode("utf-8", "replace")

    def _statement(self, start: int, items: list[TableStarted | Block], *, final: bool) -> int:
        """Handle the statement (or the run of INSERTs) at ``start``; return where it ends, -1 for "not all there"."""
        if self._insert is not None and self._buffer.startswith(self._insert.prefix, start):
            return self._rows(self._insert, start, items, final=final)
        if self._buffer[start : start + 6].upper() == b"INSERT":
            match = _INSERT.match(self._buffer, start)
            if match is None:
                if find_statement_end(self._buffer, start, final=final) < 0:
                    return -1
                raise D1DumpError(
                    "an INSERT that is not of the form INSERT INTO … VALUES (…)",
                    offset=self._offset + start,
                    table=self._subject(start),
                )
            self._insert = self._known_insert(match)
            return self._rows(self._insert, start, items, final=final)
        end = find_statement_end(self._buffer, start, final=final)
        if end < 0:
            return -1
        self._other(bytes(self._buffer[start : end - 1]), self._offset + start, items)
        return end

    def _known_insert(self, match: re.Match[bytes]) -> _Insert:
        """Look up what an INSERT's first words say."""
        offset = self._offset + match.start()
        prefix = bytes(match.group())
        _check_words(prefix, offset)
        name = self._name(match["table"], offset)
        if is_internal(name):
            return _Insert(prefix, None)
        schema = self._tables.get(fold(name))
        if schema is None:
            hint = "" if self._tables else "; it creates none, so it was exported with no_schema"
            raise D1DumpError(f"an INSERT into {name!r}, which the dump does not create{hint},", offset=offset)
        if fold(name) in self._triggered:
            raise D1DumpError("an INSERT that would set off a trigger", offset=offset, table=name)
        if match["columns"] is None:
            return _Insert(prefix, schema, tuple(range(len(schema.columns))))
        listed = [self._name(part.group(), offset) for part in _names(match["columns"])]
        layout, defaults = _layout(schema, listed, offset)
        return _Insert(prefix, schema, layout, defaults)

    def _name(self, quoted: bytes, offset: int) -> str:
        try:
            return unquote(bytes(quoted)).decode()
        except UnicodeDecodeError:
            raise D1DumpError("invalid UTF-8 in a name", offset=offset) from None

    def _rows(self, insert: _Insert, start: int, items: list[TableStarted | Block], *, final: bool) -> int:
        """Cut a block of rows; return where it ends, -1 when not even one row is there."""
        first = start + len(insert.prefix)
        end, separator = run_end(self._buffer, insert.prefix, first, block_size=self._block_size, final=final)
        if end < 0:
            return -1
        closing = self._buffer.rindex(b";", first, end)
        while closing > first and self._buffer[closing - 1] in b" \t\r\n\f":
            closing -= 1
        body = self._view(first, closing)
        if insert.schema is None:
            _check_unstaged(bytes(body), insert.prefix, self._offset + first)
        else:
            items.append(
                Block(
                    insert.schema, self._offset + first, body, separator, insert.layout, insert.defaults, self._temporal
                )
            )
        return end

    def _view(self, start: int, end: int) -> memoryview:
        """Return some of the buffer, uncopied where that is much; what has been shown is never touched again."""
        if end - start >= self._block_size // 2:
            self._shown = True
            return memoryview(self._buffer)[start:end]
        return memoryview(bytes(self._buffer[start:end]))

    def _other(self, statement: bytes, offset: int, items: list[TableStarted | Block]) -> None:
        """Handle a complete statement that is no INSERT."""
        _check_words(statement, offset)
        words = _first_words(statement)
        match words:
            case ["CREATE", "TABLE", *_]:
                self._create_table(statement, offset, items)
            case ["CREATE", "TRIGGER", *_]:
                self._triggered.update(_insert_trigger_on(statement))
            case ["CREATE", "INDEX" | "VIEW", *_] | ["CREATE", "UNIQUE", "INDEX", *_]:
                pass
            case ["CREATE", "VIRTUAL", *_]:
                raise D1DumpError("a virtual table, whose rows no dump can hold,", offset=offset)
            case ["PRAGMA", "DEFER_FOREIGN_KEYS" | "FOREIGN_KEYS", *_]:
                pass
            case ["BEGIN"] | ["BEGIN", "TRANSACTION"] | ["COMMIT"] | ["COMMIT", "TRANSACTION"]:
                pass
            case ["ANALYZE"] | ["ANALYZE", _] | ["DELETE", "FROM", "SQLITE_SEQUENCE"]:
                pass
            case ["ROLLBACK", *_]:
                raise D1DumpError("ROLLBACK: whoever wrote this dump says that it is not whole", offset=offset)
            case []:
                pass  # a lone semicolon
            case _:
                start = statement[:60].decode("utf-8", "replace")
                raise D1DumpError(f"{start!r} is nothing that a dump holds", offset=offset)

    def _create_table(self, statement: bytes, offset: int, items: list[TableStarted | Block]) -> None:
        match = _CREATED_NAME.match(statement)
        if match is not None and is_internal(self._name(match["table"], offset)):
            return
        schema = parse_create_table(statement, offset)
        known = fold(schema.name)
        if known in self._tables:
            if match is not None and match["if_not_exists"]:
                return
            raise D1DumpError("a table that was created before", offset=offset, table=schema.name)
        self._tables[known] = schema
        items.append(TableStarted(schema, offset))


_CREATED_NAME = re.compile(
    rb"CREATE" + SPACE + rb"TABLE(?=\W)" + SPACE + rb"(?P<if_not_exists>IF" + SPACE + rb"NOT" + SPACE + rb"EXISTS(?=\W)"
    + SPACE + rb")?(?P<table>" + NAME + rb")",
    re.IGNORECASE,
)  # fmt: skip


def is_internal(name: str) -> bool:
    """Tell whether a table is SQLite's or Cloudflare's own, which is neither staged nor listed."""
    folded = fold(name)
    return folded == "sqlite_sequence" or folded.startswith(("sqlite_stat", "_cf_"))


def _check_words(words: bytes, offset: int) -> None:
    """Refuse what is no text outside of values: invalid UTF-8, and a NUL, where SQLite would stop reading."""
    try:
        words.decode()
    except UnicodeDecodeError as error:
        raise D1DumpError("invalid UTF-8", offset=offset + error.start) from None
    at = words.find(b"\0")
    if at >= 0:
        raise D1DumpError("a NUL outside of values", offset=offset + at)


def _first_words(statement: bytes) -> list[str]:
    """Return a statement's first tokens, upper-cased and without quotes; at most five."""
    words = []
    for token in tokens(statement):
        if token.kind != "comment":
            words.append(unquote(token.text).decode("utf-8", "replace").upper())
            if len(words) == 5:
                break
    return words


def _insert_trigger_on(statement: bytes) -> list[str]:
    """Return the table on which a CREATE TRIGGER statement sets an INSERT trigger, nothing for other triggers."""
    found = [token for token in tokens(statement) if token.kind != "comment"]
    at = 5 if [token.is_word("IF") for token in found[2:3]] == [True] else 2
    event = next(
        (i for i, token in enumerate(found[at + 1 :], at + 1) if token.is_word("INSERT", "DELETE", "UPDATE")), 0
    )
    on = [token.is_word(word) for token, word in zip(found[event : event + 2], ("INSERT", "ON"), strict=False)]
    if not event or on != [True, True]:
        return []
    return [fold(unquote(token.text).decode()) for token in found[event + 2 : event + 3]]


def _names(columns: bytes) -> list[re.Match[bytes]]:
    """Return the names in an INSERT's column list."""
    names: list[re.Match[bytes]] = []
    at = 0
    while True:
        space = _SPACE.match(columns, at)
        match = _NAME.match(columns, space.end() if space else at)
        if match is None:
            return names
        names.append(match)
        comma = re.compile(SPACE + rb",").match(columns, match.end())
        if comma is None:
            return names
        at = comma.end()


def _layout(
    schema: TableSchema, listed: list[str], offset: int
) -> tuple[tuple[int, ...], tuple[tuple[int, Literal], ...]]:
    """Match an INSERT's column list with the table: the column of each value, and the defaults of the others."""
    by_name = {fold(column.name): index for index, column in enumerate(schema.columns)}
    layout = []
    for name in listed:
        index = by_name.get(fold(name))
        if index is None:
            raise D1DumpError(f"an INSERT with the unknown column {name!r}", offset=offset, table=schema.name)
        layout.append(index)
    if len(set(layout)) != len(layout):
        raise D1DumpError("an INSERT that names a column twice", offset=offset, table=schema.name)
    defaults = tuple(
        (index, _default(column, schema, offset)) for index, column in enumerate(schema.columns) if index not in layout
    )
    return tuple(layout), defaults


def _default(column: Column, schema: TableSchema, offset: int) -> Literal:
    """Evaluate the DEFAULT of a column that an INSERT leaves out."""
    problem = f"an INSERT that leaves out {column.name!r}, whose default cannot be told,"
    if column.rowid_alias:
        raise D1DumpError(problem, offset=offset, table=schema.name)
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


def _check_unstaged(body: bytes, prefix: bytes, offset: int) -> None:
    """See that rows of an internal table are rows, though nobody wants them."""
    reader = LiteralReader(body, offset=offset)
    while True:
        reader.row()
        if reader.take(b","):
            reader.expect(b"(")
            continue
        reader.skip_space()
        if reader.at == len(body):
            return
        reader.expect(b";")
        reader.expect(prefix)
