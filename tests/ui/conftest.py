"""A running Airflow with three example DAGs, a D1 emulator, an S3 server and a DuckDB file, and a browser."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from airflow_provider_d1.emulator.server import Emulator
from harness.airflow import airflow_deployment
from harness.browser import browser_missing, open_page
from harness.seaweed import s3_server
from tests.ui.pages import Ui

EXAMPLES = Path(__file__).parents[2] / "example_dags"
BUCKET = "my-staging-bucket"
SHOP = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, joined TEXT);
INSERT INTO customers VALUES (1, 'Ada', '2026-01-02'), (2, 'Grace', '2026-03-04'), (3, 'Katherine', NULL);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, total REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
INSERT INTO orders SELECT i, 1 + i % 3, round(i * 1.25, 2) FROM n;
"""


@contextmanager
def airflow_in_a_browser(folder: Path) -> Iterator[Ui]:
    """Start everything."""
    dags = folder / "dags"
    dags.mkdir(parents=True)
    for name in ("d1_to_warehouse", "d1_asset", "d1_many_databases"):
        shutil.copy(EXAMPLES / f"{name}.py", dags)
    token = f"secret-{secrets.token_hex(16)}"
    with ExitStack() as stack:
        s3 = stack.enter_context(s3_server(folder / "s3"))
        s3.client().create_bucket(Bucket=BUCKET)
        account = "0123456789abcdef0123456789abcdef"
        emulator = stack.enter_context(Emulator(token, account, {"shop": SHOP}, faults={"export_seconds": 8}))
        settings = {"AIRFLOW__CORE__TEST_CONNECTION": "Enabled"}
        airflow = stack.enter_context(airflow_deployment(folder / "airflow", dags, settings=settings))
        airflow.set_connection("aws_default", json.loads(s3.airflow_connection()))
        airflow.set_connection("warehouse", {"conn_type": "duckdb", "host": str(folder / "warehouse.duckdb")})
        for name in ("d1_to_warehouse", "d1_asset", "d1_asset_load", "d1_many_databases"):
            airflow.wait_for_dag(name, timeout=300)
        yield Ui(stack.enter_context(open_page()), airflow, emulator, token)


@pytest.fixture(scope="session")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    missing = browser_missing()
    if missing is not None:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with airflow_in_a_browser(tmp_path_factory.mktemp("ui")) as running:
        yield running
