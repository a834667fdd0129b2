"""Each warehouse's provider is an extra; who lacks it is told which one to install, before anything is asked."""

from __future__ import annotations

import sys
from importlib.metadata import metadata, requires
from types import ModuleType

import pytest

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.storage.s3 import S3Storage
from airflow_provider_d1.warehouses.registry import CONNECTION_TYPES, warehouse_for
from airflow_provider_d1.warehouses.store import StagedFiles
from tests.unit.warehouses.warehouse_plans import manifest, plan

#: connection type → what its loader can't do without
NEEDS = {
    "postgres": ["airflow.providers.postgres.hooks.postgres"],
    "redshift": ["redshift_connector"],
    "snowflake": ["airflow.providers.snowflake.hooks.snowflake", "snowflake.connector.errors"],
    "google_cloud_platform": ["airflow.providers.google.cloud.hooks.bigquery"],
    "databricks": ["airflow.providers.databricks.hooks.databricks_sql", "databricks.sql.exc"],
    "duckdb": ["airflow.providers.duckdb.hooks.duckdb", "duckdb"],
    "clickhouse": ["airflow.providers.clickhousedb.hooks.clickhouse", "clickhouse_connect.driver.exceptions"],
}


@pytest.mark.parametrize(("conn_type", "module"), [(kind, module) for kind in NEEDS for module in NEEDS[kind]])
def test_what_is_missing_is_named_with_its_extra(conn_type: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = warehouse_for(conn_type, "any")
    assert isinstance(warehouse, ModuleType)
    for name in [
        name for name in sys.modules if name.startswith((f"{module}.", "airflow.providers.amazon.aws.hooks.red"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    files = StagedFiles(S3Storage(None, "bucket", "d1"), verify_checksums=False)
    extra = CONNECTION_TYPES[conn_type]
    with pytest.raises(D1ConfigurationError, match=rf"pip install 'airflow-provider-d1\[{extra}\]'.*{module}"):
        warehouse.load(plan(warehouse, manifest()), files, "any", "aws_default")


def test_every_warehouse_has_an_extra_that_brings_something() -> None:
    extras = metadata("airflow-provider-d1").get_all("Provides-Extra") or []
    wanted = [requirement for requirement in requires("airflow-provider-d1") or [] if "extra ==" in requirement]
    for extra in set(CONNECTION_TYPES.values()):
        assert extra in extras
        assert any(f'extra == "{extra}"' in r.replace("'", '"') for r in wanted), extra
