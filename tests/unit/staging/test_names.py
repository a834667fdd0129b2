"""Names of tables and columns: safe, unique where case does not count, the same in every run."""

from __future__ import annotations

import io
import re
import sqlite3
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_d1.staging.manifest import MANIFEST_KEY
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.names import Folders, file_column_names, safe_name, snake_case
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.stage import stage
from airflow_provider_d1.storage.folder import FolderStorage
from tests.unit.staging.staged_files import staged_columns

ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

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
        manifest = stage(io.BytesIO(b""), FolderStorage(tmp_path / "out"), StagingOptions(file_format="sql"), source)
    (file,) = manifest.files
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in (tmp_path / "out" / str(manifest.run)).iterdir()} == {
        MANIFEST_KEY,
        Path(file.uri).name,
    }


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


def test_columns_keep_their_names_by_default() -> None:
    assert file_column_names(["Order ID", "x"], snake=False) == ("Order ID", "x")
    assert file_column_names(["Order ID", "x"], snake=True) == ("order_id", "x")


@pytest.mark.parametrize(
    "columns", [["É", "é"], ["Ω", "ω"], ["straße", "strasse"], ["ﬁ", "fi"], ["İ", "i̇"], ["K", "\u212a"]]
)
def test_what_sqlite_takes_for_two_columns_stays_two(columns: list[str]) -> None:
    with sqlite3.connect(":memory:") as judge:
        judge.execute(f"CREATE TABLE t({', '.join(columns)})")
    assert file_column_names(columns, snake=False) == tuple(columns)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["OrderId", "order_id"], ("order_id_2", "order_id")),
        (["a b", "a-b", "a.b"], ("a_b", "a_b_2", "a_b_3")),
        (["a b", "a-b", "a_b_2"], ("a_b", "a_b_3", "a_b_2")),
        (["€", "£"], ("column", "column_2")),
    ],
)
def test_names_that_snake_case_makes_one_are_numbered(columns: list[str], expected: tuple[str, ...]) -> None:
    assert file_column_names(columns, snake=True) == expected


def test_audit_columns_keep_their_names() -> None:
    assert file_column_names(["_Loaded_At", "x"], snake=False, audit=["_loaded_at"]) == ("_Loaded_At_2", "x")


@given(st.lists(st.text(min_size=1), unique_by=lambda name: name.translate(ASCII_LOWER)), st.booleans())
def test_every_column_has_a_unique_name(columns: list[str], snake: bool) -> None:
    names = file_column_names(columns, snake=snake, audit=["_loaded_at"])
    folded = [name.translate(ASCII_LOWER) for name in (*names, "_loaded_at")]
    assert len(set(folded)) == len(columns) + 1
    assert names == file_column_names(columns, snake=snake, audit=["_loaded_at"])


@pytest.mark.parametrize("file_format", ["parquet", "csv", "jsonl"])
def test_columns_that_differ_in_case_beyond_ascii_are_staged(file_format, tmp_path: Path) -> None:
    dump = "CREATE TABLE t(É INTEGER, é INTEGER);INSERT INTO t VALUES(1,2);".encode()
    manifest = stage(io.BytesIO(dump), FolderStorage(tmp_path), StagingOptions(file_format=file_format), Source())
    assert staged_columns(manifest, manifest.tables[0]) == {"É": [1], "é": [2]}


def test_a_renamed_column_is_logged_and_its_source_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dump = b"CREATE TABLE t(OrderId, order_id, _loaded_at);INSERT INTO t VALUES(1,2,3);"
    options = StagingOptions(column_names="snake_case", audit_columns=True)
    manifest = stage(io.BytesIO(dump), FolderStorage(tmp_path), options, Source())
    own = [(column.name, column.source_name) for column in manifest.tables[0].columns[:3]]
    assert own == [("order_id_2", "OrderId"), ("order_id", None), ("_loaded_at_2", "_loaded_at")]
    assert "Table 't': column 'OrderId' is staged as 'order_id_2', because 'order_id' is taken" in caplog.messages
