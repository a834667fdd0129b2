"""The operator that restores a D1 database to an earlier state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_d1.exceptions import D1ApiError, D1ConfigurationError, D1ConnectionError, D1RateLimitError
from airflow_provider_d1.operators.arguments import check_arguments, check_rendered_arguments, has_no_value_yet
from airflow_provider_d1.operators.database_task import D1DatabaseTask
from airflow_provider_d1.validation import Rule, optional, string

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_d1.assets.openlineage import Lineage


def _is_moment(value: object) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None


RULES: Mapping[str, Rule] = {
    "database": optional(string("a database's name or UUID")),
    "bookmark": optional(string("a Time Travel bookmark")),
    "timestamp": optional(
        Rule(
            _is_moment,
            "a time with a time zone: a datetime, or a string such as 2026-11-27T02:00:00Z",
            datetime.fromisoformat,
        )
    ),
    "d1_conn_id": string("a connection's id"),
}


class D1RestoreOperator(D1DatabaseTask):
    """Restore a D1 database to an earlier state by Time Travel. Later changes are discarded.

    D1 keeps 30 days, on the Free plan 7, and allows ten restores of a database in ten minutes. To undo a restore, run
    it again with the ``previous_bookmark`` that it returned; it is in the log too, from before the restore.

    A restore whose response was lost is not sent again, because that would discard changes made after the first one:
    the task fails at once.

    :param database: name or UUID; None for the connection's default. (templated)
    :param bookmark: from ``D1Hook.get_bookmark``, another task's result, or a manifest's ``source.bookmark``.
        (templated)
    :param timestamp: instead of a bookmark: a time with a time zone. (templated)
    :param d1_conn_id: the connection; its token needs *D1: Edit*. (templated)

    Returns ``{"database_id": …, "database_name": …, "bookmark": …, "previous_bookmark": …}``: the bookmark after the
    restore and the one before it. The events of the task's ``outlets`` get it as extra, and an ``AssetAlias`` among the
    outlets an event of the database's ``d1://`` asset.
    """

    template_fields: Sequence[str] = ("database", "bookmark", "timestamp", "d1_conn_id")
    ui_color = "#c9dcf0"
    writes = True
    rules: ClassVar[Mapping[str, Rule]] = RULES

    def __init__(
        self,
        *,
        database: str | None = None,
        bookmark: str | None = None,
        timestamp: datetime | str | None = None,
        d1_conn_id: str = "d1_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.database = database
        self.bookmark = bookmark
        self.timestamp = _moment(timestamp)
        self.d1_conn_id = d1_conn_id
        #: for OpenLineage
        self._bookmark: str | None = None
        check_arguments(self, RULES)
        if not (has_no_value_yet(bookmark) or has_no_value_yet(timestamp)):
            self._check_target()

    def execute(self, context: Context) -> dict[str, Any]:
        """Restore, and return both bookmarks."""
        with self._errors_reported():
            check_rendered_arguments(self, self.rules)
            self._label_mapped_task(context)
            self._check_target()
            return self._restore(context)

    def _restore(self, context: Context) -> dict[str, Any]:
        with self.hook.get_client() as client:
            account_id = client.credentials.account_id
            target = client.get_database(self.database or self.hook.get_settings().database_or_fail())
            self._note_database(account_id, target.uuid, target.name)
            before = client.get_bookmark(target.uuid)
            self.log.info(
                "Restoring: database=%s to=%s previous_bookmark=%s",
                target.name,
                self.bookmark if self.bookmark is not None else self.timestamp,
                before,
            )
            try:
                restored = client.restore(target.uuid, bookmark=self.bookmark, timestamp=self.timestamp)
            except D1ApiError as error:
                if not error.retryable or _was_not_done(error):
                    raise
                raise D1ApiError(
                    f"the response to the restore was lost ({error}), so the database may have been restored."
                    f" Check it before you restore again; its bookmark was {before}",
                    retryable=False,
                ) from error
        self.log.info("Restored: database=%s bookmark=%s", target.name, restored.bookmark)
        self._bookmark = restored.bookmark
        result = {
            "database_id": target.uuid,
            "database_name": target.name,
            "bookmark": restored.bookmark,
            "previous_bookmark": restored.previous_bookmark,
        }
        self._record_events(context, account_id, self._named_database(target.name), result)
        return result

    def _lineage(self) -> Lineage | None:
        """The database as the output, with the bookmark as its version."""
        from airflow_provider_d1.assets.openlineage import database_lineage

        return self._source and database_lineage(*self._source, bookmark=self._bookmark, written=True)

    def _check_target(self) -> None:
        if (self.bookmark is None) == (self.timestamp is None):
            raise D1ConfigurationError("Pass either bookmark or timestamp, the state to restore.")


def _moment(timestamp: datetime | str | None) -> Any:  # noqa: ANN401 - a template is not changed
    """A string with a time as a datetime; other values are not changed."""
    if isinstance(timestamp, str) and not has_no_value_yet(timestamp):
        try:
            return datetime.fromisoformat(timestamp)
        except ValueError:
            return timestamp
    return timestamp


def _was_not_done(error: D1ApiError) -> bool:
    """Whether D1 did not restore for certain: it refused the call, or the call was not sent."""
    from airflow_provider_d1.cloudflare.api_errors import is_busy

    never_sent = isinstance(error, D1ConnectionError) and not error.sent
    return never_sent or isinstance(error, D1RateLimitError) or is_busy(str(error))
