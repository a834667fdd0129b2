"""Which warehouse an Airflow connection leads to."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

from airflow_provider_d1.exceptions import D1ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.base import LoadedTable, LoadPlan
    from airflow_provider_d1.warehouses.dialect import Dialect
    from airflow_provider_d1.warehouses.store import StagedFiles

#: connection type → module of this package, which is also the name of the extra
CONNECTION_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "postgres": "postgres",
        "redshift": "redshift",
        "snowflake": "snowflake",
        "google_cloud_platform": "bigquery",
        "gcpbigquery": "bigquery",
        "databricks": "databricks",
        "duckdb": "duckdb",
        "clickhouse": "clickhouse",
    }
)


class Warehouse(Protocol):
    """What the module of a warehouse offers."""

    DIALECT: Dialect

    def statements(self, plan: LoadPlan) -> list[str]:
        """Every statement of a load as far as it is known without asking the warehouse; no secrets."""

    def load(self, plan: LoadPlan, files: StagedFiles, conn_id: str, aws_conn_id: str | None) -> list[LoadedTable]:
        """Load the plan's tables."""


def warehouse_for(conn_type: str | None, conn_id: str) -> Warehouse:
    """The warehouse behind a connection type.

    :raises D1ConfigurationError: for an unknown one; names those that are known and the extra that each needs.
    """
    module = CONNECTION_TYPES.get(conn_type or "")
    if module is None:
        known = ", ".join(f"{name} (airflow-provider-d1[{extra}])" for name, extra in CONNECTION_TYPES.items())
        raise D1ConfigurationError(
            f"Connection {conn_id!r} is of type {conn_type!r}, which is no warehouse known here; known are {known}"
        )
    return cast("Warehouse", import_module(f"airflow_provider_d1.warehouses.{module}"))
