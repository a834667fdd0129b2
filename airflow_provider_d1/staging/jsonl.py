"""JSON Lines parts: one object a row, NULL is null, infinities and binary values are strings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_d1.dump.hex_codec import encode_hex
from airflow_provider_d1.staging.streams import SUFFIXES
from airflow_provider_d1.staging.text_files import BATCH_BYTES, TextPart, has_infinity, number_text
from airflow_provider_d1.staging.text_reader import read_jsonl


class JsonLinesFormat:
    """JSON made from whole columns: each is converted to text, and Arrow joins them row by row."""

    batch_bytes = BATCH_BYTES

    def __init__(self, codec: str | None) -> None:
        self._codec = codec
        self.suffix = f".jsonl{SUFFIXES[codec]}"

    def open(self, path: Path | None, schema: pa.Schema, sample: pa.Table) -> TextPart:  # noqa: ARG002 # not needed
        """Create a file; without rows it is empty, as the format has no schema."""
        return TextPart(path, self._codec, encode, b"")

    def read(self, path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
        """Read back the rows; only the rewriting of parts needs this."""
        return read_jsonl(path, schema)


def encode(rows: pa.Table) -> pa.Buffer:
    """Rows as JSON lines."""
    pieces: list[pa.Array | str] = []
    before = "{"
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        pieces += [f"{before}{json.dumps(name, ensure_ascii=False)}:", _values(column.combine_chunks())]
        before = ","
    lines = pc.binary_join_element_wise(*pieces, "}\n", "")
    offsets = np.frombuffer(lines.buffers()[1], np.int32)
    return lines.buffers()[2].slice(0, int(offsets[len(lines)]))


def _values(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_string(kind):
        text = _quoted(_escaped(column))
    elif pa.types.is_binary(kind):
        text = _quoted(encode_hex(column))
    elif pa.types.is_temporal(kind):
        text = _quoted(number_text(column))
    elif pa.types.is_floating(kind):
        text = _reals(column)
    else:
        text = number_text(column)
    return pc.fill_null(text, "null") if column.null_count else text


def _reals(column: pa.Array) -> pa.Array:
    text = number_text(column)
    if has_infinity(column):
        text = pc.if_else(pc.is_inf(column), _quoted(text), text)
    zero = pc.equal(column, 0.0)
    if pc.any(zero).as_py():
        # "-0" would be read as the integer 0, which has no sign
        text = pc.if_else(pc.and_(zero, pc.equal(text, "-0")), "-0.0", text)
    return text


def _quoted(text: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise('"', text, '"', "")


def _escaped(column: pa.Array) -> pa.Array:
    """Escape the characters that JSON does not allow in a string, one kind at a time, and only those that occur."""
    data = column.buffers()[2]
    if data is None or not len(column):
        return column
    offsets = np.frombuffer(column.buffers()[1], np.int32)
    body = np.frombuffer(data, np.uint8)[offsets[column.offset] : offsets[column.offset + len(column)]]
    # the backslash first, as the other escapes add backslashes
    if (body == 0x5C).any():
        column = pc.replace_substring(column, "\\", "\\\\")
    if (body == 0x22).any():
        column = pc.replace_substring(column, '"', '\\"')
    controls = body[body < 0x20]
    if controls.size:
        for code in np.unique(controls).tolist():
            column = pc.replace_substring(column, chr(code), json.dumps(chr(code))[1:-1])
    return column
