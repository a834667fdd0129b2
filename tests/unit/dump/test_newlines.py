r"""Texts with newlines, as D1's older and newer exporters write them.

Older ones always use the placeholders ``\n`` and ``\r``, so that a backslash and a letter beside a real newline become
one. Newer ones choose a placeholder that the text does not hold, and lose nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.unit.dump.dump_maker import d1_text, new_d1_text
from tests.unit.dump.dump_oracle import assert_same

if TYPE_CHECKING:
    from airflow_provider_d1.dump.column_types import ColumnStats

TEXTS = [
    "one line",
    "a\nb",
    "a\nb\nc",
    "\n",
    "\r\n\r\n",
    "it''s\n'quoted'\r",
    "literal \\n only",
    "literal \\n\nand real",
    '{\n "a": "x\\ny"\n}',
    "\\n\\012\n",
    "\\n\\012(\\n0)\n",
    "\\n\\012(\\n0)(\\n1)(\\n2)\nend",
    "\\r\r",
    "\\r\\015\r",
    "\\r\\015(\\r0)\r\n",
    "\\r\\n\r\n",
    "\\r\\012\r\n",
    "\\n\\015\r\n",
    "\\\\012\\n\n",
    "\\\\n\n\\",
    "\\012\n",
    "\\01\n2",
    "ends in \\012",
    "\\n,'\\012',char(10))\n",
    "replace('\\n','\\012',char(10))\n",
    "é\\n\n\ufffd",
]


def dump_of(literals: list[str]) -> bytes:
    rows = "".join(f"INSERT INTO t VALUES({number},{literal});\n" for number, literal in enumerate(literals))
    return f"CREATE TABLE t(id INTEGER, body TEXT);\n{rows}".encode()


@pytest.mark.parametrize("block_size", [1, 100, 1 << 20])
def test_the_newer_writer_loses_nothing(block_size: int) -> None:
    for texts in (TEXTS, [text for text in TEXTS if "0)" not in text] * 50, *([text] for text in TEXTS)):
        staged = assert_same(dump_of([new_d1_text(text) for text in texts]), block_size=block_size)
        assert staged["t"].columns["body"].to_pylist() == texts


@pytest.mark.parametrize("block_size", [1, 100, 1 << 20])
def test_the_older_writer_is_read_as_sqlite_reads_it(block_size: int) -> None:
    assert_same(dump_of([d1_text(text) for text in TEXTS * 3]), block_size=block_size)


def stats_of(*literals: str, block_size: int = 1 << 20) -> ColumnStats:
    return assert_same(dump_of(list(literals)), block_size=block_size)["t"].stats["body"]


@pytest.mark.parametrize(
    ("literal", "ambiguous", "exact"),
    [
        ("'a\\nb\\nc'", 0, 0),
        ("replace('a\\nb','\\n',char(10))", 0, 0),
        ("replace('a\\nb\\nc','\\n',char(10))", 1, 0),
        ("replace('a\\rb\\rc','\\r',char(13))", 1, 0),
        ("replace(replace('a\\r\\nb\\r\\n','\\r',char(13)),'\\n',char(10))", 1, 0),
        ("replace(replace('a\\r\\nb\\n','\\r',char(13)),'\\n',char(10))", 1, 0),
        ("replace('a\\n\\012b\\012','\\012',char(10))", 0, 1),
        ("replace('a\\r\\015b\\015','\\015',char(13))", 0, 1),
        ("replace('a\\n\\012(\\n0)(\\n0)','(\\n0)',char(10))", 0, 1),
        ("replace('a(\\r12)(\\r12)','(\\r12)',char(13))", 0, 1),
        ("replace(replace('a\\r\\r\\n\\012b','\\r',char(13)),'\\012',char(10))", 1, 1),
        ("replace(replace('a\\r\\015\\n\\nb','\\015',char(13)),'\\n',char(10))", 1, 1),
        ("replace(replace('a\\r\\015\\n\\012b','\\015',char(13)),'\\012',char(10))", 0, 1),
        ("replace('a012','012',char(10))", 0, 0),
        ("replace('a\\012','\\012','x')", 0, 0),
    ],
)
def test_what_is_ambiguous_and_what_proves_a_newer_writer(literal: str, ambiguous: int, exact: int) -> None:
    for others in ([], ["'x'"] * 20, ["replace('\\n','\\n',char(10))"] * 20):
        stats = stats_of(literal, *others)
        assert (stats.ambiguous_newlines, stats.exact_newlines) == (ambiguous, exact)
    stats = stats_of(*[literal] * 40)
    assert (stats.ambiguous_newlines, stats.exact_newlines) == (40 * ambiguous, 40 * exact)


def test_the_usual_placeholders_stay_on_the_fast_path() -> None:
    literals = [literal for literal in map(new_d1_text, TEXTS) if not re.search(r"\([^)]*\)',char", literal)]
    assert len(literals) > len(TEXTS) / 2
    staged = assert_same(dump_of(literals * 20))
    assert [block.exact_rows for block in staged["t"].blocks] == [0]
