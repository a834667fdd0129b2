"""A staged dump as a backup: find it in a manifest, and check its database and its content."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1ConfigurationError, D1ImportFileError, D1ManifestError
from airflow_provider_d1.staging.encryption import decrypt_file, missing_key
from airflow_provider_d1.staging.manifest import read_manifest
from airflow_provider_d1.staging.streams import file_sha256

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.credentials import Secret
    from airflow_provider_d1.cloudflare.models import Database
    from airflow_provider_d1.into_d1.sql_script import ScriptSummary
    from airflow_provider_d1.staging.manifest import Manifest
    from airflow_provider_d1.staging.manifest_tables import FileEntry
    from airflow_provider_d1.storage.base import Storage


@dataclass(frozen=True, slots=True)
class Backup:
    """The dump that a manifest lists.

    :param uri: URI of the run's own manifest, which does not change.
    :param key: the dump's key in the folder of the manifest that was read.
    :param file: size and SHA-256 of the stored file, as it is: compressed or not, encrypted or not.
    """

    manifest: Manifest
    uri: str
    key: str
    file: FileEntry

    def check_origin(self, expected: str | None, target: Database) -> None:
        """Refuse the backup of another database.

        :param expected: name or UUID of the expected database; None for the target itself.
        :raises D1ConfigurationError: for another database; the message names both.
        """
        source = self.manifest.source
        found = {name.lower() for name in (source.database_id, source.database_name) if name}
        wanted = target.uuid if expected is None else expected
        if wanted.lower() in found:
            return
        there = f"{source.database_name!r} ({source.database_id})"
        here = f"{target.name!r} ({target.uuid})" if expected is None else repr(expected)
        raise D1ConfigurationError(
            f"{self.file.uri} is a backup of database {there}, expected {here}. Pass"
            f" source_database={source.database_name or source.database_id!r} if it is the one to restore."
        )

    def check_stored(self, path: Path) -> None:
        """Compare the stored file with the manifest.

        :raises D1ImportFileError: when it has other bytes.
        """
        size = path.stat().st_size
        if size != self.file.bytes:
            raise D1ImportFileError(f"{self.file.uri} has {size} bytes, expected {self.file.bytes} as in the manifest")
        if file_sha256(path) != self.file.sha256:
            raise D1ImportFileError(f"{self.file.uri} has changed: its SHA-256 differs from the manifest")

    def check_dump(self, summary: ScriptSummary) -> None:
        """Compare its uncompressed content with the manifest.

        :raises D1ImportFileError: when it is another dump.
        """
        dump = self.manifest.dump
        if (summary.bytes, summary.sha256) != (dump.bytes, dump.sha256):
            raise D1ImportFileError(
                f"{self.file.uri} contains a dump of {summary.bytes} bytes with SHA-256 {summary.sha256}, expected"
                f" {dump.bytes} bytes and {dump.sha256} as in the manifest"
            )


def fetch_stored(storage: Storage, key: str, folder: Path, age_key: Secret | None = None) -> Path:
    """A stored file on this machine, decrypted: where it is, or in a temporary folder.

    :param age_key: for a file that is encrypted with age.
    :raises D1ImportFileError: when there is none, or it is damaged.
    :raises D1ConfigurationError: when it is encrypted, and the key is missing or another one.
    """
    return decrypt_file(_fetch(storage, key, folder), folder, age_key, storage.uri(key))


def _fetch(storage: Storage, key: str, folder: Path) -> Path:
    path = storage.local_path(key)
    if path is None:
        path = folder / "stored"
        if storage.size(key) is not None:
            storage.fetch(key, path)
    if not path.is_file():
        raise D1ImportFileError(f"{storage.uri(key)}: file not found")
    return path


def fetch_backup(storage: Storage, backup: Backup, folder: Path, age_key: Secret | None = None) -> Path:
    """The dump of a backup on this machine, decrypted, after the stored file was compared with the manifest.

    :param age_key: for a backup that is encrypted with age.
    :raises D1ImportFileError: when it is missing, or has other bytes.
    :raises D1ConfigurationError: when it is encrypted, and the key is missing or another one.
    """
    if backup.manifest.encryption is not None and age_key is None:  # before a large file is fetched
        raise missing_key(backup.file.uri)
    path = _fetch(storage, backup.key, folder)
    backup.check_stored(path)
    return decrypt_file(path, folder, age_key, backup.file.uri)


def read_backup(storage: Storage, key: str) -> Backup:
    """Read a manifest and find the dump in it.

    :param storage: the folder that the manifest is in; a run's own, or the prefix above it.
    :param key: the manifest's.
    :raises D1ManifestError: for a missing manifest, and for one without a dump or with a dump outside of its folder.
    """
    manifest = read_manifest(storage, key)
    file = manifest.files[0] if manifest.format == "sql" and manifest.files else manifest.dump.kept
    if file is None:
        raise D1ManifestError(
            f"{storage.uri(key)} lists no SQL dump: back up with file_format='sql', or stage with keep_dump=True. Use"
            " S3ToD1Operator to load its tables."
        )
    found = storage.key(file.uri)
    if found is None:
        raise D1ManifestError(
            f"{storage.uri(key)}: {file.uri} is not in the manifest's folder, expected a file below it"
        )
    at_prefix = manifest.run is not None and found.startswith(f"{manifest.run}/")
    return Backup(manifest, storage.uri(f"{manifest.run}/{key}" if at_prefix else key), found, file)
