"""SQL statements as calls of D1's ``/raw``, and the responses as exact results; nothing is sent here.

:func:`run` is a plan as in :mod:`~airflow_provider_d1.cloudflare.lookup`: a generator that either client can run.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.cloudflare import api_errors, protocol
from airflow_provider_d1.cloudflare.exact_results import ExactSelect, exact_returning, exact_select
from airflow_provider_d1.cloudflare.messages import MAX_QUERY_ANSWER_BYTES, Call, Request, Response
from airflow_provider_d1.cloudflare.sql_errors import IntegrityError, OperationalError
from airflow_provider_d1.cloudflare.sql_errors import Warning as SqlWarning
from airflow_provider_d1.cloudflare.sql_tokens import is_read_only, split, verb
from airflow_provider_d1.cloudflare.sql_values import from_exact, from_json, may_differ
from airflow_provider_d1.exceptions import D1ApiError

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.lookup import Plan
    from airflow_provider_d1.cloudflare.sql_parameters import Statement

#: D1's limit for the text of one statement
MAX_STATEMENT_BYTES = 100_000
#: bounds of a batch, which has to end within D1's limit of 30 s for a call
MAX_BATCH_STATEMENTS = 500
MAX_BATCH_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class StatementResult:
    """The result of one statement.

    ``columns`` may hold a name twice; it is empty for a statement without a result. ``changes`` counts the rows that
    were inserted, changed or deleted; ``last_row_id`` is that of the connection's last insert, even of an earlier call.
    Both are None when D1 does not state them.
    """

    columns: list[str]
    rows: list[list[Any]] = field(repr=False)
    changes: int | None = None
    last_row_id: int | None = None

    def as_dicts(self) -> list[dict[str, Any]]:
        """A dict for each row; of columns with one name the last counts."""
        return [dict(zip(self.columns, row, strict=False)) for row in self.rows]


def request(account_id: str, database_id: str, statements: Sequence[Statement]) -> Request:
    """Run statements in order and in one transaction."""
    calls: list[dict[str, Any]] = [
        {"sql": statement.sql, "params": statement.params} if statement.params else {"sql": statement.sql}
        for statement in statements
    ]
    body: dict[str, Any] = calls[0] if len(calls) == 1 else {"batch": calls}
    return Request(
        "POST",
        protocol.database_path(account_id, database_id, "raw"),
        body=body,
        idempotent=all(is_read_only(statement.sql) for statement in statements),
        max_answer_bytes=MAX_QUERY_ANSWER_BYTES,
    )


def batches(statements: Iterable[Statement]) -> Iterator[list[Statement]]:
    """Group statements into batches that D1 can run within one call; a larger statement is a batch of its own."""
    batch: list[Statement] = []
    size = 0
    for statement in statements:
        cost = len(statement.sql) + sum(len(param) if isinstance(param, str) else 20 for param in statement.params)
        if batch and (len(batch) == MAX_BATCH_STATEMENTS or size + cost > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(statement)
        size += cost
    if batch:
        yield batch


def read_results(answer: Response) -> list[StatementResult]:
    """Read the response to :func:`request`: a result for each statement, at least one, with values as D1 sent them."""
    result = protocol.read_result(answer)
    items = result if isinstance(result, list) and result else [result]
    return [_read_result(answer, item) for item in items]


def run(account_id: str, database_id: str, statements: Sequence[Statement]) -> Plan[list[StatementResult]]:
    """Run statements in order and in one transaction; the rows of the last one are exact.

    The rows of a ``SELECT *`` are read by a second call. Where the last statement cannot be rewritten (``RETURNING *``,
    or a statement that is too long), a warning names the columns whose values may differ from the database's.

    :param statements: at least one.
    :return: a result for each.
    :raises D1ApiError: when a statement fails; nothing was changed, unless the response was lost.
    """
    *others, last = statements
    select = exact_select(last.sql)
    results: list[StatementResult]
    try:
        if select is not None:
            results = yield from _select(account_id, database_id, others, last, select)
        else:
            results = yield from _change(account_id, database_id, others, last)
    except D1ApiError as error:
        translated = _sql_error(error)
        if translated is error:  # raised "from" itself it would be its own cause: a cycle in the chain of exceptions
            raise
        raise translated from error
    columns = [last.column_name(name) for name in results[-1].columns]
    return [*results[:-1], replace(results[-1], columns=columns)]


def _sql_error(error: D1ApiError) -> D1ApiError:
    """D1's error about a statement as one of PEP 249; an error of the call itself is not changed."""
    if type(error) is not D1ApiError:
        return error
    kind = IntegrityError if "SQLITE_CONSTRAINT" in str(error) else OperationalError
    return kind(
        str(error), status=error.status, code=error.code, retryable=error.retryable, retry_after=error.retry_after
    )


def _change(
    account_id: str, database_id: str, others: Sequence[Statement], last: Statement
) -> Plan[list[StatementResult]]:
    returning = exact_returning(last.sql)
    if returning is not None and not _too_long(returning):
        try:
            results: list[StatementResult] = yield _call(account_id, database_id, *others, last.with_sql(returning))
        except D1ApiError as error:
            _raise_unless_refused(error)
        else:
            width = len(results[-1].columns) // 2
            rows = [list(map(from_exact, row[width:])) for row in results[-1].rows]
            return [*results[:-1], replace(results[-1], columns=results[-1].columns[:width], rows=rows)]
    results = yield _call(account_id, database_id, *others, last)
    return [*results[:-1], _as_sent(last, results[-1])]


def _select(
    account_id: str, database_id: str, others: Sequence[Statement], last: Statement, select: ExactSelect
) -> Plan[list[StatementResult]]:
    """Run statements of which the last one is a SELECT: by one call, or by two when its width is unknown."""
    names = last.with_sql(select.names)
    done: list[StatementResult] = []
    named: list[str] = []
    try:
        if select.width is not None and not _too_long(select.rows(select.width)):
            exact = last.with_sql(select.rows(select.width))
            results: list[StatementResult] = yield _call(account_id, database_id, *others, names, exact)
            return [*results[:-2], _exact(results[-2].columns, results[-1])]
        if not _too_long(select.names):
            *done, last_named = yield _call(account_id, database_id, *others, names)
            named, others = last_named.columns, ()  # the others have run
    except D1ApiError as error:
        _raise_unless_refused(error)
    exact = last.with_sql(select.rows(len(named)))
    if named and not _too_long(exact.sql):
        try:
            (result,) = yield _call(account_id, database_id, exact)
        except D1ApiError as error:
            _raise_unless_refused(error)
        else:
            return [*done, _exact(named, result)]
    results = yield _call(account_id, database_id, *others, last)
    return [*done, *results[:-1], _as_sent(last, results[-1])]


def _call(account_id: str, database_id: str, *statements: Statement) -> Call:
    return Call(request(account_id, database_id, statements), read_results)


def _raise_unless_refused(error: D1ApiError) -> None:
    """Continue only when SQLite did not understand a statement, so that nothing was executed.

    The rewriting may be the reason. The statement is then sent as it is, and D1's error about it is raised.
    """
    if error.retryable or not any(code in str(error) for code in ("SQLITE_ERROR", "SQLITE_TOOBIG")):
        raise error


def _exact(columns: list[str], result: StatementResult) -> StatementResult:
    return replace(result, columns=columns, rows=[list(map(from_exact, row)) for row in result.rows])


def _too_long(sql: str) -> bool:
    return len(sql.encode(errors="surrogatepass")) > MAX_STATEMENT_BYTES


def _as_sent(statement: Statement, result: StatementResult) -> StatementResult:
    if verb(split(statement.sql)[0]) not in ("PRAGMA", "EXPLAIN"):
        doubtful = {
            name for row in result.rows for name, value in zip(result.columns, row, strict=False) if may_differ(value)
        }
        if doubtful:
            warnings.warn(
                f"D1 rounds integers beyond 2^53 and returns null for infinities, so values of these columns may differ"
                f" from the database: {', '.join(sorted(doubtful))}. Name the columns instead of *.",
                SqlWarning,
                stacklevel=2,
            )
    return replace(result, rows=[list(map(from_json, row)) for row in result.rows])


def _read_result(answer: Response, item: object) -> StatementResult:
    if not isinstance(item, dict):
        raise protocol.unexpected("query result")
    if item.get("success") is False:
        raise api_errors.failure(answer, ((None, api_errors.text_of(item.get("error")) or "the query failed"),))
    results = item.get("results") or {}
    meta = item.get("meta")
    counts = (_count(meta, "changes"), _count(meta, "last_row_id"))
    if isinstance(results, list) and all(isinstance(row, dict) for row in results):  # as /query has them
        return StatementResult(list(results[0]), [list(row.values()) for row in results], *counts)
    if not isinstance(results, dict):
        # Any other form must not count as "no rows", which would hide a virtual table.
        raise protocol.unexpected("columns and rows")
    columns = [str(column) for column in results.get("columns") or []]
    return StatementResult(columns, [list(row) for row in results.get("rows") or []], *counts)


def _count(meta: object, name: str) -> int | None:
    value = meta.get(name) if isinstance(meta, Mapping) else None
    return value if isinstance(value, int) else None
