"""One staging run: its ID, the names of its files, and the check that all of them arrived."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1StagingError
from airflow_provider_d1.staging.manifest import MANIFEST_KEY
from airflow_provider_d1.staging.manifest_tables import FileEntry
from airflow_provider_d1.validation import counted

if TYPE_CHECKING:
    from airflow_provider_d1.storage.base import Storage

_TIME = "%Y%m%dT%H%M%SZ"
_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
_TOKEN_LENGTH = 6


def new_run_id(owner: str | None = None) -> str:
    """Name a run by its start, such as ``20261127T020000Z-3f9c1a``; run ids sort by time.

    :param owner: identifies one task of one DAG run. All its attempts have the same last six digits, by which an
        attempt finds the files of a killed earlier one. Without an owner the digits are random.
    """
    token = secrets.token_hex(3) if owner is None else hashlib.sha256(owner.encode()).hexdigest()[:_TOKEN_LENGTH]
    return f"{datetime.now(UTC):{_TIME}}-{token}"


def is_run_id(name: str) -> bool:
    """Whether a folder has the name of a run."""
    return _RUN_ID.fullmatch(name) is not None


def started_at(run_id: str) -> datetime:
    """When a run started, in UTC; a name without a date counts as just started."""
    try:
        return datetime.strptime(run_id.partition("-")[0], _TIME).replace(tzinfo=UTC)
    except ValueError:
        return datetime.now(UTC)


def same_owner(run_id: str, other: str) -> bool:
    """Whether two runs are attempts of one task."""
    return run_id[-_TOKEN_LENGTH:] == other[-_TOKEN_LENGTH:]


class StagingRun:
    """Names the files of one run and records what was stored. Thread-safe.

    :param storage: stores the files.
    :param run_id: of :func:`new_run_id`.
    :param folder: of the files in the storage; named after the run by default.
    :param listed_in: the folder of the files in the manifest, where it differs.
    """

    def __init__(
        self, storage: Storage, run_id: str, *, folder: str | None = None, listed_in: str | None = None
    ) -> None:
        self.storage = storage
        self.id = run_id
        self.folder = run_id if folder is None else folder
        self._listed_in = self.folder if listed_in is None else listed_in
        self._lock = threading.Lock()
        self._stored: dict[str, int] = {}

    @property
    def manifest_key(self) -> str:
        """Key of the run's own manifest."""
        return f"{self.folder}/{MANIFEST_KEY}"

    @property
    def names(self) -> tuple[str, ...]:
        """The stored files, relative to the run's folder."""
        with self._lock:
            return tuple(key.removeprefix(f"{self.folder}/") for key in self._stored)

    def part_key(self, table_folder: str, number: int, suffix: str) -> str:
        """Key of a table's part, such as ``<run>/users/part-00000.parquet``."""
        return f"{self.folder}/{table_folder}/part-{number:05d}{suffix}"

    def dump_key(self, name: str, suffix: str) -> str:
        """Key of a dump, such as ``<run>/shop.sql.zst``."""
        return f"{self.folder}/{name}{suffix}"

    def stored(self, key: str, *, length: int, sha256: str, rows: int | None = None) -> FileEntry:
        """Record a stored file, and return its entry for the manifest."""
        with self._lock:
            self._stored[key] = length
        name = key.removeprefix(f"{self.folder}/")
        uri = self.storage.uri(f"{self._listed_in}/{name}" if self._listed_in else name)
        return FileEntry(uri=uri, bytes=length, sha256=sha256, rows=rows)

    def verify(self) -> None:
        """Compare the files in the store with those that this run has stored.

        :raises D1StagingError: when a file is missing or has another size.
        """
        found = self.storage.list(self.folder)
        for key, length in self._stored.items():
            if found.get(key) != length:
                raise D1StagingError(
                    f"{self.storage.uri(key)}: expected {counted(length, 'byte')}, found {found.get(key)}."
                    " Another process has changed the files of this run; stage again."
                )
