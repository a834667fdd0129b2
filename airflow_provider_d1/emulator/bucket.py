"""Where finished dumps lie until they are fetched, and the thread that writes one."""

from __future__ import annotations

import hashlib
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_d1.emulator.dump_writer import VirtualTableError, chunks, refuse_virtual_tables

if TYPE_CHECKING:
    from airflow_provider_d1.emulator.databases import LocalDatabase
    from airflow_provider_d1.emulator.dump_writer import DumpOptions


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A dump that can be fetched."""

    path: Path
    size: int
    etag: str


class Bucket:
    """Objects by key; ready dumps are served from where they lie.

    :param folder: for the dumps that are written here.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._objects: dict[str, StoredObject] = {}

    def new_file(self) -> Path:
        """Where an object is to be written."""
        return self._folder / f"{uuid.uuid4().hex}.dump"

    def put(self, key: str, path: Path, etag: str | None = None) -> None:
        """Make a file an object.

        :param etag: an MD5; without one it comes from the file's size and time, since reading gigabytes takes long.
        """
        stat = path.stat()
        made_up = hashlib.md5(f"{stat.st_size}-{stat.st_mtime_ns}".encode(), usedforsecurity=False).hexdigest()
        self._objects[key] = StoredObject(path, stat.st_size, etag or made_up)

    def get(self, key: str) -> StoredObject | None:
        """The object of that key."""
        return self._objects.get(key)


class DumpThread:
    """Writes one dump into the bucket, in a thread of its own.

    :param database: what is dumped.
    :param options: which part of it.
    :param bucket: where it goes.
    :param key: under which name.
    :param no_virtual_tables: a virtual table anywhere in the database is an error, also when the options leave it out.
    """

    def __init__(
        self, database: LocalDatabase, options: DumpOptions, bucket: Bucket, key: str, *, no_virtual_tables: bool
    ) -> None:
        self._database = database
        self._options = options
        self._bucket = bucket
        self._key = key
        self._no_virtual_tables = no_virtual_tables
        self._cancelled = threading.Event()
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"dump {database.name}", daemon=True)
        self._thread.start()

    @property
    def finished(self) -> bool:
        """Whether the dump is whole, or failed."""
        return not self._thread.is_alive()

    @property
    def error(self) -> str | None:
        """Why it failed; None while it goes well."""
        return self._error

    def cancel(self) -> None:
        """Stop at the next piece; nothing is put into the bucket then."""
        self._cancelled.set()

    def join(self, seconds: float | None = None) -> None:
        """Wait for the end, at most so long."""
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
                for chunk in chunks(connection, self._options):
                    if self._cancelled.is_set():
                        break
                    digest.update(chunk)
                    file.write(chunk)
        except VirtualTableError as error:
            self._error = str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the poll tells it
            self._error = f"D1 Export error: {error}"
        if self._error is not None or self._cancelled.is_set():
            path.unlink(missing_ok=True)
        else:
            self._bucket.put(self._key, path, digest.hexdigest())
