"""docs/what-a-load-keeps.md has an entry for every warehouse, and each entry says how it is known."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.unit.warehouses.warehouse_plans import ENGINES

REPOSITORY = Path(__file__).parents[3]
TEXT = (REPOSITORY / "docs" / "what-a-load-keeps.md").read_text()
SECTIONS: dict[str, str] = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n)*)", TEXT, re.MULTILINE))
TABLES = [title for title in SECTIONS if title not in ("Tests", "Sources")]
MARK = re.compile(r"\((?:unknown|(run|read) (\w+(?:, \w+)*))\)")
TESTS = dict(re.findall(r"^(\d+)\. `([^`]+)`", SECTIONS["Tests"], re.MULTILINE))
SOURCES = dict(re.findall(r"^- (\w): .*\((https://[^)]+)\)$", SECTIONS["Sources"], re.MULTILINE))


def rows(title: str) -> list[list[str]]:
    lines = [line for line in SECTIONS[title].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_there_is_a_table_for_every_mode() -> None:
    assert {title.partition(",")[0].lower() for title in TABLES} == {"replace", "append", "merge"}


@pytest.mark.parametrize("title", TABLES)
def test_every_warehouse_has_an_entry_for_every_kind_of_object(title: str) -> None:
    heading, *found = rows(title)
    assert [row[0] for row in found] == sorted(
        (engine.dialect.name for engine in ENGINES.values()), key=[row[0] for row in found].index
    )
    assert len(found) == len(ENGINES)
    assert len(heading) == 7
    assert {len(row) for row in found} == {7}


@pytest.mark.parametrize("title", TABLES)
def test_every_entry_says_how_it_is_known(title: str) -> None:
    for name, *cells in rows(title)[1:]:
        for cell in cells:
            marks = MARK.findall(cell)
            assert marks, f"{name}: {cell}"
            assert re.search(rf"{MARK.pattern}$", cell), f"{name}: {cell}"
            for how, keys in marks:
                known = TESTS if how == "run" else SOURCES
                assert set(keys.split(", ")) - {""} <= set(known), f"{name}: {cell}"


def test_every_test_exists_and_every_reference_is_used() -> None:
    for name in TESTS.values():
        path, _, function = name.partition("::")
        tree = ast.parse((REPOSITORY / path).read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name
    used = {
        key
        for title in TABLES
        for row in rows(title)[1:]
        for cell in row
        for _, keys in MARK.findall(cell)
        for key in keys.split(", ")
    }
    assert used - {""} == set(TESTS) | set(SOURCES)
