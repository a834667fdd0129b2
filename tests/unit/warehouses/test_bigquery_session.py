"""BigQuery's session: how it is opened, that all statements are in it, when a server that is not there is given up."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.storage.s3 import S3Storage
from airflow_provider_d1.warehouses import bigquery
from airflow_provider_d1.warehouses.bigquery import BigQuery
from airflow_provider_d1.warehouses.loader import load
from airflow_provider_d1.warehouses.session import Connections
from airflow_provider_d1.warehouses.staged_files import StagedFiles
from tests.unit.warehouses.warehouse_plans import manifest, plan


class Client:
    """Answers every query, and keeps the configurations."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.grace: list[dict[str, Any]] = []

    def query(self, statement: str, job_config: Any, **grace: Any) -> Any:
        self.asked.append((statement, job_config.to_api_repr()))
        self.grace.append(grace)
        row = SimpleNamespace(values=lambda: (1,))
        return SimpleNamespace(result=lambda: [row], session_info=SimpleNamespace(session_id="the session"))


def test_all_statements_are_in_one_session() -> None:
    client = Client()
    session = bigquery.BigQuerySession(client)
    assert session.rows("SELECT 2") == [(1,)]
    assert session.rows("COMMIT") == [(1,)]
    (first, opening), *others = client.asked
    assert (first, opening["query"]["createSession"]) == ("SELECT 1", True)
    assert client.grace[0]["job_retry"] is None
    for _, configuration in others:
        assert configuration["query"]["connectionProperties"] == [{"key": "session_id", "value": "the session"}]


def test_a_server_that_is_not_there_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself the client would go on for more than ten minutes."""
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key = rsa.generate_private_key(65537, 2048).private_bytes(*pem).decode()
    account = {
        "type": "service_account",
        "project_id": "project",
        "private_key": key,
        "client_email": "loader@project.example.com",
        "token_uri": "http://127.0.0.1:1/token",
    }
    connection = {"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": json.dumps(account)}}
    monkeypatch.setenv("AIRFLOW_CONN_NOWHERE", json.dumps(connection))
    monkeypatch.setattr(bigquery, "_CONNECT_TIMEOUT", 0.1)
    files = StagedFiles(S3Storage(object(), "bucket", "d1"), verify_checksums=False)
    with pytest.raises(D1WarehouseError, match="No connection to BigQuery through 'nowhere'") as failure:
        load(BigQuery(), plan(BigQuery(), manifest()), files, Connections("nowhere", None))
    assert failure.value.retryable
    assert key.splitlines()[1] not in str(failure.value)
