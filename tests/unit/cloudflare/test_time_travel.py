"""Time Travel's requests and answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from airflow_provider_d1.cloudflare import time_travel
from airflow_provider_d1.cloudflare.messages import Response
from airflow_provider_d1.exceptions import D1ApiError


def test_a_bookmark_is_asked_for_in_utc() -> None:
    assert time_travel.bookmark_request("acc", "db").query == {}
    moment = datetime(2026, 11, 27, 2, 0, 0, 500_000, tzinfo=timezone(timedelta(hours=2)))
    request = time_travel.bookmark_request("acc", "db", moment)
    assert request.path == "/accounts/acc/d1/database/db/time_travel/bookmark"
    assert (request.query, request.idempotent) == ({"timestamp": "2026-11-27T00:00:00.500Z"}, True)


def test_a_restore_is_not_sent_twice() -> None:
    request = time_travel.restore_request("acc", "db", timestamp=datetime(2026, 11, 27, tzinfo=UTC))
    assert (request.method, request.query) == ("POST", {"timestamp": "2026-11-27T00:00:00.000Z"})
    assert not request.idempotent


@pytest.mark.parametrize("result", [None, [], {}, {"bookmark": None}, {"bookmark": ""}, {"bookmark": 3}])
def test_an_answer_without_a_bookmark_is_an_error(result: object) -> None:
    answer = Response(200, {}, json.dumps({"success": True, "result": result}).encode())
    with pytest.raises(D1ApiError, match="bookmark missing"):
        time_travel.read_bookmark(answer)
    with pytest.raises(D1ApiError, match="bookmark missing"):
        time_travel.read_restored(answer)
