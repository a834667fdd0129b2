"""Store the dump itself: streamed from the download into the storage, without a local copy."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1StagingError
from airflow_provider_d1.staging.encryption import AGE_SUFFIX, EncryptingReader
from airflow_provider_d1.staging.names import safe_name
from airflow_provider_d1.staging.streams import CHUNK, SUFFIXES, CompressingReader, MeteredReader, Readable
from airflow_provider_d1.validation import counted

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest_source import Source
    from airflow_provider_d1.staging.manifest_tables import FileEntry
    from airflow_provider_d1.staging.staging_run import StagingRun

#: compression of a dump that is stored beside its tables: as fast as gzip, and smaller
KEPT_CODEC = "zstd"


def _dump_name(source: Source) -> str:
    """Name a dump after its database, otherwise after its file."""
    stem = PurePosixPath(source.filename).name if source.filename else ""
    for suffix in (".gz", ".zst", ".sql"):
        stem = stem.removesuffix(suffix)
    return safe_name(source.database_name or stem or "dump")


def _suffix(codec: str | None, *, encrypted: bool) -> str:
    return f".sql{SUFFIXES[codec]}{AGE_SUFFIX if encrypted else ''}"


def store_dump(
    dump: Readable, run: StagingRun, source: Source, codec: str | None, age_recipients: Sequence[str] | None = None
) -> FileEntry:
    """Stream a dump into the run's storage.

    :param dump: the uncompressed dump.
    :param codec: ``"gzip"``, ``"zstd"``, or None to store it as it is.
    :param age_recipients: public keys for which it is encrypted, after the compression; None does not encrypt it.
    :raises D1ConfigurationError: when the recipients cannot be used.
    :raises D1StagingError: when the stored length differs from the sent one.
    """
    key = run.dump_key(_dump_name(source), _suffix(codec, encrypted=bool(age_recipients)))
    with ExitStack() as stack:
        packed = dump if codec is None else CompressingReader(dump, codec)
        if age_recipients:
            packed = stack.enter_context(EncryptingReader(packed, age_recipients))
        outgoing = packed if isinstance(packed, MeteredReader) else MeteredReader(packed)
        # the storage must not get a short read: boto3 takes it for the end of the stream and reports success
        with io.BufferedReader(outgoing, CHUNK) as stream:
            length = run.storage.put_stream(key, stream)
    if length != outgoing.length:
        raise D1StagingError(f"{run.storage.uri(key)}: expected {counted(outgoing.length, 'byte')}, stored {length}")
    return run.stored(key, length=length, sha256=outgoing.sha256)
