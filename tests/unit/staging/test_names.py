"""Names of tables and columns: safe, unique where case does not count, the same in every run."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.staging.manifest import MANIFEST_KEY, Source
from airflow_provider_d1.staging.names import Folders, file_column_names, safe_name, snake_case
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.pipeline import stage
from airflow_provider_d1.staging.sinks import FolderSink

NASTY = [
    "", ".", "..", "../..", "a/b", "a\\b", "/etc/passwd", "con", "CON.txt", "Lpt1", "nul", MANIFEST_KEY, "_hidden",
    ".d1-staging-1", "a.", "a b", "ünï", "x" * 300, "é" * 300, "a\nb", "a\0b", "a=b", "%2e%2e", "~", "-rf",
    "shop.sql", "A.SQL.zst",
]  # fmt: skip


@pytest.mark.parametrize("name", ["users", "Users", "order_items", "v1.2", "a-b", "x" * 100, "0"])
def test_a_plain_name_stays(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize("name", NASTY)
def test_a_nasty_name_becomes_one_plain_segment(name: str) -> None:
    safe = safe_name(name)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", safe)
    assert safe != name
    assert safe.split(".")[0].lower() not in {"con", "nul", "lpt1"}


@given(st.lists(st.text() | st.sampled_from(NASTY) | st.sampled_from(["a", "A", "É", "é"]), unique=True))
def test_folders_are_unique_where_case_does_not_count(names: list[str]) -> None:
    first, again = Folders(), Folders()
    folders = [first.folder_of(name) for name in names]
    assert len({folder.casefold() for folder in folders}) == len(names)
    assert folders == [again.folder_of(name) for name in names]
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", folder) for folder in folders)


def test_a_table_named_as_anothers_folder_does_not_collide() -> None:
    folders = Folders()
    taken = folders.folder_of("a b")
    assert folders.folder_of(taken) != taken
    assert folders.folder_of(taken.upper()).casefold() != taken.casefold()


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\\b", ".", "_manifest.json", "x\n"])
def test_a_dump_of_a_database_of_any_name_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    source = Source(database_name=name, filename=f"../{name}.sql")
    for _ in range(2):
        manifest = stage(io.BytesIO(b""), FolderSink(tmp_path / "out"), StagingOptions(file_format="sql"), source)
    (file,) = manifest.files
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"_manifest.json", Path(file.uri).name}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("OrderID", "order_id"),
        ("HTTPServer", "http_server"),
        ("order_id", "order_id"),
        ("unit price (€)", "unit_price"),
        ("A", "a"),
        ("_id", "_id"),
        ("größe", "größe"),
        ("a.b-c", "a_b_c"),
        ("x2Y", "x2_y"),
        ("€", "column"),
        ("", "column"),
    ],
)
def test_snake_case(name: str, expected: str) -> None:
    assert snake_case(name) == expected


def test_columns_keep_their_names_unless_told_otherwise() -> None:
    assert file_column_names("t", ["Order ID", "x"], snake=False) == ("Order ID", "x")
    assert file_column_names("t", ["Order ID", "x"], snake=True) == ("order_id", "x")


def test_colliding_columns_are_both_named() -> None:
    with pytest.raises(D1ConfigurationError, match=r"'Order ID' and 'order_id' of table 't'.*column_names=preserve"):
        file_column_names("t", ["Order ID", "x", "order_id"], snake=True)


def test_audit_columns_need_their_names_free() -> None:
    with pytest.raises(D1ConfigurationError, match="already has a column '_Loaded_At'"):
        file_column_names("t", ["_Loaded_At"], snake=False, audit=["_loaded_at"])
