"""The properties of a table that are known before its first row: folder, column names, audit columns, metadata."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_provider_d1 import __version__
from airflow_provider_d1.dump.column_types import ColumnStats, cast
from airflow_provider_d1.staging.audit import AuditColumns
from airflow_provider_d1.staging.names import Folders, file_column_names, snake_case

if TYPE_CHECKING:
    from airflow_provider_d1.dump.schema import TableSchema
    from airflow_provider_d1.staging.manifest_source import Source
    from airflow_provider_d1.staging.options import StagingOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TablePlan:
    """The properties of a table that are known before its first row.

    :param schema: as the dump creates it.
    :param folder: of its files.
    :param names: of its columns in the files, in the order of ``schema.columns``.
    :param audit: columns that staging adds.
    :param metadata: for formats that can store it.
    """

    schema: TableSchema
    folder: str
    names: tuple[str, ...]
    audit: AuditColumns
    metadata: dict[str, str]

    def arrow_schema(self, types: Sequence[pa.DataType]) -> pa.Schema:
        """Schema of a file whose own columns have these types."""
        fields = [pa.field(name, kind) for name, kind in zip(self.names, types, strict=True)]
        return pa.schema([*fields, *self.audit.fields], metadata=self.metadata)

    def cast_rows(
        self, arrays: Sequence[pa.Array], stats: Sequence[ColumnStats], types: Sequence[pa.DataType]
    ) -> pa.Table:
        """Rows of this table as written to files.

        :param arrays: the table's own columns.
        :param stats: of these rows, or of these and earlier ones of the same types.
        :param types: what to cast them to.
        """
        columns = [cast(array, seen, kind) for array, seen, kind in zip(arrays, stats, types, strict=True)]
        rows = len(columns[0]) if columns else 0
        return pa.Table.from_arrays([*columns, *self.audit.arrays(rows)], schema=self.arrow_schema(types))


class Planner:
    """Assigns tables their folder, column names, audit columns and metadata."""

    def __init__(self, source: Source, options: StagingOptions) -> None:
        self._folders = Folders()
        self._snake = options.column_names == "snake_case"
        self._audit = AuditColumns.of(source, datetime.now(UTC)) if options.audit_columns else AuditColumns()
        facts = {
            "d1.account_id": source.account_id,
            "d1.database_id": source.database_id,
            "d1.database_name": source.database_name,
            "d1.bookmark": source.bookmark,
            "d1.filename": source.filename,
            "d1.provider_version": __version__,
        }
        self._metadata = {key: value for key, value in facts.items() if value is not None}

    def plan(self, schema: TableSchema) -> TablePlan:
        """Plan a table; a column that cannot keep its name is logged."""
        columns = [column.name for column in schema.columns]
        names = file_column_names(columns, snake=self._snake, audit=self._audit.names)
        for column, name in zip(columns, names, strict=True):
            natural = snake_case(column) if self._snake else column
            if name != natural:
                logger.warning(
                    "Table %r: column %r is staged as %r, because %r is taken", schema.name, column, name, natural
                )
        return TablePlan(
            schema=schema,
            folder=self._folders.folder_of(schema.name),
            names=names,
            audit=self._audit,
            metadata={**self._metadata, "d1.table": schema.name},
        )
