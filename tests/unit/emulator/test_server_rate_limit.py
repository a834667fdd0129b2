from __future__ import annotations

from airflow_provider_d1.emulator.faults import Faults
from airflow_provider_d1.emulator.server_rate_limit import Allowance, ServerRateLimit


def test_the_limit_and_the_five_minute_block() -> None:
    limit = ServerRateLimit(Faults(rate_limit=2))
    assert limit.spend("a", 0) == Allowance(0, 1, 300)
    assert limit.spend("a", 100) == Allowance(0, 0, 200)
    assert limit.spend("a", 200) == Allowance(300, 0, 300)  # the block starts with the call that went over
    assert limit.spend("a", 400) == Allowance(100, 0, 100)
    assert limit.spend("a", 500) == Allowance(0, 1, 300)


def test_the_window_starts_over() -> None:
    limit = ServerRateLimit(Faults(rate_limit=1))
    assert limit.spend("a", 0).wait == 0
    assert limit.spend("a", 300).wait == 0


def test_each_credential_has_its_own() -> None:
    limit = ServerRateLimit(Faults(rate_limit=1))
    assert [limit.spend("a", 0).wait, limit.spend("b", 0).wait, limit.spend("a", 0).wait] == [0, 0, 300]


def test_a_block_on_demand() -> None:
    now = 50.0
    faults = Faults(clock=lambda: now)
    limit = ServerRateLimit(faults)
    faults.blocked_seconds = 30
    now = 60.0
    assert limit.spend("a", now).wait == 20
    now = 80.0
    assert limit.spend("a", now) == Allowance(0, 1199, 280)


def test_headers_count_real_seconds() -> None:
    limit = ServerRateLimit(Faults())
    assert limit.headers(Allowance(0, 7, 299.2), speed=1) == {
        "ratelimit": '"default";r=7;t=300',
        "ratelimit-policy": '"default";q=1200;w=300',
    }
    assert limit.headers(Allowance(300, 0, 300), speed=100) == {
        "ratelimit": '"default";r=0;t=3',
        "ratelimit-policy": '"default";q=1200;w=3',
        "retry-after": "3",
    }
