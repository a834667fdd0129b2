"""The steps of a load, as the statements that reach the warehouse, for every engine that takes the defaults."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_d1.cloudflare.models import ExportOptions
from airflow_provider_d1.exceptions import D1ConfigurationError, D1WarehouseError
from airflow_provider_d1.warehouses import load_history
from airflow_provider_d1.warehouses.base import Warehouse
from airflow_provider_d1.warehouses.dry_run import planned_statements
from airflow_provider_d1.warehouses.loader import Load
from airflow_provider_d1.warehouses.plan import LOADS_TABLE, Column, LoadOptions, LoadPlan, make_plan
from airflow_provider_d1.warehouses.session import Run, Session, abbreviated
from airflow_provider_d1.warehouses.table_planning import plan_table
from tests.unit.warehouses.warehouse_plans import ENGINES, TOKEN, manifest, plan

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.table_load import TableLoad

TABLES = {"users": {"id": "int64", "name": "string"}}
DAY = dt.timedelta(days=1)
CLOCK = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
FILL = "fill it"
#: the others have steps of their own, and are run in tests/integration/warehouses
DEFAULT = [name for name in ENGINES if type(ENGINES[name]).load_rows is Warehouse.load_rows]
NOT_WHOLE = [name for name in DEFAULT if ENGINES[name].transaction != "load"]


class Recorder(Session):
    """Answers the loader's questions and keeps the statements."""

    def __init__(self, columns: list[tuple[str, str]], history: list[tuple[Any, ...]] = (), fails: str = "\0") -> None:
        self.columns, self.history, self.fails = columns, list(history), fails
        self.helpers: list[str] = []
        self.policies: list[tuple[str]] = []
        self.rows_there = 10 if columns else 0
        self.arrives = self.matched = 3
        self.unfit, self.unfit_by = 0, ""
        self.last: int | None = None
        self.loaded: list[tuple[Any, ...]] = []
        self.owners: list[tuple[Any, ...]] = []
        self.ran: list[str] = []
        self.known: dict[str, list[tuple[Any, ...]]] = {}
        self.queries = 0
        #: the schema's tables; by default the helper tables and those of which a load is recorded
        self.names: list[str] | None = None

    def know(self, warehouse: Warehouse[Any], made: LoadPlan) -> None:
        self.known = {
            warehouse.schema_query(made): [(1,)],
            load_history.source_query(made): self.loaded,
            load_history.owners_query(made, [name for name, *_ in self.loaded]): self.owners,
            **{warehouse.columns_query(made, name): [("id", "x")] for name, *_ in self.loaded},
            **{warehouse.attached_query(made, name) or "": self.policies for name, *_ in self.loaded},
            warehouse.columns_query(made, LOADS_TABLE): [
                ("table_name", "text"),
                ("source_name", "text"),
                ("sequence", "bigint"),
            ],
            warehouse.tables_query(made): [
                (name,) for name in self.names or (*self.helpers, *(name for name, *_ in self.loaded))
            ],
            **{warehouse.attached_query(made, table.name) or "": self.policies for table in made.tables},
            **{warehouse.columns_query(made, table.name): self.columns for table in made.tables},
        }

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        if self.fails in statement:
            raise RuntimeError(statement)
        self.queries += 1
        if statement in self.known:
            return self.known[statement]
        if "MAX(CASE" in statement:
            return self.history
        if statement.startswith("SELECT MAX("):
            return [(self.last,)]
        if "NOT BETWEEN" in statement:
            return [(0,)]
        if "IS NULL" in statement or "d1_twice" in statement:
            return [(self.unfit if self.unfit_by in statement else 0,)]
        if statement.startswith("SELECT COUNT") and "JOIN" in statement:
            return [(self.matched,)]
        if statement.startswith("SELECT COUNT"):
            return [(self.rows_there,)]
        self.ran.append(statement)
        if "users" in statement and ("VALUES" not in statement or statement.startswith("MERGE")):
            adds = statement.startswith(("INSERT", "CREATE OR REPLACE")) or "RENAME" in statement
            if statement.startswith(("TRUNCATE", "DELETE", "DROP", "INSERT OVERWRITE", "CREATE OR REPLACE")):
                self.rows_there = 0
            adds = adds or statement.startswith("MERGE")
            self.rows_there += self.arrives if adds else 0
        return []

    def close(self) -> None:
        """Nothing is open."""

    def kinds(self) -> list[str]:
        return [" ".join(statement.split()[:2]) for statement in self.ran]


def load(
    name: str, recorder: Recorder, mode: str = "replace", rows: int = 3, tables: Any = TABLES, **options: Any
) -> Any:
    class Filled(type(ENGINES[name])):  # type: ignore[misc]
        def fill(self, run: Run[Any], work: TableLoad) -> int:  # noqa: ARG002 - nothing is loaded
            recorder.ran.append(FILL)
            return rows

    made = plan(ENGINES[name], manifest(tables), mode=mode, **options)
    recorder.know(ENGINES[name], made)
    return Load(Filled(), made, None, recorder).run()


def existing(name: str, /, **columns: str) -> list[tuple[str, str]]:
    """A table's columns, given by their staged types, as the warehouse's catalogue has them."""
    known = {staged: own for own, staged in reversed(ENGINES[name].dialect.known_types.items())}
    return [(column, known[kind]) for column, kind in columns.items()]


def target(name: str) -> str:
    return ENGINES[name].dialect.identifier("staging", "users")


PUBLISHED = {
    "snowflake": ["BEGIN", "INSERT OVERWRITE", "INSERT INTO", "COMMIT", "DROP TABLE"],
    "bigquery": ["BEGIN TRANSACTION", "TRUNCATE TABLE", "INSERT INTO", "INSERT INTO", "COMMIT", "DROP TABLE"],
    "databricks": ["INSERT OVERWRITE", "INSERT INTO", "DROP TABLE"],
    "redshift": ["DELETE FROM", "INSERT INTO", "INSERT INTO", "DROP TABLE", "COMMIT"],
}


@pytest.mark.parametrize("name", DEFAULT)
def test_a_new_table(name) -> None:
    recorder = Recorder([])
    (result,) = load(name, recorder)
    assert (result.rows, result.statement, result.path) == (3, ENGINES[name].statement, target(name))
    kinds = recorder.kinds()
    assert kinds.index("CREATE TABLE") < kinds.index(FILL)
    published = [statement for statement in recorder.ran if target(name) in statement or "RENAME" in statement]
    assert len(published) == 1
    assert recorder.ran.index(published[0]) > recorder.ran.index(FILL)


@pytest.mark.parametrize("name", DEFAULT)
def test_a_table_with_the_staged_columns_stays_and_its_rows_are_replaced(name) -> None:
    """With it stay the grants, policies, comments, keys and views that it has."""
    recorder = Recorder(existing(name, name="string", id="int64"))
    load(name, recorder)
    kinds = recorder.kinds()
    if name in PUBLISHED:
        assert kinds[kinds.index(FILL) + 1 :] == PUBLISHED[name]
    touched = [statement for statement in recorder.ran if target(name) in statement]
    assert not any(statement.startswith(("DROP", "CREATE", "ALTER")) for statement in touched)


@pytest.mark.parametrize("name", DEFAULT)
@pytest.mark.parametrize(
    "columns", [{"id": "int64"}, {"id": "string", "name": "string"}, {"id": "int64", "n": "string"}]
)
def test_a_table_with_other_columns_is_swapped(name, columns) -> None:
    recorder = Recorder(existing(name, **columns))
    load(name, recorder)
    assert not any(statement.startswith(("TRUNCATE", "DELETE", "INSERT OVERWRITE")) for statement in recorder.ran)
    assert recorder.rows_there == 3


def test_bigquery_publishes_and_records_all_tables_in_one_transaction() -> None:
    """A statement into ``_d1_loads`` for each table would soon meet a quota."""
    tables = {f"users{number}": {"id": "int64"} for number in range(100)}
    recorder = Recorder(existing("bigquery", id="int64"))
    made = plan(ENGINES["bigquery"], manifest(tables))
    load("bigquery", recorder, tables=tables)
    kinds = recorder.kinds()
    records = [statement for statement in recorder.ran if statement.startswith("INSERT INTO `staging`.`_d1_loads`")]
    assert [record.count("CURRENT_TIMESTAMP()") for record in records] == [90, 10]
    assert [kinds.count(kind) for kind in ("BEGIN TRANSACTION", "TRUNCATE TABLE", "COMMIT")] == [2, 100, 2]
    published = kinds[kinds.index("BEGIN TRANSACTION") :]
    planned = [" ".join(statement.split()[:2]) for statement in planned_statements(ENGINES["bigquery"], made)]
    assert published == planned[planned.index("BEGIN TRANSACTION") :]


@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
def test_bigquery_refuses_a_table_that_requires_a_partition_filter(mode) -> None:
    class Filtered(Recorder):
        def rows(self, statement: str) -> list[tuple[Any, ...]]:
            if "TABLE_OPTIONS" in statement:
                assert "'require_partition_filter'" in statement
                return [("another",), ("users",)]
            return super().rows(statement)

    recorder = Filtered(existing("bigquery", id="int64", name="string"))
    expected = r"'users' is unchanged.*ALTER TABLE `staging`.`users` SET OPTIONS \(require_partition_filter = false\)"
    with pytest.raises(D1WarehouseError, match=expected) as failure:
        load("bigquery", recorder, mode, keys={"users": ["id"]} if mode == "merge" else {})
    assert not failure.value.retryable
    assert FILL not in recorder.ran
    assert not any(target("bigquery") in statement for statement in recorder.ran)


@pytest.mark.parametrize("name", DEFAULT)
def test_the_strategy_decides_between_rows_and_a_swap(name) -> None:
    same, other = existing(name, id="int64", name="string"), existing(name, id="int64", old="float64")
    swapping = re.compile(r"(DROP|CREATE OR REPLACE|ALTER) TABLE.*`?users|RENAME|CLONE|COPY `")
    for columns, strategy, swaps in (
        (same, "auto", False),
        (other, "auto", True),
        (same, "rows", False),
        (same, "swap", True),
        (other, "swap", True),
    ):
        recorder = Recorder(columns)
        load(name, recorder, replace_strategy=strategy)
        changed = [s for s in recorder.ran if target(name) in s and swapping.search(s) and "_d1_loads" not in s]
        assert bool(changed) == swaps, (strategy, changed)
    recorder = Recorder(other)
    with pytest.raises(D1WarehouseError, match=r"'users' is unchanged.*Run .*ADD COLUMN .name.*DROP COLUMN .old."):
        load(name, recorder, replace_strategy="rows")
    assert FILL not in recorder.ran


@pytest.mark.parametrize("name", DEFAULT)
def test_a_swap_that_would_lose_something_is_refused(name) -> None:
    recorder = Recorder(existing(name, id="int64", name="string"))
    recorder.policies = [("index by_name",)]
    with pytest.raises(D1WarehouseError, match=r"'users' is unchanged.*index by_name.*replace_strategy='rows'"):
        load(name, recorder, replace_strategy="swap")
    assert FILL not in recorder.ran


WITH_POLICIES = [name for name in DEFAULT if ENGINES[name].attached_query(plan(ENGINES[name], manifest()), "users")]


@pytest.mark.parametrize("name", WITH_POLICIES)
def test_a_table_with_policies_is_not_swapped(name) -> None:
    """Its grants would stay, and show what the policies hid."""
    recorder = Recorder(existing(name, id="int64"))
    recorder.policies = [("ROW_ACCESS_POLICY own_rows",)]
    with pytest.raises(D1WarehouseError, match=r"'users' is unchanged.*ROW_ACCESS_POLICY own_rows"):
        load(name, recorder)
    assert FILL not in recorder.ran
    # its rows can be replaced
    recorder = Recorder(existing(name, id="int64", name="string"))
    recorder.policies = [("ROW_ACCESS_POLICY own_rows",)]
    load(name, recorder)


def test_snowflake_keeps_no_grants_where_policies_are_unknown() -> None:
    (error,) = ENGINES["snowflake"].driver_errors()

    class Blind(Recorder):
        def rows(self, statement: str) -> list[tuple[Any, ...]]:
            if "policy_references" in statement:
                raise error("not authorized")
            return super().rows(statement)

    for recorder, grants in (
        (Recorder(existing("snowflake", id="int64")), True),
        (Blind([("id", "NUMBER(38,0)")]), False),
    ):
        load("snowflake", recorder)
        (swap,) = [statement for statement in recorder.ran if statement.startswith("CREATE OR REPLACE TABLE")]
        assert ("COPY GRANTS" in swap) == grants


@pytest.mark.parametrize("name", DEFAULT)
@pytest.mark.parametrize("mode", ["replace", "append"])
def test_rows_are_counted_in_the_table_itself(name, mode) -> None:
    for columns in ([], existing(name, id="int64", name="string"), existing(name, id="int64")):
        recorder = Recorder(columns)
        recorder.arrives = 2
        with pytest.raises(D1WarehouseError, match="'users' has 2 new rows after the load, expected 3") as failure:
            load(name, recorder, mode)
        assert failure.value.retryable
        assert not any("VALUES" in statement for statement in recorder.ran)  # it is not recorded as loaded
        assert "COMMIT" not in recorder.ran


@pytest.mark.parametrize("name", ENGINES)
def test_every_name_that_a_load_creates_is_its_own(name) -> None:
    warehouse = ENGINES[name]
    options = LoadOptions(schema="staging")
    made = [make_plan(manifest(TABLES), "s3://bucket/d1/_manifest.json", warehouse.dialect, options) for _ in range(2)]
    one, other = (set(re.findall(r"_d1_new_\w+", "\n".join(planned_statements(warehouse, each)))) for each in made)
    assert not one & other
    works = [plan_table(warehouse, each, each.tables[0], {}) for each in made]
    assert {work.into for work in works} == {"users"} or len({work.into for work in works}) == 2


@pytest.mark.parametrize("name", NOT_WHOLE)
def test_helper_tables_of_killed_loads_are_dropped_after_a_day(name) -> None:
    recorder = Recorder([])
    now = dt.datetime.now(dt.UTC)
    old, young = (f"_d1_new_{now - age:%Y%m%dt%H%M%S}_00000000_{'0' * 16}" for age in (DAY * 1.1, DAY * 0.9))
    recorder.helpers = [old, young, "_d1_new_by_somebody", "_d1_new_99999999t999999_00000000_" + "0" * 16]
    load(name, recorder)
    dropped = [statement for statement in recorder.ran if "_00000000_" in statement]
    assert dropped == [f"DROP TABLE IF EXISTS {ENGINES[name].dialect.identifier('staging', old)}"]


@pytest.mark.parametrize("name", DEFAULT)
def test_missing_rows_leave_the_table_and_no_helper(name) -> None:
    recorder = Recorder(existing(name, id="int64", name="string"))
    with pytest.raises(D1WarehouseError, match="table 'users': loaded 2 rows, expected 3"):
        load(name, recorder, rows=2)
    assert not any("users" in statement for statement in recorder.ran)
    whole = ENGINES[name].transaction == "load"
    assert recorder.ran[-1].startswith("ROLLBACK" if whole else "DROP TABLE IF EXISTS")


@pytest.mark.parametrize("name", [name for name in DEFAULT if ENGINES[name].transaction == "load"])
def test_a_load_in_one_transaction_is_rolled_back_whole(name) -> None:
    recorder = Recorder([], fails="RENAME")
    with pytest.raises(RuntimeError):
        load(name, recorder)
    assert ENGINES[name].begin in recorder.ran
    assert recorder.ran[-1] == "ROLLBACK"
    recorder = Recorder([])
    load(name, recorder)
    assert recorder.ran[-1] == "COMMIT"


def test_redshift_locks_first() -> None:
    """A transaction sees what was committed before its first statement: nothing may come before the lock."""
    recorder = Recorder([])
    load("redshift", recorder, "append")
    begin = recorder.ran.index("BEGIN")
    assert recorder.ran[begin + 1] == 'LOCK "staging"."_d1_loads"'


@pytest.mark.parametrize("name", [name for name in DEFAULT if ENGINES[name].transaction == "table"])
def test_an_append_and_its_record_belong_together(name) -> None:
    columns = existing(name, id="int64", name="string")
    recorder = Recorder(columns)
    load(name, recorder, "append")
    at = recorder.ran.index(ENGINES[name].begin)
    assert [statement.split()[0] for statement in recorder.ran[at:]] == ["BEGIN", "INSERT", "INSERT", "COMMIT", "DROP"]
    recorder = Recorder(columns, fails="VALUES")
    with pytest.raises(RuntimeError):
        load(name, recorder, "append")
    assert "ROLLBACK" in recorder.ran
    assert recorder.ran[-1].startswith("DROP TABLE")


MERGE: dict[str, Any] = {"mode": "merge", "keys": {"users": ["id"]}}


@pytest.mark.parametrize("name", DEFAULT)
@pytest.mark.parametrize("columns", [{}, {"id": "int64", "name": "string"}, {"id": "int64"}])
def test_a_merge_is_one_step_with_its_record(name, columns) -> None:
    recorder = Recorder(existing(name, **columns))
    load(name, recorder, **MERGE)
    publishing = [statement for statement in recorder.ran if statement.startswith("MERGE INTO")]
    assert len(publishing) == 1
    kinds = recorder.kinds()
    assert kinds.index(FILL) < kinds.index("MERGE INTO") < len(kinds) - 1 - kinds[::-1].index("INSERT INTO")
    if ENGINES[name].transaction == "table":
        at = kinds.index("MERGE INTO")
        assert [kind.split()[0] for kind in kinds[at - 1 : at + 3]] == ["BEGIN", "MERGE", "INSERT", "COMMIT"]
    else:
        assert ("COMMIT" in kinds) == (ENGINES[name].transaction == "load")
    deleting = Recorder(existing(name, **columns))
    deleting.rows_there = 0
    load(name, deleting, **MERGE, delete_missing=True)
    assert any("DELETE" in statement for statement in deleting.ran)


def test_every_engine_merges_or_says_how_itself() -> None:
    """The ones that are not in the test above run for real in tests/integration/warehouses/test_merge.py."""
    assert set(ENGINES) == {*DEFAULT, "postgres", "mysql", "duckdb", "clickhouse"}


@pytest.mark.parametrize("name", DEFAULT)
@pytest.mark.parametrize("problem", ["IS NULL", "d1_twice", "JOIN"])
def test_keys_that_do_not_tell_rows_apart_publish_nothing(name, problem) -> None:
    recorder = Recorder(existing(name, id="int64", name="string"))
    recorder.unfit, recorder.unfit_by = 2, problem
    if problem == "JOIN":
        recorder.matched = 5
    with pytest.raises(D1WarehouseError, match=r"'users' is unchanged.*'id', and 2 ") as failure:
        load(name, recorder, **MERGE)
    assert not failure.value.retryable
    assert "COMMIT" not in recorder.ran
    if problem != "JOIN" or ENGINES[name].transaction == "statement":
        assert not any(statement.startswith("MERGE") for statement in recorder.ran)
    assert not any("VALUES ('" in statement for statement in recorder.ran)


@pytest.mark.parametrize("name", DEFAULT)
def test_merged_rows_are_counted_in_the_table_itself(name) -> None:
    recorder = Recorder(existing(name, id="int64", name="string"))
    recorder.matched = 2
    with pytest.raises(D1WarehouseError, match="'users' has 2 new rows after the load, expected 3") as failure:
        load(name, recorder, **MERGE)
    assert failure.value.retryable
    assert "COMMIT" not in recorder.ran


@pytest.mark.parametrize("name", ENGINES)
def test_a_merge_needs_a_key(name) -> None:
    warehouse, without = ENGINES[name], manifest(TABLES)
    for options, problem in (
        ({}, r"none: 'users'\..*keys=\{'users': \['…'\]\}"),
        ({"keys": {"user": ["id"]}}, r"no table 'user'; did you mean 'users'\?"),
        ({"keys": {"users": ["ID"]}}, r"'users' has no column 'ID'; did you mean 'id'\?"),
        ({"keys": {"users": ["zzz"]}}, r"'users' has no column 'zzz'; it has 'id', 'name'"),
    ):
        with pytest.raises(D1ConfigurationError, match=problem):
            plan(warehouse, without, mode="merge", **options)
    for options in ({"keys": {"users": ["id"]}}, {"delete_missing": True}):
        with pytest.raises(D1ConfigurationError, match=r"(keys|delete_missing) is for mode='merge', and mode is 'app"):
            plan(warehouse, without, mode="append", **options)
    keyed = replace(without.tables[0], columns=tuple(replace(c, primary_key=1) for c in without.tables[0].columns[:1]))
    (table,) = plan(warehouse, replace(without, tables=(keyed,)), mode="merge").tables
    assert table.key == ("id",)


@pytest.mark.parametrize("name", ENGINES)
def test_rows_are_deleted_only_by_a_manifest_that_has_every_row(name) -> None:
    full, options = manifest(TABLES), {**MERGE, "delete_missing": True}
    plan(ENGINES[name], full, **options)
    some_tables = replace(full.source, options=ExportOptions(tables=("users",)))  # but every row of them
    plan(ENGINES[name], replace(full, source=some_tables), **options)
    empty = replace(full, source=replace(full.source, options=ExportOptions(no_data=True)))
    for partial in (empty, replace(full, extract="query")):
        with pytest.raises(D1ConfigurationError, match=r"delete_missing=True.*does not have every row"):
            plan(ENGINES[name], partial, **options)
        plan(ENGINES[name], partial, **MERGE)


@pytest.mark.parametrize("name", DEFAULT)
def test_what_is_loaded_is_skipped(name) -> None:
    columns = existing(name, id="int64", name="string")
    recorder = Recorder(columns, history=[("users", 3, None, None, 5, CLOCK)])
    (result,) = load(name, recorder, "append")
    assert result.skipped
    assert FILL not in recorder.ran
    # a later replace has taken it out again
    (result,) = load(name, Recorder(columns, history=[("users", 3, 6, CLOCK, 5, CLOCK)]), "append")
    assert not result.skipped
    # the table has gone since
    (result,) = load(name, Recorder([], history=[("users", 3, None, None, 5, CLOCK)]), "append")
    assert not result.skipped
    # the rows that were loaded are another number: an export with no_data has the same bookmark
    (result,) = load(name, Recorder(columns, history=[("users", 0, None, None, 5, CLOCK)]), "append")
    assert not result.skipped


@pytest.mark.parametrize("name", DEFAULT)
@pytest.mark.parametrize("clock", [-1, 0, 1])
def test_the_order_of_loads_is_not_that_of_a_clock(name, clock) -> None:
    """The server's time may have been put back, or be the same."""
    columns, other = existing(name, id="int64", name="string"), CLOCK + DAY * clock
    for replaced, loaded, skipped in ((6, 5, False), (5, 6, True)):
        recorder = Recorder(columns, history=[("users", 3, replaced, CLOCK, loaded, other)])
        (result,) = load(name, recorder, "append")
        assert result.skipped == skipped
    # records of earlier releases have no sequence: they come before all others, and a clock orders them
    for replaced, loaded, skipped in ((None, 1, True), (1, None, False), (None, None, clock >= 0)):
        recorder = Recorder(columns, history=[("users", 3, replaced, CLOCK, loaded, other)])
        (result,) = load(name, recorder, "append")
        assert result.skipped == skipped


@pytest.mark.parametrize("name", DEFAULT)
def test_a_table_that_vanished_is_dropped_when_that_is_asked_for(name) -> None:
    gone = ENGINES[name].dialect.identifier("staging", "gone")
    drop = f"DROP TABLE {gone}"
    ours, theirs = ("gone", "uuid", "it's", 3, CLOCK, 3, CLOCK), ("gone", "other", "crm", None, None, 4, CLOCK)
    for owners, policies, on_missing, dropped in (
        ([ours], [], "keep", False),
        ([ours], [], "drop", True),
        ([ours, theirs], [], "drop", False),
        ([ours], [("policy own_rows",)], "drop", False),
    ):
        if policies and ENGINES[name].attached_query(plan(ENGINES[name], manifest(TABLES)), "gone") is None:
            continue
        recorder = Recorder(existing(name, id="int64", name="string"))
        recorder.loaded, recorder.owners, recorder.policies = [("gone", None, None, None, 3, CLOCK)], owners, policies
        load(name, recorder, on_missing=on_missing)
        assert (drop in recorder.ran) == dropped, (owners, policies, on_missing)
        assert any("'gone', 0, 'drop'" in statement for statement in recorder.ran) == dropped
    recorder = Recorder(existing(name, id="int64", name="string"))
    recorder.loaded = [
        ("gone", None, 4, CLOCK, 3, CLOCK),
        ("users", None, None, None, 3, CLOCK),
    ]  # it was dropped by a load before
    load(name, recorder, on_missing="drop")
    assert drop not in recorder.ran


@pytest.mark.parametrize("name", DEFAULT)
def test_a_table_whose_name_differs_in_case_is_another_one(name, caplog) -> None:
    """But in Redshift and Databricks, which store all names in lower case."""
    recorder = Recorder(existing(name, id="int64", name="string"))
    recorder.loaded = [("Gone", None, None, None, 3, CLOCK)]
    recorder.names = ["gone"]
    load(name, recorder)
    assert ("table=Gone missing_in_source=true" in caplog.text) == (name in {"redshift", "databricks"})


@pytest.mark.parametrize("name", DEFAULT)
def test_tables_that_vanished_are_looked_up_at_once(name) -> None:
    queries = set()
    for count in (1, 50):
        recorder = Recorder(existing(name, id="int64", name="string"))
        recorder.loaded = [(f"gone_{number}", None, None, None, 3, CLOCK) for number in range(count)]
        load(name, recorder)
        queries.add(recorder.queries)
    assert len(queries) == 1


@pytest.mark.parametrize("name", DEFAULT)
def test_each_record_has_the_next_number(name) -> None:
    for last, number in ((None, 1), (41, 42)):
        recorder = Recorder([])
        recorder.last = last
        load(name, recorder)
        (record,) = [statement for statement in recorder.ran if "VALUES" in statement and "_d1_loads" in statement]
        assert record.endswith(f", {number})")


@pytest.mark.parametrize("name", DEFAULT)
def test_an_older_table_of_loads_gets_its_new_column(name) -> None:
    warehouse = ENGINES[name]

    class Older(Recorder):
        def rows(self, statement: str) -> list[tuple[Any, ...]]:
            found = super().rows(statement)
            return [row for row in found if row[0] != "sequence"]

    recorder = Older([])
    load(name, recorder)
    added = warehouse.add_column(plan(warehouse, manifest(TABLES)), LOADS_TABLE, Column("sequence", "int64"))
    assert added in recorder.ran


@pytest.mark.parametrize("name", DEFAULT)
def test_a_first_append_overwrites_nothing(name) -> None:
    """Another load may have made the table since this one looked."""
    recorder = Recorder([])
    load(name, recorder, "append")
    first, second = (statement for statement in recorder.ran if target(name) in statement)
    assert first.startswith(f"CREATE TABLE IF NOT EXISTS {target(name)} (")
    assert second.startswith(f"INSERT INTO {target(name)} (")


@pytest.mark.parametrize("name", DEFAULT)
def test_the_first_error_is_raised_when_cleaning_up_fails_too(name) -> None:
    class Lost(Recorder):
        def rows(self, statement: str) -> list[tuple[Any, ...]]:
            if FILL in self.ran:
                raise ConnectionError("lost")
            return super().rows(statement)

    with pytest.raises(D1WarehouseError, match="loaded 2 rows"):
        load(name, Lost([]), rows=2)


@pytest.mark.parametrize("name", DEFAULT)
def test_columns_are_added_before_rows(name) -> None:
    recorder = Recorder(existing(name, id="int64"))
    load(name, recorder, "append")
    (added,) = [statement for statement in recorder.ran if "ADD COLUMN" in statement]
    dialect = ENGINES[name].dialect
    assert added == f"ALTER TABLE {target(name)} ADD COLUMN {dialect.identifier('name')} {dialect.types['string']}"
    assert recorder.ran.index(added) > recorder.ran.index(FILL)


@pytest.mark.parametrize("name", [name for name in DEFAULT if not ENGINES[name].alterable("int64", "string")])
def test_what_cannot_be_widened_is_refused_with_the_statement(name) -> None:
    recorder = Recorder(existing(name, id="int64", name="int64"))
    with pytest.raises(D1WarehouseError, match=r"'name'.*(ALTER TABLE|CREATE OR REPLACE)") as failure:
        load(name, recorder, "append")
    assert "unchanged" in str(failure.value)
    assert FILL not in recorder.ran
    assert not any("INSERT" in statement for statement in recorder.ran)


def test_bigquery_widens_integers_itself() -> None:
    recorder = Recorder([("id", "INT64"), ("name", "STRING")])
    load("bigquery", recorder, "append", tables={"users": {"id": "float64", "name": "string"}})
    assert any("ALTER COLUMN `id` SET DATA TYPE FLOAT64" in statement for statement in recorder.ran)


@pytest.mark.parametrize("name", DEFAULT)
def test_narrow_values_are_cast_into_wide_columns(name) -> None:
    recorder = Recorder(existing(name, id="string", name="string"))
    load(name, recorder, "append", tables={"users": {"id": "binary", "name": "float64"}})
    (insert,) = [s for s in recorder.ran if s.startswith(f"INSERT INTO {target(name)}")]
    identifier = ENGINES[name].dialect.identifier
    for column, old in (("id", "binary"), ("name", "float64")):
        assert ENGINES[name].cast(identifier(column), old, "string") in insert


def test_redshift_shows_no_keys() -> None:
    from airflow_provider_d1.warehouses.redshift import Redshift
    from airflow_provider_d1.warehouses.s3_access import S3Access

    redshift = Redshift()
    made = plan(redshift, manifest(TABLES))
    work = plan_table(redshift, made, made.tables[0], {})
    access = S3Access("bucket", "AKIA", "s3cr'et", "t\\oken")
    assert "s3cr" not in repr(access)
    executed = redshift.copy(made, work, redshift.authorization(made, access))
    assert "SECRET_ACCESS_KEY 's3cr''et' SESSION_TOKEN 't\\\\oken'" in executed
    assert access.hidden_in("error near s3cr'et and AKIA") == "error near *** and ***"
    shown = "".join(planned_statements(redshift, made))
    assert "SECRET_ACCESS_KEY '***'" in shown


def test_a_long_statement_is_logged_without_its_middle() -> None:
    assert abbreviated("SELECT 1") == "SELECT 1"
    shown = abbreviated("INSERT INTO users " + "x" * 5000 + " FROM helper")
    assert shown.startswith("INSERT INTO users ")
    assert shown.endswith(" FROM helper")
    assert "characters" in shown
    assert len(f"Running: {shown}") <= 300


def test_the_token_is_in_the_helpers_name() -> None:
    made = plan(ENGINES["snowflake"], manifest(TABLES))
    assert made.tables[0].helper.startswith(f"_d1_new_{TOKEN}_")
