"""``bqemulator`` on loopback: BigQuery's REST interface with DuckDB behind it, from an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.process import free_ports, running

_PROGRAMS = Path(__file__).parents[1] / ".venv-bqemulator" / "bin"
#: it asks DuckDB for this extension when it starts; the wheel has it, so nothing is downloaded
_EXTENSION = "import duckdb_extensions; duckdb_extensions.import_extension('spatial')"


@dataclass(frozen=True)
class BigQueryEmulator:
    """Where the emulator listens, and the project that it has."""

    port: int
    host: str = "127.0.0.1"
    project: str = "harness"

    @property
    def url(self) -> str:
        """What ``BIGQUERY_EMULATOR_HOST`` is to be."""
        return f"http://{self.host}:{self.port}"

    def airflow_connection(self) -> str:
        """The JSON for an ``AIRFLOW_CONN_…`` environment variable."""
        extra = {"project": self.project, "is_anonymous": True, "location": "EU"}
        return json.dumps({"conn_type": "google_cloud_platform", "extra": extra})

    def client(self):  # noqa: ANN201 - google-cloud-bigquery's own
        """A client for the emulator."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.bigquery import Client

        options = {"api_endpoint": self.url}
        return Client(project=self.project, credentials=AnonymousCredentials(), client_options=options)


def bigquery_missing() -> str | None:
    """What is missing to run the emulator, None when everything is there."""
    return None if (_PROGRAMS / "bqemulator").exists() else "no bqemulator: make .venv-bqemulator/.ready"


@contextmanager
def bigquery_emulator(folder: Path) -> Iterator[BigQueryEmulator]:
    """Run the emulator with its log in ``folder`` (created); what it holds is gone at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="harness-bigquery-") as home:
        env = {"PATH": os.environ.get("PATH", ""), "HOME": home, "LC_ALL": "C.UTF-8"}
        subprocess.run([_PROGRAMS / "python", "-c", _EXTENSION], check=True, capture_output=True, env=env, timeout=60)
        rest, grpc = free_ports(2)
        server = BigQueryEmulator(rest)
        command = [_PROGRAMS / "bqemulator", "start", "--rest-port", str(rest), "--grpc-port", str(grpc)]
        command += ["--project", server.project, "--log-level", "warning", "--log-format", "json"]
        with running(command, log=folder / "bigquery.log", ready=lambda: _answers(server), env=env):
            yield server


def _answers(server: BigQueryEmulator) -> bool:
    try:
        with urllib.request.urlopen(f"{server.url}/bigquery/v2/projects/{server.project}/datasets", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
