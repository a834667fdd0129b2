"""Requests as D1 wants them, and answers of the rest of its API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_d1.cloudflare import protocol
from airflow_provider_d1.cloudflare.messages import Response
from airflow_provider_d1.cloudflare.models import Database
from airflow_provider_d1.exceptions import D1ApiError


def answer(result: Any, status: int = 200, **more: Any) -> Response:
    body = {"success": True, "errors": [], "messages": [], "result": result, **more}
    return Response(status, {}, json.dumps(body).encode())


def test_a_listing_asks_for_a_page_and_a_name() -> None:
    request = protocol.list_databases("acc", page=2, name="shop")
    assert (request.method, request.path) == ("GET", "/accounts/acc/d1/database")
    assert request.query == {"page": 2, "per_page": 1000, "name": "shop"}
    assert request.idempotent


def test_names_stay_inside_their_path_segment() -> None:
    request = protocol.get_database("../x", "a/b?c#d")
    assert request.path == "/accounts/..%2Fx/d1/database/a%2Fb%3Fc%23d"


def test_a_page_of_databases() -> None:
    item = {"uuid": "u", "name": "shop", "version": "production", "created_at": "2026-01-01", "jurisdiction": None}
    page = protocol.read_databases(answer([item], result_info={"page": 1, "per_page": 1000, "total_count": 7}))
    assert page.databases == (Database("u", "shop"),)
    assert page.total == 7


@pytest.mark.parametrize(
    ("count", "info", "last"),
    [(9, {}, True), (10, {}, False), (10, {"per_page": 1000}, True), (10, {"per_page": 10}, False)],
)
def test_a_short_page_is_the_last(count: int, info: dict[str, int], last: bool) -> None:
    items = [{"uuid": str(n), "name": str(n)} for n in range(count)]
    assert protocol.read_databases(answer(items, result_info=info)).last is last


def test_a_short_page_is_not_the_last_while_the_total_is_larger() -> None:
    # a server that gives fewer than asked for and repeats what was asked for
    info = {"page": 1, "per_page": 1000, "count": 1, "total_count": 3}
    assert not protocol.read_databases(answer([{"uuid": "u", "name": "n"}], result_info=info)).last


@pytest.mark.parametrize("result", [{"uuid": "u"}, "x", 3])
def test_a_malformed_list_of_databases_is_an_error(result: object) -> None:
    with pytest.raises(D1ApiError, match="list of databases missing"):
        protocol.read_databases(answer(result))


def test_no_databases() -> None:
    for result in ([], None):
        assert protocol.read_databases(answer(result)).databases == ()


def test_one_database_has_its_size() -> None:
    read = protocol.read_database(answer({"uuid": "u", "name": "shop", "file_size": 8192, "num_tables": 2}))
    assert read == Database("u", "shop", 8192, 2)


@pytest.mark.parametrize("result", [None, [], "x", 3, [1]])
def test_a_result_of_another_shape_is_an_error(result: object) -> None:
    with pytest.raises(D1ApiError):
        protocol.read_database(answer(result))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'"x"', b"null", b"\xff", b'{"success":true,"result":[1,2', b"[" * 200_000]
)
def test_a_body_without_envelope_is_retryable(body: bytes) -> None:
    with pytest.raises(D1ApiError, match="expected JSON") as caught:
        protocol.read_envelope(Response(200, {}, body))
    assert caught.value.retryable


def test_success_must_be_true() -> None:
    with pytest.raises(D1ApiError):
        protocol.read_result(Response(200, {}, b'{"success":"yes","result":1}'))
    with pytest.raises(D1ApiError):
        protocol.read_result(Response(200, {}, b"{}"))
