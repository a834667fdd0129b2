"""The cutter: what is a statement, what may be one, and where errors point."""

from __future__ import annotations

import tracemalloc
from itertools import repeat

import pytest

from airflow_provider_d1.dump.blocks import Block
from airflow_provider_d1.dump.reader import DumpReader, TableStarted
from airflow_provider_d1.exceptions import D1DumpError
from tests.unit.dump.dump_oracle import assert_same, read_with_ours

HEAD = b"PRAGMA defer_foreign_keys=TRUE;\n"
TABLE = HEAD + b"CREATE TABLE t(a INTEGER, b TEXT);\n"


def rows(dump: bytes, *, table: str = "t", **options: object) -> list[tuple]:
    staged = read_with_ours(dump, **options)[table]  # type: ignore[arg-type]
    return list(zip(*(column.to_pylist() for column in staged.columns.values()), strict=True))


@pytest.mark.parametrize(
    "form",
    [
        'INSERT INTO "t" ("a","b") VALUES(1,\'x\');',
        "INSERT INTO \"t\" VALUES(1,'x');",
        "INSERT INTO t VALUES(1,'x');",
        "INSERT INTO t(a,b) VALUES(1,'x');",
        "INSERT INTO [t] (`a`, 'b') VALUES (1, 'x') ;",
        "insert into `T`(B, A) values('x',1);",
        "INSERT/* a */INTO -- b\n t VALUES(1 /* ' */, 'x' -- it's\n);",
        "INSERT INTO t VALUES(\n  1,\n  'x'\n);",
    ],
)
@pytest.mark.parametrize("block_size", [1, 1 << 20])
def test_insert_forms(form: str, block_size: int) -> None:
    dump = TABLE + "\n".join([form] * 3).encode()
    assert rows(dump, block_size=block_size) == [(1, "x")] * 3


def test_columns_left_out_get_their_defaults() -> None:
    head = "CREATE TABLE t(a INT DEFAULT 5, b TEXT DEFAULT 'it''s', c REAL DEFAULT (1), d, e DEFAULT X'41', f TEXT);\n"
    assert_same((head + 'INSERT INTO "t" ("f","d") VALUES(\'f\',2);\nINSERT INTO t(d) VALUES(3);').encode())


@pytest.mark.parametrize("default", ["CURRENT_TIMESTAMP", "(datetime('now'))", "(1 + 1)", "x"])
def test_a_default_that_would_have_to_be_executed_is_refused(default: str) -> None:
    dump = f"CREATE TABLE t(a, b DEFAULT {default}, c);\nINSERT INTO t(a) VALUES(1);"
    with pytest.raises(D1DumpError, match="column 'b', whose DEFAULT"):
        read_with_ours(dump.encode())


def test_a_default_in_parentheses_is_evaluated() -> None:
    dump = "CREATE TABLE t(a, b DEFAULT (1), c);\nINSERT INTO t(a) VALUES(1);"
    assert rows(dump.encode()) == [(1, 1, None)]


def test_multi_row_values() -> None:
    assert_same(TABLE + b"INSERT INTO t VALUES(1,'a'),(2,'b'),\n(3,'),(');\nINSERT INTO t VALUES(4,'d');\n")


def test_rows_of_a_table_may_follow_those_of_others() -> None:
    dump = (
        b"CREATE TABLE a(x);\nCREATE TABLE b(x);\nINSERT INTO b VALUES(1);\nINSERT INTO a VALUES(2);\n"
        b"INSERT INTO b VALUES('three');\nINSERT INTO a VALUES(4);"
    )
    assert_same(dump)
    assert rows(dump, table="b") == [("1",), ("three",)]


OTHER_STATEMENTS = [
    "INSERT INTO {other} VALUES(3);\n",
    "INSERT INTO {other} VALUES(3);\nINSERT INTO {other} VALUES(4);\n",
    "INSERT INTO {own}(x,y) VALUES(3,'y'),(4,');');\n",
    "CREATE TABLE c(z);\nINSERT INTO c VALUES(5);\n",
    "CREATE INDEX i ON {own}(x);\n",
]


@pytest.mark.parametrize("own", ["a", '"b);"', '"it\'s"', '"b\');\n"'])
@pytest.mark.parametrize("text", ["x", "f(); g();", "it''s); ", ");\nINSERT INTO a VALUES("])
@pytest.mark.parametrize("between", OTHER_STATEMENTS)
def test_other_statements_in_the_middle_of_a_run(between: str, text: str, own: str) -> None:
    """Two rows, something else, two rows: the run's own words come back, but what is between is no row of it."""
    row = f"INSERT INTO {own} VALUES({{}},'{text}');\n"
    once = row.format(1) + row.format(2) + between.format(own=own, other="other")
    times = 1 if "CREATE" in between else 3
    dump = f"CREATE TABLE {own}(x, y);\nCREATE TABLE other(x);\n{once * times}{row.format(6)}{row.format(7)}"
    for block_size in (1, 100, 1 << 20):
        assert_same(dump.encode(), block_size=block_size)
    assert_same(dump.replace(");\n", ");").encode())
    assert_same(dump.replace(";\nINS", "; \n\nINS").encode())


def test_a_quoted_separator_does_not_make_up_for_a_missing_one() -> None:
    quoted = "INSERT INTO t VALUES(1,');\nINSERT INTO t VALUES(');\n"
    plain = "INSERT INTO t VALUES(2,'x;');\n"
    dump = TABLE.decode() + "CREATE TABLE u(x);\n" + plain + quoted + plain + "INSERT INTO u VALUES(3);\n" + plain * 2
    assert_same(dump.encode())


def test_internal_tables_are_read_over() -> None:
    dump = (
        HEAD + b"CREATE TABLE _cf_KV (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;\n"
        b"INSERT INTO \"_cf_KV\" VALUES('a',X'00');\n"
        b"CREATE TABLE sqlite_sequence(name,seq);\nINSERT INTO sqlite_sequence VALUES('t',1),('u',2);\n"
        b'INSERT INTO "sqlite_stat1" ("tbl","idx","stat") VALUES(\'t\',NULL,\'1\');\n'
        b"INSERT INTO sqlite_stat4 VALUES(1,X'00');\n"
    )
    assert read_with_ours(dump) == {}
    with pytest.raises(D1DumpError):
        read_with_ours(dump + b"INSERT INTO sqlite_stat1 VALUES(load_extension('x'));")


def test_a_prefix_with_a_quote_in_it() -> None:
    table = b'CREATE TABLE "it\'s"("a\'b" TEXT, c);\n'
    row = b"INSERT INTO \"it's\" (\"a'b\",\"c\") VALUES('%d it''s; );\nINSERT INTO \"it''s\" (',1);\n"
    dump = table + b"".join(row % i for i in range(50))
    for block_size in (1, 100, 1000, 1 << 20):
        assert_same(dump, block_size=block_size)


def test_the_separator_inside_a_text() -> None:
    text = b"1);\nINSERT INTO t VALUES(2,"
    dump = TABLE + b"".join(b"INSERT INTO t VALUES(%d,'%s');\n" % (i, text * (i % 3)) for i in range(60))
    for block_size in (1, 50, 300, 1 << 20):
        assert_same(dump, block_size=block_size)
    blocks = [item for item in DumpReader(block_size=400).feed(dump) if isinstance(item, Block)]
    assert len(blocks) > 3


def test_statements_of_all_kinds() -> None:
    dump = TABLE + (
        b"INSERT INTO t VALUES(1,'x');\n"
        b"CREATE TRIGGER g AFTER UPDATE ON t WHEN NEW.a <> ';' BEGIN\n  INSERT INTO t VALUES(2,'END;');\n"
        b"  UPDATE t SET b = CASE WHEN a THEN 'x' ELSE b END;\nEND;\n"
        b"INSERT INTO t VALUES(3,'y');\n"
        b"CREATE VIEW v AS SELECT a -- first;\n FROM t -- last;\n"
        b"\n"
    )
    expected = [(1, "x"), (3, "y")]
    assert rows(dump + b"CREATE UNIQUE INDEX i ON t(a) /* c */;") == expected
    assert rows(dump + b"CREATE INDEX i ON t(a) -- c;") == expected
    assert rows(dump + b"CREATE VIEW w AS SELECT 1 /* open;") == expected
    for block_size in (1, 30, 200):
        assert (
            rows(dump + b"CREATE VIEW w AS SELECT 1;;\n -- the end", block_size=block_size, sizes=repeat(1)) == expected
        )


@pytest.mark.parametrize("name", ["trigger", "view", "Index_", '"index"'])
def test_names_that_are_words_of_other_statements(name: str) -> None:
    dump = f"CREATE TABLE {name}(a, -- one;\n b);\nINSERT INTO {name} VALUES(1,2);\nCREATE VIEW w AS SELECT 1;"
    for block_size in (1, 1 << 20):
        assert rows(dump.encode(), table=name.strip('"'), block_size=block_size) == [(1, 2)]
    indexed = TABLE + f"CREATE UNIQUE INDEX {name}2 ON t(a);\nCREATE VIEW {name} AS SELECT 1;".encode()
    assert rows(indexed + b"INSERT INTO t VALUES(1,'x');") == [(1, "x")]


def test_what_the_command_line_of_sqlite_writes() -> None:
    dump = (
        b'PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE IF NOT EXISTS "t"(a, b);\n'
        b"INSERT INTO t VALUES(1.0,unistr('a\\u000ab'));\nINSERT INTO t VALUES(1,'\\u000a');\n"
        b"INSERT INTO t VALUES(-9223372036854775808,9.0e+999);\n"
        b"ANALYZE sqlite_schema;\nDELETE FROM sqlite_sequence;\nCOMMIT;\n"
    )
    assert_same(dump.replace(b"DELETE FROM sqlite_sequence;\n", b""))
    assert rows(dump)[0] == (1.0, "a\nb")


@pytest.mark.parametrize(
    "statement",
    [
        "ATTACH 'x.db' AS x",
        "PRAGMA writable_schema=ON",
        "PRAGMA foreign_keys=OFF; ATTACH 'x' AS y",
        "CREATE TABLE u AS SELECT 1",
        "CREATE TEMP TABLE u(a)",
        "CREATE VIRTUAL TABLE u USING fts5(a)",
        "SELECT load_extension('x')",
        "INSERT INTO t SELECT 1, 2",
        "INSERT INTO t DEFAULT VALUES",
        "INSERT OR REPLACE INTO t VALUES(1,2)",
        "REPLACE INTO t VALUES(1,2)",
        "INSERT INTO t VALUES(1,load_extension('x'))",
        "INSERT INTO t VALUES(1,(SELECT 2))",
        "INSERT INTO t VALUES(1,2) RETURNING a",
        "INSERT INTO t VALUES(1,2) ON CONFLICT DO NOTHING",
        "INSERT INTO t VALUES(1)",
        "INSERT INTO t VALUES(1,2,3)",
        "INSERT INTO t(a,c) VALUES(1,2)",
        "INSERT INTO t(a,A) VALUES(1,2)",
        "INSERT INTO main.t VALUES(1,2)",
        "INSERT INTO nowhere VALUES(1)",
        "DELETE FROM t",
        "DELETE FROM sqlite_sequence WHERE 1",
        "UPDATE t SET a = 1",
        "DROP TABLE t",
        "CREATE TABLE t(a)",
        "ALTER TABLE t ADD COLUMN c",
        "ROLLBACK",
        "VACUUM INTO 'x.db'",
        "WITH x AS (SELECT 1) INSERT INTO t SELECT 1, 2",
        "x",
        ".read /etc/passwd",
    ],
)
def test_hostile_or_unknown_statements_are_refused_where_they_stand(statement: str) -> None:
    before = TABLE + b"INSERT INTO t VALUES(1,'x');\n"
    dump = before + statement.encode() + b";\nINSERT INTO t VALUES(2,'y');\n"
    for block_size in (1, 1 << 20):
        with pytest.raises(D1DumpError) as caught:
            read_with_ours(dump, block_size=block_size)
        assert len(before) <= caught.value.offset <= len(before) + len(statement) + 2


def test_errors_in_rows_name_offset_and_table() -> None:
    good = b'INSERT INTO "t" ("a","b") VALUES(1,\'x\');\n'
    for count in (0, 1, 500):
        dump = TABLE + good * count + good.replace(b"'x'", b"foo(2)") + good * 3
        with pytest.raises(D1DumpError, match="'foo'") as caught:
            read_with_ours(dump)
        assert caught.value.offset == dump.index(b"foo")
        assert caught.value.table == "t"
        assert str(caught.value).startswith(f"byte {dump.index(b'foo')}: table 't': ")


def test_invalid_utf8_anywhere() -> None:
    for place in (b"INSERT INTO t VALUES(1,'%s');", b"CREATE VIEW v AS SELECT '%s';", b"CREATE TABLE u(a%s);"):
        dump = TABLE + b"INSERT INTO t VALUES(1,'ok');\n" + place % b"\xc3\x28"
        with pytest.raises(D1DumpError, match="UTF-8") as caught:
            read_with_ours(dump)
        assert caught.value.offset == dump.index(b"\xc3")


def test_a_nul_outside_texts_is_where_sqlite_would_stop() -> None:
    for place in (b'CREATE TABLE "u%s"(a);', b'CREATE TABLE u("a%s");', b"CREATE VIEW v AS SELECT 1 /* %s */;"):
        dump = TABLE + b"INSERT INTO t VALUES(1,'a\0b');\n" + place % b"\0"
        with pytest.raises(D1DumpError, match="NUL") as caught:
            read_with_ours(dump)
        assert caught.value.offset == dump.rindex(b"\0")
    for insert in (
        b'INSERT INTO "t\0" VALUES(1,2);',
        b"INSERT INTO t /*\0*/ VALUES(1,2);",
        b"INSERT INTO t VALUES(1,\0);",
    ):
        with pytest.raises(D1DumpError):
            read_with_ours(TABLE + insert)


@pytest.mark.parametrize("place", [b"-- %s\n", b"/* %s */", b"INSERT INTO t /* %s */ VALUES(1,'x');", b"\n-- %s"])
@pytest.mark.parametrize("wrong", [b"\xff", b"\xc3", b"\0"])
def test_comments_are_text_too(place: bytes, wrong: bytes) -> None:
    before = TABLE + b"INSERT INTO t VALUES(1,'x');\n"
    for block_size in (1, 1 << 20):
        assert rows(before + place % "é".encode(), block_size=block_size, sizes=repeat(1))[0] == (1, "x")
    for size in (1, 1 << 20):
        with pytest.raises(D1DumpError, match=r"UTF-8|NUL") as caught:
            read_with_ours(before + place % wrong, block_size=size)
        assert caught.value.offset == (before + place).index(b"%s")


@pytest.mark.parametrize("dump", [b"", b" \n", b"\n\n"])
def test_an_empty_dump_is_refused(dump: bytes) -> None:
    with pytest.raises(D1DumpError, match="empty"):
        read_with_ours(dump)


def test_an_empty_database() -> None:
    assert read_with_ours(HEAD.rstrip(b"\n")) == {}


@pytest.mark.parametrize(
    "end", [b"INSERT", b"INSERT INTO t VALUES(1,'x", b"INSERT INTO t VALUES(1,'x')", b"CREATE TABLE u(a)", b"x"]
)
def test_an_end_inside_a_statement(end: bytes) -> None:
    with pytest.raises(D1DumpError, match="ends inside") as caught:
        read_with_ours(TABLE + end)
    assert caught.value.offset == len(TABLE)


@pytest.mark.parametrize(
    ("end", "table"),
    [
        ('INSERT INTO "u" VALUES(1,\'x', "u"),
        ('INSERT INTO t("a', "t"),
        ('INSERT INTO "it', None),
        ("INSERT INTO t SELECT 1;", "t"),
        ("CREATE TABLE IF NOT EXISTS [new one](a", "new one"),
        ("CREATE TABLE x", None),
        ("CREATE INDEX i ON t(a", None),
        ("INSER", None),
    ],
)
def test_an_end_inside_a_statement_names_the_table_of_that_statement(end: str, table: str | None) -> None:
    with pytest.raises(D1DumpError) as caught:
        read_with_ours(TABLE + b"CREATE TABLE u(a, b);\nINSERT INTO t VALUES(1,'x');\n" + end.encode())
    assert caught.value.table == table


def test_a_null_that_sqlite_would_number_is_refused() -> None:
    dump = b"CREATE TABLE t(id INTEGER PRIMARY KEY, b);\nINSERT INTO t VALUES(1,2);\nINSERT INTO t VALUES(%s);\n"
    for values in (b"NULL,3", b"NULL,unistr('x')"):
        with pytest.raises(D1DumpError, match="PRIMARY KEY"):
            read_with_ours(dump % values)
    with pytest.raises(D1DumpError, match="number itself"):
        read_with_ours((dump % b"2,3") + b"INSERT INTO t(b) VALUES(4);")


def test_an_insert_that_would_set_off_a_trigger_is_refused() -> None:
    for words in (b"AFTER INSERT", b"BEFORE INSERT", b"INSERT"):
        trigger = b'CREATE TRIGGER IF NOT EXISTS "g" ' + words + b" ON t BEGIN SELECT 1; END;\n"
        with pytest.raises(D1DumpError, match="trigger"):
            read_with_ours(TABLE + trigger + b"INSERT INTO t VALUES(1,2);")
        read_with_ours(TABLE + b"CREATE TABLE u(a);\n" + trigger + b"INSERT INTO u VALUES(1);")


def test_rows_longer_than_a_block_and_lines_of_megabytes() -> None:
    long = b"x''y" * 700_000
    dump = TABLE + b"".join(b"INSERT INTO t VALUES(%d,'%s');\n" % (i, long if i == 2 else b"s") for i in range(5))
    for block_size in (1000, 1 << 20, 3 << 20):
        result = rows(dump, block_size=block_size, sizes=repeat(65536))
        assert [a for a, _ in result] == [0, 1, 2, 3, 4]
        assert result[2][1] == "x'y" * 700_000


def test_memory_does_not_grow_with_the_dump() -> None:
    line = b"INSERT INTO t VALUES(1,'%s');\n" % (b"x" * 100)
    reader = DumpReader(block_size=1 << 16)
    reader.feed(TABLE)
    tracemalloc.start()
    for _ in range(300):
        reader.feed(line * 200)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20  # 8 MB went through


def test_items_come_in_order() -> None:
    dump = (
        b"CREATE TABLE a(x);\nINSERT INTO a VALUES(1);\n"
        b"CREATE TABLE b(x);\nINSERT INTO b VALUES(1);\n"
        b"CREATE TABLE c(x);\n"
    )
    reader = DumpReader()
    items = [*reader.feed(dump), *reader.finish()]
    assert [(type(item), item.schema.name) for item in items] == [
        (TableStarted, "a"),
        (Block, "a"),
        (TableStarted, "b"),
        (Block, "b"),
        (TableStarted, "c"),
    ]
    assert items[2].offset == dump.index(b"CREATE TABLE b")
    assert reader.finish() == []


def test_if_not_exists_twice_is_what_sqlite_takes_it_for() -> None:
    assert_same(TABLE + b"CREATE TABLE IF NOT EXISTS T(x);\nINSERT INTO t VALUES(1,'x');\n")
