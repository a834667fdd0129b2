"""What a person reads while DAGs run: every line of the provider's own is short and says its figures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_d1.emulator.server import Emulator
from tests.integration.conftest import d1_connection
from tests.integration.dag_runs import REPOSITORY

if TYPE_CHECKING:
    import pytest

    from harness.seaweed import S3Server

LONGEST = 300
COLUMNS = ", ".join(f"a_column_with_a_long_name_{number} TEXT" for number in range(120))
#: many tables, long names, wide tables, values that the export may have altered
WIDE = "\n".join(
    [
        f"CREATE TABLE wide_one ({COLUMNS});",
        *(f"CREATE TABLE {'t' * 40}_{number} (id INTEGER PRIMARY KEY, big INTEGER);" for number in range(60)),
        *(f"INSERT INTO {'t' * 40}_{number} VALUES (1, 9007199254740993);" for number in range(60)),
    ]
)
SEARCH = "".join(f"CREATE VIRTUAL TABLE words_{number} USING fts5(text);" for number in range(20))
SEEDS = {"wide": WIDE, "search": SEARCH, "empty": "CREATE TABLE one (id INTEGER);"}
#: DAG, database, state of the run
RUNS = [
    ("d1_to_warehouse", "wide", "success"),
    ("d1_to_warehouse", "empty", "success"),
    ("d1_export_and_stage", "wide", "success"),
    ("d1_to_s3", "search", "failed"),
    ("d1_to_s3", "no-such-database", "failed"),
]
CODE = """
import json, sys
from tests.integration.dag_runs import run_dag
for dag, database, _ in json.loads(sys.argv[1]):
    print("state:", run_dag(dag, database=database).state)
"""
LINE = re.compile(r"\[(?:info|warning|error) *\] (?P<message>.*?) *\[(?P<logger>[\w.]+)\](?: loc=| \w+=|$)")
#: counts that read badly
ODD = re.compile(r"(?<![\d.,=])1 (?:tables|rows|files|bytes|times|polls|restarts|databases)\b")


def test_no_line_is_long(airflow_db: Path, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = {"conn_type": "duckdb", "host": str(tmp_path / "warehouse.duckdb")}
    with Emulator("tok-log-lines", databases=SEEDS) as emulator:
        env = {
            **os.environ,
            "AIRFLOW_CONN_D1_DEFAULT": d1_connection(emulator),
            "AIRFLOW_CONN_WAREHOUSE": json.dumps(warehouse),
            "AIRFLOW_HOME": str(airflow_db),
            "PYTHONPATH": str(REPOSITORY),
            "NO_COLOR": "1",
        }
        command = [sys.executable, "-c", CODE, json.dumps(RUNS)]
        run = subprocess.run(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=400, check=False, text=True
        )
    assert re.findall(r"^state: (\w+)", run.stdout, re.MULTILINE) == [state for *_, state in RUNS], run.stdout[-3000:]
    lines = [
        found["message"].strip()
        for found in map(LINE.search, run.stdout.splitlines())
        if found is not None and "airflow_provider_d1" in found["logger"]
    ]
    for start in ("Exporting in the triggerer:", "Exported:", "Staged:", "Staged the dump:", "Loaded:", "Running:"):
        assert any(line.startswith(start) for line in lines), start
    assert [line for line in lines if len(line) > LONGEST] == []
    assert [line for line in lines if ODD.search(line)] == []
