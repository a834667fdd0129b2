"""A prefix: the newest complete run is current, older ones go, and another database's runs are refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from airflow_provider_d1.exceptions import D1ConfigurationError, D1DumpError, D1StagingError
from airflow_provider_d1.staging.manifest import MANIFEST_KEY, Manifest, parse_manifest
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.stage import stage
from airflow_provider_d1.staging.staging_run import new_run_id
from airflow_provider_d1.storage.folder import FolderStorage
from tests.unit.staging.staged_pairs import SOURCE, assert_whole, dump_of, stage_text

BLOG = Source(database_id="d-2", database_name="blog")
LONG_AGO = "20200101T000000Z-0a1b2c"


def options(**changes: object) -> StagingOptions:
    return StagingOptions(**{"file_format": "csv", **changes})


def runs_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def current(folder: Path) -> Manifest:
    return parse_manifest((folder / MANIFEST_KEY).read_bytes())


@pytest.mark.parametrize(("keep_runs", "left"), [(1, 1), (2, 2), (3, 3), (None, 5)])
def test_so_many_runs_stay(keep_runs: int | None, left: int, tmp_path: Path) -> None:
    manifests = [stage_text(FolderStorage(tmp_path), f"{n}", options(keep_runs=keep_runs)) for n in range(5)]
    assert runs_in(tmp_path) == {manifest.run for manifest in manifests[-left:]}
    assert current(tmp_path) == manifests[-1]
    for manifest in manifests[-left:]:
        assert_whole(FolderStorage(tmp_path), manifest)
        assert parse_manifest((tmp_path / str(manifest.run) / MANIFEST_KEY).read_bytes()) == manifest


def test_the_manifest_at_the_prefix_is_a_copy_of_the_runs_own(tmp_path: Path) -> None:
    run = stage_text(FolderStorage(tmp_path), "x").run
    assert (tmp_path / MANIFEST_KEY).read_bytes() == (tmp_path / str(run) / MANIFEST_KEY).read_bytes()


def test_another_databases_prefix_is_refused_before_anything_is_read_or_written(tmp_path: Path) -> None:
    before = stage_text(FolderStorage(tmp_path), "x")
    dump = io.BytesIO(dump_of("y"))
    with pytest.raises(D1ConfigurationError, match=r"'shop' \(d-1\).*'blog' \(d-2\).*replace=\"any\"") as refused:
        stage(dump, FolderStorage(tmp_path), options(), BLOG)
    assert not refused.value.retryable
    assert dump.tell() == 0
    assert current(tmp_path) == before
    assert runs_in(tmp_path) == {before.run}


def test_another_databases_prefix_can_be_replaced_on_purpose(tmp_path: Path) -> None:
    stage_text(FolderStorage(tmp_path), "x")
    blog = stage_text(FolderStorage(tmp_path), "y", options(replace="any"), BLOG)
    assert current(tmp_path) == blog


def test_another_database_that_comes_first_while_this_one_is_staged_is_refused(tmp_path: Path) -> None:
    class Overtaken(FolderStorage):
        def put_bytes(self, key: str, data: bytes) -> None:
            super().put_bytes(key, data)
            if key.endswith(MANIFEST_KEY) and not (self.path / MANIFEST_KEY).exists():
                stage_text(FolderStorage(self.path), "y", source=BLOG)

    with pytest.raises(D1ConfigurationError, match="blog"):
        stage_text(Overtaken(tmp_path), "x")
    assert current(tmp_path).source == BLOG
    assert runs_in(tmp_path) == {current(tmp_path).run}


@pytest.mark.parametrize(
    ("there", "here"),
    [
        (Source(database_id="d-1", database_name="old name"), SOURCE),
        (Source(), SOURCE),
        (SOURCE, Source()),
        (Source(database_name="shop"), SOURCE),
    ],
    ids=["renamed", "unknown there", "unknown here", "the name is all that is known"],
)
def test_what_may_be_the_same_database_is_not_refused(there: Source, here: Source, tmp_path: Path) -> None:
    stage_text(FolderStorage(tmp_path), "x", source=there)
    after = stage_text(FolderStorage(tmp_path), "y", source=here)
    assert current(tmp_path) == after


def test_replace_false_refuses_any_manifest(tmp_path: Path) -> None:
    before = stage_text(FolderStorage(tmp_path), "x")
    with pytest.raises(D1StagingError, match="replace=False") as refused:
        stage_text(FolderStorage(tmp_path), "y", options(replace=False))
    assert not refused.value.retryable
    assert current(tmp_path) == before


def leave_unfinished_run(folder: Path, run: str) -> Path:
    part = folder / run / "users" / "part-00000.csv.gz"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half a")
    (folder / run / ".d1-staging-0123").write_bytes(b"half")
    return part


@pytest.mark.parametrize("fails", [False, True], ids=["next run commits", "next run fails"])
def test_a_killed_run_is_removed_by_its_own_retry(fails: bool, tmp_path: Path) -> None:
    mine = leave_unfinished_run(tmp_path, f"20260101T000000Z-{new_run_id('dag/task')[-6:]}")
    recent = leave_unfinished_run(tmp_path, new_run_id())
    dump = dump_of("x") + (b"DROP TABLE users;" if fails else b"")
    try:
        stage(io.BytesIO(dump), FolderStorage(tmp_path), options(), SOURCE, owner="dag/task")
    except D1DumpError:
        assert fails
    assert not mine.exists()
    assert not mine.parents[1].exists()
    assert recent.exists(), "another run that may be alive is left alone"
    assert (recent.parents[1] / ".d1-staging-0123").exists()


@pytest.mark.parametrize("keep_runs", [2, None])
def test_a_killed_run_is_removed_by_any_run_after_a_day(keep_runs: int | None, tmp_path: Path) -> None:
    old, recent = leave_unfinished_run(tmp_path, LONG_AGO), leave_unfinished_run(tmp_path, new_run_id())
    stage_text(FolderStorage(tmp_path), "x", options(keep_runs=keep_runs))
    assert not old.parents[1].exists()
    assert recent.exists()


MINE = ("readme.txt", "users/part-00000.csv.gz", "2026/x/part-00000.csv.gz", "_unfinished.json")


def test_files_of_others_stay(tmp_path: Path) -> None:
    for name in MINE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    for text in "abc":
        stage_text(FolderStorage(tmp_path), text)
    assert all((tmp_path / name).exists() for name in MINE)


def test_a_run_of_version_1_is_replaced_with_its_files(tmp_path: Path) -> None:
    part = tmp_path / "users" / "part-00000.csv.gz"
    part.parent.mkdir()
    part.write_bytes(b"x")
    data = stage_text(FolderStorage(tmp_path / "new"), "x").to_dict()
    del data["run"], data["extract"]
    data["version"] = 1
    data["tables"][0]["files"][0]["uri"] = part.as_uri()
    (tmp_path / MANIFEST_KEY).write_text(json.dumps(data))
    other = tmp_path / "users" / "mine.txt"
    other.write_text("x")
    manifest = stage_text(FolderStorage(tmp_path), "y")
    assert current(tmp_path) == manifest
    assert not part.exists()
    assert other.exists()


def test_a_manifest_that_cannot_be_read_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / MANIFEST_KEY).write_text("not json")
    manifest = stage_text(FolderStorage(tmp_path), "x")
    assert current(tmp_path) == manifest
    assert any("is malformed and will be replaced" in message for message in caplog.messages)


CLEAN_UP = ["folders", "discard_unfinished"]


@pytest.mark.parametrize("forbidden", [*CLEAN_UP, "delete"])
def test_each_step_of_the_clean_up_may_be_forbidden(
    forbidden: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without s3:ListBucketMultipartUploads a failed run used to leave all its files."""

    def refuse(*_: object) -> None:
        raise PermissionError(forbidden)

    before = [stage_text(FolderStorage(tmp_path), text) for text in "ab"]

    def storage() -> FolderStorage:
        made = FolderStorage(tmp_path)
        setattr(made, forbidden, refuse)
        return made

    with pytest.raises(D1DumpError):
        stage(io.BytesIO(dump_of("x") + b"DROP TABLE users;"), storage(), options(), SOURCE)
    assert current(tmp_path) == before[-1]
    if forbidden in CLEAN_UP:
        assert runs_in(tmp_path) == {manifest.run for manifest in before}
    caplog.clear()
    after = stage_text(storage(), "c")
    assert current(tmp_path) == after
    assert any(forbidden in message for message in caplog.messages)
