"""The operator that exports a D1 database."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_d1.cloudflare.models import EXPORT_RULES, ExportRequest
from airflow_provider_d1.operators.arguments import OPERATOR_RULES, check_arguments, check_rendered_arguments
from airflow_provider_d1.operators.database_task import D1DatabaseTask, in_utc, until_execution_timeout
from airflow_provider_d1.validation import abridged

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_d1.assets.openlineage import Lineage
    from airflow_provider_d1.cloudflare.models import D1Export, OnVirtualTable
    from airflow_provider_d1.triggers.d1 import D1ExportTrigger
    from airflow_provider_d1.validation import Rule


class D1ExportOperator(D1DatabaseTask):
    """Export a D1 database and return where its dump can be downloaded, without occupying a worker slot while it runs.

    The database answers no queries while it is exported. The signed URL of the result is *sealed*: only a task with the
    same connection can open it (:class:`~airflow_provider_d1.transfers.d1_to_s3.D1ToS3Operator` does), for an hour.

    A permanent error (a wrong token, a missing table, a virtual table …) fails the task at once, unless
    a ``RetryRule`` of the task's ``retry_policy`` (Airflow 3.3) asks for a retry of it; every other error follows
    ``retries``.

    A task that is cleared or marked while it is deferred does not have to be cancelled: D1 cancels an export that is
    not polled for 15 seconds, and has no call to end it earlier.

    :param database: name or UUID; None for the connection's default. (templated)
    :param tables: only these tables, by their exact names; None for all. (templated)
    :param exclude_tables: all tables except these, by their exact names. (templated)
    :param no_data: leave the rows out. (templated)
    :param no_schema: leave the CREATE statements out. (templated)
    :param on_virtual_table: D1 cannot export virtual tables (FTS5 …). ``"fail"`` refuses a database that has one,
        ``"skip"`` exports all other tables and lists the skipped ones in the result. (templated)
    :param poll_interval: seconds between two polls, at most 10; None begins with short gaps and lengthens them to 5.
        (templated)
    :param timeout: seconds that the export may take, counted from its admission by the rate limiter. (templated)
    :param queue_timeout: seconds that it may wait for the admission, which precedes the start; None for six hours.
        (templated)
    :param max_restarts: how often an export that D1 has lost is started again. (templated)
    :param d1_conn_id: the connection. (templated)
    :param deferrable: True waits in the triggerer, regardless of Airflow's ``default_deferrable``. False is for a
        deployment without a triggerer. (not templated)

    A template may render a string where a number, a boolean or a list is expected: it is converted, and checked when
    the task runs. ``execution_timeout`` bounds the deferred time too: the export ends at the earlier of the two times.

    Returns :class:`~airflow_provider_d1.cloudflare.models.D1Export` as a dict.
    """

    template_fields: Sequence[str] = (*EXPORT_RULES, "d1_conn_id")
    ui_color = "#f6c6a0"
    #: argument → what it must be
    rules: ClassVar[Mapping[str, Rule]] = OPERATOR_RULES

    def __init__(
        self,
        *,
        database: str | None = None,
        tables: Sequence[str] | None = None,
        exclude_tables: Sequence[str] | None = None,
        no_data: bool = False,
        no_schema: bool = False,
        on_virtual_table: OnVirtualTable = "fail",
        poll_interval: float | None = None,
        timeout: float = 3600,
        queue_timeout: float | None = None,
        max_restarts: int = 3,
        d1_conn_id: str = "d1_default",
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.database = database
        self.tables = tables
        self.exclude_tables = exclude_tables
        self.no_data = no_data
        self.no_schema = no_schema
        self.on_virtual_table = on_virtual_table
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.queue_timeout = queue_timeout
        self.max_restarts = max_restarts
        self.d1_conn_id = d1_conn_id
        self.deferrable = deferrable
        #: for OpenLineage
        self._exported: D1Export | None = None
        check_arguments(self, OPERATOR_RULES)

    def execute(self, context: Context) -> dict[str, Any]:
        """Start the export in the triggerer, or with ``deferrable=False`` run it here."""
        with self._errors_reported():
            check_rendered_arguments(self, self.rules)
            self._label_mapped_task(context)
            request = self._request()
            if self.deferrable:
                self.defer(trigger=self._trigger(request), method_name="execute_complete")
            return self._finish(context, self.hook.run_export(request))

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Continue after the trigger's event."""
        from airflow_provider_d1.triggers.events import exported

        with self._errors_reported():
            check_rendered_arguments(self, self.rules)  # Airflow has rendered them again
            self._label_mapped_task(context)
            return self._finish(context, exported(event))

    def _finish(self, context: Context, export: D1Export) -> dict[str, Any]:  # noqa: ARG002 - for subclasses
        """Report a finished export and return it as plain JSON."""
        self._report(export)
        return export.to_dict()

    def _lineage(self) -> Lineage | None:
        """The exported tables as inputs, with the bookmark as their version."""
        from airflow_provider_d1.assets.openlineage import export_lineage

        return super()._lineage() if self._exported is None else export_lineage(self._exported)

    def _request(self) -> ExportRequest:
        return ExportRequest(**{name: getattr(self, name) for name in EXPORT_RULES})

    def _trigger(self, request: ExportRequest) -> D1ExportTrigger:
        from airflow_provider_d1.triggers.d1 import D1ExportTrigger

        # absolute, as the trigger's run() begins again whenever a triggerer is restarted
        now = time.time()
        deadline = until_execution_timeout(request.deadline(now), now, self.execution_timeout)
        self.log.info(
            "Exporting in the triggerer: database=%s tables=%s connection=%s%s deadline=%s",
            self.database or "(the connection's default)",
            "all" if request.tables is None else abridged(request.tables, ","),
            self.d1_conn_id,
            self._destination(),
            in_utc(deadline),
        )
        return D1ExportTrigger(request=request.to_dict(), deadline=deadline, d1_conn_id=self.d1_conn_id)

    def _destination(self) -> str:
        """Where the task stages to, for the log."""
        return ""

    def _report(self, export: D1Export) -> None:
        self._exported = export
        self._note_database(export.account_id, export.database_id, export.database_name)
        self.log.info(
            "Exported: database=%s id=%s bookmark=%s file=%s polls=%d restarts=%d unavailable_seconds=%.1f",
            export.database_name,
            export.database_id,
            export.bookmark,
            export.filename,
            export.polls,
            export.restarts,
            export.unavailable_seconds,
        )
        if export.skipped:
            named = abridged(f"{skipped.name} ({skipped.reason})" for skipped in export.skipped)
            self.log.warning("Skipped: tables=%d %s", len(export.skipped), named)
