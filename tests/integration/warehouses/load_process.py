"""Loads in processes of their own, which a test can kill or stop at any statement.

One process has imported everything; each load runs in a child that it forks, so that a load costs no new Python. Run as
a program, this module is that process: it reads one load's arguments per line, and writes what happens to it.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from tests.integration.warehouses.warehouse_engines import CONN_ID

#: what a load imports
_MODULES = (
    "airflow.providers.clickhousedb.hooks.clickhouse",
    "airflow.providers.duckdb.hooks.duckdb",
    "airflow.providers.postgres.hooks.postgres",
    "airflow_provider_d1.transfers.staging_to_warehouse",
    "airflow_provider_d1.warehouses.loader",
    "clickhouse_connect",
    "psycopg",
    "pyarrow.parquet",
    "pymysql",
)


class LoadProcess:
    """A context manager for the process."""

    def __enter__(self) -> LoadProcess:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, connection: str, at: Callable[[int, int], None] | None = None, **arguments: Any) -> dict[str, Any]:
        """Run a load; what it returned, or its ``error`` and whether it is ``retryable``, or empty when it was killed.

        :param connection: the JSON of the Airflow connection to the warehouse.
        :param at: called when a statement is about to run, with its number from 0 and the load's process.
        :param arguments: the operator's.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([connection, arguments]) + "\n")
        self._process.stdin.flush()
        self.statements: list[str] = []
        pid, result = 0, {}
        for what, value in self._events():
            if what == "begun":
                pid = value
            elif what == "statement":
                self.statements.append(value)
                if at is not None:
                    at(len(self.statements) - 1, pid)
            elif what == "ended":
                break
            else:
                result = value
        return result

    def _events(self) -> Iterator[tuple[str, Any]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                yield from json.loads(line).items()
        raise AssertionError("the process that runs the loads has ended")


def _say(**event: object) -> None:
    os.write(1, (json.dumps(event, default=str) + "\n").encode())


class _Statements(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if "Running: " in (message := record.getMessage()):
            _say(statement=message.removeprefix("Running: "))


def _load(connection: str, arguments: dict[str, Any]) -> None:
    from airflow_provider_d1.exceptions import D1Error
    from airflow_provider_d1.transfers.staging_to_warehouse import D1StagingToWarehouseOperator

    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = connection
    logger = logging.getLogger("airflow_provider_d1.warehouses")
    logger.setLevel(logging.INFO)
    logger.addHandler(_Statements())
    try:
        operator = D1StagingToWarehouseOperator(task_id="load", conn_id=CONN_ID, **arguments)
        _say(result=operator.execute({}))
    except Exception as error:  # noqa: BLE001 - the test looks at it
        _say(result={"error": repr(error), "retryable": isinstance(error, D1Error) and error.retryable})


def _serve() -> None:
    for module in _MODULES:
        import_module(module)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _say(begun=os.getpid())
            _load(*json.loads(line))
            os._exit(0)
        os.waitpid(pid, 0)
        _say(ended=pid)


if __name__ == "__main__":
    _serve()
