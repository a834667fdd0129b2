"""Permanent errors and the retry policies of Airflow 3.3."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk.definitions.retry_policy import ExceptionRetryPolicy, RetryAction, RetryRule

from airflow_provider_d1.exceptions import D1AuthenticationError, D1ConfigurationError
from airflow_provider_d1.operators.d1 import D1ExportOperator
from airflow_provider_d1.triggers import events


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
