"""A local folder as a storage: whole files or none, nothing outside, nothing left over."""

from __future__ import annotations

import errno
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airflow_provider_d1.exceptions import D1StagingError
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.stage import stage
from airflow_provider_d1.storage.folder import FolderStorage


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
    storage = FolderStorage(tmp_path / "out")
    (tmp_path / "part").write_bytes(b"abc")
    storage.put_file("users/part-00000.parquet", tmp_path / "part")
    assert storage.put_stream("shop.sql", io.BufferedReader(io.BytesIO(b"x" * 3_000_000))) == 3_000_000
    storage.put_bytes("_manifest.json", b"{}")
    assert storage.list() == {"users/part-00000.parquet": 3, "shop.sql": 3_000_000, "_manifest.json": 2}
    assert storage.read_bytes("_manifest.json") == b"{}"
    assert storage.read_bytes("users/none") is None
    assert storage.read_bytes("shop.sql/none") is None
    storage.fetch("users/part-00000.parquet", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"abc"
    assert storage.uri("users/part-00000.parquet") == (tmp_path / "out/users/part-00000.parquet").as_uri()


def test_a_uri_is_percent_encoded(tmp_path: Path) -> None:
    assert FolderStorage(tmp_path / "a b#c%").uri("k").endswith("/a%20b%23c%25/k")


def test_a_relative_folder_has_absolute_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert FolderStorage("out").uri("k") == (tmp_path / "out" / "k").as_uri()


def test_another_file_system_is_copied_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "part").write_bytes(b"abc")
    whole = Path.replace

    def across(self: Path, target: Path) -> Path:
        if self.name == "part":
            raise OSError(18, "Invalid cross-device link")
        return whole(self, target)

    monkeypatch.setattr(Path, "replace", across)
    storage = FolderStorage(tmp_path / "out")
    storage.put_file("t/p", tmp_path / "part")
    assert (tmp_path / "out/t/p").read_bytes() == b"abc"


def test_a_failing_stream_leaves_no_file(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "out")
    with pytest.raises(ConnectionError):
        storage.put_stream("t/p", io.BufferedReader(Failing()))
    assert list(tmp_path.iterdir()) == []


def test_a_put_that_breaks_keeps_what_stood_there(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    storage.put_bytes("k", b"old")
    with pytest.raises(ConnectionError):
        storage.put_stream("k", io.BufferedReader(Failing()))
    assert storage.read_bytes("k") == b"old"
    assert storage.list() == {"k": 3}


@pytest.mark.parametrize("key", ["", "../x", "a/../../x", "/etc/x", ".."])
def test_keys_cannot_leave_the_folder(key: str, tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "out")
    for attempt in (lambda: storage.put_bytes(key, b""), lambda: storage.uri(key), lambda: storage.delete([key])):
        with pytest.raises(D1StagingError, match="inside"):
            attempt()


def test_deleting_prunes_its_own_folders_only(tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    storage = FolderStorage(tmp_path)
    storage.put_bytes("users/a", b"")
    storage.put_bytes("users/b", b"")
    storage.delete(["users/a", "never/was"])
    assert storage.list() == {"users/b": 0}
    storage.delete(["users/b"])
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.exists(), "a folder that was there before the storage stays"


def test_links_are_not_listed_and_deeper_folders_are(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "part-00000.parquet").write_text("x")
    out = tmp_path / "out"
    (out / "run" / "t").mkdir(parents=True)
    (out / "run" / "t" / "part-00000.parquet").write_text("x")
    (out / "link").symlink_to(tmp_path / "elsewhere")
    (out / "file").symlink_to(tmp_path / "elsewhere" / "part-00000.parquet")
    storage = FolderStorage(out)
    assert storage.list() == {"run/t/part-00000.parquet": 1}
    assert storage.list("run") == {"run/t/part-00000.parquet": 1}
    assert storage.list("link") == storage.list("none") == {}
    assert storage.folders() == ["run"]


def test_only_files_below_the_folder_have_a_key(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for folder in (out, elsewhere):
        folder.mkdir()
        (folder / "a b").write_text("x")
    (out / "link").symlink_to(elsewhere)
    (tmp_path / "same").symlink_to(out)
    storage = FolderStorage(out)
    assert storage.key((out / "a b").as_uri()) == "a b"
    assert storage.key((tmp_path / "same" / "a b").as_uri()) == "a b"
    outside = ["file:///etc/passwd", (elsewhere / "a b").as_uri(), f"{out.as_uri()}/../elsewhere/a%20b", "s3://b/k"]
    outside += [(out / "link" / "a b").as_uri(), f"{out.as_uri()}/%2e%2e/elsewhere/a%20b", "file://other/etc/passwd"]
    assert [storage.key(uri) for uri in outside] == [None] * len(outside)


def test_a_file_is_replaced_only_if_it_is_what_was_read(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "out")
    assert not storage.replace("k", b"1", expected=b"0")
    assert storage.replace("k", b"1", expected=None)
    assert not storage.replace("k", b"2", expected=None)
    assert storage.replace("k", b"2", expected=b"1")
    assert storage.read_bytes("k") == b"2"


def test_of_many_concurrent_replacements_one_succeeds(tmp_path: Path) -> None:
    FolderStorage(tmp_path).put_bytes("k", b"0")
    for number in range(50):
        before = FolderStorage(tmp_path).read_bytes("k")
        with ThreadPoolExecutor(4) as pool:
            done = [
                pool.submit(FolderStorage(tmp_path).replace, "k", f"{number} {n}".encode(), expected=before)
                for n in range(4)
            ]
        assert [future.result() for future in done].count(True) == 1


def test_unfinished_files_are_those_of_the_runs_that_are_named(tmp_path: Path) -> None:
    for name in ("mine/.d1-staging-1", "other/.d1-staging-2", "mine/part", ".d1-staging-new", ".d1-staging-old"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "empty").mkdir()
    os.utime(tmp_path / ".d1-staging-old", (0, 0))
    storage = FolderStorage(tmp_path)
    assert storage.list() == {"mine/part": 1}
    storage.discard_unfinished(lambda key: key.startswith("mine/"))
    left = {".d1-staging-new", "other/.d1-staging-2", "mine/part", "empty", "mine", "other"}
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == left


def test_a_cancelled_storage_refuses_writes(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "out")
    storage.cancel()
    with pytest.raises(D1StagingError, match="stopped"):
        storage.put_bytes("k", b"x")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_removed_from_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    dump = io.BytesIO(b"CREATE TABLE t(a);")
    monkeypatch.setattr(Path, "unlink", read_only)
    monkeypatch.setattr(Path, "open", read_only)
    with pytest.raises(OSError, match="Read-only"):
        stage(dump, FolderStorage(tmp_path), StagingOptions(file_format="sql"), Source())
    assert caplog.records == []


def test_a_folder_that_can_be_written_or_made_is_left_as_it_was(tmp_path: Path) -> None:
    FolderStorage(tmp_path).check_writable()
    FolderStorage(tmp_path / "new" / "folder").check_writable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["/sys/d1", "{}/file/below"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(D1StagingError, match="cannot write to file://") as raised:
        FolderStorage(place.format(tmp_path)).check_writable()
    assert not raised.value.retryable
