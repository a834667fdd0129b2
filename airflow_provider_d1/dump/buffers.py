"""Arrow arrays as numpy views and back.

``pa.array``, ``pa.scalar`` and ``to_numpy`` import pandas where it is installed, which takes half a second and more;
buffers do not. All functions expect arrays without an offset (no slices).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]
Offsets = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


def bitmap(mask: Mask) -> pa.Buffer:
    """Return a mask as Arrow's validity bits."""
    return pa.py_buffer(np.packbits(mask, bitorder="little"))


def text_data(array: pa.Array) -> tuple[Bytes, Offsets]:
    """Return the bytes of all values of a string or binary array, and where each value starts and the last one ends."""
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int32, count=len(array) + 1)
    if data is None:
        return np.empty(0, np.uint8), bounds
    return np.frombuffer(data, np.uint8, count=int(bounds[-1])), bounds


def integers(array: pa.Array) -> npt.NDArray[np.int64]:
    """Return the values of an int64 array; at NULLs it is undefined."""
    return np.frombuffer(array.buffers()[1], np.int64, count=len(array))


def doubles(array: pa.Array) -> npt.NDArray[np.float64]:
    """Return the values of a float64 array; at NULLs it is undefined."""
    return np.frombuffer(array.buffers()[1], np.float64, count=len(array))


def with_values(array: pa.Array, values: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> pa.Array:
    """Return an array of numbers with other values and the same NULLs."""
    return pa.Array.from_buffers(array.type, len(array), [array.buffers()[0], pa.py_buffer(values)])


def true_rows(array: pa.Array) -> Mask:
    """Return a boolean array as a mask; NULL is False."""
    mask = _unpacked(array.buffers()[1], len(array))
    return mask & valid_rows(array) if array.null_count else mask


def valid_rows(array: pa.Array) -> Mask:
    """Return which values are not NULL."""
    return _unpacked(array.buffers()[0], len(array)) if array.null_count else np.ones(len(array), np.bool_)


def _unpacked(bits: pa.Buffer, count: int) -> Mask:
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=count, bitorder="little").view(np.bool_)


def rows_at(offsets: Offsets, positions: Positions) -> Mask:
    """Return which values of a text array contain the bytes at some positions."""
    mask = np.zeros(len(offsets) - 1, np.bool_)
    mask[np.searchsorted(offsets, positions, side="right") - 1] = True
    return mask


def rows_mask(rows: Positions, count: int) -> Mask:
    """Return row numbers as a mask."""
    mask = np.zeros(count, np.bool_)
    mask[rows] = True
    return mask


def take_rows(array: pa.Array, rows: Positions) -> pa.Array:
    """Return some rows of an array."""
    return array.take(pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows.astype(np.int64))]))


def only_rows(array: pa.Array, mask: Mask) -> pa.Array:
    """Return an array with NULL in all other rows."""
    everywhere = pa.py_buffer(np.arange(len(array), dtype=np.int64))
    return array.take(pa.Array.from_buffers(pa.int64(), len(array), [bitmap(mask), everywhere]))


def take_slices(buffer: pa.Buffer, starts: Positions, ends: Positions, present: Mask | None = None) -> pa.Array:
    """Copy slices of a buffer into a string array (their UTF-8 must have been checked).

    The slices and the gaps between them are taken as one array, because Arrow's offsets allow no gaps. Then every other
    value of it is copied.

    :param starts: ascending.
    :param ends: exclusive; no slice overlaps the next one.
    :param present: where False, NULL is given instead.
    """
    count = len(starts)
    offsets = np.empty(2 * count, np.int32)
    offsets[0::2] = starts
    offsets[1::2] = ends
    slices = pa.Array.from_buffers(pa.string(), 2 * count - 1, [None, pa.py_buffer(offsets), buffer])
    every_other = pa.py_buffer(np.arange(0, 2 * count, 2, dtype=np.int32))
    validity = None if present is None else bitmap(present)
    return slices.take(pa.Array.from_buffers(pa.int32(), count, [validity, every_other]))
