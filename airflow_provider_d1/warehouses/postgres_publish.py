"""Postgres: putting loaded rows in their place, with the locks that this needs and no reader held up for long."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses import postgres_catalog
from airflow_provider_d1.warehouses.postgres_errors import sqlstate
from airflow_provider_d1.warehouses.session import CursorSession, abbreviated, while_in_use

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.plan import LoadPlan, Table
    from airflow_provider_d1.warehouses.postgres_catalog import Relation

log = logging.getLogger(__name__)

#: a lock that readers do not notice; it waits for longer than deadlock_timeout (1 s), after which autovacuum gives way
_WRITERS_TIMEOUT = "2s"
#: readers wait behind this lock, so the attempt is short
_READERS_TIMEOUT = "100ms"


class PostgresSession(CursorSession):
    """One load's connection, and what is to be published at its end."""

    def __init__(self, connection: Any, plan: LoadPlan) -> None:
        super().__init__(connection)
        self.plan = plan
        self.pending: list[Finish] = []

    def run(self, statement: str) -> None:
        """Log a statement and run it."""
        log.info("Running: %s", abbreviated(statement))
        self.rows(statement)

    def relation(self, table: str) -> Relation | None:
        """The relation of that name in the target schema."""
        return postgres_catalog.relation(self.rows, self.plan.dialect.literal(self.plan.path(table)))

    def attached(self, helper: str, existing: Relation) -> list[str]:
        """What a swap would lose.

        :param helper: a table that this role has just created: what a new table is like.
        """
        helper = f"to_regclass({self.plan.dialect.literal(self.plan.path(helper))})"
        return postgres_catalog.attached(self.rows, existing, helper, self.plan.dialect.known_types)


@dataclass(frozen=True, slots=True)
class Finish:
    """What puts the loaded rows of a table in their place.

    :param existing: the table as it was, None for a new one.
    :param target: how LOCK and SELECT name the existing table.
    :param check: raises when the table, which stays the same one, does not have the loaded rows afterwards.
    :param cleanup: what follows the check.
    :param waits_for_readers: whether a statement needs the table for itself: a swap, an ALTER TABLE.
    :param swapped: the table makes way for the helper table.
    """

    table: Table
    existing: Relation | None
    target: str
    statements: Sequence[str]
    check: Callable[[], None] | None = None
    cleanup: Sequence[str] = ()
    waits_for_readers: bool = False
    swapped: bool = False


def publish(session: PostgresSession, steps: Sequence[Finish]) -> None:
    """Rows that readers do not wait for first; what needs a table for itself comes at the end and is short."""
    for step in steps:
        if not step.waits_for_readers:
            if step.existing is not None:
                _lock_out_writers(session, step)
            _finish(session, step)
    exclusive = [step for step in steps if step.waits_for_readers]
    if exclusive:
        _lock_out_readers(session, exclusive)
        for step in exclusive:
            _finish(session, step)


def _finish(session: PostgresSession, step: Finish) -> None:
    if step.swapped and step.existing is not None:
        _check_still_bare(session, step, step.existing)
    for statement in step.statements:
        session.run(statement)
    if step.check is not None:
        step.check()
        session.run(f"ANALYZE {session.plan.path(step.table.name)}")
    for statement in step.cleanup:
        session.run(statement)


def _check_still_bare(session: PostgresSession, step: Finish, existing: Relation) -> None:
    """Check again what is attached: it may have changed while the rows were loaded. The lock now excludes others."""
    attached = session.attached(step.table.helper, existing)
    if attached or session.relation(step.table.name) != existing:
        raise D1WarehouseError(
            f"Table {step.table.name!r} was changed while its rows were loaded "
            f"({'; '.join(attached) or 'its columns'}); nothing was replaced, try again",
            retryable=True,
        )


def _lock_out_writers(session: PostgresSession, step: Finish) -> None:
    """Lock out writers, not readers: a row added by another session would stay beside the staged ones."""

    def attempt() -> None:
        session.run(f"SET LOCAL lock_timeout = '{_WRITERS_TIMEOUT}'")
        session.run(f"LOCK TABLE {step.target} IN SHARE ROW EXCLUSIVE MODE")

    _attempt_lock(session, attempt, step.table.name)


def _lock_out_readers(session: PostgresSession, steps: Sequence[Finish]) -> None:
    """Lock all tables for this transaction without blocking readers while one of the tables is in use.

    The table that was being read in the last attempt comes first, at a moment when no other is held.
    """
    order = sorted(steps, key=lambda step: step.table.name)

    def attempt() -> None:
        session.run(f"SET LOCAL lock_timeout = '{_WRITERS_TIMEOUT}'")
        for step in order:
            session.run(f"LOCK TABLE {step.target} IN SHARE ROW EXCLUSIVE MODE")
        session.run(f"SET LOCAL lock_timeout = '{_READERS_TIMEOUT}'")
        for number, step in enumerate(order):
            try:
                session.run(f"LOCK TABLE {step.target} IN ACCESS EXCLUSIVE MODE{' NOWAIT' if number else ''}")
            except Exception:
                order.insert(0, order.pop(number))
                raise

    _attempt_lock(session, attempt, ", ".join(step.table.name for step in order))


def drop(session: PostgresSession, table: str) -> None:
    """Drop a table without holding up those who read it."""

    def attempt() -> None:
        session.run(f"SET LOCAL lock_timeout = '{_READERS_TIMEOUT}'")
        session.run(f"DROP TABLE {session.plan.path(table)}")

    _attempt_lock(session, attempt, table)


def _attempt_lock(session: PostgresSession, attempt: Callable[[], None], what: str) -> None:
    def attempt_or_fail() -> None:
        session.run("SAVEPOINT d1_lock")
        attempt()
        session.run("RESET lock_timeout")
        session.run("RELEASE SAVEPOINT d1_lock")

    def undo() -> None:
        session.run("ROLLBACK TO SAVEPOINT d1_lock")

    # lock_not_available
    while_in_use(attempt_or_fail, lambda error: sqlstate(error) == "55P03", undo, what)
