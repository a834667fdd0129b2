"""Parquet parts: row groups of bounded size, dictionaries where they save space, statistics, and metadata."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

#: Rows are kept as parsed blocks until they fill a row group, are cast to the column types, and are encoded: up to
#: three copies at a time. So this size determines the memory of the whole pipeline; twice the size adds half to the
#: peak.
ROW_GROUP_BYTES = 16 << 20

_SAMPLE_ROWS = 4096
#: what a column chunk can add beyond its values: page headers, statistics, its entry in the footer
_COLUMN_OVERHEAD = 600
_FOOTER_OVERHEAD = 2048
#: Bytes of a dictionary index. Parquet stops using a dictionary above 1 MiB, so an index has at most 18 bits. Up to
#: there each row may need an index besides its value, so a column can be larger with a dictionary than without.
_INDEX_BYTES = 2.5


class ParquetFormat:
    """Parquet with zstd level 1 by default, which is as fast as snappy here, and a third smaller."""

    suffix = ".parquet"
    batch_bytes = ROW_GROUP_BYTES

    def __init__(self, codec: str | None) -> None:
        self._codec = codec

    def open(self, path: Path | None, schema: pa.Schema, sample: pa.Table) -> ParquetPart:
        """Create a file; a column is dictionary-encoded when under a quarter of the sample's values are distinct."""
        return ParquetPart(path, schema, self._codec, _repetitive(sample))

    def read(self, path: Path, schema: pa.Schema) -> Iterator[pa.Table]:  # noqa: ARG002 # the file contains its schema
        """Read a row group at a time."""
        with pa.OSFile(os.fsencode(path), "rb") as source, pq.ParquetFile(source) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, use_threads=False)


class ParquetPart:
    """One Parquet file; every :meth:`add` is a row group."""

    def __init__(self, path: Path | None, schema: pa.Schema, codec: str | None, dictionary: list[str]) -> None:
        self._schema = schema
        self._path = path
        # Arrow accepts a str only as UTF-8
        self._file = pa.BufferOutputStream() if path is None else pa.OSFile(os.fsencode(path), "wb")
        self._groups = 0
        self._dictionaries = len(dictionary)
        # the schema and its metadata in the footer, once as Parquet's own and once as Arrow's in base64
        self._footer = _FOOTER_OVERHEAD + 3 * schema.serialize().size
        self._writer = pq.ParquetWriter(
            self._file,
            schema,
            compression=codec or "none",
            compression_level=1 if codec == "zstd" else None,
            use_dictionary=dictionary,
        )

    def add(self, rows: pa.Table, limit: int | None) -> bool:
        """Write a row group, unless the file could exceed the limit.

        The size of a row group is known only after it was written, and it cannot be removed then. So this uses an
        upper bound: the Arrow size of the rows, since compression only makes them smaller, plus dictionary
        indices, page headers and the footer, which compression does not cover.
        """
        if limit is not None:
            overhead = (self._groups + 1) * len(self._schema) * _COLUMN_OVERHEAD + self._footer
            indices = self._dictionaries * rows.num_rows * _INDEX_BYTES
            if self._file.tell() + rows.nbytes + indices + overhead > limit:
                return False
        # one row group for each call, which the writer's default size would split
        self._writer.write_table(rows, row_group_size=max(1, rows.num_rows))
        self._groups += 1
        return True

    def close(self) -> Path | bytes:
        """Write the footer."""
        with contextlib.closing(self._file):
            self._writer.close()
            return self._file.getvalue().to_pybytes() if self._path is None else self._path


def _repetitive(sample: pa.Table) -> list[str]:
    """Names of the columns whose values repeat enough for a dictionary."""
    rows = sample.slice(0, _SAMPLE_ROWS)
    names = []
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        values = len(column) - column.null_count
        # of four values, one distinct value at least is a quarter
        if values > 4 and pc.count_distinct(column, mode="only_valid").as_py() * 4 < values:
            names.append(name)
    return names
