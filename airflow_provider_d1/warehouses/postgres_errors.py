"""Postgres's errors: which of them a retry may resolve, by SQLSTATE."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

from airflow_provider_d1.warehouses.session import is_permanent_sqlstate


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
    if state == "2BP01":
        return False  # a view was created on a table while it was swapped; the next attempt replaces its rows instead
    if state == "53200":  # out of memory; for locks it is a setting that is too small
        return "max_locks_per_transaction" in str(error)
    if state == "23505" and str(getattr(getattr(error, "diag", None), "constraint_name", "")).startswith("pg_"):
        return False  # another session created the same schema, table or type at the same moment
    return is_permanent_sqlstate(state)


def remedy(text: str) -> str:
    """What to do about an error, from its text; empty where that is not known."""
    if "max_locks_per_transaction" in text:
        return "; raise that setting, or load fewer tables at a time with tables=[…]"
    if "row-level security policy" in text:
        return "; load as a role that is not subject to the table's policies (its owner, or one with BYPASSRLS)"
    return ""
