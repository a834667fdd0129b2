"""Read rows of Parquet, CSV and JSON Lines files without a manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from airflow_provider_d1.exceptions import D1ConfigurationError, D1DumpError, D1ImportFileError
from airflow_provider_d1.staging.streams import UnpackingReader

RowFormat = Literal["parquet", "csv", "jsonl"]
#: columns, and rows of values for them
Rows = tuple[Sequence[str], Iterator[Sequence[Any]]]
_SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_PACKED = (".gz", ".zst", ".zstd")
_MAX_ROWS = 1 << 14


def format_of(name: str) -> str:
    """The format of a file by its name, compressed or not.

    :raises D1ConfigurationError: for an unknown suffix.
    """
    lower = name.lower()
    for packed in _PACKED:
        lower = lower.removesuffix(packed)
    for suffix, found in _SUFFIXES.items():
        if lower.endswith(suffix):
            return found
    raise D1ConfigurationError(f"{name}: unknown format; pass file_format='parquet', 'csv' or 'jsonl'.")


def read_rows(path: Path, file_format: str, name: str) -> Iterator[Rows]:
    """The rows of a file in order, in bounded memory; files of one table may differ in their columns.

    Parquet has its own types. In CSV every value is text, which the type of the column in D1 converts: an empty field
    is NULL, ``""`` an empty text. In JSON Lines a nested value is a list or dict.

    :param name: for messages.
    :raises D1ImportFileError: for a file that does not have the format.
    """
    import pyarrow as pa

    read = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}[file_format]
    try:
        yield from read(path)
    except (D1DumpError, pa.ArrowException, ValueError, OSError, EOFError) as error:
        raise D1ImportFileError(f"{name}: not a readable {file_format} file: {error}") from None


def _parquet(path: Path) -> Iterator[Rows]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_MAX_ROWS):
            columns = [column.to_pylist() for column in batch.columns]
            yield batch.schema.names, zip(*columns, strict=True)


def _csv(path: Path) -> Iterator[Rows]:
    import pyarrow as pa
    import pyarrow.csv as pacsv

    parse = pacsv.ParseOptions(newlines_in_values=True)
    with UnpackingReader(path.open("rb")) as header, pacsv.open_csv(header, parse_options=parse) as reader:
        names = reader.schema.names
    if len(set(names)) < len(names):
        raise ValueError("two columns have the same name")
    convert = pacsv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    with (
        UnpackingReader(path.open("rb")) as file,
        pacsv.open_csv(file, parse_options=parse, convert_options=convert) as reader,
    ):
        for batch in reader:
            columns = [column.to_pylist() for column in batch.columns]
            yield names, zip(*columns, strict=True)


def _jsonl(path: Path) -> Iterator[Rows]:
    with UnpackingReader(path.open("rb")) as file:
        grouped: Iterator[tuple[tuple[str, ...], Iterator[dict[str, Any]]]] = groupby(_objects(file), key=_names)
        for names, rows in grouped:
            if not names:
                raise ValueError("a line is an object without fields")
            yield names, (tuple(row.values()) for row in rows)


def _names(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row)


def _objects(file: UnpackingReader) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(file), 1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not an object")
            yield row


def _lines(file: UnpackingReader) -> Iterator[bytes]:
    rest = b""
    while data := file.read(1 << 20):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
    if rest:
        yield rest
