"""The warehouses that the tests load into; a schema of its own for each test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_d1.transfers.staging_to_warehouse import D1StagingToWarehouseOperator
from tests.integration.warehouses.fakesnow_gaps import fakesnow_without_gaps
from tests.integration.warehouses.staged import write_staged
from tests.integration.warehouses.warehouse_engines import (
    CONN_ID,
    REAL,
    ClickHouse,
    DuckDB,
    Engine,
    MySQL,
    Postgres,
    Snowflake,
    new_schema,
)

if TYPE_CHECKING:
    import pyarrow as pa

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


@pytest.fixture
def connected(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Engine]:
    """Start a warehouse and make an Airflow connection to it."""

    def connect(name: str) -> Engine:
        engine: Engine = request.getfixturevalue(f"{name}_engine")
        monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", engine.airflow_connection())
        return engine

    return connect


@pytest.fixture(params=REAL)
def engine(request: pytest.FixtureRequest, connected: Callable[[str], Engine]) -> Engine:
    """A real warehouse; a module that also runs on fakesnow has a fixture of the same name."""
    return connected(request.param)


@pytest.fixture
def schema() -> str:
    """A name that nobody has used, and that has to be quoted."""
    return new_schema()


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., str]:
    """Stage tables as another export each time; returns the manifest's URI."""
    numbers = itertools.count(1)

    def write(tables: dict[str, pa.Table], file_format: str = "parquet", **options: Any) -> str:
        number = next(numbers)
        folder = tmp_path / f"export {number}"
        folder.mkdir()
        return write_staged(folder, tables, file_format, **{"bookmark": f"bookmark-{number}", **options})

    return write


@pytest.fixture
def load_staged(schema: str) -> Load:
    """Run the operator as a task would."""

    def load(manifest: Any, **options: Any) -> dict[str, Any]:
        arguments = {"conn_id": CONN_ID, "schema": schema, **options}
        return D1StagingToWarehouseOperator(task_id="load", manifest=manifest, **arguments).execute({})

    return load
