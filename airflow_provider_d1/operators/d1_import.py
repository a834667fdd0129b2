"""The operator that imports an SQL file or a backup into a D1 database."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote, urlsplit

from airflow_provider_d1.exceptions import D1ConfigurationError, D1ImportError
from airflow_provider_d1.operators.arguments import check_arguments, check_rendered_arguments
from airflow_provider_d1.operators.database_task import D1DatabaseTask, in_utc, until_execution_timeout
from airflow_provider_d1.validation import BOOLEAN, OPTIONAL_CONNECTION, STRING, Rule, integer, number, optional, string

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_d1.assets.openlineage import Lineage
    from airflow_provider_d1.cloudflare.client import D1Client
    from airflow_provider_d1.cloudflare.import_models import ImportResult
    from airflow_provider_d1.cloudflare.models import Database
    from airflow_provider_d1.into_d1.import_record import ImportRecord
    from airflow_provider_d1.into_d1.prepare import PreparedImport
    from airflow_provider_d1.storage.base import Storage

#: what every operator that imports takes
IMPORT_RULES: Mapping[str, Rule] = {
    "database": optional(string("a database's name or UUID")),
    "d1_conn_id": string("a connection's id"),
    "aws_conn_id": optional(STRING),
    "record_table": optional(string("a table's name")),
    "poll_interval": optional(number("a number of seconds above 0 and at most 10", lambda seconds: 0 < seconds <= 10)),
    "timeout": number("a number of seconds above 0", lambda seconds: seconds > 0),
    "max_restarts": integer(0),
    "temp_dir": optional(string("a folder")),
    "deferrable": BOOLEAN,
}
SOURCE = Rule(
    lambda value: (isinstance(value, str) and bool(value.strip())) or isinstance(value, Mapping),
    "a path or URL of an SQL file or a manifest, or the output of the transfer that wrote it",
)


class D1ImportBase(D1DatabaseTask):
    """The base of the operators that import into D1: prepare a file and upload it, then wait in the triggerer.

    The worker prepares and uploads the file. Then the trigger starts the import and polls it, without occupying a
    worker slot; D1 cancels an import that is not polled for 15 seconds. D1 runs the file as one transaction: an import
    that fails does not change the database.

    **Each import is applied once.** It writes a row into ``record_table``, with a key that is the same for all
    attempts of the task. An attempt that finds the row does nothing, and D1 refuses to run the file a second time.
    Clearing the task imports again.

    :param database: name or UUID; None for the connection's default. (templated)
    :param d1_conn_id: the connection; its token needs *D1: Edit*. (templated)
    :param aws_conn_id: connection for ``s3://``, None for boto3's default credentials. (templated)
    :param record_table: the table in D1 in which imports are recorded, created when missing. With None a file may be
        run again after a lost response. (templated)
    :param poll_interval: seconds between two polls, at most 10; None begins with short gaps and lengthens them to 5.
        (templated)
    :param timeout: seconds that the import may take, counted from the end of the upload. (templated)
    :param max_restarts: how often an import that D1 has lost is restarted. (templated)
    :param temp_dir: for the uncompressed file; None for the worker's temporary folder. (templated)
    :param deferrable: False waits in the worker, for a deployment without a triggerer. (not templated)

    ``execution_timeout`` bounds the deferred time too. The events of the task's ``outlets`` get an extra with the
    result's figures, and an ``AssetAlias`` among the outlets an event of the database's ``d1://`` asset.
    """

    template_fields: Sequence[str] = (
        "database",
        "d1_conn_id",
        "aws_conn_id",
        "record_table",
        "poll_interval",
        "timeout",
        "max_restarts",
        "temp_dir",
    )
    ui_color = "#c9dcf0"
    writes = True
    #: argument → what it must be
    rules: ClassVar[Mapping[str, Rule]] = IMPORT_RULES

    def __init__(
        self,
        *,
        database: str | None = None,
        d1_conn_id: str = "d1_default",
        aws_conn_id: str | None = "aws_default",
        record_table: str | None = "_d1_imports",
        poll_interval: float | None = None,
        timeout: float = 3600,
        max_restarts: int = 3,
        temp_dir: str | None = None,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.database = database
        self.d1_conn_id = d1_conn_id
        self.aws_conn_id = aws_conn_id
        self.record_table = record_table
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.max_restarts = max_restarts
        self.temp_dir = temp_dir
        self.deferrable = deferrable
        #: for OpenLineage
        self._imported: dict[str, Any] = {}
        check_arguments(self, IMPORT_RULES)

    def _prepare(
        self, client: D1Client, target: Database, tables: Sequence[str], folder: Path, record: ImportRecord | None
    ) -> tuple[PreparedImport, dict[str, Any]]:
        """Create the file in a temporary folder.

        :param tables: the database's tables and views, without the record's.
        :return: the file, and its part of the result.
        """
        raise NotImplementedError

    def _read_and_written(self) -> tuple[Sequence[str], Sequence[str] | None]:
        """URIs of the files and names of the tables in the arguments, for OpenLineage; None for unknown tables.

        :raises D1ConfigurationError: when the arguments have none.
        """
        raise NotImplementedError

    def execute(self, context: Context) -> dict[str, Any]:
        """Upload the file and start the import."""
        with self._errors_reported():
            check_rendered_arguments(self, self.rules)
            self._label_mapped_task(context)
            with self.hook.get_client() as client:
                target = client.get_database(self.database or self.hook.get_settings().database_or_fail())
                self._note_database(client.credentials.account_id, target.uuid, target.name)
                return self._import(context, client, target)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Continue after the trigger's event."""
        from airflow_provider_d1.triggers.events import imported

        with self._errors_reported():
            check_rendered_arguments(self, self.rules)  # Airflow has rendered them again
            self._label_mapped_task(context)
            return self._finish(context, *imported(event))

    def _import(self, context: Context, client: D1Client, target: Database) -> dict[str, Any]:
        from airflow_provider_d1.cloudflare.import_models import ImportResult
        from airflow_provider_d1.hooks.event_loop import run_coroutine
        from airflow_provider_d1.hooks.import_run import import_uploaded, upload_import
        from airflow_provider_d1.into_d1.import_record import tables_of

        record = self._record(context)
        tables = tables_of(client, target.uuid)
        report: dict[str, Any] = {
            "database_id": target.uuid,
            "database_name": target.name,
            "account_id": client.credentials.account_id,
        }
        if record is not None and record.table in tables:
            if record.exists(client, target.uuid):
                return self._finish(context, ImportResult(repeated=True), report)
            tables.remove(record.table)
        with tempfile.TemporaryDirectory(prefix="d1-import-", dir=self.temp_dir) as folder:
            prepared, details = self._prepare(client, target, tables, Path(folder), record)
            self.log.info(
                "Uploading the import: database=%s bytes=%d statements=%d",
                target.name,
                prepared.bytes,
                prepared.statements,
            )
            request = upload_import(
                client,
                target,
                prepared,
                deadline=time.time() + self.timeout,
                poll_interval=self.poll_interval,
                max_restarts=self.max_restarts,
            )
        report |= details
        # absolute, as the trigger's run() begins again whenever a triggerer is restarted
        now = time.time()
        deadline = until_execution_timeout(now + self.timeout, now, self.execution_timeout)
        if self.deferrable:
            from airflow_provider_d1.triggers.import_trigger import D1ImportTrigger

            self.log.info(
                "Importing in the triggerer: database=%s connection=%s source=%s deadline=%s",
                target.name,
                self.d1_conn_id,
                report["source"],
                in_utc(deadline),
            )
            self.defer(
                trigger=D1ImportTrigger(
                    request=request.to_dict(), deadline=deadline, report=report, d1_conn_id=self.d1_conn_id
                ),
                method_name="execute_complete",
            )
        settings = self.hook.get_settings()
        result = run_coroutine(lambda: import_uploaded(settings, request, deadline=deadline, on_progress=self.log.info))
        return self._finish(context, result, report)

    def _finish(self, context: Context, result: ImportResult, report: Mapping[str, Any]) -> dict[str, Any]:
        if {"database_id", "database_name", "account_id"} - report.keys():
            raise D1ImportError("the trigger's event lacks the worker's report")
        account_id, name = report["account_id"], report["database_name"]
        self._note_database(account_id, report["database_id"], name)
        figures = result.to_dict()
        if result.repeated:
            self.log.info("Already imported by an earlier attempt: database=%s", name)
        else:
            self.log.info(
                "Imported: database=%s bookmark=%s previous_bookmark=%s num_queries=%s rows_written=%s size=%s",
                name,
                *(figures[name] for name in ("bookmark", "previous_bookmark", "num_queries", "rows_written", "size")),
            )
        self._imported = {key: value for key, value in report.items() if key != "account_id"} | figures
        extra = {key: value for key, value in self._imported.items() if key != "tables"}
        self._record_events(context, account_id, self._named_database(name), extra)
        return dict(self._imported)

    def _lineage(self) -> Lineage | None:
        """The files as inputs, and D1's tables, or the database, as outputs."""
        from airflow_provider_d1.assets.openlineage import import_lineage

        done = self._imported
        try:
            sources, names = self._read_and_written()
        except D1ConfigurationError:  # for which the task has failed
            return super()._lineage()
        tables: dict[str, int | None] | None = None if names is None else dict.fromkeys(names)
        if "tables" in done:
            tables = {name: table["rows"] for name, table in done["tables"].items()}
        return import_lineage(
            [done["manifest"]] if done.get("manifest") else sources,
            self._source,
            tables,
            bookmark=done.get("bookmark"),
            overwrites=done.get("mode") == "replace",
        )

    def _record(self, context: Context) -> ImportRecord | None:
        """One key for all attempts of a task; clearing it changes ``max_tries``, and with it the key."""
        from airflow_provider_d1.into_d1.import_record import ImportRecord

        if self.record_table is None:
            return None
        ti = context.get("ti")
        parts = [getattr(ti, name, None) for name in ("dag_id", "task_id", "run_id", "map_index", "max_tries")]
        if parts[0] is None:
            return ImportRecord(self.record_table, secrets.token_hex(16))
        digest = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]
        return ImportRecord(self.record_table, f"{parts[0]}/{parts[1]}/{digest}")


class D1ImportOperator(D1ImportBase):
    """Import an SQL file into a D1 database, or restore a backup.

    The file may be compressed with gzip or zstd; it is decompressed while it is read. It may be encrypted with age; its
    decrypted copy is in a temporary folder of the worker until the import is uploaded. Before anything is sent it is
    checked for what D1 refuses: more than 5 GB, ``BEGIN``/``COMMIT``, statements over 100 KB. A longer INSERT,
    as dumps have them, is split into statements that insert the same rows.

    A backup is a manifest of ``file_format="sql"`` or ``keep_dump=True``. It is imported only if its size and SHA-256,
    stored and uncompressed, are those of the manifest, if it is a backup of ``source_database``, and into a database
    without tables.

    :param source: ``s3://bucket/key.sql.zst``, another URL that ``ObjectStoragePath`` takes, or a local path; or for a
        backup the URI of a ``_manifest.json``, or the output of the transfer that wrote it. (templated)
    :param source_database: name or UUID of the database that a backup must be of; None for ``database`` itself.
        (templated)
    :param require_empty: refuse a database that has tables. None means True for a backup and False for an SQL file.
        (templated)
    :param age_conn_id: for an encrypted file: a connection of any type, whose password is the age secret key
        (``AGE-SECRET-KEY-1…``), or several in lines of their own. None, or a template that renders to an empty string,
        for none. Needs the extra ``[age]``. (templated)

    All parameters of :class:`~airflow_provider_d1.operators.d1_import.D1ImportBase` apply too. Returns::

        {"database_id": …, "database_name": "shop", "manifest": "s3://…" or None, "source": "s3://…",
         "source_bytes": …, "source_sha256": …, "bytes": …, "bookmark": …, "previous_bookmark": …,
         "num_queries": …, "rows_read": …, "rows_written": …, "changes": …, "size": …, "repeated": False}

    ``D1RestoreOperator(bookmark=previous_bookmark)`` undoes the import. ``repeated`` is True when an earlier attempt
    had applied it.
    """

    template_fields: Sequence[str] = (
        *D1ImportBase.template_fields,
        "source",
        "source_database",
        "require_empty",
        "age_conn_id",
    )
    rules: ClassVar[Mapping[str, Rule]] = {
        **IMPORT_RULES,
        "source": SOURCE,
        "source_database": optional(string("a database's name or UUID")),
        "require_empty": optional(BOOLEAN),
        "age_conn_id": OPTIONAL_CONNECTION,
    }

    def __init__(
        self,
        *,
        source: str | Mapping[str, Any],
        source_database: str | None = None,
        require_empty: bool | None = None,
        age_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.source_database = source_database
        self.require_empty = require_empty
        self.age_conn_id = age_conn_id
        check_arguments(self, self.rules)

    def _read_and_written(self) -> tuple[Sequence[str], Sequence[str] | None]:
        return [uri_of(self.source, "source")], None

    def _prepare(
        self,
        client: D1Client,  # noqa: ARG002 - see the base class
        target: Database,
        tables: Sequence[str],
        folder: Path,
        record: ImportRecord | None,
    ) -> tuple[PreparedImport, dict[str, Any]]:
        from airflow_provider_d1.hooks.age_key import read_age_key
        from airflow_provider_d1.into_d1.backup import read_backup
        from airflow_provider_d1.into_d1.prepare import prepare_sql_file

        uri = uri_of(self.source, "source")
        storage, key = open_source(uri, self.aws_conn_id)
        backup = None
        if isinstance(self.source, Mapping) or key.endswith("_manifest.json"):
            backup = read_backup(storage, key)
            backup.check_origin(self.source_database, target)
            key = backup.key
        elif self.source_database is not None:
            raise D1ConfigurationError("source_database is for backups: expected a _manifest.json as source.")
        if tables and (backup is not None if self.require_empty is None else self.require_empty):
            raise D1ConfigurationError(
                f"database {target.name!r} is not empty, it has {len(tables)} tables and views ({', '.join(tables[:3])}"
                f"{' …' if len(tables) > 3 else ''}). Restore into a new database, or pass require_empty=False."
            )
        prepared = prepare_sql_file(
            storage, key, folder, backup=backup, record=record, age_key=read_age_key(self.age_conn_id)
        )
        return prepared, {
            "manifest": None if backup is None else backup.uri,
            "source": storage.uri(key),
            "source_bytes": prepared.source_bytes,
            "source_sha256": prepared.source_sha256,
            "bytes": prepared.bytes,
        }


def uri_of(source: str | Mapping[str, Any] | None, argument: str) -> str:
    """The URI in an argument that is one, or the output of a transfer.

    :raises D1ConfigurationError: for a dict without one.
    """
    uri = source.get("manifest") if isinstance(source, Mapping) else source
    if not isinstance(uri, str) or (isinstance(source, Mapping) and "://" not in uri):
        raise D1ConfigurationError(
            f"{argument} is a dict without a URI under 'manifest': pass the output of the transfer that wrote it."
        )
    return uri


def open_source(uri: str, aws_conn_id: str | None) -> tuple[Storage, str]:
    """The folder of a file and the file's key in it.

    :param uri: a URL, with a connection in it or not, or a local path.
    :param aws_conn_id: for ``s3://`` without a connection in the URL.
    :raises D1ConfigurationError: for a URL without a file's name.
    """
    from airflow_provider_d1.storage.folder import FolderStorage
    from airflow_provider_d1.warehouses.staged_files import storage_of

    if "://" not in uri:
        path = Path(uri).absolute()
        return FolderStorage(path.parent), path.name
    parts = urlsplit(uri)
    if not parts.path.strip("/") or uri.endswith("/"):
        raise D1ConfigurationError(f"source {uri!r} has no file name.")
    if parts.scheme == "s3" and "@" in parts.netloc:
        conn_id, _, bucket = parts.netloc.rpartition("@")
        return storage_of(f"s3://{bucket}{uri.partition(parts.netloc)[2]}", unquote(conn_id))
    return storage_of(uri, aws_conn_id)
