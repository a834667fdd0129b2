"""Results as polars frames."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowOptionalProviderFeatureException

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.dbapi import Connection
    from airflow_provider_d1.cloudflare.sql_parameters import Parameters


def read_polars(connection: Connection, sql: str, parameters: Parameters | None, **options: Any) -> Any:  # noqa: ANN401
    """Run a query and return a polars frame, or an iterator of frames with ``iter_batches=True``.

    ``DbApiHook``'s own version drops parameters by position and passes a mapping as keywords.

    :param connection: closed afterwards; the iterator's later frames are made from rows that were fetched before.
    :param options: for ``polars.read_database``. By default all rows are read to find a column's type.
    """
    with closing(connection):
        try:
            import polars as pl
        except ImportError:
            raise AirflowOptionalProviderFeatureException(
                "polars is not installed; install apache-airflow-providers-common-sql[polars]."
            ) from None

        options = {"infer_schema_length": None, **options}
        return pl.read_database(sql, connection, execute_options={"parameters": parameters}, **options)
