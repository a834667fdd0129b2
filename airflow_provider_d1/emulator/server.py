"""The emulator as a context manager: a real HTTP server in a thread of this process."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from airflow_provider_d1.emulator.api_app import API_PREFIX, ApiApp
from airflow_provider_d1.emulator.authentication import Authenticator
from airflow_provider_d1.emulator.broken_connections import BreakableProtocol
from airflow_provider_d1.emulator.bucket import Bucket
from airflow_provider_d1.emulator.control import control_routes
from airflow_provider_d1.emulator.databases import Databases
from airflow_provider_d1.emulator.faults import Faults
from airflow_provider_d1.emulator.request_log import CallLog, Log, RecordedDownload
from airflow_provider_d1.emulator.routes import Routes
from airflow_provider_d1.emulator.server_rate_limit import ServerRateLimit
from airflow_provider_d1.emulator.signed_downloads import PREFIX, SignedDownloads
from airflow_provider_d1.emulator.signed_uploads import UPLOAD_PREFIX, SignedUploads
from airflow_provider_d1.emulator.signing import Signer
from airflow_provider_d1.emulator.virtual_clock import VirtualClock

if TYPE_CHECKING:
    from airflow_provider_d1.emulator.seeds import Seed

CONTROL_PREFIX = "/_emulator"
DEFAULT_TOKEN = "emulator-token"  # noqa: S105 - opens nothing but the emulator
DEFAULT_ACCOUNT_ID = "e" * 32


class Emulator:
    """A local D1 API with one account; ``with Emulator(databases={"shop": Path("seed.sql")}) as emulator: …``.

    :param token: the credential, as an API token or (with ``email``) as a Global API Key.
    :param account_id: the account.
    :param databases: name → seed: a ``Path`` to an ``.sql``, ``.sqlite``/``.db`` or ``.json`` file, SQL text, a list of
        statements, ``{"table": [{"column": value}]}``, or None for an empty one.
    :param dumps: name → an ``.sql`` file of any size that every export of that database returns unchanged.
    :param faults: name → value, see :class:`~airflow_provider_d1.emulator.faults.Faults`.
    :param email: the Global API Key's address.
    :param account_owned_token: True for a token that verifies at ``/accounts/{id}/tokens/verify`` only, False for
        ``/user/tokens/verify`` only, None for either.
    :param host: where to listen.
    :param port: 0 takes a free one.
    :param speed: emulator seconds in one real second: with 100 the five-minute block takes three seconds.
    :param cancel_after: seconds without a poll after which an export is cancelled.

    ``url`` is the API's base (``…/client/v4``), ``faults`` are the failures to simulate, ``calls`` and ``downloads``
    the requests so far, ``tokens`` the valid credentials: a set that may change at any time.
    """

    def __init__(
        self,
        token: str = DEFAULT_TOKEN,
        account_id: str = DEFAULT_ACCOUNT_ID,
        databases: Mapping[str, Seed] | None = None,
        *,
        dumps: Mapping[str, Path] | None = None,
        faults: Mapping[str, Any] | None = None,
        email: str = "user@example.com",
        account_owned_token: bool | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        speed: float = 1.0,
        cancel_after: float = 15.0,
    ) -> None:
        self.token = token
        self.tokens = {token}
        self.account_id = account_id
        self.email = email
        self.calls = CallLog()
        self.downloads: Log[RecordedDownload] = Log()
        self._databases = dict(databases or {})
        self._dumps = dict(dumps or {})
        self._account_owned = account_owned_token
        self._address = (host, port)
        self._cancel_after = cancel_after
        self._clock = VirtualClock(speed)
        self.faults = Faults(clock=self._clock.now)
        self.faults.set(faults or {})

    @property
    def origin(self) -> str:
        """``http://host:port``, once it runs."""
        host, port = self._address
        return f"http://{host}:{port}"

    @property
    def url(self) -> str:
        """The API's base URL, as the Airflow connection's host takes it."""
        return f"{self.origin}{API_PREFIX}"

    def database_id(self, name: str) -> str:
        """The UUID of a database."""
        return self._store.ids()[name]

    def database_ids(self) -> Mapping[str, str]:
        """UUIDs by name."""
        return self._store.ids()

    def start(self) -> Self:
        """Read the seeds and listen.

        :raises airflow_provider_d1.emulator.seeds.SeedError: when a seed cannot be read.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="d1-emulator-")
        self._store = Databases(Path(self._folder.name), self.account_id)
        try:
            for name in {**self._databases, **self._dumps}:
                self._store.add(name, self._databases.get(name), self._dumps.get(name))
            listener = socket.create_server(self._address)
        except BaseException:
            self._store.close()
            self._folder.cleanup()
            raise
        self._address = listener.getsockname()[:2]
        config = uvicorn.Config(
            self._application(),
            http=BreakableProtocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=60,  # Cloudflare's are longer than any gap between two polls
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="d1 emulator", daemon=True)
        self._thread.start()
        return self

    def _application(self) -> Starlette:
        access = Authenticator(self.tokens, self.account_id, self.email, self._account_owned, self.faults)
        bucket = Bucket(Path(self._folder.name))
        signer = Signer()
        self._routes = Routes(self._store, access, bucket, signer, self._clock, self.faults, self._cancel_after)
        self._limit = ServerRateLimit(self.faults)
        api = ApiApp(self._routes, access, self._limit, self._clock, self.faults, self.calls)
        self._signed_downloads = SignedDownloads(bucket, signer, self._clock, self.faults, self.downloads)
        control = control_routes(self.faults, self.calls, self.downloads, self._store.ids(), self.reset)
        return Starlette(
            routes=[
                Mount(API_PREFIX, app=api),
                Mount(PREFIX, app=self._signed_downloads),
                Mount(UPLOAD_PREFIX, app=SignedUploads(bucket, signer, self.faults)),
                Mount(CONTROL_PREFIX, routes=control),
            ]
        )

    def reset(self) -> None:
        """Remove all faults, exports, blocks and recorded calls; the databases keep their content."""
        self.faults.reset()
        self._routes.forget_jobs()
        self._limit.reset()
        self._signed_downloads.reset()
        self.calls.clear()
        self.downloads.clear()

    def stop(self) -> None:
        """Finish open requests, for a second at most, then close everything and remove the files."""
        self._server.should_exit = True
        self._thread.join()
        self._routes.forget_jobs()
        self._store.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
