"""What every task on one D1 database reports: its errors, link and label, its lineage and asset events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import BaseOperator, BaseOperatorLink

from airflow_provider_d1.links.d1 import D1DatabaseLink, database_page
from airflow_provider_d1.operators.permanent_errors import permanent_errors_fail_task

if TYPE_CHECKING:
    from airflow_provider_d1.assets.openlineage import Lineage
    from airflow_provider_d1.hooks.d1 import D1Hook


class D1DatabaseTask(BaseOperator):
    """The base of the operators and sensors that work on one D1 database.

    A subclass has the attributes ``database`` and ``d1_conn_id``, wraps its work in :meth:`_errors_reported`, and says
    in :meth:`_lineage` what it read and wrote.
    """

    operator_extra_links: Sequence[BaseOperatorLink] = (D1DatabaseLink(),)
    #: whether the task changes the database, so that OpenLineage has it as an output
    writes: ClassVar[bool] = False

    database: str | None
    d1_conn_id: str
    #: the database in the dashboard, for :class:`D1DatabaseLink`; known when the task ends
    database_page = ""
    #: for OpenLineage: account and database, of a failed task too
    _source: tuple[str, str] | None = None

    @cached_property
    def hook(self) -> D1Hook:
        """The connection's hook; only for a running task, as the arguments may be templates before."""
        from airflow_provider_d1.hooks.d1 import D1Hook

        return D1Hook(self.d1_conn_id, database=self.database)

    @contextmanager
    def _errors_reported(self) -> Iterator[None]:
        """Fail the task at once for a permanent error, and keep the addresses of its links before any failure."""
        with permanent_errors_fail_task(self, self._place()):
            try:
                yield
            except Exception:
                with suppress(Exception):  # such as a missing connection: the original error is raised
                    self._note_failure()
                raise

    def _place(self) -> str:
        """The database and connection, for error messages."""
        named = "the connection's default database" if self.database is None else f"database {self.database!r}"
        return f"{named}, connection {self.d1_conn_id!r}"

    def _note_database(self, account_id: str, database_id: str, name: str) -> None:
        """Keep what links and lineage of a finished task show."""
        self.database_page = database_page(account_id, database_id)
        self._source = (account_id, name)

    def _note_failure(self) -> None:
        """Keep what links and lineage of a failed task show."""
        if self.database_page and self._source is not None:
            return
        settings = self.hook.get_settings()
        database = self.database or settings.database
        if not self.database_page:
            self.database_page = database_page(settings.credentials.account_id, database)
        if self._source is None and database is not None:
            self._source = (settings.credentials.account_id, database)

    def _label_mapped_task(self, context: Any) -> None:  # noqa: ANN401 - a Context that is written to
        """Show the database instead of a mapped task's index, unless the DAG sets a label."""
        if self.database is not None:
            label_mapped_task(context, "{{ task.database }}")

    def _record_events(self, context: Mapping[str, Any], account_id: str, database: str, extra: Any) -> None:  # noqa: ANN401
        """Add extra to the asset events of the task's outlets.

        :param database: the name under which the DAG knows the database, as assets are compared by their URIs.
        :param extra: plain JSON, a mapping.
        """
        if not self.outlets:
            return
        from airflow_provider_d1.assets.d1 import create_asset, record_events

        record_events(context, self.outlets, create_asset(account_id=account_id, database=database), extra)

    def _named_database(self, otherwise: str) -> str:
        """The database as the task or its connection names it."""
        return self.database or self.hook.get_settings().database or otherwise

    def _lineage(self) -> Lineage | None:
        """What the task has read and written, as far as it came."""
        from airflow_provider_d1.assets.openlineage import database_lineage

        return None if self._source is None else database_lineage(*self._source, written=self.writes)

    def get_openlineage_facets_on_complete(self, task_instance: object) -> Lineage | None:  # noqa: ARG002
        """The datasets that the task has read and written; OpenLineage calls this."""
        return self._lineage()

    def get_openlineage_facets_on_failure(self, task_instance: object) -> Lineage | None:  # noqa: ARG002
        """Those that are known; OpenLineage adds the error."""
        return self._lineage()


def label_mapped_task(context: Any, template: str) -> None:  # noqa: ANN401 - see above
    """Set what Airflow shows instead of a mapped task's index, unless the DAG has set it.

    :param template: Airflow renders it when the task ends.
    """
    mapped = getattr(context.get("ti"), "map_index", -1) not in (None, -1)
    if mapped and context.get("map_index_template") is None:
        context["map_index_template"] = template


def until_execution_timeout(deadline: float, now: float, execution_timeout: timedelta | None) -> float:
    """The deadline, or an earlier end of ``execution_timeout``, which Airflow does not enforce on deferred tasks."""
    return deadline if execution_timeout is None else min(deadline, now + execution_timeout.total_seconds())


def in_utc(deadline: float) -> str:
    """A deadline for the log."""
    return datetime.fromtimestamp(deadline, UTC).isoformat(timespec="seconds")
