"""The part of an export that runs in the triggerer: start, poll, start again."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_d1.cloudflare.clock import SYSTEM_CLOCK
from airflow_provider_d1.exceptions import D1Error
from airflow_provider_d1.triggers import events
from airflow_provider_d1.triggers.runs import begun_before

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.models import D1Export, OnVirtualTable


#: Seconds from the start of a trigger to its event, at least. A worker that defers a task ends a moment later, and the
#: scheduler reads that end from its executor later still. When the trigger fires and the task is queued again before,
#: the scheduler takes the late report for the end of the resumed task and fails it ("finished with state success, but
#: the task instance's state attribute is queued"). Only the event waits, the export does not.
DEFERRAL_SECONDS = 10.0


class D1ExportTrigger(BaseTrigger):
    """Export a D1 database and send one event about how it ended (:mod:`~airflow_provider_d1.triggers.events`).

    D1 gives up an export that nobody polls for 15 seconds, so the export is started here, where it is polled. A
    triggerer that stops or hands its triggers on runs :meth:`run` from the beginning elsewhere, which then waits until
    D1 has given the orphan up. There is no ``on_kill`` and no ``cleanup`` to write: D1 has no call that ends an export,
    not to poll is all it takes, and Airflow calls both also when nobody wanted an end.

    :param database: name or UUID; None for the connection's default.
    :param tables: only these tables, None for all.
    :param no_data: leave the rows out.
    :param no_schema: leave the CREATE statements out.
    :param on_virtual_table: ``"fail"`` or ``"skip"``.
    :param poll_interval: seconds between two polls, None to adapt.
    :param timeout: seconds that the export may take, counted from its admission by the rate limiter.
    :param queue_timeout: seconds that it may wait for the admission, None for six hours.
    :param deadline: Unix time at which the export is given up: absolute, as ``run()`` may begin more than once.
    :param max_restarts: how often a lost export is started again.
    :param d1_conn_id: the connection; its secrets are read here and are never among the arguments.
    """

    def __init__(
        self,
        *,
        deadline: float,
        database: str | None = None,
        tables: Sequence[str] | None = None,
        no_data: bool = False,
        no_schema: bool = False,
        on_virtual_table: OnVirtualTable = "fail",
        poll_interval: float | None = None,
        timeout: float = 3600,
        queue_timeout: float | None = None,
        max_restarts: int = 3,
        d1_conn_id: str = "d1_default",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.database = database
        self.tables = tables
        self.no_data = no_data
        self.no_schema = no_schema
        self.on_virtual_table = on_virtual_table
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.queue_timeout = queue_timeout
        self.deadline = deadline
        self.max_restarts = max_restarts
        self.d1_conn_id = d1_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class's path and its arguments as plain JSON."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "database": self.database,
                "tables": None if self.tables is None else list(self.tables),
                "no_data": self.no_data,
                "no_schema": self.no_schema,
                "on_virtual_table": self.on_virtual_table,
                "poll_interval": self.poll_interval,
                "timeout": self.timeout,
                "queue_timeout": self.queue_timeout,
                "deadline": self.deadline,
                "max_restarts": self.max_restarts,
                "d1_conn_id": self.d1_conn_id,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Run the export and send its one event; only a cancellation leaves as an exception."""
        started = SYSTEM_CLOCK.monotonic()
        try:
            earlier = await begun_before(self.task_instance)
            export = await self._export()
            event = events.success(replace(export, restarts=export.restarts + earlier))
        except D1Error as error:
            event = events.failure(error)
        except Exception as error:  # noqa: BLE001 - a trigger that raises loses the reason on the way to the worker
            # only where it happened: the text of a foreign exception may quote a signed URL
            where = "".join(traceback.format_tb(error.__traceback__))
            self.log.error("Unexpected %s:\n%s", type(error).__name__, where)  # noqa: TRY400
            event = events.failure(error)
        if self.task_instance is not None:  # dag.test() has no scheduler to be late
            await SYSTEM_CLOCK.sleep_async(max(0.0, started + DEFERRAL_SECONDS - SYSTEM_CLOCK.monotonic()))
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _export(self) -> D1Export:
        from airflow_provider_d1.cloudflare.client import AsyncD1Client
        from airflow_provider_d1.cloudflare.export import run_export
        from airflow_provider_d1.cloudflare.models import ExportRequest
        from airflow_provider_d1.hooks.connection import fetch_settings

        settings = await fetch_settings(self.d1_conn_id, self.database)
        request = ExportRequest(
            database=settings.database_or_fail(),
            tables=None if self.tables is None else tuple(self.tables),
            no_data=self.no_data,
            no_schema=self.no_schema,
            on_virtual_table=self.on_virtual_table,
            poll_interval=self.poll_interval,
            timeout=self.timeout,
            queue_timeout=self.queue_timeout,
            max_restarts=self.max_restarts,
        )
        async with AsyncD1Client(settings.credentials) as client:
            return await run_export(client, request, deadline=self.deadline, on_progress=self.log.info)
