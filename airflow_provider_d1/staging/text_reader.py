"""Read staged CSV and JSON Lines: exact values, bounded memory, for the rewriting of parts and for the warehouses."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson

from airflow_provider_d1.dump.hex_codec import decode_hex
from airflow_provider_d1.staging.streams import UnpackingReader

#: how much of a file is decoded at a time
BLOCK_BYTES = 8 << 20


def read_csv(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """Read a CSV part with a header, gzip or zstd or plain, a bounded block at a time; every value exactly.

    :raises ValueError: when its columns are not the schema's.
    """
    names = [str(number) for number in range(len(schema))]  # unique even where two columns differ only in case
    binary = _binary_columns(schema)
    convert = pacsv.ConvertOptions(
        column_types={
            name: pa.string() if number in binary else schema.field(number).type for number, name in enumerate(names)
        },
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        check_utf8=True,
    )
    parse = pacsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
    with UnpackingReader(path.open("rb")) as file:
        blocks = _row_blocks(file, _end_of_csv_rows)
        header_left = True
        for block in blocks:
            if header_left:
                block = _without_header(block, schema)  # noqa: PLW2901 - the same block, less its first row
                header_left = False
            if not block:
                continue
            read = pacsv.ReadOptions(column_names=names, block_size=len(block) + 1)
            table = pacsv.read_csv(io.BytesIO(block), read, parse, convert)
            yield _as_schema(table, schema, binary)
        if header_left:
            raise ValueError("it has no header")


def _without_header(block: bytes, schema: pa.Schema) -> bytes:
    end = _end_of_first_row(block)
    found = next(csv.reader(io.StringIO(block[:end].decode(), newline="")), [])
    if found != schema.names:
        raise ValueError(f"its header is {found}, not {schema.names}")
    return block[end:]


def _end_of_first_row(block: bytes) -> int:
    end = block.find(b"\n") + 1
    while end and block.count(b'"', 0, end) % 2:
        end = block.find(b"\n", end) + 1
    return end or len(block)


def _end_of_csv_rows(block: bytes) -> int:
    """Where the last whole row of a block ends, given that the block begins with a row: a newline outside quotes."""
    quotes_after = 0
    quotes = block.count(b'"')
    upper = len(block)
    while (newline := block.rfind(b"\n", 0, upper)) >= 0:
        quotes_after += block.count(b'"', newline, upper)
        if (quotes - quotes_after) % 2 == 0:
            return newline + 1
        # inside a quoted text: go on before the quote that opened it
        upper = block.rfind(b'"', 0, newline)
        quotes_after += block.count(b'"', upper, newline)
    return 0


def read_jsonl(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """Read a JSON Lines part as :func:`read_csv` does.

    :raises ValueError: when its fields are not the schema's.
    """
    binary = _binary_columns(schema)
    text_schema = pa.schema([field.with_type(pa.string()) if i in binary else field for i, field in enumerate(schema)])
    parse = pajson.ParseOptions(explicit_schema=text_schema, unexpected_field_behavior="error")
    with UnpackingReader(path.open("rb")) as file:
        for block in _row_blocks(file, lambda block: block.rfind(b"\n") + 1):
            read = pajson.ReadOptions(block_size=len(block) + 1)
            try:
                table = pajson.read_json(io.BytesIO(block), read, parse)
            except pa.ArrowInvalid:
                # an infinity, which is a string among numbers, or a block that is really broken
                table = _exact_json(block, text_schema)
            if table.column_names != text_schema.names:
                raise ValueError(f"its fields are {table.column_names}, not {text_schema.names}")
            yield _as_schema(table, schema, binary)


def _binary_columns(schema: pa.Schema) -> list[int]:
    return [number for number, field in enumerate(schema) if pa.types.is_binary(field.type)]


def _exact_json(block: bytes, schema: pa.Schema) -> pa.Table:
    rows = [json.loads(line) for line in block.split(b"\n") if line]
    names = set(schema.names)
    for row in rows:
        if not isinstance(row, dict) or row.keys() != names:
            raise ValueError(f"a line is not an object with the fields {schema.names}")
    arrays = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if pa.types.is_floating(field.type):
            values = [_INFINITIES[value] if isinstance(value, str) else value for value in values]
        elif pa.types.is_temporal(field.type):
            arrays.append(pa.array(values, pa.string()).cast(field.type))
            continue
        arrays.append(pa.array(values, field.type))
    return pa.table(arrays, schema=schema)


class _Infinities(dict[str, float]):
    def __missing__(self, text: str) -> float:
        raise ValueError(f"{text!r} is not a number")


_INFINITIES = _Infinities({"Infinity": float("inf"), "-Infinity": float("-inf")})


def _as_schema(table: pa.Table, schema: pa.Schema, binary: list[int]) -> pa.Table:
    columns = [
        pa.chunked_array([decode_hex(chunk) for chunk in column.chunks if len(chunk)], pa.binary())
        if number in binary
        else column
        for number, column in enumerate(table.columns)
    ]
    return pa.table(columns, schema=schema)


def _row_blocks(file: UnpackingReader, end_of_rows: Callable[[bytes], int]) -> Iterator[bytes]:
    """Cut a stream into blocks of whole rows; a row longer than a block makes its block as long as it needs to be."""
    rest = b""
    wanted = BLOCK_BYTES
    while read := file.read(wanted):
        rest += read
        end = end_of_rows(rest)
        if end:
            yield rest[:end]
            rest = rest[end:]
            wanted = BLOCK_BYTES
        else:
            wanted = len(rest)  # double, so that a long row is not searched again and again
    if rest:
        yield rest
