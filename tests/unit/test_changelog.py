"""Changelog fragments are named so that towncrier finds them, and each holds one entry."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "changelog.d"
NOT_FRAGMENTS = {"README.md", "_template.md.jinja"}
TYPES = [
    entry["directory"]
    for entry in tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["towncrier"]["type"]
]


def fragments() -> list[Path]:
    return sorted(path for path in FOLDER.iterdir() if path.name not in NOT_FRAGMENTS)


@pytest.mark.parametrize("path", fragments(), ids=lambda path: path.name)
def test_a_fragment_has_a_known_type_and_one_entry(path: Path) -> None:
    assert re.fullmatch(rf"[a-z0-9-]+\.({'|'.join(TYPES)})\.md", path.name), f"expected <slug>.<{'|'.join(TYPES)}>.md"
    text = path.read_text().strip()
    assert text, "the fragment is empty"
    assert "\n\n" not in text, "the fragment has more than one paragraph"
    assert not text.startswith(("-", "*", "#")), "the fragment starts with a list or heading marker"
