"""Neither the API token, the secret key of age nor a signed URL's signature is in anything that a run leaves behind.

The DAGs run in a process of their own: with everything logged that Airflow and its libraries have to say, and with less
logged but Airflow's masker off. An error reporter writes down the local variables of every frame of each failure.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from pyrage import x25519

from airflow_provider_d1.emulator.signing import Signer
from tests.integration.dag_runs import BUCKET, REPOSITORY

if TYPE_CHECKING:
    from airflow_provider_d1.emulator.server import Emulator
    from harness.seaweed import S3Server

HERE = Path(__file__).parent
#: DAG, database, faults, state of the run; "search" has a virtual table
SCENARIOS = [
    ("d1_export_and_stage", "shop", {}, "success"),
    ("d1_to_s3", "shop", {"cut_downloads": 2}, "success"),
    ("d1_to_s3", "shop", {"expired_urls": 9}, "failed"),
    ("d1_to_s3", "search", {}, "failed"),
    ("d1_to_s3", "shop", {"revoked_after": 3}, "failed"),
    ("d1_backup", "shop", {}, "success"),
    ("d1_restore", "shop", {"upload_errors": 1}, "success"),
]
#: whose runs are encrypted
BACKUPS = ("d1_backup", "d1_restore")
CODE = """
import json, os, sys, traceback, urllib.request
from pathlib import Path
from airflow.listeners import hookimpl
from airflow.sdk.listener import get_listener_manager
from tests.integration.dag_runs import run_dag

class ErrorReporter:
    # as Sentry and others do: the local variables of every frame
    @hookimpl
    def on_task_instance_failed(self, error):
        with Path(os.environ["AIRFLOW_HOME"], "reported").open("a") as file:
            while error is not None:
                report = traceback.TracebackException.from_exception(error, capture_locals=True)
                file.write("".join(report.format(chain=False)))
                error = error.__cause__ or error.__context__

get_listener_manager().add_listener(ErrorReporter())
if os.environ.get("D1_TEST_UNMASKED"):
    from airflow.sdk._shared.secrets_masker import SecretsMasker
    SecretsMasker.add_mask = lambda *_: None
faults_url = sys.argv[1]
backups, encryption = json.loads(sys.argv[3])
for dag, database, faults, _ in json.loads(sys.argv[2]):
    for method, body in (("DELETE", None), ("PATCH", json.dumps(faults).encode())):
        urllib.request.urlopen(urllib.request.Request(faults_url, data=body, method=method)).close()
    print("state:", run_dag(dag, database=database, **(encryption if dag in backups else {})).state)
"""
#: at DEBUG dag.test() prints each password that Airflow reads from a connection, when it has it masked
AIRFLOWS_OWN = re.compile(
    rb"Sending request .* msg=MaskSecret\(value='tok-[0-9a-f]{32}', name=None, type='MaskSecret'\)$"
)


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


def left_behind(home: Path, s3: S3Server) -> dict[str, bytes]:
    """Every file of the run, and every object in the bucket."""
    found = {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    client = s3.client()
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        found[f"s3://{entry['Key']}"] = client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
    return found


@pytest.mark.parametrize(
    ("settings", "scenarios"),
    [({"AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG"}, SCENARIOS[:1]), ({"D1_TEST_UNMASKED": "1"}, SCENARIOS)],
    ids=["everything-logged", "masker-off"],
)
@pytest.mark.usefixtures("restored_is_empty")
def test_nothing_that_a_run_leaves_behind_holds_a_secret(
    settings: dict[str, str],
    scenarios: list[tuple[str, str, dict[str, int], str]],
    airflow_db: Path,
    emulator: Emulator,
    s3: S3Server,
    signed: list[str],
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with (
        closing(sqlite3.connect(airflow_db / "airflow.db")) as old,
        closing(sqlite3.connect(home / "airflow.db")) as new,
    ):
        old.backup(new)
    env = os.environ | settings
    env |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(HERE)]),
        "TMPDIR": str(home),
    }
    identity = x25519.Identity.generate()
    env["AIRFLOW_CONN_AGE"] = json.dumps({"conn_type": "generic", "password": str(identity)})
    encryption = json.dumps([BACKUPS, {"age_recipient": str(identity.to_public()), "age_conn_id": "age"}])
    older = set(left_behind(home, s3))  # the bucket is that of all tests
    command = [sys.executable, "-c", CODE, f"{emulator.origin}/_emulator/faults", json.dumps(scenarios), encryption]
    run = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=400, check=False)
    assert re.findall(rb"^state: (\w+)", run.stdout, re.MULTILINE) == [state.encode() for *_, state in scenarios], (
        run.stdout[-3000:].decode()
    )

    assert b"task's state" not in run.stdout  # the sealed export was kept for a retry, and deleted when it was staged
    assert b"Could not keep the export" not in run.stdout

    signatures = [parse_qs(urlsplit(url).query)["X-Amz-Signature"][0] for url in signed]
    # one for each export that came to its end, and one for the upload of the import
    assert len(signatures) == (1 if len(scenarios) == 1 else 6)
    things = {"what it printed": run.stdout, **left_behind(home, s3)}
    for secret in (emulator.token, quote(emulator.token, safe=""), str(identity), *signatures):
        for name, content in things.items():
            lines = [line[:2000] for line in content.splitlines() if secret.encode() in line]
            assert not [line for line in lines if not AIRFLOWS_OWN.search(line)], name

    reported = things.get("reported", b"").decode()
    failed = [name for name, *_, state in scenarios if state == "failed"]
    assert reported.count("airflow_provider_d1/operators/d1.py") >= len(failed)
    assert ("self = " in reported) is bool(failed), "the report has local variables"

    assert any(name.endswith(".sql.zst.age") for name in things.keys() - older) is (len(scenarios) > 1)

    # the search has looked where secrets would be
    assert {"what it printed", "airflow.db", "s3://d1/tables/shop/_manifest.json"} <= set(things)
    assert (b"[debug" in things["what it printed"]) is ("D1_TEST_UNMASKED" not in settings)
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        assert any("d1seal1." in str(value) for (value,) in database.execute("SELECT value FROM xcom"))
