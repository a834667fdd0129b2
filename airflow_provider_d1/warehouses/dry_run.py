"""The statements of a load for ``dry_run=True``, which asks no server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_d1.warehouses import load_history
from airflow_provider_d1.warehouses.table_planning import check_format, plan_table

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.base import Warehouse
    from airflow_provider_d1.warehouses.plan import LoadPlan


def planned_statements(warehouse: Warehouse[Any], plan: LoadPlan) -> list[str]:
    """Every statement of a load as far as it is known without asking the warehouse; no secrets.

    :raises D1ConfigurationError: when this engine can't load such a manifest.
    """
    check_format(warehouse, plan)
    whole = warehouse.transaction == "load"
    prepare = [warehouse.create_schema(plan), warehouse.create_loads(plan)]
    start = [warehouse.begin, *warehouse.lock(plan)] if whole else []
    result = [*prepare, *start] if warehouse.locks_first else [*start, *prepare]
    works = [plan_table(warehouse, plan, table, None) for table in plan.tables]
    helpers = []
    for work in works:
        if work.into == work.table.helper:
            helpers.append(work.into)
            result += warehouse.create_helper(plan, work)
        result += warehouse.fill_statements(plan, work)
    for first in range(0, len(works), warehouse.tables_at_once):
        group = works[first : first + warehouse.tables_at_once]
        publications = [(work, warehouse.publication(plan, work)) for work in group]
        result += [statement for _, publication in publications for statement in publication.ddl]
        result += [warehouse.begin] if warehouse.transaction == "table" else []
        for work, publication in publications:
            result += publication.dml
            if publication.renames:
                helpers.remove(work.into)
            helpers += publication.makes
        if not whole:
            result.append(load_history.insert_statement(plan, [work.table for work in group], warehouse.now))
        result += ["COMMIT"] if warehouse.transaction == "table" else []
    result += [warehouse.drop_helper(plan, helper) for helper in helpers]
    if whole:
        result += [load_history.insert_statement(plan, plan.tables, warehouse.now), "COMMIT"]
    return result
