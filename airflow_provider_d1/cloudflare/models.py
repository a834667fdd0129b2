"""What the D1 API knows, as frozen values: databases, export options, a finished export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

OnVirtualTable = Literal["fail", "skip"]


@dataclass(frozen=True, slots=True)
class Database:
    """A D1 database as the API lists it."""

    uuid: str
    name: str
    file_size: int | None = None
    num_tables: int | None = None


@dataclass(frozen=True, slots=True)
class SkippedObject:
    """A table that an export leaves out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Which part of a database goes into the dump.

    ``tables`` is None for the whole database; names are case-sensitive, as D1 takes them.
    """

    tables: tuple[str, ...] | None = None
    no_data: bool = False
    no_schema: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, as it stands in a manifest's ``source.options``."""
        return {
            "tables": None if self.tables is None else list(self.tables),
            "no_data": self.no_data,
            "no_schema": self.no_schema,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExportOptions:
        """Read what :meth:`to_dict` wrote."""
        tables = data.get("tables")
        return cls(
            tables=None if tables is None else tuple(tables),
            no_data=bool(data.get("no_data", False)),
            no_schema=bool(data.get("no_schema", False)),
        )


@dataclass(frozen=True, slots=True)
class D1Export:
    """A finished export: where its dump can be fetched, until when, and what it cost.

    ``sealed_url`` is the signed URL encrypted with a key derived from the connection's API token
    (:mod:`airflow_provider_d1.cloudflare.seal`): the URL alone would let anybody read the whole database for an hour.
    ``started_at`` is when D1 accepted the first start, ``completed_at`` when the last poll saw the end: the database
    answered no queries in between. All times are timezone-aware UTC. ``polls`` counts polls over all restarts.
    ``restarts`` is how often the export was begun again, because D1 had lost it or because a triggerer had ended; after
    the latter, the times and ``polls`` are those of the last one only.
    """

    database_id: str
    database_name: str
    account_id: str
    bookmark: str
    filename: str
    sealed_url: str = field(repr=False)
    expires_at: datetime
    started_at: datetime
    completed_at: datetime
    polls: int
    restarts: int
    options: ExportOptions = ExportOptions()
    skipped: tuple[SkippedObject, ...] = ()

    @property
    def unavailable_seconds(self) -> float:
        """How long the database answered no queries, in seconds."""
        return round((self.completed_at - self.started_at).total_seconds(), 3)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON (times as ISO 8601), fit for XCom and trigger events; holds no usable URL."""
        return {
            "database_id": self.database_id,
            "database_name": self.database_name,
            "account_id": self.account_id,
            "bookmark": self.bookmark,
            "filename": self.filename,
            "sealed_url": self.sealed_url,
            "expires_at": self.expires_at.isoformat(),
            "started_at": self.started_at.isoformat(),
            "completed_at": self.completed_at.isoformat(),
            "polls": self.polls,
            "restarts": self.restarts,
            "options": self.options.to_dict(),
            "skipped": [{"name": s.name, "reason": s.reason} for s in self.skipped],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> D1Export:
        """Read what :meth:`to_dict` wrote.

        :raises ValueError: when a field is missing or malformed; the message names it, never its value.
        """
        try:
            return cls(
                database_id=str(data["database_id"]),
                database_name=str(data["database_name"]),
                account_id=str(data["account_id"]),
                bookmark=str(data["bookmark"]),
                filename=str(data["filename"]),
                sealed_url=str(data["sealed_url"]),
                expires_at=datetime.fromisoformat(data["expires_at"]),
                started_at=datetime.fromisoformat(data["started_at"]),
                completed_at=datetime.fromisoformat(data["completed_at"]),
                polls=int(data["polls"]),
                restarts=int(data["restarts"]),
                options=ExportOptions.from_dict(data.get("options") or {}),
                skipped=tuple(SkippedObject(s["name"], s["reason"]) for s in data.get("skipped") or ()),
            )
        except KeyError as error:
            raise ValueError(f"not a D1 export: field {error.args[0]!r} is missing") from None
        except (TypeError, ValueError, AttributeError):
            raise ValueError("not a D1 export: a field has the wrong type") from None
