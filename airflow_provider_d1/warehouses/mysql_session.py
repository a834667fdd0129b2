"""MySQL and MariaDB: a load's connection, with the connection's TLS, the server's settings and the load's lock."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Mapping
from typing import Any

from airflow_provider_d1.cloudflare.credentials import Secret
from airflow_provider_d1.exceptions import D1ConfigurationError, D1WarehouseError
from airflow_provider_d1.warehouses.session import CursorSession, while_in_use

_CONNECT_TIMEOUT = 20
#: ER_LOCK_WAIT_TIMEOUT
_LOCKED = 1205
#: how long a load waits for another one into the same schema, in seconds
_OTHER_LOAD = 6 * 3600


class MySQLSession(CursorSession):
    """A PyMySQL cursor in autocommit mode; loads into one schema follow each other by a lock of the server."""

    def __init__(self, connection: Any, schema: str, waits: int = _OTHER_LOAD) -> None:
        super().__init__(connection)
        for statement in (
            # no value is cut or rounded in silence, and a backslash escapes in literals
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO'",
            "SET SESSION time_zone = '+00:00', wait_timeout = 28800",
            # rows that other sessions add while rows are replaced have to wait
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        ):
            self.rows(statement)
        ((version, self.largest_statement),) = self.rows("SELECT VERSION(), @@max_allowed_packet")
        self._shortest_wait = 0 if "mariadb" in str(version).lower() else 1
        ((self._wait,),) = self.rows("SELECT @@lock_wait_timeout")
        name = "d1:" + hashlib.sha256(schema.encode()).hexdigest()[:32]
        ((taken,),) = self.rows(f"SELECT GET_LOCK('{name}', {waits})")
        if taken != 1:
            raise D1WarehouseError(
                f"Another load into schema {schema!r} has been running for more than {waits} seconds; nothing was "
                "loaded, try again later",
                retryable=True,
            )

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows; one that changes a table gives way to the table's readers."""
        if not statement.startswith(("RENAME TABLE", "ALTER TABLE", "DROP TABLE `")):
            return super().rows(statement)
        super().rows(f"SET SESSION lock_wait_timeout = {self._shortest_wait}")
        try:
            return while_in_use(
                lambda: super(MySQLSession, self).rows(statement), lambda error: error_number(error) == _LOCKED
            )
        finally:
            super().rows(f"SET SESSION lock_wait_timeout = {self._wait}")


def connect(conn_id: str, schema: str) -> MySQLSession:
    """Open a session as the connection says; its fields are those of Airflow's own MySQL provider.

    :raises D1ConfigurationError: for a field that PyMySQL has nothing for.
    """
    import pymysql
    from airflow.providers.common.compat.sdk import BaseHook

    connection = BaseHook.get_connection(conn_id)
    extra = connection.extra_dejson
    options: dict[str, Any] = {
        "host": connection.host or "localhost",
        "port": connection.port or 3306,
        "user": connection.login,
        "password": Secret(connection.password or ""),
        "charset": "utf8mb4",
        "autocommit": True,
    }
    del connection  # its repr shows the password, and error reporters send the repr of local variables
    if extra.get("iam"):
        raise D1ConfigurationError(
            f"Connection {conn_id!r} asks for IAM authentication (extra 'iam'), which is not supported here: give it a "
            "user with a password"
        )
    options["connect_timeout"] = int(extra.get("connect_timeout", _CONNECT_TIMEOUT))
    if extra.get("unix_socket"):
        options["unix_socket"] = extra["unix_socket"]
    if (context := _tls(conn_id, extra)) is not None:
        options["ssl"] = context
    return MySQLSession(pymysql.connect(**options), schema)


def _tls(conn_id: str, extra: Mapping[str, Any]) -> ssl.SSLContext | None:
    """What ``ssl`` (ca, cert, key) and ``ssl_mode`` of the extra ask for."""
    files = extra.get("ssl") or {}
    if isinstance(files, str):
        files = json.loads(files)
    mode = str(extra.get("ssl_mode") or ("VERIFY_CA" if files.get("ca") else "REQUIRED" if files else "")).upper()
    if mode in ("", "DISABLED", "PREFERRED"):
        return None
    if mode not in ("REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"):
        raise D1ConfigurationError(
            f"Connection {conn_id!r}: ssl_mode is {mode!r}, expected REQUIRED, VERIFY_CA or VERIFY_IDENTITY"
        )
    context = ssl.create_default_context(cafile=files.get("ca"))
    context.check_hostname = mode == "VERIFY_IDENTITY"
    if mode == "REQUIRED":
        context.verify_mode = ssl.CERT_NONE
    if files.get("cert"):
        context.load_cert_chain(files["cert"], files.get("key"))
    return context


def error_number(error: Exception) -> int | None:
    """The number of a server's error, None for one of the driver's own."""
    number = error.args[0] if error.args else None
    return number if isinstance(number, int) else None
