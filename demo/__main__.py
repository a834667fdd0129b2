"""``make demo``: D1 → S3 → a warehouse, through one of the example DAGs, with all servers on loopback.

    python -m demo [duckdb|postgres]

D1 is the emulator, seeded with a public dataset and with the tests' edge-case tables, unless
``CLOUDFLARE_API_TOKEN``, ``CLOUDFLARE_ACCOUNT_ID`` and ``D1_DATABASE`` are set: then the same DAG exports that one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import duckdb

from airflow_provider_d1.cloudflare.credentials import Credentials
from demo import report
from demo.seed import nycflights
from harness.postgres import postgres_server
from harness.process import free_ports, running
from harness.seaweed import S3Server, s3_server

ROOT = Path(__file__).parents[1]
WORK = ROOT / ".cache" / "demo"
#: only the DAGs that run: the others need providers that the demo does not install
DAGS = WORK / "dags"
BUCKET = "warehouse-staging"
SCHEMA = "d1"
QUERY = f"""
    SELECT a.name AS airline, count(*) AS flights, round(avg(f.arr_delay), 1) AS "minutes late, on average"
    FROM {SCHEMA}.flights AS f JOIN {SCHEMA}.airlines AS a USING (carrier)
    GROUP BY a.name ORDER BY 3 DESC LIMIT 5
"""
LOG_LINE = re.compile(r"\[(?P<level>\w+) *\] (?P<message>.*?) *\[(?P<logger>[\w.]+)\] loc=")
REAL = ("CLOUDFLARE_API_TOKEN", "CLOUDFLARE_ACCOUNT_ID", "D1_DATABASE")


def main(warehouse: str = "duckdb") -> int:
    """Return 0 when every row count agrees."""
    if warehouse not in ("duckdb", "postgres"):
        print(f"error: unknown warehouse {warehouse!r}; expected duckdb or postgres", file=sys.stderr)
        return 2
    # SIGHUP from a terminal or SIGTERM from CI must stop the servers too
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    started = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    DAGS.mkdir(parents=True)
    with ExitStack() as stack:
        step("S3: SeaweedFS on loopback")
        s3 = stack.enter_context(s3_server(WORK / "s3"))
        s3.client().create_bucket(Bucket=BUCKET)
        if all(os.environ.get(name) for name in REAL):
            step("D1: Cloudflare")
            credentials = Credentials(os.environ[REAL[1]], os.environ[REAL[0]])
            runs = {os.environ["D1_DATABASE"]: "d1_to_warehouse"}
        else:
            step("D1: the emulator, with every flight out of New York City in 2013, and the tests' edge cases")
            credentials = emulator(stack)
            runs = {"nycflights": "d1_to_warehouse", "corpus": "d1_to_s3"}
        step(f"Warehouse: {'DuckDB, a file' if warehouse == 'duckdb' else 'Postgres on loopback'}")
        connection, ask = warehouse_server(stack, warehouse)
        for database, dag in runs.items():
            step(f"Airflow: example_dags/{dag}.py with the database {database}")
            shutil.copy(ROOT / "example_dags" / f"{dag}.py", DAGS)
        succeeded, returned = run_dags(runs, environment(s3, credentials, connection))
        if not succeeded:
            print(f"\nThe DAG run failed. The whole log: {WORK.relative_to(ROOT)}/airflow.log", file=sys.stderr)
            return 1
        agreed = report_counts(s3, credentials, returned)
        if "nycflights" in runs:
            print("A query in the warehouse:\n")
            report.show(*ask(QUERY))
    print(f"{'All counts agree.' if agreed else 'COUNTS DIFFER.'} Total time: {time.monotonic() - started:.0f} s")
    return 0 if agreed else 1


def step(text: str) -> None:
    """Print the next step."""
    print(f"▸ {text}", flush=True)


def emulator(stack: ExitStack) -> Credentials:
    """Start the emulator with its two databases, whose exports take a few seconds as real ones do."""
    nycflights(WORK / "nycflights.sqlite")
    corpus = ROOT / "tests" / "data" / "corpus" / "nasty.json"
    (port,) = free_ports(1)
    token, account = "demo-token", "demo-account"
    command = [sys.executable, "-m", "airflow_provider_d1.emulator", "--port", str(port), "--token", token]
    command += ["--account", account, "--fault", "export_seconds=3"]
    command += ["--database", f"nycflights={WORK / 'nycflights.sqlite'}", "--database", f"corpus={corpus}"]
    log = WORK / "emulator.log"
    stack.enter_context(running(command, log=log, ready=lambda: "ready at" in log.read_text()))
    return Credentials(account, token, base_url=f"http://127.0.0.1:{port}/client/v4")


Ask = Callable[[str], tuple[list[str], list[tuple[object, ...]]]]


def warehouse_server(stack: ExitStack, warehouse: str) -> tuple[str, Ask]:
    """The warehouse's Airflow connection, and a function that runs a query in it."""
    if warehouse == "duckdb":
        file = WORK / "warehouse.duckdb"

        def ask_duckdb(sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
            with duckdb.connect(str(file), read_only=True) as database:
                answer = database.execute(sql)
                return [column[0] for column in answer.description], answer.fetchall()

        return json.dumps({"conn_type": "duckdb", "host": str(file)}), ask_duckdb
    server = stack.enter_context(postgres_server(WORK / "postgres"))

    def ask_postgres(sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
        with server.connect() as database:
            answer = database.execute(sql)
            return [column.name for column in answer.description], answer.fetchall()

    return server.airflow_connection(), ask_postgres


def environment(s3: S3Server, credentials: Credentials, connection: str) -> dict[str, str]:
    """Airflow's settings and connections; the caller's own Airflow settings are not inherited."""
    d1 = {
        "conn_type": "d1",
        "host": credentials.base_url,
        "password": credentials.token,
        "extra": {"account_id": credentials.account_id},
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "CLOUDFLARE"))}
    return {
        **inherited,
        "AIRFLOW_HOME": str(WORK / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW_CONN_AWS_DEFAULT": s3.airflow_connection(),
        "AIRFLOW_CONN_D1_DEFAULT": json.dumps(d1),
        "AIRFLOW_CONN_WAREHOUSE": connection,
        "NO_COLOR": "1",
    }


def run_dags(runs: Mapping[str, str], env: Mapping[str, str]) -> tuple[bool, dict[str, dict]]:
    """Run the DAGs in a separate process and show the provider's log lines; return success and results."""
    results = WORK / "results.json"
    command = [sys.executable, "-m", "demo.run_dag", str(results), BUCKET, SCHEMA]
    command += [f"{name}={dag}" for name, dag in runs.items()]
    with (
        (WORK / "airflow.log").open("w") as log,
        subprocess.Popen(
            command, env=dict(env), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as run,
    ):
        try:
            for line in run.stdout or ():
                log.write(line)
                for shown in provider_lines(line):
                    print(f"    {shown}", flush=True)
        finally:
            if run.poll() is None:
                run.terminate()
    returned = json.loads(results.read_text()) if results.exists() else {}
    return run.returncode == 0, returned


def provider_lines(line: str) -> Iterator[str]:
    """The provider's messages and all warnings of a task log, without the time, shortened to a screen's width."""
    found = LOG_LINE.search(line)
    if found and ("airflow_provider_d1" in found["logger"] or found["level"] != "info"):
        text = (
            f"{found['message'].strip()}"
            if found["level"] == "info"
            else f"{found['level']}: {found['message'].strip()}"
        )
        yield text if len(text) <= 150 else f"{text[:149]}…"


def report_counts(s3: S3Server, credentials: Credentials, returned: Mapping[str, Mapping[str, dict]]) -> bool:
    """Print databases, tables and checks; True when all counts agree."""
    databases, tables, agreed = [], [], True
    for database, results in returned.items():
        staged = report.Staged.read(s3, results["stage"]["manifest"])
        source = staged.manifest["source"]
        objects, stored = staged.objects()
        databases.append(
            (
                database,
                source["unavailable_seconds"],
                source["restarts"],
                staged.manifest["dump"]["bytes"],
                objects,
                stored,
                results["stage"]["rows"],
            )
        )
        counted = staged.rows()
        with report.scratch() as folder:
            checks = [
                counted,
                report.source_rows(credentials, staged.database, counted),
                staged.parquet_rows(Path(folder)),
                staged.dump_rows(Path(folder)),
                {name: table["rows"] for name, table in results["load"]["tables"].items()} if "load" in results else {},
            ]
        # a DAG without a backup or a warehouse has nothing to compare
        agreed &= all(check == counted for check in checks if check)
        for table in staged.manifest["tables"]:
            name = table["name"]
            types = ", ".join(sorted({column["type"] for column in table["columns"]}))
            stored = sum(file["bytes"] for file in table["files"])
            tables.append((database, name, types, stored, *(check.get(name) for check in checks)))
    print()
    report.show(
        ["database", "unavailable s", "restarts", "dump bytes", "objects in S3", "bytes in S3", "rows"],
        databases,
    )
    report.show(
        ["database", "table", "types", "bytes", "rows", "in D1", "Parquet (DuckDB)", "dump (SQLite)", "warehouse"],
        tables,
    )
    return agreed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
