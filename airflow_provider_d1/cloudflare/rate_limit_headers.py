"""Read what a response says about the rate limit: the limit itself, and what is left of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_d1.cloudflare.api_errors import MAX_RETRY_AFTER

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.messages import Response

# At most nine digits: Python refuses to read a number of thousands of digits.
_POLICY = re.compile(r"\bq=(\d{1,9})\b.*?\bw=(\d{1,9})\b|^\s*(\d{1,9})\s*;\s*w=(\d{1,9})\b")
_REMAINING = re.compile(r"\b(?:r|remaining)=(\d{1,9})\b.*?\b(?:t|reset)=(\d{1,9})\b")
_NUMBER = re.compile(r"\d{1,9}")


@dataclass(frozen=True, slots=True)
class Limit:
    """So many calls in so many seconds."""

    calls: int
    seconds: float

    def without(self, reserve: float) -> int:
        """The calls that are left when a part of them is kept free."""
        return self.calls - math.ceil(self.calls * reserve)


def read_policy(response: Response) -> Limit | None:
    """The limit that the server enforces, None where it does not say."""
    found = _POLICY.search(response.headers.get("ratelimit-policy", ""))
    if found is None:
        return None
    calls, seconds = (int(group) for group in found.groups() if group is not None)
    return Limit(calls, float(seconds)) if calls > 0 and seconds > 0 else None


def read_remaining(response: Response) -> Limit | None:
    """The calls that are left, and for how many seconds that holds, at most 15 minutes."""
    found = _REMAINING.search(response.headers.get("ratelimit", ""))
    if found is not None:
        return Limit(int(found[1]), min(float(found[2]), MAX_RETRY_AFTER))
    left, reset = response.headers.get("x-ratelimit-remaining", ""), response.headers.get("x-ratelimit-reset", "")
    # Some services put an epoch into this older field; only a span makes sense here.
    readable = _NUMBER.fullmatch(left) and _NUMBER.fullmatch(reset)
    return Limit(int(left), min(float(reset), MAX_RETRY_AFTER)) if readable and int(reset) <= 86400 else None
