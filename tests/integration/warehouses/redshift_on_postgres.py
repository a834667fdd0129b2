"""A stand-in for Redshift's driver with Postgres behind it, for the loader's own statements in their order.

Where Redshift's SQL is not Postgres's:

- ``COPY … MANIFEST`` is read here: the COPY manifest and its Parquet files come from the S3 server, their lengths and
  columns are compared, and the rows inserted. A text of more than 65,535 bytes is refused as Redshift does it, and so
  is a column with Parquet's type for moments, of which Redshift makes other moments without an error;
- quoted names are stored in lower case; a backslash escapes in literals; ``varbyte`` is ``bytea``;
- ``svv_columns`` is a view with Redshift's names for types, and no length for ``varbyte``;
- ``GETDATE()`` and ``TO_HEX`` of bytes are functions, ``$1`` in a replacement is ``\\1``;
- ``enable_case_sensitive_identifier`` is remembered, and nothing else.

It does not show: permissions, isolation as Redshift has it (Postgres's SERIALIZABLE and REPEATABLE READ stand for its
SERIALIZABLE and SNAPSHOT), types of the service's own, and speed.
"""

from __future__ import annotations

import io
import json
import re
from types import SimpleNamespace
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from redshift_connector.error import ProgrammingError

from tests.integration.warehouses.warehouse_engines import Postgres

_COPY = re.compile(r"COPY (.+?) FROM '(s3://(?:[^']|'')+)' (.+) FORMAT AS PARQUET MANIFEST")
_TOKEN = re.compile(r"'(?:[^'\\]|''|\\.)*'|\"(?:[^\"]|\"\")*\"|varbyte\(16777216\)", re.DOTALL)
_MAX_TEXT = 65535
_PREPARE = """
CREATE OR REPLACE VIEW public.svv_columns AS SELECT table_schema, table_name, column_name, ordinal_position,
    CASE data_type WHEN 'bytea' THEN 'binary varying' ELSE data_type END AS data_type, character_maximum_length,
    numeric_precision, numeric_scale
    FROM information_schema.columns;
CREATE OR REPLACE FUNCTION public.getdate() RETURNS timestamp LANGUAGE sql AS $$SELECT clock_timestamp()::timestamp$$;
CREATE OR REPLACE FUNCTION public.to_hex(bytea) RETURNS text LANGUAGE sql AS $$SELECT encode($1, 'hex')$$;
"""


def in_postgres(statement: str) -> str:
    """A statement of Redshift's in Postgres's words."""

    def token(found: re.Match[str]) -> str:
        text = found.group()
        if text.startswith('"'):
            return lower(text)
        if text.startswith("varbyte"):
            return "bytea"
        return "E" + text.replace("$1", r"\\1") if "\\" in text or "$1" in text else text

    return _TOKEN.sub(token, statement)


def lower(name: str) -> str:
    """A name as Redshift stores it: ASCII letters only."""
    return re.sub("[A-Z]", lambda letter: letter.group().lower(), name)


class Redshift(Postgres):
    """The Postgres server, looked at from outside; names are in lower case."""

    name = "redshift"

    def __init__(self, server: Any, s3: Any) -> None:
        super().__init__(server)
        self.s3 = s3
        self.statements: list[str] = []
        #: the files that COPY read
        self.copied: list[str] = []
        self.isolation = "serializable"
        with server.connect() as connection:
            connection.execute(_PREPARE)

    def airflow_connection(self) -> str:
        return json.dumps({"conn_type": "redshift", "host": "cluster.invalid", "login": "loader", "password": "secret"})

    def connect(self) -> RedshiftConnection:
        return RedshiftConnection(self)

    def rows(self, schema: str, table: str) -> list[tuple[Any, ...]]:
        found = self.execute(f"SELECT * FROM {self.quoted(schema, table)}")
        return sorted((tuple(bytes(v) if isinstance(v, memoryview) else v for v in row) for row in found), key=repr)


class RedshiftConnection:
    """What the loader uses of ``redshift_connector.Connection``."""

    autocommit = False

    def __init__(self, engine: Redshift) -> None:
        self.engine = engine
        self._usock = SimpleNamespace(settimeout=lambda _: None)
        self.postgres = engine.server.connect()
        self.postgres.execute(f"SET default_transaction_isolation = '{engine.isolation}'")
        self.postgres.execute("SET search_path = public")

    def cursor(self) -> RedshiftCursor:
        return RedshiftCursor(self)

    def close(self) -> None:
        self.postgres.close()


class RedshiftCursor:
    """What the loader uses of ``redshift_connector.Cursor``."""

    def __init__(self, connection: RedshiftConnection) -> None:
        self.engine, self.cursor = connection.engine, connection.postgres.cursor()

    @property
    def description(self) -> Any:
        return self.cursor.description

    def execute(self, statement: str) -> None:
        self.engine.statements.append(statement)
        try:
            if statement.startswith("SET enable_case_sensitive_identifier"):
                self.cursor.execute("SET search_path = public")
            elif (found := _COPY.fullmatch(statement)) is not None:
                self._copy(in_postgres(found[1]), found[2].replace("''", "'").replace("\\\\", "\\"), found[3])
            else:
                self.cursor.execute(in_postgres(statement))
        except psycopg.Error as error:
            raise ProgrammingError({"S": "ERROR", "C": error.sqlstate, "M": str(error)}) from error

    def fetchall(self) -> list[list[Any]]:
        return [list(row) for row in self.cursor.fetchall()]

    def _copy(self, table: str, manifest: str, authorization: str) -> None:
        assert re.match(r"IAM_ROLE (default|'arn:)|ACCESS_KEY_ID '", authorization)
        for entry in json.loads(self._object(manifest))["entries"]:
            self.engine.copied.append(entry["url"])
            content = self._object(entry["url"])
            assert entry["mandatory"]
            assert entry["meta"] == {"content_length": len(content)}
            rows = pq.read_table(io.BytesIO(content))
            self.cursor.execute(f"SELECT * FROM {table} LIMIT 0")
            assert len(self.cursor.description) == rows.num_columns
            for field in rows.schema:
                if pa.types.is_timestamp(field.type):
                    self._refuse(f"column {field.name} has an incompatible Parquet schema: optional int64")
                longest = max((len(v.encode()) for v in rows[field.name].to_pylist() if isinstance(v, str)), default=0)
                if longest > _MAX_TEXT:
                    self._refuse(
                        f"The length of the data column {field.name} is longer than the length defined in the table. "
                        f"Table: {_MAX_TEXT}, Data: {longest}"
                    )
            places = ", ".join(["%s"] * rows.num_columns)
            values = [tuple(row.values()) for row in rows.to_pylist()]
            self.cursor.executemany(f"INSERT INTO {table} VALUES ({places})", values)
            self.cursor.execute("SELECT 1")

    def _object(self, uri: str) -> bytes:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        body: bytes = self.engine.s3.client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return body

    def _refuse(self, message: str) -> None:
        raise ProgrammingError({"S": "ERROR", "C": "XX000", "M": "Spectrum Scan Error", "D": message})
