"""Frozen values of an import: what D1 is to run, and what it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from airflow_provider_d1.exceptions import D1ImportError

#: D1's limit for the file of an import
MAX_FILE_BYTES = 5 * 10**9


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """An uploaded file that D1 is to run, as plain values for a trigger. It holds no URL.

    :param database_id: the database's UUID.
    :param database_name: for messages.
    :param etag: the file's MD5, in hex.
    :param filename: the name that D1 gave the upload; empty when D1 had the file from an earlier attempt.
    :param bookmark: by which to poll the import that D1 began by itself, as it had the file; None to begin one.
    :param poll_interval: constant gap between polls in seconds; None adapts.
    :param max_restarts: how often an import that D1 has lost is begun again.
    """

    database_id: str
    database_name: str
    etag: str
    filename: str
    bookmark: str | None = None
    poll_interval: float | None = None
    max_restarts: int = 3

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ImportRequest:
        """Read what :meth:`to_dict` wrote.

        :raises D1ImportError: when a field is missing or unknown; not retryable.
        """
        try:
            return cls(**data)
        except TypeError:
            raise D1ImportError("the trigger's arguments are not those of an import", retryable=False) from None


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import did, as D1 reports it.

    ``bookmark`` is the database's after the import and ``previous_bookmark`` the one before it, to which Time Travel
    goes back. ``size`` is the database's in bytes. A figure that D1 does not give is None. ``repeated`` says that an
    earlier attempt of the same import had been applied, so that nothing was done; the figures are None then.
    """

    bookmark: str | None = None
    previous_bookmark: str | None = None
    num_queries: int | None = None
    rows_read: int | None = None
    rows_written: int | None = None
    changes: int | None = None
    size: int | None = None
    repeated: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> ImportResult:
        """Read what :meth:`to_dict` wrote.

        :raises D1ImportError: when it is something else.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(data, Mapping) or not data.keys() <= names:
            raise D1ImportError("the trigger reported success without the result of an import")
        return cls(**data)
