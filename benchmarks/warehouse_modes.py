"""``replace`` by rows beside a swap, and ``merge`` beside ``INSERT … ON CONFLICT``, in one run.

    python -m benchmarks.warehouse_modes [--rows 2000000] [--pairs 3] [--only postgres|duckdb] [--part replace|merge]

The table has the staged rows already, so that each way does what it does on every day but the first. Before each
measurement it is made anew, which does not count. Two indexes: on ``user_id`` and on ``created_at``; we refuse to swap
such a table, so the swap beside it is a person's: a new table, its indexes, and a rename. For ``merge`` the table has a
primary key, which ``ON CONFLICT`` needs, and the manifest is a full extract in which 1 % or all of the rows differ from
the table's. A ratio above 1 means faster than the first line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from benchmarks.warehouse_load import SCHEMA, load, orders, report, run_psql, staged
from harness.postgres import PostgresServer, postgres_server

COLUMNS = "id bigint, user_id bigint, total double precision, status text, created_at text, note text, token text"
ASSIGNMENTS = ", ".join(
    f"{name} = excluded.{name}" for name in ("user_id", "total", "status", "created_at", "note", "token")
)
INDEXES = tuple(f"CREATE INDEX orders_{name} ON {SCHEMA}.orders ({name})" for name in ("user_id", "created_at"))
UPSERT = f"INSERT INTO {SCHEMA}.orders SELECT * FROM {{source}} ON CONFLICT (id) DO UPDATE SET {ASSIGNMENTS}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--only", choices=["postgres", "duckdb"])
    parser.add_argument("--part", choices=["replace", "merge"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="d1-benchmark-") as name:
        folder = Path(name)
        os.environ |= {"AIRFLOW_HOME": str(folder / "airflow"), "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}
        table = orders(given.rows)
        extracts = {
            share: staged(folder / f"changed-{share}", changed(table, share), "parquet") for share in (0, 1, 100)
        }
        for share in extracts:
            pacsv.write_csv(changed(table, share), folder / f"changed-{share}.csv")
        print(f"{given.rows:,} rows, {os.cpu_count()} cores\n")
        parts = [given.part] if given.part else ["replace", "merge"]
        if given.only != "duckdb":
            with postgres_server(folder / "postgres") as server:
                postgres(server, folder, extracts, given.pairs, parts)
        if given.only != "postgres":
            duckdb(folder, extracts, given.pairs, parts)


def changed(table: pa.Table, percent: int) -> pa.Table:
    """The table with another text in one of its columns, in so many of its rows."""
    step = 100 // percent if percent else 0
    tokens = [f"{token}!" if step and n % step == 0 else token for n, token in enumerate(table["token"].to_pylist())]
    return table.set_column(table.schema.get_field_index("token"), "token", pa.array(tokens))


def postgres(server: PostgresServer, folder: Path, extracts: dict[int, str], pairs: int, parts: list[str]) -> None:
    os.environ["AIRFLOW_CONN_WAREHOUSE"] = server.airflow_connection()

    def execute(*statements: str) -> None:
        with server.connect() as connection:
            for statement in statements:
                connection.execute(statement)

    load(extracts[0])
    execute(f"CREATE TABLE base AS SELECT * FROM {SCHEMA}.orders")

    def standing(*more: str) -> Callable[[], None]:
        table = (f"DROP TABLE IF EXISTS {SCHEMA}.orders", f"CREATE TABLE {SCHEMA}.orders AS SELECT * FROM base")
        return lambda: execute(*table, *more, f"VACUUM ANALYZE {SCHEMA}.orders", "CHECKPOINT")

    def swap_by_hand() -> None:
        build = [f"CREATE TABLE {SCHEMA}.new ({COLUMNS})"]
        indexes = [
            text.replace("INDEX orders_", "INDEX new_").replace(f"{SCHEMA}.orders", f"{SCHEMA}.new") for text in INDEXES
        ]
        execute(*build)
        run_psql(server, f"\\copy {SCHEMA}.new FROM '{folder}/changed-100.csv' WITH (FORMAT csv, HEADER true)")
        execute(
            *indexes,
            f"ANALYZE {SCHEMA}.new",
            f"BEGIN; DROP TABLE {SCHEMA}.orders; ALTER TABLE {SCHEMA}.new RENAME TO orders; COMMIT",
        )

    def upsert_by_hand(share: int) -> None:
        with server.connect() as connection:
            connection.execute(f"CREATE UNLOGGED TABLE {SCHEMA}.new ({COLUMNS})")
        run_psql(server, f"\\copy {SCHEMA}.new FROM '{folder}/changed-{share}.csv' WITH (FORMAT csv, HEADER true)")
        execute(f"ANALYZE {SCHEMA}.new", UPSERT.format(source=f"{SCHEMA}.new"), f"DROP TABLE {SCHEMA}.new")

    if "replace" in parts:
        swap, rows = (lambda way=way: load(extracts[100], replace_strategy=way) for way in ("swap", "rows"))
        report("Postgres, replace, no indexes", {"swap": swap, "rows": rows}, pairs, standing())
        report(
            "Postgres, replace, two indexes", {"swap by hand": swap_by_hand, "rows": rows}, pairs, standing(*INDEXES)
        )
    if "merge" in parts:
        key = f"ALTER TABLE {SCHEMA}.orders ADD PRIMARY KEY (id)"
        merge(upsert_by_hand, "Postgres", extracts, pairs, standing(key))


def merge(
    by_hand: Callable[[int], None], warehouse: str, extracts: dict[int, str], pairs: int, prepare: Callable[[], None]
) -> None:
    for share in (1, 100):
        ways = {
            "INSERT … ON CONFLICT": lambda share=share: by_hand(share),
            "merge": lambda share=share: load(extracts[share], mode="merge", keys={"orders": ["id"]}),
        }
        report(f"{warehouse}, merge, {share} % changed", ways, pairs, prepare)


def duckdb(folder: Path, extracts: dict[int, str], pairs: int, parts: list[str]) -> None:
    import duckdb as engine

    file = folder / "warehouse.duckdb"
    os.environ["AIRFLOW_CONN_WAREHOUSE"] = json.dumps({"conn_type": "duckdb", "host": str(file)})
    load(extracts[0])

    def standing(name: str, *more: str) -> Callable[[], None]:
        """Keep a copy of the file, and put it in the place of the file each time."""
        kept = folder / f"{name}.duckdb"
        shutil.copy(folder / "base.duckdb", kept)
        with engine.connect(str(kept)) as connection:
            for statement in more:
                connection.execute(statement)
        return lambda: shutil.copy(kept, file)

    def upsert_by_hand(share: int) -> None:
        with engine.connect(str(file)) as connection:
            connection.execute(UPSERT.format(source=f"read_parquet('{folder}/changed-{share}/*.parquet')"))

    def swap_by_hand() -> None:
        with engine.connect(str(file)) as connection:
            source = f"read_parquet('{folder}/changed-100/*.parquet')"
            connection.execute("BEGIN")
            connection.execute(f"CREATE OR REPLACE TABLE {SCHEMA}.orders AS SELECT * FROM {source}")
            for statement in INDEXES:
                connection.execute(statement)
            connection.execute("COMMIT")

    file.rename(folder / "base.duckdb")
    if "replace" in parts:
        swap, rows = (lambda way=way: load(extracts[100], replace_strategy=way) for way in ("swap", "rows"))
        report("DuckDB, replace, no indexes", {"swap": swap, "rows": rows}, pairs, standing("bare"))
        prepare = standing("indexed", *INDEXES)
        report("DuckDB, replace, two indexes", {"swap by hand": swap_by_hand, "rows": rows}, pairs, prepare)
    if "merge" in parts:
        prepare = standing("keyed", f"ALTER TABLE {SCHEMA}.orders ADD PRIMARY KEY (id)")
        merge(upsert_by_hand, "DuckDB", extracts, pairs, prepare)


if __name__ == "__main__":
    main()
