"""The manifest: what is written is what is read, and what is wrong is named."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from airflow_provider_d1.cloudflare.models import ExportOptions, SkippedObject
from airflow_provider_d1.exceptions import D1ManifestError
from airflow_provider_d1.staging.manifest import DumpEntry, Manifest, dumps, parse_manifest
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.manifest_tables import ColumnEntry, FileEntry, LossyCounts, StorageCounts, TableEntry

SHA = "0123456789abcdef" * 4


def example(**changes: Any) -> Manifest:
    column = ColumnEntry("id", "INTEGER", "int64", nullable=False, primary_key=1, storage=StorageCounts(integer=3))
    renamed = ColumnEntry(
        "v", "", "string", nullable=True, primary_key=0, storage=StorageCounts(text=2, null=1),
        lossy=LossyCounts(ambiguous_newlines=1), source_name="V",
    )  # fmt: skip
    files = (FileEntry("file:///x/users/part-00000.parquet", 10, SHA, 2), FileEntry("file:///x/p1", 5, SHA, 1))
    table = TableEntry("users", 3, "CREATE TABLE users(id, V)", (column, renamed), files, generated=("full_name",))
    source = Source(
        account_id="a", database_id="d", database_name="shop", bookmark="b", filename="f.sql",
        started_at="2026-11-22T09:30:00+00:00", completed_at="2026-11-22T09:31:00+00:00", unavailable_seconds=60.0,
        restarts=1, options=ExportOptions(tables=("users",)), skipped=(SkippedObject("docs", "virtual table"),),
    )  # fmt: skip
    return Manifest(
        **{
            "created_at": "2026-11-22T09:32:00+00:00",
            "provider_version": "0.1.0",
            "source": source,
            "dump": DumpEntry(100, SHA),
            "format": "parquet",
            "compression": "zstd",
            "tables": (table,),
            "run": "20261122T093200Z-3f9c1a",
            **changes,
        }
    )


def kept() -> DumpEntry:
    return DumpEntry(100, SHA, FileEntry("file:///x/shop.sql.zst", 20, SHA), "zstd")


@pytest.mark.parametrize(
    "manifest",
    [
        example(),
        example(dump=kept()),
        example(format="csv", compression="gzip", binary_encoding="hex"),
        example(format="sql", compression=None, tables=(), files=(FileEntry("file:///x/shop.sql", 100, SHA),)),
        example(format="sql", tables=(), files=(FileEntry("file:///x/a.sql.zst.age", 9, SHA),), encryption="age"),
        example(source=Source()),
    ],
)
def test_what_is_written_is_what_is_read(manifest: Manifest) -> None:
    assert parse_manifest(dumps(manifest)) == manifest
    assert Manifest.from_dict(manifest.to_dict()) == manifest


def test_the_shape_is_the_one_that_was_promised() -> None:
    data = example().to_dict()
    assert list(data) == [
        "version",
        "run",
        "created_at",
        "provider_version",
        "extract",
        "source",
        "dump",
        "format",
        "compression",
        "tables",
    ]
    assert (data["version"], data["run"]) == (2, "20261122T093200Z-3f9c1a")
    assert data["extract"] == {"method": "export"}
    assert list(data["source"]) == [
        "account_id", "database_id", "database_name", "bookmark", "filename", "started_at", "completed_at",
        "unavailable_seconds", "restarts", "options", "skipped",
    ]  # fmt: skip
    assert data["source"]["options"] == {"tables": ["users"], "no_data": False, "no_schema": False}
    assert data["dump"] == {"bytes": 100, "sha256": SHA}
    (table,) = data["tables"]
    assert list(table) == ["name", "rows", "ddl", "schema_hash", "primary_key", "columns", "generated", "files"]
    assert table["primary_key"] == ["id"]
    assert table["columns"][0] == {
        "name": "id", "declared_type": "INTEGER", "type": "int64", "nullable": False, "primary_key": 1,
        "storage": {"integer": 3, "real": 0, "text": 0, "blob": 0, "null": 0},
        "lossy": {"unsafe_integers": 0, "infinities": 0, "ambiguous_newlines": 0, "replacement_characters": 0},
    }  # fmt: skip
    assert table["files"][0] == {
        "uri": "file:///x/users/part-00000.parquet", "rows": 2, "bytes": 10, "sha256": SHA,
    }  # fmt: skip


def test_a_dump_has_files_at_the_top() -> None:
    data = example(format="sql", tables=(), files=(FileEntry("file:///x/shop.sql", 100, SHA),)).to_dict()
    assert data["files"] == [{"uri": "file:///x/shop.sql", "bytes": 100, "sha256": SHA}]
    assert "tables" not in data


def test_encryption_is_beside_the_compression_and_only_where_there_is_one() -> None:
    encrypted = example(format="sql", compression="zstd", tables=(), encryption="age").to_dict()
    assert list(encrypted)[-3:] == ["compression", "encryption", "files"]
    assert "encryption" not in example().to_dict()
    with pytest.raises(D1ManifestError, match="unknown encryption 'gpg'; expected age"):
        Manifest.from_dict(encrypted | {"encryption": "gpg"})


def test_the_sums_count_every_file() -> None:
    manifest = example(dump=kept())
    assert (manifest.rows, manifest.bytes, len(manifest.all_files)) == (3, 35, 3)


def test_the_schema_hash_follows_the_columns_only() -> None:
    table = example().tables[0]
    more_rows = TableEntry(table.name, 0, "CREATE TABLE else", table.columns, ())
    fewer = TableEntry(table.name, 3, table.ddl, table.columns[:1], table.files)
    assert more_rows.schema_hash == table.schema_hash
    assert fewer.schema_hash != table.schema_hash


def paths(value: Any, path: tuple = ()) -> list[tuple]:
    """Every place in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path] if path else []
    for key, inner in items:
        found += paths(inner, (*path, key))
    return found


#: may be null, left out, or hold any JSON text
OPTIONAL = {"account_id", "database_id", "database_name", "bookmark", "filename", "started_at", "completed_at"}
OPTIONAL |= {"unavailable_seconds", "tables", "compression", "source_name", "run"}


def is_derived(path: tuple) -> bool:
    """Whether a key of a table is written for readers and never read."""
    return path[0] == "tables" and len(path) > 2 and path[2] in ("schema_hash", "primary_key")


@pytest.mark.parametrize("path", paths(example().to_dict()), ids=str)
def test_every_broken_key_is_found_and_named(path: tuple) -> None:
    data = copy.deepcopy(example().to_dict())
    *before, last = path
    owner: Any = data
    for key in before:
        owner = owner[key]
    owner[last] = object()
    if is_derived(path):
        assert Manifest.from_dict(data) == example()
        return
    with pytest.raises(D1ManifestError) as error:
        Manifest.from_dict(data)
    named = next(key for key in reversed(path) if isinstance(key, str))
    assert named in str(error.value)


@pytest.mark.parametrize("path", [p for p in paths(example().to_dict()) if isinstance(p[-1], str)], ids=str)
def test_every_missing_key_is_found(path: tuple) -> None:
    data = copy.deepcopy(example().to_dict())
    *before, last = path
    owner: Any = data
    for key in before:
        owner = owner[key]
    del owner[last]
    if (
        last in OPTIONAL - {"tables"}
        or is_derived(path)
        or path == ("source", "options", "tables")
        or last == "generated"
    ):
        Manifest.from_dict(data)
    else:
        with pytest.raises(D1ManifestError):
            Manifest.from_dict(data)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "version None"),
        (json.dumps({**example().to_dict(), "version": 3}), "version 3"),
        (json.dumps({**example().to_dict(), "format": "xml"}), "'xml'"),
    ],
)
def test_what_is_no_manifest_is_refused(content: bytes | str, words: str) -> None:
    with pytest.raises(D1ManifestError, match=words):
        parse_manifest(content)


def test_a_manifest_of_version_1_can_be_read() -> None:
    data = example().to_dict()
    for key in ("run", "extract"):
        del data[key]
    del data["tables"][0]["primary_key"]
    assert Manifest.from_dict({**data, "version": 1}) == example(run=None)


def test_rows_that_do_not_add_up_are_refused() -> None:
    data = example().to_dict()
    data["tables"][0]["files"].pop()
    with pytest.raises(D1ManifestError, match="add up"):
        Manifest.from_dict(data)


def test_keys_of_a_later_version_are_ignored() -> None:
    assert Manifest.from_dict({**example().to_dict(), "later": 1}) == example()


def test_a_source_reads_an_exports_dict() -> None:
    export = {
        "database_id": "d", "database_name": "shop", "account_id": "a", "bookmark": "b", "filename": "f.sql",
        "sealed_url": "secret", "expires_at": "2026-11-22T10:30:00+00:00", "started_at": "2026-11-22T09:30:00+00:00",
        "completed_at": "2026-11-22T09:31:00+00:00", "polls": 9, "restarts": 0,
        "options": {"tables": None, "no_data": False, "no_schema": False}, "skipped": [],
    }  # fmt: skip
    source = Source.from_dict({**export, "unavailable_seconds": 60.0})
    assert (source.database_name, source.unavailable_seconds) == ("shop", 60.0)
    assert "secret" not in str(source.to_dict())
