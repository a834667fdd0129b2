"""A manifest's tables: columns with their counts, and files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1ManifestError
from airflow_provider_d1.staging import manifest_fields as read

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest_fields import Json

#: Arrow type names that a staged column can have
COLUMN_TYPES = ("int64", "float64", "string", "binary", "timestamp[us]", "date32")


@dataclass(frozen=True, slots=True)
class StorageCounts:
    """Rows of a column by SQLite storage class (``typeof``); their sum is the table's number of rows."""

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
    """Rows of a column whose values D1's exporter may have altered, by kind."""

    unsafe_integers: int = 0
    infinities: int = 0
    ambiguous_newlines: int = 0
    replacement_characters: int = 0

    @property
    def total(self) -> int:
        """Sum of all kinds; 0 means that nothing was altered."""
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
        """Plain JSON; ``source_name`` and ``audit`` only where they are set."""
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
    """A staged table with its files in row order. ``generated`` names the columns that D1 does not export.

    ``schema_hash`` changes only when a column's name, types, key or nullability changes.
    """

    name: str
    rows: int
    ddl: str
    columns: tuple[ColumnEntry, ...]
    files: tuple[FileEntry, ...]
    generated: tuple[str, ...] = ()

    @property
    def schema_hash(self) -> str:
        """SHA-256 (hex) over the properties of columns on which loaders depend."""
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
        """Read what :meth:`to_dict` wrote; the rows of the files must add up to the table's."""
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
                f"Manifest: the rows of {where}.files do not add up to {table.rows}, those of table {table.name!r}"
            )
        return table
