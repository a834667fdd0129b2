"""The command line's output folder: one run, and the one before it until the new one is complete."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from airflow_provider_d1.exceptions import D1DumpError, D1StagingError
from airflow_provider_d1.staging.manifest import MANIFEST_KEY, Manifest, parse_manifest
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.stage import stage_into_folder
from airflow_provider_d1.storage.folder import FolderStorage
from tests.unit.staging.staged_files import assert_folder_is_what_the_manifest_lists
from tests.unit.staging.staged_pairs import dump_of


def staged(folder: Path, dump: bytes, **options: object) -> Manifest:
    chosen = StagingOptions(**{"file_format": "csv", **options})
    return stage_into_folder(io.BytesIO(dump), FolderStorage(folder), chosen, Source(), parse_threads=0)


def test_a_run_replaces_the_one_before(tmp_path: Path) -> None:
    for dump in (dump_of("one"), dump_of("two").replace(b"users", b"people"), dump_of("three")):
        manifest = staged(tmp_path / "out", dump)
        assert parse_manifest((tmp_path / "out" / MANIFEST_KEY).read_bytes()) == manifest
        assert_folder_is_what_the_manifest_lists(manifest, tmp_path / "out")
    assert manifest.tables[0].files[0].uri == (tmp_path / "out" / "users" / "part-00000.csv.gz").as_uri()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_earlier_staging_is_kept_until_the_new_one_is_complete(tmp_path: Path) -> None:
    before = staged(tmp_path, dump_of("one"))
    with pytest.raises(D1DumpError):
        staged(tmp_path, dump_of("two") + b"DROP TABLE users;")
    assert parse_manifest((tmp_path / MANIFEST_KEY).read_bytes()) == before
    assert_folder_is_what_the_manifest_lists(before, tmp_path)


@pytest.mark.parametrize("used", [False, True])
def test_a_foreign_file_is_not_overwritten(used: bool, tmp_path: Path) -> None:
    if used:
        staged(tmp_path, dump_of("one"))
    foreign = tmp_path / "people" / "part-00000.csv.gz"
    foreign.parent.mkdir()
    foreign.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(D1StagingError, match=r"people/part-00000.csv.gz exists and is not part of an earlier staging"):
        staged(tmp_path, dump_of("two").replace(b"users", b"people"))
    assert sorted(tmp_path.rglob("*")) == before
    assert foreign.read_text() == "mine"
    staged(tmp_path, dump_of("three"))
    assert foreign.read_text() == "mine"


def test_replace_false_refuses_a_manifest(tmp_path: Path) -> None:
    staged(tmp_path, dump_of("one"))
    dump = io.BytesIO(dump_of("two"))
    with pytest.raises(D1StagingError, match="replace=False"):
        stage_into_folder(dump, FolderStorage(tmp_path), StagingOptions(replace=False), Source())
    assert dump.tell() == 0


def test_no_reader_finds_a_manifest_whose_files_are_not_there(tmp_path: Path) -> None:
    def is_whole() -> bool:
        content = FolderStorage(tmp_path).read_bytes(MANIFEST_KEY)
        storage = FolderStorage(tmp_path)
        files = parse_manifest(content).all_files if content else ()
        return all(storage.size(storage.key(file.uri) or "") == file.bytes for file in files)

    class Watched(FolderStorage):
        def put_file(self, key: str, path: Path) -> None:
            assert is_whole(), key
            super().put_file(key, path)
            assert is_whole(), key

    for text in ("one", "two is longer than one"):
        options = StagingOptions(file_format="csv")
        stage_into_folder(io.BytesIO(dump_of(text)), Watched(tmp_path), options, Source(), parse_threads=0)
        assert is_whole()
