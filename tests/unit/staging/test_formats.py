"""Every format gives back what it was given, to the last bit, and keeps its promises about size and form."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_d1.staging.csv import CsvFormat
from airflow_provider_d1.staging.formats import PartFile, TableFormat, table_format
from airflow_provider_d1.staging.jsonl import JsonLinesFormat
from airflow_provider_d1.staging.options import COMPRESSIONS, StagingOptions
from airflow_provider_d1.staging.parquet import ParquetFormat

TEXTS = [None, "", " lead", "trail ", 'quo"te', "'", "a,b", "line\nbreak", "cr\rlf\r\n", "nul\0", "\x1f\x7f"]
TEXTS += ["back\\slash\\n", "é🙂\u2028\u2029\u0085", "NULL", "null", "nan", "Infinity", "\ufffd"]
REALS = [
    0.0,
    -0.0,
    1.0,
    0.1,
    1 / 3,
    5e-324,
    1.7976931348623157e308,
    1e16,
    123456789012345680.0,
    math.inf,
    -math.inf,
    None,
]
INTS = [0, 1, -1, 2**63 - 1, -(2**63), 2**53 + 1, None]
BLOBS = [b"", b"\x00\xff", b"'\n,", bytes(range(256)), None]


def cycled(values: list[Any], rows: int) -> list[Any]:
    return [values[index % len(values)] for index in range(rows)]


def nasty(rows: int = 40) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(cycled(INTS, rows), pa.int64()),
            'te"xt, \n': pa.array(cycled(TEXTS, rows), pa.string()),
            "real.x": pa.array(cycled(REALS, rows), pa.float64()),
            "blob": pa.array(cycled(BLOBS, rows), pa.binary()),
            "when": pa.array(cycled([0, 1_700_000_000_123_456, None], rows), pa.timestamp("us")),
            "day": pa.array(cycled([0, 19_000, -1, None], rows), pa.date32()),
            "nothing": pa.nulls(rows, pa.string()),
        }
    )


def written(form: TableFormat, path: Path, *batches: pa.Table) -> Path:
    part = form.open(path, batches[0].schema, batches[0])
    for batch in batches:
        assert part.add(batch, None)
    part.close()
    return path


def read_back(form: TableFormat, path: Path, schema: pa.Schema) -> pa.Table:
    return pa.concat_tables([schema.empty_table(), *form.read(path, schema)])


def same(left: pa.Table, right: pa.Table) -> bool:
    """Equal to the bit: ``equals`` takes 0.0 for -0.0."""
    return repr(left.to_pylist()) == repr(right.to_pylist())


FORMATS = [
    table_format(StagingOptions(file_format=name, compression=compression))
    for name in ("parquet", "csv", "jsonl")
    for compression in COMPRESSIONS[name]
]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.suffix)
def test_a_table_is_read_back_unchanged(form: TableFormat, tmp_path: Path) -> None:
    table = nasty()
    # slices have offsets, which buffers do not know of
    path = written(form, tmp_path / "part", table.slice(0, 7), table.slice(7, 0), table.slice(7, 5), table.slice(12))
    assert same(read_back(form, path, table.schema), table)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.suffix)
def test_an_empty_table_makes_a_readable_file(form: TableFormat, tmp_path: Path) -> None:
    empty = nasty().slice(0, 0)
    part = form.open(tmp_path / "part", empty.schema, empty)
    part.close()
    assert read_back(form, tmp_path / "part", empty.schema).num_rows == 0


@pytest.mark.parametrize(
    "form", [CsvFormat("gzip"), JsonLinesFormat("gzip"), ParquetFormat("zstd")], ids=lambda f: f.suffix
)
@given(
    st.lists(
        st.tuples(
            st.none() | st.text(),
            st.none() | st.floats(allow_nan=False),
            st.none() | st.binary(),
            st.none() | st.integers(-(2**63), 2**63 - 1),
        ),
        max_size=20,
    )
)
@settings(max_examples=150, deadline=None)
def test_any_values_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, form: TableFormat, rows: list[tuple]
) -> None:
    types = [pa.string(), pa.float64(), pa.binary(), pa.int64()]
    columns = [pa.array([row[index] for row in rows], kind) for index, kind in enumerate(types)]
    table = pa.Table.from_arrays(columns, names=["t", "r", "b", "i"])
    path = written(form, tmp_path_factory.getbasetemp() / f"any{form.suffix}", table)
    assert same(read_back(form, path, table.schema), table)


def test_csv_is_what_rfc_4180_readers_expect(tmp_path: Path) -> None:
    table = nasty()
    path = written(CsvFormat("gzip"), tmp_path / "part.csv.gz", table)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        text = file.read()
    assert text.startswith('id,"te""xt, \n",real.x,blob,when,day,nothing\n')
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert header == table.column_names
    assert [row[1] for row in rows] == [value or "" for value in table[1].to_pylist()]
    assert [row[2] for row in rows if row[2] and not math.isfinite(float(row[2]))] == ["Infinity", "-Infinity"] * 3
    numbers = [None if row[2] == "" else float(row[2]) for row in rows]
    assert repr(numbers) == repr(table["real.x"].to_pylist())


def test_csv_distinguishes_null_from_empty(tmp_path: Path) -> None:
    table = pa.table({"s": pa.array(["", None, "x"]), "b": pa.array([b"", None, b"\xab"])})
    path = written(CsvFormat(None), tmp_path / "part.csv", table)
    assert path.read_bytes() == b's,b\n"",""\n,\n"x","AB"\n'


def test_a_single_column_of_nulls_keeps_its_rows(tmp_path: Path) -> None:
    table = pa.table({"only": pa.array([None, "x", None, ""])})
    path = written(CsvFormat("gzip"), tmp_path / "part", table)
    assert same(read_back(CsvFormat("gzip"), path, table.schema), table)


def test_json_lines_are_json(tmp_path: Path) -> None:
    table = nasty()
    path = written(JsonLinesFormat("gzip"), tmp_path / "part.jsonl.gz", table)
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        rows = [json.loads(line) for line in file]
    assert [row["id"] for row in rows] == table["id"].to_pylist()
    assert [row['te"xt, \n'] for row in rows] == table['te"xt, \n'].to_pylist()
    assert [row["blob"] for row in rows] == [
        None if blob is None else blob.hex().upper() for blob in table["blob"].to_pylist()
    ]
    infinite = {math.inf: "Infinity", -math.inf: "-Infinity"}
    assert [row["real.x"] for row in rows] == [infinite.get(value, value) for value in table["real.x"].to_pylist()]


def test_parquet_has_statistics_and_a_dictionary_only_where_it_pays(tmp_path: Path) -> None:
    table = pa.table(
        {"unique": pa.array(range(5000)), "few": pa.array(["a", "b"] * 2500), "none": pa.nulls(5000, pa.string())}
    )
    path = written(
        ParquetFormat("zstd"), tmp_path / "part.parquet", table.replace_schema_metadata({"d1.bookmark": "b1"})
    )
    file = pq.ParquetFile(path)
    group = file.metadata.row_group(0)
    unique, few = group.column(0), group.column(1)
    assert unique.compression == "ZSTD"
    assert (unique.statistics.min, unique.statistics.max) == (0, 4999)
    assert "RLE_DICTIONARY" in few.encodings
    assert "RLE_DICTIONARY" not in unique.encodings
    assert file.schema_arrow.metadata[b"d1.bookmark"] == b"b1"
    assert file.metadata.metadata[b"d1.bookmark"] == b"b1"


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.suffix)
def test_a_part_never_outgrows_its_limit(form: TableFormat, tmp_path: Path) -> None:
    table = pa.table(
        {"id": pa.array(range(20_000)), "noise": pa.array([str(n * 7919 % 104729) for n in range(20_000)])}
    )
    limit = 100_000
    part: PartFile = form.open(tmp_path / "part", table.schema, table)
    added = 0
    while part.add(table.slice(added, 500), limit):
        added += 500
    assert added, "a batch far below the limit must fit"
    part.close()
    assert (tmp_path / "part").stat().st_size <= limit
    assert same(read_back(form, tmp_path / "part", table.schema), table.slice(0, added))


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.string(), pa.binary()], ids=str)
@pytest.mark.parametrize("rows", [20_000, 100_000])
def test_a_dictionary_that_does_not_pay_after_all_is_reckoned_with(
    kind: pa.DataType, rows: int, tmp_path: Path
) -> None:
    """The first rows repeat, the others do not: then the dictionary only adds to them."""
    chance = random.Random(7)
    make: Callable[[], object] = {
        pa.int64(): lambda: chance.getrandbits(63),
        pa.float64(): lambda: chance.uniform(-1e300, 1e300),
        pa.string(): lambda: chance.choice(string.printable) * chance.randrange(2),
        pa.binary(): lambda: chance.randbytes(3),
    }[kind]
    first = make()
    values = pa.array([first] * 4500 + [make() for _ in range(rows)], kind)
    table = pa.table({"a": values, "b": values})
    form = ParquetFormat("zstd")
    limit = 20_000
    while True:  # the smallest limit that lets it pass, to a percent
        part = form.open(tmp_path / "part", table.schema, table)
        fits = part.add(table, limit)
        part.close()
        if fits:
            break
        limit += limit // 100
    assert (tmp_path / "part").stat().st_size <= limit


def test_a_row_longer_than_the_readers_block_is_read_back(tmp_path: Path) -> None:
    table = pa.table({"s": pa.array(["short", "x" * (9 << 20), None, "y" * (5 << 20), "end"])})
    path = written(CsvFormat("zstd"), tmp_path / "part", table)
    assert same(read_back(CsvFormat("zstd"), path, table.schema), table)
