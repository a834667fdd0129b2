"""The statements of every warehouse, held against files that a person has read, and parsed by sqlglot in its dialect.

    python -m pytest tests/unit/warehouses/test_golden_statements.py --golden

writes the files anew; read the difference before committing it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from sqlglot import exp

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.warehouses.bigquery import BigQuery
from airflow_provider_d1.warehouses.dry_run import planned_statements
from airflow_provider_d1.warehouses.redshift_copy import CopyFile, copy_manifest
from airflow_provider_d1.warehouses.table_planning import plan_table
from tests.unit.warehouses.warehouse_plans import ENGINES, manifest, plan

GOLDEN = Path(__file__).parent / "golden"


def options_of(name: str) -> dict[str, str]:
    """The warehouse's own options, each with its example."""
    return {option.name: option.example for option in ENGINES[name].options}


#: the statements that sqlglot 30 has no grammar for, and only those; all others it must understand
UNPARSED: dict[str, str] = {
    "redshift": r"LOCK ",
    "postgres": r".* ONLY ",
    "bigquery": r"-- Load job: ",
    "databricks": r"COPY INTO .* WITH \(CREDENTIAL ",
    "clickhouse": r"EXCHANGE TABLES |RENAME TABLE |ALTER TABLE .* ATTACH PARTITION ID ",
}


KEYS = {"users": ["a int64", "a string"], "orders-2026": ["id"]}
MODES: dict[str, dict[str, Any]] = {
    "replace": {},
    "append": {},
    "merge": {"keys": KEYS},
    "merge_and_delete": {"mode": "merge", "keys": KEYS, "delete_missing": True},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ENGINES)
def test_statements_are_as_they_were_read(name: str, mode: str, request: pytest.FixtureRequest) -> None:
    options = {"mode": mode, **MODES[mode], **options_of(name)}
    made = planned_statements(ENGINES[name], plan(ENGINES[name], manifest(), **options))
    text = "".join(f"{statement};\n" for statement in made)
    file = GOLDEN / f"{name}_{mode}.sql"
    if request.config.getoption("--golden"):
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ENGINES)
def test_sqlglot_understands_them(name: str, mode: str) -> None:
    for own in ({}, options_of(name)):
        options = {"mode": mode, **MODES[mode], **own}
        for statement in planned_statements(ENGINES[name], plan(ENGINES[name], manifest(), **options)):
            assert understood(statement, name) != bool(re.match(UNPARSED.get(name, "nothing"), statement)), statement


def understood(statement: str, name: str) -> bool:
    """Parsed as one statement of a kind that sqlglot knows: not kept as an opaque text, in no part."""
    try:
        (parsed,) = sqlglot.parse(statement, dialect=name)
    except sqlglot.ParseError:
        return False
    return parsed is not None and not list(parsed.find_all(exp.Command))


@pytest.mark.parametrize("name", [name for name in ENGINES if not ENGINES[name].reads_text_formats])
def test_text_formats_are_refused_where_they_would_lose_something(name: str) -> None:
    with pytest.raises(D1ConfigurationError, match=r"file_format='parquet'"):
        planned_statements(ENGINES[name], plan(ENGINES[name], manifest(format="csv")))


@pytest.mark.parametrize("name", ENGINES)
def test_widening_says_how(name: str) -> None:
    """The statement for every pair of types is one that sqlglot understands."""
    warehouse = ENGINES[name]
    made = plan(warehouse, manifest())
    for old, new in [
        ("int64", "float64"),
        ("int64", "string"),
        ("float64", "string"),
        ("binary", "string"),
        ("timestamp[us]", "string"),
        ("date32", "timestamp[us]"),
    ]:
        text = "; ".join(warehouse.alter_column(made, "users", "odd ' name", old, new))
        assert "odd ' name" in text
        for statement in sqlglot.parse(text, dialect=name):
            # ClickHouse's comment on a column is beyond it, and MySQL's change of a name beside another change
            beyond = name == "clickhouse" or (name == "mysql" and ", CHANGE COLUMN " in statement.sql(dialect=name))
            assert beyond or not isinstance(statement, exp.Command), text


def test_a_bigquery_job_has_explicit_types() -> None:
    warehouse = BigQuery()
    made = plan(warehouse, manifest({"users": {"id": "int64", "at": "timestamp[us]"}}))
    (table,) = made.tables
    work = plan_table(warehouse, made, table, {})
    assert warehouse.load_configuration(made, work, ["gs://bucket/part.parquet"]) == {
        "load": {
            "destinationTable": {"datasetId": "staging", "tableId": table.helper},
            "schema": {
                "fields": [
                    {"name": "id", "type": "INT64", "mode": "NULLABLE"},
                    {"name": "at", "type": "DATETIME", "mode": "NULLABLE"},
                ]
            },
            "sourceFormat": "PARQUET",
            "columnNameCharacterMap": "STRICT",
            "createDisposition": "CREATE_NEVER",
            "writeDisposition": "WRITE_APPEND",
            "sourceUris": ["gs://bucket/part.parquet"],
        }
    }


def test_a_redshift_copy_manifest_gives_every_length() -> None:
    files = [CopyFile(f"s3://bucket/d1/shop's/t0/part-0000{number}.parquet", 1000 + number) for number in range(2)]
    assert json.dumps(copy_manifest(files)) == json.dumps(
        {
            "entries": [
                {
                    "url": f"s3://bucket/d1/shop's/t0/part-0000{number}.parquet",
                    "mandatory": True,
                    "meta": {"content_length": 1000 + number},
                }
                for number in range(2)
            ]
        }
    )
