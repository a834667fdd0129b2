"""Random dumps through random slices and small blocks: every value as SQLite reads it.

D1_DUMP_EXAMPLES=200000 pytest tests/unit/dump/test_properties.py      # the long run: other examples each time
"""

from __future__ import annotations

import os
from itertools import cycle
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.dump.dump_maker import made_dump
from tests.unit.dump.dump_oracle import compare, for_sqlite, read_with_ours, read_with_sqlite

EXAMPLES = int(os.environ.get("D1_DUMP_EXAMPLES", "0"))


@settings(
    max_examples=EXAMPLES or 2000,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(chance=st.randoms(use_true_random=True))
def test_dumps_are_read_as_sqlite_reads_them(chance: Random) -> None:
    check(chance)


def check(chance: Random) -> None:
    """Make a dump, read it with SQLite and with ours, cut anyhow, and compare."""
    dump = made_dump(chance)
    expected = read_with_sqlite(for_sqlite(dump))
    most = chance.choice([1, 50, 1000, 10_000])
    sizes = cycle([chance.randint(1, most) for _ in range(5)])
    compare(expected, read_with_ours(dump, block_size=chance.choice([1, 60, 300, 2000, 1 << 20]), sizes=sizes))
