"""Widening, NUL, text forms, the thread that works ahead: the small parts of a load."""

from __future__ import annotations

import struct
import threading
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.staging.workers import Stopped, ahead
from airflow_provider_d1.warehouses.batches import arrow_type
from airflow_provider_d1.warehouses.drift import wider
from airflow_provider_d1.warehouses.fitting import fitted, nul_free, widened
from airflow_provider_d1.warehouses.plan import Column, Table

TYPES = ("int64", "float64", "string", "binary", "timestamp[us]", "date32")


@given(st.sampled_from(TYPES), st.sampled_from(TYPES), st.sampled_from(TYPES))
def test_wider_is_an_order(a: str, b: str, c: str) -> None:
    assert wider(a, b) == wider(b, a)
    assert wider(wider(a, b), a) == wider(a, b)
    assert wider(a, a) == a
    # whatever comes first, the end holds all three
    assert wider(wider(wider(a, b), c), a) == wider(wider(a, b), c)


def test_widened_values() -> None:
    assert widened(pa.array([1, None]), "int64", "string").to_pylist() == ["1", None]
    # as SQLite, and so staging, writes reals: seventeen digits where it takes them
    reals = pa.array([-0.0, 1e16, 1e17, 1.5e-7, 3.141592653589793, float("-inf"), None])
    assert widened(reals, "float64", "string").to_pylist() == [
        "0.0",
        "10000000000000000.0",
        "1.0e+17",
        "1.5e-07",
        "3.1415926535897931",
        "-Inf",
        None,
    ]
    assert widened(pa.array([b"\xab", None]), "binary", "string").to_pylist() == ["AB", None]
    assert widened(pa.array([2**53, None]), "int64", "float64").to_pylist() == [float(2**53), None]
    with pytest.raises(pa.ArrowInvalid):
        widened(pa.array([2**53 + 1]), "int64", "float64")
    moments = pa.array([0, 1_500_000, 10_000_000], pa.timestamp("us"))
    assert widened(moments, "timestamp[us]", "string").to_pylist() == [
        "1970-01-01 00:00:00",
        "1970-01-01 00:00:01.5",
        "1970-01-01 00:00:10",
    ]


def test_batches_take_the_warehouses_names_and_types() -> None:
    table = Table("t", (Column("a", "int64"), Column("b", "string")), 1, ())
    batch = pa.RecordBatch.from_pydict({"a": [1], "b": ["x"]})
    (same,) = fitted(iter([batch]), table, table.columns)
    assert same is batch
    (other,) = fitted(iter([batch]), table, (Column("A", "string"), Column("b", "string")))
    assert other.to_pydict() == {"A": ["1"], "b": ["x"]}


def nul_batches() -> list[pa.RecordBatch]:
    schema = pa.schema([("a", pa.string()), ("b", pa.binary())])
    return [
        pa.RecordBatch.from_pydict({"a": values, "b": [b"\0"] * len(values)}, schema)
        for values in (["x", "\0"], ["y", None], ["\0\0", "z\0"])
    ]


def test_nul_fails_with_the_whole_count() -> None:
    table, found = Table("t", (), 0, ()), Counter[str]()
    with pytest.raises(D1WarehouseError, match=r"'t'.*column 'a': 3 values"):
        list(nul_free(iter(nul_batches()), table, "fail", found))


def test_nul_is_replaced_in_text_only() -> None:
    table, found = Table("t", (), 0, ()), Counter[str]()
    result = pa.Table.from_batches(nul_free(iter(nul_batches()), table, "replace", found))
    assert result["a"].to_pylist() == ["x", "\ufffd", "y", None, "\ufffd\ufffd", "z\ufffd"]
    assert result["b"].to_pylist() == [b"\0"] * 6
    assert found == {"a": 3}


def test_sliced_batches_are_looked_through_within_their_bounds() -> None:
    batch = nul_batches()[0].slice(0, 1)
    found = Counter[str]()
    assert [b.to_pydict()["a"] for b in nul_free(iter([batch]), Table("t", (), 0, ()), "fail", found)] == [["x"]]
    assert not found


def test_ahead_gives_everything_in_order_and_passes_errors_on() -> None:
    with ahead(iter(range(100)), depth=1) as items:
        assert list(items) == list(range(100))

    def broken():
        yield 1
        raise ValueError("here")

    def consume() -> None:
        with ahead(broken()) as items:
            assert next(items) == 1
            with pytest.raises(Stopped):
                next(items)

    with pytest.raises(ValueError, match="here"):
        consume()


def test_ahead_stops_when_its_block_ends() -> None:
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield struct.pack("q", 1)
        finally:
            closed.set()

    with ahead(endless()) as items:
        next(items)
    assert closed.is_set()


@pytest.mark.parametrize("name", TYPES)
def test_type_names_are_arrows_own(name: str) -> None:
    assert str(arrow_type(name)) in {name, {"float64": "double", "date32": "date32[day]"}.get(name)}
