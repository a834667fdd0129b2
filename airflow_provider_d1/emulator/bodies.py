"""Validate request bodies and parameters; an invalid one is code 7400."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airflow_provider_d1.cloudflare.models import ExportOptions
from airflow_provider_d1.emulator.databases import MAX_STATEMENT_BYTES
from airflow_provider_d1.emulator.envelopes import BAD_BODY, D1_ERROR, ApiError

MAX_PARAMETERS = 100
_MD5 = re.compile(r"[0-9a-f]{32}")


def _malformed(why: str) -> ApiError:
    return ApiError(400, BAD_BODY, f"The request is malformed: {why}")


def integer(text: str, name: str, least: int, most: int | None) -> int:
    """A page number or size from the URL.

    :raises ApiError: when it is not an integer between ``least`` and ``most``.
    """
    if not text.isascii() or not text.isdigit() or int(text) < least or (most is not None and int(text) > most):
        span = f"at least {least}" if most is None else f"from {least} to {most}"
        raise _malformed(f"{name} must be an integer {span}")
    return int(text)


def statements(body: object) -> list[tuple[str, list[Any]]]:
    """SQL and parameters of each query in a ``/query`` or ``/raw`` body, ``{"batch": [...]}`` or a single one.

    :raises ApiError: malformed, or beyond D1's limits.
    """
    if not isinstance(body, dict):
        raise _malformed("Expected object at body")
    queries = body.get("batch", [body])
    if not isinstance(queries, list):
        raise _malformed("Expected array at body.batch")
    return [_statement(query) for query in queries]


def _statement(query: object) -> tuple[str, list[Any]]:
    if not isinstance(query, dict) or not isinstance(query.get("sql"), str):
        raise _malformed("Required at body.sql")
    sql, parameters = query["sql"], query.get("params")
    if parameters is None:
        parameters = []
    if not isinstance(parameters, list) or any(isinstance(value, list | dict) for value in parameters):
        raise _malformed("Expected array of plain values at body.params")
    if len(parameters) > MAX_PARAMETERS:
        raise ApiError(400, D1_ERROR, "too many SQL variables: SQLITE_ERROR")
    if len(sql.encode(errors="surrogatepass")) > MAX_STATEMENT_BYTES:
        raise ApiError(400, D1_ERROR, "statement too long: SQLITE_TOOBIG")
    return sql, parameters


def export(body: object) -> tuple[ExportOptions, str | None]:
    """Options of an export call, and the bookmark, which only a poll has.

    :raises ApiError: malformed; ``output_format`` is required in polls too.
    """
    if not isinstance(body, dict) or body.get("output_format") != "polling":
        raise _malformed('Invalid literal value, expected "polling" at body.output_format')
    options = body.get("dump_options", {})
    if not isinstance(options, dict):
        raise _malformed("Expected object at body.dump_options")
    no_schema, no_data = options.get("no_schema", False), options.get("no_data", False)
    if not isinstance(no_schema, bool) or not isinstance(no_data, bool):
        raise _malformed("Expected boolean at body.dump_options")
    tables = options.get("tables", [])
    if not isinstance(tables, list) or not all(isinstance(table, str) for table in tables):
        raise _malformed("Expected array of strings at body.dump_options.tables")
    bookmark = body.get("current_bookmark")
    if bookmark is not None and not isinstance(bookmark, str):
        raise _malformed("Expected string at body.current_bookmark")
    return ExportOptions(tuple(tables) or None, no_data, no_schema), bookmark or None


@dataclass(frozen=True, slots=True)
class ImportCall:
    """A call of the import route: ``action`` is init, ingest or poll; fields that it does not use are empty."""

    action: str
    etag: str = ""
    filename: str = ""
    bookmark: str = ""


def import_call(body: object) -> ImportCall:
    """Read an import call; names may have the API's form or the one that wrangler sends.

    :raises ApiError: malformed.
    """
    if not isinstance(body, dict) or body.get("action") not in ("init", "ingest", "poll"):
        raise _malformed("Invalid discriminator value, expected 'init' | 'ingest' | 'poll' at body.action")
    action = str(body["action"])
    if action == "poll":
        return ImportCall(action, bookmark=_string(body, "current_bookmark", "currentBookmark"))
    etag = _string(body, "etag").strip('"').lower()
    if not _MD5.fullmatch(etag):
        raise _malformed("Expected an MD5 at body.etag")
    return ImportCall(action, etag, _string(body, "filename") if action == "ingest" else "")


def _string(body: dict[str, Any], *names: str) -> str:
    value = next((body[name] for name in names if name in body), None)
    if not isinstance(value, str) or not value:
        raise _malformed(f"Required at body.{names[0]}")
    return value


def timestamp(text: str) -> datetime:
    """A point in time from the URL: RFC 3339, or seconds since 1970.

    :raises ApiError: for any other form.
    """
    try:
        if text.isascii() and text.isdigit():
            return datetime.fromtimestamp(int(text), UTC)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise _malformed("timestamp must be RFC 3339 or a Unix time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
