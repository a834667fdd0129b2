"""Small tables: parsed one value at a time, and written into memory. Everything is as with the steps of large ones."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_d1.exceptions import D1DumpError
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.part_store import PartStore
from airflow_provider_d1.staging.stage import stage
from airflow_provider_d1.storage.folder import FolderStorage
from tests.unit.staging.staged_files import assert_true_to, path_of

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest import Manifest

DATA = Path(__file__).parents[2] / "data" / "corpus"
DUMPS = [path for path in sorted(DATA.glob("*.sql")) if b"CREATE TABLE" in path.read_bytes()]
FORMATS = ("parquet", "csv", "jsonl")
TABLES = b"".join(b"CREATE TABLE t%d(a);INSERT INTO t%d VALUES(%d);" % (n, n, n) for n in range(5))


@pytest.fixture
def steps_of_large_tables() -> None:
    """Not in this module: it takes the place of the fixture of that name."""


class NoFiles(FolderStorage):
    """Takes no part from a local file."""

    def put_file(self, key: str, path: Path) -> None:
        raise AssertionError(f"{key} was a file at {path}")


def staged(dump: bytes, storage: FolderStorage, threads: int = 2, **options: Any) -> Manifest:
    chosen = StagingOptions(**options)
    return stage(io.BytesIO(dump), storage, chosen, Source(), temp_dir=storage.path.parent, parse_threads=threads)


def content(manifest: Manifest) -> list[Any]:
    """What a manifest says of its tables, and the bytes of their files."""
    return [
        ({**table.to_dict(), "files": None}, [(file.rows, path_of(file).read_bytes()) for file in table.files])
        for table in manifest.tables
    ]


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("max_part_bytes", [1, 1 << 28])
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("path", DUMPS, ids=lambda path: path.stem)
def test_they_are_as_the_steps_of_large_tables_make_them(
    path: Path, file_format: str, max_part_bytes: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump, options = path.read_bytes(), {"file_format": file_format, "max_part_bytes": max_part_bytes}
    small = staged(dump, FolderStorage(tmp_path / "small"), threads, **options)
    assert_true_to(dump, small, tmp_path / "small")
    monkeypatch.setattr("airflow_provider_d1.staging.table_pipeline._EXACT_BYTES", 0)
    monkeypatch.setattr("airflow_provider_d1.staging.parts._IN_MEMORY_BYTES", -1)
    large = staged(dump, FolderStorage(tmp_path / "large"), threads, **options)
    assert content(small) == content(large)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("file_format", FORMATS)
def test_they_need_no_local_file(file_format: str, threads: int, tmp_path: Path) -> None:
    manifest = staged(TABLES, NoFiles(tmp_path / "out"), threads, file_format=file_format)
    assert_true_to(TABLES, manifest, tmp_path / "out")


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_part_in_memory_is_cast_when_later_rows_need_it(file_format: str, tmp_path: Path) -> None:
    dump = TABLES + b"INSERT INTO t0 VALUES('text');INSERT INTO t1 VALUES(0.5);CREATE TABLE last(a);"
    manifest = staged(dump, FolderStorage(tmp_path / "out"), file_format=file_format)
    assert_true_to(dump, manifest, tmp_path / "out")
    assert [table.columns[0].type for table in manifest.tables[:2]] == ["string", "float64"]


def test_what_is_stored_does_not_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Any] = []
    finish = PartStore.finish

    def looked_at(store: PartStore) -> None:
        held.extend(part for parts in store._held.values() for part in parts)
        finish(store)

    monkeypatch.setattr(PartStore, "finish", looked_at)
    staged(TABLES, FolderStorage(tmp_path / "out"))
    assert [(each.part.content, each.part.bytes > 0) for each in held] == [(b"", True)] * 5


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("failing", range(5))
def test_a_store_that_fails_keeps_nothing(failing: int, threads: int, tmp_path: Path) -> None:
    class Faulty(FolderStorage):
        def put_bytes(self, key: str, data: bytes) -> None:
            if f"/t{failing}/" in key:
                raise ConnectionError(key)
            super().put_bytes(key, data)

    with pytest.raises(ConnectionError):
        staged(TABLES, Faulty(tmp_path / "out"), threads)
    assert list(tmp_path.iterdir()) == []


def test_invalid_utf8_is_found_as_in_large_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = b"CREATE TABLE t(a,b);INSERT INTO t VALUES('fine','not \xff');"
    with pytest.raises(D1DumpError, match=rf"byte {dump.index(0xFF)}: table 't': invalid UTF-8") as small:
        staged(dump, FolderStorage(tmp_path / "out"))
    monkeypatch.setattr("airflow_provider_d1.staging.table_pipeline._EXACT_BYTES", 0)
    with pytest.raises(D1DumpError) as large:
        staged(dump, FolderStorage(tmp_path / "out"))
    assert str(small.value) == str(large.value)
