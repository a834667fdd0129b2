"""Every test that the documents name exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = [
    REPOSITORY / "docs" / "provider-checklist.md",
    REPOSITORY / "docs" / "reliability.md",
    REPOSITORY / "SECURITY.md",
]


def rows(document: Path) -> list[str]:
    """The last cells of a document's tables, where the tests are named; tables without such a column have none."""
    cells, with_tests = [], False
    for line in document.read_text().splitlines():
        cell = line.strip("| ").split(" | ")[-1]
        if not line.startswith("|"):
            with_tests = False
        elif cell in ("test", "tested by"):
            with_tests = True
        elif with_tests and not cell.startswith("-"):
            cells.append(cell)
    return cells


def functions_in(path: Path) -> dict[str, str]:
    """Each test function's source with its decorators, by name."""
    source = path.read_text()
    return {
        node.name: "\n".join(ast.unparse(part) for part in (*node.decorator_list, node))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def path_of(name: str) -> Path:
    """A name without a folder is that of a system test."""
    in_root = "/" in name or name.endswith(".toml")
    return REPOSITORY / name if in_root else REPOSITORY / "tests" / "system" / name


def pattern(fragment: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in fragment.split("…")))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    cells = rows(document)
    assert len(cells) > 10
    place, test = REPOSITORY, ""
    for cell in cells:
        named = re.findall(r"`([^`]+)`", cell)
        assert named or "the first of them" in cell, cell
        for name in named:
            if re.search(r"/|\.py$|\.toml$", name):
                place = path_of(name)
                assert place.exists(), name
                continue
            function, _, case = name.removesuffix("]").partition("[")
            found = functions_in(place)
            if function:
                meant = [each for each in found if pattern(function).fullmatch(each)]
                assert len(meant) == 1, f"{name} in {place.name} is {meant}"
                (test,) = meant
            assert all(word in found[test] for word in case.split("…")), name


@pytest.mark.parametrize(
    "document", sorted(REPOSITORY.glob("docs/**/*.md")), ids=lambda path: str(path.relative_to(REPOSITORY))
)
def test_every_test_in_the_text_of_the_documentation_exists(document: Path) -> None:
    """Code blocks show tests of the reader's own; names with ``…`` are looked up above."""
    text = re.sub(r"^```[\s\S]*?^```", "", document.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    tests = [path for path in (REPOSITORY / "tests").rglob("*.py") if path.name != Path(__file__).name]
    known = {path.name for path in tests} | {path.stem for path in tests}
    known.update(name for path in tests for name in re.findall(r"def (test_\w+)", path.read_text()))
    named = re.findall(r"`(?:[\w/.-]+(?:/|::))?(test_\w+(?:\.py)?)(?:\[[^`]*\])?`", text)
    assert [name for name in named if name not in known] == []
