"""The operator that loads a warehouse: its arguments, and no password in a frame of a load that fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.transfers.staging_to_warehouse import D1StagingToWarehouseOperator
from tests.unit.error_reports import frames_of


@pytest.mark.parametrize("conn_type", ["duckdb", "postgres", "no_such_warehouse"])
@pytest.mark.parametrize("manifest", ["file:///no/such/folder/_manifest.json", "{folder}/_manifest.json"])
def test_no_frame_of_a_failing_load_shows_the_password(
    conn_type: str, manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "_manifest.json").write_text('{"version": 2, "tables": "none"}')
    definition = {"conn_type": conn_type, "host": "127.0.0.1", "login": "me", "password": "pass-w0rd"}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(definition))
    uri = manifest.format(folder=tmp_path.as_uri())
    task = D1StagingToWarehouseOperator(task_id="load", manifest=uri, conn_id="warehouse", schema="shop")
    with pytest.raises(Exception, match=r".") as raised:
        task.execute({})
    frames = frames_of(raised.value)
    assert "staging_to_warehouse.py" in frames
    assert "pass-w0rd" not in frames


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": "camel"}, r"names must be 'exact' or 'upper' or 'lower', not 'camel'"),
        ({"table_prefix": None}, r"table_prefix must be a string, not None"),
    ],
)
def test_unknown_names_are_refused(arguments: dict[str, Any], message: str) -> None:
    given = {"manifest": "file:///m/_manifest.json", "conn_id": "warehouse", "schema": "shop"}
    with pytest.raises(D1ConfigurationError, match=message):
        D1StagingToWarehouseOperator(task_id="load", **given, **arguments)
    templated = D1StagingToWarehouseOperator(task_id="load", **given, names="{{ x }}", table_prefix="{{ y }}")
    assert {"names", "table_prefix"} <= set(templated.template_fields)
