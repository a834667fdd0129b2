"""Errors of SQL statements, under the names that PEP 249 gives them."""

from __future__ import annotations

from airflow_provider_d1.exceptions import D1ApiError


class ProgrammingError(D1ApiError):
    """The statement and its parameters do not fit together; nothing was sent."""
