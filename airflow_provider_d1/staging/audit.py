"""The columns that ``audit_columns=True`` adds to every table: database, bookmark and time of loading."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_provider_d1.staging.manifest_tables import ColumnEntry, LossyCounts, StorageCounts

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest_source import Source


@dataclass(frozen=True)
class AuditColumns:
    """Columns with one value for all rows of a run; by default there are none."""

    values: tuple[tuple[pa.Field, str | datetime | None], ...] = ()

    @classmethod
    def of(cls, source: Source, loaded_at: datetime) -> AuditColumns:
        """Return the three columns of a run.

        :param source: has the database's name or ID and the bookmark.
        :param loaded_at: UTC; staged without a zone, as all timestamps are.
        """
        return cls(
            (
                (pa.field("_d1_database", pa.string()), source.database_name or source.database_id),
                (pa.field("_d1_bookmark", pa.string()), source.bookmark),
                (pa.field("_loaded_at", pa.timestamp("us")), loaded_at.replace(tzinfo=None)),
            )
        )

    @property
    def fields(self) -> list[pa.Field]:
        """Their Arrow fields."""
        return [field for field, _ in self.values]

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [field.name for field, _ in self.values]

    def arrays(self, rows: int) -> list[pa.Array]:
        """Their values for ``rows`` rows."""
        return [pa.repeat(pa.scalar(value, field.type), rows) for field, value in self.values]

    def entries(self, rows: int) -> list[ColumnEntry]:
        """Their entries in a manifest; they count as text, as they have no storage class in D1."""
        return [
            ColumnEntry(
                name=field.name,
                declared_type="",
                type=type_name(field.type),
                nullable=value is None,
                primary_key=0,
                storage=StorageCounts(null=rows) if value is None else StorageCounts(text=rows),
                lossy=LossyCounts(),
                audit=True,
            )
            for field, value in self.values
        ]


def type_name(kind: pa.DataType) -> str:
    """Name of a type in the manifest."""
    return {"double": "float64", "date32[day]": "date32"}.get(str(kind), str(kind))
