"""Base of the transfers into staged files: get an export, stage it, return a summary."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_provider_d1.cloudflare.messages import MIB
from airflow_provider_d1.exceptions import (
    D1ConfigurationError,
    D1DumpError,
    D1Error,
    D1SealError,
    D1SignedUrlExpiredError,
)
from airflow_provider_d1.links.d1 import D1StagedRunLink, storage_page
from airflow_provider_d1.operators.arguments import (
    OPERATOR_RULES,
    check_arguments,
    check_rendered_arguments,
    has_no_value_yet,
)
from airflow_provider_d1.operators.d1 import D1ExportOperator
from airflow_provider_d1.staging.encryption import parse_recipients
from airflow_provider_d1.staging.options import STAGING_RULES, StagingOptions
from airflow_provider_d1.transfers.resume import FinishedExport
from airflow_provider_d1.validation import abridged, optional, string

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperatorLink, Context

    from airflow_provider_d1.assets.openlineage import Lineage
    from airflow_provider_d1.cloudflare.models import D1Export
    from airflow_provider_d1.staging.manifest import Manifest
    from airflow_provider_d1.staging.options import FileFormat
    from airflow_provider_d1.storage.base import Storage
    from airflow_provider_d1.validation import Rule


class D1ToStagingOperator(D1ExportOperator):
    """Stage a D1 database as typed files with a manifest; a subclass says where (:meth:`_storage`).

    Given ``export``, that export is staged. Otherwise the database is exported first, deferring, and staged when the
    triggerer reports the end.

    :param export: output of a :class:`~airflow_provider_d1.operators.d1.D1ExportOperator` with the same connection. It
        excludes ``database``. (templated)
    :param file_format: ``"parquet"``, ``"csv"``, ``"jsonl"``, or ``"sql"`` for the dump as it is. (templated)
    :param compression: None takes the format's default: Parquet zstd, CSV and JSONL gzip, SQL none. (templated)
    :param keep_dump: store the dump beside the tables too, compressed with zstd. (templated)
    :param on_lossy: what to do about values that D1's export may have altered: ``"warn"``, ``"fail"`` or ``"ignore"``.
        (templated)
    :param on_type_conflict: for values that do not fit a column's type: ``"widen"`` the column, or ``"fail"``.
        (templated)
    :param max_part_bytes: largest size of a staged file in bytes; a single larger row exceeds it. (templated)
    :param parse_temporal: convert text columns in which every value is a date or a timestamp of one form. (templated)
    :param audit_columns: add ``_d1_database``, ``_d1_bookmark`` and ``_loaded_at`` to every table. (templated)
    :param column_names: ``"preserve"`` the column names of D1, or convert them to ``"snake_case"``. (templated)
    :param replace: False refuses a destination that already has a manifest; one with runs of another database is
        refused unless ``"any"`` is given. (templated)
    :param keep_runs: how many complete runs to keep in the prefix, including the new one; None keeps all. (templated)
    :param age_recipients: public keys (``age1…``) for which the dump is encrypted with age; needs the extra ``[age]``
        and ``"sql"`` as format. (templated)
    :param temp_dir: for a few unfinished files; None for the worker's temporary folder. (templated)

    All parameters of :class:`~airflow_provider_d1.operators.d1.D1ExportOperator` apply too. Returns::

        {"manifest": "…/<run>/_manifest.json", "latest": "…/_manifest.json", "run": "20261127T020000Z-3f9c1a",
         "database_id": …, "bookmark": …, "rows": …, "bytes": …, "tables": {"users": {"rows": 3, "uris": ["…"]}}}

    ``manifest`` is this run's own and does not change, so a task that loads it loads this run. ``latest`` is the
    manifest of the newest run. Concurrent runs do not affect each other.

    The events of the task's ``outlets`` get an extra with ``manifest``, ``latest``, ``run``, ``database_id``,
    ``database_name``, ``bookmark``, ``rows`` and ``bytes``, so that a DAG that is scheduled by the asset can load this
    run. An ``AssetAlias`` among the outlets gets an event of the database's ``d1://`` asset.

    Where Airflow has a ``task_state_store`` (3.3), a retry within the URL's hour stages the export of an earlier
    attempt instead of blocking the database again.
    """

    template_fields: Sequence[str] = (
        *dict.fromkeys((*D1ExportOperator.template_fields, "export", *STAGING_RULES, "temp_dir")),
    )
    operator_extra_links: Sequence[BaseOperatorLink] = (*D1ExportOperator.operator_extra_links, D1StagedRunLink())
    rules: ClassVar[Mapping[str, Rule]] = {
        **OPERATOR_RULES,
        **STAGING_RULES,
        "temp_dir": optional(string("a folder")),
    }

    def __init__(
        self,
        *,
        export: D1Export | Mapping[str, Any] | None = None,
        file_format: FileFormat = "parquet",
        compression: str | None = None,
        keep_dump: bool = False,
        on_lossy: Literal["warn", "fail", "ignore"] = "warn",
        on_type_conflict: Literal["widen", "fail"] = "widen",
        max_part_bytes: int = 256 * MIB,
        parse_temporal: bool = False,
        audit_columns: bool = False,
        column_names: Literal["preserve", "snake_case"] = "preserve",
        replace: bool | Literal["any"] = True,
        keep_runs: int | None = 2,
        age_recipients: Sequence[str] | None = None,
        temp_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.export = export
        self.file_format = file_format
        self.compression = compression
        self.keep_dump = keep_dump
        self.on_lossy = on_lossy
        self.on_type_conflict = on_type_conflict
        self.max_part_bytes = max_part_bytes
        self.parse_temporal = parse_temporal
        self.audit_columns = audit_columns
        self.column_names = column_names
        self.replace = replace
        self.keep_runs = keep_runs
        self.age_recipients = age_recipients
        self.temp_dir = temp_dir
        #: the staged files in the store's console, for :class:`D1StagedRunLink`; known when the task ends
        self.staged_page = ""
        #: for OpenLineage
        self._staged: tuple[Manifest, str] | None = None
        check_arguments(self, STAGING_RULES)
        if not any(has_no_value_yet(getattr(self, name)) for name in (*STAGING_RULES, "no_schema")):
            self._options()
            self._refuse_without_schema(self.no_schema)
        if export is not None and self.database is not None:
            raise D1ConfigurationError("Pass either export (stage it) or database (export it first), not both.")

    @abstractmethod
    def _storage(self) -> Storage:
        """Where the runs go; called in the worker only."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Stage what is exported already, or export first."""
        with self._errors_reported():
            check_rendered_arguments(self, self.rules)
            self._label_mapped_task(context)
            parse_recipients(self._options().age_recipients)  # with pyrage, before an export
            self._refuse_without_schema(self.no_schema)
            self._storage().check_writable()
            if self.export is not None:
                return self._stage_given(context)
            earlier = self._finished_export(context).get()
            if earlier is not None:
                self.log.info("Reusing the export of an earlier attempt.")
                return self._finish(context, earlier)
            self._check_prefix()
        return super().execute(context)

    def _finish(self, context: Context, export: D1Export) -> dict[str, Any]:
        """Stage an export of this task's own."""
        self._report(export)
        finished = self._finished_export(context)
        finished.put(export)
        try:
            result = self._stage(context, export)
        except D1SealError as error:
            finished.forget()
            # the connection's token was changed while the task was deferred: a retry exports with the new one
            raise D1SealError(str(error), retryable=True) from error
        except D1Error as error:
            if not error.retryable or isinstance(error, D1SignedUrlExpiredError | D1DumpError):
                finished.forget()
            raise
        finished.forget()
        return result

    def _check_prefix(self) -> None:
        """Check the prefix before the export, which makes the database unavailable."""
        from airflow_provider_d1.staging.prefix import check_prefix

        hook = self.hook
        check_prefix(self._storage(), self.replace, None, hook.database or hook.get_settings().database)

    def _stage_given(self, context: Context) -> dict[str, Any]:
        """Stage what another task exported."""
        from airflow_provider_d1.cloudflare.models import D1Export

        if not isinstance(self.export, D1Export | Mapping):
            raise D1ConfigurationError(
                f"export must be the output of a D1ExportOperator (task.output), not {type(self.export).__name__}."
            )
        try:
            export = self.export if isinstance(self.export, D1Export) else D1Export.from_dict(self.export)
        except ValueError as error:
            raise D1ConfigurationError(f"export is {error}.") from None
        self._refuse_without_schema(export.options.no_schema)
        self._report(export)
        try:
            return self._stage(context, export)
        except D1SignedUrlExpiredError as error:
            # this task cannot get another URL, so a retry would fail in the same way
            raise D1SignedUrlExpiredError(str(error), retryable=False) from error

    def _stage(self, context: Context, export: D1Export) -> dict[str, Any]:
        from airflow_provider_d1.staging.manifest_source import Source
        from airflow_provider_d1.staging.stage import stage

        source = Source.from_dict({**export.to_dict(), "unavailable_seconds": export.unavailable_seconds})
        storage = self._storage()
        temp_dir = None if self.temp_dir is None else Path(self.temp_dir)
        with self.hook.download(export) as dump:
            if dump.content_length is not None:
                self.log.info("Downloading the dump: file=%s bytes=%d", export.filename, dump.content_length)
            manifest = stage(
                dump,
                storage,
                self._options(),
                source,
                owner=_owner(context),
                check_tables=None if export.options.no_schema else lambda staged: self._check_tables(export, staged),
                temp_dir=temp_dir,
            )
        result = summary(manifest, storage)
        self._staged = (manifest, result["manifest"])
        self.staged_page = self._page(manifest.run)
        # the connection's default need not be the database that another task has exported
        name = export.database_name if self.export is not None else self._named_database(export.database_name)
        extra = {key: value for key, value in result.items() if key != "tables"}
        self._record_events(context, export.account_id, name, {**extra, "database_name": export.database_name})
        if self.file_format == "sql":  # whose tables and rows are not counted
            self.log.info("Staged the dump: bytes=%d manifest=%s", manifest.bytes, result["manifest"])
        else:
            figures = (len(manifest.tables), manifest.rows, manifest.bytes, result["manifest"])
            self.log.info("Staged: tables=%d rows=%d bytes=%d manifest=%s", *figures)
        return result

    def _page(self, run: str | None = None) -> str:
        """The console's page about a run's folder; about the prefix without one."""
        return storage_page(self._folder_uri(run))

    def _destination(self) -> str:
        return f" destination={self._folder_uri(None)}"

    def _folder_uri(self, run: str | None) -> str:
        from airflow_provider_d1.staging.manifest import MANIFEST_KEY

        key = MANIFEST_KEY if run is None else f"{run}/{MANIFEST_KEY}"
        return self._storage().uri(key).removesuffix(MANIFEST_KEY)

    def _note_failure(self) -> None:
        with suppress(Exception):  # what is wrong with the store does not hide the database
            self.staged_page = self.staged_page or self._page()
        super()._note_failure()

    def _lineage(self) -> Lineage | None:
        """Each table of D1 with its schema and column metrics, and what it became in staging."""
        from airflow_provider_d1.assets.openlineage import staging_lineage

        return super()._lineage() if self._staged is None else staging_lineage(*self._staged)

    def _options(self) -> StagingOptions:
        options = {name: getattr(self, name) for name in STAGING_RULES}
        if self.export is None:  # then the export itself leaves them out
            del options["exclude_tables"]
        return StagingOptions(**options)

    def _check_tables(self, export: D1Export, staged: Collection[str]) -> None:
        """Compare the dump's tables with those that the database had before the export.

        A dump that was cut between two statements looks complete otherwise. A table that was dropped before the export
        began may be missing, so D1 is asked about the missing ones.

        :raises D1DumpError: when the dump lacks a table that still exists; retryable where a retry exports again.
        """
        expected = [name for name in export.tables or () if name not in (self.exclude_tables or ())]
        missing = [name for name in expected if name not in staged]
        if not missing:
            return
        from airflow_provider_d1.hooks.d1 import D1Hook

        hook = D1Hook(self.d1_conn_id, database=export.database_id)
        found = {row["name"] for row in hook.query("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if lacking := [name for name in missing if name in found]:
            raise D1DumpError(
                f"{export.filename}: the dump lacks {', '.join(map(repr, lacking))}, though the database had these "
                "tables before the export and has them now. Export again.",
                retryable=self.export is None,
            )
        self.log.warning("Tables dropped before the export, and not in the dump: %s", abridged(missing))

    def _refuse_without_schema(self, no_schema: bool) -> None:
        if no_schema and self.file_format != "sql":
            raise D1ConfigurationError(
                "no_schema=True needs file_format='sql': the other formats need the CREATE TABLE statements."
            )

    def _finished_export(self, context: Context) -> FinishedExport:
        return FinishedExport(context, {**self._request().to_dict(), "d1_conn_id": self.d1_conn_id})


def _owner(context: Mapping[str, Any]) -> str | None:
    """Identifies a task instance over all its attempts."""
    ti = context.get("ti")
    parts = [getattr(ti, name, None) for name in ("dag_id", "task_id", "run_id", "map_index")]
    return None if parts[0] is None else "/".join(map(str, parts))


def summary(manifest: Manifest, storage: Storage) -> dict[str, Any]:
    """A transfer's return value: what is needed to load the tables, and their origin.

    With ``file_format="sql"`` there are no tables and no rows counted; the manifest lists the dump.
    """
    from airflow_provider_d1.staging.manifest import MANIFEST_KEY

    return {
        "manifest": storage.uri(f"{manifest.run}/{MANIFEST_KEY}"),
        "latest": storage.uri(MANIFEST_KEY),
        "run": manifest.run,
        "database_id": manifest.source.database_id,
        "bookmark": manifest.source.bookmark,
        "rows": manifest.rows,
        "bytes": manifest.bytes,
        "tables": {
            table.name: {"rows": table.rows, "uris": [file.uri for file in table.files]} for table in manifest.tables
        },
    }
