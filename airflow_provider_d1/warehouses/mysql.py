"""MySQL and MariaDB: multi-row ``INSERT`` into helper tables, which replace rows in a transaction."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses.ahead import ahead
from airflow_provider_d1.warehouses.base import Warehouse
from airflow_provider_d1.warehouses.batches import staged_batches
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.fitting import fitted
from airflow_provider_d1.warehouses.mysql_session import MySQLSession, connect, is_permanent
from airflow_provider_d1.warehouses.mysql_values import refuse_non_finite, value_lists

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_d1.warehouses.plan import LoadPlan
    from airflow_provider_d1.warehouses.session import Connections, Run
    from airflow_provider_d1.warehouses.staged_files import StagedFiles
    from airflow_provider_d1.warehouses.table_load import TableLoad

#: bytes of rows in one INSERT; the server's max_allowed_packet is 16 MiB in MariaDB, 64 MiB in MySQL 8, if not less
_LARGEST_INSERT = 4 << 20
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
        max_length=64,
        length_in="characters",
        fold=fold,
        quote="`",
        backslash=True,
        # names are stored in three bytes of UTF-8 at most, and lose a space at the end
        impossible=re.compile("[\0\U00010000-\U0010ffff]|(?<= )$"),
        reserved_columns=frozenset({"db_row_id", "db_trx_id", "db_roll_ptr", "fts_doc_id"}),
    )
    extra = "mysql"
    modules = ("pymysql",)
    statement = "INSERT"
    timestamp_type = "datetime(6)"
    now = "UTC_TIMESTAMP(6)"
    begin = "START TRANSACTION"
    fits_values_here = True
    table_suffix = " ENGINE=InnoDB"
    loads_suffix = " ENGINE=InnoDB"

    def driver_errors(self) -> tuple[type[Exception], ...]:
        from pymysql.err import Error

        return (Error,)

    def is_permanent(self, error: Exception) -> bool:
        return is_permanent(error)

    def connect(self, plan: LoadPlan, files: StagedFiles, connections: Connections) -> MySQLSession:
        return connect(connections.conn_id, plan.options.schema)

    def columns_query(self, plan: LoadPlan, table: str) -> str:
        return (
            "SELECT column_name, column_type FROM information_schema.columns "
            f"WHERE {_named(plan, 'table_schema', plan.options.schema)} AND {_named(plan, 'table_name', table)} "
            "ORDER BY ordinal_position"
        )

    def check_targets(self, run: Run[MySQLSession]) -> None:
        """Refuse views, and tables of an engine without transactions, whose rows can't be replaced in one step."""
        for table in run.plan.tables:
            for kind, engine, transactions in run.session.rows(
                "SELECT t.table_type, t.engine, e.transactions FROM information_schema.tables t "
                "LEFT JOIN information_schema.engines e ON e.engine = t.engine "
                f"WHERE {_named(run.plan, 't.table_schema', run.plan.options.schema)} "
                f"AND {_named(run.plan, 't.table_name', table.name)}"
            ):
                path = run.plan.path(table.name)
                if engine is None:
                    raise D1WarehouseError(
                        f"Table {table.name!r} is not loaded: {path} is a {kind.lower()}, not a table; rename it, or "
                        "leave the table out with tables=[…]"
                    )
                if transactions != "YES":
                    raise D1WarehouseError(
                        f"Table {table.name!r} is not loaded: {path} has the engine {engine}, which has no "
                        f"transactions; run ALTER TABLE {path} ENGINE=InnoDB"
                    )

    def cast(self, name: str, old: str, new: str) -> str:
        if (old, new) == ("float64", "string"):
            return _real_as_text(name)
        if (old, new) == ("binary", "string"):
            return f"HEX({name})"
        if new == "string":
            return f"CAST({name} AS CHAR CHARACTER SET utf8mb4)"
        return name

    def alterable(self, old: str, new: str) -> bool:
        return True

    def alter_column(self, plan: LoadPlan, table: str, column: str, old: str, new: str) -> str:
        path, name, kind = plan.path(table), plan.dialect.identifier(column), plan.dialect.types[new]
        if self.cast(name, old, new) in (name, f"CAST({name} AS CHAR CHARACTER SET utf8mb4)"):
            return f"ALTER TABLE {path} MODIFY COLUMN {name} {kind}"
        return super().alter_column(plan, table, column, old, new)

    def alterations(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        """Where MODIFY would not give SQLite's form: a second column with a name that only this load has."""
        table, dialect = work.table.name, plan.dialect
        result = [self.add_column(plan, table, column) for column in work.drift.added]
        for number, change in enumerate(work.drift.altered):
            if "MODIFY COLUMN" in change.statement:
                result.append(change.statement)
                continue
            path, name = plan.path(table), dialect.identifier(change.column)
            wider = dialect.identifier(f"{work.table.helper}_{number}")
            kind = dialect.types[change.new]
            result += [
                f"ALTER TABLE {path} ADD COLUMN {wider} {kind} AFTER {name}",
                f"UPDATE {path} SET {wider} = {self.cast(name, change.old, change.new)}",
                f"ALTER TABLE {path} DROP COLUMN {name}, CHANGE COLUMN {wider} {name} {kind}",
            ]
        return result

    def exactly(self, value: str, type_name: str) -> str:
        # a collation may ignore spaces at the end, and case
        return f"CAST({value} AS BINARY)" if type_name == "string" else value

    def merge(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        """Delete the rows that are gone, change those that differ, add those that are new.

        Where a foreign key of the table refers to the table, rows are checked one by one, and a row may come before the
        one that it refers to. Then nothing is checked until all are there.
        """
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
        if work.action == "swap":
            self._refuse_to_lose(run, work)
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
            f"WHERE {_named(plan, 'referenced_table_schema', plan.options.schema)} "
            f"AND {_named(plan, 'referenced_table_name', name)} ORDER BY constraint_name, ordinal_position"
        )
        if not references:
            return (), False
        primary = run.session.rows(
            "SELECT column_name FROM information_schema.statistics "
            f"WHERE {_named(plan, 'table_schema', plan.options.schema)} AND {_named(plan, 'table_name', name)} "
            "AND index_name = 'PRIMARY' ORDER BY seq_in_index"
        )
        key = [column for (column,) in primary]
        key = key or [column for constraint, column, _ in references if constraint == references[0][0]]
        return tuple(key), any(to_itself for _, _, to_itself in references)

    def _refuse_to_lose(self, run: Run[MySQLSession], work: TableLoad) -> None:
        """A swap keeps what goes by the table's name: grants, views, routines. The rest would go with the old table."""
        plan, name = run.plan, work.table.name
        schema, table = _named(plan, "table_schema", plan.options.schema), _named(plan, "table_name", name)
        referenced = (
            f"{_named(plan, 'referenced_table_schema', plan.options.schema)} "
            f"AND {_named(plan, 'referenced_table_name', name)}"
        )
        trigger = (
            f"{_named(plan, 'event_object_schema', plan.options.schema)} AND {_named(plan, 'event_object_table', name)}"
        )
        found = run.session.rows(
            "SELECT DISTINCT CONCAT('index ', index_name) FROM information_schema.statistics "
            f"WHERE {schema} AND {table} "
            "UNION SELECT CONCAT('foreign key ', constraint_name) FROM information_schema.key_column_usage "
            f"WHERE ({schema} AND {table} AND referenced_table_name IS NOT NULL) OR ({referenced}) "
            f"UNION SELECT CONCAT('constraint ', constraint_name) FROM information_schema.table_constraints "
            f"WHERE {schema} AND {table} AND constraint_type = 'CHECK' "
            f"UNION SELECT CONCAT('trigger ', trigger_name) FROM information_schema.triggers WHERE {trigger} "
            "UNION SELECT CONCAT('settings of column ', column_name) FROM information_schema.columns "
            f"WHERE {schema} AND {table} AND (is_nullable = 'NO' OR COALESCE(column_default, 'NULL') <> 'NULL' "
            "OR extra <> '' OR column_comment <> '') "
            "UNION SELECT 'comment of the table' FROM information_schema.tables "
            f"WHERE {schema} AND {table} AND table_comment <> '' "
            "UNION SELECT 'partitions' FROM information_schema.partitions "
            f"WHERE {schema} AND {table} AND partition_name IS NOT NULL"
        )
        if found:
            raise D1WarehouseError(
                f"Table {name!r} is unchanged: its columns are not the staged ones any more, and a new table in its "
                f"place would not have {', '.join(str(what) for (what,) in found)}. Give it the staged columns ("
                f"{', '.join(f'{c.name} {plan.dialect.types[c.type]}' for c in work.table.columns)}) with ALTER TABLE "
                f"{plan.path(name)}, or drop it"
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
                rows += run.session.insert(prefix + values, f"{insert} …" if number == 0 else None)
        return rows

    def _insert(self, plan: LoadPlan, work: TableLoad) -> str:
        names = ", ".join(plan.dialect.identifier(column.name) for column in work.columns)
        return f"INSERT INTO {plan.path(work.into)} ({names}) VALUES"

    def _lists(self, run: Run[MySQLSession], work: TableLoad, largest: int) -> Iterator[bytes]:
        batches = staged_batches(run.files, work.table, run.plan.file_format)
        for batch in fitted(batches, work.table, work.columns):
            refuse_non_finite(batch, work.table)
            yield from value_lists(batch, largest)


def _index_key(plan: LoadPlan, work: TableLoad) -> str:
    """Without an index the helper table's rows would be compared with the table's one by one."""
    long = {column.name for column in work.columns if column.type in ("string", "binary")}
    columns = ", ".join(f"{plan.dialect.identifier(name)}{'(191)' if name in long else ''}" for name in work.key)
    return f"CREATE INDEX d1_key ON {plan.path(work.into)} ({columns})"


def _named(plan: LoadPlan, column: str, name: str) -> str:
    """A condition for a name: the catalogue's own comparison ignores case, whether or not the server does."""
    literal = plan.dialect.literal(name)
    return f"{column} = {literal} AND (@@lower_case_table_names <> 0 OR BINARY {column} = {literal})"


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
