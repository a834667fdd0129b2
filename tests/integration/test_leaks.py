"""Neither the API token nor the signature of a signed URL is in anything that a run leaves behind.

The DAGs run in a process of their own: with everything logged that Airflow and its libraries have to say, and with less
logged but Airflow's masker off.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from dag_runs import BUCKET, REPOSITORY

from airflow_provider_d1.emulator.signing import Signer

if TYPE_CHECKING:
    from airflow_provider_d1.emulator.server import Emulator
    from harness.seaweed import S3Server

HERE = Path(__file__).parent
LOUD = {"AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG"}
UNMASKED = {"AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO", "D1_TEST_UNMASKED": "1"}
#: at DEBUG dag.test() prints each password that Airflow reads from a connection, when it has it masked
AIRFLOWS_OWN = re.compile(
    rb"Sending request .* msg=MaskSecret\(value='tok-[0-9a-f]{32}', name=None, type='MaskSecret'\)$"
)
CODE = """
import os, sys
from airflow.utils.db import initdb
from dag_runs import run_dag
if os.environ.get("D1_TEST_UNMASKED"):
    from airflow.sdk._shared.secrets_masker import SecretsMasker
    SecretsMasker.add_mask = lambda *_: None
initdb()
print("state:", run_dag(sys.argv[1]).state)
"""


def run_apart(home: Path, dag: str, **environment: str) -> str:
    """Run a DAG in a process with an AIRFLOW_HOME of its own; return all that it printed."""
    home.mkdir(exist_ok=True)
    env = os.environ | environment
    env |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(HERE)]),
        "TMPDIR": str(home),
    }
    run = subprocess.run(
        [sys.executable, "-c", CODE, dag],
        env=env,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    return run.stdout


def left_behind(home: Path, s3: S3Server) -> dict[str, bytes]:
    """Every file of the run, and every object in the bucket."""
    found = {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    client = s3.client()
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        found[f"s3://{entry['Key']}"] = client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
    return found


def xcoms(home: Path) -> list[str]:
    with sqlite3.connect(home / "airflow.db") as database:
        return [str(value) for (value,) in database.execute("SELECT value FROM xcom")]


@pytest.fixture
def signed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All URLs that the emulator signs."""
    urls: list[str] = []
    sign = Signer.sign

    def spy(self: Signer, *arguments: object) -> str:
        urls.append(sign(self, *arguments))
        return urls[-1]

    monkeypatch.setattr(Signer, "sign", spy)
    return urls


@pytest.mark.parametrize(
    ("dag", "database", "faults", "state", "logging"),
    [
        ("d1_export_and_stage", "shop", {}, "success", LOUD),
        ("d1_export_and_stage", "shop", {}, "success", UNMASKED),
        ("d1_nightly_to_s3", "shop", {"cut_downloads": 2}, "success", UNMASKED),
        ("d1_nightly_to_s3", "shop", {"expired_urls": 9}, "failed", LOUD),
        ("d1_nightly_to_s3", "shop", {"revoked_after": 3}, "failed", LOUD),
        ("d1_nightly_to_s3", "search", {}, "failed", UNMASKED),
    ],
    ids=["two-tasks", "two-tasks-unmasked", "cut-download", "expired-url", "revoked-token", "virtual-table"],
)
def test_nothing_that_a_run_leaves_behind_holds_a_secret(
    dag: str,
    database: str,
    faults: dict[str, int],
    state: str,
    logging: dict[str, str],
    emulator: Emulator,
    s3: S3Server,
    signed: list[str],
    tmp_path: Path,
) -> None:
    emulator.faults.set(faults)
    printed = run_apart(tmp_path / "home", dag, D1_DATABASE=database, **logging)
    assert f"state: {state}" in printed, printed[-3000:]

    things = {"what it printed": printed.encode(), **left_behind(tmp_path / "home", s3)}
    signatures = [parse_qs(urlsplit(url).query)["X-Amz-Signature"][0] for url in signed]
    assert bool(signatures) is (database == "shop" and "revoked_after" not in faults)
    for secret in (emulator.token, quote(emulator.token, safe=""), *signatures):
        for name, content in things.items():
            lines = [line[:2000] for line in content.splitlines() if secret.encode() in line]
            assert not [line for line in lines if not AIRFLOWS_OWN.search(line)], name
    # the search looked where secrets would be
    assert "airflow.db" in things
    assert any(name.startswith("s3://") for name in things) or state == "failed"
    assert (b"[debug" in things["what it printed"]) is (logging is LOUD)
    if dag == "d1_export_and_stage":
        assert any("d1seal1." in value for value in xcoms(tmp_path / "home"))
