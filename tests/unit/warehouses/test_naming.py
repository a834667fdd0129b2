"""Names in the warehouse: exact where that is possible, else with a suffix that is the same in every load."""

from __future__ import annotations

import itertools
import logging
import re

import pytest

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.warehouses import load_history
from airflow_provider_d1.warehouses.dry_run import planned_statements
from airflow_provider_d1.warehouses.loader import log_renamed
from airflow_provider_d1.warehouses.naming import Naming
from airflow_provider_d1.warehouses.plan import LOADS_TABLE, LoadPlan
from tests.unit.warehouses.warehouse_plans import ENGINES, TOKEN, manifest, plan

LONG = "ü" * 5000
HELPER = f"_d1_new_{TOKEN}_{'0' * 16}"
#: too long, one name to a warehouse that ignores case, forbidden somewhere, reserved somewhere, the loader's own
NAMES = [
    "users",
    "Users",
    "É",
    "é",
    LONG,
    LONG + "x",
    "t" * 64,
    "a.b",
    "a b ",
    "a/b",
    "a\nb",
    "a\0b",
    'say "hi" it\'s `x` \\',
    "😀",
    "",
    "ctid",
    "xmin",
    "XMIN",
    "oid",
    "DB_ROW_ID",
    "_PARTITIONDATE",
    "_TABLE__ROOT__",
    "__root__",
    "_d1_loads",
    HELPER,
    "I",
    "İ",
    "\N{LATIN SMALL LETTER DOTLESS I}",
    "ß",
    "SS",
]
HARD = manifest({name: dict.fromkeys(NAMES, "int64") for name in NAMES})


def names(made: LoadPlan) -> dict[str, str]:
    return {table.source_name: table.name for table in made.tables}


@pytest.mark.parametrize("prefix", ["", "shop_", "_d1_"])
@pytest.mark.parametrize("letters", ["exact", "upper", "lower"])
@pytest.mark.parametrize("name", ENGINES)
def test_every_database_can_be_named(name: str, letters: str, prefix: str) -> None:
    dialect = ENGINES[name].dialect
    made = plan(ENGINES[name], HARD, names=letters, table_prefix=prefix)
    assert list(names(made)) == NAMES
    for held, column in [(names(made).values(), False), *(([c.name for c in t.columns], True) for t in made.tables)]:
        assert len({dialect.fold(each) for each in held}) == len(NAMES)
        assert [dialect.name_problem(each, column=column) for each in held] == [None] * len(NAMES)
        expected = "lower" if dialect.lower_case_tables and not column else letters
        if expected != "exact":
            assert not re.search("[a-z]" if expected == "upper" else "[A-Z]", "".join(held))
    assert not {LOADS_TABLE, HELPER} & {dialect.fold(each) for each in names(made).values()}
    assert [each.source_name for each in made.tables[0].columns] == NAMES


@pytest.mark.parametrize("name", ENGINES)
def test_ordinary_names_are_exact(name: str) -> None:
    made = plan(ENGINES[name], manifest({"Orders-2026": {"Id": "int64", "unit price (€)": "float64"}}))
    (table,) = made.tables
    stored = ("orders-2026", "Orders-2026") if name in {"redshift", "databricks"} else ("Orders-2026", None)
    assert (table.name, table.source) == stored
    expected = ["Id", "unit price _€__dbf09cf8"] if name == "bigquery" else ["Id", "unit price (€)"]
    assert [column.name for column in table.columns] == expected


@pytest.mark.parametrize("name", ENGINES)
def test_names_do_not_depend_on_the_chosen_tables(name: str) -> None:
    everything = names(plan(ENGINES[name], HARD))
    for chosen in itertools.chain([NAMES[::-1]], ([each] for each in NAMES)):
        found = names(plan(ENGINES[name], HARD, tables=tuple(chosen)))
        assert found == {each: everything[each] for each in chosen}


def test_a_name_is_the_same_in_every_release() -> None:
    """Tables that earlier loads made are found again."""
    postgres, bigquery = Naming(ENGINES["postgres"].dialect, "s"), Naming(ENGINES["bigquery"].dialect, "s")
    assert postgres.columns(["xmin", "c" * 70]) == {"xmin": "xmin_eafb2f50", "c" * 70: "c" * 54 + "_6fe5981a"}
    assert bigquery.columns(["a.b", "_PARTITIONDATE"]) == {"a.b": "a_b_2e7336dc", "_PARTITIONDATE": "_DATE_0b5edc61"}
    upper = Naming(ENGINES["snowflake"].dialect, "s", "upper", "shop_")
    assert upper.tables(["users", "É"], lambda _: False) == {"users": "SHOP_USERS", "É": "SHOP_É"}


@pytest.mark.parametrize(
    ("name", "source", "column", "expected"),
    [
        ("postgres", "t" * 64, False, "t{54}_#"),
        ("postgres", "ü" * 32, True, "ü{27}_#"),
        ("postgres", "ctid", True, "ctid_#"),
        ("postgres", "ctid", False, "ctid"),
        ("postgres", "_d1_loads", False, "_d1_loads_#"),
        ("snowflake", "_d1_loads", False, "_d1_loads_#"),
        ("snowflake", "t" * 256, False, "t{246}_#"),
        ("clickhouse", "t" * 207, False, "t{197}_#"),  # 213 with the schema's name, staging
        ("clickhouse", "ü" * 40, False, "ü{32}_#"),
        ("clickhouse", "ü" * 100, True, "ü{100}"),
        ("mysql", "ü" * 65, True, "ü{55}_#"),
        ("mysql", "😀 ", True, "_ __#"),
        ("redshift", "XMIN", True, "XMIN_#"),
        ("duckdb", "", True, "column_#"),
        ("bigquery", "a.b", False, "a_b_#"),
        ("bigquery", "a.b", True, "a_b_#"),
        ("bigquery", "_PARTITIONDATE", True, "_DATE_#"),
        ("bigquery", "_TABLE__ROOT__", True, "column_#"),
        ("databricks", "my table", False, "my_table_#"),
        ("databricks", "my table", True, "my table"),
    ],
)
def test_what_a_warehouse_cannot_hold_gets_a_suffix(name: str, source: str, column: bool, expected: str) -> None:
    names = plan(ENGINES[name], manifest({"x": {source: "int64"}} if column else {source: {"x": "int64"}}))
    found = names.tables[0].columns[0] if column else names.tables[0]
    assert re.fullmatch(expected.replace("#", "[0-9a-f]{8}"), found.name)
    assert found.source_name == source


def test_room_for_a_table_in_clickhouse_depends_on_its_schema() -> None:
    longer = plan(ENGINES["clickhouse"], manifest({"t" * 200: {"a": "int64"}}), schema="s" * 20)
    assert len(longer.tables[0].name) == 213 - 20


@pytest.mark.parametrize(
    ("name", "pair", "column"),
    [
        ("redshift", ("Users", "users"), False),
        ("duckdb", ("Users", "users"), False),
        ("databricks", ("T", "t"), False),
        ("redshift", ("É", "é"), True),
        ("mysql", ("É", "é"), True),
        ("bigquery", ("Id", "ID"), True),
    ],
)
def test_of_two_names_that_are_one_the_first_is_exact(name: str, pair: tuple[str, str], column: bool) -> None:
    tables = {"t": dict.fromkeys(pair, "int64")} if column else {each: {"a": "int64"} for each in pair}
    made = plan(ENGINES[name], manifest(tables))
    first, second = made.tables[0].columns if column else made.tables
    lower = name in {"redshift", "databricks"} and not column
    assert (first.name, second.source_name) == (pair[0].lower() if lower else pair[0], pair[1])
    assert re.fullmatch(f"{pair[1]}_[0-9a-f]{{8}}", second.name)


@pytest.mark.parametrize("name", ["redshift", "databricks"])
def test_one_table_of_two_databases_has_one_name_in_the_history(name: str) -> None:
    """``Users`` and ``users`` are one table there: the records of one are found by the other."""
    one, other = (plan(ENGINES[name], manifest({each: {"a": "int64"}})) for each in ("Users", "users"))
    assert load_history.owners_query(one) == load_history.owners_query(other)
    assert load_history.history_query(one) == load_history.history_query(other)


def test_a_later_table_does_not_take_the_name_of_an_earlier_one() -> None:
    databricks = Naming(ENGINES["databricks"].dialect, "s")
    first = databricks.tables(["É"], lambda _: False)
    assert databricks.tables(["É", "é"], lambda _: False)["É"] == first["É"] == "É"


def test_a_name_that_keeps_its_spelling_comes_before_one_that_is_changed() -> None:
    lower = Naming(ENGINES["postgres"].dialect, "s", "lower")
    found = lower.tables(["Users", "users"], lambda _: False)
    assert found["users"] == "users"
    assert re.fullmatch(r"users_[0-9a-f]{8}", found["Users"])


def test_the_key_of_a_merge_has_the_names_in_the_warehouse() -> None:
    made = plan(ENGINES["postgres"], manifest({"t": {"ctid": "int64"}}), mode="merge", keys={"t": ["ctid"]})
    assert made.tables[0].key == (made.tables[0].columns[0].name,) != ("ctid",)
    upper = plan(
        ENGINES["snowflake"], manifest({"t": {"id": "int64"}}), names="upper", mode="merge", keys={"t": ["id"]}
    )
    assert upper.tables[0].key == ("ID",)


@pytest.mark.parametrize("name", ENGINES)
def test_a_prefix_that_no_table_can_have_is_refused(name: str) -> None:
    for prefix in ("\0", "p" * 5000):
        with pytest.raises(D1ConfigurationError, match=r"table_prefix: .* choose another prefix"):
            plan(ENGINES[name], manifest(), table_prefix=prefix)


def test_only_names_that_could_not_be_given_are_listed_as_renamed() -> None:
    made = plan(ENGINES["postgres"], manifest({"t": {"Id": "int64", "ctid": "int64"}}), names="upper")
    (table,) = made.tables
    assert [column.name for column in table.columns] == ["ID", "CTID"]
    assert made.renamed(table) == {}
    lower = plan(ENGINES["postgres"], manifest({"t": {"Id": "int64", "ctid": "int64"}}), names="lower")
    assert list(lower.renamed(lower.tables[0])) == ["ctid"]


@pytest.mark.parametrize("name", [name for name in ENGINES if name not in ("postgres", "mysql", "redshift")])
def test_a_column_is_read_by_its_name_in_the_files(name: str) -> None:
    """Those whose own reader goes by names; the others go by position, or get the rows from the worker."""
    made = plan(ENGINES[name], manifest({"t": {"Id": "int64", "At": "date32"}}), names="upper")
    text = "\n".join(planned_statements(ENGINES[name], made))
    reads = {
        "duckdb": 'SELECT "ID", "AT" FROM read_parquet(',
        "clickhouse": "(`ID`, `AT`) SELECT `Id`, `At` FROM s3(",
        "snowflake": """("ID", "AT") FROM (SELECT $1['Id']::NUMBER(38, 0), $1['At']::DATE FROM @""",
        "databricks": "FROM (SELECT `Id` AS `ID`, `At` AS `AT` FROM 's3://bucket/",
        "bigquery": "parquet, uploaded",  # the worker renames the columns in the files
    }
    assert reads[name] in text


def test_a_load_lists_what_it_renamed_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    log_renamed(
        plan(ENGINES["postgres"], manifest({"t": {"ctid": "int64", "a": "int64"}, "u" * 70: {"xmin": "int64"}}))
    )
    ((_, level, line),) = caplog.record_tuples
    assert level == logging.WARNING
    assert len(line) <= 300
    assert line.startswith("warehouse=Postgres renamed_tables=1 renamed_columns=2 names='uuuuu")
    assert "'t.ctid' → 'ctid_" in line
    caplog.clear()
    log_renamed(plan(ENGINES["postgres"], HARD))
    assert len(caplog.messages[0]) <= 300
    caplog.clear()
    log_renamed(plan(ENGINES["snowflake"], manifest(), names="upper", table_prefix="shop_"))
    assert caplog.messages == []


def test_databricks_refuses_columns_that_its_reader_takes_for_one() -> None:
    from unittest.mock import Mock

    files = Mock(local=Mock(return_value=None))
    made = plan(ENGINES["databricks"], manifest({"t": {"É": "int64", "é": "int64", "a": "int64"}}))
    with pytest.raises(D1ConfigurationError, match=r"'t' .*: 'É', 'é'\. .*column_names='snake_case'.*tables="):
        ENGINES["databricks"].check(made, files)
