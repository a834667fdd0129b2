"""The schema and ``_d1_loads``, which every load needs: made only where missing, also by two loads at once."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses.loader import Load
from airflow_provider_d1.warehouses.plan import LOADS_TABLE
from airflow_provider_d1.warehouses.session import Run
from tests.unit.warehouses.test_load_steps import NOT_WHOLE, TABLES, Recorder, existing, load
from tests.unit.warehouses.warehouse_plans import ENGINES, manifest, plan

OLDER = [("table_name", "text")]
CURRENT = [*OLDER, ("source_name", "text"), ("sequence", "bigint")]


def driver_error(name: str) -> Exception:
    """An error of the engine's driver, as for a column that is there already."""
    return ENGINES[name].driver_errors()[0]("it exists already")


class Schema(Recorder):
    """A warehouse in which the schema and ``_d1_loads`` appear with the statements that make them.

    ``refuses`` is the driver's error for each of those statements, ``made_by_another`` whether what they make is there
    afterwards.
    """

    def __init__(self, name: str, *, schema: bool, loads: list[tuple[str, str]]) -> None:
        super().__init__([])
        self.name, self.schema, self.loads = name, schema, loads
        self.refuses: Exception | None = None
        self.made_by_another = False

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        made = plan(ENGINES[self.name], manifest(TABLES))
        if statement == ENGINES[self.name].schema_query(made):
            return [(1,)] if self.schema else []
        if statement == ENGINES[self.name].columns_query(made, LOADS_TABLE):
            return self.loads
        creates = statement.startswith(("CREATE SCHEMA", "CREATE DATABASE", "CREATE TABLE", "ALTER TABLE"))
        if creates and (self.refuses is None or self.made_by_another):
            self.schema = True
            if "TABLE" in statement:
                self.loads = CURRENT
        if creates and self.refuses is not None:
            self.ran.append(statement)
            raise self.refuses
        return super().rows(statement)


def prepare(name: str, warehouse: Schema) -> list[str]:
    """What is made before a load begins."""
    made = plan(ENGINES[name], manifest(TABLES))
    Load(ENGINES[name], made, None, warehouse)._prepare()
    return [statement for statement in warehouse.ran if statement.startswith(("CREATE", "ALTER"))]


@pytest.mark.parametrize("name", ENGINES)
def test_nothing_is_made_where_it_is_already(name) -> None:
    """IF NOT EXISTS needs the right to create, which a loader may not have."""
    assert prepare(name, Schema(name, schema=True, loads=CURRENT)) == []


@pytest.mark.parametrize("name", ENGINES)
def test_what_is_missing_is_made(name) -> None:
    warehouse, made = ENGINES[name], plan(ENGINES[name], manifest(TABLES))
    assert prepare(name, Schema(name, schema=False, loads=[])) == [
        warehouse.create_schema(made),
        warehouse.create_loads(made),
    ]
    added = prepare(name, Schema(name, schema=True, loads=OLDER))
    assert [statement.startswith("ALTER TABLE") for statement in added] == [True, True]
    (added_source,) = prepare(name, Schema(name, schema=True, loads=[*OLDER, ("sequence", "bigint")]))
    assert "source_name" in added_source


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(("schema", "loads"), [(False, []), (True, []), (True, OLDER)])
def test_what_another_load_makes_at_the_same_moment_is_no_error(name, schema, loads) -> None:
    warehouse = Schema(name, schema=schema, loads=loads)
    warehouse.refuses, warehouse.made_by_another = driver_error(name), True
    prepare(name, warehouse)
    assert (warehouse.schema, warehouse.loads) == (True, CURRENT)


@pytest.mark.parametrize("name", ENGINES)
def test_what_cannot_be_made_is_an_error(name) -> None:
    for schema, loads in ((False, []), (True, []), (True, OLDER)):
        warehouse = Schema(name, schema=schema, loads=loads)
        warehouse.refuses = driver_error(name)
        with pytest.raises(type(warehouse.refuses)) as failure:
            prepare(name, warehouse)
        assert failure.value is warehouse.refuses
        assert len(warehouse.ran) == 1


@pytest.mark.parametrize("name", ENGINES)
def test_the_last_number_is_asked_for_once_where_no_other_load_runs(name) -> None:
    """It takes a scan of ``_d1_loads``; elsewhere other loads may have added records since."""
    made, asked = plan(ENGINES[name], manifest(TABLES)), []

    class History(Recorder):
        def rows(self, statement: str) -> list[tuple[Any, ...]]:
            if statement.startswith("SELECT MAX("):
                asked.append(statement)
                return [(40 + len(asked),)]
            return super().rows(statement)

    session = History([])
    run = Run(made, None, session)
    for _ in range(3):
        ENGINES[name].record(run, made.tables)
    records = [statement for statement in session.ran if statement.startswith("INSERT INTO")]
    numbers = [int(statement.rpartition(", ")[2].removesuffix(")")) for statement in records]
    assert numbers == [42, 43, 44]
    assert len(asked) == (1 if ENGINES[name].locks_schema else 3)


def test_only_engines_whose_session_has_a_lock_count_by_themselves() -> None:
    """Postgres, Redshift and DuckDB record once for the whole load."""
    assert [name for name in ENGINES if ENGINES[name].locks_schema] == ["mysql"]


@pytest.mark.parametrize("name", NOT_WHOLE)
@pytest.mark.parametrize("there", [True, False])
def test_a_column_that_another_load_adds_at_the_same_moment_may_be_tried_again(name, there) -> None:
    """The driver calls it an error for good, as the column exists."""

    class Racing(Recorder):
        def rows(self, statement: str) -> list[tuple[Any, ...]]:
            if "ADD COLUMN" in statement:
                if there:
                    self.columns += existing(name, name="string")
                raise driver_error(name)
            return super().rows(statement)

    recorder = Racing(existing(name, id="int64"))
    with pytest.raises(D1WarehouseError if there else type(driver_error(name))) as failure:
        load(name, recorder, "append")
    assert "it exists already" in str(failure.value)
    if there:
        assert failure.value.retryable
        assert "'users' got the same columns from another load" in str(failure.value)
