"""CREATE TABLE read without running it, against what SQLite reports after running it."""

from __future__ import annotations

from random import Random

import apsw
import pytest

from airflow_provider_d1.dump.affinity import Affinity
from airflow_provider_d1.dump.create_table import parse_create_table
from airflow_provider_d1.exceptions import D1DumpError

TABLES = [
    "CREATE TABLE t(a)",
    "create table t(a integer, b Int, c TEXT, d text, e Real, f any, g bLoB)",
    "CREATE TABLE t(a VARCHAR(10), b DECIMAL(10,2), c DECIMAL( 10 , -2 ), d DOUBLE PRECISION, e UNSIGNED BIG INT)",
    "CREATE TABLE IF NOT EXISTS \"a b\"(\"x\"\"y\" TEXT, [b c] INT, `d` REAL, 'e''f' BLOB)",
    "CREATE TABLE t(a INTEGER PRIMARY KEY)",
    "CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, b TEXT NOT NULL DEFAULT 'x;y')",
    "CREATE TABLE t(a INTEGER PRIMARY KEY DESC, b)",
    "CREATE TABLE t(a INTEGER, b, PRIMARY KEY(a DESC))",
    "CREATE TABLE t(a INT PRIMARY KEY, b)",
    "CREATE TABLE t(a, b, c, PRIMARY KEY(c, a))",
    "CREATE TABLE t(a, b, PRIMARY KEY('b' COLLATE NOCASE ASC, \"a\"), UNIQUE(a), CHECK(a <> ')'))",
    "CREATE TABLE t(a TEXT PRIMARY KEY, b INT) WITHOUT ROWID",
    "CREATE TABLE t(a INTEGER PRIMARY KEY, b ANY, c TEXT) STRICT",
    "CREATE TABLE t(a INTEGER, b ANY, PRIMARY KEY(a)) STRICT, WITHOUT ROWID",
    ("CREATE TABLE t(a, b GENERATED ALWAYS AS (a+1), c INT AS (a*2) STORED,"
     " d TEXT GENERATED ALWAYS AS ('),(') VIRTUAL, e)"),
    "CREATE TABLE t(a generated always, b text generated, c always int)",
    "CREATE TABLE t(a -- first; comment\n INTEGER, /* second, ) */ b TEXT /* type */ )",
    "CREATE TABLE t(a long /* in */ int /* after */, b)",
    ("CREATE TABLE t(a \"foo bar\" baz, b 'integer', c \"INT\", d [x]y(3,-2), e \"\","
     " f 'a''b', g \"in't\", h \"te\"xt, i `a``b`)"),
    "CREATE TABLE t(a CHECK(a IN (1,2)) NOT NULL ON CONFLICT ABORT DEFAULT -5 UNIQUE ON CONFLICT IGNORE COLLATE RTRIM)",
    "CREATE TABLE t(a DEFAULT (datetime('now')) CONSTRAINT x NOT NULL CONSTRAINT y PRIMARY KEY)",
    "CREATE TABLE t(a DEFAULT X'41', b DEFAULT CURRENT_TIMESTAMP, c DEFAULT +1.5, d DEFAULT null, e DEFAULT \"dq\")",
    ("CREATE TABLE t(a REFERENCES p(x) ON DELETE SET NULL ON UPDATE SET DEFAULT MATCH FULL"
     " DEFERRABLE INITIALLY DEFERRED, b)"),
    "CREATE TABLE t(a REFERENCES p ON DELETE CASCADE NOT DEFERRABLE NOT NULL, b REFERENCES \"q\" ON UPDATE NO ACTION)",
    ("CREATE TABLE t(a, b, CONSTRAINT f FOREIGN KEY(a) REFERENCES p(x) ON DELETE RESTRICT"
     " CONSTRAINT u UNIQUE(b) CHECK(1))"),
    "CREATE TABLE t(left, cross, indexed, if, key, temp, desc, replace, rowid INTEGER)",
    "CREATE TABLE 表(列 TEXT, ünï ÏNT)",
    "CREATE TABLE t(\"rowid\", oid INT, abort TEXT, a$b, _c, 'x' TEXT)",
    ("CREATE TABLE t(a FLOATING POINT, b CHARINT, c BLOBTEXT, d STRING, e JSON, f DATE,"
     " g BOOLEAN, h CLOB, i DOUBLE, j NATIVE CHARACTER(70))"),
]  # fmt: skip


def assert_same_as_sqlite(sql: str) -> None:
    connection = apsw.Connection(":memory:")
    connection.execute(sql)
    ((name,),) = connection.execute("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'").fetchall()
    xinfo = connection.execute('PRAGMA table_xinfo("' + name.replace('"', '""') + '")').fetchall()
    schema = parse_create_table(sql.encode())
    assert schema.name == name
    assert schema.ddl == sql
    assert [(c.name, c.declared_type, c.primary_key) for c in schema.columns] == [
        (row[1], row[2], row[5]) for row in xinfo if not row[6]
    ]
    assert list(schema.generated) == [row[1] for row in xinfo if row[6]]
    for column, row in zip(schema.columns, [row for row in xinfo if not row[6]], strict=True):
        assert column.nullable == (not row[3] and not column.rowid_alias)
    listed = next(row for row in connection.execute("PRAGMA table_list").fetchall() if row[1] == name)
    assert (schema.without_rowid, schema.strict) == (bool(listed[4]), bool(listed[5]))


@pytest.mark.parametrize("sql", TABLES, ids=range(len(TABLES)))
def test_read_as_sqlite_does(sql: str) -> None:
    assert_same_as_sqlite(sql)


def test_random_tables_are_read_as_sqlite_does() -> None:
    chance = Random(7)
    names = ["a", "b c", "Key", "x'y", 'q"q', "select", "ü", "new\nline", "[z", "`t"]
    types = [
        "",
        "INT",
        "INTEGER",
        "text",
        "VARCHAR(20)",
        "DECIMAL(1,2)",
        "Double  Precision",
        '"INTEGER"',
        "[any]",
        "ANY",
        "blob",
    ]
    constraints = [
        "", "NOT NULL", "UNIQUE", "DEFAULT 5", "DEFAULT (1+(2))", "CHECK(1)", "COLLATE NOCASE", "NULL", "AS (1)",
        "/* c, */",
        "GENERATED ALWAYS AS ('x,)') VIRTUAL", "REFERENCES p(a) ON DELETE SET NULL", "-- x\n", "CONSTRAINT n CHECK(2)",
    ]  # fmt: skip
    accepted = 0
    for _ in range(1500):
        used = chance.sample(names, chance.randrange(1, 5))
        quoted = ['"' + name.replace('"', '""') + '"' for name in used]
        columns = [
            " ".join([q, chance.choice(types), *chance.choices(constraints, k=chance.randrange(3))]) for q in quoted
        ]
        if chance.random() < 0.3:
            columns[0] += " PRIMARY KEY" + chance.choice(["", " DESC", " ASC"])
        elif chance.random() < 0.4:
            columns.append(f"PRIMARY KEY({', '.join(chance.sample(quoted, chance.randrange(1, len(quoted) + 1)))})")
        options = chance.choice(["", "", " STRICT", " WITHOUT ROWID"])
        sql = f"CREATE TABLE {chance.choice(quoted)}({', '.join(columns)}){options}"
        try:
            apsw.Connection(":memory:").execute(sql)
        except apsw.SQLError:
            continue
        accepted += 1
        assert_same_as_sqlite(sql)
    assert accepted > 500


@pytest.mark.parametrize(
    ("declared", "strict", "affinity"),
    [
        ("INTEGER", False, Affinity.INTEGER),
        ("CHARINT", False, Affinity.INTEGER),
        ("VARCHAR(9)", False, Affinity.TEXT),
        ("BLOB", False, Affinity.BLOB),
        ("", False, Affinity.NONE),
        ("FLOAT", False, Affinity.REAL),
        ("DATETIME", False, Affinity.NUMERIC),
        ("ANY", False, Affinity.NUMERIC),
        ("ANY", True, Affinity.NONE),
    ],
)
def test_affinity(declared: str, strict: bool, affinity: Affinity) -> None:
    sql = f"CREATE TABLE t(a {declared}){' STRICT' if strict else ''}"
    assert parse_create_table(sql.encode()).columns[0].affinity is affinity


@pytest.mark.parametrize(
    ("sql", "at"),
    [
        ("CREATE TABLE t AS SELECT 1", "AS"),
        ("CREATE TEMP TABLE t(a)", "CREATE"),
        ("CREATE TABLE main.t(a)", "."),
        ("CREATE TABLE t(a", None),
        ("CREATE TABLE t()", ")"),
        ("CREATE TABLE t(a,)", ")"),
        ("CREATE TABLE t(a INT INT(5)(6))", "(6)"),
        ("CREATE TABLE t(a, A)", ")"),
        ("CREATE TABLE t(a PRIMARY KEY, b PRIMARY KEY)", None),
        ("CREATE TABLE t(a AS (1))", None),
        ("CREATE TABLE t(a SELECT)", "SELECT"),
        ("CREATE TABLE t(a) STRICK", "STRICK"),
        ("CREATE TABLE t(a, PRIMARY KEY(b))", ")"),
        ("CREATE TABLE t(a); DROP TABLE t", ";"),
        ("CREATE TABLE t(a TEXT 'open)", None),
    ],
)
def test_refused_with_the_offset(sql: str, at: str | None) -> None:
    with pytest.raises(D1DumpError) as caught:
        parse_create_table(sql.encode(), 100)
    assert caught.value.offset is not None
    assert caught.value.offset >= 100
    if at == "AS":
        assert caught.value.offset == 100 + sql.index(" AS") + 1
