"""CSV parts: RFC 4180, UTF-8, header, LF; NULL is empty and unquoted, an empty text is ``""``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from airflow_provider_d1.dump.hex_codec import encode_hex
from airflow_provider_d1.staging.streams import SUFFIXES
from airflow_provider_d1.staging.text_files import BATCH_BYTES, TextPart, has_infinity, number_text
from airflow_provider_d1.staging.text_reader import read_csv


class CsvFormat:
    """CSV through Arrow's own writer, which quotes every text and no number."""

    batch_bytes = BATCH_BYTES

    def __init__(self, codec: str | None) -> None:
        self._codec = codec
        self.suffix = f".csv{SUFFIXES[codec]}"

    def open(self, path: Path | None, schema: pa.Schema, sample: pa.Table) -> TextPart:  # noqa: ARG002 # not needed
        """Create a file with its header."""
        return TextPart(path, self._codec, encode, _header(schema.names))

    def read(self, path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
        """Read back the rows; only the rewriting of parts needs this."""
        return read_csv(path, schema)


def encode(rows: pa.Table) -> pa.Buffer:
    """Rows as CSV lines."""
    columns = [_printable(column.combine_chunks()) for column in rows.columns]
    out = pa.BufferOutputStream()
    pacsv.write_csv(
        pa.RecordBatch.from_arrays(columns, names=[str(index) for index in range(len(columns))]),
        out,
        pacsv.WriteOptions(include_header=False, quoting_style="needed"),
    )
    return out.getvalue()


def _printable(column: pa.Array) -> pa.Array:
    if pa.types.is_binary(column.type):
        return encode_hex(column)
    if pa.types.is_floating(column.type) and has_infinity(column):
        return number_text(column)
    return column


def _header(names: list[str]) -> bytes:
    def quoted(name: str) -> str:
        plain = name and not any(character in name for character in '",\r\n') and name == name.strip()
        return name if plain else '"' + name.replace('"', '""') + '"'

    return (",".join(map(quoted, names)) + "\n").encode()
