"""Detect the encoding of a dump from its first bytes. Only UTF-8 is supported; other encodings get a clear error.

PowerShell's ``>`` writes UTF-16 with a byte order mark, and other tools on Windows omit the mark. The first two
characters of a dump are ASCII, so the positions of zero bytes between them show the encoding.
"""

from __future__ import annotations

from airflow_provider_d1.exceptions import D1DumpError

#: enough bytes to detect each of them
LONGEST_START = 8

_UTF8_MARK = b"\xef\xbb\xbf"
#: byte order marks; of two that begin with the same bytes the longer one first
_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32LE"),
    (b"\0\0\xfe\xff", "UTF-32BE"),
    (b"\xff\xfe", "UTF-16LE"),
    (b"\xfe\xff", "UTF-16BE"),
)
#: which of the first eight bytes are zero when two ASCII characters come first
_ZEROS = (
    ((False, True, True, True) * 2, "UTF-32LE"),
    ((True, True, True, False) * 2, "UTF-32BE"),
    ((False, True) * 2, "UTF-16LE"),
    ((True, False) * 2, "UTF-16BE"),
)


def check_encoding(start: bytes) -> int:
    """Return the length of a dump's UTF-8 byte order mark, 0 when it has none.

    :param start: the first ``LONGEST_START`` bytes, or all of a shorter dump.
    :raises D1DumpError: naming the encoding, for UTF-16 and UTF-32.
    """
    if start.startswith(_UTF8_MARK):
        return len(_UTF8_MARK)
    zeros = tuple(byte == 0 for byte in start)
    name = next((name for mark, name in _MARKS if start.startswith(mark)), None) or next(
        (name for pattern, name in _ZEROS if zeros[: len(pattern)] == pattern), None
    )
    if name is not None:
        raise D1DumpError(
            f"dump is encoded in {name}, expected UTF-8. PowerShell's > writes UTF-16: download the dump again"
            f" with an option such as --output, or convert it: iconv -f {name} -t UTF-8",
            offset=0,
        )
    return 0
