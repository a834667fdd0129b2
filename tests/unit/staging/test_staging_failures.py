"""Whatever fails, wherever: nothing of the run is left, an older run stays whole, no thread survives."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_d1.dump.reader import DumpReader
from airflow_provider_d1.exceptions import (
    D1ConfigurationError,
    D1DownloadError,
    D1DumpError,
    D1FidelityError,
    D1StagingError,
    D1TypeConflictError,
)
from airflow_provider_d1.staging.manifest import MANIFEST_KEY, Manifest, Source, load
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.pipeline import stage
from airflow_provider_d1.staging.sinks import FolderSink
from tests.unit.staging.staged_files import assert_folder_is_what_the_manifest_lists, assert_true_to


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
    monkeypatch.setattr("airflow_provider_d1.staging.tables.DumpReader", partial(DumpReader, block_size=500))


@pytest.fixture(autouse=True)
def _no_thread_survives() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("d1-staging")] == []


class FaultySink(FolderSink):
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
    return stage(io.BytesIO(dump), FolderSink(folder), options, Source(database_name="shop"), temp_dir=folder.parent)


def assert_untouched(folder: Path, before: Manifest) -> None:
    assert load((folder / MANIFEST_KEY).read_bytes()) == before
    assert_folder_is_what_the_manifest_lists(before, folder)


FAULTS = [
    ("put_file", 0),
    ("put_file", 1),
    ("put_file", 4),
    ("put_bytes", 0),
    ("put_stream", 0),
    ("fetch", 0),
    ("list", 1),
]


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(("method", "call"), FAULTS)
def test_a_store_that_fails(method: str, call: int, threads: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = staged(b"CREATE TABLE t(a);INSERT INTO t VALUES(1);", out)
    with pytest.raises(ConnectionError, match=f"{method} {call}"):
        stage(
            io.BytesIO(SMALL),
            FaultySink(out, method, call),
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
        stage(io.BytesIO(SMALL), FaultySink(tmp_path / "out", method, call), OPTIONS, Source(), temp_dir=tmp_path)
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
        stage(io.BytesIO(dump), FolderSink(tmp_path / "out"), OPTIONS, Source(), parse_threads=threads)
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
            FolderSink(tmp_path / "out"),
            StagingOptions(file_format=file_format, max_part_bytes=6000),
            Source(),
            temp_dir=tmp_path,
        )
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_the_others_are_still_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader is done, a large part is being stored: Ctrl-C must not wait for it."""
    begun, cancelled = threading.Event(), threading.Event()

    class Slow(FolderSink):
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
def test_a_fault_of_our_own_stops_everything(stage_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(1_000_000))
    owner = "airflow_provider_d1.staging.tables"
    import airflow_provider_d1.staging.tables as tables

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
        (StagingOptions(on_lossy="fail"), D1FidelityError, "t.id: 1 integer beyond 2\\^53; D1's export rounds them"),
    ],
)
def test_told_to_fail(options: StagingOptions, error: type[Exception], words: str, tmp_path: Path) -> None:
    dump = b"CREATE TABLE t(id INTEGER, v INTEGER);INSERT INTO t VALUES(9007199254740992,0.5);"
    with pytest.raises(error, match=words):
        staged(dump, tmp_path / "out", options)
    assert list(tmp_path.iterdir()) == []


def test_warnings_say_what_is_wrong_where(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dump = "CREATE TABLE orders(id INTEGER, note TEXT);" + "INSERT INTO orders VALUES(9007199254740993,'a\ufffd');" * 17
    staged(dump.encode(), tmp_path / "out", StagingOptions())
    assert "orders.id: 17 integers beyond 2^53; D1's export rounds them" in caplog.messages
    assert any(line.startswith("orders.note: 17 texts with U+FFFD") for line in caplog.messages)
    caplog.clear()
    staged(dump.encode(), tmp_path / "out", StagingOptions(on_lossy="ignore"))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("ddl", "options", "words"),
    [
        (
            "CREATE TABLE t(_loaded_at TEXT)",
            StagingOptions(audit_columns=True),
            "'t' already has a column '_loaded_at'",
        ),
        ("CREATE TABLE t(OrderId, order_id)", StagingOptions(column_names="snake_case"), "'OrderId' and 'order_id'"),
    ],
)
def test_column_names_that_collide(ddl: str, options: StagingOptions, words: str, tmp_path: Path) -> None:
    with pytest.raises(D1ConfigurationError, match=words):
        staged(f"{ddl};".encode(), tmp_path / "out", options)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_shrinks_in_the_store_is_found_out(tmp_path: Path) -> None:
    class Truncating(FolderSink):
        def put_file(self, key: str, path: Path) -> None:
            super().put_file(key, path)
            os.truncate(self.path / key, 10)

    with pytest.raises(D1StagingError, match="should have"):
        stage(io.BytesIO(SMALL), Truncating(tmp_path / "out"), StagingOptions(), Source())
    assert list(tmp_path.iterdir()) == []


MINE = {
    "readme.txt",
    "t/notes.md",
    "t/part-1.parquet",
    "other/deep/part-00000.parquet",
    "shop-20261122.sql",
    "my.sql.zst",
}


def scatter(folder: Path, names: set[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def assert_only_mine_besides(manifest: Manifest, folder: Path, mine: set[str]) -> None:
    for name in mine:
        (folder / name).unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not list(path.iterdir()):
            path.rmdir()
    assert_folder_is_what_the_manifest_lists(manifest, folder)


def test_what_a_killed_run_left_beside_an_older_one_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = staged(SMALL, out)
    scatter(out, MINE | {"t/part-00007-d1x0a1b2c3d.parquet", "gone/part-00000-d1x0a1b2c3d.csv.gz"})
    scatter(out, {"shop-d1x0a1b2c3d.sql.zst", "t/part-00099.jsonl.gz", ".d1-staging-x", ".d1-staging-y/part-0"})
    scatter(out, {"stranger/part-00000.parquet"})
    second = staged(SMALL, out)
    assert {file.uri for file in first.all_files}.isdisjoint(file.uri for file in second.all_files)
    assert_only_mine_besides(second, out, MINE | {"stranger/part-00000.parquet"})


@pytest.mark.parametrize("file_format", ["parquet", "sql"])
def test_what_a_killed_first_run_left_is_removed(file_format, tmp_path: Path) -> None:
    """SIGKILL, played by a run that may not clean up."""

    class Killed(FolderSink):
        def put_bytes(self, key: str, data: bytes) -> None:
            if key == MANIFEST_KEY:
                raise ConnectionError
            super().put_bytes(key, data)

        def delete(self, keys: object) -> None:
            pass

    out = tmp_path / "out"
    options = StagingOptions(file_format=file_format, max_part_bytes=6000, keep_dump=True)
    with pytest.raises(ConnectionError):
        stage(io.BytesIO(SMALL), Killed(out), options, Source(database_name="shop"))
    left = [path for path in out.rglob("*") if path.is_file()]
    assert len(left) > 1
    scatter(out, MINE)
    manifest = staged(SMALL, out)
    assert_only_mine_besides(manifest, out, MINE)


def test_files_of_others_in_a_fresh_prefix_stay(tmp_path: Path) -> None:
    scatter(tmp_path, MINE | {"t/part-00000.parquet", "shop.sql.zst"})
    manifest = staged(SMALL, tmp_path)
    assert_only_mine_besides(manifest, tmp_path, MINE | {"t/part-00000.parquet", "shop.sql.zst"})


def test_a_first_run_has_plain_names_and_a_second_replaces_them(tmp_path: Path) -> None:
    first = staged(SMALL, tmp_path / "out")
    assert first.tables[1].files[0].uri.endswith("/u/part-00000.parquet")
    second = staged(dump_of(50, table="other"), tmp_path / "out")
    assert_true_to(dump_of(50, table="other"), second, tmp_path / "out")
    with pytest.raises(D1StagingError, match="replace is False"):
        staged(SMALL, tmp_path / "out", StagingOptions(replace=False))
    assert_untouched(tmp_path / "out", second)


def test_deleting_old_files_may_fail_once_the_manifest_stands(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    staged(SMALL, tmp_path / "out")
    manifest = stage(io.BytesIO(SMALL), FaultySink(tmp_path / "out", "delete", 0), OPTIONS, Source())
    assert load((tmp_path / "out" / MANIFEST_KEY).read_bytes()) == manifest
    assert any("could not be removed" in message for message in caplog.messages)


def test_a_broken_old_manifest_is_replaced(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_KEY).write_text("not json")
    manifest = stage(io.BytesIO(SMALL), FolderSink(tmp_path), OPTIONS, Source())
    assert_true_to(SMALL, manifest, tmp_path)


def test_parts_bound_for_a_cast_do_not_pile_up(tmp_path: Path) -> None:
    """A late change of type casts every part: they are stored and fetched back one by one, the disk stays small."""
    peak = 0
    work = tmp_path / "work"
    work.mkdir()

    class Watching(FolderSink):
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
