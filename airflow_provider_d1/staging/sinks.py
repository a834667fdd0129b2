"""Where staged files go: the protocol that a store has to offer, and the local folder.

Keys are relative to the sink's root (folder, or bucket and prefix), use ``/`` and are at most one folder deep. A file
appears under its key whole or not at all.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from airflow_provider_d1.exceptions import D1StagingError

#: what unfinished files and work folders inside a sink's folder begin with; leftovers of a killed run are known by it
WORK_PREFIX = ".d1-staging-"

_CHUNK = 1 << 20


class Sink(Protocol):
    """A place for staged files. Methods may be called from several threads at once."""

    def uri(self, key: str) -> str:
        """Absolute URI of a key."""

    def list(self) -> dict[str, int]:
        """Keys and sizes in bytes of the files at the root and one folder below it; deeper ones may be left out."""

    def put_file(self, key: str, path: Path) -> None:
        """Store a local file under a key; the file may be moved rather than copied."""

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store a small file."""

    def put_stream(self, key: str, stream: io.BufferedIOBase) -> int:
        """Store everything that a stream yields, in bounded memory and without a local copy.

        ``read(n)`` of a buffered stream gives n bytes, and fewer only at the end: boto3 for one depends on it. When the
        stream raises, the error passes through and nothing is left under the key.

        :returns: the stored length in bytes, as the store itself reports it.
        """

    def fetch(self, key: str, path: Path) -> None:
        """Copy a stored file into a local one."""

    def read_bytes(self, key: str) -> bytes | None:
        """Content of a small file; None when there is no such key."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files; a key that is gone already is no error."""

    def cancel(self) -> None:
        """Make the puts under way in other threads end with an error soon, and later ones at once."""

    def discard_unfinished(self, ours: Callable[[str], bool]) -> None:
        """Remove what interrupted puts have left, of this process or an earlier one.

        :param ours: tells whether a staging run could have been writing a key.
        """


class FolderSink:
    """A folder of the local file system (or of a network share mounted into it).

    Files are written beside their place, flushed to disk and renamed, so that a reader or a power cut never meets half
    a file. The folder is created by the first put.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).resolve()
        self._cancelled = threading.Event()
        self._created = not self.path.exists()

    def uri(self, key: str) -> str:
        """``file:///…``, with what a URI cannot hold percent-encoded."""
        return self._target(key).as_uri()

    def list(self) -> dict[str, int]:
        """Regular files at the root and one folder below; symbolic links are not followed, work files not shown."""
        found: dict[str, int] = {}
        for entry in _scan(self.path):
            if entry.name.startswith(WORK_PREFIX):
                continue
            if entry.is_file(follow_symlinks=False):
                found[entry.name] = entry.stat().st_size
            elif entry.is_dir(follow_symlinks=False):
                for inner in _scan(Path(entry.path)):
                    if inner.is_file(follow_symlinks=False):
                        found[f"{entry.name}/{inner.name}"] = inner.stat().st_size
        return found

    def put_file(self, key: str, path: Path) -> None:
        """Move the file into place; from another file system it is copied."""
        target = self._parent_made(key)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        try:
            path.replace(target)
        except OSError:
            with path.open("rb") as file:
                self.put_stream(key, file)
        else:
            _sync_folder(target.parent)

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write, flush, rename."""
        self._write(key, [data])

    def put_stream(self, key: str, stream: io.BufferedIOBase) -> int:
        """Write, flush, rename; the length is the file's."""
        return self._write(key, iter(lambda: stream.read(_CHUNK), b""))

    def fetch(self, key: str, path: Path) -> None:
        """Copy."""
        shutil.copyfile(self._target(key), path)

    def read_bytes(self, key: str) -> bytes | None:
        """Whole content, None when the file is missing."""
        try:
            return self._target(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files, and the folders that this leaves empty."""
        folders: set[Path] = set()
        for key in keys:
            target = self._target(key)
            if os.path.lexists(target):  # on a read-only file system it is an error even to remove nothing
                target.unlink(missing_ok=True)
            folders.add(target.parent)
        for folder in folders:
            self._prune(folder)

    def cancel(self) -> None:
        """Stop copies at the next mebibyte."""
        self._cancelled.set()

    def discard_unfinished(self, ours: Callable[[str], bool]) -> None:  # noqa: ARG002 # their prefix tells
        """Remove work files and work folders, whoever left them."""
        for entry in _scan(self.path):
            if entry.name.startswith(WORK_PREFIX):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    Path(entry.path).unlink(missing_ok=True)
        self._prune(self.path)

    def _target(self, key: str) -> Path:
        if not key or ".." in Path(key).parts or Path(key).is_absolute():
            raise D1StagingError(f"{key!r} does not lie inside the staging folder")
        return self.path / key

    def _parent_made(self, key: str) -> Path:
        self._stop_if_cancelled()
        target = self._target(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _write(self, key: str, chunks: Iterable[bytes]) -> int:
        target = self._parent_made(key)
        unfinished = self.path / f"{WORK_PREFIX}{secrets.token_hex(8)}"
        try:
            with unfinished.open("xb") as file:
                for chunk in chunks:
                    self._stop_if_cancelled()
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                length = os.fstat(file.fileno()).st_size
            unfinished.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            self._prune(target.parent)
            raise
        _sync_folder(target.parent)
        return length

    def _stop_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise D1StagingError("The staging run was stopped")

    def _prune(self, folder: Path) -> None:
        """Remove a folder that has become empty; the root only if this sink made it."""
        while folder != self.path.parent and (folder != self.path or self._created):
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; not every file system allows it, and none needs it for correctness."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
