"""Fail a task without retries where no retry can help, unless its retry policy asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_d1.exceptions import D1ConfigurationError, D1Error

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator
    from airflow.sdk.definitions.retry_policy import RetryPolicy


@contextmanager
def permanent_errors_fail_task(task: BaseOperator, where: str | None = None) -> Iterator[None]:
    """Fail the task without retries for a permanent error; other errors are not changed.

    :param task: Airflow applies no ``retry_policy`` to an ``AirflowFailException``, so it is applied here: an error
        for which the policy asks for a retry is not changed either.
    :param where: the task's database and connection, for the error's message.
    :raises AirflowFailException: for a :class:`D1Error` that is not ``retryable``, which becomes its cause.
    """
    try:
        yield
    except D1Error as error:
        # a wrong argument or connection is named by its own message
        place = "" if where is None or isinstance(error, D1ConfigurationError) else f"{where}: "
        if not error.retryable and not _is_retried(error, getattr(task, "retry_policy", None)):
            raise AirflowFailException(f"{type(error).__name__}: {place}{error}") from error
        if place:
            error.add_note(where or "")
        raise


def _is_retried(error: D1Error, policy: RetryPolicy | None) -> bool:
    """Whether a rule of the policy asks for a retry of just this error."""
    if policy is None:
        return False
    from airflow.sdk.definitions.retry_policy import RetryAction

    return policy.evaluate(exception=error, try_number=1, max_tries=1).action is RetryAction.RETRY
