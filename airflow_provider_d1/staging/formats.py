"""The protocol of a file format. Each has a module: :mod:`parquet`, :mod:`csv`, :mod:`jsonl`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_d1.staging.options import StagingOptions


class PartFile(Protocol):
    """One staged file being written. Not thread-safe."""

    def add(self, rows: pa.Table, limit: int | None) -> bool:
        """Append rows, or return False, without writing, if the finished file could exceed ``limit`` bytes.

        :param limit: None writes in any case.
        """

    def close(self) -> Path | bytes:
        """Finish the file, also one that is discarded; return its path, or its content when it is in memory."""


class TableFormat(Protocol):
    """Writes tables into files, and reads its own files back exactly."""

    suffix: str
    #: good size of one write in bytes of Arrow data: a row group, a batch of text lines
    batch_bytes: int

    def open(self, path: Path | None, schema: pa.Schema, sample: pa.Table) -> PartFile:
        """Create a file.

        :param path: None writes into memory.
        :param schema: columns; its metadata is stored where the format supports it.
        :param sample: the first rows, for decisions that depend on data; may be empty.
        """

    def read(self, path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
        """Read a finished file of this format in bounded pieces.

        :param schema: the one passed to :meth:`open`.
        """


def table_format(options: StagingOptions) -> TableFormat:
    """Return the format of the options.

    :raises KeyError: for ``"sql"``, which has no tables.
    """
    from airflow_provider_d1.staging.csv import CsvFormat
    from airflow_provider_d1.staging.jsonl import JsonLinesFormat
    from airflow_provider_d1.staging.parquet import ParquetFormat

    formats: dict[str, type[CsvFormat] | type[JsonLinesFormat] | type[ParquetFormat]] = {
        "parquet": ParquetFormat,
        "csv": CsvFormat,
        "jsonl": JsonLinesFormat,
    }
    return formats[options.file_format](options.codec)
