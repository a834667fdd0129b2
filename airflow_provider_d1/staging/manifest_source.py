"""A manifest's source: the database and the export of the rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.cloudflare.models import ExportOptions, SkippedObject
from airflow_provider_d1.staging import manifest_fields as read

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest_fields import Json


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a dump. Unknown values are None: a dump on disk has a file name and little more.

    ``started_at`` and ``completed_at`` are ISO 8601; the database answered no queries for ``unavailable_seconds``.
    """

    account_id: str | None = None
    database_id: str | None = None
    database_name: str | None = None
    bookmark: str | None = None
    filename: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    unavailable_seconds: float | None = None
    restarts: int = 0
    options: ExportOptions = field(default_factory=ExportOptions)
    skipped: tuple[SkippedObject, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "account_id": self.account_id,
            "database_id": self.database_id,
            "database_name": self.database_name,
            "bookmark": self.bookmark,
            "filename": self.filename,
            "started_at": self.started_at,
            "completed_at": self.completed_at,
            "unavailable_seconds": self.unavailable_seconds,
            "restarts": self.restarts,
            "options": self.options.to_dict(),
            "skipped": [{"name": skipped.name, "reason": skipped.reason} for skipped in self.skipped],
        }

    @classmethod
    def from_dict(cls, data: Json, where: str = "source") -> Source:
        """Read what :meth:`to_dict` wrote; a ``D1Export.to_dict()`` plus ``unavailable_seconds`` is accepted too."""
        seconds = read.optional(data, "unavailable_seconds", where, read.number)
        return cls(
            account_id=read.optional(data, "account_id", where, read.text),
            database_id=read.optional(data, "database_id", where, read.text),
            database_name=read.optional(data, "database_name", where, read.text),
            bookmark=read.optional(data, "bookmark", where, read.text),
            filename=read.optional(data, "filename", where, read.text),
            started_at=read.optional(data, "started_at", where, read.text),
            completed_at=read.optional(data, "completed_at", where, read.text),
            unavailable_seconds=seconds,
            restarts=read.count(data, "restarts", where),
            options=_options(read.mapping(data, "options", where), f"{where}.options"),
            skipped=read.each(data, "skipped", where, _skipped),
        )


def _options(data: Json, where: str) -> ExportOptions:
    return ExportOptions(
        tables=read.optional(data, "tables", where, read.texts),
        no_data=read.flag(data, "no_data", where),
        no_schema=read.flag(data, "no_schema", where),
    )


def _skipped(data: Json, where: str) -> SkippedObject:
    return SkippedObject(name=read.text(data, "name", where), reason=read.text(data, "reason", where))
