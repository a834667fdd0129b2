"""A connection to a warehouse for one load: what runs statements in it, and which of its errors may pass."""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from airflow_provider_d1.exceptions import D1WarehouseError

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.plan import LoadPlan
    from airflow_provider_d1.warehouses.staged_files import StagedFiles
    from airflow_provider_d1.warehouses.table_load import TableLoad

log = logging.getLogger(__name__)

T = TypeVar("T")

#: seconds between attempts, growing from the first to the last; how many attempts: about eight minutes
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 5.0
_ATTEMPTS = 100
#: a statement longer than this is shown without its middle
_SHOWN = 240
#: classes of SQLSTATE whose errors are permanent: unsupported features, grants, cardinality, data,
#: constraints, credentials, dependent objects, missing databases and schemas, syntax, permissions, limits
_PERMANENT_SQLSTATES = frozenset(("0A", "0L", "0P", "21", "22", "23", "28", "2B", "3D", "3F", "42", "44", "54", "56"))
#: another session made the same schema or table at the same moment
_ALREADY_EXISTS = frozenset(("42P06", "42P07", "42710"))


@dataclass(frozen=True, slots=True)
class Connections:
    """The Airflow connections of a load: the warehouse's, and the one for ``s3://`` manifests."""

    conn_id: str
    aws_conn_id: str | None


class Session(ABC):
    """One connection for one load, with all that belongs to this load only."""

    @abstractmethod
    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows, none for one that has no result."""

    @abstractmethod
    def close(self) -> None:
        """End the connection."""

    def without_secrets(self, text: str) -> str:
        """The text of a driver's error without the secrets that were in statements."""
        return text


class CursorSession(Session):
    """A connection of PEP 249, in which BEGIN and COMMIT are statements."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.cursor = connection.cursor()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows, none for one that has no result."""
        self.cursor.execute(statement)
        return [tuple(row) for row in self.cursor.fetchall()] if self.cursor.description else []

    def close(self) -> None:
        """End the connection."""
        self.connection.close()


S = TypeVar("S", bound=Session)


class Run(Generic[S]):
    """One load while it runs: what is loaded, and the session that it is loaded through."""

    def __init__(self, plan: LoadPlan, files: StagedFiles, session: S) -> None:
        self.plan = plan
        self.files = files
        self.session = session
        #: names of helper tables that are to be dropped
        self.helpers: list[str] = []
        #: the statement that runs, or ran last
        self.statement = ""
        #: the last ``sequence`` in ``_d1_loads`` that is known
        self.last_record: int | None = None

    def execute(self, statement: str, shown: str | None = None) -> list[tuple[Any, ...]]:
        """Log a statement and run it.

        :param shown: what is logged instead of a statement with secrets.
        """
        self.announce(shown or statement)
        self.statement = shown or statement
        return self.session.rows(statement)

    def settle_types(self, work: TableLoad, *, new_table: bool | None = None) -> None:
        """Decide from the helper table's values which types the table's columns have (``target_types``)."""
        raise NotImplementedError

    def announce(self, statement: str) -> None:
        """Log a statement that is about to run."""
        log.info("Running: %s", abbreviated(statement))

    @contextmanager
    def transaction(self, begin: str) -> Iterator[None]:
        """A transaction: a COMMIT at the end, a ROLLBACK after an error.

        :param begin: the statement that begins one.
        """
        self.execute(begin)
        try:
            yield
        except BaseException:
            with suppress(Exception):  # what went wrong first is what counts
                self.session.rows("ROLLBACK")
            raise
        self.execute("COMMIT")

    def count(self, table: str) -> int:
        """The rows of a table."""
        ((count,),) = self.session.rows(f"SELECT COUNT(*) FROM {self.plan.path(table)}")
        return int(count)


def while_in_use(
    attempt: Callable[[], T],
    in_use: Callable[[Exception], bool],
    undo: Callable[[], None] = lambda: None,
    what: str = "a table",
) -> T:
    """Attempt what needs a table for itself, with growing pauses, for about eight minutes.

    :param in_use: whether an error says that others use the table.
    :param undo: what follows such an error.
    :raises D1WarehouseError: when the table is still in use at the end.
    """
    pause = _FIRST_PAUSE
    for number in range(_ATTEMPTS):
        try:
            return attempt()
        except Exception as error:
            if not in_use(error):
                raise
        undo()
        if number == 0:
            log.info("table=%s in use; the load waits and tries again", what)
        time.sleep(pause)
        pause = min(pause * 1.5, _LAST_PAUSE)
    raise D1WarehouseError(
        f"Table {what!r} is in use without a pause, and nothing was loaded; try again later", retryable=True
    )


def abbreviated(statement: str) -> str:
    """A statement as it is logged: a long one without its middle."""
    if len(statement) <= _SHOWN:
        return statement
    half = _SHOWN // 2
    return f"{statement[:half]} … [{len(statement) - _SHOWN} characters] … {statement[-half:]}"


def is_permanent_sqlstate(state: str | None) -> bool:
    """Whether an error of this SQLSTATE is permanent; unknown ones are taken as transient."""
    return state is not None and state not in _ALREADY_EXISTS and state[:2] in _PERMANENT_SQLSTATES


def limit_connect_time(connection: Any, key: str, seconds: int) -> None:
    """Give an Airflow connection a limit for connecting in its extra, unless it has one.

    :param key: the driver's name for it.
    """
    extra = connection.extra_dejson
    if key not in extra:
        connection.extra = json.dumps({**extra, key: seconds})
