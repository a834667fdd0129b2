from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_d1.cloudflare.models import ExportOptions
from airflow_provider_d1.emulator.bucket import Bucket
from airflow_provider_d1.emulator.databases import LocalDatabase
from airflow_provider_d1.emulator.dump_writer import VIRTUAL_TABLE_ERROR
from airflow_provider_d1.emulator.jobs import DumpThread

if TYPE_CHECKING:
    import apsw

CORPUS = Path(__file__).parents[2] / "data" / "corpus"


class HeldDatabase(LocalDatabase):
    """Its dump does not begin before it is let go."""

    def __init__(self, path: Path, seed: Path | str) -> None:
        super().__init__(path, "db", "db", seed)
        self.go = threading.Event()

    @contextmanager
    def reader(self) -> Iterator[apsw.Connection]:
        assert self.go.wait(60)
        with super().reader() as connection:
            yield connection


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    folder = tmp_path / "bucket"
    folder.mkdir()
    return Bucket(folder)


def written(
    tmp_path: Path, bucket: Bucket, seed: Path | str, *, cancel: bool = False, strict: bool = False
) -> DumpThread:
    database = HeldDatabase(tmp_path / "db.sqlite", seed)
    tables = ("docs",) if strict else None
    thread = DumpThread(database, ExportOptions(tables), bucket, "key.sql", no_virtual_tables=strict, old_newlines=True)
    assert not thread.finished
    if cancel:
        thread.cancel()
    database.go.set()
    thread.join()
    database.close()
    assert thread.finished
    return thread


def test_a_dump_becomes_an_object(tmp_path: Path, bucket: Bucket) -> None:
    assert written(tmp_path, bucket, CORPUS / "nasty.json").error is None
    found = bucket.get("key.sql")
    assert found is not None
    content = (CORPUS / "nasty_full.sql").read_bytes()
    assert found.path.read_bytes() == content
    assert (found.size, found.etag) == (len(content), hashlib.md5(content).hexdigest())


def test_a_cancelled_dump_is_not_stored(tmp_path: Path, bucket: Bucket) -> None:
    assert written(tmp_path, bucket, "CREATE TABLE t(a)", cancel=True).error is None
    assert bucket.get("key.sql") is None
    assert list((tmp_path / "bucket").iterdir()) == []


@pytest.mark.parametrize("strict", [False, True])
def test_a_failed_dump_leaves_nothing_but_its_error(tmp_path: Path, bucket: Bucket, strict: bool) -> None:
    assert written(tmp_path, bucket, CORPUS / "fts.json", strict=strict).error == VIRTUAL_TABLE_ERROR
    assert bucket.get("key.sql") is None
    assert list((tmp_path / "bucket").iterdir()) == []


def test_a_ready_dump_is_not_copied(tmp_path: Path, bucket: Bucket) -> None:
    ready = tmp_path / "ready.sql"
    ready.write_bytes(b"dump")
    bucket.put("a", ready)
    found = bucket.get("a")
    assert found is not None
    assert (found.path, found.size) == (ready, 4)
    ready.write_bytes(b"another dump")
    bucket.put("b", ready)
    other = bucket.get("b")
    assert other is not None
    assert other.etag != found.etag
