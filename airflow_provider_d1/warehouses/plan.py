"""What is loaded, derived from a manifest and the operator's arguments before any warehouse is asked; no I/O."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_d1.exceptions import D1ConfigurationError, D1ManifestError, D1WarehouseError
from airflow_provider_d1.validation import fold_case
from airflow_provider_d1.warehouses.declared_types import hint_for
from airflow_provider_d1.warehouses.merge_keys import merge_keys
from airflow_provider_d1.warehouses.naming import Letters, Naming

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest import Manifest
    from airflow_provider_d1.staging.manifest_tables import TableEntry
    from airflow_provider_d1.warehouses.declared_types import Hint
    from airflow_provider_d1.warehouses.dialect import Dialect

Mode = Literal["replace", "append", "merge"]
OnNul = Literal["fail", "replace"]
ReplaceStrategy = Literal["auto", "rows", "swap"]
OnMissing = Literal["keep", "drop"]
TypeHints = Literal["storage", "declared"]

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
    names: Letters = "exact"
    table_prefix: str = ""
    type_hints: TypeHints = "storage"
    engine: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Column:
    """A column to be loaded, or the one in the warehouse that it goes into.

    :param name: in the warehouse.
    :param type: as staged.
    :param source: its name in the files, where that is another one; else None.
    :param native: the warehouse's type, where it is not the one of the staged type.
    :param hint: what the declared type asks for, with ``type_hints="declared"``.
    """

    name: str
    type: str
    source: str | None = None
    native: str = ""
    hint: Hint | None = None

    @property
    def source_name(self) -> str:
        """Its name in the files and in the manifest."""
        return self.name if self.source is None else self.source

    def as_staged(self) -> Column:
        """The column with the type that every staged value fits into."""
        return replace(self, native="", hint=None)


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

    :param name: in the warehouse.
    :param key: the columns by which ``merge`` matches rows, by their names in the warehouse; empty with other modes.
    :param source: its name in the manifest, where that is another one; else None.
    """

    name: str
    columns: tuple[Column, ...]
    rows: int
    parts: tuple[Part, ...]
    token: str = ""
    key: tuple[str, ...] = ()
    source: str | None = None

    @property
    def source_name(self) -> str:
        """Its name in the manifest."""
        return self.name if self.source is None else self.source

    @property
    def helper(self) -> str:
        """Name of the table that the rows are loaded into before they are published; no other load has the same."""
        return self._helper_name(self.name)

    @property
    def merged(self) -> str:
        """Name of the table in which old and new rows are put together, where the table itself can't be changed."""
        return self._helper_name(f"{self.name}\0merged")

    @property
    def copied(self) -> str:
        """Name of the table that files are copied into where the helper table's types have to be converted to."""
        return self._helper_name(f"{self.name}\0copied")

    @property
    def typed(self) -> str:
        """Name of the helper table with the types that were chosen when the values were in the first one."""
        return self._helper_name(f"{self.name}\0typed")

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

    :param in_source: every table that D1 has, by its folded name in D1, where the manifest says so: it is of a whole
        database.
    :param catalog: what the schema is in, Databricks' catalog or BigQuery's project; empty for the connection's own.
    """

    origin: Origin
    options: LoadOptions
    dialect: Dialect
    file_format: str
    compression: str | None
    tables: tuple[Table, ...]
    in_source: frozenset[str] | None = None
    catalog: str = ""

    def path(self, table: str) -> str:
        """The qualified, quoted name of a table in the target schema."""
        return f"{self.schema_path}.{self.dialect.identifier(table)}"

    @property
    def schema_path(self) -> str:
        """The quoted name of the target schema, with its catalog where one is given."""
        return self.dialect.identifier(*filter(None, (self.catalog, self.options.schema)))

    @property
    def information_schema(self) -> str:
        """The views about the schema's catalog."""
        return f"{self.dialect.identifier(self.catalog)}.information_schema" if self.catalog else "information_schema"

    def renamed(self, table: Table) -> dict[str, str]:
        """The columns that can't have the names that were asked for: name in the files → name in the warehouse."""
        naming = _naming(self.dialect, self.options)
        return {c.source_name: c.name for c in table.columns if c.name != naming.asked(c.source_name, column=True)}

    def renamed_tables(self) -> dict[str, str]:
        """The same for tables: name in the manifest → name in the warehouse."""
        naming = _naming(self.dialect, self.options)
        return {t.source_name: t.name for t in self.tables if t.name != naming.asked(t.source_name, column=False)}


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
    """What became of one table.

    :param skipped: an append found it loaded already.
    :param source_name: its name in the manifest, where that is another one; else None.
    :param renamed_columns: as :meth:`LoadPlan.renamed` gives them.
    """

    name: str
    path: str
    statement: str
    rows: int
    skipped: bool = False
    nul_replaced: Mapping[str, int] = field(default_factory=dict)
    source_name: str | None = None
    renamed_columns: Mapping[str, str] = field(default_factory=dict)
    texts_truncated: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON for the task's return value."""
        entry: dict[str, Any] = {"rows": self.rows, "table": self.path, "statement": self.statement}
        if self.skipped:
            entry["skipped"] = True
        if self.nul_replaced:
            entry["nul_replaced"] = dict(self.nul_replaced)
        if self.source_name is not None:
            entry["source_name"] = self.source_name
        if self.renamed_columns:
            entry["renamed_columns"] = dict(self.renamed_columns)
        if self.texts_truncated:
            entry["texts_truncated"] = dict(self.texts_truncated)
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
        without a key with ``merge``, for ``delete_missing`` with a manifest that does not have every row, and for a
        ``table_prefix`` that this warehouse can't hold.
    :raises D1WarehouseError: for a schema whose name this warehouse can't hold.
    """
    if manifest.format == "sql":
        raise D1ManifestError(
            f"{uri} lists {manifest.content}, not tables: stage with file_format='parquet' to load it"
        )
    token = token or new_token()
    catalog = options.engine.get("catalog") or ""
    if dialect.catalogs and not catalog:
        catalog, _, schema = options.schema.rpartition(".")
        options = replace(options, schema=schema)
    chosen = manifest.chosen(options.tables)
    keys: Mapping[str, tuple[str, ...]] = {}
    if options.mode != "merge" and (options.keys or options.delete_missing):
        name = "keys" if options.keys else "delete_missing"
        raise D1ConfigurationError(f"{name} is for mode='merge', and mode is {options.mode!r}")
    if options.mode == "merge":
        keys = merge_keys(manifest, chosen, options.keys, delete_missing=options.delete_missing)
    if problem := dialect.name_problem(options.schema, column=False):
        raise D1WarehouseError(f"invalid name for {dialect.name}: schema {options.schema!r} {problem}")
    naming = _naming(dialect, options)
    naming.check_prefix()
    names = naming.tables([*(entry.name for entry in manifest.tables), *_skipped(manifest)], _is_own)
    hinted = dialect if options.type_hints == "declared" else None
    tables = tuple(
        _table(entry, names[entry.name], naming, token, keys.get(entry.name, ()), hinted) for entry in chosen
    )
    origin = Origin(
        manifest=uri,
        database_id=manifest.source.database_id,
        database_name=manifest.source.database_name,
        bookmark=manifest.source.bookmark,
        dump_sha256=manifest.dump.sha256,
    )
    in_source = frozenset(map(fold_case, names)) if _is_whole(manifest) else None
    catalog = catalog if dialect.catalogs else ""
    return LoadPlan(origin, options, dialect, manifest.format, manifest.compression, tables, in_source, catalog)


def _naming(dialect: Dialect, options: LoadOptions) -> Naming:
    return Naming(dialect, options.schema, options.names, options.table_prefix)


def _is_own(name: str) -> bool:
    """Whether a name is that of one of the loader's own tables."""
    return name == LOADS_TABLE or _HELPER.fullmatch(name) is not None


def _skipped(manifest: Manifest) -> list[str]:
    """The tables of the database that are not in the manifest, as far as it names them."""
    staged = {entry.name for entry in manifest.tables}
    return [skipped.name for skipped in manifest.source.skipped if skipped.name not in staged]


def _is_whole(manifest: Manifest) -> bool:
    """Whether the manifest says which tables D1 has."""
    return manifest.source.database_id is not None and manifest.source.options.tables is None


def _table(
    entry: TableEntry, name: str, naming: Naming, token: str, key: tuple[str, ...], hinted: Dialect | None
) -> Table:
    listed = sum(file.rows or 0 for file in entry.files)
    if listed != entry.rows:
        raise D1ManifestError(f"table {entry.name!r}: the manifest says {entry.rows} rows, its files have {listed}")
    names = naming.columns(column.name for column in entry.columns)
    columns = tuple(
        Column(
            names[column.name],
            column.type,
            None if names[column.name] == column.name else column.name,
            hint=None if hinted is None else hint_for(hinted, column.declared_type, column.type),
        )
        for column in entry.columns
    )
    parts = tuple(Part(file.uri, file.rows or 0, file.bytes, file.sha256) for file in entry.files)
    source = None if name == entry.name else entry.name
    return Table(name, columns, entry.rows, parts, token, tuple(names[column] for column in key), source)
