"""Airflow's own SQL operators, sensors and transfers, pandas and SQLAlchemy on a D1 database."""

from __future__ import annotations

import datetime as dt
import json
import secrets
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import sqlalchemy as sa
from airflow.providers.common.compat.sdk import AirflowException
from airflow.providers.common.sql.operators.generic_transfer import GenericTransfer
from airflow.providers.common.sql.operators.sql import (
    BranchSQLOperator,
    SQLCheckOperator,
    SQLColumnCheckOperator,
    SQLExecuteQueryOperator,
    SQLInsertRowsOperator,
    SQLIntervalCheckOperator,
    SQLTableCheckOperator,
    SQLThresholdCheckOperator,
    SQLValueCheckOperator,
)
from airflow.providers.common.sql.sensors.sql import SqlSensor

from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.hooks.d1 import D1Hook

if TYPE_CHECKING:
    from harness.postgres import PostgresServer

NOON = dt.datetime(2026, 11, 27, 12)  # noqa: DTZ001 - SQLite has no zones
SHOP = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, credit REAL, "order" TEXT);
INSERT INTO users VALUES (1, 'Ada', 12.5, 'a'), (2, 'Grace', 1.0, NULL), (3, 'Edsger', 0.0, 'c');
CREATE TABLE days (day TEXT, visits INTEGER);
INSERT INTO days VALUES ('2026-11-20', 100), ('2026-11-27', 110);
CREATE TABLE pairs (a TEXT, b INTEGER, total INTEGER AS (b + 1), PRIMARY KEY (b, a));
CREATE TABLE target (id INTEGER, amount DECIMAL(12, 2), day DATE, moment TIMESTAMP, raw BLOB, note TEXT, x);
"""
CONN: dict[str, Any] = {"task_id": "task", "conn_id": "d1_default"}


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator(f"tok-{secrets.token_hex(16)}", databases={"shop": SHOP}) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    definition = {
        "conn_type": "d1",
        "host": running.url,
        "password": running.token,
        "schema": "shop",
        "extra": {"account_id": running.account_id},
    }
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(definition))
    running.calls.clear()
    return running


def test_queries(emulator: Emulator) -> None:
    def query(sql: Any, **arguments: Any) -> Any:
        return SQLExecuteQueryOperator(**CONN, sql=sql, **arguments).execute({})

    assert query("SELECT name FROM users WHERE id = ?", parameters=[2]) == [("Grace",)]
    assert query("SELECT name FROM users WHERE id = :id", parameters={"id": 2}) == [("Grace",)]
    script = "CREATE TABLE steps (n); INSERT INTO steps VALUES (1.0); SELECT n FROM steps; DROP TABLE steps"
    assert query(f"{script}; SELECT 5", split_statements=True) == [(5,)]
    assert query(f"{script}; SELECT 5") == [(5,)]
    assert query(["SELECT 1", "SELECT 2.0"]) == [[(1,)], [(2.0,)]]
    assert query("SELECT 1; SELECT 2", split_statements=True, return_last=False) == [[(1,)], [(2,)]]
    trigger = "CREATE TRIGGER tr AFTER INSERT ON days BEGIN UPDATE days SET visits = 0 WHERE 0; SELECT 1; END"
    query(f"{trigger}; DROP TRIGGER tr", split_statements=True)


def test_checks(emulator: Emulator) -> None:
    SQLCheckOperator(**CONN, sql="SELECT count(*) FROM users WHERE id > ?", parameters=[1]).execute({})
    with pytest.raises(AirflowException, match="Test failed"):
        SQLCheckOperator(**CONN, sql="SELECT 0").execute({})
    SQLValueCheckOperator(**CONN, sql="SELECT credit FROM users WHERE id = 1", pass_value=12.5).execute({})
    with pytest.raises(AirflowException):
        SQLValueCheckOperator(**CONN, sql="SELECT credit FROM users WHERE id = 1", pass_value=12).execute({})
    SQLThresholdCheckOperator(**CONN, sql="SELECT max(credit) FROM users", min_threshold=12, max_threshold=13).execute(
        {}
    )
    SQLTableCheckOperator(**CONN, table="users", checks={"enough": {"check_statement": "count(*) = 3"}}).execute({})
    SQLColumnCheckOperator(
        **CONN, table="users", column_mapping={"id": {"unique_check": {"equal_to": 0}, "min": {"geq_to": 1}}}
    ).execute({})
    with pytest.raises(AirflowException):
        SQLTableCheckOperator(**CONN, table="users", checks={"few": {"check_statement": "count(*) < 3"}}).execute({})
    interval = SQLIntervalCheckOperator(
        **CONN, table="days", metrics_thresholds={"SUM(visits)": 1.5}, date_filter_column="day", days_back=-7
    )
    interval.sql1 = interval.sql1.replace("{{ ds }}", "2026-11-27")
    interval.sql2 = interval.sql2.replace("{{ macros.ds_add(ds, -7) }}", "2026-11-20")
    interval.execute({})


def test_sensor_and_branch(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SqlSensor(**CONN, sql="SELECT count(*) FROM users WHERE id = :id", parameters={"id": 1}).poke({})
    assert not SqlSensor(**CONN, sql="SELECT count(*) FROM users WHERE id = ?", parameters=[99]).poke({})
    branch = BranchSQLOperator(
        **CONN, sql="SELECT count(*) FROM users", follow_task_ids_if_true="yes", follow_task_ids_if_false="no"
    )
    taken: list[Any] = []
    monkeypatch.setattr(branch, "skip_all_except", lambda _ti, branches: taken.append(branches))
    branch.execute({"ti": None})
    assert taken == ["yes"]


def test_rows_are_inserted_without_naming_the_columns(emulator: Emulator) -> None:
    hook = D1Hook()
    SQLInsertRowsOperator(**CONN, table_name="users", rows=[(4, "Barbara", 2.0, None)]).execute({})
    SQLInsertRowsOperator(
        **CONN,
        table_name="users",
        ignored_columns=["credit", "order"],
        rows=[(5, "Donald")],
        insert_args={"replace": True},
    ).execute({})
    assert hook.get_records("SELECT * FROM users WHERE id > 3") == [
        (4, "Barbara", 2.0, None),
        (5, "Donald", None, None),
    ]
    SQLInsertRowsOperator(**CONN, table_name="pairs", rows=[("x", 1)]).execute({})  # a generated column is left out
    assert hook.get_records("SELECT * FROM pairs") == [("x", 1, 2)]
    hook.run("DELETE FROM users WHERE id > 3; DELETE FROM pairs")


def test_tables_are_described_without_sqlalchemy(emulator: Emulator) -> None:
    hook = D1Hook()
    assert hook.dialect.get_column_names("users") == ["id", "name", "credit", "order"]
    assert hook.dialect.get_column_names('"users"') == ["id", "name", "credit", "order"]
    assert hook.dialect.get_target_fields("users") == ["name", "credit", "order"]
    assert hook.dialect.get_primary_keys("users") == ["id"]
    assert hook.dialect.get_primary_keys("pairs") == ["b", "a"]
    assert hook.dialect.get_column_names("pairs") == ["a", "b"]
    assert hook.dialect.get_column_names("nothing") is None
    assert hook.get_table_schema("days") == [{"name": "day", "type": "TEXT"}, {"name": "visits", "type": "INTEGER"}]


def test_generic_transfer_from_postgres(
    emulator: Emulator, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SOURCE", postgres.airflow_connection())
    with postgres.connect() as source:
        source.execute(
            "CREATE TABLE transfer_source AS SELECT n::bigint * 9007199254740993 AS id,"
            " 12.50::numeric(12, 2) AS amount, DATE '2026-11-27' AS day, TIMESTAMP '2026-11-27 12:30:05.5' AS moment,"
            " '\\x00ff'::bytea AS raw, 'it''s ' || n AS note, true AS x FROM generate_series(1, 250) AS n"
            " UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL ORDER BY 1"
        )
    columns = "id, amount, day, moment, raw, note, x"
    GenericTransfer(
        task_id="transfer",
        sql="SELECT * FROM transfer_source ORDER BY id",
        source_conn_id="source",
        destination_conn_id="d1_default",
        destination_table="target",
        preoperator="DELETE FROM target",
        insert_args={"target_fields": columns.split(", "), "commit_every": 100},
    ).execute({})
    hook = D1Hook()
    rows = hook.get_records(f"SELECT {columns} FROM target ORDER BY id NULLS LAST")
    assert len(rows) == 251
    assert rows[249] == (
        250 * 9007199254740993,
        12.5,
        "2026-11-27",
        "2026-11-27 12:30:05.500000",
        b"\0\xff",
        "it's 250",
        1,
    )
    assert rows[250] == (None,) * 7
    assert len([call for call in emulator.calls.of("raw") if "INSERT" in str(call.body)]) == 3


def test_the_address_holds_no_token(emulator: Emulator) -> None:
    hook = D1Hook()
    assert hook.get_uri() == f"d1://{emulator.account_id}/shop"
    assert emulator.token not in f"{hook.get_uri()} {hook.sqlalchemy_url!r} {hook.get_sqlalchemy_engine().url!r}"


def test_sqlalchemy(emulator: Emulator) -> None:
    hook = D1Hook()
    assert [column["name"] for column in hook.inspector.get_columns("users")] == ["id", "name", "credit", "order"]
    assert hook.inspector.get_pk_constraint("users")["constrained_columns"] == ["id"]
    assert "days" in hook.inspector.get_table_names()
    engine = hook.get_sqlalchemy_engine()
    with engine.connect() as connection:  # leaving it rolls back, and there is nothing to roll back
        assert connection.execute(sa.text("SELECT name FROM users WHERE id = :id"), {"id": 1}).scalar() == "Ada"
    table = sa.Table(
        "items", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("at", sa.DateTime)
    )
    with engine.begin() as connection:
        table.create(connection)
        inserted = connection.execute(table.insert().values(at=NOON))
        assert inserted.inserted_primary_key == (1,)
        assert connection.execute(sa.select(table)).all() == [(1, NOON)]
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(table.insert().values(id=1))
    with engine.connect() as connection:
        connection.execute(table.insert().values(id=7))
        with pytest.raises(sa.exc.NotSupportedError, match="cannot be rolled back"):
            connection.rollback()
    hook.run("DROP TABLE items")
    engine.dispose()


def test_to_sql(emulator: Emulator) -> None:
    hook = D1Hook()
    frame = pd.DataFrame(
        {
            "n": [1, 2**60 + 1],
            "r": [0.5, float("nan")],
            "s": ["it's", None],
            "at": pd.to_datetime(["2026-11-27 12:30:05.5", None]),
            "b": [b"\0\xff", None],
            "d": [Decimal("1.5"), None],
        }
    )
    engine = hook.get_sqlalchemy_engine()
    assert frame.to_sql("frames", engine, index=False, if_exists="replace") == 2
    assert hook.get_records("SELECT n, r, s, at, typeof(b), CAST(d AS TEXT) FROM frames ORDER BY n") == [
        (1, 0.5, "it's", "2026-11-27 12:30:05.500000", "blob", "1.5"),
        (2**60 + 1, None, None, None, "null", None),
    ]
    assert hook.get_df("SELECT n FROM frames ORDER BY n")["n"].tolist() == [1, 2**60 + 1]
    hook.run("DROP TABLE frames")
    engine.dispose()


def test_statements_are_reported(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.common.sql.hooks import lineage

    reported: list[dict[str, Any]] = []

    class Collector:
        def add_extra(self, context: Any, key: str, value: dict[str, Any]) -> None:
            assert (type(context), key) == (D1Hook, "sql_job")
            reported.append(value)

    monkeypatch.setattr(lineage, "get_hook_lineage_collector", Collector)
    hook = D1Hook()
    hook.run("SELECT name FROM users WHERE id = :id", parameters={"id": 1}, handler=list)
    hook.query("SELECT name FROM users")
    hook.insert_rows("days", [("2026-11-28", 1), ("2026-11-29", 2)])
    assert reported == [
        {"sql": "SELECT name FROM users WHERE id = :id", "sql_parameters": {"id": 1}, "row_count": 1},
        {"sql": "SELECT name FROM users", "row_count": 3},
        {"sql": 'INSERT INTO "days"', "row_count": 2},
    ]
    hook.run("DELETE FROM days WHERE day > '2026-11-27'")


def test_openlineage_names_the_tables(emulator: Emulator) -> None:
    query = SQLExecuteQueryOperator(**CONN, sql='INSERT INTO days SELECT name, 1 FROM users WHERE name = "missing"')
    query.execute({})
    found = query.get_openlineage_facets_on_start()
    assert found is not None
    namespace = f"d1://{emulator.account_id}"
    assert [(dataset.namespace, dataset.name) for dataset in found.inputs] == [(namespace, "shop.users")]
    assert [(dataset.namespace, dataset.name) for dataset in found.outputs] == [(namespace, "shop.days")]
