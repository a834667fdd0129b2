"""What a long history costs a load: ``_d1_loads`` with millions of records beside one with a few, in one run.

    python -m benchmarks.load_history [--records 5000000] [--pairs 3] [--only postgres|mysql|duckdb|clickhouse]

The load is of ten tables of one row, so that its time is that of its statements. The records are of 1,000 tables, each
loaded again and again; the ten are among them, the others are another database's. A ratio below 1 means that the long
history makes a load slower.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from benchmarks.warehouse_load import load, report
from harness.clickhouse import clickhouse_server
from harness.mariadb import mariadb_server
from harness.postgres import postgres_server
from tests.integration.warehouses.staged import write_staged
from tests.integration.warehouses.warehouse_engines import ClickHouse, DuckDB, Engine, MySQL, Postgres

TABLES = 10
#: engine → the time, the export's and the table's number as text, and the series of ``n``
SERIES = {
    "postgres": ("now()", "(n / 1000)::text", "(n % 1000)::text", "generate_series(1, {records}) AS series (n)"),
    "mysql": ("now(6)", "n DIV 1000", "n % 1000", "(SELECT seq AS n FROM `long`.seq_1_to_{records}) series"),
    "duckdb": ("now()::timestamp", "n // 1000", "n % 1000", "range(1, {records} + 1) AS series (n)"),
    "clickhouse": ("now()", "intDiv(n, 1000)", "n % 1000", "(SELECT number AS n FROM numbers(1, {records})) AS series"),
}
COLUMNS = "loaded_at, manifest, database_id, database_name, bookmark, dump_sha256, table_name, {rows}, mode, {sequence}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--only", choices=list(SERIES))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="d1-benchmark-") as name:
        folder = Path(name)
        os.environ |= {"AIRFLOW_HOME": str(folder / "airflow"), "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}
        print(f"{given.records:,} records, {TABLES} tables, {os.cpu_count()} cores\n")
        for kind in [given.only] if given.only else SERIES:
            with warehouse(kind, folder / kind) as engine:
                measure(engine, folder / kind, given.records, given.pairs)


@contextmanager
def warehouse(kind: str, folder: Path) -> Iterator[Engine]:
    folder.mkdir()
    if kind == "postgres":
        with postgres_server(folder / "server") as postgres:
            yield Postgres(postgres)
    elif kind == "mysql":
        with mariadb_server(folder / "server") as mariadb:
            yield MySQL(mariadb)
    elif kind == "clickhouse":
        with clickhouse_server(folder / "server") as clickhouse:
            yield ClickHouse(clickhouse)
    else:
        yield DuckDB(folder / "warehouse.duckdb")


def measure(engine: Engine, folder: Path, records: int, pairs: int) -> None:
    os.environ["AIRFLOW_CONN_WAREHOUSE"] = engine.airflow_connection()
    tables = {f"table_{n}": pa.table({"id": [n]}) for n in range(TABLES)}
    newest = ""

    def stage() -> None:
        """A new export, which no record knows."""
        nonlocal newest
        export = folder / str(time.time_ns())
        export.mkdir()
        newest = write_staged(export, tables, bookmark=export.name)

    for schema in ("short", "long"):
        stage()
        load(newest, schema=schema)
    fill(engine, records)
    for mode in ("append", "replace"):
        ways = {
            schema: lambda schema=schema, mode=mode: load(newest, schema=schema, mode=mode)
            for schema in ("short", "long")
        }
        report(f"{type(engine).__name__}, {mode}", ways, pairs, stage)


def fill(engine: Engine, records: int) -> None:
    now, export, table, series = SERIES[engine.name]
    columns = COLUMNS.format(rows=engine.quoted("rows"), sequence=engine.quoted("sequence"))
    database = f"CASE WHEN n % 1000 < {TABLES} THEN '11111111-2222-3333-4444-555555555555' ELSE 'another' END"
    engine.execute(
        f"INSERT INTO {engine.quoted('long', '_d1_loads')} ({columns}) SELECT {now}, 's3://bucket/_manifest.json', "
        f"{database}, 'shop', concat('export ', {export}), 'none', concat('table_', {table}), 1, 'append', n "
        f"FROM {series.format(records=records)}"
    )


if __name__ == "__main__":
    main()
