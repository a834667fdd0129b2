"""The manifest: the one file that says what a staging run wrote. It is written last, so its presence is the commit.

Version 2; version 1, without ``run`` and ``extract``, can be read too. Everything is a frozen value with ``to_dict``
and a validating ``from_dict``; unknown keys are ignored, a missing or malformed one is a :class:`D1ManifestError` that
names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1ManifestError
from airflow_provider_d1.staging import manifest_fields as read
from airflow_provider_d1.staging.options import FILE_FORMATS, FileFormat

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest_fields import Json

VERSION = 2
_READABLE_VERSIONS = (1, 2)
MANIFEST_KEY = "_manifest.json"

#: Arrow type names that a staged column can have
COLUMN_TYPES = ("int64", "float64", "string", "binary", "timestamp[us]", "date32")


@dataclass(frozen=True, slots=True)
class StorageCounts:
    """How many rows of a column hold each SQLite storage class (``typeof``); their sum is the table's rows."""

    integer: int = 0
    real: int = 0
    text: int = 0
    blob: int = 0
    null: int = 0

    def to_dict(self) -> dict[str, int]:
        """Plain JSON."""
        return {
            "integer": self.integer,
            "real": self.real,
            "text": self.text,
            "blob": self.blob,
            "null": self.null,
        }

    @classmethod
    def from_dict(cls, data: Json, where: str = "storage") -> StorageCounts:
        """Read what :meth:`to_dict` wrote."""
        return cls(**{key: read.count(data, key, where) for key in ("integer", "real", "text", "blob", "null")})


@dataclass(frozen=True, slots=True)
class LossyCounts:
    """In how many rows of a column D1's exporter may have lost something before the dump was written."""

    unsafe_integers: int = 0
    infinities: int = 0
    ambiguous_newlines: int = 0
    replacement_characters: int = 0

    @property
    def total(self) -> int:
        """All kinds together; 0 means that nothing can have been lost."""
        return self.unsafe_integers + self.infinities + self.ambiguous_newlines + self.replacement_characters

    def to_dict(self) -> dict[str, int]:
        """Plain JSON."""
        return {
            "unsafe_integers": self.unsafe_integers,
            "infinities": self.infinities,
            "ambiguous_newlines": self.ambiguous_newlines,
            "replacement_characters": self.replacement_characters,
        }

    @classmethod
    def from_dict(cls, data: Json, where: str = "lossy") -> LossyCounts:
        """Read what :meth:`to_dict` wrote."""
        keys = ("unsafe_integers", "infinities", "ambiguous_newlines", "replacement_characters")
        return cls(**{key: read.count(data, key, where) for key in keys})


@dataclass(frozen=True, slots=True)
class ColumnEntry:
    """A staged column. ``name`` is its name in the files, ``source_name`` the one in D1 where the two differ.

    ``declared_type`` and ``primary_key`` are as ``PRAGMA table_xinfo`` gives them; ``type`` is an Arrow type name.
    An audit column (``audit=True``) has no source: staging added it.
    """

    name: str
    declared_type: str
    type: str
    nullable: bool
    primary_key: int
    storage: StorageCounts
    lossy: LossyCounts = LossyCounts()
    source_name: str | None = None
    audit: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; ``source_name`` and ``audit`` only where they say something."""
        data: dict[str, Any] = {
            "name": self.name,
            "declared_type": self.declared_type,
            "type": self.type,
            "nullable": self.nullable,
            "primary_key": self.primary_key,
            "storage": self.storage.to_dict(),
            "lossy": self.lossy.to_dict(),
        }
        if self.source_name is not None:
            data["source_name"] = self.source_name
        if self.audit:
            data["audit"] = True
        return data

    @classmethod
    def from_dict(cls, data: Json, where: str = "column") -> ColumnEntry:
        """Read what :meth:`to_dict` wrote."""
        type_name = read.text(data, "type", where)
        if type_name not in COLUMN_TYPES:
            raise D1ManifestError(f"Manifest: {where}.type is {type_name!r}, not one of {', '.join(COLUMN_TYPES)}")
        return cls(
            name=read.text(data, "name", where),
            declared_type=read.text(data, "declared_type", where),
            type=type_name,
            nullable=read.flag(data, "nullable", where),
            primary_key=read.count(data, "primary_key", where),
            storage=StorageCounts.from_dict(read.mapping(data, "storage", where), f"{where}.storage"),
            lossy=LossyCounts.from_dict(read.mapping(data, "lossy", where), f"{where}.lossy"),
            source_name=read.optional(data, "source_name", where, read.text),
            audit=bool(read.optional(data, "audit", where, read.flag)),
        )


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A staged file: absolute URI, size in bytes and SHA-256 (hex) as stored; ``rows`` is None for a dump."""

    uri: str
    bytes: int
    sha256: str
    rows: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        rows = {} if self.rows is None else {"rows": self.rows}
        return {"uri": self.uri, **rows, "bytes": self.bytes, "sha256": self.sha256}

    @classmethod
    def from_dict(cls, data: Json, where: str = "file") -> FileEntry:
        """Read what :meth:`to_dict` wrote."""
        return cls(
            uri=read.text(data, "uri", where),
            bytes=read.count(data, "bytes", where),
            sha256=read.sha256(data, "sha256", where),
            rows=read.optional(data, "rows", where, read.count),
        )


@dataclass(frozen=True, slots=True)
class TableEntry:
    """A staged table with its files in row order. ``generated`` names the columns that D1 leaves out of its dumps.

    ``schema_hash`` changes whenever a column's name, types, key or nullability does, and never otherwise.
    """

    name: str
    rows: int
    ddl: str
    columns: tuple[ColumnEntry, ...]
    files: tuple[FileEntry, ...]
    generated: tuple[str, ...] = ()

    @property
    def schema_hash(self) -> str:
        """SHA-256 (hex) over everything about the columns that a loader depends on."""
        facts = [[c.name, c.declared_type, c.type, c.nullable, c.primary_key] for c in self.columns]
        return hashlib.sha256(json.dumps(facts, ensure_ascii=False).encode("utf-8")).hexdigest()

    @property
    def primary_key(self) -> tuple[str, ...]:
        """Names of the primary key's columns in the files, in the key's order; empty without one."""
        return tuple(c.name for c in sorted(self.columns, key=lambda c: c.primary_key) if c.primary_key)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        generated = {"generated": list(self.generated)} if self.generated else {}
        return {
            "name": self.name,
            "rows": self.rows,
            "ddl": self.ddl,
            "schema_hash": self.schema_hash,
            "primary_key": list(self.primary_key),
            "columns": [column.to_dict() for column in self.columns],
            **generated,
            "files": [file.to_dict() for file in self.files],
        }

    @classmethod
    def from_dict(cls, data: Json, where: str = "table") -> TableEntry:
        """Read what :meth:`to_dict` wrote; the rows of the files must add up."""
        table = cls(
            name=read.text(data, "name", where),
            rows=read.count(data, "rows", where),
            ddl=read.text(data, "ddl", where),
            columns=read.each(data, "columns", where, ColumnEntry.from_dict),
            files=read.each(data, "files", where, FileEntry.from_dict),
            generated=read.texts(data, "generated", where) if "generated" in data else (),
        )
        if sum(file.rows or 0 for file in table.files) != table.rows:
            raise D1ManifestError(
                f"Manifest: the rows of {where}.files do not add up to the {table.rows} of table {table.name!r}"
            )
        return table


@dataclass(frozen=True, slots=True)
class Skipped:
    """A table that the export left out, and why."""

    name: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """Plain JSON."""
        return {"name": self.name, "reason": self.reason}

    @classmethod
    def from_dict(cls, data: Json, where: str = "skipped") -> Skipped:
        """Read what :meth:`to_dict` wrote."""
        return cls(name=read.text(data, "name", where), reason=read.text(data, "reason", where))


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Which part of the database was exported; ``tables`` is None for all of it."""

    tables: tuple[str, ...] | None = None
    no_data: bool = False
    no_schema: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        tables = None if self.tables is None else list(self.tables)
        return {"tables": tables, "no_data": self.no_data, "no_schema": self.no_schema}

    @classmethod
    def from_dict(cls, data: Json, where: str = "options") -> SourceOptions:
        """Read what :meth:`to_dict` wrote."""
        return cls(
            tables=read.optional(data, "tables", where, read.texts),
            no_data=read.flag(data, "no_data", where),
            no_schema=read.flag(data, "no_schema", where),
        )


@dataclass(frozen=True, slots=True)
class Source:
    """Where the dump came from. What is unknown is None: a dump on disk has a file name and little more.

    ``started_at`` and ``completed_at`` are ISO 8601; the database answered no queries for ``unavailable_seconds``.
    """

    account_id: str | None = None
    database_id: str | None = None
    database_name: str | None = None
    bookmark: str | None = None
    filename: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    unavailable_seconds: float | None = None
    restarts: int = 0
    options: SourceOptions = SourceOptions()
    skipped: tuple[Skipped, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "account_id": self.account_id,
            "database_id": self.database_id,
            "database_name": self.database_name,
            "bookmark": self.bookmark,
            "filename": self.filename,
            "started_at": self.started_at,
            "completed_at": self.completed_at,
            "unavailable_seconds": self.unavailable_seconds,
            "restarts": self.restarts,
            "options": self.options.to_dict(),
            "skipped": [skipped.to_dict() for skipped in self.skipped],
        }

    @classmethod
    def from_dict(cls, data: Json, where: str = "source") -> Source:
        """Read what :meth:`to_dict` wrote; a ``D1Export.to_dict()`` plus ``unavailable_seconds`` will do as well."""
        seconds = read.optional(data, "unavailable_seconds", where, read.number)
        return cls(
            account_id=read.optional(data, "account_id", where, read.text),
            database_id=read.optional(data, "database_id", where, read.text),
            database_name=read.optional(data, "database_name", where, read.text),
            bookmark=read.optional(data, "bookmark", where, read.text),
            filename=read.optional(data, "filename", where, read.text),
            started_at=read.optional(data, "started_at", where, read.text),
            completed_at=read.optional(data, "completed_at", where, read.text),
            unavailable_seconds=seconds,
            restarts=read.count(data, "restarts", where),
            options=SourceOptions.from_dict(read.mapping(data, "options", where), f"{where}.options"),
            skipped=read.each(data, "skipped", where, Skipped.from_dict),
        )


@dataclass(frozen=True, slots=True)
class DumpEntry:
    """The dump itself: length and SHA-256 of the uncompressed SQL, and with ``keep_dump`` the file that holds it."""

    bytes: int
    sha256: str
    kept: FileEntry | None = None
    compression: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; ``uri``, ``stored_bytes``, ``stored_sha256`` and ``compression`` only for a kept dump."""
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
    stored as they are.
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

    @property
    def all_files(self) -> tuple[FileEntry, ...]:
        """Every file that this manifest answers for, a kept dump included."""
        kept = () if self.dump.kept is None else (self.dump.kept,)
        return (*self.files, *(file for table in self.tables for file in table.files), *kept)

    @property
    def rows(self) -> int:
        """Rows of all tables together; 0 for ``format="sql"``, whose rows nobody counted."""
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
        if self.binary_encoding is not None:
            data["binary_encoding"] = self.binary_encoding
        if self.format == "sql":
            data["files"] = [file.to_dict() for file in self.files]
        else:
            data["tables"] = [table.to_dict() for table in self.tables]
        return data

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
                f"Manifest: version {version!r} is unknown; this release of airflow-provider-d1 reads 1 and 2"
            )
        file_format = read.text(data, "format", "")
        if file_format not in FILE_FORMATS:
            raise D1ManifestError(f"Manifest: format is {file_format!r}, not one of {', '.join(FILE_FORMATS)}")
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
            binary_encoding=read.optional(data, "binary_encoding", "", read.text),
            run=read.optional(data, "run", "", read.text),
            extract="export" if version == 1 else read.text(read.mapping(data, "extract", ""), "method", "extract"),
        )


def dumps(manifest: Manifest) -> bytes:
    """Write a manifest as UTF-8 JSON, readable, the same bytes for the same manifest."""
    return json.dumps(manifest.to_dict(), ensure_ascii=False, indent=1).encode() + b"\n"


def load(content: bytes | str) -> Manifest:
    """Read a manifest from its JSON text.

    :raises D1ManifestError: when it is not JSON, of another version, or malformed.
    """
    try:
        data = json.loads(content)
    except ValueError as error:
        raise D1ManifestError(f"Manifest: not JSON ({error})") from None
    return Manifest.from_dict(data)
