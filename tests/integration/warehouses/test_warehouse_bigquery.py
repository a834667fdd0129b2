"""BigQuery, by ``bqemulator``: sessions, transactions, load jobs, INFORMATION_SCHEMA, replace, append, widening.

Three shims, each where the emulator is wrong: see :func:`emulator_without_gaps`. What only the service does (locations,
quotas, permissions, policies, partitioned targets) is not shown.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import secrets
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_d1.warehouses import load_history
from airflow_provider_d1.warehouses.bigquery import BigQuery
from harness.bigquery import BigQueryEmulator, bigquery_emulator, bigquery_missing
from tests.integration.warehouses.hard_names import database, keys, named, rows_of
from tests.integration.warehouses.warehouse_engines import CONN_ID

USERS = pa.table({"id": [1, 2], "a b": ["Ada", None], "é": [1.5, None], "1a": pa.array([b"\0\xff", b""], pa.binary())})
MORE = pa.table(
    {"id": [3, 2**63 - 1], "a b": ["it's", ""], "é": [-0.25, 1e300], "1a": pa.array([None, b"x"], pa.binary())}
)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQueryEmulator]:
    if (missing := bigquery_missing()) is not None:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with bigquery_emulator(tmp_path_factory.mktemp("bigquery")) as server:
        yield server


@pytest.fixture(autouse=True)
def emulator_without_gaps(emulator: BigQueryEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client, pointed at the emulator, and three things that the service has and the emulator has not."""
    from google.cloud.bigquery import Client, LoadJob, client

    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", emulator.url)
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", emulator.airflow_connection())
    # an upload's parts are of the type */* with the client, which the emulator does not read
    monkeypatch.setattr(client, "_GENERIC_CONTENT_TYPE", "application/octet-stream")
    # it has no CREATE TABLE … COPY
    whole = Client.query

    def query(self: Client, statement: str, *arguments: Any, **options: Any) -> Any:
        copied = re.sub(r"^(CREATE OR REPLACE TABLE \S+) COPY (\S+)$", r"\1 AS SELECT * FROM \2", statement)
        return whole(self, copied, *arguments, **options)

    monkeypatch.setattr(Client, "query", query)
    # a load job counts the rows that were in the table before, too
    upload, output_rows = Client.load_table_from_file, LoadJob.output_rows
    before: dict[str, int] = {}

    def counted(self: Client, file: Any, destination: str, *arguments: Any, **options: Any) -> Any:
        ((rows,),) = self.query(f"SELECT COUNT(*) FROM `{destination.split('.', 1)[1].replace('.', '`.`')}`").result()
        job = upload(self, file, destination, *arguments, **options)
        before[job.job_id] = rows
        return job

    monkeypatch.setattr(Client, "load_table_from_file", counted)
    monkeypatch.setattr(LoadJob, "output_rows", property(lambda job: output_rows.fget(job) - before[job.job_id]))


@pytest.fixture
def schema() -> str:
    return f"d1_{secrets.token_hex(4)}"


def rows(emulator: BigQueryEmulator, schema: str, table: str = "users") -> list[tuple[Any, ...]]:
    found = emulator.client().query(f"SELECT * FROM `{schema}`.`{table}`").result()
    return sorted((tuple(row.values()) for row in found), key=repr)


def tables(emulator: BigQueryEmulator, schema: str) -> set[str]:
    return {table.table_id for table in emulator.client().list_tables(schema)}


def values(*contents: pa.Table) -> list[tuple[Any, ...]]:
    return sorted((tuple(row.values()) for content in contents for row in content.to_pylist()), key=repr)


def test_replace_and_append(emulator, schema, load_staged, stage) -> None:
    first, second = stage({"users": USERS, "empty": USERS.slice(0, 0)}), stage({"users": MORE}, rows_in_part=1)
    assert load_staged(first)["rows"] == 2
    assert rows(emulator, schema) == values(USERS)
    assert rows(emulator, schema, "empty") == []
    for _ in range(2):
        assert load_staged(second)["rows"] == 2
        assert rows(emulator, schema) == values(MORE)
    assert load_staged(first, mode="append")["rows"] == 2
    assert load_staged(first, mode="append")["skipped"] is True
    assert rows(emulator, schema) == values(USERS, MORE)
    assert tables(emulator, schema) == {"users", "empty", "_d1_loads"}


def test_names_that_it_cannot_hold(emulator, schema, load_staged, stage) -> None:
    tables, columns = ("users", "a.b/c", "_d1_loads"), ("id", "É", "é", "c" * 301, "a.b", "_PARTITIONDATE")
    first, second, changed = (
        database(ids, mark, tables, columns) for ids, mark in (([1, 2], ""), ([3], ""), ([2, 4], "changed"))
    )
    for letters in ("exact", "upper"):
        options = {"names": letters, "table_prefix": f"{letters}_"}
        for _ in range(2):
            result = load_staged(stage(first), **options)
        load_staged(stage(second), mode="append", **options)
        load_staged(stage(changed, keys=keys(tables, columns)), mode="merge", **options)
        wanted = [database([1], "", tables, columns), second, changed]
        for source, name in named(result).items():
            assert rows(emulator, schema, name) == rows_of(*(each[source] for each in wanted))


def test_merge(emulator, schema, load_staged, stage) -> None:
    keys = {"users": ["a b", "id"]}
    changed = pa.table(
        {"id": [1, 7], "a b": ["Ada", "x"], "é": [9.5, None], "1a": pa.array([b"new", b""], pa.binary())}
    )
    load_staged(stage({"users": USERS.slice(0, 1)}, keys=keys), mode="merge")
    uri = stage({"users": changed}, keys=keys)
    for _ in range(2):
        assert load_staged(uri, mode="merge")["rows"] == 2
        assert rows(emulator, schema) == values(changed)
    load_staged(stage({"users": MORE}, keys=keys), mode="append")
    load_staged(uri, mode="merge")
    assert rows(emulator, schema) == values(changed, MORE.slice(0))
    load_staged(uri, mode="merge", delete_missing=True)
    assert rows(emulator, schema) == values(changed)
    twice = pa.concat_tables([changed, changed.slice(1)])
    with pytest.raises(AirflowFailException, match=r"'users' is unchanged.*1 values of it are staged more than once"):
        load_staged(stage({"users": twice}, keys=keys), mode="merge")
    with pytest.raises(AirflowFailException, match=r"1 staged rows have NULL in it"):
        load_staged(stage({"users": USERS}, keys=keys), mode="merge")
    load_staged(stage({"users": twice}), mode="replace")
    with pytest.raises(AirflowFailException, match=r"in the warehouse's table more than once"):
        load_staged(uri, mode="merge")
    assert rows(emulator, schema) == values(twice)
    assert tables(emulator, schema) == {"users", "_d1_loads"}


def test_replace_takes_the_new_shape(emulator, schema, load_staged, stage) -> None:
    load_staged(stage({"users": USERS}))
    other = pa.table({"name": ["Ada"], "email": [None]}, pa.schema([("name", pa.string()), ("email", pa.string())]))
    load_staged(stage({"users": other}))
    assert rows(emulator, schema) == [("Ada", None)]


def test_append_adds_and_widens_columns(emulator, schema, load_staged, stage) -> None:
    load_staged(stage({"users": pa.table({"id": [1], "name": ["Ada"]})}), mode="append")
    load_staged(stage({"users": pa.table({"id": [2.5], "email": ["a@example.com"]})}), mode="append")
    assert rows(emulator, schema) == sorted([(1.0, "Ada", None), (2.5, None, "a@example.com")], key=repr)
    with pytest.raises(AirflowFailException, match=r"'users'.*'id'.*CREATE OR REPLACE TABLE"):
        load_staged(stage({"users": pa.table({"id": ["x"]})}), mode="append")


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_an_error_at_the_record_changes_no_row(emulator, schema, load_staged, stage, mode, monkeypatch) -> None:
    """Rows and their record in ``_d1_loads`` are one transaction of one session."""
    load_staged(stage({"users": USERS}))
    uri, whole = stage({"users": MORE}), load_history.insert_statement
    with monkeypatch.context() as patch:
        patch.setattr(load_history, "insert_statement", lambda *arguments: f"{whole(*arguments)} no such word")
        with pytest.raises(AirflowFailException, match="BigQuery rejected"):
            load_staged(uri, mode=mode)
    assert rows(emulator, schema) == values(USERS)
    assert tables(emulator, schema) == {"users", "_d1_loads"}
    assert load_staged(uri, mode=mode)["rows"] == 2


def test_a_dataset_of_a_named_project_and_in_another_location(emulator, schema, load_staged, stage) -> None:
    from google.cloud.bigquery import Dataset

    dataset = Dataset(f"{emulator.project}.{schema}")
    dataset.location = "europe-west3"
    emulator.client().create_dataset(dataset)
    uri = stage({"users": USERS})
    for mode in ("replace", "append"):
        load_staged(uri, mode=mode, schema=f"{emulator.project}.{schema}", location="europe-west3")
    assert rows(emulator, schema) == values(USERS)
    with pytest.raises(AirflowFailException, match=r"location is 'EU', and the dataset .* is in 'europe-west3'"):
        load_staged(uri, location="EU")


@pytest.mark.parametrize("by", [("day",), ("id",), ("day", "id")], ids="-".join)
def test_partitions_and_clusters_stay_in_every_mode(emulator, schema, load_staged, stage, by) -> None:
    """Rows are replaced in place."""
    from google.cloud.bigquery import SchemaField, Table, TimePartitioning

    first = pa.table({"id": [1, 2], "day": pa.array([dt.date(2026, 1, 1), None])})
    more = pa.table({"id": [2, 3], "day": pa.array([dt.date(2026, 2, 2), None])})
    keys = {"events": ["id"]}
    load_staged(stage({"other": USERS}))
    table = Table(f"{emulator.project}.{schema}.events", [SchemaField("id", "INT64"), SchemaField("day", "DATE")])
    table.time_partitioning = TimePartitioning(field="day") if "day" in by else None
    table.clustering_fields = ["id"] if "id" in by else None
    emulator.client().create_table(table)
    load_staged(stage({"events": first}, keys=keys))
    load_staged(stage({"events": more}, keys=keys), mode="merge")
    assert rows(emulator, schema, "events") == values(first.slice(0, 1), more)
    load_staged(stage({"events": more}, keys=keys), mode="append")
    load_staged(stage({"events": first}, keys=keys))
    assert rows(emulator, schema, "events") == values(first)
    found = emulator.client().get_table(f"{schema}.events")
    assert (found.time_partitioning is not None) == ("day" in by)
    assert (found.clustering_fields == ["id"]) == ("id" in by)


def test_tables_are_published_in_one_transaction(emulator, schema, load_staged, stage, monkeypatch) -> None:
    both = {"users": USERS, "more": USERS}
    load_staged(stage(both))
    whole = BigQuery.overwrite

    def failing(self: BigQuery, plan: Any, work: Any) -> list[str]:
        return [*whole(self, plan, work), *(["no such word"] if work.table.name == "more" else [])]

    monkeypatch.setattr(BigQuery, "overwrite", failing)
    with pytest.raises(AirflowFailException, match="BigQuery rejected"):
        load_staged(stage({"users": MORE, "more": MORE}))
    assert rows(emulator, schema) == rows(emulator, schema, "more") == values(USERS)
