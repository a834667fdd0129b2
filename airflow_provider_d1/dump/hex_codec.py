"""Binary columns as upper-case hexadecimal text and back, a whole column at a time.

This is the form of blobs in mixed columns, CSV and JSON Lines.
"""

from __future__ import annotations

import binascii

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def encode_hex(column: pa.Array) -> pa.Array:
    """Return a binary column (or a slice of one) as upper-case hexadecimal text; NULL stays NULL."""
    bounds, data = _bounds_and_data(column)
    return _with_values(column, pa.string(), bounds * 2, binascii.hexlify(data).upper())


def decode_hex(column: pa.Array) -> pa.Array:
    """Return a column (or a slice of one) of hexadecimal text as binary; NULL stays NULL.

    :raises ValueError: for an odd number of digits, or for another character.
    """
    # a NULL may have bytes, which would be decoded too
    bounds, data = _bounds_and_data(pc.fill_null(column, "") if column.null_count else column)
    if (bounds & 1).any():
        raise ValueError("a binary value has an odd number of hexadecimal digits")
    try:
        values = binascii.unhexlify(data)
    except binascii.Error:
        raise ValueError("a binary value is not hexadecimal") from None
    return _with_values(column, pa.binary(), bounds // 2, values)


def _bounds_and_data(column: pa.Array) -> tuple[npt.NDArray[np.int32], memoryview]:
    """Return where the values start (and the last one ends), counted from the first, and their bytes."""
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    first, last = int(bounds[0]), int(bounds[-1])
    return bounds - bounds[0], memoryview(data or b"")[first:last]


def _with_values(column: pa.Array, target: pa.DataType, bounds: npt.NDArray[np.int32], data: bytes) -> pa.Array:
    valid = column.is_valid().buffers()[1] if column.null_count else None
    return pa.Array.from_buffers(
        target, len(column), [valid, pa.py_buffer(bounds.astype(np.int32)), pa.py_buffer(data)]
    )
