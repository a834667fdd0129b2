"""Encodings of a dump: UTF-8 with or without a byte order mark is read, any other is named in the error."""

from __future__ import annotations

from itertools import repeat

import pytest

from airflow_provider_d1.exceptions import D1DumpError
from tests.unit.dump.dump_oracle import read_with_ours

DUMP = "PRAGMA defer_foreign_keys=TRUE;\nCREATE TABLE t(a);\nINSERT INTO t VALUES('é');\n"
BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize("block_size", [1, 2, 1 << 20])
@pytest.mark.parametrize("size", [1, 2, 5, 1 << 20])
def test_a_utf8_byte_order_mark_is_accepted(size: int, block_size: int) -> None:
    staged = read_with_ours(BOM + DUMP.encode(), block_size=block_size, sizes=repeat(size))
    assert staged["t"].columns["a"].to_pylist() == ["é"]


def test_offsets_count_the_byte_order_mark() -> None:
    with pytest.raises(D1DumpError) as caught:
        read_with_ours(BOM + DUMP.encode() + b"x;")
    assert caught.value.offset == len(BOM + DUMP.encode())


@pytest.mark.parametrize("dump", [BOM, BOM + b" \n"])
def test_a_byte_order_mark_alone_is_an_empty_dump(dump: bytes) -> None:
    with pytest.raises(D1DumpError, match="dump is empty"):
        read_with_ours(dump)


def test_a_second_byte_order_mark_is_no_part_of_a_dump() -> None:
    with pytest.raises(D1DumpError, match="unexpected statement"):
        read_with_ours(BOM + BOM + DUMP.encode())


@pytest.mark.parametrize("mark", [True, False], ids=["with a byte order mark", "without"])
@pytest.mark.parametrize(
    ("codec", "name"),
    [("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE"), ("utf-32-le", "UTF-32LE"), ("utf-32-be", "UTF-32BE")],
)
@pytest.mark.parametrize("start", ["", "\r\n", "-- a comment\r\n"])
def test_another_encoding_is_named(codec: str, name: str, start: str, mark: bool) -> None:
    dump = (("\ufeff" if mark else "") + start + DUMP).encode(codec)
    for block_size, size in ((1, 1), (1 << 20, 1 << 20)):
        with pytest.raises(D1DumpError) as caught:
            read_with_ours(dump, block_size=block_size, sizes=repeat(size))
        assert str(caught.value) == (
            f"byte 0: dump is encoded in {name}, expected UTF-8. PowerShell's > writes UTF-16: download the dump again"
            f" with an option such as --output, or convert it: iconv -f {name} -t UTF-8"
        )


@pytest.mark.parametrize("dump", [b"x\0", b"\xff\xfe", b"\xff", b"\0\0\0\0\0"])
def test_a_few_bytes_of_something_else_are_refused(dump: bytes) -> None:
    with pytest.raises(D1DumpError):
        read_with_ours(dump)
