"""Snowflake as far as fakesnow goes: PUT, COPY of Parquet by column names, rename, replace, append, drift.

fakesnow (0.11) is Snowflake's Python connector with DuckDB behind it. Four gaps are filled by fakesnow_gaps.py:
``FILES`` of an internal stage, ``MATCH_BY_COLUMN_NAME = CASE_SENSITIVE`` for columns that are not upper-case, and
``INSERT OVERWRITE``, as DELETE and INSERT; ``DATETIME_PRECISION`` is the default.
It does not support, and these tests do not cover:

- an external stage, columns that differ in nothing but case;
- a schema whose name has a space or a quote (its own stage folders), an apostrophe in any name (its SQL);
- ``COPY GRANTS`` (read, and left out), transactions that span connections, and Snowflake's own types of errors;
- an upload: ``PUT`` copies a file on this machine.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_d1.warehouses import load_history as loads
from tests.integration.warehouses.staged import edit_manifest
from tests.integration.warehouses.staged_corpus import CORPUS, alike, expected_rows, staged
from tests.integration.warehouses.warehouse_engines import CONN_ID, Snowflake
from tests.unit.dump.dump_oracle import for_sqlite, read_with_sqlite

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest_tables import TableEntry

USERS = pa.table({"id": [1, 2, 3], "name": ["Ada", None, ""]})
MORE = pa.table({"id": [4], "name": ["Grace"], "email": ["grace@example.com"]})


@pytest.fixture
def engine(snowflake_engine: Snowflake, monkeypatch: pytest.MonkeyPatch) -> Snowflake:
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", snowflake_engine.airflow_connection())
    return snowflake_engine


@pytest.fixture
def schema() -> str:
    return f"Staging_{secrets.token_hex(4)}"


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    return sorted((tuple(row.values()) for row in table.to_pylist()), key=repr)


def within_fakesnow(entry: TableEntry) -> bool:
    columns = [column.name for column in entry.columns]
    return not any("'" in name for name in (entry.name, *columns)) and len({c.upper() for c in columns}) == len(columns)


def test_the_whole_corpus(engine, schema, load_staged, tmp_path) -> None:
    source = read_with_sqlite(for_sqlite(CORPUS.read_bytes()))
    manifest = staged(tmp_path / "staged", "parquet", max_part_bytes=1 << 20)
    uri = (tmp_path / "staged" / "_manifest.json").as_uri()
    names = [entry.name for entry in manifest.tables if within_fakesnow(entry)]
    assert len(names) > 20
    for mode in ("replace", "replace", "append"):
        result = load_staged(uri, mode=mode, tables=names)
    assert result["skipped"] is True
    assert engine.tables(schema) == {*names, "_d1_loads"}
    for entry in manifest.tables:
        if entry.name in names:
            assert engine.columns(schema, entry.name) == [(c.name, engine.types[c.type]) for c in entry.columns]
            expected = expected_rows(engine, source[entry.name], manifest, entry.name)
            assert alike(engine.rows(schema, entry.name)) == alike(expected), entry.name


def test_replace_and_append(engine, schema, load_staged, stage) -> None:
    uri = stage({"users": USERS, "nobody": USERS.slice(0, 0)}, rows_in_part=2)
    result = load_staged(uri, mode="append")
    assert result["tables"]["users"] == {
        "rows": 3,
        "table": f'"{schema}"."users"',
        "statement": "COPY INTO",
    }
    assert load_staged(uri, mode="append")["skipped"] is True
    assert engine.rows(schema, "users") == rows_of(USERS)
    assert engine.rows(schema, "nobody") == []

    more = stage({"users": MORE})
    assert load_staged(more, mode="append")["rows"] == 1
    assert load_staged(more, mode="append")["rows"] == 0
    assert engine.rows(schema, "users") == sorted(
        [*((*row, None) for row in rows_of(USERS)), (4, "Grace", "grace@example.com")], key=repr
    )
    load_staged(stage({"users": MORE}))
    assert engine.rows(schema, "users") == rows_of(MORE)
    assert [(name, mode, rows) for name, _, _, rows, mode in engine.loads(schema)] == [
        ("users", "append", 3),
        ("nobody", "append", 0),
        ("users", "append", 1),
        ("users", "replace", 1),
    ]
    assert engine.tables(schema) == {"users", "nobody", "_d1_loads"}


def test_widening_is_refused_with_the_statement(engine, schema, load_staged, stage) -> None:
    load_staged(stage({"users": USERS}))
    with pytest.raises(AirflowFailException, match=r"'id'.*ALTER TABLE.*\"id_wider\" VARCHAR.*UPDATE"):
        load_staged(stage({"users": pa.table({"id": ["a"]})}), mode="append")
    assert engine.rows(schema, "users") == rows_of(USERS)
    assert engine.tables(schema) == {"users", "_d1_loads"}
    # narrower staged values go into the wider column
    load_staged(stage({"users": pa.table({"id": pa.array([1.0, 1.5]), "name": pa.array([b"\xff", None])})}))
    load_staged(
        stage(
            {
                "users": pa.table(
                    {"id": [7], "name": [None]}, schema=pa.schema([("id", pa.int64()), ("name", pa.binary())])
                )
            }
        ),
        mode="append",
    )
    assert engine.rows(schema, "users") == [(1.0, b"\xff"), (1.5, None), (7.0, None)]


def other_columns(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["tables"][0]["columns"][0].update(name="other"))


def rows_moved(folder: Path) -> None:
    def change(manifest: Any) -> None:
        first, second = manifest["tables"][0]["files"]
        first["rows"], second["rows"] = second["rows"], first["rows"]

    edit_manifest(folder, change)


def shorter_part(folder: Path) -> None:
    """The bytes that the manifest promises, but a row less."""
    path = folder / "t0" / "part-00000.parquet"
    pq.write_table(USERS.slice(0, 1), path, compression="zstd")
    size = path.stat().st_size
    edit_manifest(folder, lambda manifest: manifest["tables"][0]["files"][0].update(bytes=size))


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_broken_parts_leave_the_old_table(engine, schema, load_staged, stage, tmp_path, mode) -> None:
    load_staged(stage({"users": USERS}))
    for number, accident in enumerate((other_columns, rows_moved, shorter_part), start=2):
        uri = stage({"users": USERS}, rows_in_part=2)
        accident(tmp_path / f"export {number}")
        with pytest.raises(AirflowFailException, match="'users'"):
            load_staged(uri, mode=mode)
    assert engine.rows(schema, "users") == rows_of(USERS)
    assert engine.tables(schema) == {"users", "_d1_loads"}


def test_an_error_while_appending_adds_nothing(engine, schema, load_staged, stage, monkeypatch) -> None:
    load_staged(stage({"users": USERS}))
    whole = loads.insert_statement
    uri = stage({"users": USERS})
    with monkeypatch.context() as patch:
        patch.setattr(loads, "insert_statement", lambda *arguments: whole(*arguments) + " no such word")
        with pytest.raises(AirflowFailException, match="Snowflake rejected"):
            load_staged(uri, mode="append")
    assert engine.rows(schema, "users") == rows_of(USERS)
    assert load_staged(uri, mode="append")["rows"] == 3


def test_databases_that_are_loaded_at_once_do_not_mix(engine, schema, load_staged, stage, monkeypatch) -> None:
    """While one database's rows are in their helper table, another one goes into the same table from first to last."""
    from airflow_provider_d1.warehouses.snowflake import Snowflake as Loader

    one, other = (stage({"users": USERS}, database_id=name) for name in ("one", "other"))
    whole = Loader.fill

    def fill(*arguments: Any) -> int:
        rows = whole(*arguments)
        monkeypatch.setattr(Loader, "fill", whole)
        assert load_staged(other, mode="append")["rows"] == 3
        return rows

    monkeypatch.setattr(Loader, "fill", fill)
    assert load_staged(one, mode="append")["rows"] == 3
    assert engine.rows(schema, "users") == sorted(rows_of(USERS) * 2, key=repr)
    assert engine.tables(schema) == {"users", "_d1_loads"}
