"""DuckDB: a connection that may read the staging bucket, with credentials that are in memory only."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1Error, D1WarehouseError
from airflow_provider_d1.warehouses.session import Session

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.dialect import Dialect
    from airflow_provider_d1.warehouses.s3_access import S3Access

log = logging.getLogger(__name__)

_SECRET = "_d1_staging"  # noqa: S105 - a name


class DuckDBSession(Session):
    """A DuckDB connection; the database is closed with it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        #: whether DuckDB reads the staging bucket itself
        self.reads_s3 = False
        #: what our own source of rows raised; DuckDB keeps only its text
        self.broken: D1Error | None = None

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        return list(self.connection.execute(statement).fetchall())

    def close(self) -> None:
        """Take the credentials out of memory, and close the database."""
        if self.reads_s3:
            with suppress(Exception):  # the connection may be broken
                self.connection.execute(f"DROP SECRET IF EXISTS {_SECRET}")
        self.connection.close()

    def read_s3_itself(self, access: Callable[[], S3Access | None], dialect: Dialect) -> None:
        """Let DuckDB read the staging bucket, where it has its httpfs.

        :param access: gives the credentials.
        """
        from duckdb import Error

        if not self._load_httpfs(dialect) or (keys := access()) is None:
            return
        try:
            self.connection.execute(create_secret(keys, dialect))
        except Error as error:
            raise D1WarehouseError(
                f"DuckDB could not create an S3 secret for s3://{keys.bucket} ({type(error).__name__})"
            ) from None
        self.reads_s3 = True

    def _load_httpfs(self, dialect: Dialect) -> bool:
        """Load the extension: installed, or from the wheel ``duckdb-extension-httpfs``; nothing is downloaded."""
        candidates = ["httpfs"]
        wheel = importlib.util.find_spec("duckdb_extension_httpfs")
        if wheel is not None and wheel.origin is not None:
            ((version,),) = self.rows("SELECT library_version FROM pragma_version()")
            file = Path(wheel.origin).parent / "extensions" / version / "httpfs.duckdb_extension"
            candidates.append(dialect.literal(str(file)))
        for candidate in candidates:
            try:
                self.connection.execute(f"LOAD {candidate}")
            except Exception as error:  # noqa: BLE001 - whatever it is, there is another way
                log.debug("DuckDB could not load %s: %s", candidate, error)
            else:
                return True
        log.info("DuckDB has no httpfs extension: the worker reads the staged files and streams them into it")
        return False


def create_secret(access: S3Access, dialect: Dialect) -> str:
    """The credentials for the staging bucket, in memory and for that bucket only. Never to be shown."""
    options = {
        "TYPE": "s3",
        "PROVIDER": "config",
        "KEY_ID": access.access_key,
        "SECRET": access.secret_key,
        "SESSION_TOKEN": access.session_token,
        "REGION": access.region,
        "ENDPOINT": access.endpoint_host,
        "URL_STYLE": "path" if access.endpoint_host else None,
        "USE_SSL": None if access.use_ssl else "false",
        "SCOPE": f"s3://{access.bucket}",
    }
    listed = ", ".join(f"{key} {dialect.literal(value)}" for key, value in options.items() if value is not None)
    return f"CREATE OR REPLACE TEMPORARY SECRET {_SECRET} ({listed})"
