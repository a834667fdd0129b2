"""The Airflow hook for D1: queries, exports and API clients from a connection of type ``d1``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import quote

from airflow.providers.common.compat.sdk import AirflowOptionalProviderFeatureException
from airflow.providers.common.sql.hooks.sql import DbApiHook

from airflow_provider_d1.cloudflare.dbapi import Connection, Cursor
from airflow_provider_d1.cloudflare.insert_rows import insert_batches, insert_sql
from airflow_provider_d1.cloudflare.models import D1Export, Database, ExportKeywords, ExportRequest
from airflow_provider_d1.cloudflare.sql_parameters import Parameters, bind, check_each, marker_names, sequence
from airflow_provider_d1.cloudflare.sql_tokens import statements as split_statements_of
from airflow_provider_d1.exceptions import D1Error
from airflow_provider_d1.hooks.connection import Settings, fetch_settings, no_connection, read_settings
from airflow_provider_d1.hooks.event_loop import run_coroutine
from airflow_provider_d1.hooks.frames import read_polars
from airflow_provider_d1.hooks.lineage import openlineage_database, report_export, report_sql
from airflow_provider_d1.hooks.masking import mask
from airflow_provider_d1.hooks.sql_dialect import D1Dialect

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.providers.openlineage.sqlparser import DatabaseInfo
    from sqlalchemy.engine import URL, Engine

    from airflow_provider_d1.cloudflare.client import AsyncD1Client, D1Client
    from airflow_provider_d1.cloudflare.download import Download
    from airflow_provider_d1.cloudflare.time_travel import Restored


class D1Hook(DbApiHook):
    """Use Cloudflare D1 through an Airflow connection of type ``d1``.

    It is a ``DbApiHook``, so common-sql's operators and sensors work with a ``d1`` connection. Each call is one
    transaction: a statement, a script, or a batch of rows. There is no transaction over several calls.

    :param d1_conn_id: the connection.
    :param database: name or UUID; None for the connection's default.
    :param ignored: ignored, except for ``log_sql``: Airflow's SQL operators pass each field of the connection's extra
        as a keyword.
    """

    conn_name_attr = "d1_conn_id"
    default_conn_name = "d1_default"
    conn_type = "d1"
    hook_name = "Cloudflare D1"
    supports_autocommit = True
    _placeholder = "?"

    def __init__(self, d1_conn_id: str = default_conn_name, database: str | None = None, **ignored: Any) -> None:
        super().__init__(d1_conn_id, log_sql=ignored.get("log_sql", True))
        self.database = database
        self._settings: Settings | None = None
        self._uuids: dict[str, str] = {}

    @property
    def schema(self) -> str | None:
        """The database, under the name by which Airflow's SQL operators set it from their own ``database``."""
        return self.database

    @schema.setter
    def schema(self, value: str | None) -> None:
        self.database = value

    # clients

    def get_settings(self) -> Settings:
        """Read the connection, once, and mask its token in the logs.

        :raises D1ConfigurationError: names the missing or invalid field, or the connection that is not defined.
        """
        from airflow.providers.common.compat.sdk import AirflowNotFoundException

        if self._settings is None:
            try:
                self._settings = read_settings(self.connection, self.connection_extra)
            except AirflowNotFoundException:
                raise no_connection(self.get_conn_id()) from None
            mask(self._settings.credentials.token)
        return self._settings

    def get_client(self) -> D1Client:
        """Return a client; close it, or use it as a context manager."""
        from airflow_provider_d1.cloudflare.client import D1Client

        return D1Client(self.get_settings().credentials)

    async def get_async_client(self) -> AsyncD1Client:
        """Return an async client without blocking the event loop; close it, or use it as an async context manager."""
        from airflow_provider_d1.cloudflare.client import AsyncD1Client

        if self._settings is None:
            self._settings = await fetch_settings(self.get_conn_id())
        return AsyncD1Client(self._settings.credentials)

    def test_connection(self) -> tuple[bool, str]:  # type: ignore[override]
        """Check the connection with the API.

        :return: whether it works, and a message that names the problem: the token, the account, the default database,
            or the permissions. The message has no connection ID: Airflow's form tests it under a temporary one.
        """
        try:
            with self.get_client() as client:
                access = client.verify_access(self.database or self.get_settings().database)
        except D1Error as error:
            return False, str(error).removeprefix(f"Connection {self.get_conn_id()!r}: ")
        return True, access.describe()

    # databases and queries

    def list_databases(self, name: str | None = None) -> list[Database]:
        """List the account's databases.

        :param name: only those whose name contains it.
        """
        with self.get_client() as client:
            return client.list_databases(name)

    def get_database(self, name_or_uuid: str | None = None) -> Database:
        """Return a database by its exact name or its UUID.

        :param name_or_uuid: None for the hook's own.
        :raises D1DatabaseNotFoundError: when there is none.
        """
        with self.get_client() as client:
            return client.get_database(name_or_uuid or self._database_or_fail())

    def query(self, sql: str, parameters: Parameters | None = None) -> list[dict[str, Any]]:
        """Run SQL and return the rows of the last statement.

        :param sql: one statement, or several that run in order and in one transaction.
        :param parameters: a mapping for ``:name``, ``@name`` and ``$name``; a sequence for ``?`` and ``?NNN``. At most
            100 for each statement.
        :raises ProgrammingError: when they do not match the statement; nothing was sent then.
        """
        bound = bind(sql, parameters)
        with self.get_client() as client:
            rows = client.execute(self._resolve(client), bound)[-1].as_dicts()
        report_sql(self, sql, parameters if isinstance(parameters, Mapping | list | tuple) else None, rows=len(rows))
        return rows

    # Time Travel

    def get_bookmark(self, timestamp: datetime | None = None) -> str:
        """Return the database's Time Travel bookmark.

        :param timestamp: a point in the past, with a time zone; None for now.
        """
        with self.get_client() as client:
            return client.get_bookmark(self._resolve(client), timestamp)

    def restore(self, bookmark: str | None = None, *, timestamp: datetime | None = None) -> Restored:
        """Restore the database to an earlier state. Everything that was written since is discarded.

        :param bookmark: from :meth:`get_bookmark`, or a staged manifest's ``source.bookmark``.
        :param timestamp: instead of a bookmark: a point in time with a time zone, within D1's retention (30 days, on
            the Free plan 7).
        :return: the bookmark after the restore, and ``previous_bookmark``, which undoes it.
        :raises D1ConfigurationError: unless exactly one of the two is given.
        """
        with self.get_client() as client:
            return client.restore(self._resolve(client), bookmark=bookmark, timestamp=timestamp)

    # exports

    def export(
        self,
        database: str | None = None,
        *,
        on_progress: Callable[[str], None] | None = None,
        **options: Unpack[ExportKeywords],
    ) -> D1Export:
        """Export a database and wait for its end. It works in any thread, also with a running event loop.

        :param database: name or UUID; None for the hook's own.
        :param on_progress: called with progress messages; the hook's logger by default.
        :param options: ``tables``, ``exclude_tables``, ``no_data``, ``no_schema``, ``on_virtual_table``,
            ``poll_interval``, ``timeout``, ``queue_timeout`` and ``max_restarts``, as in
            :class:`~airflow_provider_d1.cloudflare.models.ExportRequest`.
        :raises D1Error: a subclass for each kind of failure.
        """
        return self.run_export(ExportRequest.from_dict({**options, "database": database}), on_progress=on_progress)

    def run_export(self, request: ExportRequest, *, on_progress: Callable[[str], None] | None = None) -> D1Export:
        """Export a database as :meth:`export` does.

        :param request: what to export; without a database it takes the hook's own.
        :param on_progress: called with progress messages; the hook's logger by default.
        """
        from airflow_provider_d1.hooks.export_run import export_database

        settings = self.get_settings()
        request = replace(request, database=request.database or self._database_or_fail())

        async def run() -> D1Export:
            return await export_database(settings, request, on_progress=on_progress or self.log.info)

        export = run_coroutine(run)
        report_export(self, export)
        return export

    def download(self, export: D1Export | Mapping[str, Any]) -> Download:
        """Open the dump of a finished export.

        :param export: what :meth:`export` returned, or its dict.
        :return: a readable binary stream that resumes after a cut connection, and raises an error instead of ending
            early; close it, or use it as a context manager.
        :raises D1SignedUrlExpiredError: when the URL has expired, an hour after the export.
        :raises D1SealError: when the export was made with another token.
        """
        from airflow_provider_d1.hooks.export_run import open_dump

        return open_dump(export, self.get_settings().credentials)

    # DB-API

    def get_conn(self) -> Connection:
        """Return a DB-API connection to the database."""
        client = self.get_client()
        try:
            return Connection(client, self._resolve(client))
        except BaseException:
            client.close()
            raise

    def get_autocommit(self, conn: Connection) -> bool:  # noqa: ARG002 - DbApiHook's signature
        """True: D1 commits each call."""
        return True

    def set_autocommit(self, conn: Connection, autocommit: bool) -> None:
        """Do nothing: see :meth:`get_autocommit`."""

    def run(
        self,
        sql: str | Iterable[str],
        autocommit: bool = False,
        parameters: Parameters | None = None,
        handler: Callable[[Any], Any] | None = None,
        split_statements: bool = False,
        return_last: bool = True,
    ) -> Any:  # noqa: ANN401 - the handler's result, or a list of them
        """Run SQL as :meth:`DbApiHook.run` does, after checking all parameters.

        :param sql: a script, or a list of scripts that run one after the other.
        :param parameters: as for :meth:`query`. For a list, or with ``split_statements``, a mapping must have the names
            of all and no others, and a sequence must match each one.
        :raises ProgrammingError: when they do not match; nothing was sent then.
        """
        if not isinstance(sql, str):
            sql = scripts = list(sql)
        else:
            scripts = self.split_sql_string(sql) if split_statements else [sql]
        if parameters is not None and not isinstance(parameters, Mapping):
            parameters = sequence(parameters)
        check_each(scripts, parameters)
        return super().run(sql, autocommit, parameters, handler, split_statements, return_last)

    def _run_command(self, cur: Cursor, sql_statement: str, parameters: Parameters | None) -> None:
        if isinstance(parameters, Mapping):
            names = marker_names(sql_statement)
            parameters = {name: value for name, value in parameters.items() if name in names}
        super()._run_command(cur, sql_statement, parameters)

    @staticmethod
    def split_sql_string(sql: str, strip_semicolon: bool = False) -> list[str]:
        """The statements of a script, by SQLite's rules: a trigger's body belongs to its CREATE."""
        return [
            statement.rstrip(";").rstrip() if strip_semicolon else statement for statement in split_statements_of(sql)
        ]

    def insert_rows(
        self,
        table: str,
        rows: Iterable[Parameters],
        target_fields: Sequence[str] | None = None,
        commit_every: int = 1000,
        replace: bool = False,
        **ignored: Any,  # noqa: ARG002 - DbApiHook's other arguments are about drivers and transactions
    ) -> None:
        """Insert rows with as few calls as D1's limits allow; after a failure the rows of earlier calls remain.

        :param table: the table's name; quoted as an identifier, so without a schema.
        :param rows: values in the order of ``target_fields``, or mappings from columns to values.
        :param target_fields: columns; None for all of the table's, or for the first row's when it is a mapping.
        :param commit_every: the most rows in one call, which is one transaction and has at most 1 MB; 0 for all rows in
            one call.
        :param replace: replace rows with the same key.
        :raises ProgrammingError: a row or a value that cannot be inserted; no row of its call was sent.
        """
        loaded = 0
        batches = insert_batches(table, rows, target_fields, replace=replace, rows_per_batch=commit_every)
        with self.get_client() as client:
            for statements, count in batches:
                client.execute(self._resolve(client), statements)
                loaded += count
                self.log.info("Inserted rows: table=%s rows=%d", table, loaded)
        report_sql(self, insert_sql(table, target_fields, replace=replace), rows=loaded)

    # data frames: see read_polars

    def _get_polars_df(self, sql: str, parameters: Parameters | None = None, **kwargs: Any) -> Any:  # noqa: ANN401
        return read_polars(self.get_conn(), sql, parameters, **kwargs)

    def _get_polars_df_by_chunks(
        self, sql: str, parameters: Parameters | None = None, *, chunksize: int, **kwargs: Any
    ) -> Iterator[Any]:
        yield from read_polars(self.get_conn(), sql, parameters, iter_batches=True, batch_size=chunksize, **kwargs)

    # tables and columns

    @property
    def dialect_name(self) -> str:
        """D1's SQL is SQLite's."""
        return "sqlite"

    @cached_property
    def dialect(self) -> D1Dialect:
        """Describes tables and columns without SQLAlchemy."""
        return D1Dialect(self)

    def get_table_schema(self, table_name: str, schema: str | None = None) -> list[dict[str, str]]:  # noqa: ARG002
        """The names and declared types of a table's columns.

        :param schema: ignored, as D1 has one schema.
        """
        return [{"name": column["name"], "type": column["type"]} for column in self.dialect.columns(table_name)]

    def get_uri(self) -> str:
        """``d1://<account id>/<database>``; it does not contain the token."""
        parts = (self.get_settings().credentials.account_id, self._database_or_fail())
        return f"d1://{'/'.join(quote(part, safe='') for part in parts)}"

    @property
    def sqlalchemy_url(self) -> URL:
        """The URL of the database for SQLAlchemy; it contains no credentials, so use :meth:`get_sqlalchemy_engine`.

        :raises AirflowOptionalProviderFeatureException: when ``sqlalchemy-cloudflare-d1`` is not installed.
        """
        try:
            from airflow_provider_d1.hooks.sqlalchemy_dialect import engine_url
        except ImportError:
            raise AirflowOptionalProviderFeatureException(
                "sqlalchemy-cloudflare-d1 is not installed; install airflow-provider-d1[sqlalchemy]."
            ) from None
        return engine_url(self.get_settings().credentials.account_id, self._database_or_fail())

    def get_sqlalchemy_engine(self, engine_kwargs: dict[str, Any] | None = None) -> Engine:
        """An SQLAlchemy engine that connects through this hook; pandas' ``to_sql`` accepts it.

        :param engine_kwargs: for ``create_engine``.
        """
        url = self.sqlalchemy_url
        from sqlalchemy import create_engine

        return create_engine(url, **{"creator": self.get_conn, **(engine_kwargs or {})})

    # OpenLineage

    def get_openlineage_database_info(self, connection: Any) -> DatabaseInfo:  # noqa: ANN401, ARG002
        """See :func:`~airflow_provider_d1.hooks.lineage.openlineage_database`."""
        return openlineage_database(self.get_settings().credentials.account_id)

    def get_openlineage_database_dialect(self, connection: Any) -> str:  # noqa: ANN401, ARG002
        """D1's SQL is SQLite's."""
        return "sqlite"

    def get_openlineage_default_schema(self) -> str | None:
        """The database; see :func:`~airflow_provider_d1.hooks.lineage.openlineage_database`."""
        return self.database or self.get_settings().database

    def _database_or_fail(self) -> str:
        return self.database or self.get_settings().database_or_fail()

    def _resolve(self, client: D1Client) -> str:
        """Return the UUID of the hook's database, asking the API once."""
        database = self._database_or_fail()
        if database not in self._uuids:
            self._uuids[database] = client.get_database(database).uuid
        return self._uuids[database]
