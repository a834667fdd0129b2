"""Words in messages and log lines."""

from __future__ import annotations

import pytest

from airflow_provider_d1.validation import abridged, counted


@pytest.mark.parametrize(("count", "words"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows")])
def test_counts_read_well(count: int, words: str) -> None:
    assert counted(count, "row") == words


def test_long_lists_are_cut_and_counted() -> None:
    assert abridged([]) == ""
    assert abridged(iter(["users", "orders"])) == "users, orders"
    assert abridged([f"t{number}" for number in range(100)], longest=6) == "t0, t1, t2, … (100 in all)"
    assert abridged(["x" * 500]) == "… (1 in all)"
