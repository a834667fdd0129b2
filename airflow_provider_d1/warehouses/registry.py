"""The warehouses that can be loaded, by the type of their Airflow connection. It is read when a DAG is parsed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.base import Warehouse

#: connection type → module, class, and the names of the options that the class declares: they become arguments of the
#: operator, and the engines are not imported for it
WAREHOUSES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "postgres": ("postgres", "Postgres"),
        "redshift": ("redshift", "Redshift", "iam_role", "on_long_text"),
        "snowflake": ("snowflake", "Snowflake", "stage"),
        "google_cloud_platform": ("bigquery", "BigQuery", "location"),
        "gcpbigquery": ("bigquery", "BigQuery", "location"),
        "databricks": ("databricks", "Databricks", "catalog", "storage_credential"),
        "mysql": ("mysql", "MySQL"),
        "duckdb": ("duckdb", "DuckDB"),
        "clickhouse": ("clickhouse", "ClickHouse"),
    }
)


def engine_options() -> tuple[str, ...]:
    """The operator's arguments that only some engines have."""
    return tuple(dict.fromkeys(name for _, _, *options in WAREHOUSES.values() for name in options))


@cache
def warehouse_of(conn_type: str) -> Warehouse[Any]:
    """The warehouse of a known connection type."""
    from airflow_provider_d1.warehouses.base import Warehouse

    module, name, *_ = WAREHOUSES[conn_type]
    found = getattr(import_module(f"airflow_provider_d1.warehouses.{module}"), name)()
    if not isinstance(found, Warehouse):
        raise TypeError(f"{name} in {module} is not a Warehouse")
    return found


def warehouse_for(conn_type: str | None, conn_id: str) -> Warehouse[Any]:
    """The warehouse behind a connection.

    :raises D1ConfigurationError: for an unknown type; names those that are known and the extra that each needs.
    """
    if conn_type not in WAREHOUSES:
        known = ", ".join(f"{name} (airflow-provider-d1[{warehouse_of(name).extra}])" for name in WAREHOUSES)
        raise D1ConfigurationError(
            f"connection {conn_id!r}: unsupported connection type {conn_type!r}; supported: {known}"
        )
    return warehouse_of(conn_type)
