"""Split a dump into tables and blocks of rows, without I/O and without executing SQL.

    reader = DumpReader()
    for data in stream:                       # slices of any size
        for item in reader.feed(data): …      # TableStarted | Block
    for item in reader.finish(): …

Threads: a :class:`DumpReader` belongs to one thread. Blocks are immutable;
:func:`~airflow_provider_d1.dump.blocks.parse_block` is pure and may run in several threads at once, in any order.
Most of its time is spent outside the GIL.

Order: a table's :class:`TableStarted` comes before its blocks. Blocks and the rows within them are in dump order.
A table without rows has no block. Normally a table's blocks follow each other, but a dump may have more rows of a table
after another one started (all CREATEs first, then the rows), so a table is complete only when :meth:`DumpReader.finish`
returns. ``sqlite_sequence``, ``sqlite_stat*`` and ``_cf_*`` never appear.

Types: each :class:`~airflow_provider_d1.dump.column_types.ParsedColumn` has the type that follows from its own block's
statistics alone. So the types of one column may differ from block to block, in both directions, and no block depends on
another. Add up the statistics: ``part_type(affinity, sum)`` is the type to write next, and ``cast(array, stats, type)``
converts to it, for a block (with the block's statistics) as for a part that was written before (with the part's). When
a sum changes ``part_type``, close the part. ``part_type`` only ever widens, except from the type of a column that had
only NULLs. When all rows are known, ``final_type`` is the type of every part; parts of another type are cast once more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_d1.dump.blocks import Block
from airflow_provider_d1.dump.create_table import parse_create_table
from airflow_provider_d1.dump.encodings import LONGEST_START, check_encoding
from airflow_provider_d1.dump.exact_path import check_rows
from airflow_provider_d1.dump.insert_headers import INSERT_HEADER, InsertHeader, decode_name, read_header
from airflow_provider_d1.dump.insert_runs import run_end
from airflow_provider_d1.dump.schema import is_internal, unquote
from airflow_provider_d1.dump.statements import (
    NAME,
    SPACE,
    check_statement_text,
    find_statement_end,
    first_words,
    insert_trigger_tables,
)
from airflow_provider_d1.exceptions import D1DumpError
from airflow_provider_d1.validation import fold_case

if TYPE_CHECKING:
    from airflow_provider_d1.dump.schema import TableSchema

BLOCK_SIZE = 5 << 20
#: longest statement of a dump; D1's rows have at most 2 MB, 4 MB as hex
MAX_STATEMENT = 128 << 20

_SPACE = re.compile(SPACE)
_CREATED_NAME = re.compile(
    rb"CREATE" + SPACE + rb"TABLE(?=\W)" + SPACE + rb"(?P<if_not_exists>IF" + SPACE + rb"NOT" + SPACE + rb"EXISTS(?=\W)"
    + SPACE + rb")?(?P<table>" + NAME + rb")",
    re.IGNORECASE,
)  # fmt: skip
#: for error messages; a name at the end of the dump may be cut, and is not used
_SUBJECT = re.compile(
    rb"(?:INSERT(?=\W)" + SPACE + rb"INTO|CREATE(?=\W)" + SPACE + rb"TABLE(?:(?=\W)" + SPACE + rb"IF(?=\W)" + SPACE
    + rb"NOT(?=\W)" + SPACE + rb"EXISTS)?)(?=\W)" + SPACE + rb"(?P<table>" + NAME + rb")(?=.)",
    re.IGNORECASE | re.DOTALL,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TableStarted:
    """The dump creates a table.

    :param schema: the table.
    :param offset: where its CREATE TABLE begins in the dump.
    """

    schema: TableSchema
    offset: int


class DumpReader:
    """Splits a dump into tables and blocks of rows.

    :param block_size: size of a block in bytes; a longer row makes a longer block.
    :param temporal: collect the forms of dates and times (``parse_temporal``).
    """

    def __init__(self, *, block_size: int = BLOCK_SIZE, temporal: bool = False) -> None:
        self._block_size = block_size
        self._temporal = temporal
        self._buffer = bytearray()
        self._shared = False  # whether blocks hold views of the buffer
        self._offset = 0  # of the buffer's first byte in the dump
        self._wanted = block_size  # size of the buffer at which it is searched again
        self._tables: dict[str, TableSchema] = {}
        self._header: InsertHeader | None = None
        self._triggered: set[str] = set()  # tables with an INSERT trigger
        self._text_start: int | None = None  # just past a byte order mark; None until the first bytes have arrived
        self._finished = False

    @property
    def offset(self) -> int:
        """How many bytes have been processed so far."""
        return self._offset

    def feed(self, data: bytes | bytearray | memoryview) -> list[TableStarted | Block]:
        """Take the next bytes; return the tables and blocks that they complete.

        :raises D1DumpError: for a statement that dumps do not contain.
        """
        self._buffer += data
        items: list[TableStarted | Block] = []
        if not self._check_encoding(final=False):
            return items
        while len(self._buffer) >= self._wanted:
            before = self._offset
            self._split(items, final=False)
            if self._offset == before:
                if len(self._buffer) > MAX_STATEMENT:
                    raise D1DumpError(f"statement is longer than {MAX_STATEMENT >> 20} MiB", offset=self._offset)
                # a long statement is searched again only when the buffer has doubled, so the total cost is linear
                self._wanted = len(self._buffer) * 2
            else:
                self._wanted = self._block_size
        return items

    def finish(self) -> list[TableStarted | Block]:
        """End the dump; return its last tables and blocks.

        :raises D1DumpError: when it ends inside a statement, or is empty.
        """
        items: list[TableStarted | Block] = []
        if self._finished:
            return items
        self._finished = True
        self._check_encoding(final=True)
        if self._offset == self._text_start and not self._buffer.strip():
            raise D1DumpError("dump is empty; D1 writes at least a PRAGMA, even for an empty database", offset=0)
        self._split(items, final=True)
        return items

    def _check_encoding(self, *, final: bool) -> bool:
        """Refuse other encodings and skip a byte order mark, once; False while too few bytes have arrived."""
        if self._text_start is None and (final or len(self._buffer) >= LONGEST_START):
            self._offset = self._text_start = check_encoding(bytes(self._buffer[:LONGEST_START]))
            del self._buffer[: self._text_start]
        return self._text_start is not None

    def _split(self, items: list[TableStarted | Block], *, final: bool) -> None:
        """Process and remove the complete statements in the buffer; at the end all must be complete."""
        at = 0
        limit = len(self._buffer)
        while True:
            space = _SPACE.match(self._buffer, at)
            start = space.end() if space else at
            if start - at > 2 and (final or start < limit):  # more than a line end, and complete
                check_statement_text(bytes(self._buffer[at:start]), self._offset + at)
            if start == limit:
                if final:
                    at = start
                break
            if not final and limit - start < self._block_size and at:
                break  # less than a block is left: wait for more bytes, so that blocks do not get smaller and smaller
            end = self._statement(start, items, final=final)
            if end < 0:
                if final:
                    raise D1DumpError(
                        "dump ends inside a statement: it is incomplete",
                        offset=self._offset + start,
                        table=self._subject(start),
                    )
                break
            at = end
        if self._shared:
            self._buffer, self._shared = self._buffer[at:], False
        else:
            del self._buffer[:at]
        self._offset += at

    def _subject(self, start: int) -> str | None:
        """Return the table of an INSERT or a CREATE TABLE for an error message, None when it is not known."""
        match = _SUBJECT.match(self._buffer, start)
        return None if match is None else unquote(bytes(match["table"])).decode("utf-8", "replace")

    def _statement(self, start: int, items: list[TableStarted | Block], *, final: bool) -> int:
        """Process the statement or run of INSERTs at ``start``; return where it ends, -1 when more bytes are needed."""
        if self._header is not None and self._buffer.startswith(self._header.prefix, start):
            return self._rows(self._header, start, items, final=final)
        if self._buffer[start : start + 6].upper() == b"INSERT":
            match = INSERT_HEADER.match(self._buffer, start)
            if match is None:
                if find_statement_end(self._buffer, start, final=final) < 0:
                    return -1
                raise D1DumpError(
                    "unsupported INSERT; expected INSERT INTO … VALUES (…)",
                    offset=self._offset + start,
                    table=self._subject(start),
                )
            self._header = self._read_header(match)
            return self._rows(self._header, start, items, final=final)
        end = find_statement_end(self._buffer, start, final=final)
        if end < 0:
            return -1
        self._other(bytes(self._buffer[start : end - 1]), self._offset + start, items)
        return end

    def _read_header(self, match: re.Match[bytes]) -> InsertHeader:
        offset = self._offset + match.start()
        header = read_header(match, self._tables, offset)
        if header.schema is not None and fold_case(header.schema.name) in self._triggered:
            raise D1DumpError(
                "INSERT would run a trigger that the dump has created before it",
                offset=offset,
                table=header.schema.name,
            )
        return header

    def _rows(self, header: InsertHeader, start: int, items: list[TableStarted | Block], *, final: bool) -> int:
        """Split off a block of rows; return where it ends, -1 when not even one row is complete."""
        first = start + len(header.prefix)
        end, separator = run_end(self._buffer, header.prefix, first, block_size=self._block_size, final=final)
        if end < 0:
            return -1
        closing = self._buffer.rindex(b";", first, end)
        while closing > first and self._buffer[closing - 1] in b" \t\r\n\f":
            closing -= 1
        body = self._view(first, closing)
        if header.schema is None:
            check_rows(bytes(body), header.prefix, self._offset + first)
        else:
            items.append(
                Block(
                    header.schema, self._offset + first, body, separator, header.layout, header.defaults, self._temporal
                )
            )
        return end

    def _view(self, start: int, end: int) -> memoryview:
        """Return a part of the buffer. A large part is not copied; then the buffer is replaced and never changed."""
        if end - start >= self._block_size // 2:
            self._shared = True
            return memoryview(self._buffer)[start:end]
        return memoryview(bytes(self._buffer[start:end]))

    def _other(self, statement: bytes, offset: int, items: list[TableStarted | Block]) -> None:
        """Process a complete statement that is not an INSERT."""
        check_statement_text(statement, offset)
        words = first_words(statement)
        match words:
            case ["CREATE", "TABLE", *_]:
                self._create_table(statement, offset, items)
            case ["CREATE", "TRIGGER", *_]:
                self._triggered.update(insert_trigger_tables(statement))
            case ["CREATE", "INDEX" | "VIEW", *_] | ["CREATE", "UNIQUE", "INDEX", *_]:
                pass
            case ["CREATE", "VIRTUAL", *_]:
                raise D1DumpError(
                    "CREATE VIRTUAL TABLE: a dump cannot contain the rows of a virtual table", offset=offset
                )
            case ["PRAGMA", "DEFER_FOREIGN_KEYS" | "FOREIGN_KEYS", *_]:
                pass
            case ["BEGIN"] | ["BEGIN", "TRANSACTION"] | ["COMMIT"] | ["COMMIT", "TRANSACTION"]:
                pass
            case ["ANALYZE"] | ["ANALYZE", _] | ["DELETE", "FROM", "SQLITE_SEQUENCE"]:
                pass
            case ["ROLLBACK", *_]:
                raise D1DumpError("dump ends with ROLLBACK: it is incomplete", offset=offset)
            case []:
                pass  # a lone semicolon
            case _:
                start = statement[:60].decode("utf-8", "replace")
                raise D1DumpError(f"unexpected statement: {start!r}", offset=offset)

    def _create_table(self, statement: bytes, offset: int, items: list[TableStarted | Block]) -> None:
        match = _CREATED_NAME.match(statement)
        if match is not None and is_internal(decode_name(match["table"], offset)):
            return
        schema = parse_create_table(statement, offset)
        known = fold_case(schema.name)
        if known in self._tables:
            if match is not None and match["if_not_exists"]:
                return
            raise D1DumpError("table is created twice", offset=offset, table=schema.name)
        self._tables[known] = schema
        items.append(TableStarted(schema, offset))
