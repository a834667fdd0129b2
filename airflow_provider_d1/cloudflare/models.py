"""Frozen values of the D1 API: databases, what to export, a finished export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, TypedDict

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.validation import BOOLEAN, TABLES, Rule, integer, names, number, one_of, optional, string

OnVirtualTable = Literal["fail", "skip"]

#: longest constant ``poll_interval``, in seconds: D1 cancels an export that was not polled for 15 seconds, so one slow
#: answer after a longer gap could lose the export
MAX_POLL_INTERVAL = 10.0
#: seconds that an export waits for rate-limit capacity unless ``queue_timeout`` says otherwise: enough for hundreds of
#: exports that one DAG run starts at once
DEFAULT_QUEUE_TIMEOUT = 6 * 3600.0
#: the reason of a skipped table that ``exclude_tables`` names
EXCLUDED = "excluded"


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
        """Plain JSON, as in a manifest's ``source.options``."""
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


#: export option → what it must be
EXPORT_RULES: Mapping[str, Rule] = {
    "database": optional(string("a database's name or UUID")),
    "tables": optional(TABLES),
    "exclude_tables": optional(names("a list of table names", empty=True)),
    "no_data": BOOLEAN,
    "no_schema": BOOLEAN,
    "on_virtual_table": one_of("fail", "skip"),
    "poll_interval": optional(
        number(
            f"a number of seconds above 0 and at most {MAX_POLL_INTERVAL:g}",
            lambda seconds: 0 < seconds <= MAX_POLL_INTERVAL,
        )
    ),
    "timeout": number("a number of seconds above 0", lambda seconds: seconds > 0),
    "queue_timeout": optional(number("a number of seconds, 0 or more", lambda seconds: seconds >= 0)),
    "max_restarts": integer(0),
}


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export and how, as one value that can be stored as JSON.

    The operator, the hook and the trigger take the same names: a new option is added here, in :data:`EXPORT_RULES` and
    :class:`ExportKeywords`, and in the signature of the operator.

    :param database: name or UUID; None for the connection's default.
    :param tables: exact names, or None for the whole database.
    :param exclude_tables: exact names of tables to leave out of the whole database. Virtual tables are left out with
        their shadow tables.
    :param no_data: leave the rows out.
    :param no_schema: leave the CREATE statements out.
    :param on_virtual_table: ``"fail"`` before anything is started, or ``"skip"`` virtual tables and their shadow
        tables.
    :param poll_interval: constant gap between polls in seconds, at most 10; None adapts.
    :param timeout: seconds that the export may take, counted from its admission by the rate limiter.
    :param queue_timeout: seconds that it may wait for the admission; None for :data:`DEFAULT_QUEUE_TIMEOUT`.
    :param max_restarts: how often an export that D1 lost is started again. Exports lost while Cloudflare's rate limit
        blocked the token do not count.
    :raises D1ConfigurationError: for a value that cannot work.
    """

    database: str | None = None
    tables: tuple[str, ...] | None = None
    exclude_tables: tuple[str, ...] | None = None
    no_data: bool = False
    no_schema: bool = False
    on_virtual_table: OnVirtualTable = "fail"
    poll_interval: float | None = None
    timeout: float = 3600.0
    queue_timeout: float | None = None
    max_restarts: int = 3

    def __post_init__(self) -> None:
        for name, rule in EXPORT_RULES.items():
            value = getattr(self, name)
            rule.check(name, value)
            if isinstance(value, list):  # as JSON and DAG files have it
                object.__setattr__(self, name, tuple(value))
        if self.tables is not None and self.exclude_tables:
            raise D1ConfigurationError("Pass either tables or exclude_tables, not both.")

    @property
    def options(self) -> ExportOptions:
        """The part of the request that D1 itself understands."""
        return ExportOptions(self.tables, self.no_data, self.no_schema)

    @property
    def longest_wait(self) -> float:
        """Seconds that the export may wait for its admission."""
        return DEFAULT_QUEUE_TIMEOUT if self.queue_timeout is None else self.queue_timeout

    def deadline(self, now: float) -> float:
        """The latest end of an export that is requested at ``now``, in epoch seconds."""
        return now + self.longest_wait + self.timeout

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        values = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExportRequest:
        """Read what :meth:`to_dict` wrote.

        :raises D1ConfigurationError: for an unknown name, and for a value that cannot work.
        """
        unknown = sorted(set(data) - set(EXPORT_RULES))
        if unknown:
            raise D1ConfigurationError(f"Unknown export option {unknown[0]!r}; known: {', '.join(EXPORT_RULES)}.")
        return cls(**data)


class ExportKeywords(TypedDict, total=False):
    """The options of :class:`ExportRequest` as keywords, without ``database``."""

    tables: Sequence[str] | None
    exclude_tables: Sequence[str] | None
    no_data: bool
    no_schema: bool
    on_virtual_table: OnVirtualTable
    poll_interval: float | None
    timeout: float
    queue_timeout: float | None
    max_restarts: int


@dataclass(frozen=True, slots=True)
class D1Export:
    """A finished export: where its dump can be downloaded, until when, and how it ran.

    ``sealed_url`` is the signed URL encrypted with a key derived from the connection's API token
    (:mod:`airflow_provider_d1.cloudflare.seal`): the URL alone gives read access to the whole database for an hour.
    ``started_at`` is when D1 accepted the first start, ``completed_at`` when the last poll saw the end: the database
    answered no queries in between. All times are timezone-aware UTC. ``polls`` counts polls over all restarts.
    ``restarts`` is how often the export was started again because D1 had lost it. Where another triggerer has started
    the export again, times, ``polls`` and ``restarts`` are those of the last triggerer. ``tables`` are those that the
    database had before the export and that the dump should have; None when that is unknown.
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
    tables: tuple[str, ...] | None = None

    @property
    def unavailable_seconds(self) -> float:
        """Seconds for which the database answered no queries."""
        return round((self.completed_at - self.started_at).total_seconds(), 3)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON (times as ISO 8601) for XCom and trigger events; contains no usable URL."""
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
            "tables": None if self.tables is None else list(self.tables),
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
                tables=None if data.get("tables") is None else tuple(map(str, data["tables"])),
            )
        except KeyError as error:
            raise ValueError(f"not a D1 export: field {error.args[0]!r} is missing") from None
        except (TypeError, ValueError, AttributeError):
            raise ValueError("not a D1 export: a field has the wrong type") from None
