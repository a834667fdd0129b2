"""CSV parts: RFC 4180, UTF-8, header, LF; NULL is empty and unquoted, an empty text is ``""``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from airflow_provider_d1.dump.hex_codec import encode_hex
from airflow_provider_d1.staging.streams import SUFFIXES, UnpackingReader
from airflow_provider_d1.staging.text_files import BATCH_BYTES, TextPart, from_text, has_infinity, number_text

_FIRST_BLOCK = 4 << 20


class CsvFormat:
    """CSV through Arrow's own writer, which quotes every text and no number."""

    batch_bytes = BATCH_BYTES

    def __init__(self, codec: str | None) -> None:
        self._codec = codec
        self.suffix = f".csv{SUFFIXES[codec]}"

    def open(self, path: Path, schema: pa.Schema, sample: pa.Table) -> TextPart:  # noqa: ARG002 # not needed for CSV
        """Create a file with its header."""
        return TextPart(path, self._codec, encode, _header(schema.names))

    def read(self, path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
        """Read as text, which is exact, and convert every column to its original type."""
        block = _FIRST_BLOCK
        done = 0
        while True:
            try:
                for rows in _read_from(path, schema, block, skip=done):
                    done += rows.num_rows
                    yield rows
            except pa.ArrowInvalid as error:
                # a row longer than the block, of which nothing has been yielded
                if "straddling" not in str(error):
                    raise
                block *= 4
            else:
                return


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


def _read_from(path: Path, schema: pa.Schema, block: int, *, skip: int) -> Iterator[pa.Table]:
    numbered = [str(index) for index in range(len(schema))]
    file = UnpackingReader(path.open("rb"))
    try:
        reader = pacsv.open_csv(
            pa.PythonFile(file, mode="r"),
            read_options=pacsv.ReadOptions(use_threads=False, block_size=block, column_names=numbered),
            parse_options=pacsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(numbered, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                check_utf8=False,
            ),
        )
        skip += 1  # the header; names with quotes or newlines would confuse a reader of names
        for batch in reader:
            rows = batch.slice(min(skip, batch.num_rows))
            skip -= batch.num_rows - rows.num_rows
            if rows.num_rows:
                columns = [from_text(text, field.type) for text, field in zip(rows.columns, schema, strict=True)]
                yield pa.Table.from_arrays(columns, schema=schema)
    finally:
        file.close()
