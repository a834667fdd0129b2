"""Two staging runs into one prefix at once, in threads and in processes: both stay whole, the newer one is current."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from airflow_provider_d1.staging.manifest import MANIFEST_KEY, Manifest, parse_manifest
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.storage.folder import FolderStorage
from tests.unit.staging.staged_pairs import (
    assert_pair_is_whole,
    assert_whole,
    check_pairs_of_processes,
    check_pairs_of_threads,
    stage_text,
)


def folder_of(root: Path, pair: int) -> FolderStorage:
    return FolderStorage(root / f"{pair}")


@pytest.mark.parametrize("check", [check_pairs_of_threads, check_pairs_of_processes])
def test_200_pairs_of_runs_never_mix(check: Callable[..., None], tmp_path: Path) -> None:
    check(partial(folder_of, tmp_path), 100)


class Interrupted(FolderStorage):
    """Lets another run happen right before one of its own requests."""

    def __init__(self, path: Path, method: str, key: str, then) -> None:
        super().__init__(path)
        whole = getattr(self, method)
        self.happened = False

        def interrupted(*args, **kwargs):
            if args and args[0].endswith(key) and not self.happened:
                self.happened = True
                then()
            return whole(*args, **kwargs)

        setattr(self, method, interrupted)


def pointer(folder: Path) -> Manifest:
    return parse_manifest((folder / MANIFEST_KEY).read_bytes())


@pytest.mark.parametrize(
    ("method", "key"),
    [("put_file", "part-00000.csv.gz"), ("put_bytes", MANIFEST_KEY), ("replace", MANIFEST_KEY), ("list", "")],
)
def test_another_run_may_interleave_at_any_step(method: str, key: str, tmp_path: Path) -> None:
    others: list[Manifest] = []
    storage = Interrupted(tmp_path, method, key, lambda: others.append(stage_text(FolderStorage(tmp_path), "other")))
    mine = stage_text(storage, "mine")
    assert storage.happened
    assert_pair_is_whole(FolderStorage(tmp_path), [mine, *others])


def exported(started_at: str, **changes: object) -> Source:
    return Source(**{"database_id": "d-1", "database_name": "shop", "started_at": started_at, **changes})


def test_an_older_export_does_not_replace_a_newer_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The task that staged last had waited for a worker: the data at the prefix must not go back in time."""
    caplog.set_level("INFO")
    newer = stage_text(FolderStorage(tmp_path), "newer", source=exported("2026-11-27T02:00:00+00:00"))
    older = stage_text(FolderStorage(tmp_path), "older", source=exported("2026-11-27T01:00:00+00:00"))
    assert pointer(tmp_path) == newer
    assert_whole(FolderStorage(tmp_path), older)
    assert any("not replaced: newer run=" in message for message in caplog.messages)


def test_a_store_without_conditional_writes_ends_at_the_newer_run(tmp_path: Path) -> None:
    class Unconditional(FolderStorage):
        def replace(self, key: str, data: bytes, *, expected: bytes | None) -> bool:  # noqa: ARG002
            self.put_bytes(key, data)
            return True

    first = stage_text(FolderStorage(tmp_path), "first", source=exported("2026-11-27T01:00:00+00:00"))
    old = (tmp_path / MANIFEST_KEY).read_bytes()

    class Overwritten(Unconditional):
        """Another, older run writes the manifest right after this one did."""

        overwritten = False

        def replace(self, key: str, data: bytes, *, expected: bytes | None) -> bool:
            super().replace(key, data, expected=expected)
            if not self.overwritten:
                self.overwritten = True
                self.put_bytes(key, old)
            return True

    second = stage_text(Overwritten(tmp_path), "second", source=exported("2026-11-27T02:00:00+00:00"))
    assert pointer(tmp_path) == second
    assert_whole(FolderStorage(tmp_path), first)


def test_a_file_that_disappears_before_the_commit_fails_the_run(tmp_path: Path) -> None:
    class Losing(FolderStorage):
        def put_bytes(self, key: str, data: bytes) -> None:
            super().put_bytes(key, data)
            for part in self.path.glob("*/users/*"):
                part.unlink()

    with pytest.raises(Exception, match=r"expected [0-9]+ bytes"):
        stage_text(Losing(tmp_path / "out"), "x")
    assert FolderStorage(tmp_path / "out").list() == {}


def test_the_owner_of_a_run_is_in_its_name() -> None:
    from airflow_provider_d1.staging.staging_run import new_run_id, same_owner

    assert same_owner(new_run_id("dag/task/run/-1"), new_run_id("dag/task/run/-1"))
    assert not same_owner(new_run_id("dag/task/run/-1"), new_run_id("dag/task/run/0"))
    assert new_run_id() != new_run_id()
