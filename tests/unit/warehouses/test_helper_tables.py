"""The order of a load through helper tables, told by the statements that reach the warehouse."""

from __future__ import annotations

import datetime as dt
import re
from functools import partial
from typing import Any

import pytest

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses import bigquery, databricks, redshift, snowflake
from airflow_provider_d1.warehouses.base import LoadOptions, make_plan
from airflow_provider_d1.warehouses.helper_tables import run_load
from tests.unit.warehouses.warehouse_plans import manifest, plan

OPTIONS = LoadOptions(schema="staging")
DAY = dt.timedelta(days=1)
TABLES = {"users": {"id": "int64", "name": "string"}}


class Warehouse:
    """Answers the loader's questions and keeps what it was told to do."""

    def __init__(self, columns: list[tuple[str, str]], history: list[tuple[Any, ...]] = (), fails: str = "\0") -> None:
        self.columns, self.history, self.fails = columns, list(history), fails
        self.helpers: list[str] = []
        self.rows_there = 10 if columns else 0
        self.arrives = 3
        self.told: list[str] = []

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        if self.fails in statement:
            raise RuntimeError(statement)
        if "MAX(CASE" in statement:
            return self.history
        if "NOT BETWEEN" in statement:
            return [(0,)]
        if statement.startswith("SELECT COUNT"):
            return [(self.rows_there,)]
        if statement.startswith("SELECT table_name"):
            return [(name,) for name in self.helpers]
        if statement.startswith("SELECT"):
            return self.columns
        self.told.append(statement)
        if "users" in statement and "VALUES" not in statement:
            if statement.startswith(("TRUNCATE", "DELETE", "INSERT OVERWRITE", "CREATE OR REPLACE", "ALTER TABLE")):
                self.rows_there = 0 if "ADD COLUMN" not in statement and "ALTER COLUMN" not in statement else 10
            if statement.startswith(("INSERT", "CREATE OR REPLACE")) or "RENAME" in statement:
                self.rows_there += self.arrives
        return []

    def kinds(self) -> list[str]:
        return [" ".join(statement.split()[:2]) for statement in self.told]


def load(module: Any, warehouse: Warehouse, mode: str = "replace", rows: int = 3, tables: Any = TABLES) -> Any:
    def fill(plan: Any, table: Any) -> int:
        warehouse.told.append("fill it")
        return rows

    return run_load(plan(module, manifest(tables), mode=mode), warehouse, module._STEPS(fill=fill))


SNOWFLAKE_COLUMNS = [("id", "NUMBER(38,0)"), ("name", "TEXT")]


def test_a_new_table() -> None:
    warehouse = Warehouse([])
    (result,) = load(snowflake, warehouse)
    assert (result.rows, result.statement, result.path) == (3, "COPY INTO", '"staging"."users"')
    assert warehouse.kinds() == [
        "CREATE SCHEMA",
        "CREATE TABLE",
        "CREATE TABLE",
        "fill it",
        "ALTER TABLE",
        "INSERT INTO",
        "DROP TABLE",
    ]


def existing(module, **columns: str) -> list[tuple[str, str]]:
    """A table's columns, given by their staged types, as the warehouse's catalogue has them."""
    known = {staged: own for own, staged in reversed(module.DIALECT.known_types.items())}
    return [(name, known[kind]) for name, kind in columns.items()]


PUBLISHED = {
    snowflake: ["BEGIN", "INSERT OVERWRITE", "INSERT INTO", "COMMIT", "DROP TABLE"],
    bigquery: ["BEGIN TRANSACTION", "TRUNCATE TABLE", "INSERT INTO", "INSERT INTO", "COMMIT", "DROP TABLE"],
    databricks: ["INSERT OVERWRITE", "INSERT INTO", "DROP TABLE"],
    redshift: ["DELETE FROM", "INSERT INTO", "DROP TABLE", "INSERT INTO", "COMMIT"],
}


@pytest.mark.parametrize("module", PUBLISHED)
def test_a_table_with_the_staged_columns_stays_and_its_rows_are_replaced(module) -> None:
    """With it stay the grants, policies, comments, keys and views that it has."""
    warehouse = Warehouse(existing(module, name="string", id="int64"))
    load(module, warehouse)
    kinds = warehouse.kinds()
    assert kinds[kinds.index("fill it") + 1 :] == PUBLISHED[module]
    target = module.DIALECT.identifier("staging", "users")
    touched = [statement for statement in warehouse.told if target in statement]
    assert not any(statement.startswith(("DROP", "CREATE", "ALTER")) for statement in touched)


@pytest.mark.parametrize("module", PUBLISHED)
@pytest.mark.parametrize(
    "columns", [{"id": "int64"}, {"id": "string", "name": "string"}, {"id": "int64", "nom": "string"}]
)
def test_a_table_with_other_columns_is_swapped(module, columns) -> None:
    warehouse = Warehouse(existing(module, **columns))
    load(module, warehouse)
    assert not any(statement.startswith(("TRUNCATE", "DELETE", "INSERT OVERWRITE")) for statement in warehouse.told)


@pytest.mark.parametrize("module", PUBLISHED)
@pytest.mark.parametrize("mode", ["replace", "append"])
def test_rows_are_counted_in_the_table_itself(module, mode) -> None:
    for columns in ([], existing(module, id="int64", name="string"), existing(module, id="int64")):
        warehouse = Warehouse(columns)
        warehouse.arrives = 2
        with pytest.raises(D1WarehouseError, match="'users' has 2 new rows after the load, 3 were expected") as failure:
            load(module, warehouse, mode)
        assert failure.value.retryable
        assert not any("VALUES" in statement for statement in warehouse.told)  # it is not recorded as loaded
        assert "COMMIT" not in warehouse.told


@pytest.mark.parametrize("module", PUBLISHED)
def test_every_name_that_a_load_creates_is_its_own(module) -> None:
    made = [make_plan(manifest(TABLES), "s3://bucket/d1/_manifest.json", module.DIALECT, OPTIONS) for _ in range(2)]
    one, other = ("\n".join(module.statements(each)).lower() for each in made)
    names = set(re.findall(r"_d1_new_\w+", one))
    assert names
    assert not names & set(re.findall(r"_d1_new_\w+", other))


@pytest.mark.parametrize("module", [snowflake, bigquery, databricks])
def test_helper_tables_of_killed_loads_are_dropped_after_a_day(module) -> None:
    warehouse = Warehouse([])
    now = dt.datetime.now(dt.UTC)
    old, young = (f"_d1_new_{now - age:%Y%m%dt%H%M%S}_00000000_{'0' * 16}" for age in (DAY * 1.1, DAY * 0.9))
    warehouse.helpers = [old, young, "_d1_new_by_somebody", "_d1_new_99999999t999999_00000000_" + "0" * 16]
    load(module, warehouse)
    dropped = [statement for statement in warehouse.told if "_00000000_" in statement]
    assert dropped == [f"DROP TABLE IF EXISTS {module.DIALECT.identifier('staging', old)}"]


@pytest.mark.parametrize("module", [snowflake, bigquery, databricks])
def test_missing_rows_leave_the_old_table_and_no_helper(module) -> None:
    columns = [("id", module.DIALECT.types["int64"]), ("name", module.DIALECT.types["string"])]
    warehouse = Warehouse(columns)
    with pytest.raises(D1WarehouseError, match="table 'users': 2 rows arrived of the manifest's 3"):
        load(module, warehouse, rows=2)
    assert not any("users" in statement for statement in warehouse.told)
    assert warehouse.told[-1].startswith("DROP TABLE IF EXISTS")


def test_redshift_rolls_everything_back() -> None:
    warehouse = Warehouse([], fails="RENAME")
    with pytest.raises(RuntimeError):
        load(redshift, warehouse)
    assert warehouse.told[0] == "BEGIN"
    assert warehouse.told[-1] == "ROLLBACK"
    warehouse = Warehouse([])
    load(redshift, warehouse)
    assert warehouse.told[-1] == "COMMIT"


@pytest.mark.parametrize(("module", "begin"), [(snowflake, "BEGIN"), (bigquery, "BEGIN TRANSACTION")])
def test_an_append_and_its_record_belong_together(module, begin) -> None:
    columns = [
        ("id", module.DIALECT.types["int64"].replace(" ", "")),
        ("name", {"VARCHAR": "TEXT"}.get(module.DIALECT.types["string"], "STRING")),
    ]
    warehouse = Warehouse(columns)
    load(module, warehouse, "append")
    at = warehouse.told.index(begin)
    assert [statement.split()[0] for statement in warehouse.told[at:]] == [
        "BEGIN",
        "INSERT",
        "INSERT",
        "COMMIT",
        "DROP",
    ]
    warehouse = Warehouse(columns, fails="_d1_loads` (" if module is bigquery else '_d1_loads" (')
    warehouse.fails = "VALUES"
    with pytest.raises(RuntimeError):
        load(module, warehouse, "append")
    assert "ROLLBACK" in warehouse.told
    assert warehouse.told[-1].startswith("DROP TABLE")


def test_what_is_loaded_is_skipped() -> None:
    warehouse = Warehouse(SNOWFLAKE_COLUMNS, history=[("users", None, 5)])
    (result,) = load(snowflake, warehouse, "append")
    assert result.skipped
    assert "fill it" not in warehouse.told
    # a later replace has taken it out again
    warehouse = Warehouse(SNOWFLAKE_COLUMNS, history=[("users", 6, 5)])
    (result,) = load(snowflake, warehouse, "append")
    assert not result.skipped
    # the table has gone since
    (result,) = load(snowflake, Warehouse([], history=[("users", None, 5)]), "append")
    assert not result.skipped


@pytest.mark.parametrize("module", [snowflake, bigquery, databricks])
def test_a_first_append_overwrites_nothing(module) -> None:
    """Another database's load may have made the table since this one looked."""
    warehouse = Warehouse([])
    load(module, warehouse, "append")
    target = module.DIALECT.identifier("staging", "users")
    first, second = (statement for statement in warehouse.told if target in statement)
    assert first.startswith(f"CREATE TABLE IF NOT EXISTS {target} (")
    assert second.startswith(f"INSERT INTO {target} (")


def test_the_first_error_is_told_when_cleaning_up_fails_too() -> None:
    class Lost(Warehouse):
        def rows(self, statement: str) -> list[tuple[Any, ...]]:
            if "fill it" in self.told:
                raise ConnectionError("lost")
            return super().rows(statement)

    with pytest.raises(D1WarehouseError, match="2 rows arrived"):
        load(snowflake, Lost([]), rows=2)


def test_columns_are_added_before_rows() -> None:
    warehouse = Warehouse(SNOWFLAKE_COLUMNS[:1])
    load(snowflake, warehouse, "append")
    (added,) = [statement for statement in warehouse.told if "ADD COLUMN" in statement]
    assert added == 'ALTER TABLE "staging"."users" ADD COLUMN "name" VARCHAR'
    assert warehouse.told.index(added) > warehouse.told.index("fill it")


def test_what_cannot_be_widened_is_refused_with_the_statement() -> None:
    warehouse = Warehouse([("id", "NUMBER(38,0)"), ("name", "NUMBER(38,0)")])
    with pytest.raises(D1WarehouseError, match=r"'name'.*ALTER TABLE.*'?name_wider") as failure:
        load(snowflake, warehouse, "append")
    assert "as it was" in str(failure.value)
    assert "fill it" not in warehouse.told
    assert not any("INSERT" in statement for statement in warehouse.told)


def test_bigquery_widens_integers_itself() -> None:
    warehouse = Warehouse([("id", "INT64"), ("name", "STRING")])
    load(bigquery, warehouse, "append", tables={"users": {"id": "float64", "name": "string"}})
    assert any("ALTER COLUMN `id` SET DATA TYPE FLOAT64" in statement for statement in warehouse.told)


def test_narrow_values_are_cast_into_wide_columns() -> None:
    warehouse = Warehouse([("id", "TEXT"), ("name", "TEXT")])
    load(snowflake, warehouse, "append", tables={"users": {"id": "binary", "name": "float64"}})
    (insert,) = [s for s in warehouse.told if s.startswith('INSERT INTO "staging"."users"')]
    assert 'HEX_ENCODE("id")' in insert
    assert "REGEXP_REPLACE(\"name\"::VARCHAR, '^(-?[0-9]+)$', '\\\\1.0')" in insert


def test_redshift_shows_no_keys() -> None:
    from airflow_provider_d1.warehouses.s3_access import S3Access

    made = plan(redshift, manifest(TABLES))
    access = S3Access("bucket", "AKIA", "s3cr'et", "t\\oken")
    assert "s3cr" not in repr(access)
    executed = redshift.copy(made, made.tables[0], redshift.authorization(made, access))
    assert "SECRET_ACCESS_KEY 's3cr''et' SESSION_TOKEN 't\\\\oken'" in executed
    assert access.hidden_in("error near s3cr'et and AKIA") == "error near *** and ***"
    shown = "".join(redshift.statements(made))
    assert "SECRET_ACCESS_KEY '***'" in shown


def test_a_filled_step_is_the_modules_own() -> None:
    """The statements are made without a way to load: nothing can be run by accident."""
    assert isinstance(redshift._STEPS, partial)
    with pytest.raises(TypeError):
        redshift._STEPS()
