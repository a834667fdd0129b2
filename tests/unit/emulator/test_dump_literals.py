from __future__ import annotations

import math

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_d1.emulator import dump_literals
from airflow_provider_d1.emulator.databases import to_json


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0, "0"),
        (-1, "-1"),
        (2**53 - 1, "9007199254740991"),
        (2**53, "9007199254740992"),
        (2**53 + 1, "9007199254740992"),
        (-(2**53) - 1, "-9007199254740992"),
        (2**63 - 1, "9223372036854776000"),
        (-(2**63), "-9223372036854776000"),
        (1234567890123456789, "1234567890123456800"),
        (1.0, "1"),
        (-0.0, "0"),
        (-2.0, "-2"),
        (1.5, "1.5"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e15, "1000000000000000"),
        (1e16, "10000000000000000"),
        (1.5e16, "15000000000000000"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1.25e21, "1.25e+21"),
        (1e308, "1e+308"),
        (-1e308, "-1e+308"),
        (0.0001, "0.0001"),
        (0.00001, "0.00001"),
        (0.000001, "0.000001"),
        (-0.00000125, "-0.00000125"),
        (0.0000001, "1e-7"),
        (1.5e-7, "1.5e-7"),
        (5e-324, "5e-324"),
        (math.inf, "9e999"),
        (-math.inf, "-9e999"),
    ],
)
def test_numbers_as_javascript_prints_them(value: float, printed: str) -> None:
    assert dump_literals.number(value) == printed


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_printed_doubles_are_read_back_exactly(value: float) -> None:
    printed = dump_literals.number(value)
    assert float(printed) == value
    if value == int(value) and abs(value) < 1e21:
        assert printed.lstrip("-").isdigit()


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("", "''"),
        ("it's", "'it''s'"),
        ("a\nb", r"replace('a\nb','\n',char(10))"),
        ("a\rb", r"replace('a\rb','\r',char(13))"),
        ("a\r\nb", r"replace(replace('a\r\nb','\r',char(13)),'\n',char(10))"),
        ("only \\n", "'only \\n'"),
        ("both \\n\n", r"replace('both \n\n','\n',char(10))"),
        ("a\0b", "'a\0b'"),
        ("\x0b\x85\u2028\ufeff", "'\x0b\x85\u2028\ufeff'"),
        ("replace('a','\\n',char(10))", "'replace(''a'',''\\n'',char(10))'"),
    ],
)
def test_texts_of_older_exporters(value: str, printed: str) -> None:
    assert dump_literals.old_text(value) == printed
    if "\\" not in value:
        assert dump_literals.text(value) == printed


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("only \\n", "'only \\n'"),
        ("a\\n\n", r"replace('a\n\012','\012',char(10))"),
        ("a\\r\r", r"replace('a\r\015','\015',char(13))"),
        ("\\n\\012\n", r"replace('\n\012(\n0)','(\n0)',char(10))"),
        ("\\n\\012(\\n0)\n", r"replace('\n\012(\n0)(\n1)','(\n1)',char(10))"),
        ("\\r\\015(\\r0)(\\r1)\r", r"replace('\r\015(\r0)(\r1)(\r2)','(\r2)',char(13))"),
        ("\\n\r\n", r"replace(replace('\n\r\012','\r',char(13)),'\012',char(10))"),
        ("\\r\r\n", r"replace(replace('\r\015\n','\015',char(13)),'\n',char(10))"),
        ("\\n\\r\r\n", r"replace(replace('\n\r\015\012','\015',char(13)),'\012',char(10))"),
        ('{\n "a": "x\\ny"\n}', r"""replace('{\012 "a": "x\ny"\012}','\012',char(10))"""),
    ],
)
def test_texts(value: str, printed: str) -> None:
    assert dump_literals.text(value) == printed
    assert apsw.Connection(":memory:").execute(f"SELECT {printed}").fetchall() == [(value,)]


@given(st.text(st.sampled_from("\\\n\rnr012345()'é")))
def test_sqlite_reads_every_text_back(value: str) -> None:
    assert apsw.Connection(":memory:").execute(f"SELECT {dump_literals.text(value)}").fetchall() == [(value,)]


@given(st.text(st.characters(exclude_characters="\0\\", exclude_categories=["Cs"])))
def test_sqlite_reads_an_old_text_back_where_nothing_was_lost(value: str) -> None:
    for printed in (dump_literals.text(value), dump_literals.old_text(value)):
        assert apsw.Connection(":memory:").execute(f"SELECT {printed}").fetchall() == [(value,)]


def test_a_row_of_every_storage_class() -> None:
    assert dump_literals.row((None, 1, 1.5, "x", b"\x00\xff\x10", b"")) == "NULL,1,1.5,'x',X'00ff10',X''"


def test_invalid_utf8_becomes_one_replacement_character_for_each_maximal_part() -> None:
    assert dump_literals.javascript_text(b"\xffA\xfe") == "�A�"
    assert dump_literals.javascript_text(b"\xed\xa0\x80") == "���"
    assert dump_literals.javascript_text(b"\xf0\x9f\x98") == "�"


def test_values_in_json() -> None:
    assert to_json(2**53 + 1) == 2**53
    assert to_json(2**63 - 1) == 9223372036854776000
    assert (to_json(1.0), type(to_json(1.0))) == (1, int)
    assert (to_json(1.5), to_json(1e21), to_json(1e-7)) == (1.5, 1e21, 1e-7)
    assert (to_json(math.inf), to_json(None), to_json("x"), to_json(b"\x00A")) == (None, None, "x", [0, 65])
