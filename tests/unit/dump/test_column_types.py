"""Types as functions of stats, and casts that lose nothing."""

from __future__ import annotations

import pyarrow as pa
import pytest

from airflow_provider_d1.dump.affinity import Affinity
from airflow_provider_d1.dump.column_types import (
    ColumnStats,
    cast,
    final_type,
    from_values,
    has_type_conflict,
    part_type,
)
from tests.unit.dump.dump_oracle import assert_same, read_with_ours

I64, F64, STR, BIN = pa.int64(), pa.float64(), pa.string(), pa.binary()


@pytest.mark.parametrize(
    ("affinity", "empty"),
    [("INTEGER", I64), ("REAL", F64), ("TEXT", STR), ("NUMERIC", STR), ("NONE", STR), ("BLOB", BIN)],
)
def test_without_values_the_affinity_decides(affinity: str, empty: pa.DataType) -> None:
    assert final_type(Affinity(affinity), ColumnStats()) == empty
    assert final_type(Affinity(affinity), ColumnStats(null=5)) == empty


@pytest.mark.parametrize("affinity", list(Affinity))
@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        (ColumnStats(integer=1, null=2), I64),
        (ColumnStats(real=1), F64),
        (ColumnStats(text=1), STR),
        (ColumnStats(blob=1, null=1), BIN),
        (ColumnStats(integer=1, real=1), F64),
        (ColumnStats(integer=1, real=1, whole_reals=1), F64),
        (ColumnStats(integer=1, real=1, inexact_integers=1), STR),
        (ColumnStats(integer=1, text=1), STR),
        (ColumnStats(real=1, blob=1), STR),
        (ColumnStats(text=1, blob=1), STR),
    ],
)
def test_with_values_the_data_decides(affinity: Affinity, stats: ColumnStats, expected: pa.DataType) -> None:
    assert final_type(affinity, stats) == expected


def test_stats_adds_up() -> None:
    one = ColumnStats(integer=1, null=2, temporal_forms=1)
    other = ColumnStats(integer=4, text=3, unsafe_integers=2, temporal_forms=4)
    both = one + other
    assert both == ColumnStats(integer=5, text=3, null=2, unsafe_integers=2, temporal_forms=5)
    assert both.rows == 10
    assert both.storage == {"integer": 5, "real": 0, "text": 3, "blob": 0, "null": 2}
    assert both.lossy["unsafe_integers"] == 2


def test_whole_reals_beside_integers_keep_their_point() -> None:
    """``1`` and ``1.0`` in one column: numbers as long as only numbers come, else texts that tell them apart."""
    insert = b"INSERT INTO t VALUES(%s);\n"
    head = b"CREATE TABLE t(a);\n"
    numbers = [insert % v for v in (b"1", b"2", b"1.0", b"2.5", b"3", b"1e3")]
    for block_size in (1, 60, 1 << 20):
        only_numbers = assert_same(head + b"".join(numbers), block_size=block_size)
        assert only_numbers["t"].columns["a"].type == F64
        mixed = assert_same(head + b"".join(numbers) + insert % b"'x'", block_size=block_size)
        assert mixed["t"].columns["a"].to_pylist() == ["1", "2", "1.0", "2.5", "3", "1000.0", "x"]


def test_a_late_widening_rewrites_early_parts() -> None:
    insert = b"INSERT INTO t VALUES(%s);\n"
    head = b"CREATE TABLE t(a NUMERIC);\n"
    for last, kind in ((b"1.5", F64), (b"'x'", STR), (b"X'ab'", STR), (b"9007199254740993", I64)):
        rows = [insert % b"NULL"] * 3 + [insert % b"%d" % i for i in range(5)] + [insert % last]
        for block_size in (1, 1 << 20):
            staged = assert_same(head + b"".join(rows), block_size=block_size)
            assert staged["t"].columns["a"].type == kind
    exact = assert_same(head + insert % b"9007199254740993" + insert % b"0.5", block_size=1)
    assert exact["t"].columns["a"].to_pylist() == ["9007199254740993", "0.5"]


def test_the_smallest_integer_beside_its_real_twin() -> None:
    dump = b"CREATE TABLE t(a);\n" + b"".join(
        b"INSERT INTO t VALUES(%s);\n" % v for v in (b"-9223372036854775808", b"-9223372036854776000", b"'x'")
    )
    for block_size in (1, 1 << 20):
        staged = assert_same(dump, block_size=block_size)
        assert staged["t"].columns["a"].to_pylist() == ["-9223372036854775808", "-9.2233720368547758e+18", "x"]


@pytest.mark.parametrize(
    ("values", "target", "expected"),
    [
        ([1, None, -5], "double", [1.0, None, -5.0]),
        ([1, None, 2**63 - 1], "string", ["1", None, "9223372036854775807"]),
        ([1.0, None, 0.1], "string", ["1.0", None, "0.1"]),
        ([b"\x00\xff", None, b""], "string", ["00FF", None, ""]),
        ([1, 0.5, None], "string", ["1", "0.5", None]),
        ([1, 1.0, None], "double", [1.0, 1.0, None]),
        ([None, None], "int64", [None, None]),
        (["a", None], "string", ["a", None]),
    ],
)
def test_casts(values: list, target: str, expected: list) -> None:
    parsed = from_values(values, Affinity.NONE)
    assert parsed.array.type == part_type(Affinity.NONE, parsed.stats)
    result = cast(parsed.array, parsed.stats, pa.type_for_alias(target))
    result.validate(full=True)
    assert result.type == pa.type_for_alias(target)
    assert result.to_pylist() == expected


def test_a_sliced_array_casts_as_a_whole_one() -> None:
    for values in ([b"a", None, b"bc", b"d"], [1.5, None, 3.0, 2.25], [7, None, 8, 9]):
        parsed = from_values(values, Affinity.NONE)
        whole = cast(parsed.array, parsed.stats, STR)
        assert cast(parsed.array.slice(1, 3), parsed.stats, STR).to_pylist() == whole.to_pylist()[1:]


def test_no_stats_leads_from_text_to_integer() -> None:
    parsed = from_values(["1"], Affinity.TEXT)
    with pytest.raises(ValueError, match="cannot cast"):
        cast(parsed.array, parsed.stats, I64)


@pytest.mark.parametrize(
    ("affinity", "stats", "conflict"),
    [
        ("INTEGER", ColumnStats(integer=5, null=1), False),
        ("INTEGER", ColumnStats(integer=5, real=1), True),
        ("REAL", ColumnStats(real=5), False),
        ("REAL", ColumnStats(real=5, text=1), True),
        ("TEXT", ColumnStats(text=1), False),
        ("TEXT", ColumnStats(text=1, blob=1), True),
        ("BLOB", ColumnStats(blob=1), False),
        ("BLOB", ColumnStats(text=1), True),
        ("NUMERIC", ColumnStats(integer=1, real=1), False),
        ("NUMERIC", ColumnStats(text=1), False),
        ("NUMERIC", ColumnStats(text=1, integer=1), True),
        ("NONE", ColumnStats(text=1, blob=1), True),
        ("NONE", ColumnStats(integer=1, real=1, inexact_integers=1), True),
        ("NONE", ColumnStats(), False),
    ],
)
def test_what_is_a_type_conflict(affinity: str, stats: ColumnStats, conflict: bool) -> None:
    assert has_type_conflict(Affinity(affinity), stats) is conflict


TEMPORAL = [
    (["2024-02-29", "0001-01-01", "9999-12-31"], pa.date32()),
    (["2024-02-29 23:59:59", "2024-01-01 00:00:00.123456"], pa.timestamp("us")),
    (["2024-02-29T23:59:59Z", "2024-01-01T00:00:00.5Z"], pa.timestamp("us")),
    (["2024-02-29T23:59:59"], pa.timestamp("us")),
    (["2024-02-29 23:59:59Z"], pa.timestamp("us")),
    (["2024-02-29", "2024-02-29 00:00:00"], STR),
    (["2024-02-29T00:00:00", "2024-02-29 00:00:00"], STR),
    (["2024-02-29T00:00:00Z", "2024-02-29T00:00:00"], STR),
    (["2023-02-29"], STR),
    (["0000-01-01"], STR),
    (["2024-01-01 24:00:00"], STR),
    (["2024-01-01 10:00"], STR),
    (["2024-01-01 10:00:00.1234567"], STR),
    (["2024-01-01 10:00:00+02:00"], STR),
    (["2024-01-01", ""], STR),
    (["2024-1-1"], STR),
    (["2024-01-01\n"], STR),
    ([], STR),
]


@pytest.mark.parametrize(("texts", "kind"), TEMPORAL, ids=range(len(TEMPORAL)))
@pytest.mark.parametrize("block_size", [1, 1 << 20])
def test_parse_temporal(texts: list[str], kind: pa.DataType, block_size: int) -> None:
    values = ["NULL", *(f"'{text}'" for text in texts), "NULL"]
    dump = ("CREATE TABLE t(a DATETIME);\n" + "".join(f"INSERT INTO t VALUES({v});\n" for v in values)).encode()
    column = read_with_ours(dump, block_size=block_size, parse_temporal=True)["t"].columns["a"]
    assert column.type == kind
    assert [None if v is None else str(v) for v in column.to_pylist()] == [
        None,
        *(text.replace("T", " ").rstrip("Z").replace(".5", ".500000") if kind != STR else text for text in texts),
        None,
    ]
    assert read_with_ours(dump, block_size=block_size)["t"].columns["a"].type == STR


def test_dates_with_a_number_among_them_stay_texts() -> None:
    dump = b"CREATE TABLE t(a DATETIME);\nINSERT INTO t VALUES('2024-01-01');\nINSERT INTO t VALUES(5);\n"
    assert read_with_ours(dump, parse_temporal=True)["t"].columns["a"].to_pylist() == ["2024-01-01", "5"]
