"""What must work with every supported version of Airflow, Python and the dependencies.

``make test-matrix`` runs it in an environment for each combination, ``make test-airflow2`` with the lowest ones.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import runpy
import secrets
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import airflow_provider_d1
from airflow_provider_d1.assets.d1 import create_asset
from airflow_provider_d1.cloudflare.sql_errors import ProgrammingError
from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.hooks.d1 import D1Hook
from airflow_provider_d1.provider_info import get_provider_info

SEED = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT); INSERT INTO users VALUES (1, 'Ada'), (2, NULL);"


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    token = f"tok-{secrets.token_hex(16)}"
    with Emulator(
        token=token, databases={"shop": SEED, "blog": SEED, "copy": ""}, faults={"export_seconds": 1}
    ) as running:
        extra = {"account_id": running.account_id}
        connection = {"conn_type": "d1", "host": running.url, "password": token, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(connection))
        yield running


def test_every_module_imports() -> None:
    modules = [m.name for m in pkgutil.walk_packages(airflow_provider_d1.__path__, "airflow_provider_d1.")]
    for name in modules:
        # the dialect needs SQLAlchemy 2, which Airflow 2.11 to 3.0 do not allow
        if not name.endswith(("__main__", "hooks.sqlalchemy_dialect")):
            importlib.import_module(name)
    assert "airflow_provider_d1.triggers.d1" in modules


def test_airflow_knows_the_connection_type() -> None:
    from airflow.providers_manager import ProvidersManager

    hook = ProvidersManager().hooks["d1"]
    assert hook is not None
    assert (hook.hook_class_name, hook.connection_testable) == ("airflow_provider_d1.hooks.d1.D1Hook", True)


def test_the_hook_works(emulator: Emulator) -> None:
    hook = D1Hook(database="shop")
    assert hook.test_connection()[0]
    assert hook.get_records("SELECT name FROM users") == [("Ada",), (None,)]
    with hook.download(hook.export()) as dump:
        assert dump.read().startswith(b"PRAGMA defer_foreign_keys=TRUE;")


def test_every_listed_class_and_module_exists() -> None:
    info = get_provider_info()
    for key in ("hooks", "operators", "sensors", "triggers"):
        for entry in info[key]:
            for name in entry["python-modules"]:
                importlib.import_module(name)
    for transfer in info["transfers"]:
        importlib.import_module(transfer["python-module"])
    assets = [path for entry in info["asset-uris"] for key, path in entry.items() if key != "schemes"]
    for path in [*info["extra-links"], *(each["hook-class-name"] for each in info["connection-types"]), *assets]:
        module, _, name = path.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


def test_airflows_schema_accepts_the_metadata() -> None:
    schema = json.loads(files("airflow").joinpath("provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_airflow_describes_the_provider() -> None:
    command = [sys.executable, "-m", "airflow", "providers", "get", "airflow-provider-d1", "--full", "--output", "json"]
    described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    # with some versions of Python, Airflow prints warnings of its own before it
    (found,) = json.loads(described[described.index("[{") :])
    assert found["package-name"] == "airflow-provider-d1"
    assert "D1DatabaseLink" in json.dumps(found)


def test_airflow_normalises_the_asset() -> None:
    assert create_asset(account_id="acc", database="shop").uri == "d1://acc/shop"


def test_a_dag_exports_and_stages(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        from airflow.models.xcom import XComModel
    except ImportError:  # Airflow 2
        from airflow.models.xcom import XCom as XComModel
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session

    initdb()
    monkeypatch.setenv("D1_VERSIONS_OUT", str(tmp_path))
    run = runpy.run_path(str(Path(__file__).parent / "dags" / "d1_versions.py"))["dag"].test()

    states = {(ti.task_id, ti.map_index): (str(ti.state), ti.try_number) for ti in run.get_task_instances()}
    assert states.pop(("missing", -1)) == ("failed", 1)  # three retries were left
    assert {state for state, _ in states.values()} == {"success"}
    with create_session() as session:
        found = session.query(XComModel).filter(XComModel.run_id == run.run_id, XComModel.key == "return_value").all()
        values = [(f"{x.task_id}{x.map_index}", x.value) for x in found]
    results = {key: json.loads(value) if isinstance(value, str) else value for key, value in values}
    assert results["export-1"]["database_name"] == "shop"
    assert results["names-1"] == ["Ada"]
    assert results["copy-1"]["tables"] == {"users": {"rows": 2}}
    assert results["undo-1"]["previous_bookmark"] == results["copy-1"]["bookmark"]
    assert results["changed-1"]["changed"] is True
    assert D1Hook(database="copy").query("SELECT name FROM sqlite_schema WHERE name = 'users'") == []
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
