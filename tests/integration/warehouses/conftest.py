"""The warehouses that the tests load into; a schema of its own for each test."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_d1.transfers.staging_to_warehouse import D1StagingToWarehouseOperator
from tests.integration.warehouses.fakesnow_gaps import fakesnow_without_gaps
from tests.integration.warehouses.warehouse_engines import (
    CONN_ID,
    ClickHouse,
    DuckDB,
    Engine,
    MySQL,
    Postgres,
    Snowflake,
)

Load = Callable[..., dict[str, Any]]


@pytest.fixture
def postgres_engine(postgres: Any) -> Postgres:
    return Postgres(postgres)


@pytest.fixture
def mysql_engine(mariadb: Any) -> MySQL:
    return MySQL(mariadb)


@pytest.fixture
def duckdb_engine(tmp_path: Path) -> DuckDB:
    return DuckDB(tmp_path / "warehouse.duckdb")


@pytest.fixture
def clickhouse_engine(clickhouse: Any) -> ClickHouse:
    return ClickHouse(clickhouse)


@pytest.fixture
def snowflake_engine() -> Iterator[Snowflake]:
    """fakesnow, with its gaps filled: see test_warehouse_snowflake.py."""
    with fakesnow_without_gaps():
        yield Snowflake()


@pytest.fixture(params=["postgres", "mysql", "duckdb", "clickhouse"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A real warehouse with an Airflow connection to it."""
    engine: Engine = request.getfixturevalue(f"{request.param}_engine")
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", engine.airflow_connection())
    return engine


@pytest.fixture
def schema() -> str:
    """A name that nobody has used, and that has to be quoted."""
    return f'Staging "{secrets.token_hex(4)}"'


@pytest.fixture
def load_staged(schema: str) -> Load:
    """Run the operator as a task would."""

    def load(manifest: Any, **options: Any) -> dict[str, Any]:
        arguments = {"conn_id": CONN_ID, "schema": schema, **options}
        return D1StagingToWarehouseOperator(task_id="load", manifest=manifest, **arguments).execute({})

    return load
