"""Staged files in a folder of the local file system."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from airflow_provider_d1.exceptions import D1StagingError
from airflow_provider_d1.storage.base import CHUNK

#: prefix of unfinished files and work folders, by which leftovers of a killed run are found
WORK_PREFIX = ".d1-staging-"

#: an unfinished file at the root is a leftover when it is older
_DAY_SECONDS = 86_400.0
#: how often to create a folder again that another run has removed because it was empty
_ATTEMPTS = 10


class FolderStorage:
    """A folder of the local file system, or of a network share mounted into it.

    Files are written beside their final path, flushed to disk and renamed, so that a reader never finds an incomplete
    file, even after a power failure. The first write creates the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).resolve()
        self._cancelled = threading.Event()
        self._created = not self.path.exists()

    def uri(self, key: str) -> str:
        """``file:///…``, with reserved characters percent-encoded."""
        return self._target(key).as_uri()

    def key(self, uri: str) -> str | None:
        """Key of a ``file:///…`` URI; links are resolved, so that none can refer to a file outside."""
        parts = urlsplit(uri)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
            return None
        # '#' and '?' in a path are percent-encoded
        path = Path(unquote(parts.path))
        if ".." in path.parts:
            return None
        try:
            return path.resolve().relative_to(self.path).as_posix()
        except ValueError:
            return None

    def folders(self) -> list[str]:
        """Folders at the root, without links and work folders."""
        return [
            entry.name
            for entry in _scan(self.path)
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(WORK_PREFIX)
        ]

    def list(self, folder: str = "") -> dict[str, int]:
        """Regular files; symbolic links are not followed, unfinished files are not listed."""
        root = self._target(folder) if folder else self.path
        return {file.relative_to(self.path).as_posix(): size for file, size in _files(root)}

    def size(self, key: str) -> int | None:
        """Size of a regular file."""
        path = self._target(key)
        return path.stat().st_size if path.is_file() else None

    def local_path(self, key: str) -> Path:
        """The file's path."""
        return self._target(key)

    def put_file(self, key: str, path: Path) -> None:
        """Move the file; from another file system it is copied."""
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
        return self._write(key, iter(lambda: stream.read(CHUNK), b""))

    def replace(self, key: str, data: bytes, *, expected: bytes | None) -> bool:
        """Compare and write under a lock on the folder, where the file system has locks."""
        with _locked(self._parent_made(key).parent):
            if self.read_bytes(key) != expected:
                return False
            self.put_bytes(key, data)
            return True

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
            if os.path.lexists(target):  # on a read-only file system unlink fails even for a missing file
                target.unlink(missing_ok=True)
            folders.add(target.parent)
        for folder in folders:
            self._prune(folder)

    def check_writable(self) -> None:
        """Create and remove an empty folder, in this folder or its nearest existing parent."""
        folder = self.path
        while not folder.exists():
            folder = folder.parent
        try:
            with tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=folder):
                pass
        except OSError as error:
            raise D1StagingError(f"cannot write to {self.path.as_uri()}: {error}", retryable=False) from error

    def cancel(self) -> None:
        """Stop copies at the next mebibyte."""
        self._cancelled.set()

    def discard_unfinished(self, ours: Callable[[str], bool]) -> None:
        """Remove unfinished files; at the root, where their run is unknown, those older than a day."""
        for entry in _scan(self.path):
            if entry.is_dir(follow_symlinks=False):
                for inner in _scan(Path(entry.path)):
                    if inner.name.startswith(WORK_PREFIX) and ours(f"{entry.name}/{inner.name}"):
                        Path(inner.path).unlink(missing_ok=True)
                        self._prune(Path(entry.path))
            elif entry.name.startswith(WORK_PREFIX) and _age(entry) > _DAY_SECONDS:
                Path(entry.path).unlink(missing_ok=True)

    def _target(self, key: str) -> Path:
        if not key or ".." in Path(key).parts or Path(key).is_absolute():
            raise D1StagingError(f"key {key!r} is not inside the staging folder")
        return self.path / key

    def _parent_made(self, key: str) -> Path:
        self._stop_if_cancelled()
        target = self._target(key)
        for _ in range(_ATTEMPTS):
            # another run may remove an empty parent at the same time
            with contextlib.suppress(FileNotFoundError):
                target.parent.mkdir(parents=True, exist_ok=True)
                break
        return target

    def _write(self, key: str, chunks: Iterable[bytes]) -> int:
        target, file = self._opened(key)
        unfinished = Path(file.name)
        try:
            with file:
                for chunk in chunks:
                    self._stop_if_cancelled()
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                length = os.fstat(file.fileno()).st_size
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            self._prune(target.parent)
            raise
        _sync_folder(target.parent)
        return length

    def _opened(self, key: str) -> tuple[Path, io.BufferedWriter]:
        """A new unfinished file: in the folder of the run that writes it, or at the root for a file there."""
        top = key.partition("/")[0] if "/" in key else ""
        for attempt in range(_ATTEMPTS):
            target = self._parent_made(key)
            unfinished = self.path / top / f"{WORK_PREFIX}{secrets.token_hex(8)}"
            try:
                return target, unfinished.open("xb")
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError

    def _stop_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise D1StagingError("the staging run was stopped")

    def _prune(self, folder: Path) -> None:
        """Remove a folder that has become empty; the root only if this object created it."""
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


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    if folder.is_symlink():
        return
    for entry in _scan(folder):
        if entry.name.startswith(WORK_PREFIX):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):
                yield Path(entry.path), entry.stat().st_size


def _age(entry: os.DirEntry[str]) -> float:
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0.0


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder; ignored where the file system has no locks (some network shares)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the file system allows it; not needed for correctness."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
