"""Every value of the corpus, in each staged format, in each warehouse that really runs, compared with SQLite's."""

from __future__ import annotations

import pytest

from airflow_provider_d1.staging.manifest import parse_manifest
from tests.integration.warehouses.staged_corpus import CORPUS, alike, expected_rows, staged
from tests.unit.dump.dump_oracle import SqliteTable, for_sqlite, read_with_sqlite


@pytest.fixture(scope="module")
def source() -> dict[str, SqliteTable]:
    return read_with_sqlite(for_sqlite(CORPUS.read_bytes()))


@pytest.mark.parametrize("file_format", ["parquet", "csv", "jsonl"])
def test_the_whole_corpus(engine, schema, load_staged, tmp_path, source, file_format) -> None:
    manifest = staged(tmp_path / "staged", file_format, max_part_bytes=1 << 20)
    uri = (tmp_path / "staged" / "_manifest.json").as_uri()
    assert parse_manifest((tmp_path / "staged" / "_manifest.json").read_bytes()) == manifest

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
