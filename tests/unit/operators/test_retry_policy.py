"""Permanent errors and the retry policies of Airflow 3.3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk.definitions.retry_policy import ExceptionRetryPolicy, RetryAction, RetryRule

from airflow_provider_d1.exceptions import D1AuthenticationError, D1ConfigurationError, D1Error
from airflow_provider_d1.operators.d1 import D1ExportOperator
from airflow_provider_d1.triggers import events
from tests.unit.operators.every_operator import operators


def test_a_retry_rule_can_retry_a_permanent_error() -> None:
    """Airflow itself asks no policy about an AirflowFailException."""
    path = "airflow_provider_d1.exceptions.D1AuthenticationError"
    event = events.failure(D1AuthenticationError("The token is wrong."))
    other = events.failure(D1ConfigurationError("database is wrong."))

    def run(event: dict[str, Any], *rules: RetryRule) -> None:
        policy = ExceptionRetryPolicy(rules=list(rules))
        D1ExportOperator(task_id="export", retries=3, retry_policy=policy).execute_complete({}, event)

    with pytest.raises(D1AuthenticationError):
        run(event, RetryRule(exception=path, action=RetryAction.RETRY))
    for rules in ((), (RetryRule(exception=path, action=RetryAction.FAIL),), (RetryRule(exception=OSError),)):
        with pytest.raises(AirflowFailException):
            run(event, *rules)
    with pytest.raises(AirflowFailException):
        run(other, RetryRule(exception=path, action=RetryAction.RETRY))


#: arguments with which each class fails permanently: an unknown connection, or a file that is no manifest
FAILING: dict[str, dict[str, Any]] = {
    "D1ExportOperator": {"deferrable": False},
    "D1ImportOperator": {"source": "{file}"},
    "D1RestoreOperator": {"bookmark": "b"},
    "D1CompareBackupsOperator": {"first": "{file}", "second": "{file}"},
    "D1ToS3Operator": {"s3_bucket": "b", "s3_prefix": "p", "deferrable": False},
    "D1ToObjectStorageOperator": {"path": "{file}-prefix", "deferrable": False},
    "D1StagingToWarehouseOperator": {"manifest": "{file}", "conn_id": "warehouse", "schema": "s"},
    "S3ToD1Operator": {"manifest": "{file}"},
    "D1ChangeSensor": {"prefix": "{file}-prefix", "soft_fail": True},
}


def test_every_operator_is_covered() -> None:
    assert set(operators()) == set(FAILING)


@pytest.mark.parametrize("name", FAILING)
def test_a_permanent_error_fails_any_task_at_once_unless_a_rule_retries_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", '{"conn_type": "duckdb"}')
    file = tmp_path / "_manifest.json"
    file.write_text("{}")
    arguments = {k: v.format(file=file.as_uri()) if isinstance(v, str) else v for k, v in FAILING[name].items()}
    if "d1_conn_id" in operators()[name].template_fields:
        arguments["d1_conn_id"] = "absent"

    def execute(**more: Any) -> None:
        task = operators()[name](task_id="task", retries=3, **arguments, **more)
        task.execute({})

    with pytest.raises(AirflowFailException) as failed:
        execute()
    assert isinstance(failed.value.__cause__, D1Error)
    rule = RetryRule(exception=type(failed.value.__cause__), action=RetryAction.RETRY)
    with pytest.raises(type(failed.value.__cause__)):
        execute(retry_policy=ExceptionRetryPolicy(rules=[rule]))
