"""Create the file of an import from a stored SQL file: fetch, verify, decrypt, decompress, check, hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1DumpError, D1ImportFileError
from airflow_provider_d1.into_d1.backup import fetch_backup, fetch_stored
from airflow_provider_d1.into_d1.import_file import ImportFile
from airflow_provider_d1.into_d1.sql_script import copy_script
from airflow_provider_d1.staging.streams import UnpackingReader

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.credentials import Secret
    from airflow_provider_d1.into_d1.backup import Backup
    from airflow_provider_d1.into_d1.import_record import ImportRecord
    from airflow_provider_d1.storage.base import Storage


@dataclass(frozen=True, slots=True)
class PreparedImport:
    """A file that D1 can import.

    :param path: the file, temporary.
    :param md5: D1's etag.
    :param bytes: its size.
    :param statements: number of its statements.
    :param source_bytes: size of the source, uncompressed.
    :param source_sha256: SHA-256 of the source, uncompressed.
    """

    path: Path
    md5: str
    bytes: int
    statements: int
    source_bytes: int
    source_sha256: str


def prepare_sql_file(
    storage: Storage,
    key: str,
    folder: Path,
    *,
    backup: Backup | None = None,
    record: ImportRecord | None = None,
    age_key: Secret | None = None,
) -> PreparedImport:
    """Convert a stored SQL file to the form that D1 imports. It may be compressed (gzip, zstd) and encrypted (age).

    Memory is bounded; the disk needs space for the stored file, unless it is local, and the uncompressed
    one; for an encrypted one also for the decrypted one.

    :param storage: the file's storage.
    :param key: its key.
    :param folder: a temporary folder.
    :param backup: the expected backup.
    :param record: written at the end of the file.
    :param age_key: for an encrypted file.
    :raises D1ImportFileError: for a file that D1 would not import, or that is not the backup; names the file.
    :raises D1ConfigurationError: when the file is encrypted, and the key is missing or another one.
    """
    uri = storage.uri(key)
    if backup is None:
        stored = fetch_stored(storage, key, folder, age_key)
    else:
        stored = fetch_backup(storage, backup, folder, age_key)
    try:
        with (
            UnpackingReader(stored.open("rb")) as script,
            ImportFile(folder / "import.sql") as target,
        ):
            summary = copy_script(script, target)
            if backup is not None:
                backup.check_dump(summary)
            if record is not None:
                for statement in record.statements(uri, summary.sha256, summary.bytes):
                    target.add(statement)
            target.finish()
    except D1DumpError as error:
        raise D1ImportFileError(f"{uri}: {error}") from None
    except D1ImportFileError as error:
        raise D1ImportFileError(str(error) if uri in str(error) else f"{uri}: {error}") from None
    if not summary.bytes:
        raise D1ImportFileError(f"{uri}: the file is empty")
    if stored.parent == folder:
        stored.unlink()
    return PreparedImport(target.path, target.md5, target.bytes, target.statements, summary.bytes, summary.sha256)
