"""The look at a database's schema before its export, over schemas that SQLite itself wrote."""

from __future__ import annotations

import sqlite3

import pytest

from airflow_provider_d1.cloudflare.models import ExportOptions, ExportRequest, SkippedObject
from airflow_provider_d1.cloudflare.preflight import SCHEMA_QUERY, Schema, check_still_there, decide, read_schema
from airflow_provider_d1.exceptions import D1TableNotFoundError, D1VirtualTableError

FTS_SHADOWS = ["docs_fts_data", "docs_fts_idx", "docs_fts_content", "docs_fts_docsize", "docs_fts_config"]


def schema_of(script: str) -> Schema:
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    database.executescript(script)
    return read_schema([dict(row) for row in database.execute(SCHEMA_QUERY)])


PLAIN = schema_of(
    """
    CREATE TABLE users(id INTEGER PRIMARY KEY AUTOINCREMENT);
    CREATE TABLE "Order Items"(id);
    CREATE TABLE _cf_KV(key);
    CREATE VIEW recent AS SELECT * FROM users;
    CREATE INDEX by_id ON "Order Items"(id);
    """
)
WITH_FTS = Schema(
    tables=("docs", "notes_data"),
    virtual={"docs_fts": "fts5"},
    shadows=dict.fromkeys(FTS_SHADOWS, "docs_fts"),
)


def test_own_tables_only() -> None:
    assert PLAIN.tables == ("users", "Order Items")
    assert PLAIN.views == {"recent"}
    assert not PLAIN.virtual


def test_virtual_tables_and_their_shadow_tables_are_recognised() -> None:
    schema = schema_of(
        """
        CREATE TABLE docs(id, body);
        CREATE VIRTUAL TABLE docs_fts USING fts5(body);
        create virtual  table "old""one" using "FTS4"(body);
        CREATE VIRTUAL TABLE Places USING rtree(id, x0, x1);
        CREATE TABLE notes_data(id);
        CREATE TABLE docs_fts_mine(id);
        """
    )
    assert schema.tables == ("docs", "notes_data", "docs_fts_mine")
    assert schema.virtual == {"docs_fts": "fts5", 'old"one': "fts4", "Places": "rtree"}
    owners = {"docs_fts", 'old"one', "Places"}
    assert set(schema.shadows.values()) == owners
    assert {name for name, owner in schema.shadows.items() if owner == "docs_fts"} == set(FTS_SHADOWS)
    assert "Places_node" in schema.shadows


def test_only_ascii_letters_ignore_case_in_the_names_of_shadow_tables() -> None:
    schema = schema_of('CREATE TABLE "étés_content"(a); CREATE VIRTUAL TABLE "ÉTÉS" USING fts5(body);')
    assert schema.tables == ("étés_content",)
    assert "ÉTÉS_content" in schema.shadows


def test_an_unknown_module_has_no_shadow_tables() -> None:
    rows = [{"name": "v", "type": "table", "sql": "CREATE VIRTUAL TABLE v USING secret(x)"}]
    rows.append({"name": "v_data", "type": "table", "sql": None})
    schema = read_schema(rows)
    assert schema.virtual == {"v": "secret"}
    assert schema.tables == ("v_data",)


def test_the_whole_database() -> None:
    assert decide(ExportRequest(no_data=True), PLAIN) == (ExportOptions(no_data=True), ())


def test_a_list_keeps_its_order_and_loses_repetitions() -> None:
    options, skipped = decide(ExportRequest(tables=("Order Items", "users", "Order Items")), PLAIN)
    assert options.tables == ("Order Items", "users")
    assert not skipped


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Users", "'Users'; did you mean 'users'"),
        ("order_items", "did you mean 'Order Items'"),
        ("user", "did you mean 'users'"),
        ("recent", "'recent' is a view"),
        ("zzz", "'zzz'$"),
        ("_cf_KV", "_cf_KV"),
        ("sqlite_sequence", "sqlite_sequence"),
    ],
)
def test_a_name_must_be_exact(name: str, hint: str) -> None:
    with pytest.raises(D1TableNotFoundError, match=hint):
        decide(ExportRequest(tables=("users", name)), PLAIN)


def test_a_virtual_table_stops_the_export_of_the_whole_database() -> None:
    with pytest.raises(D1VirtualTableError, match="docs_fts") as caught:
        decide(ExportRequest(), WITH_FTS)
    assert not caught.value.retryable


def test_skipping_turns_it_into_a_list() -> None:
    options, skipped = decide(ExportRequest(no_schema=True, on_virtual_table="skip"), WITH_FTS)
    assert options == ExportOptions(("docs", "notes_data"), no_schema=True)
    assert SkippedObject("docs_fts", "virtual table (fts5)") in skipped
    assert SkippedObject("docs_fts_data", "shadow table of docs_fts") in skipped
    assert {item.name for item in skipped} == {*WITH_FTS.virtual, *WITH_FTS.shadows}


def test_a_list_without_the_virtual_table_needs_no_skipping() -> None:
    assert decide(ExportRequest(tables=("docs",)), WITH_FTS) == (ExportOptions(("docs",)), ())


@pytest.mark.parametrize("name", ["docs_fts", "docs_fts_data"])
def test_naming_it_or_its_shadow_fails_or_is_skipped(name: str) -> None:
    with pytest.raises(D1VirtualTableError, match=name):
        decide(ExportRequest(tables=("docs", name)), WITH_FTS)
    options, skipped = decide(ExportRequest(tables=("docs", name), on_virtual_table="skip"), WITH_FTS)
    assert options.tables == ("docs",)
    assert [item.name for item in skipped] == [name]


def test_an_empty_list_of_tables_is_an_error_as_d1_would_export_all() -> None:
    with pytest.raises(D1VirtualTableError, match="no tables left"):
        decide(ExportRequest(tables=("docs_fts",), on_virtual_table="skip"), WITH_FTS)
    only = Schema(tables=(), virtual={"v": "fts5"}, shadows={})
    with pytest.raises(D1VirtualTableError, match="no tables left"):
        decide(ExportRequest(on_virtual_table="skip"), only)


def test_excluded_tables_turn_it_into_a_list_of_the_others() -> None:
    options, skipped = decide(ExportRequest(exclude_tables=("users",), no_data=True), PLAIN)
    assert options == ExportOptions(("Order Items",), no_data=True)
    assert skipped == (SkippedObject("users", "excluded"),)
    assert decide(ExportRequest(exclude_tables=()), PLAIN) == (ExportOptions(), ())


def test_an_excluded_virtual_table_is_left_out_with_its_shadow_tables() -> None:
    options, skipped = decide(ExportRequest(exclude_tables=("docs_fts",)), WITH_FTS)
    assert options.tables == ("docs", "notes_data")
    assert {(item.name, item.reason) for item in skipped} == {(name, "excluded") for name in ("docs_fts", *FTS_SHADOWS)}


def test_excluding_only_a_shadow_table_still_refuses_the_virtual_table() -> None:
    with pytest.raises(D1VirtualTableError, match="docs_fts"):
        decide(ExportRequest(exclude_tables=("docs_fts_data",)), WITH_FTS)


def test_the_message_names_virtual_tables_without_their_shadow_tables() -> None:
    with pytest.raises(D1VirtualTableError) as raised:
        decide(ExportRequest(), WITH_FTS)
    assert str(raised.value) == (
        "cannot export docs_fts (virtual table (fts5)); no export was started. Pass exclude_tables to leave it out, or"
        ' on_virtual_table="skip" to leave out all virtual tables'
    )
    with pytest.raises(D1VirtualTableError, match=r"docs_fts_idx \(shadow table of docs_fts\)"):
        decide(ExportRequest(tables=("docs", "docs_fts_idx")), WITH_FTS)


def test_excluding_and_skipping_go_together() -> None:
    options, skipped = decide(ExportRequest(exclude_tables=("docs",), on_virtual_table="skip"), WITH_FTS)
    assert options.tables == ("notes_data",)
    assert {item.name for item in skipped} == {"docs", "docs_fts", *FTS_SHADOWS}


@pytest.mark.parametrize(
    ("name", "hint"),
    [("user", "exclude_tables: no such table.*did you mean 'users'"), ("recent", "'recent' is a view")],
)
def test_an_excluded_name_must_be_exact(name: str, hint: str) -> None:
    with pytest.raises(D1TableNotFoundError, match=hint):
        decide(ExportRequest(exclude_tables=("users", name)), PLAIN)


def test_excluding_everything_sends_no_empty_list() -> None:
    with pytest.raises(D1TableNotFoundError, match="no tables left to export"):
        decide(ExportRequest(exclude_tables=PLAIN.tables), PLAIN)


def test_afterwards_every_table_of_a_list_must_still_be_there() -> None:
    check_still_there(ExportOptions(("users",)), PLAIN)
    check_still_there(ExportOptions(), PLAIN)
    with pytest.raises(D1TableNotFoundError, match="gone"):
        check_still_there(ExportOptions(("users", "gone")), PLAIN)
