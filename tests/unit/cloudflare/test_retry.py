"""The one retry policy."""

from __future__ import annotations

import asyncio

import pytest

from airflow_provider_d1.cloudflare.retry import ATTEMPTS, async_retrying, retrying, worth_a_retry
from airflow_provider_d1.exceptions import D1ApiError, D1ConnectionError, D1RateLimitError
from tests.unit.cloudflare.d1_fakes import EPOCH, FakeClock


@pytest.mark.parametrize(
    ("error", "idempotent", "unrepeatable"),
    [
        (D1ApiError("x", retryable=True), True, False),
        (D1ApiError("x"), False, False),
        (D1ConnectionError("x"), True, False),
        (D1ConnectionError("x", sent=False), True, True),
        (D1ConnectionError("x", sent=False, retryable=False), False, False),
        (D1RateLimitError("x"), True, True),
        (ValueError("x"), False, False),
        (KeyboardInterrupt(), False, False),
    ],
)
def test_what_is_worth_a_retry(error: BaseException, idempotent: bool, unrepeatable: bool) -> None:
    assert worth_a_retry(error, idempotent=True) is idempotent
    assert worth_a_retry(error, idempotent=False) is unrepeatable


def test_threads_and_loops_share_it() -> None:
    async def attempt_async() -> None:
        raise D1ApiError("x", retryable=True)

    def attempt() -> None:
        raise D1ApiError("x", retryable=True)

    sync, asynchronous = FakeClock(), FakeClock()
    with pytest.raises(D1ApiError):
        retrying(sync, deadline=EPOCH + 1e6, idempotent=True)(attempt)
    with pytest.raises(D1ApiError):
        asyncio.run(async_retrying(asynchronous, deadline=EPOCH + 1e6, idempotent=True)(attempt_async))
    assert len(sync.slept) == len(asynchronous.slept) == ATTEMPTS - 1


def test_pauses_grow_and_differ() -> None:
    longest = [0.0] * (ATTEMPTS - 1)
    seen = set()
    for _ in range(200):
        clock = FakeClock()
        with pytest.raises(D1ApiError):
            retrying(clock, deadline=EPOCH + 1e6, idempotent=True)(_fail)
        longest = [max(pair) for pair in zip(longest, clock.slept, strict=True)]
        seen.add(clock.slept[0])
    assert longest == sorted(longest)
    assert len(seen) > 100


def test_no_pause_goes_past_the_deadline() -> None:
    for deadline in (0, 0.1, 1, 5):
        clock = FakeClock()
        with pytest.raises(D1ApiError):
            retrying(clock, deadline=EPOCH + deadline, idempotent=True)(_fail)
        assert clock.now <= deadline


def _fail() -> None:
    raise D1ApiError("x", retryable=True)
