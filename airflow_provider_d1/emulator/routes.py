"""The D1 API's routes: from a call's parameters to HTTP status and body."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from airflow_provider_d1.emulator import bodies, envelopes, exports
from airflow_provider_d1.emulator.authentication import Authenticator, no_route
from airflow_provider_d1.emulator.database_states import RestoreError
from airflow_provider_d1.emulator.databases import Databases, LocalDatabase, QueryError, QueryResult
from airflow_provider_d1.emulator.envelopes import D1_ERROR, NO_ROUTE, NOT_FOUND, ApiError, Json
from airflow_provider_d1.emulator.exports import BUSY, ExportActive, ExportComplete, ExportSession
from airflow_provider_d1.emulator.imports import IMPORT_BUSY, ImportActive, ImportFailed, ImportSession
from airflow_provider_d1.emulator.jobs import DumpThread, ImportThread
from airflow_provider_d1.emulator.signed_downloads import object_path
from airflow_provider_d1.emulator.signed_uploads import upload_path

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.models import ExportOptions
    from airflow_provider_d1.emulator.bucket import Bucket
    from airflow_provider_d1.emulator.faults import Faults
    from airflow_provider_d1.emulator.signing import Signer
    from airflow_provider_d1.emulator.virtual_clock import VirtualClock

#: the service's message
FREE_PLAN_ERROR = (
    "Your account has exceeded D1's free tier daily row read limit."
    " Upgrade to a paid plan or wait until tomorrow (midnight UTC) to continue."
)
#: real seconds that a start waits for a small dump, so that the first poll can find it complete
_SMALL_DUMP_SECONDS = 1.0
#: in a file's name, and so in a URL's path
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ApiCall:
    """The parts of a request that a route needs; ``origin`` is the ``http://host:port`` that it was sent to."""

    path: str
    query: Mapping[str, str]
    body: object
    origin: str


RouteResult = tuple[int, Json]
Handler = Callable[..., Awaitable[RouteResult]]


@dataclass(frozen=True, slots=True)
class MatchedRoute:
    """The handler of a call and its arguments."""

    kind: str
    handler: Handler
    arguments: dict[str, str]


class Routes:
    """All routes over one account.

    :param store: its databases.
    :param access: checks access to the account.
    :param bucket: stores the dumps.
    :param signer: signs their URLs.
    :param clock: emulator time.
    :param faults: the failures to simulate.
    :param cancel_after: seconds without a poll after which an export is cancelled.
    """

    def __init__(
        self,
        store: Databases,
        access: Authenticator,
        bucket: Bucket,
        signer: Signer,
        clock: VirtualClock,
        faults: Faults,
        cancel_after: float,
    ) -> None:
        self._store = store
        self._access = access
        self._bucket = bucket
        self._signer = signer
        self._clock = clock
        self._faults = faults
        self._cancel_after = cancel_after
        self._sessions: dict[str, ExportSession] = {}
        self._jobs: dict[str, DumpThread] = {}
        self._import_sessions: dict[str, ImportSession] = {}
        self._imports: dict[str, ImportThread] = {}
        database = r"/accounts/(?P<account>[^/]+)/d1/database"
        one = rf"{database}/(?P<database>[^/]+)"
        self._table: list[tuple[str, str, str, Handler]] = [
            ("GET", database, "list", self.list_databases),
            ("GET", one, "get", self.get_database),
            ("POST", rf"{one}/query", "query", self.query),
            ("POST", rf"{one}/raw", "raw", self.raw),
            ("POST", rf"{one}/export", "export_start", self.export),
            ("POST", rf"{one}/import", "import_init", self.import_),
            ("GET", rf"{one}/time_travel/bookmark", "bookmark", self.bookmark),
            ("POST", rf"{one}/time_travel/restore", "restore", self.restore),
            ("GET", "/user/tokens/verify", "verify", self.verify),
            ("GET", "/accounts/(?P<account>[^/]+)/tokens/verify", "verify", self.verify),
        ]

    def find(self, method: str, path: str, body: object) -> MatchedRoute | None:
        """The route of a call; the body distinguishes a poll from a start."""
        for wanted, pattern, kind, handler in self._table:
            match = re.fullmatch(pattern, path)
            if match and method == wanted:
                return MatchedRoute(_kind(kind, body), handler, match.groupdict())
        return None

    async def verify(self, _call: ApiCall, account: str | None = None) -> RouteResult:
        """``GET …/tokens/verify``."""
        message = {"code": 10000, "message": "This API Token is valid and active", "type": None}
        return 200, {**envelopes.success(self._access.verify(account)), "messages": [message]}

    async def list_databases(self, call: ApiCall, account: str) -> RouteResult:
        """``GET …/d1/database``: a page of the databases whose name contains ``name``."""
        self._access.enter(account, call.path)
        page = bodies.integer(call.query.get("page", "1"), "page", 1, None)
        per_page = bodies.integer(call.query.get("per_page", "100"), "per_page", 10, 10_000)
        found = self._store.search(call.query.get("name"))
        shown = found[(page - 1) * per_page : page * per_page]
        info = {"count": len(shown), "page": page, "per_page": per_page, "total_count": len(found)}
        return 200, envelopes.success([_listed(database) for database in shown], result_info=info)

    async def get_database(self, call: ApiCall, account: str, database: str) -> RouteResult:
        """``GET …/d1/database/{uuid}``."""
        found = self._open(call, account, database)

        def describe() -> Json:
            return {
                **_listed(found),
                "file_size": found.file_size,
                "num_tables": found.table_count,
                "running_in_region": "WEUR",
                "read_replication": {"mode": "disabled"},
            }

        return 200, envelopes.success(await run_in_threadpool(describe))

    async def query(self, call: ApiCall, account: str, database: str) -> RouteResult:
        """``POST …/query``: rows as objects; of columns with one name the last counts."""
        return await self._run(call, account, database, lambda r: [dict(zip(r.columns, row)) for row in r.rows])  # noqa: B905 - always the same length

    async def raw(self, call: ApiCall, account: str, database: str) -> RouteResult:
        """``POST …/raw``: columns and rows separately."""
        return await self._run(call, account, database, lambda r: {"columns": r.columns, "rows": r.rows})

    async def _run(
        self, call: ApiCall, account: str, database: str, shape: Callable[[QueryResult], Any]
    ) -> RouteResult:
        found = self._open(call, account, database)
        statements = bodies.statements(call.body)
        self._check_free_plan()
        self._check_available(found)
        began = time.perf_counter()
        try:
            results = await run_in_threadpool(found.query, statements)
        except QueryError as error:
            raise ApiError(400, D1_ERROR, str(error)) from error
        self._faults.spend("free_row_reads", sum(len(result.rows) for result in results))
        size = await run_in_threadpool(lambda: found.file_size)
        meta = {
            "served_by": "emulator",
            "served_by_region": "WEUR",
            "served_by_primary": True,
            "duration": round((time.perf_counter() - began) * 1000, 4),
            "size_after": size,
        }
        return 200, envelopes.success(
            [
                {
                    "results": shape(result),
                    "success": True,
                    "meta": {
                        **meta,
                        "changes": result.changes,
                        "last_row_id": result.last_row_id,
                        "changed_db": result.changes > 0,
                        "rows_read": len(result.rows),
                        "rows_written": result.changes,
                    },
                }
                for result in results
            ]
        )

    async def bookmark(self, call: ApiCall, account: str, database: str) -> RouteResult:
        """``GET …/time_travel/bookmark``, of now or of a ``timestamp``."""
        found = self._open(call, account, database)
        moment = bodies.timestamp(call.query["timestamp"]) if "timestamp" in call.query else None
        moving = self._faults.moving_bookmarks
        return 200, envelopes.success({"bookmark": await run_in_threadpool(found.bookmark, moment, moving=moving)})

    async def restore(self, call: ApiCall, account: str, database: str) -> RouteResult:
        """``POST …/time_travel/restore``, to a ``bookmark`` or a ``timestamp``."""
        found = self._open(call, account, database)
        self._check_available(found)
        bookmark = call.query.get("bookmark")
        if bookmark is None:
            moment = bodies.timestamp(call.query.get("timestamp", ""))
            bookmark = await run_in_threadpool(found.bookmark, moment)
        try:
            previous, current = await run_in_threadpool(found.restore, bookmark)
        except RestoreError as error:
            raise ApiError(400, D1_ERROR, str(error)) from error
        message = f"Database {found.name} was restored to bookmark {bookmark}"
        return 200, envelopes.success({"bookmark": current, "previous_bookmark": previous, "message": message})

    async def import_(self, call: ApiCall, account: str, database: str) -> RouteResult:
        """``POST …/import``: *init* returns a signed URL for the upload, *ingest* runs the file, *poll* its state."""
        found = self._open(call, account, database)
        given = bodies.import_call(call.body)
        if given.action == "init":
            self._check_free_plan()
            filename = f"{found.uuid}-{given.etag}.sql"
            stored = self._bucket.get(filename)
            if stored is None or stored.etag != given.etag:
                lifetime = timedelta(seconds=self._faults.url_seconds)
                url = self._signer.sign(call.origin, upload_path(filename), datetime.now(UTC), lifetime, "PUT")
                return 200, envelopes.import_started(filename, url)
            return 200, await self._ingest(found, filename)  # the file is already there, so D1 begins at once
        if given.action == "ingest":
            stored = self._bucket.get(given.filename)
            if stored is None or given.filename != f"{found.uuid}-{given.etag}.sql" or stored.etag != given.etag:
                raise ApiError(400, D1_ERROR, "File was not uploaded, or its contents do not match the etag.")
            return 200, await self._ingest(found, given.filename)
        answer = self._import_session(found).poll(given.bookmark, self._clock.now())
        return 200, envelopes.import_progress(answer)

    async def _ingest(self, database: LocalDatabase, filename: str) -> Json:
        if self._session(database).unavailable(self._clock.now()):
            return envelopes.import_progress(ImportFailed(BUSY))
        answer = self._import_session(database).ingest(filename, self._clock.now())
        if isinstance(answer, ImportActive) and not self._faults.import_seconds:
            await run_in_threadpool(self._imports[database.uuid].join, _SMALL_DUMP_SECONDS)
        return envelopes.import_progress(answer)

    async def export(self, call: ApiCall, account: str, database: str) -> RouteResult:
        """``POST …/export``, for start and poll."""
        found = self._open(call, account, database)
        options, bookmark = bodies.export(call.body)
        session = self._session(found)
        if bookmark is None:
            self._check_free_plan()
            answer = await self._start(found, session, options)
        else:
            answer = session.poll(bookmark, self._clock.now())
        status, body = envelopes.export(answer)
        if isinstance(answer, ExportComplete):
            lifetime = timedelta(seconds=self._faults.url_seconds)
            url = self._signer.sign(call.origin, object_path(answer.filename), datetime.now(UTC), lifetime)
            body["result"]["result"]["signed_url"] = url
        return status, body

    async def _start(
        self, database: LocalDatabase, session: ExportSession, options: ExportOptions
    ) -> exports.ExportAnswer:
        if self._faults.drop_table:
            await run_in_threadpool(database.drop_table, self._faults.drop_table)
        if self._import_session(database).unavailable(self._clock.now()):
            return exports.ExportFailed(IMPORT_BUSY)
        if self._faults.free_row_reads > 0:
            self._faults.spend("free_row_reads", await run_in_threadpool(lambda: database.row_count))
        answer = session.start(options, self._clock.now())
        if isinstance(answer, ExportActive):
            if self._faults.complete_at_start:
                await run_in_threadpool(self._jobs[database.uuid].join)
                return session.poll(answer.bookmark, self._clock.now())
            if not self._faults.export_seconds:
                await run_in_threadpool(self._jobs[database.uuid].join, _SMALL_DUMP_SECONDS)
        return answer

    def _open(self, call: ApiCall, account: str, database: str) -> LocalDatabase:
        self._access.enter(account, call.path)
        if not _UUID.fullmatch(database):
            raise ApiError(404, NO_ROUTE, no_route(call.path))
        found = self._store.get(database)
        if found is None:
            raise ApiError(404, NOT_FOUND, f"The database {database} could not be found")
        return found

    def _session(self, database: LocalDatabase) -> ExportSession:
        if database.uuid not in self._sessions:

            def write(options: ExportOptions, filename: str) -> DumpThread:
                job = DumpThread(
                    database,
                    options,
                    self._bucket,
                    filename,
                    no_virtual_tables=self._faults.virtual_tables_always_fail,
                    old_newlines=self._faults.old_newlines,
                )
                self._jobs[database.uuid] = job
                return job

            name = _UNSAFE.sub("-", database.name)
            self._sessions[database.uuid] = ExportSession(
                write,
                name,
                lambda: database.bookmark(moving=self._faults.moving_bookmarks),
                self._faults,
                self._cancel_after,
            )
        return self._sessions[database.uuid]

    def _import_session(self, database: LocalDatabase) -> ImportSession:
        if database.uuid not in self._import_sessions:

            def run(filename: str) -> ImportThread:
                script = self._bucket.get(filename)
                if script is None:
                    raise ApiError(400, D1_ERROR, "File was not uploaded.")
                self._imports[database.uuid] = ImportThread(database, script)
                return self._imports[database.uuid]

            self._import_sessions[database.uuid] = ImportSession(
                run, database.bookmark, self._faults, self._cancel_after
            )
        return self._import_sessions[database.uuid]

    def _check_available(self, database: LocalDatabase) -> None:
        if self._session(database).unavailable(self._clock.now()):
            raise ApiError(400, D1_ERROR, BUSY)
        if self._import_session(database).unavailable(self._clock.now()):
            raise ApiError(400, D1_ERROR, IMPORT_BUSY)

    def _check_free_plan(self) -> None:
        if self._faults.free_row_reads == 0:
            raise ApiError(400, D1_ERROR, FREE_PLAN_ERROR)

    def forget_jobs(self) -> None:
        """Stop running exports and imports, and unlock every database."""
        self._sessions.clear()
        self._import_sessions.clear()
        jobs: list[DumpThread | ImportThread] = [*self._jobs.values(), *self._imports.values()]
        for job in jobs:
            job.cancel()
            job.join()


def _kind(kind: str, body: object) -> str:
    """Distinguish calls of one route by their bodies."""
    if not isinstance(body, dict):
        return kind
    if kind == "export_start":
        return "export_poll" if body.get("current_bookmark") else kind
    if kind == "import_init" and body.get("action") in ("ingest", "poll"):
        return f"import_{body['action']}"
    return kind


def _listed(database: LocalDatabase) -> Json:
    return {
        "uuid": database.uuid,
        "name": database.name,
        "version": "production",
        "created_at": database.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "jurisdiction": None,
    }
