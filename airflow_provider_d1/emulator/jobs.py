"""Threads that write a dump or run an import while the API answers requests."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

from airflow_provider_d1.emulator.dump_writer import VirtualTableError, chunks, refuse_virtual_tables

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.models import ExportOptions
    from airflow_provider_d1.emulator.bucket import Bucket, StoredObject
    from airflow_provider_d1.emulator.databases import LocalDatabase
    from airflow_provider_d1.emulator.imports import ImportStatistics


class DumpThread:
    """Writes one dump into the bucket, in its own thread.

    :param database: the database to dump.
    :param options: which part of it.
    :param bucket: where the dump is stored.
    :param key: the name of the object.
    :param no_virtual_tables: a virtual table anywhere in the database is an error, even when the options exclude it.
    :param old_newlines: write newlines as D1 did until autumn 2026.
    """

    def __init__(
        self,
        database: LocalDatabase,
        options: ExportOptions,
        bucket: Bucket,
        key: str,
        *,
        no_virtual_tables: bool,
        old_newlines: bool,
    ) -> None:
        self._database = database
        self._options = options
        self._bucket = bucket
        self._key = key
        self._no_virtual_tables = no_virtual_tables
        self._old_newlines = old_newlines
        self._cancelled = threading.Event()
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"dump {database.name}", daemon=True)
        self._thread.start()

    @property
    def finished(self) -> bool:
        """Whether the dump is complete or has failed."""
        return not self._thread.is_alive()

    @property
    def error(self) -> str | None:
        """The error of a failed job, otherwise None."""
        return self._error

    def cancel(self) -> None:
        """Stop at the next piece; nothing is stored then."""
        self._cancelled.set()

    def join(self, seconds: float | None = None) -> None:
        """Wait for the end, at most for ``seconds``."""
        self._thread.join(seconds)

    def _run(self) -> None:
        path = self._bucket.new_file()
        digest = hashlib.md5(usedforsecurity=False)
        try:
            if self._database.ready_dump is not None:
                self._bucket.put(self._key, self._database.ready_dump)
                return
            with path.open("wb") as file, self._database.reader() as connection:
                if self._no_virtual_tables:
                    refuse_virtual_tables(connection)
                for chunk in chunks(connection, self._options, old_newlines=self._old_newlines):
                    if self._cancelled.is_set():
                        break
                    digest.update(chunk)
                    file.write(chunk)
        except VirtualTableError as error:
            self._error = str(error)
        except Exception as error:  # noqa: BLE001 - the poll reports any error
            self._error = f"D1 Export error: {error}"
        if self._error is not None or self._cancelled.is_set():
            path.unlink(missing_ok=True)
        else:
            self._bucket.put(self._key, path, digest.hexdigest())


class ImportThread:
    """Runs one uploaded script, in its own thread.

    :param database: the database that it changes.
    :param script: the uploaded file.
    """

    def __init__(self, database: LocalDatabase, script: StoredObject) -> None:
        self._database = database
        self._script = script
        self._cancelled = threading.Event()
        self._error: str | None = None
        self._statistics: ImportStatistics | None = None
        self._thread = threading.Thread(target=self._run, name=f"import {database.name}", daemon=True)
        self._thread.start()

    @property
    def finished(self) -> bool:
        """Whether the script has ended."""
        return not self._thread.is_alive()

    @property
    def error(self) -> str | None:
        """The error of a failed job, otherwise None."""
        return self._error if self.finished else None

    @property
    def statistics(self) -> ImportStatistics:
        """Its statistics; only once it is finished."""
        if self._statistics is None:
            raise RuntimeError("the import has not finished")
        return self._statistics

    def cancel(self) -> None:
        """Stop before the next statement, and undo all statements."""
        self._cancelled.set()

    def join(self, seconds: float | None = None) -> None:
        """Wait for the end, at most for ``seconds``."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            sql = self._script.path.read_bytes().decode()
            self._statistics = self._database.import_script(sql, self._cancelled)
        except Exception as error:  # noqa: BLE001 - the poll reports any error
            self._error = str(error)
