"""The files of a manifest, checked against it, as a warehouse reads them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow_provider_d1.exceptions import D1ConfigurationError, D1ManifestError
from airflow_provider_d1.staging.streams import file_sha256
from airflow_provider_d1.storage.folder import FolderStorage
from airflow_provider_d1.storage.object_storage import ObjectStorage
from airflow_provider_d1.storage.s3 import S3Storage

if TYPE_CHECKING:
    from airflow_provider_d1.storage.base import Storage
    from airflow_provider_d1.warehouses.plan import Part, Table


def split_s3(uri: str) -> tuple[str, str]:
    """Bucket and key of an ``s3://`` URI; the key is taken literally.

    :raises D1ManifestError: when it is no such URI.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or not key:
        raise D1ManifestError(f"{uri} is not an s3:// URI with a bucket and a key")
    return bucket, key


def storage_of(manifest_uri: str, aws_conn_id: str | None) -> tuple[Storage, str]:
    """The folder that a manifest is in, as a storage, and the manifest's key in it.

    :raises D1ConfigurationError: when it is not a URI.
    :raises D1ManifestError: when it is a URI that cannot be read from here.
    """
    parts = urlsplit(manifest_uri)
    folder, _, name = manifest_uri.rpartition("/")
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise D1ManifestError(f"{manifest_uri} is not a file:/// URI of this machine")
        path = Path(unquote(parts.path))
        return FolderStorage(path.parent), path.name
    if parts.scheme == "s3":
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        bucket, key = split_s3(manifest_uri)
        return S3Storage(S3Hook(aws_conn_id=aws_conn_id), bucket, key.rpartition("/")[0]), name
    if not parts.scheme:
        raise D1ConfigurationError(
            f"manifest is {manifest_uri!r}: not a URI (s3://…, file:///…) and not a transfer's output"
        )
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    return ObjectStorage(ObjectStoragePath(folder)), name


#: more parts than this are listed: a list takes one request for each thousand files of the folder
_LISTED_FROM = 20


class StagedFiles:
    """The files of a manifest: checked against it, and available as local files one after the other.

    :param storage: the folder that the manifest is in. Files elsewhere are refused, so that whoever can write one
        prefix cannot make a worker read anything else.
    :param verify_checksums: compare the SHA-256 of each part, besides its size.
    """

    def __init__(self, storage: Storage, *, verify_checksums: bool) -> None:
        self.storage = storage
        self._verify = verify_checksums

    @property
    def s3_hook(self) -> Any | None:
        """The amazon provider's ``S3Hook`` where the files are in S3, else None."""
        return self.storage.hook if isinstance(self.storage, S3Storage) else None

    @property
    def azure_account(self) -> str | None:
        """The storage account where the files are in Azure and fsspec's file system knows it, else None."""
        return self.storage.azure_account if isinstance(self.storage, ObjectStorage) else None

    def check(self, *tables: Table) -> None:
        """Look at the sizes of all parts without reading them: of many by listing their folder, of few one by one.

        :raises D1ManifestError: for a part that is outside the manifest's folder, or missing, or of another size.
        """
        keys = [(table, part, self._key(table, part)) for table in tables for part in table.parts]
        size: Callable[[str], int | None] = self.storage.size
        if len(keys) > _LISTED_FROM:
            folders = {key.partition("/")[0] for _, _, key in keys}
            size = self.storage.list(folders.pop() if len(folders) == 1 else "").get
        for table, part, key in keys:
            self._check_size(table, part, size(key))

    def local(self, uri: str) -> Path | None:
        """A file of the manifest's folder where it is on this machine; None where it has to be fetched."""
        key = self.storage.key(uri)
        return None if key is None else self.storage.local_path(key)

    def check_contents(self, table: Table) -> None:
        """Where the warehouse reads the parts: read them once here, if checksums are to be verified.

        :raises D1ManifestError: for a part whose SHA-256 is not the manifest's.
        """
        if self._verify:
            for _ in self.opened(table):
                pass

    def opened(self, table: Table) -> Iterator[tuple[Part, Path]]:
        """Each part as a file on this machine, while the loop body runs; the next one is fetched in the background.

        :raises D1ManifestError: for a part whose SHA-256 is not the manifest's.
        """
        with tempfile.TemporaryDirectory(prefix="d1-load-") as folder, ThreadPoolExecutor(1) as ahead:
            coming: Future[Path] | None = None
            for number, part in enumerate(table.parts):
                path = self._bring(table, part, Path(folder), number) if coming is None else coming.result()
                coming = None
                if number + 1 < len(table.parts) and self.local(part.uri) is None:
                    coming = ahead.submit(self._bring, table, table.parts[number + 1], Path(folder), number + 1)
                yield part, path
                if path.parent == Path(folder):
                    path.unlink()

    def _bring(self, table: Table, part: Part, folder: Path, number: int) -> Path:
        key = self._key(table, part)
        path = self.storage.local_path(key)
        if path is None:
            path = folder / f"{number:05d}-{key.rpartition('/')[2][-60:]}"
            try:
                self.storage.fetch(key, path)
            except Exception as error:
                if self.storage.size(key) is None:
                    raise _changed(table, part, "is missing") from error
                raise
        self._check_size(table, part, path.stat().st_size if path.is_file() else None)
        if self._verify and file_sha256(path) != part.sha256:
            raise _changed(table, part, "has another SHA-256 than the manifest says")
        return path

    def _key(self, table: Table, part: Part) -> str:
        key = self.storage.key(part.uri)
        if key is None:
            raise D1ManifestError(f"table {table.name!r}: {part.uri} is not in the manifest's folder; it is not read")
        return key

    def _check_size(self, table: Table, part: Part, size: int | None) -> None:
        if size is None:
            raise _changed(table, part, "is missing")
        if size != part.bytes:
            raise _changed(table, part, f"has {size} bytes, the manifest says {part.bytes}")


def _changed(table: Table, part: Part, what: str) -> D1ManifestError:
    """Retryable: if a newer staging run has replaced the file, the next attempt reads that run's manifest."""
    return D1ManifestError(f"table {table.name!r}: its part {part.uri} {what}", retryable=True)
