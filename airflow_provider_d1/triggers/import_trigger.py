"""The trigger that waits for an import in the triggerer and reports its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_d1.triggers import events
from airflow_provider_d1.triggers.single_event import SingleEventTrigger


class D1ImportTrigger(SingleEventTrigger):
    """Run the import of a file that the worker has uploaded, and send one event with the result.

    D1 cancels an import that is not polled for 15 seconds, so the process that polls an import also starts it. When a
    triggerer stops or releases its triggers, another one calls :meth:`run` again, which waits until D1 has cancelled or
    finished the first attempt, and starts again; the record in the file prevents a second application.

    :param request: an :class:`~airflow_provider_d1.cloudflare.import_models.ImportRequest` as a dict.
    :param deadline: latest end as Unix time: absolute, as ``run()`` may begin more than once.
    :param report: the worker's figures of the file; returned with the event.
    :param d1_conn_id: the connection.
    """

    def __init__(
        self,
        *,
        request: Mapping[str, Any],
        deadline: float,
        report: Mapping[str, Any],
        d1_conn_id: str = "d1_default",
    ) -> None:
        super().__init__(d1_conn_id)
        self.request = dict(request)
        self.deadline = deadline
        self.report = dict(report)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class's path and its arguments as plain JSON."""
        arguments = {
            "request": self.request,
            "deadline": self.deadline,
            "report": self.report,
            "d1_conn_id": self.d1_conn_id,
        }
        return self._path(), arguments

    async def work(self) -> dict[str, Any]:
        """Run the import."""
        from airflow_provider_d1.cloudflare.import_models import ImportRequest
        from airflow_provider_d1.hooks.import_run import import_uploaded

        request = ImportRequest.from_dict(self.request)
        settings = await self.settings()
        result = await import_uploaded(settings, request, deadline=self.deadline, on_progress=self.log.info)
        return events.import_success(result, self.report)
