"""What is done with each table, decided from its columns in the warehouse before its rows are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.warehouses.drift import Drift, columns_as_staged, find_drift, no_drift
from airflow_provider_d1.warehouses.merge import target_key
from airflow_provider_d1.warehouses.table_load import TableLoad

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.base import Warehouse
    from airflow_provider_d1.warehouses.plan import LoadPlan, Table


def check_format(warehouse: Warehouse[Any], plan: LoadPlan) -> None:
    """Refuse text files for an engine that can't read them exactly.

    :raises D1ConfigurationError: naming the format to stage.
    """
    if plan.file_format != "parquet" and not warehouse.reads_text_formats:
        raise D1ConfigurationError(
            f"{warehouse.dialect.name} is loaded from Parquet, and {plan.origin.manifest} lists {plan.file_format}: "
            "stage with file_format='parquet'"
        )


def plan_table(
    warehouse: Warehouse[Any], plan: LoadPlan, table: Table, existing: Mapping[str, str] | None
) -> TableLoad:
    """Decide what is done with a table.

    :param existing: its columns in the warehouse with their types, empty when there is none; None when that is not
        known, and the likely case is wanted.
    :raises D1WarehouseError: when a column of the table can't be widened, or one of the key is missing.
    """
    drift = no_drift(table.columns)
    strategy = plan.options.replace_strategy
    mode = plan.options.mode
    action: Literal["create", "overwrite", "swap", "append", "merge"] = "create"
    if mode != "replace":
        if existing:
            action, drift = mode, drift_of(warehouse, plan, table, existing)
        elif existing is None and mode == "merge":
            action = mode
    elif existing is None:
        action = "swap" if strategy == "swap" else "overwrite"
    elif existing:
        same = columns_as_staged(plan.dialect, table, existing)
        alters = strategy != "swap" and warehouse.alters_to_replace
        action = "swap" if strategy == "swap" or (same is None and not alters) else "overwrite"
        drift = no_drift(table.columns if same is None or action == "swap" else same)
    columns = drift.targets if warehouse.fits_values_here else table.columns
    columns = tuple(column.as_staged() for column in columns)
    work = TableLoad(table, action, drift, "", columns, key=target_key(table, drift))
    work.checked = any(column.native or column.hint is not None for column in drift.targets)
    work.delete_missing = plan.options.delete_missing
    work.into = warehouse.loads_into(plan, work)
    return work


def drift_of(warehouse: Warehouse[Any], plan: LoadPlan, table: Table, existing: Mapping[str, str]) -> Drift:
    """Compare a staged table with the one in the warehouse.

    :raises D1WarehouseError: when a column can't be widened.
    """

    def alter(column: str, old: str, new: str) -> list[str]:
        return warehouse.alter_column(plan, table.name, column, old, new)

    return find_drift(plan.dialect, table, existing, alter, warehouse.alterable)
