"""``_d1_loads``: what was loaded into a schema, when and from where; by it a repeated append is recognised.

``table_name`` is a table's name in the warehouse, ``source_name`` the one in D1; records of earlier releases have none,
as the two were the same. What came first is decided by ``sequence``, which grows by one with each record of a table,
and not by a clock. Records of earlier releases have none; among them ``loaded_at`` decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.warehouses.plan import LOADS_TABLE, Column, LoadPlan, Origin, Table

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.dialect import Dialect

#: the columns after ``loaded_at``, whose type is each warehouse's own
COLUMNS = (
    Column("manifest", "string"),
    Column("database_id", "string"),
    Column("database_name", "string"),
    Column("bookmark", "string"),
    Column("dump_sha256", "string"),
    Column("table_name", "string"),
    Column("rows", "int64"),
    Column("mode", "string"),
    Column("source_name", "string"),
    Column("sequence", "int64"),
)
#: those that a table made by an earlier release does not have
LATER_COLUMNS = COLUMNS[-2:]


def create_statement(plan: LoadPlan, timestamp_type: str, suffix: str = "") -> str:
    """``CREATE TABLE IF NOT EXISTS`` for the loader's own table.

    :param timestamp_type: type of ``loaded_at``.
    :param suffix: what follows the columns in this warehouse's dialect.
    """
    dialect = plan.dialect
    columns = [f"{dialect.identifier('loaded_at')} {timestamp_type}"]
    columns += [f"{dialect.identifier(column.name)} {dialect.types[column.type]}" for column in COLUMNS]
    return f"CREATE TABLE IF NOT EXISTS {plan.path(LOADS_TABLE)} ({', '.join(columns)}){suffix}"


def last_query(plan: LoadPlan) -> str:
    """The query for the last sequence; NULL when nothing was loaded yet."""
    return f"SELECT MAX({plan.dialect.identifier('sequence')}) FROM {plan.path(LOADS_TABLE)}"


def insert_statement(plan: LoadPlan, tables: Iterable[Table], now: str, sequence: int = 1, mode: str = "") -> str:
    """Record that tables were loaded.

    :param now: the warehouse's expression for the present time.
    :param sequence: larger than that of every earlier record.
    :param mode: what was done, where it is not the load's mode.
    """
    dialect, origin = plan.dialect, plan.origin
    names = ", ".join(dialect.identifier(name) for name in ("loaded_at", *(column.name for column in COLUMNS)))
    texts = (origin.manifest, origin.database_id, origin.database_name, origin.bookmark, origin.dump_sha256)
    common = ", ".join(dialect.literal(text) for text in texts)
    rows = [
        f"({now}, {common}, {dialect.literal(table.name)}, {table.rows}, {dialect.literal(mode or plan.options.mode)}, "
        f"{dialect.literal(table.source_name)}, {sequence})"
        for table in tables
    ]
    return f"INSERT INTO {plan.path(LOADS_TABLE)} ({names}) VALUES {', '.join(rows)}"


def history_query(plan: LoadPlan) -> str:
    """For each table of the plan and number of rows: when it was last replaced, when this export was last loaded."""
    dialect = plan.dialect
    name, rows, mode = (dialect.identifier(column) for column in ("table_name", "rows", "mode"))
    replaced, same = f"{mode} = {dialect.literal('replace')}", _same_origin(dialect, plan.origin)
    names = ", ".join(dialect.literal(table.name) for table in plan.tables)
    tables = f"{name} IN ({names}) AND " if names else ""
    return (
        f"SELECT {name}, {rows}, {_last(dialect, replaced)}, {_last(dialect, same)} "
        f"FROM {plan.path(LOADS_TABLE)} WHERE {tables}({replaced} OR ({same})) GROUP BY {name}, {rows}"
    )


def source_query(plan: LoadPlan) -> str:
    """For each table that this database was loaded into: its name in D1, when it was last dropped, and last loaded."""
    dialect = plan.dialect
    table, source, database, mode = (
        dialect.identifier(column) for column in ("table_name", "source_name", "database_id", "mode")
    )
    return (
        f"SELECT {table}, {source}, {_last(dialect, f'{mode} = ' + dialect.literal('drop'))}, "
        f"{_last(dialect, f'{mode} <> ' + dialect.literal('drop'))} FROM {plan.path(LOADS_TABLE)} "
        f"WHERE {database} = {dialect.literal(plan.origin.database_id)} GROUP BY {table}, {source}"
    )


def loaded_tables(rows: Iterable[tuple[Any, ...]]) -> dict[str, str]:
    """From :func:`source_query`'s rows: the tables that this database was loaded into and no load has dropped since.

    :returns: name in the warehouse → name in D1.
    """
    dropped: dict[str, tuple[int, Any]] = {}
    loaded: dict[str, tuple[tuple[int, Any], str]] = {}
    for table, source, *last in rows:
        name, drop, load = str(table), _moment(*last[:2]), _moment(*last[2:])
        if drop is not None:
            dropped[name] = max(drop, dropped.get(name, drop))
        if load is not None and (name not in loaded or load > loaded[name][0]):
            loaded[name] = (load, str(source or table))
    return {name: source for name, (at, source) in sorted(loaded.items()) if name not in dropped or at > dropped[name]}


def owners_query(plan: LoadPlan, tables: Iterable[str] | None = None) -> str:
    """For each table and database: the database's name, when it was last replaced by it, when it was last loaded.

    :param tables: the plan's by default.
    """
    dialect = plan.dialect
    table, database, name, mode = (
        dialect.identifier(column) for column in ("table_name", "database_id", "database_name", "mode")
    )
    names = ", ".join(map(dialect.literal, tables or (each.name for each in plan.tables)))
    return (
        f"SELECT {table}, {database}, MAX({name}), {_last(dialect, f'{mode} = ' + dialect.literal('replace'))}, "
        f"{_last(dialect, f'{database} IS NOT NULL')} FROM {plan.path(LOADS_TABLE)} "
        f"WHERE {table} IN ({names}) AND {database} IS NOT NULL GROUP BY {table}, {database}"
    )


def _last(dialect: Dialect, condition: str) -> str:
    """Sequence and time of the last record for which a condition holds."""
    columns = (dialect.identifier(column) for column in ("sequence", "loaded_at"))
    return ", ".join(f"MAX(CASE WHEN {condition} THEN {column} END)" for column in columns)


def _moment(sequence: Any, at: Any) -> tuple[int, Any] | None:
    """What :func:`_last` found, as something that can be compared; None for nothing."""
    return None if at is None else (int(sequence or 0), at)


def other_owners(owners: Iterable[tuple[Any, ...]], database_id: str) -> Mapping[str, str]:
    """From :func:`owners_query`'s rows: table → another database whose rows are in it now, name and id."""
    rows = [(table, database, name, _moment(*last[:2]), _moment(*last[2:])) for table, database, name, *last in owners]
    replaced: dict[str, tuple[int, Any]] = {}
    for table, _, _, at, _ in rows:
        if at is not None and (table not in replaced or at > replaced[table]):
            replaced[table] = at
    return {
        str(table): f"{name} ({database})" if name else str(database)
        for table, database, name, _, at in rows
        if database != database_id and at is not None and (table not in replaced or at >= replaced[table])
    }


def already_loaded(history: Iterable[tuple[Any, ...]], tables: Iterable[Table]) -> set[str]:
    """From :func:`history_query`'s rows: the tables that this export is in now.

    A later replace has taken it out. With another number of rows it is another export of the same bookmark: one of them
    was made with ``no_data``.
    """
    records = [(name, rows, _moment(*last[:2]), _moment(*last[2:])) for name, rows, *last in history]
    found = set()
    for table in tables:
        own = [record for record in records if record[0] == table.name]
        replaced = max((at for _, _, at, _ in own if at is not None), default=None)
        loaded = max((at for _, rows, _, at in own if rows == table.rows and at is not None), default=None)
        if loaded is not None and (replaced is None or loaded >= replaced):
            found.add(table.name)
    return found


def _same_origin(dialect: Dialect, origin: Origin) -> str:
    """The same database at the same bookmark; where the bookmark is unknown, the dump's SHA-256."""

    def equal(column: str, value: str | None) -> str:
        name = dialect.identifier(column)
        return f"{name} IS NULL" if value is None else f"{name} = {dialect.literal(value)}"

    conditions = [equal("database_id", origin.database_id), equal("bookmark", origin.bookmark)]
    if origin.bookmark is None:
        conditions.append(equal("dump_sha256", origin.dump_sha256))
    return " AND ".join(conditions)
