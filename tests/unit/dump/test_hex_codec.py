from __future__ import annotations

import pyarrow as pa
import pytest

from airflow_provider_d1.dump.hex_codec import decode_hex, encode_hex

BLOBS = [b"\x00\xff", None, b"", b"abc", None, b"\n'"]
TEXTS = ["00FF", None, "", "616263", None, "0A27"]


@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize("length", range(4))
def test_there_and_back_for_every_slice(start: int, length: int) -> None:
    blobs = pa.array(BLOBS, pa.binary()).slice(start, length)
    texts = pa.array(TEXTS, pa.string()).slice(start, length)
    for ours, expected in ((encode_hex(blobs), texts), (decode_hex(texts), blobs)):
        ours.validate(full=True)
        assert ours.type == expected.type
        assert ours.to_pylist() == expected.to_pylist()


def test_lower_case_digits_are_read_too() -> None:
    assert decode_hex(pa.array(["0aFf"])).to_pylist() == [b"\x0a\xff"]


@pytest.mark.parametrize("values", [["0"], ["000", "0"], ["zz"], ["00", "0g"], [" 00 "], ["é"]])
def test_other_characters_are_refused(values: list[str]) -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        decode_hex(pa.array(values))


def test_what_is_under_a_null_does_not_matter() -> None:
    texts = pa.array(["zz", "00"])
    hidden = pa.Array.from_buffers(pa.string(), 2, [pa.py_buffer(b"\x02"), *texts.buffers()[1:]])
    assert decode_hex(hidden).to_pylist() == [None, b"\x00"]
