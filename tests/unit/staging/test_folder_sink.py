"""The local folder as a sink: whole files or none, nothing outside, nothing left over."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest

from airflow_provider_d1.exceptions import D1StagingError
from airflow_provider_d1.staging.run import StagingRun
from airflow_provider_d1.staging.sinks import FolderSink


class Failing(io.RawIOBase):
    """A stream that breaks after a mebibyte."""

    def __init__(self) -> None:
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer, /) -> int:
        if self._given > 1 << 20:
            raise ConnectionError("cut")
        self._given += len(buffer)
        return len(buffer)


def test_files_appear_under_their_keys_and_are_listed(tmp_path: Path) -> None:
    sink = FolderSink(tmp_path / "out")
    (tmp_path / "part").write_bytes(b"abc")
    sink.put_file("users/part-00000.parquet", tmp_path / "part")
    assert sink.put_stream("shop.sql", io.BufferedReader(io.BytesIO(b"x" * 3_000_000))) == 3_000_000
    sink.put_bytes("_manifest.json", b"{}")
    assert sink.list() == {"users/part-00000.parquet": 3, "shop.sql": 3_000_000, "_manifest.json": 2}
    assert sink.read_bytes("_manifest.json") == b"{}"
    assert sink.read_bytes("users/none") is None
    assert sink.read_bytes("shop.sql/none") is None
    sink.fetch("users/part-00000.parquet", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"abc"
    assert sink.uri("users/part-00000.parquet") == (tmp_path / "out/users/part-00000.parquet").as_uri()


def test_a_uri_holds_what_a_path_cannot(tmp_path: Path) -> None:
    assert FolderSink(tmp_path / "a b#c%").uri("k").endswith("/a%20b%23c%25/k")


def test_a_relative_folder_has_absolute_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert FolderSink("out").uri("k") == (tmp_path / "out" / "k").as_uri()


def test_another_file_system_is_copied_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "part").write_bytes(b"abc")
    whole = Path.replace

    def across(self: Path, target: Path) -> Path:
        if self.name == "part":
            raise OSError(18, "Invalid cross-device link")
        return whole(self, target)

    monkeypatch.setattr(Path, "replace", across)
    sink = FolderSink(tmp_path / "out")
    sink.put_file("t/p", tmp_path / "part")
    assert (tmp_path / "out/t/p").read_bytes() == b"abc"


def test_a_stream_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    sink = FolderSink(tmp_path / "out")
    with pytest.raises(ConnectionError):
        sink.put_stream("t/p", io.BufferedReader(Failing()))
    assert list(tmp_path.iterdir()) == []


def test_a_put_that_breaks_keeps_what_stood_there(tmp_path: Path) -> None:
    sink = FolderSink(tmp_path)
    sink.put_bytes("k", b"old")
    with pytest.raises(ConnectionError):
        sink.put_stream("k", io.BufferedReader(Failing()))
    assert sink.read_bytes("k") == b"old"
    assert sink.list() == {"k": 3}


@pytest.mark.parametrize("key", ["", "../x", "a/../../x", "/etc/x", ".."])
def test_there_is_no_way_out(key: str, tmp_path: Path) -> None:
    sink = FolderSink(tmp_path / "out")
    for attempt in (lambda: sink.put_bytes(key, b""), lambda: sink.uri(key), lambda: sink.delete([key])):
        with pytest.raises(D1StagingError, match="inside"):
            attempt()


def test_deleting_prunes_its_own_folders_only(tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    sink = FolderSink(tmp_path)
    sink.put_bytes("users/a", b"")
    sink.put_bytes("users/b", b"")
    sink.delete(["users/a", "never/was"])
    assert sink.list() == {"users/b": 0}
    sink.delete(["users/b"])
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.exists(), "a folder that was there before the sink stays"


def test_links_and_deeper_folders_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "part-00000.parquet").write_text("x")
    out = tmp_path / "out"
    (out / "t" / "deep").mkdir(parents=True)
    (out / "t" / "deep" / "part-00000.parquet").write_text("x")
    (out / "link").symlink_to(tmp_path / "elsewhere")
    (out / "file").symlink_to(tmp_path / "elsewhere" / "part-00000.parquet")
    assert FolderSink(out).list() == {}


def test_leftovers_are_known_by_their_prefix(tmp_path: Path) -> None:
    (tmp_path / ".d1-staging-1").write_text("x")
    (tmp_path / ".d1-staging-2").mkdir()
    (tmp_path / ".d1-staging-2" / "part-0").write_text("x")
    (tmp_path / ".other").write_text("x")
    sink = FolderSink(tmp_path)
    assert sink.list() == {".other": 1}
    sink.discard_unfinished(str.isspace)
    assert [path.name for path in tmp_path.iterdir()] == [".other"]


def test_a_cancelled_sink_takes_nothing_more(tmp_path: Path) -> None:
    sink = FolderSink(tmp_path / "out")
    sink.cancel()
    with pytest.raises(D1StagingError, match="stopped"):
        sink.put_bytes("k", b"x")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_removed_from_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    monkeypatch.setattr(Path, "open", read_only)
    run = StagingRun(FolderSink(tmp_path), replace=True)
    with pytest.raises(OSError, match="Read-only"):
        run.begin()
    run.rollback()
    assert caplog.records == []
