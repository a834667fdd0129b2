"""Fill a new database from an SQL script or dump, a SQLite file, a list of statements, or Python values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw

from airflow_provider_d1.emulator.dump_literals import identifier

#: a file, SQL text, single statements, ``{"table": [{"column": value, …}, …]}``, or None for an empty database
Seed = Path | str | Sequence[str] | Mapping[str, Sequence[Mapping[str, Any]]] | None

_SQLITE_SUFFIXES = {".sqlite", ".sqlite3", ".db"}
_DECLARED = {bool: "BOOLEAN", int: "INTEGER", float: "REAL", str: "TEXT", bytes: "BLOB"}


class SeedError(Exception):
    """A seed that cannot be read; the message names the file or statement."""


def apply(connection: apsw.Connection, seed: Seed) -> None:
    """Fill an empty database.

    :param connection: the database; foreign keys are not enforced during the seeding.
    :param seed: the seed; files are only read, a SQLite file is copied.
    :raises SeedError: when it cannot be read or its SQL fails.
    """
    if isinstance(seed, Path):
        _file(connection, seed)
    elif isinstance(seed, str):
        _script(connection, seed, "the SQL text")
    elif isinstance(seed, Mapping):
        for table, rows in seed.items():
            _rows(connection, table, rows)
    elif seed is not None:
        _list(connection, seed)


def _file(connection: apsw.Connection, path: Path) -> None:
    suffix = path.suffix.lower()
    if not path.is_file():
        raise SeedError(f"seed file {path} does not exist")
    if suffix in _SQLITE_SUFFIXES:
        _copy(connection, path)
    elif suffix == ".json":
        _list(connection, _statements(path))
    elif suffix == ".sql":
        _script(connection, _text(path), str(path))
    else:
        raise SeedError(f"{path}: a seed file ends in .sql, .json, {', '.join(sorted(_SQLITE_SUFFIXES))}")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()  # not read_text, which would change line ends
    except UnicodeDecodeError as error:
        raise SeedError(f"{path} is not UTF-8 (byte {error.start})") from None


def _statements(path: Path) -> list[str]:
    try:
        statements = json.loads(_text(path))
    except ValueError:
        statements = None
    if not isinstance(statements, list) or not all(isinstance(statement, str) for statement in statements):
        raise SeedError(f"{path} must contain a JSON list of SQL statements")
    return statements


def _script(connection: apsw.Connection, sql: str, where: str) -> None:
    # SQLite's parser stops at NUL, which D1 writes as it is inside quotes; so such a text is concatenated.
    sql = sql.replace("\0", "'||char(0)||'")
    try:
        for _ in connection.execute(sql):  # without the loop, no statement after one with rows would run
            pass
    except apsw.Error as error:
        raise SeedError(f"{where}: {error}") from error
    if connection.in_transaction:
        raise SeedError(f"{where}: a transaction is still open at the end; add COMMIT")


def _list(connection: apsw.Connection, statements: Sequence[str]) -> None:
    for statement in statements:
        _script(connection, statement, repr(statement[:90]))


def _copy(connection: apsw.Connection, path: Path) -> None:
    source = apsw.Connection(
        f"{path.resolve().as_uri()}?mode=ro", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    )
    try:
        if source.pragma("encoding") != "UTF-8":
            raise SeedError(f"{path} is encoded in {source.pragma('encoding')}; D1's databases are UTF-8")
        with connection.backup("main", source, "main") as backup:
            backup.step()
    except apsw.Error as error:
        raise SeedError(f"{path}: {error}") from error
    finally:
        source.close()


def _rows(connection: apsw.Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    columns: dict[str, str] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None or name not in columns:
                columns[name] = columns.get(name) or _DECLARED.get(type(value), "")
    if not columns:
        raise SeedError(f"table {table!r} needs at least one row (columns are inferred from it)")
    definition = ", ".join(f"{identifier(name)} {declared}".rstrip() for name, declared in columns.items())
    marks = ", ".join("?" * len(columns))
    connection.execute(f"CREATE TABLE {identifier(table)} ({definition})")
    connection.executemany(
        f"INSERT INTO {identifier(table)} VALUES ({marks})",  # noqa: S608 - a quoted name and question marks
        [tuple(row.get(name) for name in columns) for row in rows],
    )
