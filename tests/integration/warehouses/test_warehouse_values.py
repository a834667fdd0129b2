"""Every value of the corpus, in each staged format, in each warehouse that really runs, compared with SQLite's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_d1.staging.manifest import Manifest, Source, load
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.pipeline import stage
from airflow_provider_d1.staging.sinks import FolderSink
from tests.unit.dump.dump_oracle import SqliteTable, for_sqlite, read_with_sqlite

if TYPE_CHECKING:
    from warehouse_engines import Engine

CORPUS = Path(__file__).parents[2] / "data" / "corpus"


@pytest.fixture(scope="module")
def dump() -> Path:
    return CORPUS / "nasty_full.sql"


@pytest.fixture(scope="module")
def source(dump: Path) -> dict[str, SqliteTable]:
    return read_with_sqlite(for_sqlite(dump.read_bytes()))


def staged(dump: Path, folder: Path, file_format: str, **options: Any) -> Manifest:
    with dump.open("rb") as stream:
        return stage(
            stream,
            FolderSink(folder),
            StagingOptions(file_format=file_format, on_lossy="ignore", **options),
            Source(filename=dump.name),
        )


def expected_rows(engine: Engine, table: SqliteTable, manifest: Manifest, name: str) -> list[tuple[Any, ...]]:
    (entry,) = [entry for entry in manifest.tables if entry.name == name]
    columns = []
    for column in entry.columns:
        values = []
        for kind, value, text in table.columns[column.name]:
            if kind == "null":
                values.append(None)
            elif column.type == "string":
                values.append(text if engine.holds_nul else text.replace("\0", "\ufffd"))
            else:
                values.append(float(value) if column.type == "float64" else value)
        columns.append(values)
    return list(zip(*columns, strict=True))


def alike(rows: list[tuple[Any, ...]]) -> list[str]:
    return sorted(map(repr, rows))


@pytest.mark.parametrize("file_format", ["parquet", "csv", "jsonl"])
def test_the_whole_corpus(engine, schema, load_staged, tmp_path, dump, source, file_format) -> None:
    manifest = staged(dump, tmp_path / "staged", file_format, max_part_bytes=1 << 20)
    uri = (tmp_path / "staged" / "_manifest.json").as_uri()
    assert load((tmp_path / "staged" / "_manifest.json").read_bytes()) == manifest

    for mode in ("replace", "replace", "append"):
        result = load_staged(uri, mode=mode, on_nul="replace")
    assert result["skipped"] is True
    assert result["rows"] == 0

    assert engine.tables(schema) == {*source, "_d1_loads"}
    for entry in manifest.tables:
        assert engine.columns(schema, entry.name) == [(c.name, engine.types[c.type]) for c in entry.columns]
        rows, expected = (
            engine.rows(schema, entry.name),
            expected_rows(engine, source[entry.name], manifest, entry.name),
        )
        if engine.ordered and not source[entry.name].without_rowid:
            assert list(map(repr, rows)) == list(map(repr, expected)), entry.name
        else:
            assert alike(rows) == alike(expected), entry.name
