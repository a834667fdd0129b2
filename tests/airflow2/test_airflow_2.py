"""What ``make test-airflow2`` runs in an environment with Airflow 2.11: all modules import, and the main job works."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import runpy
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import airflow
import pytest

import airflow_provider_d1
from airflow_provider_d1.cloudflare.sql_errors import ProgrammingError
from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.hooks.d1 import D1Hook

SEED = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT); INSERT INTO users VALUES (1, 'Ada'), (2, NULL);"
DAG_FILE = """
from datetime import datetime
from airflow import DAG
from airflow_provider_d1.operators.d1 import D1ExportOperator
from airflow_provider_d1.transfers.d1_to_object_storage import D1ToObjectStorageOperator
with DAG("d1", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    export = D1ExportOperator(task_id="export", database="shop")
    D1ToObjectStorageOperator(task_id="stage", export=export.output, path="file://{out}/staged")
    D1ToObjectStorageOperator.partial(task_id="many", path="file://{out}/{{{{ task.database }}}}").expand(
        database=["shop", "blog"]
    )
    D1ToObjectStorageOperator(task_id="here", database="shop", path="file://{out}/here", deferrable=False)
    D1ExportOperator(task_id="missing", database="nowhere", retries=3)
"""


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    token = f"tok-{secrets.token_hex(16)}"
    with Emulator(token=token, databases={"shop": SEED, "blog": SEED}, faults={"export_seconds": 1}) as running:
        extra = {"account_id": running.account_id}
        connection = {"conn_type": "d1", "host": running.url, "password": token, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(connection))
        yield running


def test_this_is_airflow_2() -> None:
    assert airflow.__version__.startswith("2.11.")


def test_every_module_imports() -> None:
    modules = [m.name for m in pkgutil.walk_packages(airflow_provider_d1.__path__, "airflow_provider_d1.")]
    for name in modules:
        # SQLAlchemy 2, which the dialect needs, is not for Airflow 2.11
        if not name.endswith(("__main__", "hooks.sqlalchemy_dialect")):
            importlib.import_module(name)
    assert "airflow_provider_d1.triggers.d1" in modules


def test_airflow_knows_the_connection_type() -> None:
    from airflow.providers_manager import ProvidersManager

    hook = ProvidersManager().hooks["d1"]
    assert hook is not None
    assert (hook.hook_class_name, hook.connection_testable) == ("airflow_provider_d1.hooks.d1.D1Hook", True)


def test_the_hook_works(emulator: Emulator) -> None:
    from airflow_provider_d1.hooks.d1 import D1Hook

    hook = D1Hook(database="shop")
    assert hook.test_connection()[0]
    assert hook.get_records("SELECT name FROM users") == [("Ada",), (None,)]
    with hook.download(hook.export()) as dump:
        assert dump.read().startswith(b"PRAGMA defer_foreign_keys=TRUE;")


def test_a_dag_exports_and_stages(emulator: Emulator, tmp_path: Path) -> None:
    from airflow.models.xcom import XCom
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session

    initdb()
    file = tmp_path / "d1.py"
    file.write_text(DAG_FILE.format(out=tmp_path))
    run = runpy.run_path(str(file))["dag"].test()

    states = {(ti.task_id, ti.map_index): (str(ti.state), ti.try_number) for ti in run.get_task_instances()}
    assert states.pop(("missing", -1)) == ("failed", 1)  # three retries were left
    assert {state for state, _ in states.values()} == {"success"}
    with create_session() as session:
        found = session.query(XCom).filter(XCom.run_id == run.run_id, XCom.key == "return_value").all()
        results: dict[str, Any] = {f"{x.task_id}{x.map_index}": x.value for x in found}
    assert results["export-1"]["database_name"] == "shop"
    assert {results[key]["rows"] for key in ("stage-1", "many0", "many1", "here-1")} == {2}
    for folder in ("staged", "shop", "blog", "here"):
        assert (tmp_path / folder / "_manifest.json").exists()


def test_the_sql_operators_work(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.common.compat.sdk import AirflowOptionalProviderFeatureException
    from airflow.providers.common.sql.operators.generic_transfer import GenericTransfer
    from airflow.providers.common.sql.operators.sql import (
        SQLCheckOperator,
        SQLColumnCheckOperator,
        SQLExecuteQueryOperator,
        SQLInsertRowsOperator,
        SQLTableCheckOperator,
        SQLThresholdCheckOperator,
        SQLValueCheckOperator,
    )
    from airflow.providers.common.sql.sensors.sql import SqlSensor

    definition = json.loads(os.environ["AIRFLOW_CONN_D1_DEFAULT"])
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(definition | {"schema": "shop"}))
    monkeypatch.setenv("AIRFLOW_CONN_BLOG", json.dumps(definition | {"schema": "blog"}))
    task: dict[str, Any] = {"task_id": "sql", "conn_id": "shop"}

    def query(sql: str, **arguments: Any) -> Any:
        return SQLExecuteQueryOperator(**task, sql=sql, **arguments).execute({})

    assert query("SELECT name, 1.0 FROM users WHERE id = :id", parameters={"id": 1}) == [("Ada", 1.0)]
    with pytest.raises(ProgrammingError):
        query("DELETE FROM users WHERE name <> ?", parameters={"keep": "Ada"})
    SQLInsertRowsOperator(**task, table_name="users", rows=[(3, "Grace")]).execute({})
    SQLCheckOperator(**task, sql="SELECT count(*) FROM users").execute({})
    SQLValueCheckOperator(**task, sql="SELECT count(*) FROM users", pass_value=3).execute({})
    SQLThresholdCheckOperator(**task, sql="SELECT max(id) FROM users", min_threshold=1, max_threshold=3).execute({})
    SQLTableCheckOperator(**task, table="users", checks={"three": {"check_statement": "count(*) = 3"}}).execute({})
    SQLColumnCheckOperator(**task, table="users", column_mapping={"id": {"max": {"equal_to": 3}}}).execute({})
    assert SqlSensor(**task, sql="SELECT count(*) FROM users").poke({})
    GenericTransfer(
        task_id="transfer",
        sql="SELECT id, name FROM users",
        source_conn_id="shop",
        destination_conn_id="blog",
        destination_table="users",
        insert_args={"replace": True},
    ).execute({})
    with pytest.raises(AirflowOptionalProviderFeatureException, match=r"\[sqlalchemy\]"):
        D1Hook("blog").get_sqlalchemy_engine()
    assert D1Hook("blog").get_records("SELECT * FROM users ORDER BY id") == [(1, "Ada"), (2, None), (3, "Grace")]
