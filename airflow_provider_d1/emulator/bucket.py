"""The object store for dumps and for files to import."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A stored file; ``etag`` is its MD5 where it was written here."""

    path: Path
    size: int
    etag: str


class Bucket:
    """Objects by key. A ready dump is served from its own path.

    :param folder: where the emulator writes dumps.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._objects: dict[str, StoredObject] = {}

    def new_file(self) -> Path:
        """The path for a new object."""
        return self._folder / f"{uuid.uuid4().hex}.dump"

    def put(self, key: str, path: Path, etag: str | None = None) -> None:
        """Add a file as an object.

        :param etag: an MD5; without one it is made from the file's size and time, since hashing gigabytes takes long.
        """
        stat = path.stat()
        made_up = hashlib.md5(f"{stat.st_size}-{stat.st_mtime_ns}".encode(), usedforsecurity=False).hexdigest()
        self._objects[key] = StoredObject(path, stat.st_size, etag or made_up)

    def get(self, key: str) -> StoredObject | None:
        """The object of that key."""
        return self._objects.get(key)
