"""The trigger that runs an export in the triggerer and reports its end."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Mapping
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_d1.cloudflare.clock import SYSTEM_CLOCK
from airflow_provider_d1.exceptions import D1Error
from airflow_provider_d1.triggers import events

#: Minimum seconds from the start of an export to the trigger's event. The process that defers a task ends a moment
#: after the deferral, and the scheduler reads that from its executor one loop later. If the trigger fires and the task
#: is queued again before that, the scheduler takes the late report for the end of the resumed task and fails it
#: ("finished with state success, but the task instance's state attribute is queued"). Measured with Airflow 3.3.2 and
#: LocalExecutor on two busy cores: the report came 2 s after the deferral (median), 8 s (90 %), and up to a scheduler
#: loop later. Only the event waits, the export does not.
DEFERRAL_SECONDS = 10.0


class D1ExportTrigger(BaseTrigger):
    """Export a D1 database and send one event with the result (:mod:`~airflow_provider_d1.triggers.events`).

    D1 cancels an export that is not polled for 15 seconds, so the export is started where it is polled. When a
    triggerer stops or releases its triggers, another one calls :meth:`run` again, which waits until D1 has cancelled
    the first export and starts a new one. There is no ``on_kill`` and no ``cleanup``: D1 has no call that ends an
    export, it is enough not to poll, and Airflow also calls both when a trigger only moves to another triggerer.

    :param request: an :class:`~airflow_provider_d1.cloudflare.models.ExportRequest` as a dict.
    :param deadline: Unix time at which the export ends in any case: absolute, as ``run()`` may begin more than once.
    :param d1_conn_id: the connection; its secrets are read here and are never among the arguments.
    :param options: the request's options as keywords, as version 0.1 stored them.
    """

    def __init__(
        self,
        *,
        deadline: float,
        request: Mapping[str, Any] | None = None,
        d1_conn_id: str = "d1_default",
        **options: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        #: not read before :meth:`run`: an error there becomes an event, an error here would lose its reason
        self.request = {**(request or {}), **options}
        self.deadline = deadline
        self.d1_conn_id = d1_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class's path and its arguments as plain JSON."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {"request": self.request, "deadline": self.deadline, "d1_conn_id": self.d1_conn_id},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Run the export and send its one event; only a cancellation is raised."""
        from airflow_provider_d1.cloudflare.models import ExportRequest
        from airflow_provider_d1.hooks.connection import fetch_settings
        from airflow_provider_d1.hooks.export_run import export_database

        started = SYSTEM_CLOCK.monotonic()
        try:
            request = ExportRequest.from_dict(self.request)
            settings = await fetch_settings(self.d1_conn_id, request.database)
            # where Airflow needs long to give the connection, its scheduler needs long too: do not count that time
            started = SYSTEM_CLOCK.monotonic()
            export = await export_database(settings, request, deadline=self.deadline, on_progress=self.log.info)
            event = events.success(export)
        except D1Error as error:
            event = events.failure(error)
        except Exception as error:  # noqa: BLE001 - the worker would not see the reason of a trigger that raises
            # only the place: the message of another package's exception may quote a signed URL
            where = "".join(traceback.format_tb(error.__traceback__))
            self.log.error("Unexpected %s:\n%s", type(error).__name__, where)  # noqa: TRY400
            event = events.failure(error)
        if self.task_instance is not None:  # dag.test() has no scheduler to be late
            await SYSTEM_CLOCK.sleep_async(max(0.0, started + DEFERRAL_SECONDS - SYSTEM_CLOCK.monotonic()))
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]
