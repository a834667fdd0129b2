"""Staged files as Arrow record batches: one reader for every format, with exact values and bounded memory.

Warehouses differ in what they make of an empty CSV field, of ``Infinity`` or of hexadecimal text. Those that are not
given Parquet to read by themselves get their rows from here, so that all of them hold the same values.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1DumpError, D1ManifestError
from airflow_provider_d1.staging.streams import UnpackingReader

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_d1.warehouses.plan import Column, Table
    from airflow_provider_d1.warehouses.staged_files import StagedFiles

#: how much of a file is decoded at a time; a batch of this size is what a load holds in memory
BLOCK_BYTES = 8 << 20
_MAX_ROWS = 1 << 16


def staged_batches(files: StagedFiles, table: Table, file_format: str) -> Iterator[pa.RecordBatch]:
    """Read a table's parts in order, as batches with exactly its columns and their staged types.

    :raises D1ManifestError: naming the table, for a part that is not what the manifest says: its bytes, its rows,
        its columns, or values that are none of their type.
    """
    import pyarrow as pa

    read = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}[file_format]
    for part, path in files.opened(table):
        rows = 0
        try:
            for batch in read(path, table.columns):
                rows += batch.num_rows
                yield batch
        except (D1DumpError, pa.ArrowException, ArithmeticError, ValueError, OSError, EOFError) as error:
            raise D1ManifestError(f"table {table.name!r}: its part {part.uri} can't be read: {error}") from error
        if rows != part.rows:
            raise D1ManifestError(
                f"table {table.name!r}: its part {part.uri} has {rows} rows, the manifest says {part.rows}"
            )


def schema_of(columns: tuple[Column, ...]) -> pa.Schema:
    """The Arrow schema of staged columns."""
    import pyarrow as pa

    return pa.schema([(column.name, arrow_type(column.type)) for column in columns])


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type behind a name that a manifest can hold."""
    import pyarrow as pa

    return {
        "int64": pa.int64(),
        "float64": pa.float64(),
        "string": pa.string(),
        "binary": pa.binary(),
        "timestamp[us]": pa.timestamp("us"),
        "date32": pa.date32(),
    }[name]


def check_parquet(path: Path, columns: tuple[Column, ...]) -> int:
    """Compare a Parquet file's schema with the manifest's and return its rows, reading only its footer.

    :raises ValueError: naming what differs.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        _check_schema(file, columns)
        return int(file.metadata.num_rows)


def _check_schema(file: Any, columns: tuple[Column, ...]) -> None:
    found = [(field.name, field.type) for field in file.schema_arrow]
    expected = [(field.name, field.type) for field in schema_of(columns)]
    if found != expected:
        raise ValueError(f"its columns are {found}, not {expected}")


def _parquet(path: Path, columns: tuple[Column, ...]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        _check_schema(file, columns)
        for group in range(file.num_row_groups):
            facts = file.metadata.row_group(group)
            width = max(1, facts.total_byte_size // max(1, facts.num_rows))
            rows = max(1, min(_MAX_ROWS, BLOCK_BYTES // width))
            yield from file.iter_batches(batch_size=rows, row_groups=[group])


def _csv(path: Path, columns: tuple[Column, ...]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.csv as pacsv

    schema = schema_of(columns)
    names = [str(number) for number in range(len(columns))]  # unique even where two columns differ only in case
    binary = [number for number, column in enumerate(columns) if column.type == "binary"]
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
                block = _without_header(block, columns)  # noqa: PLW2901 - the same block, less its first row
                header_left = False
            if not block:
                continue
            read = pacsv.ReadOptions(column_names=names, block_size=len(block) + 1)
            table = pacsv.read_csv(io.BytesIO(block), read, parse, convert)
            yield from _as_schema(table, schema, binary)
        if header_left:
            raise ValueError("it has no header")


def _without_header(block: bytes, columns: tuple[Column, ...]) -> bytes:
    end = _end_of_first_row(block)
    found = next(csv.reader(io.StringIO(block[:end].decode(), newline="")), [])
    expected = [column.name for column in columns]
    if found != expected:
        raise ValueError(f"its header is {found}, not {expected}")
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


def _jsonl(path: Path, columns: tuple[Column, ...]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.json as pajson

    schema = schema_of(columns)
    binary = [number for number, column in enumerate(columns) if column.type == "binary"]
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
            yield from _as_schema(table, schema, binary)


def _exact_json(block: bytes, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

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


def _as_schema(table: pa.Table, schema: pa.Schema, binary: list[int]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    from airflow_provider_d1.dump.hex_codec import decode_hex

    columns = [
        pa.chunked_array([decode_hex(chunk) for chunk in column.chunks if len(chunk)], pa.binary())
        if number in binary
        else column
        for number, column in enumerate(table.columns)
    ]
    yield from pa.table(columns, schema=schema).to_batches(max_chunksize=_MAX_ROWS)


def _row_blocks(file: UnpackingReader, end_of_rows: Any) -> Iterator[bytes]:
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
