"""Which errors of a warehouse's driver may go away by themselves; real exceptions, as the drivers raise them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.storage.s3 import S3Storage
from airflow_provider_d1.warehouses.loader import load
from airflow_provider_d1.warehouses.session import Connections
from airflow_provider_d1.warehouses.staged_files import StagedFiles
from tests.unit.warehouses.warehouse_plans import ENGINES, manifest, plan


def of(module: str, name: str) -> Callable[..., Exception]:
    def make(*arguments: Any, **options: Any) -> Exception:
        kind: Callable[..., Exception] = getattr(importlib.import_module(module), name)
        return kind(*arguments, **options)

    return make


SF = "snowflake.connector.errors"
DBX = "databricks.sql.exc"
CH = "clickhouse_connect.driver.exceptions"
GOOGLE = "google.api_core.exceptions"
RS = "redshift_connector.error"


def rs(code: str, text: str, name: str = "ProgrammingError") -> Exception:
    return of(RS, name)({"S": "ERROR", "C": code, "M": text})


def bq(name: str, text: str, reason: str) -> Exception:
    return of(GOOGLE, name)(text, errors=[{"reason": reason, "message": text}])


def pg(name: str) -> Exception:
    return of("psycopg.errors", name)(name)


def my(number: int, text: str, name: str = "OperationalError") -> Exception:
    return of("pymysql.err", name)(number, text)


def ch(code: int, text: str) -> Exception:
    return of(CH, "DatabaseError")(f"Code: {code}. DB::Exception: {text}. (X) (for url http://127.0.0.1:8123)")


TRANSIENT: list[tuple[str, Callable[[], Exception]]] = [
    ("redshift", lambda: rs("XX000", "1023: Serializable isolation violation on table - 1, transactions forming …")),
    ("redshift", lambda: rs("40001", "could not serialize access")),
    ("redshift", lambda: rs("57014", "Query cancelled by WLM abort action of Query Monitoring Rule")),
    ("redshift", lambda: rs("57P01", "terminating connection due to administrator command")),
    ("redshift", lambda: rs("55006", "object in use")),
    ("redshift", lambda: of(RS, "InterfaceError")("connection reset by peer")),
    ("redshift", lambda: of(RS, "OperationalError")("connection time out")),
    ("redshift", lambda: rs("53300", "too many connections")),
    ("redshift", lambda: rs("XX000", "Spectrum Scan Error: S3ServiceException: Please reduce your request rate")),
    ("snowflake", lambda: of(SF, "ServiceUnavailableError")(msg="HTTP 503: Service Unavailable", errno=250003)),
    ("snowflake", lambda: of(SF, "OperationalError")(msg="250003: 503 Service Unavailable", errno=250003)),
    ("snowflake", of(SF, "GatewayTimeoutError")),
    ("snowflake", of(SF, "TooManyRequests")),
    (
        "snowflake",
        lambda: of(SF, "ProgrammingError")(
            msg="Statement was aborted because the number of waiters for this lock exceeds the limit",
            errno=625,
            sqlstate="57014",
        ),
    ),
    (
        "snowflake",
        lambda: of(SF, "ProgrammingError")(msg="Lock timeout, transaction aborted", errno=625, sqlstate="40001"),
    ),
    (
        "snowflake",
        lambda: of(SF, "InternalError")(msg="Processing aborted by error 300010", errno=603, sqlstate="XX000"),
    ),
    ("snowflake", lambda: of(SF, "DatabaseError")(msg="Session no longer exists", errno=390111, sqlstate="08001")),
    ("snowflake", lambda: of(SF, "ProgrammingError")(msg="Authentication token has expired", errno=390114)),
    (
        "databricks",
        lambda: of(DBX, "ServerOperationError")("[DELTA_CONCURRENT_APPEND] ConcurrentAppendException: Files…"),
    ),
    (
        "databricks",
        lambda: of(DBX, "ServerOperationError")(
            "[DELTA_CONCURRENT_APPEND.WITHOUT_HINT] Transaction conflict detected. SQLSTATE: 2D521"
        ),
    ),
    ("databricks", lambda: of(DBX, "RequestError")("Error during request to server", {"http-code": 503})),
    ("databricks", lambda: of(DBX, "MaxRetryDurationError")("Retry request would exceed max retry duration")),
    ("databricks", lambda: of(DBX, "RequestError")("429", {"http-code": 429})),
    ("databricks", lambda: of(DBX, "ServerOperationError")("Executor lost. SQLSTATE: XXKDA")),
    ("bigquery", lambda: bq("ServiceUnavailable", "503 visibility check was unavailable", "backendError")),
    ("bigquery", lambda: bq("InternalServerError", "500", "internalError")),
    ("bigquery", lambda: bq("Forbidden", "403 Exceeded rate limits", "rateLimitExceeded")),
    ("bigquery", lambda: bq("Forbidden", "403 Job exceeded rate limits", "jobRateLimitExceeded")),
    ("bigquery", lambda: bq("Forbidden", "403 Quota exceeded", "quotaExceeded")),
    ("bigquery", lambda: bq("Conflict", "409 Transaction was aborted due to concurrent update", "aborted")),
    (
        "bigquery",
        lambda: bq("BadRequest", "400 Transaction is aborted due to concurrent update against table x", "invalidQuery"),
    ),
    ("bigquery", lambda: bq("TooManyRequests", "429", "rateLimitExceeded")),
    ("bigquery", lambda: bq("BadRequest", "400 Resources exceeded during query execution", "resourcesExceeded")),
    ("bigquery", lambda: of(GOOGLE, "RetryError")("Timeout of 30.0s exceeded", ConnectionError("reset"))),
    ("bigquery", lambda: of("google.auth.exceptions", "TransportError")("no route to host")),
    ("bigquery", lambda: of("google.auth.exceptions", "RefreshError")("503", retryable=True)),
    ("clickhouse", lambda: of(CH, "OperationalError")("Error ('Connection aborted.', ConnectionResetError(104, …))")),
    ("clickhouse", lambda: ch(241, "Memory limit (total) exceeded")),
    ("clickhouse", lambda: ch(252, "Too many parts (300)")),
    ("clickhouse", lambda: ch(202, "Too many simultaneous queries")),
    ("clickhouse", lambda: ch(209, "Timeout exceeded while reading from socket")),
    ("clickhouse", lambda: ch(242, "Table is in readonly mode")),
    ("clickhouse", lambda: ch(999, "Coordination::Exception: Session expired")),
    ("clickhouse", lambda: ch(499, "The specified key does not exist")),
    ("clickhouse", lambda: ch(57, "Table already exists")),
    ("clickhouse", lambda: ch(243, "Not enough space")),
    ("postgres", lambda: pg("SerializationFailure")),
    ("postgres", lambda: pg("DeadlockDetected")),
    ("postgres", lambda: pg("LockNotAvailable")),
    ("postgres", lambda: pg("AdminShutdown")),
    ("postgres", lambda: pg("TooManyConnections")),
    ("postgres", lambda: pg("ReadOnlySqlTransaction")),
    ("postgres", lambda: of("psycopg", "OperationalError")("server closed the connection unexpectedly")),
    ("mysql", lambda: my(1205, "Lock wait timeout exceeded; try restarting transaction")),
    ("mysql", lambda: my(1213, "Deadlock found when trying to get lock; try restarting transaction")),
    ("mysql", lambda: my(1040, "Too many connections")),
    ("mysql", lambda: my(1290, "The MySQL server is running with the --read-only option")),
    ("mysql", lambda: my(2006, "MySQL server has gone away")),
    ("mysql", lambda: my(2013, "Lost connection to MySQL server during query")),
    ("mysql", lambda: my(1146, "Table 'd1._d1_new_20261127t091811_463d6522_7dfb4cf67742cb06' doesn't exist")),
    ("mysql", lambda: of("pymysql.err", "InterfaceError")(0, "")),
    ("duckdb", lambda: of("duckdb", "IOException")("IO Error: Could not set lock on file: Conflicting lock is held")),
    ("duckdb", lambda: of("duckdb", "TransactionException")("TransactionContext Error: Conflict on update!")),
    ("duckdb", lambda: of("duckdb", "OutOfMemoryException")("Out of Memory Error")),
    ("duckdb", lambda: of("duckdb", "HTTPException")("HTTP Error: HTTP GET error on 's3://…' (HTTP 503)")),
    ("duckdb", lambda: of("duckdb", "InterruptException")("INTERRUPT Error")),
]

PERMANENT: list[tuple[str, Callable[[], Exception]]] = [
    ("redshift", lambda: rs("42601", 'syntax error at or near "x"')),
    ("redshift", lambda: rs("42501", "permission denied for schema staging")),
    ("redshift", lambda: rs("42P01", "relation does not exist")),
    ("redshift", lambda: rs("3D000", 'database "x" does not exist')),
    ("redshift", lambda: rs("28000", "password authentication failed", "InterfaceError")),
    ("redshift", lambda: rs("22003", "value out of range")),
    ("redshift", lambda: rs("2BP01", "cannot drop table users because other objects depend on it")),
    ("redshift", lambda: of(RS, "NotSupportedError")("not supported")),
    ("snowflake", lambda: of(SF, "ProgrammingError")(msg="SQL compilation error", errno=1003, sqlstate="42000")),
    ("snowflake", lambda: of(SF, "ProgrammingError")(msg="does not exist", errno=2003, sqlstate="42S02")),
    ("snowflake", lambda: of(SF, "ProgrammingError")(msg="Insufficient privileges", errno=3001, sqlstate="42501")),
    ("snowflake", lambda: of(SF, "ProgrammingError")(msg="out of representable range", errno=100132, sqlstate="22003")),
    (
        "snowflake",
        lambda: of(SF, "DatabaseError")(msg="Incorrect username or password", errno=390100, sqlstate="08001"),
    ),
    ("snowflake", lambda: of(SF, "DatabaseError")(msg="JWT token is invalid", errno=390144, sqlstate="08001")),
    (
        "databricks",
        lambda: of(DBX, "ServerOperationError")("[PARSE_SYNTAX_ERROR] Syntax error. SQLSTATE: 42601 (line 1)"),
    ),
    ("databricks", lambda: of(DBX, "ServerOperationError")("[TABLE_OR_VIEW_NOT_FOUND] The table … SQLSTATE: 42P01")),
    ("databricks", lambda: of(DBX, "ServerOperationError")("[INSUFFICIENT_PERMISSIONS] … SQLSTATE: 42501")),
    ("databricks", lambda: of(DBX, "ServerOperationError")("[CAST_OVERFLOW] … SQLSTATE: 22003")),
    ("databricks", lambda: of(DBX, "RequestError")("Error during request to server", {"http-code": 403})),
    ("databricks", lambda: of(DBX, "RequestError")("Error during request to server", {"http-code": 401})),
    ("bigquery", lambda: bq("BadRequest", "400 Syntax error: Unexpected identifier", "invalidQuery")),
    ("bigquery", lambda: bq("Forbidden", "403 Access Denied", "accessDenied")),
    ("bigquery", lambda: bq("NotFound", "404 Not found: Dataset x", "notFound")),
    ("bigquery", lambda: of(GOOGLE, "Unauthorized")("401")),
    ("bigquery", lambda: of("google.auth.exceptions", "RefreshError")("invalid_grant: Invalid JWT")),
    ("bigquery", lambda: of("google.auth.exceptions", "DefaultCredentialsError")("no credentials")),
    ("clickhouse", lambda: ch(62, "Syntax error")),
    ("clickhouse", lambda: ch(60, "Table staging.users does not exist")),
    ("clickhouse", lambda: ch(81, "Database staging does not exist")),
    ("clickhouse", lambda: ch(497, "reader: Not enough privileges")),
    ("clickhouse", lambda: ch(516, "reader: Authentication failed")),
    ("clickhouse", lambda: ch(349, "Cannot convert NULL value to non-Nullable type")),
    ("clickhouse", lambda: of(CH, "ProgrammingError")("Unknown setting")),
    ("postgres", lambda: pg("SyntaxError")),
    ("postgres", lambda: pg("InsufficientPrivilege")),
    ("postgres", lambda: pg("UndefinedTable")),
    ("postgres", lambda: pg("InvalidPassword")),
    ("postgres", lambda: pg("NumericValueOutOfRange")),
    ("duckdb", lambda: of("duckdb", "ParserException")("Parser Error: syntax error")),
    ("duckdb", lambda: of("duckdb", "CatalogException")("Catalog Error: Table does not exist")),
    ("duckdb", lambda: of("duckdb", "ConversionException")("Conversion Error")),
    ("duckdb", lambda: of("duckdb", "ConstraintException")("Constraint Error: NOT NULL")),
    ("duckdb", lambda: of("duckdb", "DependencyException")("Dependency Error: Cannot drop entry")),
    ("duckdb", lambda: of("duckdb", "InvalidInputException")("Invalid Input Error: No magic bytes found")),
    ("duckdb", lambda: of("duckdb", "PermissionException")("Permission Error")),
    ("mysql", lambda: my(1045, "Access denied for user 'd1'@'%' (using password: YES)")),
    ("mysql", lambda: my(1064, "You have an error in your SQL syntax", "ProgrammingError")),
    ("mysql", lambda: my(1142, "INSERT command denied to user", "OperationalError")),
    ("mysql", lambda: my(1146, "Table 'd1.users' doesn't exist", "ProgrammingError")),
    ("mysql", lambda: my(1366, "Incorrect string value", "DataError")),
    ("mysql", lambda: my(1451, "Cannot delete or update a parent row", "IntegrityError")),
]


def identify(case: tuple[str, Callable[[], Exception]]) -> str:
    name, make = case
    return f"{name}: {make()}"[:70]


def test_every_warehouse_tells_its_errors_apart() -> None:
    assert {name for name, _ in TRANSIENT} == {name for name, _ in PERMANENT} == set(ENGINES)


@pytest.mark.parametrize("case", TRANSIENT, ids=identify)
def test_an_error_that_may_pass_is_retryable(case) -> None:
    name, make = case
    assert not ENGINES[name].is_permanent(make())


@pytest.mark.parametrize("case", PERMANENT, ids=identify)
def test_an_error_that_stays_is_not(case) -> None:
    name, make = case
    assert ENGINES[name].is_permanent(make())


def test_databricks_waits_for_a_stopped_sql_warehouse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's own limit of 15 minutes stays: a shorter one than its longest pause forbids every retry."""
    hooks = importlib.import_module("airflow.providers.databricks.hooks.databricks_sql")
    given: dict[str, Any] = {}

    class Hook:
        def __init__(self, **options: Any) -> None:
            given.update(options)

        def get_conn(self) -> Any:
            raise of(DBX, "RequestError")("the warehouse is starting", {"http-code": 503})

    monkeypatch.setattr(hooks, "DatabricksSqlHook", Hook)
    files = StagedFiles(S3Storage(object(), "bucket", "d1"), verify_checksums=False)
    with pytest.raises(D1WarehouseError, match="No connection to Databricks through 'lake'") as failure:
        load(ENGINES["databricks"], plan(ENGINES["databricks"], manifest()), files, Connections("lake", None))
    assert failure.value.retryable
    assert given == {"databricks_conn_id": "lake"}
