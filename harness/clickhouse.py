"""A ClickHouse server on loopback: the engine of the wheel ``chdb`` in a process of its own, behind ClickHouse's HTTP.

ClickHouse itself is in no package of PyPI, and Debian's is of 2018. The engine is the real one. Of the protocol there
is what ``clickhouse_connect`` uses: queries in the body, the URL or a form, settings, sessions, inserts, error codes.
Sessions are kept until the end, results are not compressed, and an insert begins when its data have arrived.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from harness.database_server import USER, DatabaseServer
from harness.process import Server, free_ports, running

#: parameters of a request that are no settings of the engine
_TRANSPORT = frozenset(
    ("database", "query", "query_id", "session_id", "wait_end_of_query", "client_protocol_version", "compress")
) | frozenset(("enable_http_compression", "send_progress_in_http_headers", "http_headers_progress_interval_ms"))
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*$", re.IGNORECASE)
_CODE = re.compile(r"Code: (\d+)")


class ClickHouseServer(DatabaseServer):
    """A running server."""

    conn_type = "clickhouse"

    def connect(self):  # noqa: ANN201 - clickhouse_connect's own
        """A client of ``clickhouse_connect``."""
        import clickhouse_connect

        return clickhouse_connect.get_client(host=self.host, port=self.port, username=self.user, password=self.password)


@contextmanager
def clickhouse_server(folder: Path) -> Iterator[ClickHouseServer]:
    """Run a server with its log and its data in ``folder`` (created)."""
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    log = folder / "clickhouse.log"
    process = Server(lambda: running(command, log=log, ready=lambda: _answers(server), env=env))
    server = ClickHouseServer(port=port, password=secrets.token_urlsafe(16), process=process)
    command = [sys.executable, "-m", "harness.clickhouse", str(port), str(folder / "data")]
    env = {"PATH": os.environ.get("PATH", ""), "CLICKHOUSE_PASSWORD": server.password, "HOME": str(folder)}
    env |= {"PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": tempfile.gettempdir(), "NO_PROXY": "*"}
    with process:
        yield server


def _answers(server: ClickHouseServer) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"http://{server.host}:{server.port}/ping", timeout=5
        ) as answer:
            return answer.status == 200
    except OSError:
        return False


class _Session:
    """A connection to the engine, with the settings and the database that were chosen last."""

    def __init__(self, path: str) -> None:
        import chdb

        self.connection = chdb.connect(path)
        self.lock = threading.Lock()
        self.settings: dict[str, str] = {}
        self.database = ""

    def prepare(self, parameters: Mapping[str, str]) -> None:
        settings = {k: v for k, v in parameters.items() if k not in _TRANSPORT and not k.startswith("param_")}
        for name, value in settings.items():
            if self.settings.get(name) != value:
                self.connection.query(f"SET {name} = {_literal(value)}", "TabSeparated")
        for name in self.settings.keys() - settings.keys():
            self.connection.query(f"SET {name} = DEFAULT", "TabSeparated")
        self.settings = settings
        database = parameters.get("database", "default")
        if database != self.database:
            self.connection.query(f"USE `{database}`", "TabSeparated")
            self.database = database

    def query(self, sql: str, parameters: Mapping[str, str]) -> tuple[bytes, str | None]:
        """The result and its format; None for a statement without a result."""
        values = {name.removeprefix("param_"): v for name, v in parameters.items() if name.startswith("param_")}
        if (found := _FORMAT.search(sql)) is not None:
            return self.connection.query(sql, "TabSeparated", params=values).bytes() or b"", found[1]
        # a statement with a result has at least a line of names
        body = self.connection.query(sql, "TabSeparatedWithNames", params=values).bytes() or b""
        return (body.partition(b"\n")[2], "TabSeparated") if body else (b"", None)

    def insert(self, sql: str, data: bytes) -> None:
        statement, name = _FORMAT.sub("", sql), _FORMAT.search(sql)
        if name is None:
            raise ValueError(f"no FORMAT at the end of {sql}")
        with tempfile.NamedTemporaryFile(suffix=".insert") as file:
            file.write(data)
            file.flush()
            self.connection.query(f"{statement} FROM INFILE {_literal(file.name)} FORMAT {name[1]}", "TabSeparated")


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    path: str
    authorization: str

    def __init__(self, port: int, path: str, password: str) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.path = path
        self.authorization = "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()
        self.sessions: dict[str, _Session] = {"": _Session(path)}
        self.lock = threading.Lock()

    def session(self, name: str) -> _Session:
        with self.lock:
            return self.sessions.get(name) or self.sessions.setdefault(name, _Session(self.path))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement of its headers
    server: _Listener

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/ping":
            self._answer(200, b"Ok.\n")
        else:
            self.do_POST()

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != self.server.authorization:
            self._answer(403, b"Code: 516. DB::Exception: Authentication failed. (AUTHENTICATION_FAILED)", code="516")
            return
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        if self.headers.get_content_type() == "multipart/form-data":
            parameters, body = parameters | self._form(body), b""
        session = self.server.session(parameters.get("session_id", ""))
        try:
            with session.lock:
                session.prepare(parameters)
                if "query" in parameters and body:
                    session.insert(parameters["query"], body)
                    answer: tuple[bytes, str | None] = (b"", None)
                else:
                    answer = session.query(parameters.get("query") or body.decode(), parameters)
        except Exception as error:  # noqa: BLE001 - all that the engine refuses is answered
            text = str(error)
            text = text[max(0, text.find("Code: ")) :]
            code = _CODE.search(text)
            self._answer(500, text.encode(), code=code[1] if code else "1001")
            return
        self._answer(200, *answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing: parameters may hold keys."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):  # the client may have been killed
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _form(self, body: bytes) -> dict[str, str]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = BytesParser(policy=HTTP).parsebytes(head + body).iter_parts()
        return {
            str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True).decode()
            for part in parts
        }

    def _answer(self, status: int, content: bytes, result_format: str | None = None, code: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-ClickHouse-Timezone", "UTC")
        if result_format is not None:
            self.send_header("X-ClickHouse-Format", result_format)
        if code is not None:
            self.send_header("X-ClickHouse-Exception-Code", code)
        self.end_headers()
        self.wfile.write(content)


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


if __name__ == "__main__":
    _Listener(int(sys.argv[1]), sys.argv[2], os.environ["CLICKHOUSE_PASSWORD"]).serve_forever()
