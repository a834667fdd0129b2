"""The sizes of many staged files are known from one list; those of a few are asked for one by one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from airflow_provider_d1.exceptions import D1ManifestError
from airflow_provider_d1.storage.folder import FolderStorage
from airflow_provider_d1.warehouses.plan import Part, Table
from airflow_provider_d1.warehouses.staged_files import StagedFiles

CONTENT = b"rows"


class Counting(FolderStorage):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: list[str] = []

    def size(self, key: str) -> int | None:
        self.asked.append("size")
        return super().size(key)

    def list(self, folder: str = "") -> dict[str, int]:
        self.asked.append(f"list {folder}")
        return super().list(folder)


def staged(storage: FolderStorage, count: int, prefix: str) -> list[Table]:
    tables = []
    for number in range(count):
        key = f"{prefix}t{number}/part-00000.parquet"
        storage.put_bytes(key, CONTENT)
        part = Part(storage.uri(key), 1, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
        tables.append(Table(f"t{number}", (), 1, (part,)))
    return tables


@pytest.mark.parametrize(
    ("count", "prefix", "asked"),
    [(3, "run/", ["size"] * 3), (100, "run/", ["list run"]), (100, "", ["list "])],
    ids=["few", "many-of-a-prefix", "many-of-a-run"],
)
def test_many_parts_take_one_list(count: int, prefix: str, asked: list[str], tmp_path: Path) -> None:
    storage = Counting(tmp_path)
    StagedFiles(storage, verify_checksums=False).check(*staged(storage, count, prefix))
    assert storage.asked == asked


@pytest.mark.parametrize("count", [3, 100])
@pytest.mark.parametrize("change", ["missing", "longer"])
def test_a_part_that_is_missing_or_has_another_size_is_found(count: int, change: str, tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    tables = staged(storage, count, "run/")
    if change == "missing":
        storage.delete(["run/t1/part-00000.parquet"])
    else:
        storage.put_bytes("run/t1/part-00000.parquet", CONTENT * 2)
    with pytest.raises(D1ManifestError, match=r"'t1'.*(is missing|has 8 bytes)") as raised:
        StagedFiles(storage, verify_checksums=False).check(*tables)
    assert raised.value.retryable
