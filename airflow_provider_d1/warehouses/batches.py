"""Staged files as Arrow record batches: one reader for every format, with exact values and bounded memory.

Warehouses differ in what they make of an empty CSV field, of ``Infinity`` or of hexadecimal text. Those that are not
given Parquet to read by themselves get their rows from here, so that all of them hold the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1DumpError, D1ManifestError

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_d1.warehouses.plan import Column, Table
    from airflow_provider_d1.warehouses.staged_files import StagedFiles

#: how much of a file is decoded at a time; a batch of this size is what a load holds in memory
BLOCK_BYTES = 8 << 20
_MAX_ROWS = 1 << 16


def staged_batches(files: StagedFiles, table: Table, file_format: str) -> Iterator[pa.RecordBatch]:
    """Read a table's parts in order, as batches with exactly the files' columns and their staged types.

    :raises D1ManifestError: naming the table, for a part that is not what the manifest says: its bytes, its rows,
        its columns, or values that are none of their type.
    """
    import pyarrow as pa

    read = _parquet if file_format == "parquet" else _text_reader(file_format)
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
    """The Arrow schema of columns by their names in the warehouse."""
    import pyarrow as pa

    return pa.schema([(column.name, arrow_type(column.type)) for column in columns])


def file_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """The same by their names in the files."""
    import pyarrow as pa

    return pa.schema([(column.source_name, arrow_type(column.type)) for column in columns])


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


def write_renamed(path: Path, table: Table, into: Path) -> None:
    """Copy a Parquet file, with the columns' names in the warehouse; the values are the same.

    :raises ValueError: when the file does not have the table's columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = schema_of(table.columns)
    with pq.ParquetWriter(into, schema, compression="zstd") as writer:
        for batch in _parquet(path, table.columns):
            writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))


def _check_schema(file: Any, columns: tuple[Column, ...]) -> None:
    found = [(field.name, field.type) for field in file.schema_arrow]
    expected = [(field.name, field.type) for field in file_schema(columns)]
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


def _text_reader(file_format: str) -> Callable[[Path, tuple[Column, ...]], Iterator[pa.RecordBatch]]:
    from airflow_provider_d1.staging.text_reader import read_csv, read_jsonl

    read = {"csv": read_csv, "jsonl": read_jsonl}[file_format]

    def batches(path: Path, columns: tuple[Column, ...]) -> Iterator[pa.RecordBatch]:
        for table in read(path, file_schema(columns)):
            yield from table.to_batches(max_chunksize=_MAX_ROWS)

    return batches
