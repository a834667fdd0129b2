"""Cloudflare's responses: the envelope, its error codes, and the inner result of an export."""

from __future__ import annotations

from typing import Any

from airflow_provider_d1.emulator.exports import ExportActive, ExportAnswer, ExportComplete, ExportFailed
from airflow_provider_d1.emulator.imports import ImportAnswer, ImportComplete, ImportFailed

BAD_BODY, NOT_FOUND, D1_ERROR, NO_ROUTE, NO_AUTHENTICATION, NO_ACCESS = 7400, 7404, 7500, 7003, 10000, 9109
INVALID_TOKEN, INVALID_HEADERS, MISSING_CREDENTIALS, THROTTLED = 1000, 6003, 9106, 971

Json = dict[str, Any]


class ApiError(Exception):
    """A response with ``success: false``."""

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
    """The envelope around a result; ``more`` are other members, such as ``result_info``."""
    return {"success": True, "errors": [], "messages": [], "result": result, **more}


def export(answer: ExportAnswer) -> tuple[int, Json]:
    """HTTP status and body for an export's answer: 202 while it runs, 200 at the end and for failures.

    The caller adds the signed URL of a complete export at ``result.result.signed_url``.
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


def import_started(filename: str, upload_url: str) -> Json:
    """The response to an import's *init*: where to upload the file."""
    return success({"success": True, "type": "import", "filename": filename, "upload_url": upload_url, "messages": []})


def import_progress(answer: ImportAnswer) -> Json:
    """The response to an import's *ingest* or *poll*."""
    if isinstance(answer, ImportFailed):
        if answer.bookmark is None:
            return success({"success": False, "error": answer.error})
        return success(
            {
                "success": False,
                "type": "import",
                "at_bookmark": answer.bookmark,
                "status": "error",
                "error": answer.error,
                "messages": [],
            }
        )
    result: Json = {
        "success": True,
        "type": "import",
        "at_bookmark": answer.bookmark,
        "status": "active",
        "messages": list(answer.messages),
    }
    if isinstance(answer, ImportComplete):
        statistics = answer.statistics
        result |= {
            "status": "complete",
            "result": {
                "final_bookmark": statistics.final_bookmark,
                "num_queries": statistics.statements,
                "meta": {
                    "served_by": "emulator",
                    "duration": round(statistics.milliseconds, 4),
                    "changes": statistics.changes,
                    "last_row_id": statistics.last_row_id,
                    "changed_db": statistics.changes > 0,
                    "rows_read": 0,
                    "rows_written": statistics.changes,
                    "size_after": statistics.size,
                },
            },
        }
    return success(result)


def _export_result(answer: ExportActive | ExportComplete, status: str) -> Json:
    return {
        "success": True,
        "type": "export",
        "at_bookmark": answer.bookmark,
        "status": status,
        "messages": list(answer.messages),
    }
