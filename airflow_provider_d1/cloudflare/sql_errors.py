"""The exceptions that PEP 249 requires of a database module, as part of this package's own tree.

``Error`` is :class:`~airflow_provider_d1.exceptions.D1Error` and ``DatabaseError`` is
:class:`~airflow_provider_d1.exceptions.D1ApiError`, so that ``except dbapi.Error`` catches every error of a call.
"""

from __future__ import annotations

from airflow_provider_d1.exceptions import D1ApiError, D1Error

Error = D1Error
DatabaseError = D1ApiError


class Warning(UserWarning):  # noqa: A001 - PEP 249's name
    """A value may differ from the one in the database."""


class InterfaceError(D1Error):
    """A closed cursor or connection was used."""


class DataError(D1ApiError):
    """A value that SQLite cannot store, or that D1 cannot transfer exactly; nothing was sent."""


class OperationalError(D1ApiError):
    """D1 could not run the statement: a syntax error, a table that does not exist, a limit."""


class IntegrityError(D1ApiError):
    """A constraint (unique, foreign key, not null, check) rejected the statement."""


class InternalError(D1ApiError):
    """D1's response does not match the statement."""


class ProgrammingError(D1ApiError):
    """The statement and its parameters do not match; nothing was sent."""


class NotSupportedError(D1ApiError):
    """D1 cannot do this: a rollback, a transaction over several calls."""
