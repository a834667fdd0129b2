"""A finished export as plain JSON, which crosses XCom and trigger events."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_provider_d1.cloudflare.models import D1Export, ExportOptions, SkippedObject

NOON = datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=UTC)
EXPORT = D1Export(
    database_id="uuid",
    database_name="shop",
    account_id="acc",
    bookmark="bm",
    filename="x.sql",
    sealed_url="d1seal1.1.AAAA",
    expires_at=NOON + timedelta(hours=1),
    started_at=NOON,
    completed_at=NOON + timedelta(seconds=12.5),
    polls=7,
    restarts=1,
    options=ExportOptions(("a", "b"), no_data=True),
    skipped=(SkippedObject("fts", "virtual table (fts5)"),),
)


@pytest.mark.parametrize("export", [EXPORT, replace(EXPORT, options=ExportOptions(), skipped=())])
def test_it_survives_json(export: D1Export) -> None:
    assert D1Export.from_dict(json.loads(json.dumps(export.to_dict()))) == export


def test_unavailable_seconds() -> None:
    assert EXPORT.unavailable_seconds == 12.5


def test_not_even_the_sealed_url_is_in_its_repr() -> None:
    assert "d1seal1" not in repr(EXPORT)


@pytest.mark.parametrize("field", ["sealed_url", "expires_at", "polls"])
def test_a_missing_field_is_named(field: str) -> None:
    data = EXPORT.to_dict()
    del data[field]
    with pytest.raises(ValueError, match=f"{field!r} is missing"):
        D1Export.from_dict(data)


@pytest.mark.parametrize(
    "change", [{"expires_at": "s3cret"}, {"polls": "s3cret"}, {"skipped": "s3cret"}, {"options": {"tables": 3}}]
)
def test_a_malformed_field_is_not_repeated(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wrong type") as caught:
        D1Export.from_dict(EXPORT.to_dict() | change)
    assert "s3cret" not in str(caught.value)
