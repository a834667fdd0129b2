"""The statements of every warehouse, held against files that a person has read, and parsed by sqlglot in its dialect.

    python -m pytest tests/unit/warehouses/test_golden_statements.py --golden

writes the files anew; read the difference before committing it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import sqlglot
from sqlglot import exp

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.warehouses import bigquery, clickhouse, databricks, duckdb, postgres, redshift, snowflake
from tests.unit.warehouses.warehouse_plans import manifest, plan

GOLDEN = Path(__file__).parent / "golden"
WAREHOUSES = {
    "postgres": postgres,
    "redshift": redshift,
    "snowflake": snowflake,
    "bigquery": bigquery,
    "databricks": databricks,
    "duckdb": duckdb,
    "clickhouse": clickhouse,
}
OPTIONS = {
    "redshift": {"iam_role": "arn:aws:iam::123456789012:role/reader"},
    "snowflake": {"stage": "ops.public.d1_stage"},
    "databricks": {"storage_credential": "d1 reader"},
}
#: the statements that sqlglot 30 has no grammar for, and only those; all others it must understand
UNPARSED: dict[str, str] = {
    "postgres": "nothing",
    "redshift": r"LOCK ",
    "snowflake": "nothing",
    "bigquery": "nothing",
    "databricks": r"COPY INTO .* WITH \(CREDENTIAL ",
    "duckdb": "nothing",
    "clickhouse": r"EXCHANGE TABLES |ALTER TABLE .* ATTACH PARTITION ID ",
}


@pytest.mark.parametrize("mode", ["replace", "append"])
@pytest.mark.parametrize("name", WAREHOUSES)
def test_statements_are_as_they_were_read(name: str, mode: str, request: pytest.FixtureRequest) -> None:
    made = WAREHOUSES[name].statements(plan(WAREHOUSES[name], manifest(), mode=mode, **OPTIONS.get(name, {})))
    text = "".join(f"{statement};\n" for statement in made)
    file = GOLDEN / f"{name}_{mode}.sql"
    if request.config.getoption("--golden"):
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("mode", ["replace", "append"])
@pytest.mark.parametrize("name", WAREHOUSES)
def test_sqlglot_understands_them(name: str, mode: str) -> None:
    for options in ({}, OPTIONS.get(name, {})):
        for statement in WAREHOUSES[name].statements(plan(WAREHOUSES[name], manifest(), mode=mode, **options)):
            assert understood(statement, name) != bool(re.match(UNPARSED[name], statement)), statement


def understood(statement: str, name: str) -> bool:
    """Parsed as one statement of a kind that sqlglot knows: not kept as an opaque text, in no part."""
    try:
        (parsed,) = sqlglot.parse(statement, dialect=name)
    except sqlglot.ParseError:
        return False
    return parsed is not None and not list(parsed.find_all(exp.Command))


@pytest.mark.parametrize("name", ["redshift", "snowflake", "bigquery", "databricks"])
def test_text_formats_are_refused_where_they_would_lose_something(name: str) -> None:
    with pytest.raises(D1ConfigurationError, match=r"file_format='parquet'"):
        WAREHOUSES[name].statements(plan(WAREHOUSES[name], manifest(format="csv")))


@pytest.mark.parametrize("name", WAREHOUSES)
def test_widening_says_how(name: str) -> None:
    """The statement for every pair of types is one that sqlglot understands."""
    warehouse: ModuleType = WAREHOUSES[name]
    made = plan(warehouse, manifest())
    for old, new in [
        ("int64", "float64"),
        ("int64", "string"),
        ("float64", "string"),
        ("binary", "string"),
        ("timestamp[us]", "string"),
        ("date32", "timestamp[us]"),
    ]:
        text = warehouse.alter_column(made, "users", "odd ' name", old, new)
        assert "odd ' name" in text
        for statement in sqlglot.parse(text, dialect=name):
            # ClickHouse's comment on a column is beyond it
            assert name == "clickhouse" or not isinstance(statement, exp.Command), text


def test_a_bigquery_job_is_told_the_types() -> None:
    made = plan(bigquery, manifest({"users": {"id": "int64", "at": "timestamp[us]"}}))
    (table,) = made.tables
    assert bigquery.load_configuration(made, table, "project", ["gs://bucket/part.parquet"]) == {
        "load": {
            "destinationTable": {"projectId": "project", "datasetId": "staging", "tableId": table.helper},
            "schema": {
                "fields": [
                    {"name": "id", "type": "INT64", "mode": "NULLABLE"},
                    {"name": "at", "type": "DATETIME", "mode": "NULLABLE"},
                ]
            },
            "sourceFormat": "PARQUET",
            "createDisposition": "CREATE_NEVER",
            "writeDisposition": "WRITE_APPEND",
            "sourceUris": ["gs://bucket/part.parquet"],
        }
    }


def test_a_redshift_copy_manifest_gives_every_length() -> None:
    table = plan(redshift, manifest()).tables[0]
    assert json.dumps(redshift.copy_manifest(table)) == json.dumps(
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
