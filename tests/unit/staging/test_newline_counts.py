"""``ambiguous_newlines`` of the manifest: one text in a newer exporter's form clears the whole dump."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DUMP = """PRAGMA defer_foreign_keys=TRUE;
CREATE TABLE lines(body TEXT);
INSERT INTO lines VALUES(replace('a\\nb\\nc','\\n',char(10)));
CREATE TABLE pretty(body TEXT);
INSERT INTO pretty VALUES({literal});
"""


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        ("replace('a\\n\\012b','\\012',char(10))", [0, 0]),
        ("replace('a\\n\\012(\\n0)','(\\n0)',char(10))", [0, 0]),
        ("replace('a\\r\\015b','\\015',char(13))", [0, 0]),
        ("replace('a\\n\\nb','\\n',char(10))", [1, 1]),
        ("'a'", [1, 0]),
    ],
)
def test_ambiguous_newlines_of_a_dump(literal: str, expected: list[int], tmp_path: Path) -> None:
    dump, out = tmp_path / "dump.sql", tmp_path / "out"
    dump.write_text(DUMP.format(literal=literal))
    subprocess.run([sys.executable, "-m", "airflow_provider_d1.staging", str(dump), str(out)], check=True)
    manifest = json.loads((out / "_manifest.json").read_text())
    assert [table["columns"][0]["lossy"]["ambiguous_newlines"] for table in manifest["tables"]] == expected
