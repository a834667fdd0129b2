"""Every value of every corpus dump, through every format, is what SQLite reads from the dump."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Literal

import pytest

from airflow_provider_d1.dump.reader import DumpReader
from airflow_provider_d1.staging.manifest import MANIFEST_KEY, parse_manifest
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.stage import stage
from airflow_provider_d1.storage.folder import FolderStorage
from tests.unit.staging.staged_files import assert_folder_is_what_the_manifest_lists, assert_true_to, staged_columns

CORPUS = Path(__file__).parents[2] / "data" / "corpus"
DUMPS = [path for path in sorted(CORPUS.glob("*.sql")) if b"CREATE TABLE" in path.read_bytes()]
TableFormats = Literal["parquet", "csv", "jsonl"]
FORMATS: tuple[TableFormats, ...] = ("parquet", "csv", "jsonl")


@pytest.mark.parametrize(("max_part_bytes", "threads"), [(1, 0), (3000, 2), (1 << 28, 2)])
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("dump", DUMPS, ids=lambda path: path.stem)
def test_a_corpus_dump(
    dump: Path, file_format: TableFormats, max_part_bytes: int, threads: int, tmp_path: Path
) -> None:
    options = StagingOptions(file_format=file_format, max_part_bytes=max_part_bytes)
    content = dump.read_bytes()
    manifest = stage(
        io.BytesIO(content), FolderStorage(tmp_path / "out"), options, Source(filename=dump.name), parse_threads=threads
    )
    assert_true_to(content, manifest, tmp_path / "out")
    assert parse_manifest((tmp_path / "out" / MANIFEST_KEY).read_bytes()) == manifest
    if max_part_bytes == 1:
        assert [len(table.files) for table in manifest.tables] == [max(1, table.rows) for table in manifest.tables]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, so that a small dump goes the way of a large one."""
    monkeypatch.setattr("airflow_provider_d1.staging.table_pipeline.DumpReader", partial(DumpReader, block_size=2000))


def wide(rows: int) -> bytes:
    """A dump in which columns change their minds, early, late and more than once."""
    lines = ['CREATE TABLE "t"(id INTEGER PRIMARY KEY, a, b INTEGER, c REAL, d TEXT, e BLOB, f NUMERIC, pad TEXT);']
    for n in range(rows):
        a = {0: "NULL", 1: f"{n}", 2: f"{n}.5", 3: f"{n}.0", 4: f"'text {n}'"}[min(4, 6 * n // rows)]
        b = f"'late {n}'" if n == rows - 1 else str(n)
        c = f"X'{n:06x}'" if n == rows // 2 else f"{n}.25"
        d = f"'word {n}'"
        e = f"X'{n:08x}'" if n < rows * 3 // 4 else f"'no blob {n}'"
        f = "NULL" if n < rows // 3 else str(n) if n < rows * 2 // 3 else f"{n}.125"
        lines.append(f"INSERT INTO \"t\" VALUES({n},{a},{b},{c},{d},{e},{f},'{str(n) * 20}');")
    lines.append("CREATE TABLE other(x); INSERT INTO other VALUES(1);")
    return "\n".join(lines).encode()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("max_part_bytes", [4000, 20_000, 1 << 28])
def test_columns_that_widen_late(file_format: TableFormats, max_part_bytes: int, tmp_path: Path) -> None:
    dump = wide(1500)
    options = StagingOptions(file_format=file_format, max_part_bytes=max_part_bytes)
    manifest = stage(io.BytesIO(dump), FolderStorage(tmp_path / "out"), options, Source())
    assert_true_to(dump, manifest, tmp_path / "out")
    assert [column.type for column in manifest.tables[0].columns] == [
        "int64", "string", "string", "string", "string", "string", "float64", "string",
    ]  # fmt: skip
    if file_format == "csv" and max_part_bytes == 20_000:
        assert all(file.bytes <= max_part_bytes for file in manifest.tables[0].files)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_dump_with_more_rows_of_an_earlier_table(file_format: TableFormats, tmp_path: Path) -> None:
    lines = ["CREATE TABLE a(x);", "CREATE TABLE b(x);", "CREATE TABLE c(x);"]
    for n in range(40):
        lines += [f"INSERT INTO a VALUES({n}{'.5' if n > 20 else ''});", f"INSERT INTO b VALUES('{n}');"]
    lines += ["INSERT INTO a VALUES(1.0);", "INSERT INTO b VALUES(7);"]
    dump = "\n".join(lines).encode()
    manifest = stage(io.BytesIO(dump), FolderStorage(tmp_path / "o"), StagingOptions(file_format=file_format), Source())
    assert_true_to(dump, manifest, tmp_path / "o")


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(
    ("blocks", "batch_bytes", "least", "most"), [(1000, 1 << 24, 1, 2), (50, 1 << 24, 3, 5), (1000, 4000, 3, 20)]
)
def test_tables_that_take_turns_do_not_make_a_part_each_turn(
    blocks: int, batch_bytes: int, least: int, most: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_d1.staging.table_router.MOST_BLOCKS", blocks)
    monkeypatch.setattr("airflow_provider_d1.staging.parquet.ParquetFormat.batch_bytes", batch_bytes)
    lines = [f"CREATE TABLE t{n}(x, y TEXT);" for n in range(3)]
    for n in range(150):
        lines += [f"INSERT INTO t{n % 3} VALUES({n if n < 140 else n + 0.5},'{n:0200}');"] * (1 + n % 2)
    dump = "\n".join([*lines, "CREATE TABLE last(x);"]).encode()
    manifest = stage(io.BytesIO(dump), FolderStorage(tmp_path / "o"), StagingOptions(), Source(), parse_threads=threads)
    assert_true_to(dump, manifest, tmp_path / "o")
    files = [len(table.files) for table in manifest.tables]
    assert all(least <= count <= most for count in files[:3])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("max_part_bytes", [3000, 1 << 28])
@pytest.mark.parametrize("file_format", FORMATS)
def test_times_when_every_text_is_one(file_format: TableFormats, max_part_bytes: int, tmp_path: Path) -> None:
    rows = [
        f"INSERT INTO t VALUES('2026-01-{n % 28 + 1:02}','2026-01-01 00:00:{n % 60:02}','2026-01-01');"
        for n in range(300)
    ]
    rows.append("INSERT INTO t VALUES(NULL,NULL,'2026-13-01');")
    dump = "\n".join(["CREATE TABLE t(day DATE, at DATETIME, almost DATE);", *rows, "CREATE TABLE u(x);"]).encode()
    options = StagingOptions(file_format=file_format, max_part_bytes=max_part_bytes, parse_temporal=True)
    manifest = stage(io.BytesIO(dump), FolderStorage(tmp_path / "out"), options, Source())

    (table, _) = manifest.tables
    assert [column.type for column in table.columns] == ["date32", "timestamp[us]", "string"]
    staged = staged_columns(manifest, table)
    assert [None if v is None else str(v) for v in staged["day"]] == [
        f"2026-01-{n % 28 + 1:02}" for n in range(300)
    ] + [None]
    assert [None if v is None else str(v)[:19] for v in staged["at"]][-2:] == ["2026-01-01 00:00:59", None]
    assert staged["almost"][-2:] == ["2026-01-01", "2026-13-01"]
    assert_folder_is_what_the_manifest_lists(manifest, tmp_path / "out")
