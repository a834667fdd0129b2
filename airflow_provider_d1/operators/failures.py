"""Which errors a task may retry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_d1.exceptions import D1Error


@contextmanager
def no_pointless_retry() -> Iterator[None]:
    """Fail the task at once for what no retry can mend; let every other error through as it is.

    :raises AirflowFailException: for a :class:`D1Error` that is not ``retryable``, which becomes its cause.
    """
    try:
        yield
    except D1Error as error:
        if error.retryable:
            raise
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error
