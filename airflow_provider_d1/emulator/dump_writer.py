"""A database's dump, statement by statement, byte for byte as D1 writes it.

The order and the special cases are D1's: tables in schema order with ``sqlite_sequence`` last, then the other objects
of the schema; no transaction; statements joined by one newline with none at the end; ``tables`` compared with every
object's own name, case-sensitively, so an unknown name gives an empty dump and no error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from airflow_provider_d1.emulator import dump_literals

if TYPE_CHECKING:
    import apsw

    from airflow_provider_d1.cloudflare.models import ExportOptions
    from airflow_provider_d1.emulator.dump_literals import Value

VIRTUAL_TABLE_ERROR = "D1 Export error: cannot export databases with Virtual Tables (fts5)"
#: D1 searches the whole statement for this, comments included, and then removes as many bytes from its beginning
_QUOTED_TABLE = re.compile(r"""CREATE TABLE ['"]""")
_CREATE_TABLE = "CREATE TABLE "
_VIRTUAL = "CREATE VIRTUAL TABLE"
_STATISTICS = re.compile(r"sqlite_stat.")

_TABLES = (
    "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL"
    " ORDER BY tbl_name = 'sqlite_sequence', rowid"
)
_REST = (
    "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND type IN ('index', 'trigger', 'view')"
    " ORDER BY type COLLATE NOCASE"
)


class VirtualTableError(Exception):
    """The dump has reached a virtual table, where D1's exporter fails."""


def statements(connection: apsw.Connection, options: ExportOptions, *, old_newlines: bool = False) -> Iterator[bytes]:
    """The dump's statements, each with its semicolon; rows are read one at a time.

    :param connection: an open database; nothing may write to it until the iterator ends.
    :param options: what goes into the dump; D1 takes ``tables`` as names of any objects, not of tables only.
    :param old_newlines: write newlines as D1 did until autumn 2026.
    :raises VirtualTableError: for a virtual table that the options include.
    """
    yield b"PRAGMA defer_foreign_keys=TRUE;"
    for name, sql in _objects(connection, _TABLES):
        if _wanted(name, options):
            yield from _table(connection, name, sql, options, old_newlines=old_newlines)
    if not options.no_schema:
        for name, sql in _objects(connection, _REST):
            if _wanted(name, options):
                yield f"{sql};".encode()


def refuse_virtual_tables(connection: apsw.Connection) -> None:
    """Fail for any virtual table in the database, as the live service was reported to do.

    :raises VirtualTableError: when the database has one.
    """
    if any(sql.startswith(_VIRTUAL) for _, sql in _objects(connection, _TABLES)):
        raise VirtualTableError(VIRTUAL_TABLE_ERROR)


def _objects(connection: apsw.Connection, query: str) -> list[tuple[str, str]]:
    return [(str(name), str(sql)) for name, sql in connection.execute(query)]


def _wanted(name: str, options: ExportOptions) -> bool:
    return options.tables is None or name in options.tables


def _table(
    connection: apsw.Connection, name: str, sql: str, options: ExportOptions, *, old_newlines: bool
) -> Iterator[bytes]:
    if name == "sqlite_sequence":
        head = "DELETE FROM sqlite_sequence;"
    elif _STATISTICS.match(name):
        head = "ANALYZE sqlite_schema;"
    elif sql.startswith(_VIRTUAL):
        raise VirtualTableError(VIRTUAL_TABLE_ERROR)
    elif name.startswith(("_cf_", "sqlite_")):
        return
    elif _QUOTED_TABLE.search(sql):
        head = f"CREATE TABLE IF NOT EXISTS {sql[len(_CREATE_TABLE) :]};"
    else:
        head = f"{sql};"
    if not options.no_schema:
        yield head.encode()
    if not options.no_data:
        yield from _rows(connection, name, old_newlines=old_newlines)


def _rows(connection: apsw.Connection, table: str, *, old_newlines: bool) -> Iterator[bytes]:
    quoted = dump_literals.identifier(table)
    # table_info, not table_xinfo: it leaves generated columns out, and so does D1
    columns = [dump_literals.identifier(str(row[1])) for row in connection.execute(f"PRAGMA table_info={quoted}")]
    prefix = f"INSERT INTO {quoted} ({','.join(columns)}) VALUES("
    for row in _values(connection, columns, quoted):
        yield f"{prefix}{dump_literals.row(row, old_newlines=old_newlines)});".encode()


def _values(connection: apsw.Connection, columns: Sequence[str], quoted: str) -> Iterator[Iterable[Value]]:
    done = 0
    try:
        for done, row in enumerate(connection.execute(f"SELECT {', '.join(columns)} FROM {quoted}"), 1):  # noqa: B007, S608 - counted for below; both are quoted names
            yield row
    except UnicodeDecodeError:
        # A text is not valid UTF-8: the remaining rows are fetched as bytes, which is slower.
        rows = connection.execute(f"SELECT {dump_literals.as_bytes(columns)} FROM {quoted}")  # noqa: S608 - quoted names
        for row in islice(rows, done, None):
            yield dump_literals.with_text(row)


def chunks(
    connection: apsw.Connection, options: ExportOptions, size: int = 1 << 20, *, old_newlines: bool = False
) -> Iterator[bytes]:
    """The dump as one stream: its statements joined by newlines, in pieces of about ``size`` bytes.

    :param connection: an open database; nothing may write to it until the iterator ends.
    :param options: what goes into the dump.
    :param size: a piece ends with the statement that reaches this many bytes.
    :param old_newlines: write newlines as D1 did until autumn 2026.
    """
    separator = b""
    buffer = bytearray()
    for statement in statements(connection, options, old_newlines=old_newlines):
        buffer += separator
        buffer += statement
        separator = b"\n"
        if len(buffer) >= size:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)
