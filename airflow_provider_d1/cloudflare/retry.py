"""The retry policy of both clients: which failures are retried, after how long, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import tenacity

from airflow_provider_d1.exceptions import D1ApiError, D1ConnectionError, D1RateLimitError

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.clock import Clock

#: attempts at one call, the first included; a wait for the rate limit is not counted
ATTEMPTS = 6
#: default deadline of a call and its retries, in seconds; must exceed Cloudflare's five-minute block
DEFAULT_TIMEOUT = 600.0
_backoff = tenacity.wait_random_exponential(multiplier=0.5, max=20)


def worth_a_retry(error: BaseException, *, idempotent: bool) -> bool:
    """Whether sending the request again may help, and cannot repeat an effect.

    :param error: what the call raised.
    :param idempotent: whether the request may be repeated though D1 may have acted on it.
    """
    if not isinstance(error, D1ApiError) or not error.retryable:
        return False
    refused = isinstance(error, D1RateLimitError)
    never_sent = isinstance(error, D1ConnectionError) and not error.sent
    return idempotent or refused or never_sent


def retrying(clock: Clock, *, deadline: float, idempotent: bool) -> tenacity.Retrying:
    """The policy for blocking code; ``deadline`` is absolute, in epoch seconds."""
    return tenacity.Retrying(sleep=clock.sleep, **_policy(clock, deadline, idempotent))


def async_retrying(clock: Clock, *, deadline: float, idempotent: bool) -> tenacity.AsyncRetrying:
    """The policy for coroutines; ``deadline`` is absolute, in epoch seconds."""
    return tenacity.AsyncRetrying(sleep=clock.sleep_async, **_policy(clock, deadline, idempotent))


def _policy(clock: Clock, deadline: float, idempotent: bool) -> dict[str, Any]:
    predicate: Callable[[BaseException], bool] = partial(worth_a_retry, idempotent=idempotent)
    return {
        "retry": tenacity.retry_if_exception(predicate),
        "wait": _wait,
        "stop": partial(_stop, clock, deadline),
        "reraise": True,
    }


def _wait(state: tenacity.RetryCallState) -> float:
    asked = _asked_for(state)
    if asked is None:
        return _backoff(state)
    return asked if _refused(state) else max(asked, _backoff(state))


def _stop(clock: Clock, deadline: float, state: tenacity.RetryCallState) -> bool:
    if clock.time() + state.upcoming_sleep > deadline:
        return True
    return not (_refused(state) and _asked_for(state) is not None) and state.attempt_number >= ATTEMPTS


def _asked_for(state: tenacity.RetryCallState) -> float | None:
    """The server's ``retry-after`` in seconds, None without one."""
    error = state.outcome.exception() if state.outcome else None
    return error.retry_after if isinstance(error, D1ApiError) else None


def _refused(state: tenacity.RetryCallState) -> bool:
    """Whether the rate limit refused the call."""
    return state.outcome is not None and isinstance(state.outcome.exception(), D1RateLimitError)
