"""ClickHouse: the materialized views that read a table, and the INSERT of an append that brings them its rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1WarehouseError

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.plan import LoadPlan
    from airflow_provider_d1.warehouses.session import Run
    from airflow_provider_d1.warehouses.table_load import TableLoad

log = logging.getLogger(__name__)

#: the virtual column that has the id of a row's partition
_PARTITION = "_partition_id"
_LARGEST = 2**63 - 1
#: seconds between two looks at whether an INSERT runs, growing from the first to the last
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 5.0
#: With these an INSERT … SELECT makes one block, which becomes one part: all of its rows are in the table, or none.
#: The rows stay in their order, and none is merged with another one, as if the helper table's parts were attached.
_ONE_BLOCK = {
    "max_threads": 1,
    "max_insert_threads": 1,
    "parallel_distributed_insert_select": 0,
    "max_insert_block_size": _LARGEST,
    "min_insert_block_size_rows": _LARGEST,
    "min_insert_block_size_bytes": 0,
    "optimize_on_insert": 0,
}


def views_to_feed(run: Run[Any], work: TableLoad) -> Sequence[str]:
    """The materialized views that get the rows of an append; log them, and with a warning those that get none.

    They get the rows of an INSERT only. Rows that come by EXCHANGE TABLES replace others, so a view that adds them up
    must not get them. Views that are refreshed are not among them: they read the whole table.
    """
    schema, table = (run.plan.dialect.literal(name) for name in (run.plan.options.schema, work.table.name))
    found = run.session.rows(
        "SELECT arrayJoin(arraySort(arrayMap((d, t) -> concat(d, '.', t), dependencies_database, dependencies_table))) "
        f"FROM system.tables WHERE database = {schema} AND name = {table}"
    )
    views = [str(view) for (view,) in found]
    if not views:
        return ()
    shown = ", ".join(views)
    # a column of that name hides the virtual one
    if work.action != "append" or work.drift.altered or _PARTITION in _columns(work):
        log.warning("table=%s materialized_views=%s get_rows=false", work.table.name, shown)
        return ()
    log.info("table=%s materialized_views=%s get_rows=true", work.table.name, shown)
    return views


def insert_of(plan: LoadPlan, work: TableLoad, partition: str) -> str:
    """Bring one partition of the helper table into the table in one block."""
    literal = plan.dialect.literal
    token = f"{work.into} {partition}"  # else an earlier INSERT of the same rows may be taken for this one
    settings = ", ".join(f"{name} = {value}" for name, value in _ONE_BLOCK.items())
    names = ", ".join(map(plan.dialect.identifier, _columns(work)))
    return (
        f"INSERT INTO {plan.path(work.table.name)} ({names}) "
        f"SETTINGS {settings}, insert_deduplication_token = {literal(token)} "
        f"SELECT {names} FROM {plan.path(work.into)} WHERE {_PARTITION} = {literal(partition)}"
    )


def insert_partition(
    run: Run[Any], work: TableLoad, partition: str, statement: str, errors: tuple[type[Exception], ...]
) -> None:
    """Bring one partition into the table and to the views.

    A view that fails makes the INSERT fail, mostly when the rows are in the table already. The load goes on then: if
    it were to fail, the next attempt would add the rows again.

    :param statement: the one of :func:`insert_of`.
    :param errors: those of the driver; raised when the rows are not in the table.
    :raises D1WarehouseError: retryable, when the table no longer has the types that the rows were loaded for.
    """
    _check_types(run, work)
    in_partition = f"WHERE {_PARTITION} = {run.plan.dialect.literal(partition)}"
    ((before,),) = run.session.rows(f"SELECT count() FROM {run.plan.path(work.table.name)} {in_partition}")
    try:
        run.execute(statement)
    except errors as error:
        with suppress(*errors):  # the first error is the one to be raised
            _wait_for_insert(run, work)
            if _is_in_table(run, work, in_partition, int(before)):
                log.warning(
                    "table=%s partition=%s rows are in the table; materialized_views=%s may lack rows of this load: %s",
                    work.table.name,
                    partition,
                    ", ".join(work.views),
                    run.session.without_secrets(str(error).strip()),
                )
                return
        raise


def _check_types(run: Run[Any], work: TableLoad) -> None:
    """An INSERT would convert the values, where ATTACH PARTITION fails."""
    schema, *tables = map(run.plan.dialect.literal, (run.plan.options.schema, work.table.name, work.into))
    changed = run.session.rows(
        f"SELECT name FROM system.columns WHERE database = {schema} AND table IN ({', '.join(tables)}) "
        "GROUP BY name HAVING uniqExact(type, comment = 'binary') > 1 ORDER BY name"
    )
    if changed:
        raise D1WarehouseError(
            f"table {work.table.name!r}: something else changed the types of columns "
            f"({', '.join(str(name) for (name,) in changed)}) while rows were loaded; the next attempt uses them",
            retryable=True,
        )


def _wait_for_insert(run: Run[Any], work: TableLoad) -> None:
    """A server goes on with an INSERT when the connection breaks."""
    helper, pause = run.plan.dialect.literal(work.into), _FIRST_PAUSE
    running = f"SELECT 1 FROM system.processes WHERE startsWith(query, 'INSERT') AND position(query, {helper}) > 0"
    while run.session.rows(running):
        time.sleep(pause)
        pause = min(pause * 1.5, _LAST_PAUSE)


def _is_in_table(run: Run[Any], work: TableLoad, in_partition: str, before: int) -> bool:
    """Whether the table has got as many rows as the helper table has, and each of those: another load may add some."""
    table, helper = run.plan.path(work.table.name), run.plan.path(work.into)
    names = ", ".join(map(run.plan.dialect.identifier, _columns(work)))
    row = f"cityHash64(tuple({names}))"
    ((there, found),) = run.session.rows(
        f"SELECT count(), uniqExactIf({row}, {row} IN (SELECT {row} FROM {helper} {in_partition})) "
        f"FROM {table} {in_partition}"
    )
    ((rows, different),) = run.session.rows(f"SELECT count(), uniqExact({row}) FROM {helper} {in_partition}")
    return int(there) - before >= int(rows) and int(found) == int(different)


def _columns(work: TableLoad) -> list[str]:
    """The columns of the table that can be written."""
    return [*(column.name for column in work.drift.targets), *work.other_columns]
