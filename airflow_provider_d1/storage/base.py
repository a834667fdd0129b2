"""The protocol for reading and writing a folder, or a prefix of a bucket.

Keys are relative to that root and use ``/``. A file appears under its key completely or not at all.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

#: bytes that are copied at a time
CHUNK = 1 << 20


class Storage(Protocol):
    """Reads and writes the files below one root. Methods may be called from several threads at once."""

    def uri(self, key: str) -> str:
        """Absolute URI of a key."""

    def key(self, uri: str) -> str | None:
        """Key of a URI; None for one that is not below the root."""

    def folders(self) -> list[str]:
        """Names of the folders at the root."""

    def list(self, folder: str = "") -> dict[str, int]:
        """Keys and sizes in bytes of all files below a folder; below the root by default."""

    def size(self, key: str) -> int | None:
        """Size in bytes; None when there is no such file."""

    def local_path(self, key: str) -> Path | None:
        """The path of a file on this machine; None where it has to be fetched."""

    def put_file(self, key: str, path: Path) -> None:
        """Store a local file under a key; the file may be moved rather than copied."""

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store a small file."""

    def put_stream(self, key: str, stream: io.BufferedIOBase) -> int:
        """Store everything that a stream yields, in bounded memory and without a local copy.

        ``read(n)`` of a buffered stream returns n bytes, and fewer only at the end; boto3 depends on it. An error of
        the stream is raised, and nothing is stored under the key.

        :returns: the stored length in bytes, as the store reports it.
        """

    def replace(self, key: str, data: bytes, *, expected: bytes | None) -> bool:
        """Store a small file if its content has not changed since the caller read it.

        Atomic where the store can compare and replace in one step. Elsewhere two writers can both succeed, so a caller
        has to read the file again afterwards.

        :param expected: the content that was read; None when there was no such file.
        :returns: False when the content has changed; nothing is written then.
        """

    def fetch(self, key: str, path: Path) -> None:
        """Copy a stored file to a local path."""

    def read_bytes(self, key: str) -> bytes | None:
        """Content of a small file; None when there is no such key."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files; a missing key is not an error."""

    def check_writable(self) -> None:
        """Check that files can be written here, before an export makes a database unavailable.

        :raises D1StagingError: not retryable, when the root does not exist or cannot be written.
        """

    def cancel(self) -> None:
        """Stop uploads in other threads soon, and later ones at once."""

    def discard_unfinished(self, ours: Callable[[str], bool]) -> None:
        """Remove unfinished uploads of this process or an earlier one.

        :param ours: whether an upload to this key may be removed.
        """


def below(root: str, uri: str) -> str | None:
    """The key of a URI below a root that ends in ``/``; None for any other URI, or one with ``.`` or ``..`` in it.

    Stores do not resolve dots in a key, but other readers, such as a warehouse, may.
    """
    if not uri.startswith(root):
        return None
    key = uri[len(root) :]
    return key if key and not {"", ".", ".."} & set(key.split("/")) else None
