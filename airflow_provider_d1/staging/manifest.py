"""The manifest lists what a staging run wrote. It is written last, so a run without one is not complete.

Version 2; version 1, without ``run`` and ``extract``, can be read too. All classes are frozen, with ``to_dict`` and a
validating ``from_dict``; unknown keys are ignored, and a missing or malformed one is a :class:`D1ManifestError` that
names it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1ConfigurationError, D1ManifestError
from airflow_provider_d1.staging import manifest_fields as read
from airflow_provider_d1.staging.encryption import AGE
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.manifest_tables import FileEntry, TableEntry
from airflow_provider_d1.staging.options import FILE_FORMATS, FileFormat
from airflow_provider_d1.validation import suggest

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest_fields import Json
    from airflow_provider_d1.storage.base import Storage

VERSION = 2
_READABLE_VERSIONS = (1, 2)
MANIFEST_KEY = "_manifest.json"


@dataclass(frozen=True, slots=True)
class DumpEntry:
    """The dump itself: length and SHA-256 of the uncompressed SQL, and with ``keep_dump`` its file."""

    bytes: int
    sha256: str
    kept: FileEntry | None = None
    compression: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; ``uri``, ``stored_bytes``, ``stored_sha256`` and ``compression`` only with ``keep_dump``."""
        data: dict[str, Any] = {"bytes": self.bytes, "sha256": self.sha256}
        if self.kept is not None:
            data["uri"] = self.kept.uri
            data["compression"] = self.compression
            data["stored_bytes"] = self.kept.bytes
            data["stored_sha256"] = self.kept.sha256
        return data

    @classmethod
    def from_dict(cls, data: Json, where: str = "dump") -> DumpEntry:
        """Read what :meth:`to_dict` wrote."""
        kept = None
        if "uri" in data:
            kept = FileEntry(
                uri=read.text(data, "uri", where),
                bytes=read.count(data, "stored_bytes", where),
                sha256=read.sha256(data, "stored_sha256", where),
            )
        return cls(
            bytes=read.count(data, "bytes", where),
            sha256=read.sha256(data, "sha256", where),
            kept=kept,
            compression=read.optional(data, "compression", where, read.text),
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one staging run wrote: ``tables`` with their files, or for ``format="sql"`` the one file in ``files``.

    ``run`` names the run and its folder; None in a manifest of version 1. ``extract`` is the method by which the rows
    were read from D1. ``binary_encoding`` is ``"hex"`` (upper-case) for the text formats, None where binary values are
    stored as they are. ``encryption`` is ``"age"`` for an encrypted dump; size and SHA-256 in ``files`` are then those
    of the encrypted file.
    """

    created_at: str
    provider_version: str
    source: Source
    dump: DumpEntry
    format: FileFormat
    compression: str | None
    tables: tuple[TableEntry, ...] = ()
    files: tuple[FileEntry, ...] = ()
    binary_encoding: str | None = None
    run: str | None = None
    extract: str = "export"
    encryption: str | None = None

    @property
    def all_files(self) -> tuple[FileEntry, ...]:
        """Every file that this manifest lists, with a kept dump."""
        kept = () if self.dump.kept is None else (self.dump.kept,)
        return (*self.files, *(file for table in self.tables for file in table.files), *kept)

    @property
    def content(self) -> str:
        """What the manifest lists, for messages."""
        if self.format != "sql":
            return "tables"
        return "an SQL dump" if self.encryption is None else f"an SQL dump that is encrypted with {self.encryption}"

    @property
    def rows(self) -> int:
        """Rows of all tables together; 0 for ``format="sql"``, whose rows are not counted."""
        return sum(table.rows for table in self.tables)

    @property
    def bytes(self) -> int:
        """Stored bytes of all files together, a kept dump included."""
        return sum(file.bytes for file in self.all_files)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, version 2."""
        data: dict[str, Any] = {
            "version": VERSION,
            "run": self.run,
            "created_at": self.created_at,
            "provider_version": self.provider_version,
            "extract": {"method": self.extract},
            "source": self.source.to_dict(),
            "dump": self.dump.to_dict(),
            "format": self.format,
            "compression": self.compression,
        }
        if self.encryption is not None:
            data["encryption"] = self.encryption
        if self.binary_encoding is not None:
            data["binary_encoding"] = self.binary_encoding
        if self.format == "sql":
            data["files"] = [file.to_dict() for file in self.files]
        else:
            data["tables"] = [table.to_dict() for table in self.tables]
        return data

    def chosen(self, names: Iterable[str] | None) -> list[TableEntry]:
        """The tables of these exact names, all with None.

        :raises D1ConfigurationError: for a name that the manifest does not have.
        """
        by_name = {entry.name: entry for entry in self.tables}
        if names is None:
            return list(by_name.values())
        names = list(dict.fromkeys(names))
        for name in names:
            if name not in by_name:
                hint = suggest(name, by_name) or f"; it has {', '.join(map(repr, by_name)) or 'none'}"
                raise D1ConfigurationError(f"the manifest has no table {name!r}{hint}")
        return [by_name[name] for name in names]

    @classmethod
    def from_dict(cls, data: Json) -> Manifest:
        """Read what :meth:`to_dict` wrote.

        :raises D1ManifestError: for another version, and for a key that is missing or malformed; the message names it.
        """
        if not isinstance(data, Mapping):
            raise D1ManifestError("Manifest: not a JSON object")
        version = data.get("version")
        if version not in _READABLE_VERSIONS or isinstance(version, bool):
            raise D1ManifestError(
                f"Manifest: unknown version {version!r}; this release of airflow-provider-d1 reads versions 1 and 2"
            )
        file_format = read.text(data, "format", "")
        if file_format not in FILE_FORMATS:
            raise D1ManifestError(
                f"Manifest: unknown format {file_format!r}; expected one of {', '.join(FILE_FORMATS)}"
            )
        sql = file_format == "sql"
        return cls(
            created_at=read.text(data, "created_at", ""),
            provider_version=read.text(data, "provider_version", ""),
            source=Source.from_dict(read.mapping(data, "source", "")),
            dump=DumpEntry.from_dict(read.mapping(data, "dump", "")),
            format=file_format,
            compression=read.optional(data, "compression", "", read.text),
            tables=() if sql else read.each(data, "tables", "", TableEntry.from_dict),
            files=read.each(data, "files", "", FileEntry.from_dict) if sql else (),
            encryption=_encryption(data),
            binary_encoding=read.optional(data, "binary_encoding", "", read.text),
            run=read.optional(data, "run", "", read.text),
            extract="export" if version == 1 else read.text(read.mapping(data, "extract", ""), "method", "extract"),
        )


def _encryption(data: Json) -> str | None:
    encryption = read.optional(data, "encryption", "", read.text)
    if encryption not in (None, AGE):
        raise D1ManifestError(f"Manifest: unknown encryption {encryption!r}; expected {AGE}")
    return encryption


def read_manifest(storage: Storage, key: str) -> Manifest:
    """Read the manifest of a folder.

    :raises D1ManifestError: when there is none, or :func:`parse_manifest` refuses it.
    """
    content = storage.read_bytes(key)
    if content is None:
        raise D1ManifestError(
            f"{storage.uri(key)}: manifest not found. Its run may have been removed (keep_runs); stage again."
        )
    return parse_manifest(content)


def dumps(manifest: Manifest) -> bytes:
    """Write a manifest as indented UTF-8 JSON; equal manifests give equal bytes."""
    return json.dumps(manifest.to_dict(), ensure_ascii=False, indent=1).encode() + b"\n"


def parse_manifest(content: bytes | str) -> Manifest:
    """Read a manifest from its JSON text.

    :raises D1ManifestError: when it is not JSON, of another version, or malformed.
    """
    try:
        data = json.loads(content)
    except ValueError as error:
        raise D1ManifestError(f"Manifest: not JSON ({error})") from None
    return Manifest.from_dict(data)
