"""Where a database server of the tests listens, and its account."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from harness.process import Server

USER = "harness"


@dataclass(frozen=True, kw_only=True)
class DatabaseServer:
    """A server on loopback, and an account that may do everything; ``process`` can be killed and started again."""

    #: the type of Airflow's connection
    conn_type: ClassVar[str]
    port: int
    password: str = field(repr=False)
    process: Server = field(repr=False)
    host: str = "127.0.0.1"
    user: str = USER
    database: str | None = None

    def airflow_connection(self) -> str:
        """The JSON for an ``AIRFLOW_CONN_…`` environment variable."""
        fields = {
            "conn_type": self.conn_type,
            "host": self.host,
            "port": self.port,
            "login": self.user,
            "password": self.password,
            "schema": self.database,
        }
        return json.dumps({name: value for name, value in fields.items() if value is not None})
