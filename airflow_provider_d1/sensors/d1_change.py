"""The sensor that waits until a D1 database has changed since it was staged."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
)

from airflow_provider_d1.exceptions import D1ApiError, D1ConfigurationError, D1Error
from airflow_provider_d1.operators.arguments import check_arguments, check_rendered_arguments
from airflow_provider_d1.operators.d1_import import open_source
from airflow_provider_d1.operators.database_task import D1DatabaseTask, in_utc, until_execution_timeout
from airflow_provider_d1.validation import BOOLEAN, STRING, Rule, one_of, optional, string

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_d1.assets.openlineage import Lineage
    from airflow_provider_d1.cloudflare.change_detection import StagedState
    from airflow_provider_d1.cloudflare.client import D1Client
    from airflow_provider_d1.cloudflare.models import Database
    from airflow_provider_d1.staging.manifest import Manifest

RULES: Mapping[str, Rule] = {
    "prefix": Rule(
        lambda value: isinstance(value, str) and "://" in value,
        "a URL such as s3://bucket/prefix or gs://bucket/prefix",
    ),
    "database": optional(string("a database's name or UUID")),
    "compare": one_of("bookmark", "rows"),
    "d1_conn_id": string("a connection's id"),
    "aws_conn_id": optional(STRING),
    "deferrable": BOOLEAN,
}


class D1ChangeSensor(D1DatabaseTask, BaseSensorOperator):
    """Wait until a D1 database has changed since the last run that was staged, without an export.

    An export makes the database unavailable, and this sensor does not: it reads the database's Time Travel bookmark and
    compares it with that of the newest run in ``prefix``. Where there is no run yet, the database counts as changed.
    Skip an unchanged database with ``soft_fail=True`` and ``timeout=0``.

    Equal bookmarks prove that nothing was written. Different ones do not prove a change: a bookmark may also move
    without a write. ``compare="rows"`` then compares the tables, their CREATE statements and their row counts with the
    manifest. It does **not** detect a change that keeps the number of rows (an UPDATE, or as many inserts as deletes),
    and counting reads every row, which D1 bills. It needs a manifest of tables; with ``file_format="sql"`` the bookmark
    decides.

    While the database is being exported or imported into, it counts as not changed yet.

    :param prefix: where the database is staged: ``s3://bucket/prefix``, ``gs://connection@bucket/prefix`` …, as the
        transfer was given it. (templated)
    :param database: name or UUID; None for the connection's default. (templated)
    :param compare: ``"bookmark"``, or ``"rows"`` to compare the tables too. (templated)
    :param d1_conn_id: the connection. (templated)
    :param aws_conn_id: connection for ``s3://``. (templated)
    :param deferrable: True waits in the triggerer; the first comparison is in the worker. False uses ``mode``. (not
        templated)

    ``poke_interval``, ``timeout``, ``soft_fail`` and ``mode`` are as in every sensor (not templated). Errors are never
    skipped. ``execution_timeout`` bounds the deferred time too; where it is the shorter one, the task is retried after
    it.

    Returns ``{"changed": True, "bookmark": …, "reason": …}``.
    """

    template_fields: Sequence[str] = ("prefix", "database", "compare", "d1_conn_id", "aws_conn_id")
    ui_color = "#e6f1f2"
    #: argument → what it must be
    rules: ClassVar[Mapping[str, Rule]] = RULES

    def __init__(
        self,
        *,
        prefix: str,
        database: str | None = None,
        compare: Literal["bookmark", "rows"] = "bookmark",
        d1_conn_id: str = "d1_default",
        aws_conn_id: str | None = "aws_default",
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prefix = prefix
        self.database = database
        self.compare = compare
        self.d1_conn_id = d1_conn_id
        self.aws_conn_id = aws_conn_id
        self.deferrable = deferrable
        #: for OpenLineage
        self._bookmark: str | None = None
        check_arguments(self, RULES)

    def execute(self, context: Context) -> Any:  # noqa: ANN401, RET503 - Airflow's signature; defer() raises
        """Compare, and wait in the triggerer while nothing has changed."""
        # around Airflow's own loop too, which would skip the task for an AirflowFailException with soft_fail
        with self._errors_reported():
            check_rendered_arguments(self, self.rules)
            self._label_mapped_task(context)
            if not self.deferrable:
                return super().execute(context)
            now = time.time()
            deadline = until_execution_timeout(now + self.timeout, now, self.execution_timeout)
            target, staged, found = self._compare()
        if found is not None:
            self._bookmark = found["bookmark"]
            return found
        if time.time() >= deadline or staged is None:
            raise self._late("the database has not changed")
        from airflow_provider_d1.triggers.change_trigger import D1ChangeTrigger

        self.log.info(
            "Waiting in the triggerer for a change: database=%s connection=%s prefix=%s poke_interval=%g deadline=%s",
            target.name,
            self.d1_conn_id,
            self.prefix,
            self.poke_interval,
            in_utc(deadline),
        )
        self.defer(
            trigger=D1ChangeTrigger(
                database_id=target.uuid,
                staged=staged.to_dict(),
                poke_interval=float(self.poke_interval),
                deadline=deadline,
                d1_conn_id=self.d1_conn_id,
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Continue after the trigger's event."""
        event = event or {}
        status = event.get("status")
        message = str(event.get("message") or "the trigger reported no reason")
        with self._errors_reported():
            self._label_mapped_task(context)
            if status == "success" and isinstance(event.get("change"), Mapping):
                self._bookmark = event["change"].get("bookmark")
                self._note_change(event.get("database_id"))
                return dict(event["change"])
            if status == "timeout":
                raise self._late(message)
            raise D1Error.from_name(str(event.get("error")), message, retryable=event.get("retryable") is not False)

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002 - Airflow's signature
        """Compare once."""
        _, _, found = self._compare()
        self._bookmark = None if found is None else found["bookmark"]
        return PokeReturnValue(is_done=found is not None, xcom_value=found)

    def _compare(self) -> tuple[Database, StagedState | None, dict[str, Any] | None]:
        """The database, its staged state or None, and the change or None."""
        from airflow_provider_d1.cloudflare.api_errors import is_busy

        with self.hook.get_client() as client:
            target = client.get_database(self.database or self.hook.get_settings().database_or_fail())
            self._note_database(client.credentials.account_id, target.uuid, target.name)
            staged = self._staged(target)
            if staged is None:
                return target, None, self._first_run(client, target)
            try:
                change = client.detect_change(target.uuid, staged)
            except D1ApiError as error:
                if not is_busy(str(error)):
                    raise
                self.log.info("The database is busy with an export or import: database=%s", target.name)
                return target, staged, None
        self.log.info("Compared: database=%s changed=%s reason=%r", target.name, change.changed, change.reason)
        return target, staged, change.to_dict() if change.changed else None

    def _first_run(self, client: D1Client, target: Database) -> dict[str, Any]:
        self.log.info("No run is staged yet: database=%s prefix=%s", target.name, self.prefix)
        return {"changed": True, "bookmark": client.get_bookmark(target.uuid), "reason": "no run is staged yet"}

    def _staged(self, target: Database) -> StagedState | None:
        from airflow_provider_d1.staging.manifest import MANIFEST_KEY, parse_manifest

        storage, key = open_source(f"{self.prefix.rstrip('/')}/{MANIFEST_KEY}", self.aws_conn_id)
        content = storage.read_bytes(key)
        if content is None:
            return None
        manifest = parse_manifest(content)
        if manifest.source.database_id not in (None, target.uuid):
            raise D1ConfigurationError(
                f"{storage.uri(key)} is of database {manifest.source.database_name!r} ({manifest.source.database_id}),"
                f" expected {target.name!r} ({target.uuid}). Pass the prefix of this database."
            )
        return _state(manifest, with_tables=self.compare == "rows")

    def _note_change(self, database_id: object) -> None:
        account_id = self.hook.get_settings().credentials.account_id
        uuid = str(database_id)  # of the trigger's event; in one of an earlier version there is none
        self._note_database(account_id, uuid, self._named_database(uuid))

    def _lineage(self) -> Lineage | None:
        """The database as the input, with the bookmark as its version."""
        from airflow_provider_d1.assets.openlineage import database_lineage

        return self._source and database_lineage(*self._source, bookmark=self._bookmark)

    def _late(self, message: str) -> AirflowSkipException | AirflowSensorTimeout | AirflowTaskTimeout:
        if self.execution_timeout is not None and self.execution_timeout.total_seconds() < self.timeout:
            return AirflowTaskTimeout(f"{message} (execution_timeout={self.execution_timeout.total_seconds():g} s)")
        text = f"{message} (timeout={self.timeout:g} s)"
        return AirflowSkipException(text) if self.soft_fail else AirflowSensorTimeout(text)


def _state(manifest: Manifest, *, with_tables: bool) -> StagedState:
    from airflow_provider_d1.cloudflare.change_detection import StagedState

    source = manifest.source
    tables = {table.name: (table.rows, table.ddl) for table in manifest.tables}
    return StagedState(
        bookmark=source.bookmark,
        tables=tables if with_tables and manifest.format != "sql" else None,
        all_tables=source.options.tables is None or bool(source.skipped),
        skipped=tuple(skipped.name for skipped in source.skipped),
    )
