"""Numbers as text and back, against SQLite itself."""

from __future__ import annotations

import math
import struct
from random import Random

import apsw
import pytest

from airflow_provider_d1.dump.affinity import Affinity, apply_affinity
from airflow_provider_d1.dump.text_form import decimal_to_real, real_to_text, text_prefix_to_number, text_to_number

REALS = [
    0.0, -0.0, 1.0, -1.0, 0.1, 1 / 3, 49.47, 1e15, 1e16, 1e17, 1e21, 1e300, 5e-324, 2.2250738585072014e-308,
    1.7976931348623157e308,
    0.30000000000000004, 9007199254740993.0, 9.223372036854775807e18, 123456789012345680.0, 1e-4, 1e-5,
    1234567890123456.7,
    99999999999999990.0, 956682.9814192632, math.inf, -math.inf, 3.141592653589793,
]  # fmt: skip


@pytest.fixture(scope="module")
def sqlite() -> apsw.Connection:
    return apsw.Connection(":memory:")


def random_reals(chance: Random, count: int) -> list[float]:
    reals = []
    for _ in range(count):
        kind = chance.randrange(6)
        if kind == 0:
            value = struct.unpack("<d", struct.pack("<Q", chance.getrandbits(64)))[0]
        elif kind == 1:
            value = round(chance.uniform(-1e6, 1e6), chance.randrange(7))
        elif kind == 2:
            value = float(chance.randrange(-(10 ** chance.randrange(1, 20)), 10**6))
        elif kind == 3:
            value = 10.0 ** chance.randrange(-300, 300)
        elif kind == 4:
            value = 2.0 ** chance.randrange(-1070, 1023)
        else:
            value = chance.random() * 10 ** chance.randrange(-20, 25)
        if not math.isnan(value):
            reals.append(value)
    return reals


def test_reals_print_as_sqlite_prints_them(sqlite: apsw.Connection) -> None:
    for value in REALS + random_reals(Random(1), 20_000):
        ((expected,),) = sqlite.execute("SELECT CAST(? AS TEXT)", (value,)).fetchall()
        assert real_to_text(value) == expected


def test_a_printed_real_reads_back(sqlite: apsw.Connection) -> None:
    for value in random_reals(Random(2), 5000):
        if math.isfinite(value):
            assert float(real_to_text(value)) == value


def test_decimals_of_any_length_read_as_sqlite_reads_them(sqlite: apsw.Connection) -> None:
    chance = Random(3)
    for _ in range(20_000):
        digits = "".join(chance.choices("0123456789", k=chance.randrange(1, 45)))
        point = chance.randrange(len(digits) + 1)
        whole, fraction = digits[:point], digits[point:]
        exponent = str(chance.randrange(-330, 310))
        ((expected,),) = sqlite.execute(f"SELECT {whole or '0'}.{fraction}e{exponent}").fetchall()
        assert decimal_to_real("", whole, fraction, exponent) == expected, (whole, fraction, exponent)


def numeric_looking(chance: Random) -> str:
    pieces = [
        "",
        " ",
        "\t",
        "\v",
        "+",
        "-",
        "0",
        "1",
        "12",
        "9223372036854775807",
        "9223372036854775808",
        ".",
        "e",
        "E",
        "e5",
    ]
    pieces += ["x", "0x1", "_", "inf", "\0", "e-2", "00", "9007199254740993", "\n", "é"]
    return "".join(chance.choices(pieces, k=chance.randrange(1, 6)))


def test_affinity_of_texts_is_sqlites(sqlite: apsw.Connection) -> None:
    columns = {a: a if a != "NONE" else "" for a in ("INTEGER", "REAL", "NUMERIC", "TEXT", "BLOB", "NONE")}
    ddl = ", ".join(f"c{i} {name}" for i, name in enumerate(columns.values()))
    sqlite.execute(f"CREATE TABLE affinities({ddl})")
    chance = Random(4)
    values: list[object] = [numeric_looking(chance) for _ in range(8000)]
    values += [1, -5, 2**53 + 1, 2**63 - 1, -(2**63), b"12", None, *REALS]
    for value in values:
        sqlite.execute("INSERT INTO affinities VALUES(?,?,?,?,?,?)", (value,) * 6)
        (row,) = sqlite.execute("SELECT * FROM affinities").fetchall()
        sqlite.execute("DELETE FROM affinities")
        for affinity, expected in zip(columns, row, strict=True):
            stored = apply_affinity(value, Affinity(affinity))  # type: ignore[arg-type]
            assert repr(stored) == repr(expected), (value, affinity)


def test_a_cast_reads_what_a_text_starts_with(sqlite: apsw.Connection) -> None:
    chance = Random(5)
    for _ in range(5000):
        text = numeric_looking(chance)
        ((expected,),) = sqlite.execute("SELECT CAST(? AS REAL)", (text,)).fetchall()
        assert float(text_prefix_to_number(text)) == expected, text


@pytest.mark.parametrize(("text", "number"), [(" 12 ", 12), ("1e3", 1000.0), ("0x10", None), ("", None), (".", None)])
def test_examples(text: str, number: float | None) -> None:
    assert text_to_number(text) == number
