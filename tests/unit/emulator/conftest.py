"""One emulator for the tests of its HTTP side, put back to its beginning before each test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_d1.emulator.server import Emulator

CORPUS = Path(__file__).parents[2] / "data" / "corpus"
SMALL = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT); INSERT INTO users VALUES (1, 'Ada'), (2, NULL);"


@dataclass
class Api:
    """The emulator's one account over HTTP."""

    emulator: Emulator
    http: httpx.Client
    #: without the credential, for signed URLs and the control routes
    plain: httpx.Client

    def path(self, database: str, tail: str = "") -> str:
        return f"/accounts/{self.emulator.account_id}/d1/database/{self.emulator.database_id(database)}{tail}"

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self.http.request(method, path, **more)

    def query(self, database: str, sql: str, *params: object, raw: bool = False) -> httpx.Response:
        return self.call(
            "POST", self.path(database, "/raw" if raw else "/query"), json={"sql": sql, "params": list(params)}
        )

    def export(self, database: str, bookmark: str | None = None, **options: object) -> httpx.Response:
        body: dict[str, object] = {"output_format": "polling", "dump_options": options}
        if bookmark is not None:
            body["current_bookmark"] = bookmark
        return self.call("POST", self.path(database, "/export"), json=body)

    def start(self, database: str, **options: object) -> str:
        answer = self.export(database, **options)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["result"]["at_bookmark"])

    def finish(self, database: str, bookmark: str) -> httpx.Response:
        """Poll until the export is no longer running: the dump's thread may be slow on a busy machine."""
        while (answer := self.export(database, bookmark)).status_code == 202:
            pass
        return answer

    def signed_url(self, database: str, **options: object) -> str:
        answer = self.finish(database, self.start(database, **options)).json()["result"]
        assert answer["status"] == "complete", answer
        return str(answer["result"]["signed_url"])


@pytest.fixture(scope="session")
def _running() -> Iterator[Emulator]:
    databases = {
        "shop": CORPUS / "nasty.json",
        "small": SMALL,
        "fts": CORPUS / "fts.json",
        **{f"other{number}": None for number in range(20)},
    }
    # fast enough that a five-minute block is over in a third of a second
    with Emulator(databases=databases, speed=1000.0, cancel_after=1e9) as emulator:
        yield emulator


@pytest.fixture
def api(_running: Emulator) -> Iterator[Api]:
    _running.reset()
    headers = {"Authorization": f"Bearer {_running.token}"}
    with (
        httpx.Client(base_url=_running.url, headers=headers, timeout=30, verify=False) as http,
        httpx.Client(timeout=30, verify=False) as plain,
    ):
        yield Api(_running, http, plain)
