"""The SQLAlchemy dialect of ``sqlalchemy-cloudflare-d1`` over :mod:`airflow_provider_d1.cloudflare.dbapi`.

That package's own driver sends bytes as Base64 text and dates with a ``T``. This package's driver stores both
unchanged, so that a table has the same values whichever way they are written.
"""

from __future__ import annotations

from types import ModuleType

from sqlalchemy import types
from sqlalchemy.dialects import registry, sqlite
from sqlalchemy.engine import URL
from sqlalchemy_cloudflare_d1.dialect import CloudflareD1Dialect

DRIVER = "cloudflare_d1.airflow"


class D1SQLAlchemyDialect(CloudflareD1Dialect):
    """Use with ``creator=hook.get_conn``; the URL holds no credentials."""

    driver = "airflow"
    supports_statement_cache = True
    colspecs = {  # noqa: RUF012 - as its base class has it
        **CloudflareD1Dialect.colspecs,
        types.LargeBinary: types.LargeBinary,
        types.DateTime: sqlite.DATETIME,
        types.Date: sqlite.DATE,
        types.Time: sqlite.TIME,
    }

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        """The module whose errors SQLAlchemy translates."""
        from airflow_provider_d1.cloudflare import dbapi

        return dbapi


def engine_url(account_id: str, database: str) -> URL:
    """The URL of a database, without any credentials."""
    registry.register(DRIVER, __name__, D1SQLAlchemyDialect.__name__)
    return URL.create(DRIVER.replace(".", "+"), username=account_id, host=database)
