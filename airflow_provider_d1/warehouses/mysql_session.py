"""A session with MySQL or MariaDB for one load, opened with PyMySQL from an Airflow connection of type ``mysql``."""

from __future__ import annotations

import hashlib
import logging
import ssl
import time
from collections.abc import Mapping
from typing import Any

from airflow_provider_d1.cloudflare.credentials import Secret
from airflow_provider_d1.exceptions import D1ConfigurationError, D1WarehouseError
from airflow_provider_d1.warehouses.session import CursorSession

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT = 20
#: how long a load waits for another one into the same schema, in seconds
_OTHER_LOAD = 6 * 3600
#: a statement that changes a table waits for its readers, and new readers wait behind it: so it gives up after the
#: shortest time that the server allows (MariaDB: 0, MySQL: 1 s) and tries again, with growing pauses
_PAUSES = [min(0.1 * 1.5**number, 5.0) for number in range(100)]
#: errors that come again until somebody changes something; everything else may pass: a deadlock (1213), a lock (1205),
#: a full disk (1021, 1114), a server that shuts down, is read-only (1290, 1836) or has gone (2006, 2013)
_PERMANENT = {
    1044: "access to the database denied",
    1045: "access denied",
    1048: "column cannot be null",
    1049: "unknown database",
    1054: "unknown column",
    1059: "name too long",
    1060: "duplicate column name",
    1061: "duplicate key name",
    1062: "duplicate entry",
    1064: "syntax error",
    1071: "key too long",
    1102: "incorrect database name",
    1103: "incorrect table name",
    1115: "unknown character set",
    1117: "too many columns",
    1118: "row size too large",
    1136: "column count does not match",
    1142: "command denied",
    1143: "command denied for a column",
    1146: "no such table",
    1153: "packet larger than max_allowed_packet",
    1166: "incorrect column name",
    1170: "key without a length",
    1193: "unknown system variable",
    1227: "access denied, a privilege is missing",
    1231: "wrong value for a variable",
    1264: "value out of range",
    1265: "data truncated",
    1273: "unknown collation",
    1292: "incorrect value",
    1300: "invalid character string",
    1364: "column has no default",
    1366: "incorrect value for a column",
    1370: "routine access denied",
    1406: "data too long",
    1451: "foreign key: referenced",
    1452: "foreign key: missing",
    1690: "value out of range in an expression",
    1698: "access denied",
    1701: "truncate of a referenced table",
    1906: "value for a generated column",
    3105: "value for a generated column",
    3819: "check constraint",
    4025: "constraint failed",
}


class MySQLSession(CursorSession):
    """A PyMySQL cursor in autocommit mode; loads into one schema follow each other by a lock of the server.

    :param connection: PyMySQL's.
    :param schema: the target schema.
    :param waits: how long a load of the same schema is waited for, in seconds.
    """

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
        if not statement.startswith(("RENAME TABLE", "ALTER TABLE")):
            return super().rows(statement)
        super().rows(f"SET SESSION lock_wait_timeout = {self._shortest_wait}")
        try:
            for number, pause in enumerate(_PAUSES):
                try:
                    return super().rows(statement)
                except Exception as error:
                    if _number(error) != 1205 or number == len(_PAUSES) - 1:
                        raise
                    if number == 0:
                        log.info("A table is in use; the load waits and tries again")
                    time.sleep(pause)
            raise AssertionError("the last attempt returns or raises")
        finally:
            super().rows(f"SET SESSION lock_wait_timeout = {self._wait}")

    def insert(self, statement: bytes, shown: str | None) -> int:
        """Run an INSERT and return its number of rows.

        :param shown: what is logged; None for nothing.
        """
        if shown is not None:
            log.info("Running: %s", shown)
        return int(self.cursor.execute(statement))


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
    import json

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


def is_permanent(error: Exception) -> bool:
    """Whether the same load would meet the same error again."""
    number = _number(error)
    # a helper table that has gone was dropped by somebody else: the next load makes another one
    return number in _PERMANENT and not (number == 1146 and "_d1_new_" in str(error))


def _number(error: Exception) -> int | None:
    number = error.args[0] if error.args else None
    return number if isinstance(number, int) else None
