"""Routes that control the emulator over HTTP; they need no credential."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from airflow_provider_d1.emulator.faults import Faults
    from airflow_provider_d1.emulator.request_log import CallLog, Log, RecordedDownload


def control_routes(
    faults: Faults,
    calls: CallLog,
    downloads: Log[RecordedDownload],
    ids: Mapping[str, str],
    reset: Callable[[], None],
) -> list[Route]:
    """``faults`` (GET, PATCH, DELETE), ``calls`` (GET, DELETE), ``databases`` (GET, UUIDs by name), ``reset`` (POST).

    :param faults: the failures to simulate.
    :param calls: the API calls so far.
    :param downloads: the downloads so far.
    :param ids: UUIDs by name.
    :param reset: resets the emulator to its initial state.
    """

    async def fault_values(request: Request) -> Response:
        if request.method == "PATCH":
            try:
                faults.set(dict(json.loads(await request.body())))
            except (TypeError, ValueError) as error:
                return JSONResponse({"error": str(error)}, 400)
        elif request.method == "DELETE":
            faults.reset()
        return JSONResponse(faults.to_dict())

    async def call_log(request: Request) -> Response:
        if request.method == "DELETE":
            calls.clear()
            downloads.clear()
        return JSONResponse({"calls": [asdict(c) for c in calls], "downloads": [asdict(d) for d in downloads]})

    async def database_ids(_request: Request) -> Response:
        return JSONResponse(dict(ids))

    async def start_over(_request: Request) -> Response:
        await run_in_threadpool(reset)
        return Response(status_code=204)

    return [
        Route("/faults", fault_values, methods=["GET", "PATCH", "DELETE"]),
        Route("/calls", call_log, methods=["GET", "DELETE"]),
        Route("/databases", database_ids, methods=["GET"]),
        Route("/reset", start_over, methods=["POST"]),
    ]
