"""Streams: lengths, hashes and compression, a piece at a time."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
from pathlib import Path

import pytest
import zstandard

from airflow_provider_d1.exceptions import D1DumpError
from airflow_provider_d1.staging.streams import (
    CompressedFile,
    CompressingReader,
    MeteredReader,
    UnpackingReader,
    file_sha256,
)

DATA = random.Random(5).randbytes(700_000) + b"compressible " * 200_000


class Short:
    """Gives fewer bytes than asked for, and remembers how many it was ever asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self._random = random.Random(2)
        self.largest = 0

    def read(self, size: int, /) -> bytes:
        self.largest = max(self.largest, size)
        return self._data.read(min(size, self._random.randint(1, 90_000)))


def unpack(codec: str, data: bytes) -> bytes:
    return gzip.decompress(data) if codec == "gzip" else zstandard.ZstdDecompressor().decompressobj().decompress(data)


def test_a_metered_stream_knows_what_passed() -> None:
    seen: list[int] = []
    source = Short(DATA)
    metered = MeteredReader(source, on_bytes=seen.append)
    assert io.BufferedReader(metered).read() == DATA
    assert (metered.length, sum(seen)) == (len(DATA), len(DATA))
    assert metered.sha256 == hashlib.sha256(DATA).hexdigest()
    assert source.largest <= 1 << 20


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_stream_compresses_as_it_is_read(codec: str) -> None:
    packed = io.BufferedReader(CompressingReader(Short(DATA), codec)).read()
    assert unpack(codec, packed) == DATA
    assert len(packed) < len(DATA) / 3


@pytest.mark.parametrize("codec", ["gzip", "zstd", None])
def test_a_file_knows_its_size_at_any_time(codec: str | None, tmp_path: Path) -> None:
    path = tmp_path / "f"
    file = CompressedFile(path, codec)
    for start in range(0, len(DATA), 100_000):
        piece = DATA[start : start + 100_000]
        bound = file.size_bound(len(piece))
        file.write(piece)
        assert path.stat().st_size <= bound
        final_bound = file.size_bound(0)
    file.close()
    assert path.stat().st_size <= final_bound
    content = path.read_bytes()
    assert (content if codec is None else unpack(codec, content)) == DATA
    assert file_sha256(path) == hashlib.sha256(content).hexdigest()


PACKINGS = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": zstandard.compress,
    "two gzip members": lambda data: gzip.compress(data[:1000], 1) + gzip.compress(data[1000:], 1),
    "skippable zstd frame": lambda data: b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstandard.compress(data),
    "two zstd frames": lambda data: zstandard.compress(data[:1000]) + zstandard.compress(data[1000:]),
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_dumps_are_known_by_their_first_bytes(packing: str, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(PACKINGS[packing](DATA))
    with UnpackingReader(path.open("rb")) as reader:
        assert io.BufferedReader(reader).read() == DATA


@pytest.mark.parametrize("packing", [name for name in PACKINGS if name != "plain"])
@pytest.mark.parametrize("damage", ["cut", "cut early", "flipped"])
def test_a_damaged_file_is_an_error_and_never_a_short_dump(packing: str, damage: str) -> None:
    packed = bytearray(PACKINGS[packing](DATA))
    match damage:
        case "cut":
            del packed[-9:]
        case "cut early":
            del packed[len(packed) // 2 :]
        case _:
            packed[-3] ^= 0x55
    with pytest.raises(D1DumpError, match="truncated or damaged"):
        io.BufferedReader(UnpackingReader(io.BufferedReader(io.BytesIO(bytes(packed))))).read()


@pytest.mark.parametrize("content", [b"", b"\x1f", b"a"])
def test_a_tiny_dump_is_plain(content: bytes) -> None:
    assert UnpackingReader(io.BufferedReader(io.BytesIO(content))).read() == content
