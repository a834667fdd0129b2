"""A MySQL connection that cannot work shows no password in its frames."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_d1.warehouses.mysql_session import connect
from harness.process import free_ports
from tests.unit.error_reports import frames_of


@pytest.mark.parametrize(
    "extra",
    [{}, {"iam": True}, {"connect_timeout": "soon"}, {"ssl_mode": "SOMETIMES"}, {"ssl": {"ca": "/no/such/file"}}],
    ids=str,
)
def test_no_frame_of_a_failing_connection_shows_its_password(
    extra: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    definition = {"conn_type": "mysql", "host": "127.0.0.1", "port": port, "login": "me", "password": "pass-w0rd"}
    monkeypatch.setenv("AIRFLOW_CONN_MYSQL", json.dumps({**definition, "extra": extra}))
    with pytest.raises(Exception, match=r".") as raised:
        connect("mysql", "shop")
    frames = frames_of(raised.value)
    assert "mysql_session.py" in frames
    assert "pass-w0rd" not in frames
