"""Assets with the URI scheme ``d1``: ``d1://<account id>/<database>`` and ``d1://<account id>/<database>/<table>``.

The database is its UUID or its name. Airflow compares asset URIs as strings, so a deployment should use one of the two
everywhere. Characters that a URI reserves are percent-encoded in both parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from airflow.providers.common.compat.openlineage.facet import Dataset
    from airflow.providers.common.compat.sdk import Asset

#: OpenLineage and Airflow both use it as the namespace's scheme
SCHEME = "d1"


def create_asset(
    *, account_id: str, database: str, table: str | None = None, extra: dict[str, Any] | None = None
) -> Asset:
    """Return the asset of a D1 database, or of one of its tables.

    :param account_id: the Cloudflare account's ID.
    :param database: the database's UUID or name.
    :param table: the table's exact name; None for the whole database.
    :param extra: the asset's extra, as for any Airflow asset.
    :raises ValueError: when a part is empty.
    """
    from airflow.providers.common.compat.sdk import Asset

    parts = [account_id, database] if table is None else [account_id, database, table]
    if not all(parts):
        raise ValueError("A d1:// asset needs an account ID and a database, and its table name must not be empty")
    return Asset(uri=f"{SCHEME}://{'/'.join(quote(part, safe='') for part in parts)}", extra=extra)


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Validate a ``d1://`` URI; Airflow calls this for every asset with that scheme.

    :raises ValueError: names the missing or superfluous part.
    """
    parts = uri.path.removeprefix("/").split("/")
    if not uri.netloc:
        raise ValueError("A d1:// URI must contain an account ID: d1://<account id>/<database>[/<table>]")
    if not all(parts) or len(parts) > 2:
        raise ValueError(
            f"A d1:// URI must contain a database and at most one table: d1://{uri.netloc}/<database>[/<table>]"
        )
    if uri.query:
        raise ValueError("A d1:// URI must not have a query")
    return uri._replace(path="/" + "/".join(parts))


def convert_asset_to_openlineage(asset: Asset, lineage_context: object) -> Dataset:  # noqa: ARG001 - Airflow's signature
    """Return the OpenLineage dataset of an asset: namespace ``d1://<account id>``, name ``<database>[.<table>]``."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    uri = urlsplit(asset.uri)
    name = ".".join(unquote(part) for part in uri.path.strip("/").split("/"))
    return Dataset(namespace=f"{SCHEME}://{uri.netloc}", name=name)


def record_events(
    context: Mapping[str, Any], outlets: Iterable[object], asset: Asset, extra: Mapping[str, Any]
) -> None:
    """Add extra to the asset events of a task's outlets; Airflow emits them when the task succeeds.

    Airflow schedules a DAG on an asset only when a DAG file names it, so the outlets must be declared there and
    are not added here.

    :param context: the task's context.
    :param outlets: the task's ``outlets``. Every asset gets ``extra`` on its event, and every ``AssetAlias`` an event
        of ``asset``; existing extra is kept.
    :param asset: the asset of the D1 database.
    :param extra: plain JSON.
    """
    from airflow.providers.common.compat.sdk import AssetAlias

    events = context.get("outlet_events")
    if events is None:
        return
    for outlet in outlets:
        if isinstance(outlet, AssetAlias):
            events[outlet].add(asset, extra=dict(extra))
        else:
            events[outlet].extra = {**extra, **events[outlet].extra}
