"""Databricks: a stopped SQL warehouse answers 503 until it has started, and the load waits for it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.storage.s3 import S3Storage
from airflow_provider_d1.warehouses.databricks import Databricks
from airflow_provider_d1.warehouses.loader import load
from airflow_provider_d1.warehouses.session import Connections
from airflow_provider_d1.warehouses.staged_files import StagedFiles
from tests.unit.warehouses.warehouse_plans import manifest, plan


class Starting(BaseHTTPRequestHandler):
    """Two answers of a warehouse that starts, then one that ends the load, as no Thrift is spoken here."""

    requests = 0

    def do_POST(self) -> None:
        type(self).requests += 1
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(503 if type(self).requests < 3 else 403)
        if type(self).requests < 3:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def warehouse(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Starting]]:
    monkeypatch.setattr(Starting, "requests", 0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Starting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        extra = {
            "http_path": "/sql/1.0/warehouses/1",
            "_connection_uri": f"http://127.0.0.1:{server.server_address[1]}/sql",
            "enable_telemetry": False,
        }
        connection = {"conn_type": "databricks", "host": "127.0.0.1", "password": "token", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_STOPPED", json.dumps(connection))
        yield Starting
        server.shutdown()


def test_a_stopped_warehouse_is_waited_for(warehouse: type[Starting], monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver waits for a minute each time, and gives up when that is more than its limit allows."""
    from databricks.sql.auth import retry

    waited: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=waited.append, time=time.time))
    files = StagedFiles(S3Storage(object(), "bucket", "d1"), verify_checksums=False)
    with pytest.raises(D1WarehouseError, match="No connection to Databricks through 'stopped'"):
        load(Databricks(), plan(Databricks(), manifest()), files, Connections("stopped", None))
    assert warehouse.requests == 3
    assert waited == [60, 60]
