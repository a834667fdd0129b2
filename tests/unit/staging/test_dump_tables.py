"""The names of the tables that a dump creates, however the dump is cut into pieces."""

from __future__ import annotations

import io

import pytest

from airflow_provider_d1.staging.dump_tables import TableNameReader

DUMP = '''PRAGMA defer_foreign_keys=TRUE;
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
INSERT INTO "users" VALUES(1,'CREATE TABLE in_a_text (a)');
CREATE TABLE "empty one"(a);
CREATE TABLE [odd (name)] (a);
CREATE TABLE `a``b` (a);
CREATE TABLE "say ""hi""" (a);
CREATE TABLE IF NOT EXISTS 'it\'\'s' (a);
CREATE TABLE \xe9t\xe9
(a);
CREATE INDEX i ON users(name);
CREATE VIEW v AS SELECT 1;
'''.encode()
NAMES = {"users", "empty one", "odd (name)", "a`b", 'say "hi"', "it's", "\xe9t\xe9"}


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
def test_the_names_are_found_and_the_dump_is_passed_on(size: int) -> None:
    reader = TableNameReader(io.BytesIO(DUMP))
    passed = b"".join(iter(lambda: reader.read(size), b""))
    assert passed == DUMP
    assert reader.names - {"IF"} == NAMES  # of "IF NOT EXISTS", when a piece ends after it


@pytest.mark.parametrize("length", range(0, len(DUMP), 11))
def test_a_cut_dump_lacks_what_comes_after_the_cut(length: int) -> None:
    reader = TableNameReader(io.BytesIO(DUMP[:length]))
    while reader.read(16):
        pass
    assert reader.names <= NAMES | {"IF", DUMP[:length].rpartition(b" ")[2].decode(errors="replace")}


def test_a_first_statement_needs_no_line_before_it() -> None:
    reader = TableNameReader(io.BytesIO(b"CREATE TABLE t(a)"))
    reader.read(100)
    assert reader.names == {"t"}
