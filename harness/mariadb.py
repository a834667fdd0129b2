"""A real MariaDB server on loopback, from the programs that the distribution installs (``mariadb-server``)."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.database_server import USER, DatabaseServer
from harness.process import Server, free_ports, running

#: Debian installs the server where only root looks by default
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


class MariaDBServer(DatabaseServer):
    """A running server."""

    conn_type = "mysql"

    def connect(self, **options):  # noqa: ANN003, ANN201 - pymysql's own
        """A PyMySQL connection in autocommit mode."""
        import pymysql

        login = {"host": self.host, "port": self.port, "user": self.user, "password": self.password}
        return pymysql.connect(**{**login, "charset": "utf8mb4", "autocommit": True, **options})


def mariadb_missing() -> str | None:
    """What is missing to run a server here, None when everything is there."""
    missing = [name for name in ("mariadbd", "mariadb-install-db") if shutil.which(name, path=_PATH) is None]
    return f"no {' and no '.join(missing)}: apt-get install mariadb-server" if missing else None


@contextmanager
def mariadb_server(folder: Path) -> Iterator[MariaDBServer]:
    """Run a MariaDB with its log in ``folder`` (created) and its data in a temporary folder, removed afterwards.

    MariaDB refuses to run as root; for root it runs as ``nobody``, who then owns the data. The server has the settings
    that it is built with: no configuration file is read, so text is latin1 unless a statement says otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="harness-mariadb-") as temporary:
        place = Path(temporary)
        user = "nobody" if os.geteuid() == 0 else None
        if user is not None:
            os.chown(place, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        env = {"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": temporary}
        data = place / "data"
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ],
            check=True,
            capture_output=True,
            env=env,
            cwd=place,
            user=user,
            timeout=120,
        )
        password = secrets.token_urlsafe(16)
        accounts = place / "accounts.sql"
        accounts.touch(mode=0o600)
        accounts.write_text(  # one statement in each line
            f"CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{password}';\n"
            f"GRANT ALL ON *.* TO '{USER}'@'%' WITH GRANT OPTION;\n"
            "DROP USER IF EXISTS 'root'@'localhost', 'root'@'127.0.0.1', 'root'@'::1';\n"
        )
        if user is not None:
            os.chown(accounts, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        (port,) = free_ports(1)
        log = folder / "mariadb.log"
        process = Server(lambda: running(command, log=log, ready=lambda: _answers(server), user=user, env=env))
        server = MariaDBServer(port=port, password=password, process=process)
        settings = {
            "datadir": data,
            "port": port,
            "bind-address": server.host,
            "socket": place / "socket",
            "pid-file": place / "pid",
            "init-file": accounts,
            "skip-name-resolve": 1,
            "innodb-flush-log-at-trx-commit": 2,  # what is committed outlives the process, though not the machine
            "innodb-fast-shutdown": 2,
            "innodb-buffer-pool-size": "256M",
            "max-connections": 100,
        }
        command = [shutil.which("mariadbd", path=_PATH) or "mariadbd", "--no-defaults"]
        command += [f"--{name}={value}" for name, value in settings.items()]
        with process:
            yield server


def _answers(server: MariaDBServer) -> bool:
    import pymysql

    try:
        server.connect(connect_timeout=2).close()
    except pymysql.OperationalError:
        return False
    return True
