"""The trigger that waits in the triggerer until a database has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_d1.cloudflare.clock import SYSTEM_CLOCK
from airflow_provider_d1.triggers.single_event import SingleEventTrigger


class D1ChangeTrigger(SingleEventTrigger):
    """Compare a database with its staged state at intervals, and send one event at a change or at the deadline.

    :param database_id: the database's UUID.
    :param staged: a :class:`~airflow_provider_d1.cloudflare.change_detection.StagedState` as a dict.
    :param poke_interval: seconds between two comparisons.
    :param deadline: latest end as Unix time.
    :param d1_conn_id: the connection.
    """

    def __init__(
        self,
        *,
        database_id: str,
        staged: Mapping[str, Any],
        poke_interval: float,
        deadline: float,
        d1_conn_id: str = "d1_default",
    ) -> None:
        super().__init__(d1_conn_id)
        self.database_id = database_id
        self.staged = dict(staged)
        self.poke_interval = poke_interval
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class's path and its arguments as plain JSON."""
        arguments = {
            "database_id": self.database_id,
            "staged": self.staged,
            "poke_interval": self.poke_interval,
            "deadline": self.deadline,
            "d1_conn_id": self.d1_conn_id,
        }
        return self._path(), arguments

    async def work(self) -> dict[str, Any]:
        """Wait for a change."""
        from airflow_provider_d1.cloudflare.api_errors import is_busy
        from airflow_provider_d1.cloudflare.change_detection import StagedState
        from airflow_provider_d1.cloudflare.client import AsyncD1Client
        from airflow_provider_d1.exceptions import D1ApiError

        staged = StagedState.from_dict(self.staged)
        settings = await self.settings()
        self.log.info(
            "Waiting for a change: database_id=%s bookmark=%s poke_interval=%g",
            self.database_id,
            staged.bookmark,
            self.poke_interval,
        )
        async with AsyncD1Client(settings.credentials) as client:
            while True:
                left = self.deadline - SYSTEM_CLOCK.time()
                await SYSTEM_CLOCK.sleep_async(max(0.0, min(self.poke_interval, left)))
                try:
                    change = await client.detect_change(self.database_id, staged)
                except D1ApiError as error:
                    if not is_busy(str(error)):
                        raise
                else:
                    if change.changed:
                        return {"status": "success", "change": change.to_dict(), "database_id": self.database_id}
                if self.deadline <= SYSTEM_CLOCK.time():
                    return {"status": "timeout", "message": "the database did not change before the deadline"}
