"""Where staged files lie: on this machine, in S3, or wherever ``ObjectStoragePath`` reaches."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from airflow_provider_d1.exceptions import D1ConfigurationError, D1ManifestError

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.base import Part, Table

_BLOCK = 1 << 20


class Store(Protocol):
    """Reads staged files of one kind of URI."""

    def size(self, uri: str) -> int | None:
        """Stored bytes, None when there is no such file."""

    def read(self, uri: str) -> bytes | None:
        """A small file whole, None when there is no such file."""

    def fetch(self, uri: str, target: Path) -> None:
        """Copy a file to ``target``."""

    def local(self, uri: str) -> Path | None:
        """The file itself where it lies on this machine; None where it has to be fetched."""


class LocalStore:
    """``file:///…`` URIs, percent-encoded."""

    def size(self, uri: str) -> int | None:
        """Stored bytes, None when there is no such file."""
        path = self.local(uri)
        return path.stat().st_size if path.is_file() else None

    def read(self, uri: str) -> bytes | None:
        """A small file whole, None when there is no such file."""
        path = self.local(uri)
        return path.read_bytes() if path.is_file() else None

    def fetch(self, uri: str, target: Path) -> None:
        """Copy a file to ``target``."""
        target.write_bytes(self.local(uri).read_bytes())

    def local(self, uri: str) -> Path:
        """The path that the URI names."""
        parts = urlsplit(uri)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
            raise D1ManifestError(f"{uri} is not a file:/// URI of this machine")
        # only the scheme's own separators end a path: '#' and '?' in it are percent-encoded
        return Path(unquote(parts.path))


class S3Store:
    """``s3://bucket/key`` URIs, through an Airflow connection.

    :param hook: the amazon provider's ``S3Hook``.
    """

    def __init__(self, hook: Any) -> None:
        self.hook = hook

    def size(self, uri: str) -> int | None:
        """Stored bytes, None when there is no such object or bucket."""
        bucket, key = split_s3(uri)
        head = self.hook.head_object(key=key, bucket_name=bucket)
        return None if head is None else int(head["ContentLength"])

    def read(self, uri: str) -> bytes | None:
        """A small object whole, None when there is none."""
        if self.size(uri) is None:
            return None
        bucket, key = split_s3(uri)
        with self.hook.get_conn().get_object(Bucket=bucket, Key=key)["Body"] as body:
            return bytes(body.read())

    def fetch(self, uri: str, target: Path) -> None:
        """Download an object to ``target``."""
        bucket, key = split_s3(uri)
        self.hook.get_conn().download_file(bucket, key, str(target))

    def local(self, uri: str) -> None:  # noqa: ARG002 - the protocol's
        """Never on this machine."""
        return


class ObjectStore:
    """Any other scheme, through Airflow's ``ObjectStoragePath``.

    :param conn_id: the connection that the manifest's URI names (``gs://conn@bucket/…``), if it does.
    """

    def __init__(self, conn_id: str | None) -> None:
        self._conn_id = conn_id

    def size(self, uri: str) -> int | None:
        """Stored bytes, None when there is no such object."""
        path = self._path(uri)
        return int(path.stat().st_size) if path.is_file() else None

    def read(self, uri: str) -> bytes | None:
        """A small object whole, None when there is none."""
        path = self._path(uri)
        return bytes(path.read_bytes()) if path.is_file() else None

    def fetch(self, uri: str, target: Path) -> None:
        """Download an object to ``target``."""
        with self._path(uri).open("rb") as source, target.open("wb") as copy:
            while block := source.read(_BLOCK):
                copy.write(block)

    def local(self, uri: str) -> None:  # noqa: ARG002 - the protocol's
        """Never on this machine."""
        return

    def _path(self, uri: str) -> Any:
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        return ObjectStoragePath(uri, conn_id=None if "@" in urlsplit(uri).netloc else self._conn_id)


def split_s3(uri: str) -> tuple[str, str]:
    """Bucket and key of an ``s3://`` URI; the key is taken as it stands.

    :raises D1ManifestError: when it is no such URI.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or not key:
        raise D1ManifestError(f"{uri} is not an s3:// URI with a bucket and a key")
    return bucket, key


def store_for(uri: str, aws_conn_id: str | None) -> Store:
    """The store that reads a URI, and every other file of its manifest.

    :raises D1ConfigurationError: when it is not a URI.
    """
    scheme = urlsplit(uri).scheme
    if scheme == "file":
        return LocalStore()
    if scheme == "s3":
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        return S3Store(S3Hook(aws_conn_id=aws_conn_id))
    if not scheme:
        raise D1ConfigurationError(f"manifest is {uri!r}: not a URI (s3://…, file:///…) and not a transfer's output")
    netloc = urlsplit(uri).netloc
    return ObjectStore(netloc.rpartition("@")[0] or None)


class StagedFiles:
    """The files of a manifest: checked against it, and handed out as local files one after the other.

    :param store: reads them.
    :param manifest_uri: parts must lie in the same kind of store as the manifest, so that a manifest in a bucket
        can't make a worker read its own disk.
    :param verify_checksums: compare the SHA-256 of each part, besides its size.
    """

    def __init__(self, store: Store, manifest_uri: str, *, verify_checksums: bool) -> None:
        self.store = store
        self._scheme = urlsplit(manifest_uri).scheme
        self._verify = verify_checksums

    def check(self, table: Table) -> None:
        """Look at every part's size without reading it.

        :raises D1ManifestError: for a part that is missing or not as long as the manifest says.
        """
        for part in table.parts:
            if urlsplit(part.uri).scheme != self._scheme:
                raise D1ManifestError(f"table {table.name!r}: {part.uri} is not in the manifest's own store")
            size = self.store.size(part.uri)
            if size is None:
                raise _changed(table, part, "is missing")
            if size != part.bytes:
                raise _changed(table, part, f"has {size} bytes, the manifest says {part.bytes}")

    def check_contents(self, table: Table) -> None:
        """Where the warehouse reads the parts by itself: read them once here, if checksums are to be verified.

        :raises D1ManifestError: for a part whose SHA-256 is not the manifest's.
        """
        if self._verify:
            for _ in self.opened(table):
                pass

    def opened(self, table: Table) -> Iterator[tuple[Part, Path]]:
        """Each part as a file on this machine, while the loop body runs; the next one is fetched meanwhile.

        :raises D1ManifestError: for a part whose SHA-256 is not the manifest's.
        """
        with tempfile.TemporaryDirectory(prefix="d1-load-") as folder, ThreadPoolExecutor(1) as ahead:
            coming: Future[Path] | None = None
            for number, part in enumerate(table.parts):
                path = self._bring(table, part, Path(folder), number) if coming is None else coming.result()
                coming = None
                if number + 1 < len(table.parts) and self.store.local(part.uri) is None:
                    coming = ahead.submit(self._bring, table, table.parts[number + 1], Path(folder), number + 1)
                yield part, path
                if path.parent == Path(folder):
                    path.unlink()

    def _bring(self, table: Table, part: Part, folder: Path, number: int) -> Path:
        path = self.store.local(part.uri)
        if path is None:
            path = folder / f"{number:05d}-{Path(urlsplit(part.uri).path).name[-60:]}"
            self.store.fetch(part.uri, path)
        size = path.stat().st_size if path.is_file() else None
        if size != part.bytes:
            raise _changed(table, part, f"has {size} bytes, the manifest says {part.bytes}")
        if self._verify and _sha256(path) != part.sha256:
            raise _changed(table, part, "has another SHA-256 than the manifest says")
        return path


def _changed(table: Table, part: Part, what: str) -> D1ManifestError:
    """Retryable: if a newer staging run has replaced the file, the next attempt reads that run's manifest."""
    return D1ManifestError(f"table {table.name!r}: its part {part.uri} {what}", retryable=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
