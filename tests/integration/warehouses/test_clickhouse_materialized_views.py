"""ClickHouse: materialized views, and appends where a node lists not all parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses.clickhouse import ClickHouse, ClickHouseSession
from tests.integration.warehouses.staged import write_staged
from tests.integration.warehouses.warehouse_engines import CONN_ID

USERS = pa.table({"id": [1, 2]})
MORE = pa.table({"id": [3, 4, 5]})


@pytest.fixture
def engine(clickhouse_engine, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", clickhouse_engine.airflow_connection())
    return clickhouse_engine


@pytest.fixture
def uris(tmp_path: Path) -> list[str]:
    found = []
    for number, content in enumerate((USERS, MORE)):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append(write_staged(folder, {"users": content}, bookmark=str(number), keys={"users": ["id"]}))
    return found


@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
def test_materialized_views_get_no_rows_and_the_log_says_so(engine, schema, load_staged, uris, mode, caplog) -> None:
    """An INSERT into the table feeds them, but is not one step: a killed load would leave a part of the rows."""
    load_staged(uris[0])
    users, view = engine.quoted(schema, "users"), engine.quoted(schema, "ids")
    engine.execute(f"CREATE MATERIALIZED VIEW {view} ENGINE = MergeTree ORDER BY tuple() AS SELECT id FROM {users}")
    engine.execute(f"INSERT INTO {users} VALUES (9)")
    assert engine.rows(schema, "ids") == [(9,)]
    with caplog.at_level("WARNING"):
        load_staged(uris[1], mode=mode)
    assert len(engine.rows(schema, "users")) == (3 if mode == "replace" else 6)
    assert engine.rows(schema, "ids") == [(9,)]
    assert f"table=users materialized_views={schema}.ids get_rows=false" in caplog.text


def test_a_node_that_lists_not_all_parts_fails_the_append(engine, schema, load_staged, uris, monkeypatch) -> None:
    """Else rows would be missing, and the load recorded; the next attempt finds them."""
    load_staged(uris[0])
    whole = ClickHouseSession.rows

    def lagging(self: ClickHouseSession, statement: str) -> list[tuple[Any, ...]]:
        found = whole(self, statement)
        return found[:-1] if "system.parts" in statement else found

    with monkeypatch.context() as patch:
        patch.setattr(ClickHouseSession, "rows", lagging)
        with pytest.raises(D1WarehouseError, match=r"'users' is unchanged.*with 0 of 3 loaded rows") as failure:
            load_staged(uris[1], mode="append")
    assert failure.value.retryable
    assert len(engine.rows(schema, "users")) == 2
    assert load_staged(uris[1], mode="append")["rows"] == 3
    assert len(engine.rows(schema, "users")) == 5


def test_queries_ask_for_all_rows_of_other_nodes(engine, load_staged, uris, monkeypatch) -> None:
    """In ClickHouse Cloud a query may run on a node that has not the rows of the last INSERT yet."""
    settings = []
    whole = ClickHouse.check_targets

    def asking(self: ClickHouse, run: Any) -> None:
        settings.extend(run.session.rows("SELECT getSetting('select_sequential_consistency')"))
        whole(self, run)

    monkeypatch.setattr(ClickHouse, "check_targets", asking)
    load_staged(uris[0])
    assert settings == [(1,)]
