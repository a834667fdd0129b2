"""A retry goes on with the export that an earlier try has finished, instead of blocking the database again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.models import D1Export

log = logging.getLogger(__name__)

KEY = "d1_export"
#: a URL with less time left than this is not worth beginning a download
MARGIN = timedelta(minutes=5)


class FinishedExport:
    """The export that tries of one task share, in Airflow's ``task_state_store`` (3.3 and newer; absent otherwise).

    It holds what XCom would hold, the URL sealed. It is only ever a saving: it counts for the same request, for the
    same run of the task (clearing a task moves its ``max_tries``, a retry does not) and while the URL lives; a store
    that fails is passed over.

    :param context: the task's context.
    :param request: what was asked for, as plain JSON.
    """

    def __init__(self, context: Mapping[str, Any], request: Mapping[str, Any]) -> None:
        self._store = context.get("task_state_store")
        ti = context.get("ti")
        self._signature = {"request": dict(request), "max_tries": getattr(ti, "max_tries", None)}

    def get(self) -> D1Export | None:
        """Return the export of an earlier try, None when there is none that still serves."""
        from airflow_provider_d1.cloudflare.models import D1Export

        if self._store is None:
            return None
        try:
            state = self._store.get(KEY)
        except Exception as error:  # noqa: BLE001 - whatever the store's trouble, a new export does as well
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
        """Keep an export for the next try, as long as its URL lives."""
        left = export.expires_at - MARGIN - datetime.now(UTC)
        if self._store is None or left <= timedelta(0):
            return
        state = {"signature": self._signature, "export": export.to_dict()}
        try:
            self._store.set(KEY, state, retention=left)
        except Exception as error:  # noqa: BLE001 - see get()
            log.warning("Could not keep the export for a retry: %s", type(error).__name__)

    def forget(self) -> None:
        """Delete it: it is staged, or no longer of use."""
        if self._store is None:
            return
        try:
            self._store.delete(KEY)
        except Exception as error:  # noqa: BLE001 - it expires by itself
            log.warning("Could not delete the task's state: %s", type(error).__name__)
