"""The operator that compares two backups, table by table."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_d1.exceptions import D1ConfigurationError, D1ImportFileError
from airflow_provider_d1.operators.arguments import check_arguments, check_rendered_arguments
from airflow_provider_d1.operators.d1_import import SOURCE, open_source, uri_of
from airflow_provider_d1.operators.permanent_errors import permanent_errors_fail_task
from airflow_provider_d1.validation import OPTIONAL_CONNECTION, STRING, Rule, names, optional, string

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_d1.assets.openlineage import Lineage
    from airflow_provider_d1.into_d1.table_digests import TableDigest

RULES: Mapping[str, Rule] = {
    "first": SOURCE,
    "second": SOURCE,
    "ignore_tables": names("a list of table names", empty=True),
    "aws_conn_id": optional(STRING),
    "temp_dir": optional(string("a folder")),
    "age_conn_id": OPTIONAL_CONNECTION,
}


class D1CompareBackupsOperator(BaseOperator):
    """Compare two backups: the names, CREATE statements, row counts and checksums of their tables.

    The checksums are of the values, so it does not matter which exporter wrote the dumps. Used after a restore, with a
    backup of the restored database, it shows that the backup can be restored. It runs in the worker and needs disk
    space of about the size of the larger dump.

    :param first: the URI of a ``_manifest.json`` with an SQL dump, or the output of the task that made or restored it.
        (templated)
    :param second: the same. (templated)
    :param ignore_tables: tables to ignore in both; by default the record of imports. (templated)
    :param aws_conn_id: connection for ``s3://``. (templated)
    :param temp_dir: None for the worker's temporary folder. (templated)
    :param age_conn_id: for encrypted backups: a connection whose password is the age secret key, as of
        :class:`~airflow_provider_d1.operators.d1_import.D1ImportOperator`. (templated)

    Returns ``{"tables": {"users": {"rows": 3, "sha256": …}}, "rows": 3}``; fails with a list of the tables that differ.
    """

    template_fields: Sequence[str] = tuple(RULES)
    ui_color = "#c9dcf0"
    rules: ClassVar[Mapping[str, Rule]] = RULES

    def __init__(
        self,
        *,
        first: str | Mapping[str, Any],
        second: str | Mapping[str, Any],
        ignore_tables: Sequence[str] = ("_d1_imports",),
        aws_conn_id: str | None = "aws_default",
        temp_dir: str | None = None,
        age_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.first = first
        self.second = second
        self.ignore_tables = ignore_tables
        self.aws_conn_id = aws_conn_id
        self.temp_dir = temp_dir
        self.age_conn_id = age_conn_id
        check_arguments(self, RULES)

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow's signature
        """Compare the backups, and return their common tables."""
        with permanent_errors_fail_task(self):
            check_rendered_arguments(self, self.rules)
            first = self._digests(uri_of(self.first, "first"))
            second = self._digests(uri_of(self.second, "second"))
            problems = list(_differences(first, second))
            if problems:
                raise D1ImportFileError(f"the backups differ: {'; '.join(problems)}")
        rows = sum(digest.rows for digest in first.values())
        self.log.info("The backups agree: tables=%d rows=%d", len(first), rows)
        tables = {name: {"rows": digest.rows, "sha256": digest.sha256} for name, digest in first.items()}
        return {"tables": tables, "rows": rows}

    def get_openlineage_facets_on_complete(self, task_instance: object) -> Lineage | None:  # noqa: ARG002
        """Both backups as inputs."""
        from airflow_provider_d1.assets.openlineage import import_lineage

        try:
            sources = [uri_of(self.first, "first"), uri_of(self.second, "second")]
        except D1ConfigurationError:  # for which the task has failed
            return None
        return import_lineage(sources, None)

    def get_openlineage_facets_on_failure(self, task_instance: object) -> Lineage | None:
        """The same; OpenLineage adds the error."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def _digests(self, uri: str) -> dict[str, TableDigest]:
        from airflow_provider_d1.hooks.age_key import read_age_key
        from airflow_provider_d1.into_d1.backup import fetch_backup, read_backup
        from airflow_provider_d1.into_d1.table_digests import table_digests
        from airflow_provider_d1.staging.streams import UnpackingReader

        storage, key = open_source(uri, self.aws_conn_id)
        backup = read_backup(storage, key)
        with tempfile.TemporaryDirectory(prefix="d1-compare-", dir=self.temp_dir) as folder:
            path = fetch_backup(storage, backup, Path(folder), read_age_key(self.age_conn_id))
            with UnpackingReader(path.open("rb")) as dump:
                return table_digests(dump, Path(folder), ignore=self.ignore_tables)


def _differences(first: Mapping[str, TableDigest], second: Mapping[str, TableDigest]) -> Sequence[str]:
    found = [f"{name!r} is only in the first" for name in first if name not in second]
    found += [f"{name!r} is only in the second" for name in second if name not in first]
    for name in first.keys() & second.keys():
        if first[name].rows != second[name].rows:
            found.append(f"{name!r} has {first[name].rows} rows in the first and {second[name].rows} in the second")
        elif first[name] != second[name]:
            found.append(f"{name!r} has {first[name].rows} rows in both, but other values or another CREATE statement")
    return sorted(found)
