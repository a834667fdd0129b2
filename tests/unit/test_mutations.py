"""The code that ``make mutation`` changes is still there; the mutation run itself takes minutes."""

from __future__ import annotations

import ast

import pytest

from tests.mutation.mutations import MUTATIONS, REPOSITORY, Mutation
from tests.mutation.source_edit import find, replace


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.protection)
def test_the_code_of_each_protection_occurs_once(mutation: Mutation) -> None:
    places = mutation.places()
    assert len(places) == 1, (
        f"expected {mutation.old!r} once in {mutation.package}:{mutation.within or 'any module'}, found it"
        f" {len(places)} times; adapt tests/mutation/mutations.py to the code as it is now"
    )
    module, mutated = mutation.apply(REPOSITORY)
    assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(module.read_text()))
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert (REPOSITORY / file).exists(), f"{file} does not exist"
        assert not name or f"def {name}(" in (REPOSITORY / file).read_text(), f"{file} has no {name}"


def test_each_protection_is_named_once() -> None:
    assert len({mutation.protection for mutation in MUTATIONS}) == len(MUTATIONS)


SOURCE = """
LIMIT = 5

class Reader:
    def read(self, size):
        if (
            size > LIMIT  # a comment
            and not self.open
        ):
            raise ValueError('é')
        self.check(
            size,
        )
        return {"a": 1, "b": size}

    def check(self, size):
        self.check(size)
"""


@pytest.mark.parametrize(
    ("within", "old", "new", "expected"),
    [
        ("", "LIMIT = 5", "LIMIT = 6", "LIMIT = 6\n"),
        ("Reader.read", "size > LIMIT and not self.open", "False", "if (\n            (False)\n        ):"),
        ("Reader.read", 'raise ValueError("é")', "", "):\n            pass\n        self.check("),
        ("Reader.read", "self.check(size)", "", "raise ValueError('é')\n        pass\n        return"),
        ("Reader.read", "self.check(size)", "a()\nb()", "        a()\n        b()\n        return"),
        ("Reader.read", '"b": size', '"b": 0', '{"a": 1, "b": 0}'),
    ],
)
def test_code_is_found_in_any_layout(within: str, old: str, new: str, expected: str) -> None:
    [span] = find(SOURCE, within, old)
    changed = replace(SOURCE, span, new)
    assert expected in changed
    ast.parse(changed)


def test_code_of_another_function_is_not_found() -> None:
    assert len(find(SOURCE, "", "self.check(size)")) == 2
    assert find(SOURCE, "Reader.check", "size > LIMIT") == []
    assert find(SOURCE, "Reader.write", "LIMIT = 5") == []
