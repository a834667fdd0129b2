"""Staged files into a warehouse: our loader beside what a person would type, in one run.

    python -m benchmarks.warehouse_load [--rows 2000000] [--pairs 5] [--only postgres|duckdb]

Postgres: ``psql -c '\\copy … FROM … CSV'`` of an uncompressed CSV, against our load of the same rows staged as Parquet
and as CSV (gzip). DuckDB: ``CREATE TABLE AS SELECT * FROM read_parquet(…)`` against our load of the same Parquet. Ours
includes all of it: connection, checks, swap, record. A ratio above 1 means that ours is faster.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from airflow_provider_d1.staging.manifest import DumpEntry, Manifest, dumps
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.manifest_tables import ColumnEntry, FileEntry, StorageCounts, TableEntry
from harness.postgres import PostgresServer, postgres_server

ROWS_IN_PART = 500_000
SCHEMA = "bench"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", choices=["postgres", "duckdb"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="d1-benchmark-") as name:
        folder = Path(name)
        os.environ |= {"AIRFLOW_HOME": str(folder / "airflow"), "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}
        table = orders(given.rows)
        plain = folder / "orders.csv"
        pacsv.write_csv(table, plain)
        parquet, gzipped = staged(folder / "parquet", table, "parquet"), staged(folder / "csv", table, "csv")
        print(f"{given.rows:,} rows, {plain.stat().st_size / 1e6:,.0f} MB as plain CSV, {os.cpu_count()} cores\n")
        if given.only != "duckdb":
            with postgres_server(folder / "postgres") as server:
                postgres(server, plain, parquet, gzipped, given.pairs)
        if given.only != "postgres":
            duckdb(folder, parquet, given.pairs)


def postgres(server: PostgresServer, plain: Path, parquet: str, gzipped: str, pairs: int) -> None:
    os.environ["AIRFLOW_CONN_WAREHOUSE"] = server.airflow_connection()
    columns = "id bigint, user_id bigint, total double precision, status text, created_at text, note text, token text"

    def psql() -> None:
        with server.connect() as connection:
            connection.execute(f"DROP TABLE IF EXISTS orders; CREATE TABLE orders ({columns})")
        run_psql(server, f"\\copy orders FROM '{plain}' WITH (FORMAT csv, HEADER true)")

    ways = {
        "psql \\copy, plain CSV": psql,
        "ours, from Parquet": lambda: load(parquet),
        "ours, from CSV (gzip)": lambda: load(gzipped),
    }
    report("Postgres", ways, pairs)


def duckdb(folder: Path, parquet: str, pairs: int) -> None:
    import duckdb as engine

    file = folder / "warehouse.duckdb"
    os.environ["AIRFLOW_CONN_WAREHOUSE"] = json.dumps({"conn_type": "duckdb", "host": str(file)})

    def fresh(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            file.unlink(missing_ok=True)
            work()

        return run

    def by_hand() -> None:
        with engine.connect(str(file)) as connection:
            connection.execute(f"CREATE SCHEMA {SCHEMA}")
            files = f"{folder}/parquet/*.parquet"
            connection.execute(f"CREATE TABLE {SCHEMA}.orders AS SELECT * FROM read_parquet('{files}')")

    report("DuckDB", {"CREATE TABLE AS": fresh(by_hand), "ours": fresh(lambda: load(parquet))}, pairs)


def load(uri: str, **options: Any) -> None:
    """Run the operator, as a task does."""
    from airflow_provider_d1.transfers.staging_to_warehouse import D1StagingToWarehouseOperator

    arguments = {"schema": SCHEMA, **options}
    D1StagingToWarehouseOperator(task_id="load", manifest=uri, conn_id="warehouse", **arguments).execute({})


def run_psql(server: PostgresServer, command: str) -> None:
    target = f"host={server.host} port={server.port} user={server.user} dbname={server.database}"
    subprocess.run(
        [server.programs / "psql", target, "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--command", command],
        check=True,
        env={**os.environ, "PGPASSWORD": server.password},
    )


def report(
    warehouse: str, ways: dict[str, Callable[[], None]], pairs: int, prepare: Callable[[], None] = lambda: None
) -> None:
    """Time the ways in turn, after one round that doesn't count, and print medians and ratios of each round.

    :param prepare: what comes before each of them and does not count.
    """
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(pairs + 1):
        for way in list(ways)[:: 1 if number % 2 else -1]:
            prepare()
            started = time.perf_counter()
            ways[way]()
            if number:
                seconds[way].append(time.perf_counter() - started)
                print(f"round {number} {way}: {seconds[way][-1]:.2f} s", file=sys.stderr)
    reference, *others = ways
    print(
        f"| {warehouse} | seconds, median of {pairs} | speed against the first, median of the rounds' |\n|---|---|---|"
    )
    for way in (reference, *others):
        ratio = statistics.median(first / own for first, own in zip(seconds[reference], seconds[way], strict=True))
        print(f"| {way} | {statistics.median(seconds[way]):.2f} | {ratio:.2f} |")
    print()


def orders(rows: int) -> pa.Table:
    """A table like those that D1 databases hold: keys, money, short words, times as text, longer texts, NULLs."""
    chance = random.Random(20261122)
    words = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", 'say "hi"', "new\nline", "ünïcode"]
    notes = [" ".join(chance.choices(words, k=chance.randint(3, 25))) for _ in range(997)]
    times = [f"2026-{1 + n % 12:02d}-{1 + n % 28:02d} {n % 24:02d}:{n % 60:02d}:{n * 7 % 60:02d}" for n in range(1009)]

    def cycle(values: list, step: int) -> list:
        return [values[n * step % len(values)] for n in range(rows)]

    return pa.table(
        {
            "id": pa.array(range(rows), pa.int64()),
            "user_id": pa.array([None if n % 17 == 0 else n * 7919 % 1_000_003 for n in range(rows)], pa.int64()),
            "total": pa.array([n % 100_003 / 100 for n in range(rows)], pa.float64()),
            "status": cycle(["new", "paid", "", None, "cancelled"], 1),
            "created_at": cycle(times, 13),
            "note": cycle(notes, 31),
            "token": [f"{n * 2654435761 % 2**32:08x}" for n in range(rows)],
        }
    )


def staged(folder: Path, table: pa.Table, file_format: str) -> str:
    """Write parts and a manifest as staging does; returns the manifest's URI."""
    from isal import igzip

    folder.mkdir()
    files = []
    for number, start in enumerate(range(0, table.num_rows, ROWS_IN_PART)):
        part = table.slice(start, ROWS_IN_PART)
        if file_format == "parquet":
            path = folder / f"part-{number:05d}.parquet"
            pq.write_table(part, path, compression="zstd")
        else:
            path = folder / f"part-{number:05d}.csv.gz"
            with igzip.open(path, "wb", compresslevel=1) as file:
                pacsv.write_csv(part, file)
        content = path.read_bytes()
        files.append(FileEntry(path.as_uri(), len(content), hashlib.sha256(content).hexdigest(), part.num_rows))
    types = {"double": "float64"}
    columns = tuple(
        ColumnEntry(field.name, "", types.get(str(field.type), str(field.type)), True, 0, StorageCounts())
        for field in table.schema
    )
    manifest = Manifest(
        created_at="2026-11-22T00:00:00+00:00",
        provider_version="0",
        source=Source(database_id="bench", bookmark="bench"),
        dump=DumpEntry(0, "0" * 64),
        format=file_format,
        compression="zstd" if file_format == "parquet" else "gzip",
        tables=(TableEntry("orders", table.num_rows, "", columns, tuple(files)),),
        binary_encoding=None if file_format == "parquet" else "hex",
    )
    path = folder / "_manifest.json"
    path.write_bytes(dumps(manifest))
    return path.as_uri()


if __name__ == "__main__":
    main()
