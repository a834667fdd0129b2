"""The fast path: stays fast for what D1 writes, and is never believed without proof."""

from __future__ import annotations

import subprocess
import sys
from random import Random

import pytest

from airflow_provider_d1.dump import blocks
from airflow_provider_d1.dump.blocks import Block, parse_block
from airflow_provider_d1.dump.reader import DumpReader
from airflow_provider_d1.exceptions import D1DumpError
from tests.unit.dump.dump_maker import made_dump
from tests.unit.dump.dump_oracle import assert_same


def blocks_of(dump: bytes, **options: int) -> list[Block]:
    reader = DumpReader(**options)
    return [item for item in [*reader.feed(dump), *reader.finish()] if isinstance(item, Block)]


def exact_rows(dump: bytes) -> int:
    return sum(parse_block(block).exact_rows for block in blocks_of(dump))


def table(ddl: str, rows: list[str]) -> bytes:
    return "\n".join([f"CREATE TABLE t({ddl});", *(f'INSERT INTO "t" VALUES({row});' for row in rows)]).encode()


PLAIN = {
    "INTEGER": ["1", "-5", "NULL", "0", "9007199254740992", "9223372036854775807"],
    "REAL": ["1", "-1.5", "1e+21", "5e-324", "NULL", "9e999", "0.30000000000000004", "9223372036854776000"],
    "TEXT": ["'a'", "''", "NULL", "'it''s'", "''''", "'NULL'", "',('", "'\x0b\x1b'", "'é😀\ufffd'", "'a\0b'",
    "'raw\nline\r'"],
    "TEXT -- wrapped\n": [
        r"replace('a\nb','\n',char(10))", r"replace('\r','\r',char(13))", r"'literal \n stays'", "NULL", "''",
        r"replace(replace('a\r\n''b\r\n','\r',char(13)),'\n',char(10))", r"replace('\\n','\n',char(10))",
    ],
    "NUMERIC": ["12.5", "100", "0", "-3", "NULL", "'text'", "'2024-01-01'"],
    "DECIMAL(10,2)": ["19.99", "20", "0.1"],
    "DATETIME": ["'2024-01-01 10:00:00'", "NULL", "'2024-01-01'", "'12:30'", "''"],
    "BOOLEAN": ["0", "1", "NULL"],
    "BLOB": ["X'00ff10'", "X''", "NULL", "'text'", "12", "1.5"],
    "": ["1", "1.5", "'12'", "X'4142'", "NULL", r"replace('a\nb\n','\n',char(10))", "-9e999"],
}  # fmt: skip


@pytest.mark.parametrize("declared", PLAIN)
def test_what_d1_writes_stays_on_the_fast_path(declared: str) -> None:
    chance = Random(3)
    rows = [f"{i},{chance.choice(PLAIN[declared])},'end'" for i in range(60)]
    dump = table(f"id INTEGER PRIMARY KEY, v {declared}, e TEXT", rows)
    assert exact_rows(dump) == 0
    assert_same(dump.replace(b"\0", b"?"))
    assert_same(dump)


@pytest.mark.parametrize(
    ("ddl", "odd"),
    [
        (
            "a INTEGER, b TEXT",
            "'7',12",
        ),  # one quote too few there, one too many here: both proofs of rows and quotes hold
        ("a INTEGER, b TEXT", "'0x1F',1e5"),
        ("a INTEGER, b TEXT", "'abc',007"),
        ("a REAL, b TEXT", "'nan',12"),
        ("a REAL, b TEXT", "'inf',1.50"),
        ("a BLOB, b TEXT", "'X''41''',X'41'"),
        ("a, b, c", "X'4142','7','8'"),
        ("a INTEGER, b TEXT", "0x1F,'x'"),
        ("a INTEGER, b TEXT", "1 ,'x'"),
        ("a INTEGER, b TEXT", "1,'x' "),
        ("a INTEGER, b TEXT", "+1,'x'"),
        ("a INTEGER, b TEXT", "TRUE,FALSE"),
        ("a INTEGER, b TEXT", "1_0,'x'"),
        ("a INTEGER, b TEXT", "null,Null"),
        ("a INTEGER, b TEXT", "1,replace('a','a','b')"),
        ("a INTEGER, b TEXT", "1,replace('it''s','''s',char(10))"),
        ("a INTEGER, b TEXT", "1,replace( 'a\\nb','\\n',char(10))"),
        ("a INTEGER, b TEXT", "1,replace('a\\nb','\\n',char(13))"),
        ("a INTEGER, b TEXT", "1,char(10)"),
        ("a INTEGER, b TEXT", "char(49),char(50)"),
        ("a INTEGER, b TEXT", "1,unistr('\\u0041')"),
        ("a INTEGER, b TEXT", "CAST('5' AS TEXT),X'41'"),
        ("a INTEGER, b TEXT", "9223372036854776000,'x'"),
        ("a NUMERIC, b TEXT", "'1e3','x'"),
        ("a NUMERIC, b TEXT", "' 12 ','x'"),
        ("a NUMERIC, b TEXT", "12345678901234567890.5,'x'"),
        ("a REAL, b TEXT", "1490225235473498678.68e-44,'x'"),
        ("a REAL, b TEXT", "-0.0,'x'"),
        ("a NUMERIC, b TEXT", "-0.0,'x'"),
        ("a, b TEXT", "-0.0,'x'"),
        ("a INTEGER, b TEXT", "1e3,'x'"),
        ("a INTEGER, b TEXT", "-9223372036854776000,'x'"),
        ("a INTEGER, b TEXT", "1.5,'it''s replace(''a'',''\\n'',char(10))'"),
        ("a INTEGER, b TEXT", "1,'call replace('"),
        ("a INTEGER, b TEXT", "1,'a' /* it's */"),
        ("a INTEGER, b TEXT", "1,'a' -- it's\n"),
        ("a INTEGER, b TEXT", "1,'\xc3\xbf'"),
    ],
)
def test_traps(ddl: str, odd: str) -> None:
    plain = ",".join(["1", "'x'", "'y'"][: ddl.count(",") + 1])
    for rows in ([odd], [plain] * 30 + [odd] + [plain] * 30, [odd] * 3 + [plain] * 3, [plain, odd]):
        assert_same(table(ddl, rows))
        assert_same(table(ddl, rows), block_size=60)


def test_one_irregular_row_takes_the_exact_path_alone() -> None:
    rows = [f"{i},'text {i}',{i}.5" for i in range(1000)]
    rows[500] = "500,unistr('\\u0041'),5e-1"
    dump = table("a INTEGER, b TEXT, c REAL", rows)
    assert exact_rows(dump) == 1
    staged = assert_same(dump)
    assert [block.fallback_reason for block in staged["t"].blocks] == ["other literals"]


def test_a_block_with_mostly_irregular_rows_takes_the_exact_path() -> None:
    dump = table("a TEXT", ["unistr('\\u0041')"] * 30 + ["'x'"] * 10)
    assert exact_rows(dump) == 40


@pytest.mark.parametrize("value", ["'a'||'b'", "'a' 'b'", "'a'='b'", "X'41'||X'42'", "'a''b'||'c'", "'a'--'"])
def test_an_expression_that_begins_and_ends_as_a_literal_is_refused(value: str) -> None:
    """Its first and last bytes are those of a text or blob; only the number of strings in the row shows it."""
    for rows in (1, 60):
        good = "INSERT INTO t VALUES('x',1);\n" * rows
        dump = f"CREATE TABLE t(a, b);\n{good}INSERT INTO t VALUES({value},2);\n{good}"
        with pytest.raises(D1DumpError):
            [parse_block(block) for block in blocks_of(dump.encode())]


def test_both_paths_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = Random(11)
    compared = 0
    for _ in range(150):
        for block in blocks_of(made_dump(chance), block_size=chance.choice([200, 1 << 20])):
            fast = parse_block(block)
            with monkeypatch.context() as patch:
                patch.setattr(blocks, "find_fields", lambda *_: "not today")
                slow = parse_block(block)
            assert slow.exact_rows == slow.rows == fast.rows
            for one, other in zip(fast.columns, slow.columns, strict=True):
                assert one.stats == other.stats
                assert one.array.type == other.array.type
                assert repr(one.array.to_pylist()) == repr(other.array.to_pylist())
            compared += fast.rows - fast.exact_rows
    assert compared > 1000


@pytest.mark.parametrize("end", [b"1,'a''", b"1,'a", b"1,'a'b'", b"1,'a'b", b"1,", b",'a'", b"1,'a',", b"1", b""])
def test_a_broken_row_is_not_believed(end: bytes) -> None:
    from airflow_provider_d1.exceptions import D1DumpError

    (block,) = blocks_of(table("a INTEGER, b TEXT", ["1,'x'"] * 20))
    broken = bytes(block.body[: -len(b"1,'x')")]) + end + b")"
    with pytest.raises(D1DumpError):
        parse_block(Block(block.schema, block.offset, memoryview(broken), block.separator, block.layout))


def test_counts_are_the_same_on_both_paths() -> None:
    rows = [
        "9007199254740992,9e999,'\ufffd'", "9007199254740991,-9e999,replace('a\\nb\\n','\\n',char(10))",
        "-9007199254740992,1,replace('a\\nb','\\n',char(10))", "NULL,NULL,NULL",
    ]  # fmt: skip
    staged = assert_same(table("a INTEGER, b REAL, c TEXT", rows))["t"].stats
    assert staged["a"].unsafe_integers == 2
    assert staged["b"].infinities == 2
    assert (staged["c"].ambiguous_newlines, staged["c"].replacement_characters) == (1, 1)


def test_pandas_is_never_imported() -> None:
    dump = table("a, b NUMERIC, c DATETIME, d BLOB", ["1,1.5,NULL,NULL", "1.5,2,'',NULL"] * 9)
    code = f"""
import sys
from airflow_provider_d1.dump.blocks import Block, parse_block
from airflow_provider_d1.dump.column_types import STRING, cast
from airflow_provider_d1.dump.reader import DumpReader
reader = DumpReader()
for item in [*reader.feed({dump!r}), *reader.finish()]:
    if isinstance(item, Block):
        for column in parse_block(item).columns:
            cast(column.array, column.stats, STRING)
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    "insert",
    [
        "INSERT INTO t VALUES(replace(replace('xxxxxxxxxx','x','yyyyyyyyyy'),'y','zzzzzzzzzz'),1);",
        "INSERT INTO t(b) VALUES(2);",
    ],
)
def test_a_bomb_of_many_texts_is_refused(insert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("exact_path", "blocks"):
        monkeypatch.setattr(f"airflow_provider_d1.dump.{module}.MAX_TEXT", 50_000)
    dump = f"CREATE TABLE t(a TEXT DEFAULT '{'x' * 1000}', b);\n" + (insert + "\n") * 40
    (block,) = blocks_of(dump.encode())
    assert parse_block(block).rows == 40
    (block,) = blocks_of((dump + (insert + "\n") * 40).encode())
    with pytest.raises(D1DumpError, match="too long") as caught:
        parse_block(block)
    assert caught.value.table == "t"
    assert caught.value.offset is not None
    assert dump.index("(", dump.index("INSERT")) < caught.value.offset < len(dump) * 2
