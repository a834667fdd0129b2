"""Code blocks of the documentation run or parse, and every page is part of the site."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("*.md")])
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
CONNECTION = re.compile(r"AIRFLOW_CONN_\w+='(\{.*?\})'", re.DOTALL)
KNOWN = {"python", "bash", "shell", "json", "mermaid"}
#: figures of speech that a reader has to translate; CONTRIBUTING.md has the rules
FIGURES_OF_SPEECH = re.compile(
    r"\b(?:born|carr(?:y|ies|ied) out|comes? back|crew|for ever|for good|hands? out|houses?|in the clear|in vain"
    r"|knock\w*|lent|nonsense|patience|stands there|told|trickl\w*|trouble)\b",
    re.IGNORECASE,
)
SOURCES = sorted(
    path for place in ("airflow_provider_d1", "example_dags") for path in (REPOSITORY / place).rglob("*.py")
)


def blocks(*languages: str) -> list[Any]:
    return [
        pytest.param(code, id=f"{path.relative_to(REPOSITORY)}:{number}")
        for path in PAGES
        for number, (_, language, code) in enumerate(BLOCK.findall(path.read_text()), 1)
        if language in languages
    ]


def test_every_block_has_a_known_language() -> None:
    found = {language for path in PAGES for _, language, _ in BLOCK.findall(path.read_text())}
    assert found <= KNOWN


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block with operators runs in a DAG, as it does for the reader. Of others, which call D1, the imports run."""
    from airflow.sdk import DAG

    tree = ast.parse(code)
    if not re.search(r"Operator[(.]", code):
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    with DAG("documentation", schedule=None):
        exec(compile(tree, "documentation", "exec"), {"__name__": "documentation"})


@pytest.mark.parametrize("code", blocks("bash", "shell"))
def test_bash_blocks_parse(code: str) -> None:
    finished = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("code", blocks("json"))
def test_json_blocks_parse(code: str) -> None:
    json.loads(code)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_connections_are_json(path: Path) -> None:
    for connection in CONNECTION.findall(path.read_text()):
        assert "conn_type" in json.loads(connection)


def test_every_page_is_in_the_navigation() -> None:
    navigation = (REPOSITORY / "mkdocs.yml").read_text()
    pages = [str(path.relative_to(REPOSITORY / "docs")) for path in (REPOSITORY / "docs").rglob("*.md")]
    assert [page for page in pages if not re.search(rf"- {re.escape(page)}$", navigation, re.MULTILINE)] == []


@pytest.mark.parametrize("path", [*PAGES, *SOURCES], ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_texts_use_plain_words(path: Path) -> None:
    assert FIGURES_OF_SPEECH.findall(path.read_text()) == []


def test_names_of_tests_use_plain_words() -> None:
    names = {
        node.name
        for path in (REPOSITORY / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert [name for name in sorted(names) if FIGURES_OF_SPEECH.search(name.replace("_", " "))] == []
