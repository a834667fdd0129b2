"""What ``make mutation`` is going to change is still there; the run itself takes minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation.mutations import MUTATIONS, Mutation

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.protection)
def test_the_place_of_each_protection_is_there_once(mutation: Mutation) -> None:
    assert (REPOSITORY / mutation.file).read_text().count(mutation.old) == 1
    assert mutation.old != mutation.new
    for test in mutation.tests:
        assert (REPOSITORY / test).exists()


def test_each_protection_is_named_once() -> None:
    assert len({mutation.protection for mutation in MUTATIONS}) == len(MUTATIONS)
