"""The base of the triggers: run one coroutine in the triggerer and send one event with its result or error."""

from __future__ import annotations

import re
import traceback
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import airflow
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_d1.cloudflare.clock import SYSTEM_CLOCK
from airflow_provider_d1.exceptions import D1Error
from airflow_provider_d1.triggers import events

if TYPE_CHECKING:
    from airflow_provider_d1.hooks.connection import Settings


def deferral_seconds(version: str) -> float:
    """Minimum seconds from the start of an export to the trigger's event.

    :param version: Airflow's.

    The process that defers a task ends shortly after the deferral, and the scheduler reads that from its executor one
    loop later. If the trigger has fired before that, the scheduler takes the late report for the end of the resumed
    task and fails it ("finished with state success, but the task instance's state attribute is scheduled"). Airflow
    3.2.2 and later ignore the report while the task is scheduled, earlier ones do not. Measured with LocalExecutor on
    two busy cores: the report came 2 s after the deferral (median), 8 s (90 %), and with 1,000 mapped tasks up to 14 s.
    Only the event waits, the export does not.
    """
    return 10.0 if tuple(map(int, re.findall(r"\d+", version)[:3])) >= (3, 2, 2) else 30.0


DEFERRAL_SECONDS = deferral_seconds(airflow.__version__)


class SingleEventTrigger(BaseTrigger):
    """A trigger that sends one event (:mod:`~airflow_provider_d1.triggers.events`); only a cancellation is raised.

    :param d1_conn_id: the connection; its secrets are read here and are never among the arguments.
    """

    def __init__(self, d1_conn_id: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.d1_conn_id = d1_conn_id
        self._started = 0.0

    @abstractmethod
    async def work(self) -> dict[str, Any]:
        """Do the work and return the event of its success; errors are turned into events by :meth:`run`."""

    async def settings(self, database: str | None = None) -> Settings:
        """Read the connection."""
        from airflow_provider_d1.hooks.connection import fetch_settings

        settings = await fetch_settings(self.d1_conn_id, database)
        # on a busy machine both the connection and the scheduler take long, so that time is not counted
        self._started = SYSTEM_CLOCK.monotonic()
        return settings

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Do the work and send the event."""
        self._started = SYSTEM_CLOCK.monotonic()
        try:
            event = await self.work()
        except D1Error as error:
            event = events.failure(error)
        except Exception as error:  # noqa: BLE001 - the worker would not see the reason of a trigger that raises
            # only the traceback: the message of another package's exception may contain a signed URL
            where = "".join(traceback.format_tb(error.__traceback__))
            self.log.error("Unexpected %s:\n%s", type(error).__name__, where)  # noqa: TRY400
            event = events.failure(error)
        if self.task_instance is not None:  # dag.test() has no scheduler to be late
            await SYSTEM_CLOCK.sleep_async(max(0.0, self._started + DEFERRAL_SECONDS - SYSTEM_CLOCK.monotonic()))
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    def _path(self) -> str:
        return f"{type(self).__module__}.{type(self).__qualname__}"
