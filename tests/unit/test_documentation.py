"""Code blocks of the documentation run or parse, and every page is part of the site."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_d1.exceptions import D1Error

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("*.md")])
OPERATING = REPOSITORY / "docs" / "operating.md"
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


def test_every_error_has_a_row_with_a_remedy() -> None:
    """And whether it is retried, where the class alone decides that."""
    rows = re.findall(r"^\| (`D1\w+`(?:, `D1\w+`)*) \| (.+?) \| (.+?) \|$", OPERATING.read_text(), re.MULTILINE)
    retried = {name: words for names, words, _ in rows for name in re.findall(r"D1\w+", names)}
    own = [cls for cls in subclasses(D1Error) if cls.__module__ == D1Error.__module__]
    classes = {cls.__name__: cls for cls in own}
    assert set(retried) == set(classes)
    for name, words in retried.items():
        if words in ("yes", "no"):
            assert classes[name].retryable is (words == "yes"), name


def subclasses(cls: type[D1Error]) -> list[type[D1Error]]:
    return [found for sub in cls.__subclasses__() for found in (sub, *subclasses(sub))]


def test_every_message_that_the_page_quotes_exists() -> None:
    """In the package, or where a part is filled in, in a test of the message."""
    quoted = re.findall(
        r"^\| `([^`]+)` \| [^|]+ \|$", OPERATING.read_text().split("## Common messages")[1], re.MULTILINE
    )
    files = [
        path for folder in ("airflow_provider_d1", "tests/unit/hooks") for path in (REPOSITORY / folder).rglob("*.py")
    ]
    sources = "\n".join(path.read_text() for path in files)
    assert len(quoted) > 4
    assert [message for message in quoted if message not in sources] == []


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
