"""MySQL and MariaDB: multi-row ``INSERT`` into helper tables, which replace rows in a transaction."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.staging.workers import ahead
from airflow_provider_d1.warehouses import native_types
from airflow_provider_d1.warehouses.base import Warehouse
from airflow_provider_d1.warehouses.batches import staged_batches
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.fitting import fitted
from airflow_provider_d1.warehouses.insert_values import refuse_non_finite, value_lists
from airflow_provider_d1.warehouses.mysql_session import MySQLSession, connect, error_number
from airflow_provider_d1.warehouses.native_types import Fit, converted, kind_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_d1.warehouses.plan import Column, LoadPlan
    from airflow_provider_d1.warehouses.session import Connections, Run
    from airflow_provider_d1.warehouses.staged_files import StagedFiles
    from airflow_provider_d1.warehouses.table_load import TableLoad

#: bytes of rows in one INSERT; the server's max_allowed_packet is 16 MiB in MariaDB, 64 MiB in MySQL 8, if not less
_LARGEST_INSERT = 4 << 20
#: permanent errors; all others are taken as transient: a deadlock (1213), a lock (1205),
#: a full disk (1021, 1114), a server that shuts down, is read-only (1290, 1836) or has gone (2006, 2013)
_PERMANENT = frozenset(
    (
        *(1044, 1045, 1142, 1143, 1227, 1370, 1698),  # access denied
        *(1049, 1054, 1115, 1146, 1193, 1231, 1273),  # unknown database, column, character set, table, variable
        *(1059, 1060, 1061, 1071, 1102, 1103, 1117, 1118, 1136, 1166, 1170),  # names, numbers of columns, keys, sizes
        *(1064, 1153, 1701),  # syntax, a packet that is too large, TRUNCATE of a referenced table
        *(1048, 1264, 1265, 1292, 1300, 1364, 1366, 1406, 1690, 1906, 3105),  # values that do not fit
        *(1062, 1451, 1452, 3819, 4025),  # unique keys, foreign keys, checks
    )
)
#: upper and lower case, and İ and i, are one name to the server where names of columns are compared
_TEXT = "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"


def fold(name: str) -> str:
    """Names with the same image are one name of a column."""
    return "".join(character.lower()[:1] for character in name)


class MySQL(Warehouse[MySQLSession]):
    """MySQL 8 and MariaDB."""

    dialect = Dialect(
        name="MySQL",
        types={
            "int64": "bigint",
            "float64": "double",
            "string": _TEXT,
            "binary": "longblob",
            "timestamp[us]": "datetime(6)",
            "date32": "date",
        },
        known_types={
            "bigint(20)": "int64",
            "bigint": "int64",
            "double": "float64",
            "longtext": "string",
            "longblob": "binary",
            "datetime(6)": "timestamp[us]",
            "date": "date32",
        },
        native={
            "boolean": "tinyint(1)",
            "date": "date",
            "timestamp": "datetime(6)",
            "decimal": "decimal({precision},{scale})",
        },
        no_native={"json": "MySQL's JSON changes the text"},
        largest_decimal=(65, 30, 65),
        try_cast="CAST({value} AS {type})",
        zoned_in_utc=True,
        max_length=64,
        length_in="characters",
        fold=fold,
        quote="`",
        backslash=True,
        # names are stored in three bytes of UTF-8 at most, and lose a space at the end
        forbidden=re.compile("[\0\U00010000-\U0010ffff]|(?<= )$"),
        reserved_columns=frozenset({"db_row_id", "db_trx_id", "db_roll_ptr", "fts_doc_id"}),
    )
    extra = "mysql"
    modules = ("pymysql",)
    statement = "INSERT"
    timestamp_type = "datetime(6)"
    now = "UTC_TIMESTAMP(6)"
    locks_schema = True
    begin = "START TRANSACTION"
    fits_values_here = True
    fits_widen_helper = True
    table_suffix = " ENGINE=InnoDB"
    loads_suffix = " ENGINE=InnoDB"

    def driver_errors(self) -> tuple[type[Exception], ...]:
        from pymysql.err import Error

        return (Error,)

    def is_permanent(self, error: Exception) -> bool:
        number = error_number(error)
        # a missing helper table was dropped by another session: the next load makes a new one
        return number in _PERMANENT and not (number == 1146 and "_d1_new_" in str(error))

    def connect(self, plan: LoadPlan, files: StagedFiles, connections: Connections) -> MySQLSession:
        return connect(connections.conn_id, plan.options.schema)

    def columns_query(self, plan: LoadPlan, table: str) -> str:
        return (
            "SELECT column_name, CONCAT(column_type, CASE WHEN character_set_name <> 'utf8mb4' "
            "THEN CONCAT(' CHARACTER SET ', character_set_name) ELSE '' END) FROM information_schema.columns "
            f"WHERE {_of(plan, table)} ORDER BY ordinal_position"
        )

    def check_targets(self, run: Run[MySQLSession]) -> None:
        """Refuse views, and tables of an engine without transactions, whose rows can't be replaced in one step."""
        for table in run.plan.tables:
            for kind, engine, transactions in run.session.rows(
                "SELECT t.table_type, t.engine, e.transactions FROM information_schema.tables t "
                "LEFT JOIN information_schema.engines e ON e.engine = t.engine "
                f"WHERE {_of(run.plan, table.name, 't.table_schema', 't.table_name')}"
            ):
                if engine is None:
                    raise self.not_a_table(run.plan, table.name, f"is a {kind.lower()}, not a table")
                if transactions != "YES":
                    statement = f"ALTER TABLE {run.plan.path(table.name)} ENGINE=InnoDB"
                    what = f"has the engine {engine}, which has no transactions (run {statement})"
                    raise self.not_a_table(run.plan, table.name, what)

    def cast(self, name: str, old: str, new: str) -> str:
        if (old, new) == ("float64", "string"):
            return _real_as_text(name)
        if (old, new) == ("binary", "string"):
            return f"HEX({name})"
        if (old, new) == ("timestamp[us]", "string"):
            text = f"CAST({name} AS CHAR CHARACTER SET utf8mb4)"
            shorter = f"TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM {text}))"
            return f"IF(LOCATE('.', {text}) > 0, {shorter}, {text})"
        if new == "string":
            return f"CAST({name} AS CHAR CHARACTER SET utf8mb4)"
        return name

    def alterable(self, old: str, new: str) -> bool:
        return True

    def alter_column(self, plan: LoadPlan, table: str, column: str, old: str, new: str) -> list[str]:
        path, name, kind = plan.path(table), plan.dialect.identifier(column), plan.dialect.types[new]
        if converted(self, name, old, new) in (name, f"CAST({name} AS CHAR CHARACTER SET utf8mb4)"):
            return [f"ALTER TABLE {path} MODIFY COLUMN {name} {kind}"]
        # MODIFY would not give SQLite's form. The second column has a name that only this load has
        wider = plan.dialect.identifier(f"_d1_{plan.tables[0].token}")
        return [
            f"ALTER TABLE {path} ADD COLUMN {wider} {kind} AFTER {name}",
            f"UPDATE {path} SET {wider} = {converted(self, name, old, new)}",
            f"ALTER TABLE {path} DROP COLUMN {name}, CHANGE COLUMN {wider} {name} {kind}",
        ]

    def exactly(self, value: str, type_name: str) -> str:
        # a collation may ignore spaces at the end, and case
        return f"CAST({value} AS BINARY)" if type_name == "string" else value

    def fit(self, plan: LoadPlan, work: TableLoad, row: str, held: Column, native: str, kind: str = "") -> Fit:
        """By a second column of the helper table: CAST does not have all types that columns can have.

        IGNORE makes other values of those that do not fit, so that the two columns differ.
        """
        path, identifier, sources = plan.path(work.into), plan.dialect.identifier, list[str]()
        column = identifier(shadow_name(held))

        def cast(source: str) -> str:
            sources.append(source)
            return f"{row}{column}"

        found = native_types.fit(self, f"{row}{identifier(held.name)}", held.type, native, kind, cast)
        prepare = [f"ALTER TABLE {path} ADD COLUMN {column} {native} NULL"] if sources else []
        return replace(found, prepare=[*prepare, *(f"UPDATE IGNORE {path} SET {column} = {each}" for each in sources)])

    def merge(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        """A foreign key to the table itself is not checked until all rows are there: they are checked one by one."""
        match, row = self.match(plan, work), f"{plan.dialect.identifier(work.table.name)}."
        changed, delete = match.assignments(row), [match.delete] if match.delete_missing else []
        result = [f"UPDATE {match.path} JOIN {match.source} ON {match.same_key} SET {changed}"] if changed else []
        result.append(
            f"INSERT INTO {match.path} ({match.names}) SELECT {match.inserted} FROM {match.source} "
            f"LEFT JOIN {match.path} ON {match.same_key} WHERE {match.key[0].old} IS NULL"
        )
        if work.refers_to_itself:
            return ["SET SESSION foreign_key_checks = 0", *result, "SET SESSION foreign_key_checks = 1", *delete]
        return [*delete, *result]

    def rename_helper(self, plan: LoadPlan, work: TableLoad) -> str:
        return f"RENAME TABLE {plan.path(work.into)} TO {plan.path(work.table.name)}"

    def swap(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        """Both names change in one step; then the old table has the helper's name and is dropped as such."""
        old, new, between = plan.path(work.table.name), plan.path(work.into), plan.path(f"{work.into}_old")
        return [f"RENAME TABLE {old} TO {between}, {new} TO {old}, {between} TO {new}"]

    def load_rows(self, run: Run[MySQLSession], work: TableLoad) -> None:
        super().load_rows(run, work)
        if work.action in ("overwrite", "merge"):
            key, work.refers_to_itself = self._referenced_key(run, work)
            if work.action == "overwrite" and key:
                # a DELETE of all rows would set off the foreign keys that point at the table
                work.action, work.key, work.delete_missing = "merge", key, True
        if work.action == "merge":
            run.execute(_index_key(run.plan, work))

    def _referenced_key(self, run: Run[MySQLSession], work: TableLoad) -> tuple[tuple[str, ...], bool]:
        """The columns to match rows by, none without foreign keys; and whether one comes from the table itself."""
        plan, name = run.plan, work.table.name
        references = run.session.rows(
            "SELECT constraint_name, referenced_column_name, "
            "table_schema = referenced_table_schema AND table_name = referenced_table_name "
            "FROM information_schema.key_column_usage "
            f"WHERE {_of(plan, name, 'referenced_table_schema', 'referenced_table_name')} "
            "ORDER BY constraint_name, ordinal_position"
        )
        if not references:
            return (), False
        primary = run.session.rows(
            "SELECT column_name FROM information_schema.statistics "
            f"WHERE {_of(plan, name)} AND index_name = 'PRIMARY' ORDER BY seq_in_index"
        )
        key = [column for (column,) in primary]
        key = key or [column for constraint, column, _ in references if constraint == references[0][0]]
        return tuple(key), any(to_itself for _, _, to_itself in references)

    def attached_query(self, plan: LoadPlan, table: str) -> str:
        """A swap keeps what goes by the table's name: grants, views, routines. The rest would go with the old table."""
        own = _of(plan, table)
        referring = _of(plan, table, "referenced_table_schema", "referenced_table_name")
        trigger = _of(plan, table, "event_object_schema", "event_object_table")
        chosen = (
            "is_nullable = 'NO' OR COALESCE(column_default, 'NULL') <> 'NULL' OR CONCAT(extra, column_comment) <> ''"
        )
        queries = (
            ("index", "index_name", "statistics", own),
            ("foreign key", "constraint_name", "key_column_usage", f"{own} AND referenced_table_name IS NOT NULL"),
            ("foreign key", "constraint_name", "key_column_usage", referring),
            ("constraint", "constraint_name", "table_constraints", f"{own} AND constraint_type = 'CHECK'"),
            ("trigger", "trigger_name", "triggers", trigger),
            ("settings of column", "column_name", "columns", f"{own} AND ({chosen})"),
            ("comment", "table_comment", "tables", f"{own} AND table_comment <> ''"),
            ("partition", "partition_name", "partitions", f"{own} AND partition_name IS NOT NULL"),
        )
        return " UNION ".join(
            f"SELECT CONCAT('{what} ', {name}) FROM information_schema.{view} WHERE {condition}"
            for what, name, view, condition in queries
        )

    def fill_statements(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        return [f"{self._insert(plan, work)} ({', '.join('?' for _ in work.columns)})"]

    def fill(self, run: Run[MySQLSession], work: TableLoad) -> int:
        insert = self._insert(run.plan, work)
        prefix = f"{insert} ".encode()
        largest = run.session.largest_statement - len(prefix) - 1  # the packet has a byte before the statement
        rows = 0
        with ahead(self._lists(run, work, min(_LARGEST_INSERT, largest))) as lists:
            for number, values in enumerate(lists):
                if len(values) > largest:
                    raise D1WarehouseError(
                        f"Table {work.table.name!r}: a row takes {len(values)} bytes as a statement, and the server's "
                        f"max_allowed_packet is {run.session.largest_statement}; raise it"
                    )
                if number == 0:
                    run.announce(f"{insert} …")
                rows += int(run.session.cursor.execute(prefix + values))
        return rows

    def _insert(self, plan: LoadPlan, work: TableLoad) -> str:
        names = ", ".join(plan.dialect.identifier(column.name) for column in work.columns)
        return f"INSERT INTO {plan.path(work.into)} ({names}) VALUES"

    def _lists(self, run: Run[MySQLSession], work: TableLoad, largest: int) -> Iterator[bytes]:
        batches = staged_batches(run.files, work.table, run.plan.file_format)
        for batch in fitted(batches, work.table, work.columns):
            refuse_non_finite(batch, work.table, self.dialect.name)
            yield from value_lists(batch, self.dialect, largest)


def shadow_name(column: Column) -> str:
    """The helper table's second column, with a staged column's values in the type that the table's column has."""
    return f"_d1_{hashlib.sha256(column.name.encode()).hexdigest()[:16]}"


def _index_key(plan: LoadPlan, work: TableLoad) -> str:
    """Without an index the helper table's rows would be compared with the table's one by one."""
    columns = []
    for held, target in zip(work.columns, work.drift.targets, strict=True):
        name, kind = held.name, kind_in(target, plan.dialect.type_of(target.type, target.native))
        if target.native and kind != "boolean":
            name = shadow_name(held)
        if target.name in work.key:
            columns.append(f"{plan.dialect.identifier(name)}{'(191)' if kind in ('text', 'binary') else ''}")
    return f"CREATE INDEX d1_key ON {plan.path(work.into)} ({', '.join(columns)})"


def _of(plan: LoadPlan, table: str, schema_column: str = "table_schema", table_column: str = "table_name") -> str:
    """The condition for a table: the catalogue's own comparison ignores case, whether or not the server does."""
    conditions = []
    for column, name in ((schema_column, plan.options.schema), (table_column, table)):
        literal = plan.dialect.literal(name)
        conditions.append(f"{column} = {literal} AND (@@lower_case_table_names <> 0 OR BINARY {column} = {literal})")
    return " AND ".join(conditions)


def _real_as_text(name: str) -> str:
    """A double in SQLite's layout, ``1.0``, ``1.0e+21``, ``1.0e-07``, whatever the server writes."""
    text = f"CAST(ABS({name}) AS CHAR)"
    mantissa = f"REPLACE(SUBSTRING_INDEX({text}, 'e', 1), '.', '')"
    exponent = f"CAST(SUBSTRING_INDEX({text}, 'e', -1) AS SIGNED)"
    whole, fraction = f"SUBSTRING_INDEX({text}, '.', 1)", f"SUBSTRING_INDEX({text}, '.', -1)"
    small, large = f"TRIM(LEADING '0' FROM {fraction})", f"TRIM(TRAILING '0' FROM {whole})"

    def scientific(digits: str, power: str) -> str:
        return (
            f"CONCAT(LEFT({digits}, 1), '.', IF(CHAR_LENGTH({digits}) > 1, SUBSTRING({digits}, 2), '0'), 'e', "
            f"IF({power} < 0, '-', '+'), LPAD(ABS({power}), GREATEST(2, CHAR_LENGTH(ABS({power}))), '0'))"
        )

    return (
        f"CONCAT(IF({name} < 0, '-', ''), CASE "
        f"WHEN {name} = TRUNCATE({name}, 0) AND ABS({name}) < 1e17 "
        f"THEN CONCAT(CAST(CAST(ABS({name}) AS DECIMAL(20, 0)) AS CHAR), '.0') "
        f"WHEN LOCATE('e', {text}) > 0 THEN {scientific(mantissa, exponent)} "
        f"WHEN ABS({name}) >= 1e17 THEN {scientific(large, f'(CHAR_LENGTH({whole}) - 1)')} "
        f"WHEN ABS({name}) < 1e-4 "
        f"THEN {scientific(small, f'(CHAR_LENGTH({small}) - CHAR_LENGTH({fraction}) - 1)')} "
        f"ELSE {text} END)"
    )
