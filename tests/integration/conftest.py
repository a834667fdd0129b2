"""One initialised Airflow, one emulator and one S3 server for the session."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_d1.emulator.server import Emulator
from harness.clickhouse import ClickHouseServer, clickhouse_server
from harness.mariadb import MariaDBServer, mariadb_missing, mariadb_server
from harness.postgres import PostgresServer, postgres_server
from harness.seaweed import S3Server, s3_server
from tests.integration.dag_runs import BUCKET

SEEDS = {
    "shop": """
        CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, credit REAL);
        INSERT INTO users VALUES (1, 'Ada', 12.5), (2, 'Grace', NULL), (3, 'Line
break', -0.25);
        CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER, note TEXT);
        INSERT INTO orders VALUES (10, 1, ''), (11, 3, NULL);
    """,
    "blog": "CREATE TABLE posts (id INTEGER PRIMARY KEY, title TEXT); INSERT INTO posts VALUES (1, 'Hello');",
    "crm": "CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT);",
    "tenant-a": """
        CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
        INSERT INTO users VALUES (1, 'Ada'), (2, NULL);
    """,
    # a column more, another one whose numbers are no integers, and a table that the first one does not have
    "tenant-b": """
        CREATE TABLE users (id, name TEXT, email TEXT);
        INSERT INTO users VALUES (1, 'Bob', 'bob@example.com'), (2.5, 'Grace', '');
        CREATE TABLE notes (note TEXT);
        INSERT INTO notes VALUES ('only here');
    """,
    "tenant-c": "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);",
    "shop-restored": "",
    "search": "CREATE TABLE notes (id INTEGER PRIMARY KEY); CREATE VIRTUAL TABLE words USING fts5(text);",
}


@pytest.fixture(scope="session")
def airflow_db() -> Path:
    """AIRFLOW_HOME with a migrated metadata database."""
    from airflow.utils.db import initdb

    initdb()
    return Path(os.environ["AIRFLOW_HOME"])


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with the examples' bucket, and the connection ``aws_default`` to it."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        server.client().create_bucket(Bucket=BUCKET)
        patch.setenv("AIRFLOW_CONN_AWS_DEFAULT", server.airflow_connection())
        yield server


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDBServer]:
    """A real MariaDB server; where it is not installed its tests are skipped, but not in CI."""
    if (missing := mariadb_missing()) is not None:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with mariadb_server(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A real Postgres server, started when a test first asks for it."""
    with postgres_server(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """ClickHouse's engine in a process of its own, reached over HTTP."""
    with clickhouse_server(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture(scope="session")
def running_emulator() -> Iterator[Emulator]:
    with Emulator(token=f"tok-{secrets.token_hex(16)}", account_id=secrets.token_hex(16), databases=SEEDS) as emulator:
        yield emulator


@pytest.fixture
def emulator(running_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """A local D1 API without faults, and the connection ``d1_default`` to it."""
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", d1_connection(running_emulator))
    running_emulator.faults.reset()
    running_emulator.calls.clear()
    yield running_emulator
    running_emulator.faults.reset()


@pytest.fixture
def restored_is_empty(emulator: Emulator) -> None:
    """Drop what an earlier test restored into the database ``shop-restored``."""
    from airflow_provider_d1.hooks.d1 import D1Hook

    tables = ("orders", "users", "_d1_imports")
    D1Hook(database="shop-restored").run([f"DROP TABLE IF EXISTS {name}" for name in tables])


def d1_connection(emulator: Emulator, **fields: object) -> str:
    definition = {
        "conn_type": "d1",
        "host": emulator.url,
        "password": emulator.token,
        "extra": {"account_id": emulator.account_id},
    }
    return json.dumps(definition | fields)
