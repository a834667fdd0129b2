"""Staged files become the values that staging wrote, whatever is in them; broken ones are refused."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_d1.exceptions import D1ManifestError
from airflow_provider_d1.staging import text_reader
from airflow_provider_d1.storage.folder import FolderStorage
from airflow_provider_d1.warehouses import batches
from airflow_provider_d1.warehouses.batches import staged_batches
from airflow_provider_d1.warehouses.plan import Column, Part, Table
from airflow_provider_d1.warehouses.staged_files import StagedFiles

COLUMNS = (Column("i", "int64"), Column("r", "float64"), Column("s", "string"), Column('b "x",', "binary"))
TEXT = st.text(st.sampled_from('ab",\n\r\0é\\ \t') | st.characters(exclude_categories=["Cs"]), max_size=12)
ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.floats(allow_nan=False),
        st.none() | TEXT,
        st.none() | st.binary(max_size=12),
    ),
    max_size=25,
)


def as_csv(columns: tuple[Column, ...], rows: list[tuple[Any, ...]]) -> bytes:
    def field(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, bytes):
            return f'"{value.hex().upper()}"'
        if isinstance(value, float):
            return {"inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))
        return str(value) if isinstance(value, int) else '"' + value.replace('"', '""') + '"'

    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow([column.name for column in columns])
    return (header.getvalue() + "".join(",".join(map(field, row)) + "\n" for row in rows)).encode()


def as_jsonl(columns: tuple[Column, ...], rows: list[tuple[Any, ...]]) -> bytes:
    def field(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.hex().upper()
        if isinstance(value, float):
            return {"inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), value)
        return value

    names = [column.name for column in columns]
    lines = [json.dumps(dict(zip(names, map(field, row), strict=True)), ensure_ascii=False) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def read(folder: Path, contents: list[tuple[bytes, int]], columns=COLUMNS, file_format="csv") -> list[tuple[Any, ...]]:
    parts = []
    for number, (content, rows) in enumerate(contents):
        path = folder / f"part-{number}"
        path.write_bytes(content)
        parts.append(Part(path.as_uri(), rows, len(content), hashlib.sha256(content).hexdigest()))
    table = Table("t", columns, sum(part.rows for part in parts), tuple(parts))
    files = StagedFiles(FolderStorage(folder), verify_checksums=True)
    result: list[tuple[Any, ...]] = []
    for batch in staged_batches(files, table, file_format):
        assert batch.schema.names == [column.name for column in columns]
        result += [tuple(column[i].as_py() for column in batch.columns) for i in range(batch.num_rows)]
    return result


def same(found: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> None:
    assert list(map(repr, found)) == list(map(repr, expected))


@pytest.mark.parametrize(("file_format", "write"), [("csv", as_csv), ("jsonl", as_jsonl)])
@given(rows=ROWS, block=st.integers(1, 64))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_values_in_blocks_of_any_size(tmp_path, file_format, write, rows, block) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_reader, "BLOCK_BYTES", block)
        same(read(tmp_path, [(write(COLUMNS, rows), len(rows))], file_format=file_format), rows)


@pytest.mark.parametrize("write", [gzip.compress, zstandard.compress, bytes])
def test_compression_shows_in_the_first_bytes(tmp_path, write) -> None:
    rows = [(1, 1.5, "x", b"\0"), (None, None, None, None), (2, float("-inf"), "", b"")]
    same(read(tmp_path, [(write(as_csv(COLUMNS, rows)), 3)]), rows)


def test_one_column_of_nulls_keeps_its_rows(tmp_path) -> None:
    columns = (Column("only", "string"),)
    rows = [(None,), ("",), (None,), (None,)]
    assert as_csv(columns, rows) == b'only\n\n""\n\n\n'
    for file_format, content in (("csv", as_csv(columns, rows)), ("jsonl", as_jsonl(columns, rows))):
        same(read(tmp_path, [(content, 4), (content, 4)], columns, file_format), rows * 2)


def test_an_empty_part_has_no_rows(tmp_path) -> None:
    assert read(tmp_path, [(as_csv(COLUMNS, []), 0)]) == []
    assert read(tmp_path, [(b"", 0)], file_format="jsonl") == []


def test_names_that_differ_in_nothing_but_case(tmp_path) -> None:
    columns = (Column("é", "int64"), Column("É", "int64"))
    for file_format, write in (("csv", as_csv), ("jsonl", as_jsonl)):
        same(read(tmp_path, [(write(columns, [(1, 2)]), 1)], columns, file_format), [(1, 2)])


def test_times_as_text(tmp_path) -> None:
    columns = (Column("t", "timestamp[us]"), Column("d", "date32"))
    content = b"t,d\n2024-02-29 12:30:01.250000,2024-02-29\n,\n"
    (first, second) = read(tmp_path, [(content, 2)], columns)
    assert [value.isoformat() for value in first] == ["2024-02-29T12:30:01.250000", "2024-02-29"]
    assert second == (None, None)
    lines = b'{"t":"2024-02-29 12:30:01.25","d":"2024-02-29"}\n{"t":null,"d":null}\n'
    same(read(tmp_path, [(lines, 2)], columns, "jsonl"), [first, second])


ONE = (Column("a", "int64"),)


@pytest.mark.parametrize(
    ("file_format", "columns", "content", "rows"),
    [
        ("csv", ONE, b"a\n1\n", 2),
        ("csv", ONE, b"a\n1\n2\n", 1),
        ("csv", ONE, b"b\n1\n", 1),
        ("csv", ONE, b"", 0),
        ("csv", ONE, b"a\nx\n", 1),
        ("csv", ONE, b"a\n9223372036854775808\n", 1),
        ("csv", ONE, b"a\n1,2\n", 1),
        ("csv", (Column("a", "binary"),), b'a\n"ABC"\n', 1),
        ("csv", (Column("a", "binary"),), b'a\n"GG"\n', 1),
        ("csv", (Column("a", "string"),), b'a\n"\xff"\n', 1),
        ("csv", ONE, gzip.compress(b"a\n1\n" * 9999, mtime=0)[:-20], 1),
        ("csv", ONE, zstandard.compress(b"a\n1\n" * 9999)[:-20], 1),
        ("jsonl", ONE, b'{"a":1}\n', 2),
        ("jsonl", ONE, b'{"b":1}\n', 1),
        ("jsonl", ONE, b'{"a":1,"b":1}\n', 1),
        ("jsonl", ONE, b'{"a":"x"}\n', 1),
        ("jsonl", ONE, b'{"a":9223372036854775808}\n', 1),
        ("jsonl", ONE, b'{"a":1}\n{"a":', 1),
        ("jsonl", (Column("a", "float64"),), b'{"a":"nan"}\n', 1),
        ("parquet", ONE, b"no Parquet", 0),
    ],
)
def test_broken_parts_name_the_table(tmp_path, file_format, columns, content, rows) -> None:
    with pytest.raises(D1ManifestError, match="table 't'"):
        read(tmp_path, [(content, rows)], columns, file_format)


def test_parquet_must_have_the_manifests_columns(tmp_path) -> None:
    for table in (pa.table({"a": ["1"]}), pa.table({"b": [1]}), pa.table({"a": [1], "b": [1]})):
        stream = io.BytesIO()
        pq.write_table(table, stream)
        with pytest.raises(D1ManifestError, match=r"table 't'.*columns"):
            read(tmp_path, [(stream.getvalue(), 1)], ONE, "parquet")


def test_batches_of_wide_rows_stay_small(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(batches, "BLOCK_BYTES", 10_000)
    path = tmp_path / "wide.parquet"
    pq.write_table(pa.table({"s": ["x" * 1000] * 200}), path, use_dictionary=False)
    part = Part(path.as_uri(), 200, path.stat().st_size, "")
    files = StagedFiles(FolderStorage(tmp_path), verify_checksums=False)
    sizes = [b.num_rows for b in staged_batches(files, Table("t", (Column("s", "string"),), 200, (part,)), "parquet")]
    assert sum(sizes) == 200
    assert max(sizes) <= 10
