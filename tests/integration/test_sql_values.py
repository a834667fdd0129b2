"""Each type of value, by each way into D1 and each way out of it, is what Python's own sqlite3 makes of it."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import math
import secrets
import sqlite3
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from airflow.providers.common.sql.hooks.handlers import fetch_all_handler, fetch_one_handler

from airflow_provider_d1.cloudflare import dbapi
from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.exceptions import D1ImportFileError
from airflow_provider_d1.hooks.d1 import D1Hook
from airflow_provider_d1.hooks.import_run import import_uploaded, upload_import
from airflow_provider_d1.into_d1.import_file import ImportFile
from airflow_provider_d1.into_d1.prepare import PreparedImport
from airflow_provider_d1.into_d1.row_inserts import add_rows
from airflow_provider_d1.transfers.d1_to_object_storage import D1ToObjectStorageOperator

#: columns of every affinity, and one without a type
TABLE = "CREATE TABLE v (id INTEGER PRIMARY KEY, i INTEGER, r REAL, t TEXT, n NUMERIC, b BLOB, x)"
COLUMNS = ("i", "r", "t", "n", "b", "x")
NOON = dt.datetime(2026, 11, 27, 12, 30, 5, 123456)  # noqa: DTZ001 - SQLite has no zones
ONE_HOUR_EAST = dt.timezone(dt.timedelta(hours=1))

#: name → a value, and what Python's sqlite3 is given in its place where it does not know the type itself
VALUES: dict[str, tuple[Any, Any]] = {
    name: (value, value)
    for name, value in {
        "null": None,
        "zero": 0,
        "one": 1,
        "negative": -7,
        "2^53": 2**53,
        "2^53+1": 2**53 + 1,
        "-2^53-1": -(2**53) - 1,
        "largest": 2**63 - 1,
        "smallest": -(2**63),
        "true": True,
        "false": False,
        "whole real": 1.0,
        "real": 0.1,
        "tiny": 5e-324,
        "huge": 1.2345678901234567e300,
        "1e21": 1e21,
        "infinity": math.inf,
        "-infinity": -math.inf,
        "minus zero": -0.0,
        "text": "it's",
        "empty text": "",
        "number in a text": "1.50",
        "integer in a text": "007",
        "NUL in a text": "a\0b",
        "newlines": "a\r\nb\\n",
        "marker in a text": "? :a",
        "unicode": "é漢🙂\u2028",
        "replacement character": "a\ufffdb",
        "tagged": "i1",
        "blob": b"\0\xff\x10",
        "empty blob": b"",
        "bytearray": bytearray(b"ab"),
        "memoryview": memoryview(b"ab"),
        "date": dt.date(2026, 11, 27),
        "datetime": NOON,
        "datetime, whole second": NOON.replace(microsecond=0),
        "datetime with a zone": NOON.replace(tzinfo=ONE_HOUR_EAST),
    }.items()
} | {
    "Decimal": (Decimal("12.50"), "12.50"),
    "Decimal, many digits": (Decimal("12345678901234567890.123456789"), "12345678901234567890.123456789"),
    "time": (dt.time(12, 30), "12:30:00"),
    "UUID": (uuid.UUID(int=1), str(uuid.UUID(int=1))),
    "numpy int64": (np.int64(2**53 + 1), 2**53 + 1),
    "numpy uint8": (np.uint8(255), 255),
    "numpy float64": (np.float64(0.1), 0.1),
    "numpy float32": (np.float32(0.1), float(np.float32(0.1))),
    "numpy bool": (np.bool_(True), 1),
    "numpy str": (np.str_("a"), "a"),
    "numpy bytes": (np.bytes_(b"a"), b"a"),
    "numpy datetime64[s]": (np.datetime64("2026-11-27T12:30:05"), "2026-11-27 12:30:05"),
    "numpy datetime64[ns]": (np.datetime64("2026-11-27T12:30:05.123456789"), "2026-11-27 12:30:05.123456789"),
    "numpy datetime64[ns], whole": (np.datetime64("2026-11-27T12:30:05.123456000"), "2026-11-27 12:30:05.123456"),
    "numpy datetime64[D]": (np.datetime64("2026-11-27"), "2026-11-27"),
    "numpy NaT": (np.datetime64("NaT"), None),
    "pandas Timestamp": (pd.Timestamp(NOON), NOON.isoformat(" ")),
    "pandas Timestamp, ns": (pd.Timestamp("2026-11-27T12:30:05.123456789"), "2026-11-27 12:30:05.123456789"),
    "pandas NaT": (pd.NaT, None),
    "pandas NA": (pd.NA, None),
}
REFUSED: dict[str, Any] = {
    "NaN": math.nan,
    "numpy NaN": np.float64("nan"),
    "Decimal NaN": Decimal("NaN"),
    "Decimal infinity": Decimal("Infinity"),
    "beyond 64 bits": 2**63,
    "half a surrogate pair": "\ud800",
    "dict": {"a": 1},
    "list": [1],
    "timedelta": dt.timedelta(1),
    "object": object(),
}
INSERT = "INSERT INTO v (id, i, r, t, n, b, x) VALUES (?, ?, ?, ?, ?, ?, ?)"
NAMED = "INSERT INTO v (id, i, r, t, n, b, x) VALUES (:id, :v, @v, $v, :v, :v, :v)"


def by_execute(hook: D1Hook, row: list[Any]) -> None:
    with hook.get_conn() as connection:
        connection.cursor().execute(INSERT, row)


def by_name(hook: D1Hook, row: list[Any]) -> None:
    hook.run(NAMED, parameters={"id": row[0], "v": row[1]})


def by_executemany(hook: D1Hook, row: list[Any]) -> None:
    """Two rows."""
    with hook.get_conn() as connection:
        connection.cursor().executemany(INSERT, [row, [row[0] + 1, *row[1:]]])


def by_insert_rows(hook: D1Hook, row: list[Any]) -> None:
    hook.insert_rows("v", [row])


def by_query(hook: D1Hook, row: list[Any]) -> None:
    hook.query(INSERT, row)


def by_import(hook: D1Hook, row: list[Any]) -> None:
    """As the operators do that import."""
    with tempfile.TemporaryDirectory() as folder, hook.get_client() as client:
        with ImportFile(Path(folder) / "import.sql") as file:
            add_rows(file, "v", ("id", *COLUMNS), [row])
            file.finish()
        prepared = PreparedImport(file.path, file.md5, file.bytes, file.statements, 0, "")
        deadline = time.time() + 60
        request = upload_import(client, client.get_database("values"), prepared, deadline=deadline)
    settings = hook.get_settings()
    asyncio.run(import_uploaded(settings, request, deadline=deadline, on_progress=lambda _: None))


WAYS_IN: tuple[Callable[[D1Hook, list[Any]], None], ...] = (
    by_execute,
    by_name,
    by_executemany,
    by_insert_rows,
    by_query,
    by_import,
)
#: what an import makes JSON texts of
NESTED = ("dict", "list")

Records = list[tuple[Any, ...]]


def by_fetch(hook: D1Hook, sql: str) -> Records:
    with hook.get_conn() as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        first = cursor.fetchone()
        return [*([first] if first else []), *cursor.fetchmany(2), *cursor]


def by_records(hook: D1Hook, sql: str) -> Records:
    found: Records = hook.get_records(sql)
    return found


def by_handler(hook: D1Hook, sql: str) -> Records:
    found: Records = hook.run(sql, handler=list)
    return found


def by_dicts(hook: D1Hook, sql: str) -> Records:
    return [tuple(row.values()) for row in hook.query(sql)]


#: a SELECT whose width its text tells is one call, SELECT * takes two
EXPLICIT = "SELECT id, i, r, t, n, b, x, typeof(x) FROM v ORDER BY id"
STAR = "SELECT *, typeof(i), typeof(n) FROM v ORDER BY id"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(f"tok-{secrets.token_hex(16)}", databases={"values": TABLE, "staged": ""}) as emulator:
        yield emulator


@pytest.fixture
def hook(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> D1Hook:
    definition = {
        "conn_type": "d1",
        "host": emulator.url,
        "password": emulator.token,
        "schema": "values",
        "extra": {"account_id": emulator.account_id, "requests_per_5_minutes": 1_000_000},
    }
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(definition))
    hook = D1Hook(log_sql=False)
    hook.run("DELETE FROM v")
    return hook


@pytest.fixture
def python() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.execute(TABLE)
    yield connection
    connection.close()


def stored(python: sqlite3.Connection, value: Any, number: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # sqlite3's own adapters for dates, since Python 3.12
        python.execute(INSERT, [number, *[value] * len(COLUMNS)])


def typed(rows: Any) -> list[list[tuple[str, Any]]]:
    """Values with their types: 1 and 1.0 are equal, but not the same."""
    return [[(type(value).__name__, value) for value in row] for row in rows]


@pytest.mark.parametrize("way_in", WAYS_IN, ids=lambda way: way.__name__)
def test_values_are_stored_and_returned_as_by_python(
    way_in: Callable[[D1Hook, list[Any]], None], hook: D1Hook, python: sqlite3.Connection
) -> None:
    names = {}
    for number, (name, (value, known)) in enumerate(VALUES.items()):
        rows = [2 * number, 2 * number + 1] if way_in is by_executemany else [2 * number]
        way_in(hook, [rows[0], *[value] * len(COLUMNS)])
        for row in rows:
            names[row] = name
            stored(python, known, row)
    for sql in (EXPLICIT, STAR):
        theirs = python.execute(sql)
        columns = [column[0] for column in theirs.description]
        expected = typed(theirs.fetchall())
        for way_out in (by_fetch, by_records, by_handler, by_dicts):
            assert differences(names, columns, typed(way_out(hook, sql)), expected) == [], way_out.__name__
        with hook.get_conn() as connection:
            assert [column[0] for column in connection.execute(sql).description or ()] == columns
    assert typed([hook.run(EXPLICIT, handler=fetch_one_handler)]) == typed(expected_rows(python, EXPLICIT)[:1])
    # newer versions of SQLite write a REAL in another way
    quotes = [f"CASE WHEN 'real' NOT IN (typeof(x), typeof({column})) THEN quote({column}) END" for column in COLUMNS]
    literals = f"SELECT id, {', '.join(quotes)}, CASE WHEN typeof(x) <> 'real' THEN hex(t) END FROM v ORDER BY id"
    expected = typed(expected_rows(python, literals))
    assert differences(names, ["id", *COLUMNS, "hex"], typed(hook.get_records(literals)), expected) == []


def differences(
    names: dict[int, str], columns: list[str], ours: list[list[Any]], theirs: list[list[Any]]
) -> list[tuple[Any, ...]]:
    """Value, column, what D1 gave and what Python gave, where they are not the same."""
    assert len(ours) == len(theirs) == len(names)
    return [
        (names[ours_row[0][1]], column, one, other)
        for ours_row, their_row in zip(ours, theirs, strict=True)
        for column, one, other in zip(columns, ours_row, their_row, strict=False)
        if one != other and not digits_of_a_real(column, one, other)
    ]


def digits_of_a_real(column: str, one: tuple[str, Any], other: tuple[str, Any]) -> bool:
    """Whether both are a REAL that a TEXT column has turned into a text: SQLite writes 17 digits, older versions 15."""
    try:
        return (
            column == "t"
            and one[0] == other[0] == "str"
            and math.isclose(float(one[1]), float(other[1]), rel_tol=1e-14)
        )
    except ValueError:
        return False


def expected_rows(python: sqlite3.Connection, sql: str) -> Records:
    return python.execute(sql).fetchall()


def test_frames_are_those_of_pandas_and_polars_with_python(hook: D1Hook, python: sqlite3.Connection) -> None:
    rows = []
    for number, (value, known) in enumerate(VALUES.values()):
        rows.append([number, *[value] * len(COLUMNS)])
        stored(python, known, number)
    hook.insert_rows("v", rows)
    for column in COLUMNS:
        # versions of SQLite differ in the digits of a REAL that a TEXT column holds
        unlike = " AND typeof(x) <> 'real'" if column == "t" else ""
        # of one type of values each, as a frame's columns are
        for kind in ("integer", "real", "text", "blob", "null"):
            where = f"typeof({column}) = '{kind}'{unlike}"
            sql = f"SELECT id, {column}, {column} AS again FROM v WHERE {where} ORDER BY id"
            pd.testing.assert_frame_equal(hook.get_df(sql), pd.read_sql(sql, python), obj=f"{column} {kind}")
            polars = hook.get_df(sql, df_type="polars")
            assert polars.equals(pl.read_database(sql, python)), f"{column} {kind}"
            assert polars.schema == pl.read_database(sql, python).schema
        sql = f"SELECT id, {column} FROM v WHERE id >= 0{unlike} ORDER BY id"
        pd.testing.assert_frame_equal(hook.get_df(sql), pd.read_sql(sql, python))
        chunks = list(hook.get_df_by_chunks(sql, chunksize=7))
        assert [len(chunk) for chunk in chunks[:-1]] == [7] * (len(chunks) - 1)
        pd.testing.assert_frame_equal(pd.concat(chunks), pd.concat(pd.read_sql(sql, python, chunksize=7)))


@pytest.mark.parametrize("df_type", ["pandas", "polars"])
def test_frames_bind_parameters(hook: D1Hook, df_type: Any) -> None:
    hook.insert_rows("v", [(1, 5), (2, 6)], target_fields=["id", "i"])
    by_position = hook.get_df("SELECT i FROM v WHERE id = ?", [2], df_type=df_type)
    by_names = hook.get_df("SELECT i FROM v WHERE id = :id", {"id": 2}, df_type=df_type)
    assert list(by_position["i"]) == [6]
    assert by_names.equals(by_position)
    with pytest.raises(Exception, match="expected 1, got 0"):
        hook.get_df("SELECT i FROM v WHERE id = ?", df_type=df_type)
    chunks = list(hook.get_df_by_chunks("SELECT i FROM v WHERE id > ?", [0], chunksize=1, df_type=df_type))
    assert [len(chunk) for chunk in chunks] == [1, 1]


@pytest.mark.parametrize("way_in", WAYS_IN, ids=lambda way: way.__name__)
def test_what_cannot_be_stored_exactly_is_refused(
    way_in: Callable[[D1Hook, list[Any]], None], hook: D1Hook, emulator: Emulator
) -> None:
    hook.query("SELECT 1")
    emulator.calls.clear()
    for name, value in REFUSED.items():
        if way_in is not by_import or name not in NESTED:
            with pytest.raises((dbapi.DatabaseError, D1ImportFileError)):
                way_in(hook, [1, *[value] * len(COLUMNS)])
    assert not emulator.calls.of("raw")
    assert not emulator.calls.of("import_init")


#: name → statement and parameters; each returns what Python's sqlite3 returns, under the same names
STATEMENTS: dict[str, tuple[str, Any]] = {
    "literals": ("SELECT 9e999, -9e999, 9007199254740993, 1.0, 1, x'00ff', NULL, 'a'", None),
    "names as they are written": ("SELECT ?, ? + 1, 'a' || ?", [1, 2, "b"]),
    "named markers in names": ("SELECT :a, :a + 1", {"a": 1}),
    "one name twice": ('SELECT 1 AS a, 2.0 AS a, 3 AS "a:1"', None),
    "comparison with a text column": ("SELECT count(*) FROM (SELECT '01' AS t UNION SELECT '1') WHERE t = ?", [1]),
    "comparison without affinity": ("SELECT '1' = ?, 1 = ?, 1.0 = ?", [1, "1", 1]),
    "arithmetic": ("SELECT ? / 2, ? / 2, ? || ''", [5, 5.0, 1]),
    "order by a parameter": ("SELECT a FROM (SELECT 2 AS a UNION SELECT 1) ORDER BY ?, a", [1]),
    "limit": ("SELECT a FROM (SELECT 1 AS a UNION SELECT 2 UNION SELECT 3) ORDER BY 1 DESC LIMIT ? OFFSET ?", [2, 1]),
    "limit with a comma": (
        "SELECT a FROM (SELECT 1 AS a UNION SELECT 2 UNION SELECT 3) ORDER BY 1 LIMIT ?, ?; ",
        [1, 1],
    ),
    "values": ("VALUES (1, 2.0), (?, NULL)", [2**60]),
    "with": ("WITH q(a) AS (SELECT 1.0 UNION ALL SELECT 2) SELECT a, typeof(a) FROM q", None),
    "recursive": (
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT * FROM n",
        [300],
    ),
    "union": ("SELECT 1 AS a, 'x' UNION ALL SELECT 2.5, NULL ORDER BY 1 DESC", None),
    "is distinct from": ("SELECT 1 IS DISTINCT FROM 2, 3.0", None),
    "distinct": ("SELECT DISTINCT a FROM (SELECT 1.0 AS a UNION ALL SELECT 1.0)", None),
    "star of a subquery": ("SELECT q.*, 1.0 FROM (SELECT 1 AS a, 2.0 AS b) AS q", None),
    "star that multiplies": ("SELECT 2 * 3.0, count(*) FROM (SELECT 1)", None),
    "comment at the end": ("SELECT 1.0 -- the end", None),
    "window": ("SELECT row_number() OVER (ORDER BY a DESC), a FROM (SELECT 1 AS a UNION SELECT 2.5)", None),
    "no rows": ("SELECT 1 AS a WHERE 0", None),
    "returning": (
        "INSERT INTO v (i, r, x) VALUES (?, ?, ?) RETURNING i, r AS real, x, r + 0.5 /* , */, i, 'it''s', x \"x y\"",
        [2**60, math.inf, 1.0],
    ),
    "update returning": ("UPDATE v SET x = ? WHERE id = (SELECT min(id) FROM v) RETURNING x", [b"\0"]),
    "pragma": ("PRAGMA table_info(v)", None),
    "insert": ("INSERT INTO v (i) VALUES (1), (2)", None),
    "update": ("UPDATE v SET i = i + 1", None),
    "delete": ("DELETE FROM v WHERE i > ?", [1]),
    "create": ("CREATE TABLE IF NOT EXISTS w (a)", None),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_return_what_python_gets(name: str, hook: D1Hook, python: sqlite3.Connection) -> None:
    sql, parameters = STATEMENTS[name]
    for run in (hook.run, python.execute):
        run("INSERT INTO v (id, i) VALUES (7, 1), (8, 2)")
    theirs = python.execute(sql, parameters or ())
    expected = theirs.fetchall()
    with warnings.catch_warnings(), hook.get_conn() as connection:
        warnings.simplefilter("error", dbapi.Warning)
        ours = connection.execute(sql, parameters)
        assert [column[0] for column in ours.description or ()] == [column[0] for column in theirs.description or ()]
        if ours.description is not None:
            assert typed(ours.fetchall()) == typed(expected)
            assert ours.rowcount == len(expected)
        else:
            assert ours.rowcount == theirs.rowcount
        if sql.startswith("INSERT"):
            assert ours.lastrowid == theirs.lastrowid


def test_expressions_are_evaluated_once(hook: D1Hook) -> None:
    ((value, kind),) = hook.get_records("SELECT random(), typeof(random())")
    assert (type(value), kind) == (int, "integer")
    rows = hook.get_records(
        "WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 50) SELECT random() FROM n"
    )
    assert len({value for (value,) in rows}) > 1


def test_the_order_of_rows_survives(hook: D1Hook) -> None:
    hook.insert_rows("v", [(n, (n * 37) % 101) for n in range(101)], target_fields=["id", "i"])
    assert hook.get_records("SELECT i FROM v ORDER BY i DESC") == [(n,) for n in range(100, -1, -1)]
    assert hook.get_records("SELECT * FROM (SELECT i FROM v) ORDER BY -i") == [(n,) for n in range(100, -1, -1)]


def test_a_statement_that_cannot_be_rewritten_warns_of_columns_that_may_differ(hook: D1Hook) -> None:
    insert = "INSERT INTO v (id, i, r) VALUES (?, ?, ?) RETURNING *"
    with pytest.warns(dbapi.Warning, match=r"these columns may differ.*: b, i, n, r, t, x\. Name the columns"):
        hook.query(insert, [1, 2**60 + 1, math.inf])
    assert hook.get_records("SELECT i, r FROM v") == [(2**60 + 1, math.inf)]


def test_bytes_that_are_no_utf8_are_refused_as_by_python(hook: D1Hook, python: sqlite3.Connection) -> None:
    for sql in ("SELECT CAST(x'61ff' AS TEXT)", "SELECT CAST(x'efbfbdff' AS TEXT)"):
        with pytest.raises(sqlite3.OperationalError):
            python.execute(sql).fetchall()
        with pytest.raises(dbapi.OperationalError, match="not valid UTF-8"):
            hook.get_records(sql)
    assert hook.get_records("SELECT CAST(CAST(x'61ff' AS TEXT) AS BLOB)") == [(b"a\xff",)]


def test_errors_are_those_of_the_statement_itself(hook: D1Hook) -> None:
    with pytest.raises(dbapi.OperationalError, match="no such column: nope at offset 7"):
        hook.query("SELECT nope")
    with pytest.raises(dbapi.IntegrityError, match="UNIQUE constraint failed"):
        hook.run("INSERT INTO v (id) VALUES (1); INSERT INTO v (id) VALUES (1)")
    assert hook.get_records("SELECT * FROM v", ()) == []  # a script is one transaction


def test_a_handler_sees_a_database_cursor(hook: D1Hook) -> None:
    hook.run("INSERT INTO v (id) VALUES (3)", handler=fetch_all_handler)
    assert hook.run("INSERT INTO v (id) VALUES (4)", handler=lambda cursor: (cursor.rowcount, cursor.lastrowid)) == (
        1,
        4,
    )
    assert hook.run(["SELECT 1", "SELECT 2.0"], handler=fetch_all_handler) == [[(1,)], [(2.0,)]]


#: columns without numeric affinity: D1's dump has a whole REAL as an integer there, and nothing tells the two apart
UNTYPED = ("b", "x")


def test_staged_values_are_those_of_python_or_reported_as_altered(
    hook: D1Hook, python: sqlite3.Connection, tmp_path: Path
) -> None:
    """A table for each value, as a staged column has one type."""
    staging = D1Hook(database="staged", log_sql=False)
    names = list(VALUES)
    staging.run("; ".join(TABLE.replace("TABLE v ", f"TABLE v{number} ") for number in range(len(names))))
    for number, name in enumerate(names):
        value, known = VALUES[name]
        staging.insert_rows(f"v{number}", [[number, *[value] * len(COLUMNS)]])
        stored(python, known, number)
    D1ToObjectStorageOperator(task_id="t", database="staged", path=tmp_path.as_uri(), deferrable=False).execute(
        {"ti": SimpleNamespace()}
    )
    manifest = json.loads((tmp_path / "_manifest.json").read_text())
    assert len(manifest["tables"]) == len(names)
    silent, reported = [], set()
    for number, (name, table) in enumerate(zip(names, manifest["tables"], strict=True)):
        (file,) = table["files"]
        [ours] = pq.read_table(Path(file["uri"].removeprefix("file://"))).to_pylist()
        [theirs] = python.execute(f"SELECT {', '.join(COLUMNS)} FROM v WHERE id = ?", [number]).fetchall()
        lossy = {column["name"]: any(column["lossy"].values()) for column in table["columns"]}
        for column, other in zip(COLUMNS, theirs, strict=True):
            (one, expected) = typed([[ours[column], other]])[0]
            if one == expected or digits_of_a_real(column, one, expected):
                continue
            if column in UNTYPED and expected[0] == "float" and one == ("int", other):
                continue
            if lossy[column]:
                reported.add(name)
            else:
                silent.append((name, column, one, expected))
    assert silent == []
    assert reported == {"2^53+1", "-2^53-1", "largest", "smallest", "numpy int64"}
