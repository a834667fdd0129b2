"""The parts of a ClickHouse table, as its system tables list them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1WarehouseError

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.plan import LoadPlan
    from airflow_provider_d1.warehouses.session import Run
    from airflow_provider_d1.warehouses.table_load import TableLoad

#: of several nodes, one that has not all rows yet does not answer
SETTINGS = {"select_sequential_consistency": 1}


def partitions_of_helper(run: Run[Any], work: TableLoad) -> list[str]:
    """The partitions of the helper table, which an append attaches to the table.

    :raises D1WarehouseError: retryable, when they have not all rows: ``system.parts`` is that of one node, which may
        not have the others' parts yet.
    """
    schema, helper = (run.plan.dialect.literal(name) for name in (run.plan.options.schema, work.into))
    found = run.session.rows(
        "SELECT partition_id, sum(rows) FROM system.parts "
        f"WHERE active AND database = {schema} AND table = {helper} GROUP BY partition_id ORDER BY partition_id"
    )
    rows = sum(int(count) for _, count in found)
    if work.action == "append" and not work.drift.altered and rows != work.table.rows:
        raise D1WarehouseError(
            f"table {work.table.name!r} is unchanged: ClickHouse lists partitions with {rows} of {work.table.rows} "
            "loaded rows; another node may not have the other ones yet",
            retryable=True,
        )
    return [str(partition) for partition, _ in found]


def attach_of(plan: LoadPlan, work: TableLoad, partition: str) -> str:
    """Add one partition of the helper table to the table; the files are linked, not copied."""
    path, helper = plan.path(work.table.name), plan.path(work.into)
    return f"ALTER TABLE {path} ATTACH PARTITION ID {plan.dialect.literal(partition)} FROM {helper}"
