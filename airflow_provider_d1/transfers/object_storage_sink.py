"""Staged files in whatever Airflow's object storage reaches: Google Cloud Storage, Azure, a network share.

fsspec and a store's own package come in with the path; importing this module loads neither.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1StagingError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

_CHUNK = 1 << 20


class ObjectStorageSink:
    """A prefix of an object store that fsspec knows.

    Files appear when their upload is complete as far as the store's fsspec package sees to it; none is trusted before
    the manifest lists it. What a killed upload leaves inside the store is out of fsspec's sight: a lifecycle rule of
    the bucket removes it.

    :param path: the prefix; its ``conn_id`` gives the credentials. URIs are written without it.
    """

    def __init__(self, path: ObjectStoragePath) -> None:
        # fsspec makes its file systems at run time, so there is no type to give
        self._fs: Any = path.fs
        self._root: str = path.path.rstrip("/")
        self._origin = f"{path.protocol}://{self._root.lstrip('/')}"
        self._cancelled = threading.Event()

    def uri(self, key: str) -> str:
        """``gs://bucket/prefix/key``."""
        return f"{self._origin}/{key}"

    def list(self) -> dict[str, int]:
        """Files at the root and one folder below, as the store has them now."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.find(self._root, maxdepth=2, detail=True)
        except FileNotFoundError:
            return {}
        start = len(self._fs._strip_protocol(self._root)) + 1  # noqa: SLF001 - fsspec's own way to a bare path
        return {name[start:]: info["size"] for name, info in found.items() if info["type"] == "file"}

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
        """Upload a stream of unknown length, a few mebibytes in memory at a time."""
        self._stop_if_cancelled()
        self._make_folder(key)
        file = self._fs.open(self._target(key), "wb")
        try:
            while chunk := stream.read(_CHUNK):
                self._stop_if_cancelled()
                file.write(chunk)
            file.close()
        except BaseException:
            self._discard(file, key)
            raise
        self._fs.invalidate_cache()
        length: int = self._fs.size(self._target(key))
        return length

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
        """Delete files one by one; one that is gone already is no error."""
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._target(key))

    def cancel(self) -> None:
        """Stop uploads at their next mebibyte."""
        self._cancelled.set()

    def discard_unfinished(self, ours: Callable[[str], bool]) -> None:
        """Do nothing: fsspec shows no unfinished uploads."""

    def _target(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _make_folder(self, key: str) -> None:
        """Stores with real folders need them made; in a bucket this does nothing or no harm."""
        if "/" in key:
            self._fs.makedirs(self._target(key).rpartition("/")[0], exist_ok=True)

    def _discard(self, file: Any, key: str) -> None:  # noqa: ANN401 - see __init__
        """Abort an upload; whatever the store holds of it goes, and the first error stays in sight."""
        with contextlib.suppress(Exception):
            file.discard()
        # closing is what completes an upload, and a garbage collector closes files too
        with contextlib.suppress(Exception):
            file.closed = True
        with contextlib.suppress(Exception):
            self.delete([key])

    def _stop_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise D1StagingError("The staging run was stopped")
