"""The protocol for reading and writing one place: a folder, or a bucket and prefix.

Keys are relative to that root and use ``/``. A file appears under its key whole or not at all.
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
        """The file itself where it is on this machine; None where it has to be fetched."""

    def put_file(self, key: str, path: Path) -> None:
        """Store a local file under a key; the file may be moved rather than copied."""

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store a small file."""

    def put_stream(self, key: str, stream: io.BufferedIOBase) -> int:
        """Store everything that a stream yields, in bounded memory and without a local copy.

        ``read(n)`` of a buffered stream gives n bytes, and fewer only at the end; boto3 depends on it. When the stream
        raises, the error passes through and nothing is left under the key.

        :returns: the stored length in bytes, as the store itself reports it.
        """

    def replace(self, key: str, data: bytes, *, expected: bytes | None) -> bool:
        """Store a small file if its present content is what the caller last read.

        Atomic where the store can compare and replace in one step. Elsewhere two writers can both succeed, so a caller
        has to read the file again afterwards.

        :param expected: the content that was read; None when there was no such file.
        :returns: False when the content is another one by now; nothing is written then.
        """

    def fetch(self, key: str, path: Path) -> None:
        """Copy a stored file to a local path."""

    def read_bytes(self, key: str) -> bytes | None:
        """Content of a small file; None when there is no such key."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files; a key that does not exist is no error."""

    def check_writable(self) -> None:
        """Find out whether files can be written here, before an export makes a database unavailable for them.

        :raises D1StagingError: not retryable, when the place does not exist or may not be written.
        """

    def cancel(self) -> None:
        """Make the uploads in progress in other threads fail soon, and later ones at once."""

    def discard_unfinished(self, ours: Callable[[str], bool]) -> None:
        """Remove what interrupted uploads have left, of this process or an earlier one.

        :param ours: whether an upload to this key may be removed.
        """


def below(root: str, uri: str) -> str | None:
    """The key of a URI below a root that ends in ``/``; None for a URI elsewhere, or one with ``.`` or ``..`` in it.

    A store does not resolve dots in a key, but what reads it later, such as a warehouse, may.
    """
    if not uri.startswith(root):
        return None
    key = uri[len(root) :]
    return key if key and not {"", ".", ".."} & set(key.split("/")) else None
