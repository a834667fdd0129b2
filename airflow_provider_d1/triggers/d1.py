"""The trigger that runs an export in the triggerer and reports its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1AuthenticationError
from airflow_provider_d1.triggers import events
from airflow_provider_d1.triggers.single_event import SingleEventTrigger

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.credentials import Credentials


class D1ExportTrigger(SingleEventTrigger):
    """Export a D1 database and send one event with the result (:mod:`~airflow_provider_d1.triggers.events`).

    D1 cancels an export that is not polled for 15 seconds, so the process that polls an export also starts it. When a
    triggerer stops or releases its triggers, another one calls :meth:`run` again, which waits until D1 has cancelled
    the first export and starts a new one. There is no ``on_kill`` and no ``cleanup``: D1 has no call that ends an
    export, not polling is enough, and Airflow also calls both when a trigger only moves to another triggerer.

    :param request: an :class:`~airflow_provider_d1.cloudflare.models.ExportRequest` as a dict.
    :param deadline: latest end of the export, as Unix time: absolute, as ``run()`` may begin more than once.
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
        super().__init__(d1_conn_id)
        #: not read before :meth:`run`: an error there becomes an event, an error here would lose its reason
        self.request = {**(request or {}), **options}
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class's path and its arguments as plain JSON."""
        return (
            self._path(),
            {"request": self.request, "deadline": self.deadline, "d1_conn_id": self.d1_conn_id},
        )

    async def work(self) -> dict[str, Any]:
        """Run the export."""
        from airflow_provider_d1.cloudflare.models import ExportRequest
        from airflow_provider_d1.hooks.export_run import export_database

        request = ExportRequest.from_dict(self.request)
        settings = await self.settings(request.database)
        try:
            export = await export_database(settings, request, deadline=self.deadline, on_progress=self.log.info)
        except D1AuthenticationError as error:
            if not await self._has_other_token(settings.credentials):
                raise
            reason = str(error).rstrip(".")
            raise D1AuthenticationError(f"{reason}. The connection has another token now.", retryable=True) from None
        return events.success(export)

    async def _has_other_token(self, used: Credentials) -> bool:
        """Whether the connection's token was changed since it was read."""
        from airflow_provider_d1.hooks.connection import fetch_settings

        try:
            settings = await fetch_settings(self.d1_conn_id)
        except Exception:  # noqa: BLE001 - the refused token is the error to report
            return False
        return settings.credentials.fingerprint() != used.fingerprint()
