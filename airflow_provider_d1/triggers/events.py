"""The event of an export's trigger: built in the triggerer, read in the worker.

Airflow stores an event unencrypted and logs all of it. So an event contains no URL that is not sealed, and no message
of an exception from another package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_d1.cloudflare.models import D1Export
from airflow_provider_d1.exceptions import D1Error, D1ExportError, D1ExportTimeoutError


def success(export: D1Export) -> dict[str, Any]:
    """The event of a finished export."""
    return {"status": "success", "export": export.to_dict()}


def failure(error: Exception) -> dict[str, Any]:
    """The event of an export that failed.

    :param error: a :class:`D1Error` is sent with its message and ``retryable``. The message of any other exception is
        not sent, as it may quote a URL; such an error is retryable.
    """
    if isinstance(error, D1ExportTimeoutError):
        return {"status": "timeout", "message": str(error)}
    name = type(error).__name__
    if isinstance(error, D1Error):
        return {"status": "error", "error": name, "message": str(error), "retryable": error.retryable}
    message = f"The trigger failed with an unexpected {name}. The triggerer's log has the traceback."
    return {"status": "error", "error": name, "message": message, "retryable": True}


def exported(event: object) -> D1Export:
    """Read an event.

    :return: the finished export.
    :raises D1Error: the error that the event reports, of its own class; :class:`D1ExportError` for an event that
        neither :func:`success` nor :func:`failure` has written.
    """
    if not isinstance(event, Mapping):
        raise D1ExportError(f"The trigger's event should be a mapping, not {type(event).__name__}.")
    status = event.get("status")
    if status == "success":
        try:
            return D1Export.from_dict(event["export"])
        except (KeyError, TypeError, ValueError):
            raise D1ExportError("The trigger reported success without a complete export.") from None
    message = event.get("message")
    if not isinstance(message, str) or not message:
        message = "The trigger gave no reason."
    if status == "timeout":
        raise D1ExportTimeoutError(message)
    if status == "error":
        raise D1Error.from_name(str(event.get("error")), message, retryable=event.get("retryable") is not False)
    raise D1ExportError("The trigger's event has none of the statuses 'success', 'error' and 'timeout'.")
