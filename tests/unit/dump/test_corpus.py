"""Every dump of the corpus, which the real engine wrote, value by value against SQLite."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from airflow_provider_d1.exceptions import D1DumpError
from tests.unit.dump.dump_oracle import assert_same, read_with_ours

CORPUS = Path(__file__).parents[2] / "data" / "corpus"
DUMPS = sorted(path for path in CORPUS.glob("*.sql") if "noschema" not in path.name)


@pytest.mark.parametrize("path", DUMPS, ids=lambda p: p.stem)
@pytest.mark.parametrize("block_size", [3 << 20, 4096, 64])
def test_corpus_is_what_sqlite_reads(path: Path, block_size: int) -> None:
    dump = path.read_bytes()
    assert_same(dump, block_size=block_size)
    assert_same(dump.replace(b";\n", b";\r\n"), block_size=block_size)


@pytest.mark.parametrize("path", DUMPS, ids=lambda p: p.stem)
def test_slicing_changes_nothing(path: Path) -> None:
    dump = path.read_bytes()
    expected = read_with_ours(dump)
    chance = random.Random(20261122)
    for most in (7, 1000, 100_000):
        sizes = (chance.randint(1, most) for _ in range(len(dump)))
        sliced = read_with_ours(dump, block_size=1 << 16, sizes=sizes)
        assert {n: (t.columns, t.stats) for n, t in sliced.items()} == {
            n: (t.columns, t.stats) for n, t in expected.items()
        }


def test_one_byte_at_a_time() -> None:
    dump = (CORPUS / "nasty_nodata.sql").read_bytes() + (CORPUS / "fts_table_docs.sql").read_bytes()
    tables = read_with_ours(dump, block_size=100, sizes=(1 for _ in dump))
    assert list(tables) == list(read_with_ours(dump))
    assert tables["docs"].columns["body"].to_pylist() == ["hello"]


def test_lossy_counts_of_the_corpus() -> None:
    tables = read_with_ours((CORPUS / "nasty_full.sql").read_bytes())
    assert tables["scalars"].stats["v"].lossy == {
        # 2^53 three times, int64 max and min, the snowflake, 1e20
        "unsafe_integers": 7,
        "infinities": 2,
        # LF, CR, and pretty JSON, each beside the same two characters written out
        "ambiguous_newlines": 3,
        "replacement_characters": 2,
    }
    assert tables["hugetext"].stats["t"].ambiguous_newlines == 1
    assert tables["affinity"].stats["i"].unsafe_integers == 1
    assert tables["affinity"].stats["r"].unsafe_integers == 0


def test_no_schema_is_named() -> None:
    dump = (CORPUS / "nasty_noschema.sql").read_bytes()
    with pytest.raises(D1DumpError, match="no_schema") as caught:
        read_with_ours(dump)
    assert caught.value.offset == dump.index(b"INSERT")


@pytest.mark.parametrize("path", DUMPS, ids=lambda p: p.stem)
def test_a_cut_dump_is_refused_unless_cut_between_statements(path: Path) -> None:
    dump = path.read_bytes()
    chance = random.Random(5)
    starts = {0, len(dump)}
    reader_accepts = 0
    for cut in [chance.randrange(1, min(len(dump), 20_000)) for _ in range(150)]:
        try:
            read_with_ours(dump[:cut])
        except D1DumpError:
            continue
        reader_accepts += 1
        assert dump[:cut].rstrip().endswith(b";"), dump[max(0, cut - 60) : cut]
    assert reader_accepts < 30
    del starts
