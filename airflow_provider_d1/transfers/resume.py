"""Reuse the export of an earlier attempt in a retry, instead of making the database unavailable again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.models import D1Export

log = logging.getLogger(__name__)

KEY = "d1_export"
#: the shortest remaining validity of a URL with which a download is started
MARGIN = timedelta(minutes=5)


class FinishedExport:
    """The export that the attempts of one task share, in Airflow's ``task_state_store`` (3.3 and later).

    It has the same content as the XCom, with the URL sealed. It is only an optimisation: it is used for the same
    request, for the same run of the task (clearing a task changes its ``max_tries``, a retry does not) and until the
    URL expires; a store that fails is ignored.

    :param context: the task's context.
    :param request: the export's request as plain JSON.
    """

    def __init__(self, context: Mapping[str, Any], request: Mapping[str, Any]) -> None:
        self._store = context.get("task_state_store")
        ti = context.get("ti")
        self._signature = {"request": dict(request), "max_tries": getattr(ti, "max_tries", None)}

    def get(self) -> D1Export | None:
        """Return the export of an earlier attempt, None when there is none that can still be downloaded."""
        from airflow_provider_d1.cloudflare.models import D1Export

        if self._store is None:
            return None
        try:
            state = self._store.get(KEY)
        except Exception as error:  # noqa: BLE001 - on any failure of the store the task exports again
            log.warning("Could not read the task's state: %s", type(error).__name__)
            return None
        if not isinstance(state, Mapping) or state.get("signature") != self._signature:
            return None
        try:
            export = D1Export.from_dict(state["export"])
        except (KeyError, TypeError, ValueError):
            return None
        return export if export.expires_at - MARGIN > datetime.now(UTC) else None

    def put(self, export: D1Export) -> None:
        """Keep an export for the next attempt until its URL expires."""
        left = export.expires_at - MARGIN - datetime.now(UTC)
        if self._store is None or left <= timedelta(0):
            return
        state = {"signature": self._signature, "export": export.to_dict()}
        try:
            self._store.set(KEY, state, retention=left)
        except Exception as error:  # noqa: BLE001 - see get()
            log.warning("Could not keep the export for a retry: %s", type(error).__name__)

    def forget(self) -> None:
        """Delete the export, which is staged or unusable."""
        if self._store is None:
            return
        try:
            self._store.delete(KEY)
        except Exception as error:  # noqa: BLE001 - it expires anyway
            log.warning("Could not delete the task's state: %s", type(error).__name__)
