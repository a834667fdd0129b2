"""Whatever fails, wherever: nothing of the run is left, an older run stays whole, no thread survives."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_d1.dump.reader import DumpReader
from airflow_provider_d1.exceptions import (
    D1DownloadError,
    D1DumpError,
    D1LossyExportError,
    D1StagingError,
    D1TypeConflictError,
)
from airflow_provider_d1.staging.manifest import MANIFEST_KEY, Manifest, parse_manifest
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.part_store import MAX_PENDING_UPLOADS
from airflow_provider_d1.staging.stage import stage
from airflow_provider_d1.storage.folder import FolderStorage
from tests.unit.staging.staged_files import assert_folder_is_what_the_manifest_lists, assert_true_to, path_of


def dump_of(rows: int, *, last: str = "", table: str = "t") -> bytes:
    """A table of several small parts, widened in the middle, and a second one."""
    lines = [f'CREATE TABLE "{table}"(id INTEGER PRIMARY KEY, v INTEGER);']
    lines += [f'INSERT INTO "{table}" VALUES({n},{n if n < rows // 2 else f"{n}.5"});' for n in range(rows)]
    lines += ["CREATE TABLE u(x TEXT);", "INSERT INTO u VALUES('one');", last]
    return "\n".join(lines).encode()


OPTIONS = StagingOptions(max_part_bytes=6000, keep_dump=True)
SMALL = dump_of(2000)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_d1.staging.table_pipeline.DumpReader", partial(DumpReader, block_size=500))


@pytest.fixture(autouse=True)
def _no_thread_survives() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("d1-staging")] == []


class FaultyStorage(FolderStorage):
    """Fails at the n-th call of one of its methods."""

    def __init__(self, path: Path, method: str, call: int) -> None:
        super().__init__(path)
        whole: Callable[..., Any] = getattr(self, method)
        calls = iter(range(1_000_000))

        def faulty(*args: Any) -> Any:
            if next(calls) == call:
                raise ConnectionError(f"{method} {call}")
            return whole(*args)

        setattr(self, method, faulty)


def staged(dump: bytes, folder: Path, options: StagingOptions = OPTIONS) -> Manifest:
    return stage(io.BytesIO(dump), FolderStorage(folder), options, Source(database_name="shop"), temp_dir=folder.parent)


def assert_untouched(folder: Path, before: Manifest) -> None:
    assert parse_manifest((folder / MANIFEST_KEY).read_bytes()) == before
    assert_folder_is_what_the_manifest_lists(before, folder)


FAULTS = [
    ("put_file", 0),
    ("put_file", 1),
    ("put_file", 4),
    ("put_bytes", 0),
    ("put_stream", 0),
    ("fetch", 0),
    ("list", 0),
]


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(("method", "call"), FAULTS)
def test_a_store_that_fails(method: str, call: int, threads: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = staged(b"CREATE TABLE t(a);INSERT INTO t VALUES(1);", out)
    with pytest.raises(ConnectionError, match=f"{method} {call}"):
        stage(
            io.BytesIO(SMALL),
            FaultyStorage(out, method, call),
            OPTIONS,
            Source(database_name="shop"),
            temp_dir=tmp_path,
            parse_threads=threads,
        )
    assert_untouched(out, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize(("method", "call"), FAULTS)
def test_a_store_that_fails_on_the_first_run_leaves_no_folder(method: str, call: int, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        stage(io.BytesIO(SMALL), FaultyStorage(tmp_path / "out", method, call), OPTIONS, Source(), temp_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["open", "write"])
@pytest.mark.parametrize("file_format", ["parquet", "csv", "jsonl"])
def test_a_full_disk(file_format, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = staged(b"CREATE TABLE t(a);INSERT INTO t VALUES(1);", tmp_path / "out")
    module = {"parquet": "parquet.ParquetPart", "csv": "text_files.TextPart", "jsonl": "text_files.TextPart"}[
        file_format
    ]
    method = {"open": "__init__", "write": "add"}[where]

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"airflow_provider_d1.staging.{module}.{method}", full)
    with pytest.raises(OSError, match="No space left"):
        staged(SMALL, tmp_path / "out", StagingOptions(file_format=file_format))
    assert_untouched(tmp_path / "out", before)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("DROP TABLE t;", "DROP"),
        ('INSERT INTO "u" VALUES(1', "ends inside"),
        ("INSERT INTO nowhere VALUES(1);", "nowhere"),
        ("INSERT INTO u VALUES(load_extension('x'));", "u"),
        ("ATTACH 'x' AS y;", "ATTACH"),
    ],
)
def test_a_bad_dump(bad: str, words: str, threads: int, tmp_path: Path) -> None:
    before = staged(b"CREATE TABLE t(a);INSERT INTO t VALUES(1);", tmp_path / "out")
    dump = dump_of(300, last=bad)
    with pytest.raises(D1DumpError, match=words) as error:
        stage(io.BytesIO(dump), FolderStorage(tmp_path / "out"), OPTIONS, Source(), parse_threads=threads)
    assert error.value.offset is not None
    assert dump.index(bad.encode()) <= error.value.offset <= len(dump)
    assert_untouched(tmp_path / "out", before)


def test_of_two_errors_the_first_is_reported(tmp_path: Path) -> None:
    lines = ["CREATE TABLE t(a);", *["INSERT INTO t VALUES(1);"] * 200, "INSERT INTO t VALUES(bad());"]
    lines += ["INSERT INTO t VALUES(2);"] * 40 + ["DROP TABLE t;"]
    dump = "\n".join(lines).encode()
    with pytest.raises(D1DumpError) as error:
        staged(dump, tmp_path / "out")
    assert error.value.offset is not None
    assert error.value.offset < dump.index(b"VALUES(2)")


class Source_:  # noqa: N801 - a stream that fails or stops on the way
    def __init__(self, content: bytes, fail_at: int, error: BaseException) -> None:
        self._content, self._fail_at, self._error = io.BytesIO(content), fail_at, error

    def read(self, size: int, /) -> bytes:
        if self._content.tell() >= self._fail_at:
            raise self._error
        return self._content.read(min(size, 100))


@pytest.mark.parametrize("file_format", ["parquet", "csv", "sql"])
@pytest.mark.parametrize("error", [D1DownloadError("cut"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
@pytest.mark.parametrize("fail_at", [0, 5000])
def test_a_download_that_fails_or_is_interrupted(
    file_format, error: BaseException, fail_at: int, tmp_path: Path
) -> None:
    with pytest.raises(type(error)):
        stage(
            Source_(SMALL, fail_at, error),
            FolderStorage(tmp_path / "out"),
            StagingOptions(file_format=file_format, max_part_bytes=6000),
            Source(),
            temp_dir=tmp_path,
        )
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_the_others_are_still_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader is done, a large part is being stored: Ctrl-C must not wait for it."""
    begun, cancelled = threading.Event(), threading.Event()

    class Slow(FolderStorage):
        def put_file(self, key: str, path: Path) -> None:  # noqa: ARG002
            begun.set()
            assert cancelled.wait(30)
            raise D1StagingError("stopped")

        def cancel(self) -> None:
            cancelled.set()

    join = threading.Thread.join

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name.startswith("d1-staging") and not cancelled.is_set():
            assert begun.wait(30)
            raise KeyboardInterrupt
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stage(io.BytesIO(SMALL), Slow(tmp_path / "out"), StagingOptions(), Source(), temp_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage_name", ["parse_block", "TableRouter.handle", "PartStore.handle"])
def test_an_unexpected_exception_stops_all_threads(
    stage_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(1_000_000))
    owner = "airflow_provider_d1.staging.table_pipeline"
    import airflow_provider_d1.staging.table_pipeline as tables

    whole = tables
    for name in stage_name.split("."):
        whole = getattr(whole, name)

    def faulty(*args: Any) -> Any:
        if next(calls) == 3:
            raise ZeroDivisionError("a bug")
        return whole(*args)  # type: ignore[operator]

    monkeypatch.setattr(f"{owner}.{stage_name}", faulty)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        staged(SMALL, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            StagingOptions(on_type_conflict="fail"),
            D1TypeConflictError,
            "t.v: declared INTEGER, but holds 1 real number;",
        ),
        (StagingOptions(on_lossy="fail"), D1LossyExportError, "t.id: 1 integer of 2\\^53 and beyond"),
    ],
)
def test_on_lossy_and_on_type_conflict_fail(
    options: StagingOptions, error: type[Exception], words: str, tmp_path: Path
) -> None:
    dump = b"CREATE TABLE t(id INTEGER, v INTEGER);INSERT INTO t VALUES(9007199254740992,0.5);"
    with pytest.raises(error, match=words):
        staged(dump, tmp_path / "out", options)
    assert list(tmp_path.iterdir()) == []


def test_warnings_say_what_is_wrong_where(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dump = "CREATE TABLE orders(id INTEGER, note TEXT);" + "INSERT INTO orders VALUES(9007199254740993,'a\ufffd');" * 17
    staged(dump.encode(), tmp_path / "out", StagingOptions())
    (line,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert line == (
        "Table 'orders': D1's export may have altered values. id: 17 integers of 2^53 and beyond, which D1's export "
        "rounds; note: 17 texts with U+FFFD, which D1's export writes for bytes that are not UTF-8"
    )
    caplog.clear()
    staged(dump.encode(), tmp_path / "out", StagingOptions(on_lossy="ignore"))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_text_of_three_lines_is_a_suspicion_and_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dump = b"CREATE TABLE notes(body TEXT);INSERT INTO notes VALUES(replace('one\\ntwo\\nthree','\\n',char(10)));"
    manifest = staged(dump, tmp_path / "out", StagingOptions(on_lossy="fail"))
    assert manifest.tables[0].columns[0].lossy.ambiguous_newlines == 1
    staged(dump, tmp_path / "out", StagingOptions())
    (line,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("Table 'notes': D1's export may have altered values. body: 1 text of several lines")


def test_a_truncated_part_in_the_store_is_an_error(tmp_path: Path) -> None:
    class Truncating(FolderStorage):
        def put_file(self, key: str, path: Path) -> None:
            super().put_file(key, path)
            os.truncate(self.path / key, 10)

    with pytest.raises(D1StagingError, match=r"expected [0-9]+ bytes"):
        stage(io.BytesIO(SMALL), Truncating(tmp_path / "out"), StagingOptions(), Source())
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    first = staged(SMALL, tmp_path / "out")
    assert first.tables[1].files[0].uri.endswith(f"/out/{first.run}/u/part-00000.parquet")
    second = staged(dump_of(50, table="other"), tmp_path / "out")
    assert_true_to(dump_of(50, table="other"), second, tmp_path / "out")
    assert all(path_of(file).exists() for file in first.all_files)


def test_deleting_old_files_may_fail_once_the_manifest_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    staged(SMALL, tmp_path / "out")
    manifest = stage(
        io.BytesIO(SMALL), FaultyStorage(tmp_path / "out", "delete", 0), replace(OPTIONS, keep_runs=1), Source()
    )
    assert parse_manifest((tmp_path / "out" / MANIFEST_KEY).read_bytes()) == manifest
    assert any("could not be removed" in message for message in caplog.messages)


def tables(count: int) -> bytes:
    return "".join(f"CREATE TABLE t{n}(a);INSERT INTO t{n} VALUES({n});" for n in range(count)).encode()


def test_small_tables_are_stored_at_the_same_time(tmp_path: Path) -> None:
    """Each waits until others are being stored too: one after the other they would never be."""
    together = threading.Barrier(8)

    class Waiting(FolderStorage):
        def put_file(self, key: str, path: Path) -> None:
            together.wait(60)
            super().put_file(key, path)

    dump = tables(64)
    manifest = stage(io.BytesIO(dump), Waiting(tmp_path / "out"), StagingOptions(), Source(), temp_dir=tmp_path)
    assert_true_to(dump, manifest, tmp_path / "out")


def test_parts_that_wait_to_be_stored_are_few(tmp_path: Path) -> None:
    peak = 0

    class Watching(FolderStorage):
        def put_file(self, key: str, path: Path) -> None:
            nonlocal peak
            peak = max(peak, sum(1 for file in path.parent.iterdir() if file.name.startswith("part-")))
            super().put_file(key, path)

    stage(io.BytesIO(tables(300)), Watching(tmp_path / "out"), StagingOptions(), Source(), temp_dir=tmp_path)
    # those that are stored or wait for it, those on their way to the storing thread, and those being written
    assert peak <= MAX_PENDING_UPLOADS + 32 + 4


def test_parts_bound_for_a_cast_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late change of type casts every part: they are stored and fetched back one by one, the disk stays small."""
    for module in ("part_store.SMALL_PART_BYTES", "table_pipeline._LIGHT_PART_BYTES"):
        monkeypatch.setattr(f"airflow_provider_d1.staging.{module}", 0)  # as for parts of 256 MiB
    peak = 0
    work = tmp_path / "work"
    work.mkdir()

    class Watching(FolderStorage):
        def put_file(self, key: str, path: Path) -> None:
            nonlocal peak
            peak = max(peak, sum(1 for file in work.rglob("*") if file.is_file()))
            super().put_file(key, path)

    rows = [f"INSERT INTO t VALUES({n},'{n:0200}');" for n in range(3000)]
    dump = "\n".join(["CREATE TABLE t(a INTEGER, pad TEXT);", *rows, "INSERT INTO t VALUES('text','');"]).encode()
    options = StagingOptions(max_part_bytes=12_000)
    manifest = stage(io.BytesIO(dump), Watching(tmp_path / "out"), options, Source(), temp_dir=work)
    assert len(manifest.tables[0].files) > 20
    assert_true_to(dump, manifest, tmp_path / "out")
    assert peak <= 6
