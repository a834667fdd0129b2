"""The d1:// assets as Airflow creates, normalises and converts them, through the provider's metadata."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.assets import Asset

from airflow_provider_d1.assets.d1 import convert_asset_to_openlineage, create_asset


@pytest.mark.parametrize(
    ("parts", "uri"),
    [
        ({"account_id": "acc", "database": "shop"}, "d1://acc/shop"),
        ({"account_id": "acc", "database": "shop", "table": "users"}, "d1://acc/shop/users"),
        ({"account_id": "acc", "database": "shop", "table": "a/b c?#é"}, "d1://acc/shop/a%2Fb%20c%3F%23%C3%A9"),
    ],
)
def test_the_factory_builds_the_uri(parts: dict[str, str], uri: str) -> None:
    assert create_asset(**parts, extra={"team": "data"}).uri == uri


@pytest.mark.parametrize("parts", [("", "shop", None), ("acc", "", None), ("acc", "shop", "")])
def test_the_factory_refuses_empty_parts(parts: tuple[str, str, str | None]) -> None:
    with pytest.raises(ValueError, match="needs an account ID"):
        create_asset(account_id=parts[0], database=parts[1], table=parts[2])


@pytest.mark.parametrize("uri", ["d1://acc/shop/", "d1://acc/shop", "D1://acc/shop#x"])
def test_airflow_normalises_a_uri(uri: str) -> None:
    assert Asset(uri=uri).uri == "d1://acc/shop"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("d1:///shop", "must contain an account ID"),
        ("d1://acc", "must contain a database"),
        ("d1://acc//users", "must contain a database"),
        ("d1://acc/shop/users/id", "at most one table"),
        ("d1://acc/shop?x=1", "must not have a query"),
    ],
)
def test_airflow_refuses_an_incomplete_uri(uri: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Asset(uri=uri)


@pytest.mark.parametrize(
    ("table", "name"), [(None, "shop"), ("users", "shop.users"), ("a/b c", "shop.a/b c"), ("é", "shop.é")]
)
def test_openlineage_gets_the_names_as_they_are(table: str | None, name: str) -> None:
    asset = create_asset(account_id="acc", database="shop", table=table)
    dataset = convert_asset_to_openlineage(asset, SimpleNamespace())
    assert (dataset.namespace, dataset.name) == ("d1://acc", name)
