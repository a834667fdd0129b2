"""Warnings and errors about the tables of a complete dump, and their entries in the manifest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1LossyExportError, D1TypeConflictError
from airflow_provider_d1.staging.audit import type_name
from airflow_provider_d1.staging.fidelity import certain_losses, conflict_lines, lossy_line
from airflow_provider_d1.staging.manifest_tables import ColumnEntry, LossyCounts, StorageCounts, TableEntry

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest_tables import FileEntry
    from airflow_provider_d1.staging.options import StagingOptions
    from airflow_provider_d1.staging.parts import TableWriter

logger = logging.getLogger(__name__)


def report_values(tables: Sequence[TableWriter], options: StagingOptions) -> None:
    """Log or refuse values that do not fit their declared types, and values that D1's export may have altered.

    :raises D1LossyExportError: with ``on_lossy="fail"``, naming every column.
    :raises D1TypeConflictError: with ``on_type_conflict="fail"``, naming every column.
    """
    conflicts = [
        line
        for table in tables
        for line in conflict_lines(table.plan.schema, table.stats, map(type_name, table.final_types()))
    ]
    if conflicts and options.on_type_conflict == "fail":
        raise D1TypeConflictError("; ".join(conflicts))
    if options.on_lossy == "fail":
        losses = [line for table in tables for line in certain_losses(table.plan.schema, table.stats)]
        if losses:
            raise D1LossyExportError("; ".join(losses))
    for line in conflicts:
        logger.warning("%s", line)
    if options.on_lossy == "warn":
        for table in tables:
            if suspicion := lossy_line(table.plan.schema, table.stats):
                logger.warning("%s", suspicion)


def table_entry(table: TableWriter, files: tuple[FileEntry, ...]) -> TableEntry:
    """Describe a finished table for the manifest.

    :param files: in the order of its rows.
    """
    plan = table.plan
    columns = [
        ColumnEntry(
            name=name,
            declared_type=column.declared_type,
            type=type_name(kind),
            nullable=column.nullable,
            primary_key=column.primary_key,
            storage=StorageCounts(**seen.storage),
            lossy=LossyCounts(**seen.lossy),
            source_name=None if name == column.name else column.name,
        )
        for name, column, kind, seen in zip(
            plan.names, plan.schema.columns, table.final_types(), table.stats, strict=True
        )
    ]
    return TableEntry(
        name=plan.schema.name,
        rows=table.rows,
        ddl=plan.schema.ddl,
        columns=(*columns, *plan.audit.entries(table.rows)),
        files=files,
        generated=plan.schema.generated,
    )
