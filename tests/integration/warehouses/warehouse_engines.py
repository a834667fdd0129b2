"""The warehouses that really run in the tests, looked at from outside: not through the loader's own connections."""

from __future__ import annotations

import json
import secrets
from abc import ABC, abstractmethod
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from harness.clickhouse import ClickHouseServer
    from harness.mariadb import MariaDBServer
    from harness.postgres import PostgresServer

CONN_ID = "warehouse"
#: the engines themselves, and those with fakesnow
REAL = ("postgres", "mysql", "duckdb", "clickhouse")
WITH_FAKESNOW = (*REAL, "snowflake")


def new_schema(engine: Engine | None = None) -> str:
    """A name that nobody has used, and that has to be quoted; fakesnow knows no names with quotes in them."""
    token = secrets.token_hex(4)
    return f"Staging_{token}" if engine is not None and engine.name == "snowflake" else f'Staging "{token}"'


class Engine(ABC):
    name: ClassVar[str]
    #: staged type → type as the engine's catalogue writes it
    types: ClassVar[dict[str, str]]
    #: whether the engine gives rows back in the order in which they came
    ordered: ClassVar[bool] = True
    holds_nul: ClassVar[bool] = True
    holds_infinity: ClassVar[bool] = True
    all_or_nothing: ClassVar[bool] = True

    @abstractmethod
    def airflow_connection(self) -> str:
        """The JSON for ``AIRFLOW_CONN_WAREHOUSE``."""

    @abstractmethod
    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""

    @abstractmethod
    def columns(self, schema: str, table: str) -> list[tuple[str, str]]:
        """Names and types of a table's columns, in order."""

    @abstractmethod
    def tables(self, schema: str) -> set[str]:
        """Names of a schema's tables."""

    def quoted(self, *names: str) -> str:
        return ".".join('"' + name.replace('"', '""') + '"' for name in names)

    def rows(self, schema: str, table: str) -> list[tuple[Any, ...]]:
        rows = self.execute(f"SELECT * FROM {self.quoted(schema, table)}")
        return rows if self.ordered else sorted(rows, key=repr)

    def loads(self, schema: str) -> list[tuple[Any, ...]]:
        names = ", ".join(self.quoted(n) for n in ("table_name", "database_id", "bookmark", "rows", "mode"))
        order = ", ".join(self.quoted(n) for n in ("sequence", "loaded_at"))
        return self.execute(f"SELECT {names} FROM {self.quoted(schema, '_d1_loads')} ORDER BY {order}")


class Postgres(Engine):
    name = "postgres"
    types: ClassVar = {
        "int64": "bigint",
        "float64": "double precision",
        "string": "text",
        "binary": "bytea",
        "timestamp[us]": "timestamp without time zone",
        "date32": "date",
    }
    holds_nul = False

    def __init__(self, server: PostgresServer) -> None:
        self.server = server

    def airflow_connection(self) -> str:
        return self.server.airflow_connection()

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with self.server.connect() as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def columns(self, schema: str, table: str) -> list[tuple[str, str]]:
        with self.server.connect() as connection:
            return connection.execute(
                "SELECT column_name, data_type FROM information_schema.columns "
                "WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
                [schema, table],
            ).fetchall()

    def tables(self, schema: str) -> set[str]:
        with self.server.connect() as connection:
            return {
                name
                for (name,) in connection.execute(
                    "SELECT table_name FROM information_schema.tables WHERE table_schema = %s", [schema]
                )
            }


class DuckDB(Engine):
    name = "duckdb"
    types: ClassVar = {
        "int64": "BIGINT",
        "float64": "DOUBLE",
        "string": "VARCHAR",
        "binary": "BLOB",
        "timestamp[us]": "TIMESTAMP",
        "date32": "DATE",
    }

    def __init__(self, file: Path) -> None:
        self.file = file

    def airflow_connection(self) -> str:
        return json.dumps({"conn_type": "duckdb", "host": str(self.file)})

    def _query(self, sql: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
        import duckdb

        with closing(duckdb.connect(str(self.file))) as connection:
            return connection.execute(sql, parameters).fetchall()

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return self._query(sql, [])

    def columns(self, schema: str, table: str) -> list[tuple[str, str]]:
        return self._query(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE schema_name = ? AND table_name = ? "
            "ORDER BY column_index",
            [schema, table],
        )

    def tables(self, schema: str) -> set[str]:
        return {
            name for (name,) in self._query("SELECT table_name FROM duckdb_tables() WHERE schema_name = ?", [schema])
        }


class ClickHouse(Engine):
    name = "clickhouse"
    types: ClassVar = {
        "int64": "Nullable(Int64)",
        "float64": "Nullable(Float64)",
        "string": "Nullable(String)",
        "binary": "Nullable(String)",
        "timestamp[us]": "Nullable(DateTime64(6, 'UTC'))",
        "date32": "Nullable(Date32)",
    }
    ordered = False
    all_or_nothing = False

    def __init__(self, server: ClickHouseServer) -> None:
        self.server = server

    def airflow_connection(self) -> str:
        return self.server.airflow_connection()

    def _client(self):
        return closing(self.server.connect())

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with self._client() as client:
            if not sql.startswith(("SELECT", "SHOW", "WITH")):
                client.command(sql)
                return []
            return client.query(sql).result_rows

    def quoted(self, *names: str) -> str:
        return ".".join("`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`" for name in names)

    def rows(self, schema: str, table: str) -> list[tuple[Any, ...]]:
        with self._client() as client:
            binary = {
                name: "bytes"
                for name, comment in client.query(
                    "SELECT name, comment FROM system.columns WHERE database = {d:String} AND table = {t:String}",
                    parameters={"d": schema, "t": table},
                ).result_rows
                if comment == "binary"
            }
            rows = client.query(f"SELECT * FROM {self.quoted(schema, table)}", column_formats=binary).result_rows
        plain = [tuple(v.replace(tzinfo=None) if hasattr(v, "tzinfo") else v for v in row) for row in rows]
        return sorted(plain, key=repr)

    def columns(self, schema: str, table: str) -> list[tuple[str, str]]:
        with self._client() as client:
            return client.query(
                "SELECT name, type FROM system.columns "
                "WHERE database = {d:String} AND table = {t:String} ORDER BY position",
                parameters={"d": schema, "t": table},
            ).result_rows

    def tables(self, schema: str) -> set[str]:
        with self._client() as client:
            return {
                name
                for (name,) in client.query(
                    "SELECT name FROM system.tables WHERE database = {d:String}", parameters={"d": schema}
                ).result_rows
            }


class MySQL(Engine):
    name = "mysql"
    types: ClassVar = {
        "int64": "bigint(20)",
        "float64": "double",
        "string": "longtext",
        "binary": "longblob",
        "timestamp[us]": "datetime(6)",
        "date32": "date",
    }
    holds_infinity = False
    all_or_nothing = False

    def __init__(self, server: MariaDBServer) -> None:
        self.server = server

    def airflow_connection(self) -> str:
        return self.server.airflow_connection()

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self.server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def quoted(self, *names: str) -> str:
        return ".".join("`" + name.replace("`", "``") + "`" for name in names)

    def _catalogue(self, query: str, *names: str) -> list[tuple[Any, ...]]:
        with closing(self.server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(query, names)
            return list(cursor.fetchall())

    def columns(self, schema: str, table: str) -> list[tuple[str, str]]:
        return self._catalogue(
            "SELECT column_name, column_type FROM information_schema.columns "
            "WHERE BINARY table_schema = %s AND BINARY table_name = %s ORDER BY ordinal_position",
            schema,
            table,
        )

    def tables(self, schema: str) -> set[str]:
        query = "SELECT table_name FROM information_schema.tables WHERE BINARY table_schema = %s"
        return {name for (name,) in self._catalogue(query, schema)}


class Snowflake(Engine):
    """fakesnow: Snowflake's connector with DuckDB behind it; only while ``fakesnow.patch()`` holds."""

    name = "snowflake"
    types: ClassVar = {
        "int64": "NUMBER",
        "float64": "FLOAT",
        "string": "TEXT",
        "binary": "BINARY",
        "timestamp[us]": "TIMESTAMP_NTZ",
        "date32": "DATE",
    }
    ordered = False
    all_or_nothing = False

    def airflow_connection(self) -> str:
        extra = {"account": "account", "database": "DB", "warehouse": "WH"}
        return json.dumps(
            {"conn_type": "snowflake", "login": "user", "password": "secret", "schema": "PUBLIC", "extra": extra}
        )

    def execute(self, sql: str, parameters: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
        from snowflake import connector

        with closing(connector.connect(database="DB", schema="PUBLIC")) as connection:
            return [tuple(row) for row in connection.cursor().execute(sql, parameters).fetchall()]

    def columns(self, schema: str, table: str) -> list[tuple[str, str]]:
        return self.execute(
            "SELECT column_name, data_type FROM information_schema.columns "
            "WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
            (schema, table),
        )

    def tables(self, schema: str) -> set[str]:
        found = self.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = %s", (schema,))
        return {name for (name,) in found}
