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
        """Append rows, unless the finished file could then be larger than ``limit`` bytes: False, nothing is written.

        :param limit: None writes in any case.
        """

    def close(self) -> None:
        """Finish the file; also called for one that is given up."""


class TableFormat(Protocol):
    """Writes tables into files, and reads its own files back to the last bit."""

    suffix: str
    #: how many bytes of Arrow data make a good write: a row group, a run of text lines
    batch_bytes: int

    def open(self, path: Path, schema: pa.Schema, sample: pa.Table) -> PartFile:
        """Begin a file.

        :param schema: columns; its metadata goes into the file where the format has a place for it.
        :param sample: the first rows, for choices that depend on data; may be empty.
        """

    def read(self, path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
        """Read a finished file of this format, a bounded piece at a time.

        :param schema: what it was opened with.
        """


def table_format(options: StagingOptions) -> TableFormat:
    """Return the format that the options name, ready for use.

    :raises KeyError: for ``"sql"``, which knows no tables.
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
