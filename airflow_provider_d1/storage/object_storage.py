"""Staged files in a store that fsspec supports: Google Cloud Storage, Azure, a network share.

The caller passes the path; importing this module imports neither fsspec nor Airflow.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from airflow_provider_d1.exceptions import D1StagingError
from airflow_provider_d1.storage.base import CHUNK, below


class ObjectStorage:
    """A prefix of an object store that fsspec supports.

    Whether a file appears only when its upload is complete depends on the store's fsspec package, so readers use the
    manifest. fsspec does not list the unfinished uploads of a killed process; a lifecycle rule of the bucket can remove
    them.

    :param path: Airflow's ``ObjectStoragePath`` of the prefix; its ``conn_id`` provides the credentials. URIs are
        written without it.
    """

    def __init__(self, path: Any) -> None:  # noqa: ANN401 # Airflow's class, which this package does not import
        self._fs: Any = path.fs
        self._root: str = path.path.rstrip("/")
        self._origin = f"{path.protocol}://{self._root.lstrip('/')}"
        self._cancelled = threading.Event()

    @property
    def azure_account(self) -> str | None:
        """The storage account, which Azure's URIs lack; None in other stores."""
        account = getattr(self._fs, "account_name", None)
        return str(account) if account else None

    def uri(self, key: str) -> str:
        """``gs://bucket/prefix/key``."""
        return f"{self._origin}/{key}"

    def key(self, uri: str) -> str | None:
        """Key of a URI, with or without a connection in it."""
        scheme, _, rest = uri.partition("://")
        netloc, slash, path = rest.partition("/")
        return below(self.uri(""), f"{scheme}://{netloc.rpartition('@')[2]}{slash}{path}")

    def folders(self) -> list[str]:
        """Folders at the root, without fsspec's cache."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        return [info["name"].rstrip("/").rpartition("/")[2] for info in found if info["type"] == "directory"]

    def list(self, folder: str = "") -> dict[str, int]:
        """Files below a folder, without fsspec's cache."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.find(self._target(folder) if folder else self._root, detail=True)
        except FileNotFoundError:
            return {}
        start = len(self._fs._strip_protocol(self._root)) + 1  # noqa: SLF001 - fsspec's own way to a bare path
        return {name[start:]: info["size"] for name, info in found.items() if info["type"] == "file"}

    def size(self, key: str) -> int | None:
        """Size of a file."""
        self._fs.invalidate_cache()
        try:
            size: int = self._fs.size(self._target(key))
        except FileNotFoundError:
            return None
        return size

    def local_path(self, key: str) -> None:
        """Always None."""

    def put_file(self, key: str, path: Path) -> None:
        """Upload a file."""
        with path.open("rb") as file:
            self.put_stream(key, file)

    def put_bytes(self, key: str, data: bytes) -> None:
        """Upload a small file in one piece."""
        self._stop_if_cancelled()
        self._make_folder(key)
        self._fs.pipe_file(self._target(key), data)

    def put_stream(self, key: str, stream: io.BufferedIOBase) -> int:
        """Upload a stream of unknown length, with a few mebibytes in memory."""
        self._stop_if_cancelled()
        self._make_folder(key)
        file = self._fs.open(self._target(key), "wb")
        try:
            while chunk := stream.read(CHUNK):
                self._stop_if_cancelled()
                file.write(chunk)
            file.close()
        except BaseException:
            self._discard(file, key)
            raise
        self._fs.invalidate_cache()
        length: int = self._fs.size(self._target(key))
        return length

    def replace(self, key: str, data: bytes, *, expected: bytes | None) -> bool:
        """Compare, then write: two steps, as fsspec has no conditional write."""
        if self.read_bytes(key) != expected:
            return False
        self.put_bytes(key, data)
        return True

    def fetch(self, key: str, path: Path) -> None:
        """Download a file."""
        self._fs.get_file(self._target(key), str(path))

    def read_bytes(self, key: str) -> bytes | None:
        """Content of a small file; None when there is none."""
        try:
            content: bytes = self._fs.cat_file(self._target(key))
        except FileNotFoundError:
            return None
        return content

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files one by one; a missing file is not an error."""
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._target(key))

    def check_writable(self) -> None:
        """Write an empty file and delete it."""
        key = f"_d1_write_check-{secrets.token_hex(4)}"
        try:
            self.put_bytes(key, b"")
        except (FileNotFoundError, PermissionError) as error:
            raise D1StagingError(
                f"cannot write to {self.uri('')}: {type(error).__name__}: {error}. Check the path, and the credentials"
                " and permissions of its connection",
                retryable=False,
            ) from error
        with contextlib.suppress(OSError):  # without permission to delete, an empty file remains
            self.delete([key])

    def cancel(self) -> None:
        """Stop uploads at their next mebibyte."""
        self._cancelled.set()

    def discard_unfinished(self, ours: Callable[[str], bool]) -> None:
        """Do nothing: fsspec does not list unfinished uploads."""

    def _target(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _make_folder(self, key: str) -> None:
        """Create the folder, which stores with real folders need; in a bucket this has no effect."""
        if "/" in key:
            self._fs.makedirs(self._target(key).rpartition("/")[0], exist_ok=True)

    def _discard(self, file: Any, key: str) -> None:  # noqa: ANN401 - see __init__
        """Abort an upload and delete the file; errors are ignored in favour of the first one."""
        with contextlib.suppress(Exception):
            file.discard()
        # closing completes an upload, and the garbage collector closes files too
        with contextlib.suppress(Exception):
            file.closed = True
        with contextlib.suppress(Exception):
            self.delete([key])

    def _stop_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise D1StagingError("the staging run was stopped")
