"""Cloudflare's answers: the envelope, its error codes, and the inner result of an export."""

from __future__ import annotations

from typing import Any

from airflow_provider_d1.emulator.exports import ExportActive, ExportAnswer, ExportComplete, ExportFailed

BAD_BODY, NOT_FOUND, D1_ERROR, NO_ROUTE, NO_AUTHENTICATION, NO_ACCESS = 7400, 7404, 7500, 7003, 10000, 9109
INVALID_TOKEN, INVALID_HEADERS, MISSING_CREDENTIALS, THROTTLED = 1000, 6003, 9106, 971

Json = dict[str, Any]


class ApiError(Exception):
    """An answer with ``success: false``."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def body(self) -> Json:
        """The envelope."""
        return {
            "success": False,
            "errors": [{"code": self.code, "message": str(self)}],
            "messages": [],
            "result": None,
        }


def success(result: object, **more: object) -> Json:
    """The envelope around a result; ``more`` stands beside it, as ``result_info`` does."""
    return {"success": True, "errors": [], "messages": [], "result": result, **more}


def export(answer: ExportAnswer) -> tuple[int, Json]:
    """HTTP status and body for an export's answer: 202 while it runs, 200 for the end, the failed ones included.

    The signed URL of a complete one is the caller's to fill in, at ``result.result.signed_url``.
    """
    if isinstance(answer, ExportActive):
        return 202, success(_export_result(answer, status="active"))
    if isinstance(answer, ExportComplete):
        inner = _export_result(answer, status="complete")
        return 200, success({**inner, "result": {"filename": answer.filename}})
    if isinstance(answer, ExportFailed) and answer.bookmark is not None:
        return 200, success(
            {
                "success": False,
                "type": "export",
                "at_bookmark": answer.bookmark,
                "status": "error",
                "error": answer.error,
                "messages": [],
            }
        )
    return 200, success({"success": False, "error": answer.error})


def _export_result(answer: ExportActive | ExportComplete, status: str) -> Json:
    return {
        "success": True,
        "type": "export",
        "at_bookmark": answer.bookmark,
        "status": status,
        "messages": list(answer.messages),
    }
