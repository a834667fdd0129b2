"""Databricks: catalogs, URIs of the bucket, and the table features that Delta asks for."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.storage.object_storage import ObjectStorage
from airflow_provider_d1.warehouses.databricks import Databricks, bucket_uri
from airflow_provider_d1.warehouses.dry_run import planned_statements
from airflow_provider_d1.warehouses.plan import Column
from airflow_provider_d1.warehouses.staged_files import StagedFiles
from airflow_provider_d1.warehouses.table_planning import plan_table
from tests.unit.warehouses.warehouse_plans import manifest, plan

MAPPING = "'delta.columnMapping.mode' = 'name'"


@pytest.mark.parametrize("options", [{"catalog": "main-1"}, {"schema": "main-1.staging"}])
def test_every_statement_and_query_names_the_catalog(options: dict[str, str]) -> None:
    made = plan(Databricks(), manifest(), mode="merge", keys={"users": ["select"], "orders-2026": ["id"]}, **options)
    statements = planned_statements(Databricks(), made)
    paths = {path for statement in statements for path in re.findall(r"\S*`staging`", statement)}
    assert paths == {"`main-1`.`staging`"}
    queries = [
        Databricks().schema_query(made),
        Databricks().tables_query(made),
        Databricks().columns_query(made, "users"),
        Databricks().attached_query(made, "users"),
    ]
    for query in queries:
        assert set(re.findall(r"FROM (\S+)information_schema", query)) == {"`main-1`."}


@pytest.mark.parametrize(
    ("uri", "account", "expected"),
    [
        ("s3://bucket/d1/it's/part", None, "s3://bucket/d1/it's/part"),
        ("gs://bucket/part", None, "gs://bucket/part"),
        ("gs://my_conn@bucket/part@1", None, "gs://bucket/part@1"),
        ("abfs://box/d1/part", "shop", "abfss://box@shop.dfs.core.windows.net/d1/part"),
        ("abfs://my_conn@box/d1/part", "shop", "abfss://box@shop.dfs.core.windows.net/d1/part"),
    ],
)
def test_a_uri_is_one_that_databricks_reads(uri: str, account: str | None, expected: str) -> None:
    assert bucket_uri(uri, account) == expected


class Azure:
    """fsspec's file system for Azure, as far as it is asked here."""

    def __init__(self, account: str | None) -> None:
        self.account_name = account


def files_in_azure(account: str | None) -> StagedFiles:
    path = SimpleNamespace(fs=Azure(account), path="box/d1", protocol="abfs")
    return StagedFiles(ObjectStorage(path), verify_checksums=False)


def test_an_unknown_storage_account_is_refused_before_anything_is_loaded() -> None:
    made: Any = SimpleNamespace(origin=SimpleNamespace(manifest="abfs://conn@box/d1/_manifest.json"), tables=())
    Databricks().check(made, files_in_azure("shop"))
    expected = (
        r"storage account is not known.*abfss://box@<storage account>.dfs.core.windows.net/d1/.*set the account's"
    )
    with pytest.raises(D1ConfigurationError, match=expected):
        Databricks().check(made, files_in_azure(None))


@pytest.mark.parametrize("name", ["plain", "ünï", "a-b", "a.b", "a b", "a,b", "a;b", "a{b", "a}b", "a(b", "a)b", "a=b"])
def test_only_names_that_need_it_have_column_mapping(name: str) -> None:
    """Older readers do not read a table with it."""
    made = plan(Databricks(), manifest({"users": {"id": "int64", name: "string"}}))
    statement = Databricks().create_table(made, "users", made.tables[0].columns)
    needed = re.search(r"[ ,;{}()=]", name) is not None
    assert (MAPPING in statement) == needed
    added = Databricks().add_columns(made, "users", [Column(name, "string")])
    assert (added[0] == f"ALTER TABLE `staging`.`users` SET TBLPROPERTIES ({MAPPING})") == needed
    assert len(added) == 1 + needed


@pytest.mark.parametrize("kind", ["timestamp[us]", "date32"])
def test_a_timestamp_column_is_added_with_its_table_feature(kind: str) -> None:
    """A table that was made without one refuses it: DELTA_FEATURES_REQUIRE_MANUAL_ENABLEMENT."""
    made = plan(Databricks(), manifest({"users": {"id": "int64", "at": kind}}), mode="append")
    (table,) = made.tables
    work = plan_table(Databricks(), made, table, {"id": "bigint"})
    ddl: Any = Databricks().publication(made, work).ddl
    feature = "ALTER TABLE `staging`.`users` SET TBLPROPERTIES ('delta.feature.timestampNtz' = 'supported')"
    assert (feature in ddl) == (kind == "timestamp[us]")
    assert ddl[-1].startswith("ALTER TABLE `staging`.`users` ADD COLUMN `at` ")


def test_columns_are_dropped_with_column_mapping_only() -> None:
    """The statements that a refused load shows; Delta drops no column of a table without it."""
    made = plan(Databricks(), manifest())
    assert Databricks().drop_columns(made, "users", []) == []
    assert Databricks().drop_columns(made, "users", ["old"]) == [
        f"ALTER TABLE `staging`.`users` SET TBLPROPERTIES ({MAPPING})",
        "ALTER TABLE `staging`.`users` DROP COLUMN `old`",
    ]
