"""What is loaded, derived from a manifest and the operator's arguments before any warehouse is asked; no I/O."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_d1.exceptions import D1ConfigurationError, D1ManifestError, D1WarehouseError
from airflow_provider_d1.warehouses.merge_keys import merge_keys

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest import Manifest
    from airflow_provider_d1.staging.manifest_tables import TableEntry
    from airflow_provider_d1.warehouses.dialect import Dialect

Mode = Literal["replace", "append", "merge"]
OnNul = Literal["fail", "replace"]
ReplaceStrategy = Literal["auto", "rows", "swap"]
OnMissing = Literal["keep", "drop"]

#: the loader's own table, one in each schema
LOADS_TABLE = "_d1_loads"
_TIME = "%Y%m%dt%H%M%S"
_HELPER = re.compile(r"_d1_new_(\d{8}t\d{6})_[0-9a-f]{8}_[0-9a-f]{16}")
_LEFTOVER_AGE = dt.timedelta(days=1)


def new_token() -> str:
    """A name for one load: when it began (UTC), and a random part. In lower case, as some warehouses fold names."""
    return f"{dt.datetime.now(dt.UTC):{_TIME}}_{secrets.token_hex(4)}"


def leftover_helpers(names: Iterable[str], now: dt.datetime | None = None) -> list[str]:
    """Those of the names that are helper tables of loads that began more than a day ago: they were killed.

    :param now: the present time, in UTC.
    """
    limit = f"{(now or dt.datetime.now(dt.UTC)) - _LEFTOVER_AGE:{_TIME}}"
    return [name for name in names if (match := _HELPER.fullmatch(name)) is not None and match[1] < limit]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load; the operator's arguments of the same names.

    :param keys: table → the columns by which ``merge`` matches its rows, where it is not the primary key.
    :param engine: the arguments that only one engine has (:class:`~.base.WarehouseOption`), by name.
    """

    schema: str
    mode: Mode = "replace"
    tables: tuple[str, ...] | None = None
    on_nul: OnNul = "fail"
    allow_other_database: bool = False
    keys: Mapping[str, Sequence[str]] = field(default_factory=dict)
    delete_missing: bool = False
    replace_strategy: ReplaceStrategy = "auto"
    on_missing: OnMissing = "keep"
    engine: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Column:
    """A column to be loaded: its exact name and its staged type."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Part:
    """A staged file and what it must turn out to be: rows, stored bytes, SHA-256 (hex) of the stored bytes."""

    uri: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table to be loaded; its parts are in row order, ``token`` is that of the load.

    ``key`` has the columns by which ``merge`` matches rows; it is empty with other modes.
    """

    name: str
    columns: tuple[Column, ...]
    rows: int
    parts: tuple[Part, ...]
    token: str = ""
    key: tuple[str, ...] = ()

    @property
    def helper(self) -> str:
        """Name of the table that the rows are loaded into before they are published; no other load has the same."""
        return self._helper_name(self.name)

    @property
    def merged(self) -> str:
        """Name of the table in which old and new rows are put together, where the table itself can't be changed."""
        return self._helper_name(f"{self.name}\0merged")

    def _helper_name(self, content: str) -> str:
        return f"_d1_new_{self.token}_{hashlib.sha256(content.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the rows come from: what ``_d1_loads`` records, and how a repeated append is recognised."""

    manifest: str
    database_id: str | None
    database_name: str | None
    bookmark: str | None
    dump_sha256: str | None


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A manifest and options that fit together and that the warehouse can hold.

    ``in_source`` names every table that D1 has, where the manifest says so: it is of a whole database.
    """

    origin: Origin
    options: LoadOptions
    dialect: Dialect
    file_format: str
    compression: str | None
    tables: tuple[Table, ...]
    in_source: frozenset[str] | None = None

    def path(self, table: str) -> str:
        """The qualified, quoted name of a table in the target schema."""
        return self.dialect.identifier(self.options.schema, table)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What became of a load.

    :param missing: tables of this database in the schema that D1 no longer has.
    :param dropped: those of them that were dropped.
    """

    tables: tuple[LoadedTable, ...] = ()
    missing: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadedTable:
    """What became of one table: ``skipped`` when an append found it loaded already."""

    name: str
    path: str
    statement: str
    rows: int
    skipped: bool = False
    nul_replaced: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON for the task's return value."""
        entry: dict[str, Any] = {"rows": self.rows, "table": self.path, "statement": self.statement}
        if self.skipped:
            entry["skipped"] = True
        if self.nul_replaced:
            entry["nul_replaced"] = dict(self.nul_replaced)
        return entry


def make_plan(
    manifest: Manifest, uri: str, dialect: Dialect, options: LoadOptions, token: str | None = None
) -> LoadPlan:
    """Decide what is loaded, and refuse what can't be, before anything is created.

    :param manifest: as read.
    :param uri: its URI; recorded, and shown.
    :param token: the name of this load; by default a new one.
    :raises D1ManifestError: when the manifest contradicts itself or holds no tables.
    :raises D1ConfigurationError: for a name in ``tables`` or ``keys`` that the manifest does not have, for a table
        without a key with ``merge``, and for ``delete_missing`` with a manifest that does not have every row.
    :raises D1WarehouseError: for names that this warehouse can't hold or would make one of.
    """
    if manifest.format == "sql":
        raise D1ManifestError(
            f"{uri} lists {manifest.content}, not tables: stage with file_format='parquet' to load it"
        )
    token = token or new_token()
    chosen = manifest.chosen(options.tables)
    keys: Mapping[str, tuple[str, ...]] = {}
    if options.mode != "merge" and (options.keys or options.delete_missing):
        name = "keys" if options.keys else "delete_missing"
        raise D1ConfigurationError(f"{name} is for mode='merge', and mode is {options.mode!r}")
    if options.mode == "merge":
        keys = merge_keys(manifest, chosen, options.keys, delete_missing=options.delete_missing)
    tables = tuple(_table(entry, token, keys.get(entry.name, ())) for entry in chosen)
    _check_names(dialect, options.schema, tables)
    origin = Origin(
        manifest=uri,
        database_id=manifest.source.database_id,
        database_name=manifest.source.database_name,
        bookmark=manifest.source.bookmark,
        dump_sha256=manifest.dump.sha256,
    )
    return LoadPlan(
        origin, options, dialect, manifest.format, manifest.compression, tables, _tables_in_source(manifest)
    )


def _tables_in_source(manifest: Manifest) -> frozenset[str] | None:
    source = manifest.source
    if source.database_id is None or source.options.tables is not None:
        return None
    return frozenset((*(entry.name for entry in manifest.tables), *(skipped.name for skipped in source.skipped)))


def _table(entry: TableEntry, token: str, key: tuple[str, ...]) -> Table:
    listed = sum(file.rows or 0 for file in entry.files)
    if listed != entry.rows:
        raise D1ManifestError(f"table {entry.name!r}: the manifest says {entry.rows} rows, its files have {listed}")
    columns = tuple(Column(column.name, column.type) for column in entry.columns)
    parts = tuple(Part(file.uri, file.rows or 0, file.bytes, file.sha256) for file in entry.files)
    return Table(entry.name, columns, entry.rows, parts, token, key)


def _check_names(dialect: Dialect, schema: str, tables: tuple[Table, ...]) -> None:
    problems = []
    if reason := dialect.name_problem(schema, column=False):
        problems.append(f"schema {schema!r} {reason}")
    problems += _twins(dialect, "tables", [table.name for table in tables])
    for table in tables:
        if dialect.fold(table.name) == dialect.fold(LOADS_TABLE):
            problems.append(f"table {table.name!r} has the name of the loader's own table")
        elif reason := dialect.name_problem(table.name, column=False):
            problems.append(f"table {table.name!r} {reason}")
        for column in table.columns:
            if reason := dialect.name_problem(column.name, column=True):
                problems.append(f"column {column.name!r} of table {table.name!r} {reason}")
        problems += _twins(dialect, f"columns of table {table.name!r}", [column.name for column in table.columns])
    if problems:
        raise D1WarehouseError(f"invalid names for {dialect.name} (nothing was created): {'; '.join(problems)}")


def _twins(dialect: Dialect, what: str, names: list[str]) -> list[str]:
    seen: dict[str, str] = {}
    problems = []
    for name in names:
        first = seen.setdefault(dialect.fold(name), name)
        if first != name:
            problems.append(f"{what} {first!r} and {name!r} collide (names are case-insensitive)")
    return problems
