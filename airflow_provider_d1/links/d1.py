"""Links from a task to its database, its staged files and its warehouse tables.

Airflow reads a link in the worker at the end of the task, also after a failure. The operators keep the addresses as
attributes, so a link needs no look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote, urlencode, urlsplit
from uuid import UUID

from airflow.providers.common.compat.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection
    from airflow.sdk.types import TaskInstanceKey

CLOUDFLARE = "https://dash.cloudflare.com"
AWS = "https://console.aws.amazon.com"
GOOGLE = "https://console.cloud.google.com"
_R2 = ".r2.cloudflarestorage.com"


class _PageLink(BaseOperatorLink):
    """A link whose address is an attribute of the operator; without an address Airflow shows no active button."""

    attribute: ClassVar[str]

    def get_link(self, operator: object, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow's signature
        """Return the address, "" when there is none."""
        return str(getattr(operator, self.attribute, ""))


class D1DatabaseLink(_PageLink):
    """The exported database in Cloudflare's dashboard."""

    name = "D1 database"
    attribute = "database_page"


class D1StagedRunLink(_PageLink):
    """The staged run in the console of AWS, Google Cloud or Cloudflare R2; before it is complete, its prefix."""

    name = "Staged files"
    attribute = "staged_page"


class D1WarehouseLink(_PageLink):
    """The loaded table, or the schema of several tables, in BigQuery's, Snowflake's or Databricks' console."""

    name = "Warehouse"
    attribute = "warehouse_page"


def database_page(account_id: str, database: str | None) -> str:
    """The dashboard's page about a database; the list of databases when its UUID is not known."""
    page = f"{CLOUDFLARE}/{quote(account_id, safe='')}/workers/d1"
    return f"{page}/databases/{quote(database, safe='')}" if database is not None and _is_uuid(database) else page


def storage_page(uri: str, *, region: str | None = None, endpoint: str | None = None) -> str:
    """The console's page about a folder of staged files; "" for a store without one.

    :param uri: ``s3://bucket/prefix/`` or ``gs://bucket/prefix/``.
    :param region: the bucket's region, if known.
    :param endpoint: the address of an S3 service other than Amazon's.
    """
    parts = urlsplit(uri)
    bucket, prefix = quote(parts.netloc.rpartition("@")[2], safe=""), parts.path.strip("/")
    folder = f"{prefix}/" if prefix else ""
    if parts.scheme in ("gs", "gcs"):
        return f"{GOOGLE}/storage/browser/{bucket}/{quote(folder)}"
    if parts.scheme != "s3":
        return ""
    host = urlsplit(endpoint or "").hostname or ""
    if host.endswith(_R2):
        return f"{CLOUDFLARE}/{host.split('.')[0]}/r2/default/buckets/{bucket}?{urlencode({'prefix': folder})}"
    if host and not host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return ""
    query = {"prefix": folder, **({} if region is None else {"region": region})}
    return f"{AWS}/s3/buckets/{bucket}?{urlencode(query)}"


def warehouse_page(connection: Connection, schema: str, table: str | None, catalog: str = "") -> str:
    """The page of a table, or of a schema, in the warehouse's console; "" for a warehouse without one.

    :param table: None for the schema.
    :param catalog: Databricks' catalog or BigQuery's project, where it is not the connection's.
    """
    page = _WAREHOUSES.get(connection.conn_type or "")
    names = quote(schema, safe=""), table and quote(table, safe=""), quote(catalog, safe="")
    return "" if page is None else page(connection, *names)


def _bigquery(connection: Connection, schema: str, table: str | None, catalog: str) -> str:
    project = catalog or connection.extra_dejson.get("project")
    if not project:
        return ""
    page = f"{GOOGLE}/bigquery?project={project}&p={project}&d={schema}"
    return f"{page}&page=dataset" if table is None else f"{page}&t={table}&page=table"


def _snowflake(connection: Connection, schema: str, table: str | None, catalog: str) -> str:  # noqa: ARG001
    extra = connection.extra_dejson
    organization, _, account = str(extra.get("account") or "").partition("-")
    if not account or not extra.get("database"):
        return ""
    page = f"https://app.snowflake.com/{organization}/{account}/#/data/databases/{extra['database']}/schemas/{schema}"
    return page if table is None else f"{page}/table/{table}"


def _databricks(connection: Connection, schema: str, table: str | None, catalog: str) -> str:
    catalog, host = catalog or connection.extra_dejson.get("catalog") or "", connection.host or ""
    if not catalog or not host:
        return ""
    page = f"https://{urlsplit(host if '://' in host else f'//{host}').netloc}/explore/data/{catalog}/{schema}"
    return page if table is None else f"{page}/{table}"


#: connection type → page; the consoles of other warehouses have no addresses for tables
_WAREHOUSES: Mapping[str, Callable[[Connection, str, str | None, str], str]] = {
    "google_cloud_platform": _bigquery,
    "gcpbigquery": _bigquery,
    "snowflake": _snowflake,
    "databricks": _databricks,
}


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False
