"""The events of the triggers: built in the triggerer, read in the worker.

Airflow stores an event unencrypted and logs all of it. So an event contains no URL that is not sealed, and no message
of an exception from another package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_d1.cloudflare.import_models import ImportResult
from airflow_provider_d1.cloudflare.models import D1Export
from airflow_provider_d1.exceptions import D1Error, D1ExportError, D1ExportTimeoutError, D1ImportError


def success(export: D1Export) -> dict[str, Any]:
    """The event of a finished export."""
    return {"status": "success", "export": export.to_dict()}


def failure(error: Exception) -> dict[str, Any]:
    """The event of an export or import that failed.

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
        :func:`success` and :func:`failure` do not write.
    """
    success = _success(event, D1ExportError)
    try:
        return D1Export.from_dict(success["export"])
    except (KeyError, TypeError, ValueError):
        raise D1ExportError("The trigger reported success without a complete export.") from None


def import_success(result: ImportResult, report: Mapping[str, Any]) -> dict[str, Any]:
    """The event of a finished import.

    :param report: what the worker knew before it deferred; some versions of Airflow keep it nowhere else.
    """
    return {"status": "success", "import": result.to_dict(), "report": dict(report)}


def imported(event: object) -> tuple[ImportResult, dict[str, Any]]:
    """Read the event of an import.

    :return: what the import did, and the worker's report.
    :raises D1Error: as :func:`exported`; :class:`D1ImportError` for an event of another form.
    """
    success = _success(event, D1ImportError)
    report = success.get("report")
    return ImportResult.from_dict(success.get("import")), dict(report) if isinstance(report, Mapping) else {}


def _success(event: object, kind: type[D1Error]) -> Mapping[str, Any]:
    """The event, if it reports success; otherwise the error that it reports is raised."""
    if not isinstance(event, Mapping):
        raise kind(f"The trigger's event should be a mapping, not {type(event).__name__}.")
    status = event.get("status")
    if status == "success":
        return event
    message = event.get("message")
    if not isinstance(message, str) or not message:
        message = "The trigger reported no reason."
    if status == "timeout":
        raise D1ExportTimeoutError(message)
    if status == "error":
        raise D1Error.from_name(str(event.get("error")), message, retryable=event.get("retryable") is not False)
    raise kind("The trigger's event has none of the statuses 'success', 'error' and 'timeout'.")
