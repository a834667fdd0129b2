"""Postgres's errors: which of them another attempt may mend, by SQLSTATE."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

#: classes (two characters) and codes that stay whatever is tried again; everything else may pass another time:
#: a connection that broke (08), a conflict with another transaction (40), a lock (55), a shutdown or a cancelled
#: statement (57), a full disk (53100), a standby that is not yet promoted (25006), and all that is not known here
_PERMANENT = {
    "0A": "feature not supported",
    "0L": "invalid grantor",
    "0P": "invalid role",
    "22": "data exception: a value out of range or of the wrong form",
    "23": "integrity constraint violation",
    "28": "invalid authorization",
    "2B": "dependent objects still exist",
    "3D": "no such database",
    "3F": "no such schema",
    "42": "syntax error, missing object or missing right",
    "44": "WITH CHECK OPTION violation",
    "54": "program limit exceeded",
}
_RETRYABLE = {
    "2BP01": "a view was created on a table while it was swapped; the next attempt replaces its rows instead",
    "42P06": "another session created the schema at the same moment",
    "42P07": "another session created the table at the same moment",
}


def sqlstate(error: Exception) -> str | None:
    """The five characters of an error from psycopg or psycopg2; None when the server sent none."""
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def driver_errors() -> tuple[type[Exception], ...]:
    """The exceptions of psycopg and psycopg2, whichever are installed: a connection may use either."""
    found: list[type[Exception]] = []
    for module in ("psycopg", "psycopg2"):
        with suppress(ImportError):
            found.append(import_module(module).Error)
    return tuple(found)


def is_permanent(error: Exception) -> bool:
    """Whether the same load would meet the same error again."""
    state = sqlstate(error)
    if state is None or state in _RETRYABLE:
        return False
    if state == "53200":  # out of memory; for locks it is a setting that is too small
        return "max_locks_per_transaction" in str(error)
    if state == "23505" and str(getattr(getattr(error, "diag", None), "constraint_name", "")).startswith("pg_"):
        return False  # another session created the same schema, table or type at the same moment
    return state in _PERMANENT or state[:2] in _PERMANENT


def remedy(text: str) -> str:
    """What to do about an error, from its text; empty where that is not known."""
    if "max_locks_per_transaction" in text:
        return "; raise that setting, or load fewer tables at a time with tables=[…]"
    if "row-level security policy" in text:
        return "; load as a role that is not subject to the table's policies (its owner, or one with BYPASSRLS)"
    return ""
