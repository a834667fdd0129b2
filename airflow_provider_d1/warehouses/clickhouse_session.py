"""ClickHouse: a load's connection, a table's state, and the staged rows as an Arrow stream."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.warehouses.batches import schema_of, staged_batches
from airflow_provider_d1.warehouses.fitting import fitted
from airflow_provider_d1.warehouses.session import Run, Session

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.s3_access import S3Access
    from airflow_provider_d1.warehouses.table_load import TableLoad


class ClickHouseSession(Session):
    """A client of ``clickhouse_connect``.

    :param s3: what the server needs to read the parts from S3; None where they are streamed to it from here.
    """

    def __init__(self, client: Any, s3: S3Access | None) -> None:
        self.client = client
        self.s3 = s3
        #: helper table → the table's identity and rows before they were copied into it
        self.copied: dict[str, tuple[str, int]] = {}

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows, none for one that has no result."""
        if statement.startswith("SELECT"):
            return [tuple(row) for row in self.client.query(statement).result_rows]
        self.client.command(statement)
        return []

    def close(self) -> None:
        """End the connection."""
        self.client.close()

    def without_secrets(self, text: str) -> str:
        """The text of a driver's error without the keys."""
        return text if self.s3 is None else self.s3.hidden_in(text)


def table_state(run: Run[ClickHouseSession], table: str) -> tuple[str, int]:
    """A table's identity, which goes with it when it is renamed, and its rows."""
    schema, name = (run.plan.dialect.literal(name) for name in (run.plan.options.schema, table))
    found = run.session.rows(f"SELECT toString(uuid) FROM system.tables WHERE database = {schema} AND name = {name}")
    return str(found), run.count(table)


def arrow_stream(run: Run[ClickHouseSession], work: TableLoad) -> Iterator[bytes]:
    """The staged rows as one Arrow stream."""
    import pyarrow as pa

    buffer = io.BytesIO()
    writer = pa.ipc.new_stream(buffer, schema_of(work.columns))
    for batch in fitted(staged_batches(run.files, work.table, run.plan.file_format), work.table, work.columns):
        writer.write_batch(batch)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    writer.close()
    yield buffer.getvalue()
