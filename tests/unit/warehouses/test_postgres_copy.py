"""The binary COPY format, against an encoder that does it value by value as the manual says."""

from __future__ import annotations

import datetime as dt
import struct
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_d1.warehouses import postgres_copy
from airflow_provider_d1.warehouses.postgres_copy import encoded

EPOCH = dt.datetime(2000, 1, 1)  # noqa: DTZ001 - a timestamp without a time zone
TYPES = {
    "i": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "r": (pa.float64(), st.floats(allow_nan=False)),
    "s": (pa.string(), st.text(st.characters(exclude_categories=["Cs"]))),
    "b": (pa.binary(), st.binary()),
    "t": (pa.timestamp("us"), st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31))),  # noqa: DTZ001
    "d": (pa.date32(), st.dates()),
}


def by_the_manual(rows: list[tuple[Any, ...]]) -> bytes:
    result = bytearray()
    for row in rows:
        result += struct.pack(">h", len(row))
        for value in row:
            if value is None:
                result += struct.pack(">i", -1)
                continue
            if isinstance(value, dt.datetime):
                plain = struct.pack(">q", (value - EPOCH) // dt.timedelta(microseconds=1))
            elif isinstance(value, dt.date):
                plain = struct.pack(">i", (value - EPOCH.date()).days)
            elif isinstance(value, int):
                plain = struct.pack(">q", value)
            elif isinstance(value, float):
                plain = struct.pack(">d", value)
            else:
                plain = value.encode() if isinstance(value, str) else value
            result += struct.pack(">i", len(plain)) + plain
    return bytes(result)


@given(st.lists(st.tuples(*(st.none() | values for _, values in TYPES.values())), max_size=20), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_every_value_as_the_manual_says(rows: list[tuple[Any, ...]], skipped: int) -> None:
    columns = list(zip(*rows, strict=True)) or [()] * len(TYPES)
    arrays = [pa.array(values, kind) for values, (kind, _) in zip(columns, TYPES.values(), strict=True)]
    batch = pa.RecordBatch.from_arrays(arrays, list(TYPES)).slice(skipped)
    assert b"".join(encoded(batch)) == by_the_manual(rows[skipped:])


def test_a_large_batch_is_cut(monkeypatch) -> None:
    monkeypatch.setattr(postgres_copy, "_MAX_BYTES", 1000)
    rows = [(n, "x" * n) for n in range(100)]
    batch = pa.RecordBatch.from_arrays([pa.array([n for n, _ in rows]), pa.array([s for _, s in rows])], ["n", "s"])
    pieces = [bytes(piece) for piece in encoded(batch)]
    assert len(pieces) > 4
    assert b"".join(pieces) == by_the_manual(rows)
