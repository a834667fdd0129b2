"""Two ways to read a dump, for tests: SQLite itself, and our reader with what staging does with its blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import apsw
import pyarrow as pa

from airflow_provider_d1.dump.blocks import ParsedBlock, parse_block
from airflow_provider_d1.dump.column_types import ColumnStats, cast, final_type, part_type
from airflow_provider_d1.dump.reader import DumpReader, TableStarted

if TYPE_CHECKING:
    from airflow_provider_d1.dump.schema import TableSchema


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@dataclass
class SqliteTable:
    """A table as SQLite holds it: ``table_xinfo``, and (typeof, value, text form) of all values by column."""

    xinfo: list[tuple]
    without_rowid: bool
    columns: dict[str, list[tuple]]


#: outside of texts, quoted names and comments, which are matched to be passed over
_INFINITY = re.compile(rb"""('[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|--[^\n]*)|(?<=[(,])(-?)Infinity""")


def for_sqlite(dump: bytes) -> bytes:
    """Say in SQL what SQLite cannot read in D1's dumps: a raw NUL, Infinity, a last comment, a trigger too early."""
    return (
        _INFINITY.sub(lambda found: found[1] or found[2] + b"9e999", dump)
        .replace(b"\0", b"'||char(0)||'")
        .replace(b"-- trailing comment;", b"-- trailing comment\n;")
        .replace(b"CREATE TRIGGER trg_view INSTEAD OF INSERT ON v_a BEGIN SELECT 1; END;", b"")
    )


def read_with_sqlite(dump: bytes) -> dict[str, SqliteTable]:
    """Run a dump (already fit for SQLite) and read every table back, in the order in which its rows were inserted."""
    connection = apsw.Connection(":memory:")
    inserted: dict[str, list[int]] = {}

    def note(kind: int, _database: str, table: str, rowid: int) -> None:
        if kind == apsw.SQLITE_INSERT:
            inserted.setdefault(table, []).append(rowid)

    connection.set_update_hook(note)
    connection.execute(dump.decode()).fetchall()  # it would stop at the first statement that gives a row
    connection.set_update_hook(None)
    tables = {}
    listed = connection.execute("PRAGMA table_list").fetchall()
    created = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid").fetchall()
    for (name,) in created:
        if name.startswith(("sqlite_", "_cf_")):
            continue
        without_rowid = next(row[4] for row in listed if row[1] == name)
        xinfo = connection.execute(f"PRAGMA table_xinfo({quoted(name)})").fetchall()
        columns: dict[str, list[tuple]] = {}
        for _, column, *_rest, hidden in xinfo:
            if hidden:
                continue
            q = quoted(column)
            key = "0" if without_rowid else "rowid"
            rows = connection.execute(
                f"SELECT {key}, typeof({q}), {q},"
                f" CASE typeof({q}) WHEN 'blob' THEN hex({q}) ELSE CAST({q} AS TEXT) END FROM {quoted(name)}"
            ).fetchall()
            if not without_rowid:
                by_rowid = {row[0]: row[1:] for row in rows}
                columns[column] = [by_rowid[rowid] for rowid in inserted.get(name, [])]
            else:
                columns[column] = [row[1:] for row in rows]
        tables[name] = SqliteTable(xinfo, bool(without_rowid), columns)
    return tables


@dataclass
class _Part:
    stats: ColumnStats
    arrays: list[pa.Array]


@dataclass
class StagedTable:
    """A table as staging makes it of our reader's blocks: final arrays and stats by column."""

    schema: TableSchema
    blocks: list[ParsedBlock] = field(default_factory=list)
    columns: dict[str, pa.ChunkedArray] = field(default_factory=dict)
    stats: dict[str, ColumnStats] = field(default_factory=dict)


def slices(data: bytes, sizes: Iterable[int]) -> Iterable[bytes]:
    at = 0
    for size in sizes:
        if at >= len(data):
            return
        yield data[at : at + size]
        at += size
    yield data[at:]


def read_with_ours(
    dump: bytes,
    *,
    block_size: int = 3 << 20,
    sizes: Iterable[int] = (),
    parse_temporal: bool = False,
) -> dict[str, StagedTable]:
    """Read a dump, write parts as their type was known at the time, and cast them all to the final type."""
    reader = DumpReader(block_size=block_size, temporal=parse_temporal)
    tables: dict[str, StagedTable] = {}
    items = [item for data in slices(dump, sizes) for item in reader.feed(data)]
    items += reader.finish()
    assert reader.offset == len(dump)
    for item in items:
        if isinstance(item, TableStarted):
            tables[item.schema.name] = StagedTable(item.schema)
        else:
            tables[item.schema.name].blocks.append(parse_block(item))
    for table in tables.values():
        for index, column in enumerate(table.schema.columns):
            total = ColumnStats()
            parts: list[_Part] = []
            for block in table.blocks:
                parsed = block.columns[index]
                assert parsed.stats.rows == block.rows == len(parsed.array)
                assert parsed.array.type == part_type(column.affinity, parsed.stats)
                parsed.array.validate(full=True)
                total += parsed.stats
                target = part_type(column.affinity, total)
                if not parts or parts[-1].arrays[0].type != target:
                    parts.append(_Part(ColumnStats(), []))
                parts[-1].stats += parsed.stats
                parts[-1].arrays.append(cast(parsed.array, parsed.stats, target))
            final = final_type(column.affinity, total, parse_temporal=parse_temporal)
            chunks = [cast(array, part.stats, final) for part in parts for array in part.arrays]
            for chunk in chunks:
                chunk.validate(full=True)
            table.columns[column.name] = pa.chunked_array(chunks, type=final)
            table.stats[column.name] = total
    return tables


def assert_same(dump: bytes, *, block_size: int = 3 << 20, sizes: Iterable[int] = ()) -> dict[str, StagedTable]:
    """Compare every table, type, storage count and value of a dump with what SQLite makes of it."""
    expected = read_with_sqlite(for_sqlite(dump))
    staged = read_with_ours(dump, block_size=block_size, sizes=sizes)
    compare(expected, staged)
    return staged


def compare(expected: dict[str, SqliteTable], staged: dict[str, StagedTable]) -> None:
    assert list(staged) == list(expected)
    for name, table in expected.items():
        ours = staged[name]
        stored = [row for row in table.xinfo if not row[6]]
        assert [(c.name, c.declared_type, c.primary_key) for c in ours.schema.columns] == [
            (row[1], row[2], row[5]) for row in stored
        ]
        assert list(ours.schema.generated) == [row[1] for row in table.xinfo if row[6]]
        assert ours.schema.without_rowid == table.without_rowid
        for column in ours.schema.columns:
            rows = table.columns[column.name]
            kinds = [row[0] for row in rows]
            storage = ours.stats[column.name].storage
            assert storage == {kind: kinds.count(kind) for kind in ("integer", "real", "text", "blob", "null")}, (
                name,
                column.name,
            )
            compare_values(ours.columns[column.name], rows, ordered=not table.without_rowid)


def expected_type(rows: list[tuple]) -> pa.DataType | None:
    """Return the type of a column with these values by the words of the design, None when it holds no value."""
    kinds = {kind for kind, *_ in rows} - {"null"}
    if kinds == {"integer", "real"}:
        exact = all(int(float(value)) == value for kind, value, _ in rows if kind == "integer")
        return pa.float64() if exact else pa.string()
    if len(kinds) == 1:
        return {"integer": pa.int64(), "real": pa.float64(), "text": pa.string(), "blob": pa.binary()}[kinds.pop()]
    return pa.string() if kinds else None


def compare_values(column: pa.ChunkedArray, rows: list[tuple], *, ordered: bool = True) -> None:
    kind = expected_type(rows)
    if kind is not None:
        assert column.type == kind
    if column.type == pa.int64() or column.type == pa.binary():
        values = [row[1] for row in rows]
    elif column.type == pa.float64():
        values = [None if row[1] is None else float(row[1]) + 0.0 for row in rows]
    else:
        values = [row[2] for row in rows]
    ours = column.to_pylist()
    if column.type == pa.float64():
        ours = [None if value is None else value + 0.0 for value in ours]  # SQLite prints no sign of zero either
    if not ordered:
        ours, values = sorted(ours, key=repr), sorted(values, key=repr)
    assert [repr(v) for v in ours] == [repr(v) for v in values]
