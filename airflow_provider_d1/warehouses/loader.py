"""The steps of every load: prepare, skip what is loaded, load and count all tables, publish, record, clean up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1ConfigurationError, D1WarehouseError
from airflow_provider_d1.validation import abridged, fold_case
from airflow_provider_d1.warehouses import load_history, target_types
from airflow_provider_d1.warehouses.native_types import old_type
from airflow_provider_d1.warehouses.plan import (
    LOADS_TABLE,
    Column,
    LoadedTable,
    LoadPlan,
    LoadResult,
    Table,
    leftover_helpers,
)
from airflow_provider_d1.warehouses.session import Run
from airflow_provider_d1.warehouses.table_planning import check_format, plan_table

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.base import Warehouse
    from airflow_provider_d1.warehouses.session import Connections
    from airflow_provider_d1.warehouses.staged_files import StagedFiles
    from airflow_provider_d1.warehouses.table_load import TableLoad

log = logging.getLogger(__name__)

#: a longer name is logged without its middle
_SHOWN_NAME = 40


def load(warehouse: Warehouse[Any], plan: LoadPlan, files: StagedFiles, connections: Connections) -> LoadResult:
    """Load the plan's tables.

    :raises D1WarehouseError: with the warehouse's own words when it refuses something.
    :raises D1ManifestError: when a staged file is not what the manifest says.
    :raises D1ConfigurationError: when the extra is missing, or this engine can't load such a manifest.
    """
    check_format(warehouse, plan)
    warehouse.check(plan, files)
    log_renamed(plan)
    name = warehouse.dialect.name
    try:
        for module in warehouse.modules:
            import_module(module)
    except ImportError as error:
        raise D1ConfigurationError(
            f"Loading into {name} needs its provider: pip install 'airflow-provider-d1[{warehouse.extra}]' ({error})"
        ) from error
    errors = warehouse.driver_errors()
    try:
        session = warehouse.connect(plan, files, connections)
    except errors as error:
        raise D1WarehouseError(
            f"No connection to {name} through {connections.conn_id!r}: {str(error).strip()}",
            retryable=not warehouse.is_permanent(error),
        ) from error
    with closing(session):
        try:
            loading = Load(warehouse, plan, files, session)
            return LoadResult(tuple(loading.run()), tuple(loading.missing), tuple(loading.dropped))
        except errors as error:
            state = "; no table was changed" if warehouse.transaction == "load" else ""
            text = session.without_secrets(str(error).strip())
            raise D1WarehouseError(
                f"{name} rejected the load{state}: {text}{warehouse.remedy(text)}",
                retryable=not warehouse.is_permanent(error),
            ) from None


def log_renamed(plan: LoadPlan) -> None:
    """Warn of the names that the warehouse can't hold, in one line."""
    tables = plan.renamed_tables()
    columns = {f"{t.source_name}.{old}": new for t in plan.tables for old, new in plan.renamed(t).items()}
    if tables or columns:
        pairs = ((_shortened(old), _shortened(new)) for old, new in {**tables, **columns}.items())
        shown = abridged((f"{old!r} → {new!r}" for old, new in pairs), longest=150)
        name = plan.dialect.name
        counts = "warehouse=%s renamed_tables=%d renamed_columns=%d names=%s"
        log.warning(counts, name, len(tables), len(columns), shown)


def _shortened(name: str) -> str:
    return name if len(name) <= _SHOWN_NAME else f"{name[: _SHOWN_NAME // 2]}…{name[-_SHOWN_NAME // 2 :]}"


class Load(Run[Any]):
    """One load from its first statement to its last one."""

    def __init__(self, warehouse: Warehouse[Any], plan: LoadPlan, files: StagedFiles, session: Any) -> None:
        super().__init__(plan, files, session)
        self.warehouse = warehouse
        self.missing: list[str] = []
        self.dropped: list[str] = []

    def run(self) -> list[LoadedTable]:
        """Load everything.

        :raises D1WarehouseError: when rows are missing, or a column can't be widened.
        """
        whole = self.warehouse.transaction == "load"
        try:
            self._start()
            results = self._tables()
            self._drop_helpers()
            if whole:
                self.execute("COMMIT")
        except BaseException:
            with suppress(Exception):  # what went wrong first is what counts
                if whole:
                    self.session.rows("ROLLBACK")
                else:
                    self._drop_helpers()
            raise
        return results

    def _start(self) -> None:
        warehouse, plan = self.warehouse, self.plan
        if warehouse.locks_first:
            self._prepare()
        if warehouse.transaction == "load":
            self.execute(warehouse.begin)
            for statement in warehouse.lock(plan):
                self.execute(statement)
        if not warehouse.locks_first:
            self._prepare()

    def _prepare(self) -> None:
        """Make schema and ``_d1_loads`` where they are missing: IF NOT EXISTS alone needs the right to create them."""
        warehouse, plan = self.warehouse, self.plan
        if not self._has_schema():
            self._make(warehouse.create_schema(plan), self._has_schema)
        columns = self._columns(LOADS_TABLE)
        if not columns:
            self._make(warehouse.create_loads(plan), partial(self._has_loads_column, load_history.COLUMNS[-1]))
        for column in load_history.LATER_COLUMNS if columns else ():
            if not self._has_loads_column(column, columns):  # an earlier release made it
                made = partial(self._has_loads_column, column)
                self._make(warehouse.add_column(plan, LOADS_TABLE, column), made)
        if warehouse.transaction != "load":  # else a killed load leaves none
            for name in leftover_helpers(self._table_names()):
                self.execute(warehouse.drop_helper(plan, name))

    def _make(self, statement: str, made: Callable[[], bool]) -> None:
        """Make something; it is no error when another load makes it at the same moment."""
        errors = self.warehouse.driver_errors()
        try:
            self.execute(statement)
        except errors:
            with suppress(*errors):  # the first error is the one to be raised
                if made():
                    return
            raise

    def _has_schema(self) -> bool:
        return bool(self.session.rows(self.warehouse.schema_query(self.plan)))

    def _has_loads_column(self, column: Column, columns: Mapping[str, str] | None = None) -> bool:
        columns = self._columns(LOADS_TABLE) if columns is None else columns
        return any(self.plan.dialect.fold(name) == column.name for name in columns)

    def _table_names(self) -> list[str]:
        return [str(name) for (name,) in self.session.rows(self.warehouse.tables_query(self.plan))]

    def _columns(self, table: str) -> dict[str, str]:
        """Name → type of a table's columns, empty when there is no such table."""
        rows = self.session.rows(self.warehouse.columns_query(self.plan, table))
        return {str(name): str(type_name) for name, type_name in rows}

    def _tables(self) -> list[LoadedTable]:
        warehouse, plan = self.warehouse, self.plan
        warehouse.check_targets(self)
        self._check_owners()
        loaded: set[str] = set()
        if plan.options.mode == "append":
            loaded = load_history.already_loaded(self.session.rows(load_history.history_query(plan)), plan.tables)
        results: list[LoadedTable] = []
        works: list[TableLoad] = []
        for table in plan.tables:
            existing, path = self._columns(table.name), plan.path(table.name)
            if existing and table.name in loaded:
                log.info("Skipped %s: this export is already loaded", path)
                results.append(self._loaded(table, warehouse.statement, rows=0, skipped=True))
                continue
            work = plan_table(warehouse, plan, table, existing)
            self._check_exact(work)
            planned = work.action
            if planned == "swap":
                self._check_attached(work)
            if work.into == table.name and work.action == "append":
                work.rows_before = self.count(table.name)
            warehouse.load_rows(self, work)
            if work.action == "swap" != planned:  # the values do not fit the types that the table has
                self._check_attached(work)
            works.append(work)
            changed = {"nul_replaced": dict(work.nul_replaced), "texts_truncated": dict(work.texts_truncated)}
            results.append(self._loaded(table, warehouse.statement_for(work), rows=table.rows, **changed))
        self._find_missing()
        self._publish(works)
        if works and warehouse.transaction == "load":
            warehouse.record(self, [work.table for work in works])
        return results

    def _publish(self, works: Sequence[TableLoad]) -> None:
        """Publish all tables. Where another load adds the same columns first, the next attempt finds them there."""
        warehouse = self.warehouse
        errors = warehouse.driver_errors()
        try:
            warehouse.publish_all(self, works)
        except errors as error:
            added: list[str] = []
            if warehouse.transaction != "load" and "ADD COLUMN" in self.statement:
                with suppress(*errors):  # the first error is the one to be raised
                    added = [work.table.name for work in works if work.drift.added and self._has_added(work)]
            if not added:
                raise
            text = self.session.without_secrets(str(error).strip())
            raise D1WarehouseError(
                f"table {added[0]!r} got the same columns from another load at the same time; the next attempt finds "
                f"them there: {text}",
                retryable=True,
            ) from None

    def _has_added(self, work: TableLoad) -> bool:
        fold = self.plan.dialect.fold
        held = {fold(name) for name in self._columns(work.table.name)}
        return any(fold(column.name) in held for column in work.drift.added)

    def _loaded(self, table: Table, statement: str, *, rows: int, **more: Any) -> LoadedTable:
        plan = self.plan
        columns, path = plan.renamed(table), plan.path(table.name)
        return LoadedTable(table.name, path, statement, rows, source_name=table.source, renamed_columns=columns, **more)

    def _find_missing(self) -> None:
        """The tables that D1 no longer has; drop those that are this database's alone and have nothing attached."""
        plan, warehouse = self.plan, self.warehouse
        if plan.in_source is None or not plan.tables:
            return
        known = load_history.loaded_tables(self.session.rows(load_history.source_query(plan)))
        gone = {name for name, source in known.items() if fold_case(source) not in plan.in_source}
        if gone:  # one query, as a schema may have had thousands of tables that are gone everywhere
            present = set(self._table_names())
            self.missing = [name for name in known if name in gone and plan.dialect.stored(name) in present]
        if not self.missing or plan.options.on_missing == "keep":
            for name in self.missing:
                log.warning("table=%s missing_in_source=true kept=true", name)
            return
        rows = self.session.rows(load_history.owners_query(plan, self.missing))
        owners = load_history.other_owners(rows, str(plan.origin.database_id))
        for name in self.missing:
            owner = owners.get(name)
            why = [f"rows of {owner}"] if owner else self._attached_or_unknown(name)
            if why:
                log.warning("table=%s missing_in_source=true kept=true attached=%s", name, "; ".join(why))
                continue
            log.warning("table=%s missing_in_source=true dropped=true", name)
            warehouse.drop_table(self, name)
            warehouse.record(self, [Table(name, (), 0, (), source=known[name])], "drop")
            self.dropped.append(name)

    def _attached_or_unknown(self, name: str) -> list[str]:
        try:
            return self.warehouse.attached(self, name)
        except self.warehouse.driver_errors() as error:
            if self.warehouse.transaction == "load":
                raise  # the transaction has failed with it
            return [f"unknown: {error}"]

    def _check_owners(self) -> None:
        """Replace and merge into no other database's rows, unless this is allowed."""
        plan = self.plan
        if plan.options.mode == "append" or plan.options.allow_other_database or not plan.tables:
            return
        origin = plan.origin
        if origin.database_id is None:
            return
        owners = load_history.other_owners(self.session.rows(load_history.owners_query(plan)), origin.database_id)
        problems = [f"table {name!r} has rows of {owner}" for name, owner in owners.items() if self._columns(name)]
        if problems:
            own = f"{origin.database_name} ({origin.database_id})" if origin.database_name else origin.database_id
            raise D1WarehouseError(
                f"{'; '.join(problems)}, and {origin.manifest} is of {own}: nothing was changed. Load into another "
                "schema, or pass allow_other_database=True"
            )

    def _check_attached(self, work: TableLoad) -> None:
        """Drop nothing together with a table: who was kept from rows by a policy would see them in the new one."""
        plan, name = self.plan, work.table.name
        if plan.options.replace_strategy == "rows":
            changes = "; ".join(self._changes_to_staged(work))
            raise D1WarehouseError(
                f"Table {name!r} is unchanged: its columns are not the staged ones any more, and "
                f"replace_strategy='rows' makes no new table in its place. Run {changes}, or allow a swap"
            )
        try:
            found = self.warehouse.attached(self, name)
        except self.warehouse.driver_errors() as error:
            if self.warehouse.transaction == "load":
                raise  # the transaction has failed with it
            work.keeps_grants = False
            log.warning("table=%s policies=unknown, grants are not kept: %s", name, error)
            return
        if found:
            changes = "; ".join(self._changes_to_staged(work))
            remedy = f"Run {changes}" if changes else "Pass replace_strategy='rows'"
            raise D1WarehouseError(
                f"Table {name!r} is unchanged: a new table in its place would not have {', '.join(found)}. "
                f"{remedy}, or drop it"
            )

    def _changes_to_staged(self, work: TableLoad) -> list[str]:
        """The statements that would give a table the staged columns, for a person to run."""
        warehouse, plan, table = self.warehouse, self.plan, work.table
        existing = self._columns(table.name)
        kept = {c.name: target.native for c, target in zip(table.columns, work.drift.targets, strict=True)}
        fold = plan.dialect.fold
        staged, held = {fold(column.name): column for column in table.columns}, {fold(name): name for name in existing}
        added = [column for name, column in staged.items() if name not in held]
        result = warehouse.add_columns(plan, table.name, added)
        for name, column in staged.items():
            known = plan.dialect.known_types.get(existing[held[name]].lower()) if name in held else column.type
            if known != column.type and not kept[column.name]:
                old = old_type(plan.dialect, existing[held[name]])
                result += warehouse.alter_column(plan, table.name, held[name], old, column.type)
        gone = sorted(held[name] for name in held.keys() - staged.keys())
        return [*result, *warehouse.drop_columns(plan, table.name, gone)]

    def _check_exact(self, work: TableLoad) -> None:
        """Integers become doubles only as far as they are exact."""
        for change in work.drift.altered:
            if (change.old, change.new) == ("int64", "float64"):
                name, path = self.plan.dialect.identifier(change.column), self.plan.path(work.table.name)
                ((count,),) = self.session.rows(
                    f"SELECT COUNT(*) FROM {path} WHERE {name} NOT BETWEEN -{2**53} AND {2**53}"
                )
                if count:
                    raise D1WarehouseError(
                        f"table {work.table.name!r} is unchanged: {count} integers in column {change.column!r} would "
                        f"be rounded by {change.statement}"
                    )

    def settle_types(self, work: TableLoad, *, new_table: bool | None = None) -> None:
        target_types.settle(self.warehouse, self, work, new_table=new_table)

    def _drop_helpers(self) -> None:
        for name in self.helpers:
            self.execute(self.warehouse.drop_helper(self.plan, name))
