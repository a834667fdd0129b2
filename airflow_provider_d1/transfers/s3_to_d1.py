"""Files in S3 into tables of a D1 database."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_provider_d1.exceptions import D1ConfigurationError, D1ImportFileError, D1ManifestError
from airflow_provider_d1.operators.arguments import check_arguments
from airflow_provider_d1.operators.d1_import import IMPORT_RULES, D1ImportBase, open_source, uri_of
from airflow_provider_d1.validation import STRING, TABLES, Rule, fold_case, one_of, optional, string, suggest

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.client import D1Client
    from airflow_provider_d1.cloudflare.models import Database
    from airflow_provider_d1.into_d1.import_file import ImportFile
    from airflow_provider_d1.into_d1.import_record import ImportRecord
    from airflow_provider_d1.into_d1.prepare import PreparedImport

RULES: Mapping[str, Rule] = {
    **IMPORT_RULES,
    "manifest": optional(
        Rule(
            lambda value: (isinstance(value, str) and "://" in value) or isinstance(value, Mapping),
            "a manifest's URI (s3://…) or the output of the transfer that wrote it",
        )
    ),
    "tables": optional(TABLES),
    "s3_bucket": optional(STRING),
    "s3_key": optional(
        Rule(
            lambda value: (isinstance(value, str) and bool(value)) or (isinstance(value, list | tuple) and bool(value)),
            "a key, a prefix that ends in /, or a list of keys",
        )
    ),
    "table": optional(string("a table's name")),
    "file_format": one_of(None, "parquet", "csv", "jsonl"),
    "mode": one_of("replace", "append"),
}


class S3ToD1Operator(D1ImportBase):
    """Load Parquet, CSV or JSON Lines files, or a staged manifest, into tables of a D1 database.

    The rows become one import, which D1 runs as one transaction: readers see the old rows or the new ones.

    Given ``manifest``, its tables are loaded with D1's own values and names; a table that is missing is created as the
    manifest has it. Size, SHA-256 and number of rows of every file must be the manifest's. Given ``s3_key``, the files
    are loaded into ``table``, which must exist. Parquet has its own types; in CSV every value is a text that the type
    of the column converts, an empty field is NULL and ``""`` an empty text; JSON's lists and objects become JSON texts.

    Integers up to 64 bits, REALs, infinities, blobs, and texts with line breaks and NULs arrive exactly. NaN is
    refused, because SQLite has no NaN. Triggers of the tables fire.

    :param manifest: the URI of a ``_manifest.json``, or the output of the transfer that wrote it. (templated)
    :param tables: only these tables of the manifest; None for all. (templated)
    :param s3_bucket: in place of a manifest: the bucket. (templated)
    :param s3_key: a key, a prefix that ends in ``/`` for all files below it, or a list of keys. (templated)
    :param table: the table for the files. (templated)
    :param file_format: ``"parquet"``, ``"csv"`` or ``"jsonl"``; None goes by the file's name. (templated)
    :param mode: ``"replace"`` replaces the rows of each table, ``"append"`` adds to them, once for a run of the task.
        (templated)

    All parameters of :class:`~airflow_provider_d1.operators.d1_import.D1ImportBase` apply too. Returns what
    :class:`~airflow_provider_d1.operators.d1_import.D1ImportOperator` returns, and besides::

        {"rows": 5, "tables": {"users": {"rows": 3}, "orders": {"rows": 2}}, "mode": "replace"}
    """

    template_fields: Sequence[str] = (
        *D1ImportBase.template_fields,
        "manifest",
        "tables",
        "s3_bucket",
        "s3_key",
        "table",
        "file_format",
        "mode",
    )
    rules: ClassVar[Mapping[str, Rule]] = RULES

    def __init__(
        self,
        *,
        manifest: str | Mapping[str, Any] | None = None,
        tables: Sequence[str] | None = None,
        s3_bucket: str | None = None,
        s3_key: str | Sequence[str] | None = None,
        table: str | None = None,
        file_format: Literal["parquet", "csv", "jsonl"] | None = None,
        mode: Literal["replace", "append"] = "replace",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.manifest = manifest
        self.tables = tables
        self.s3_bucket = s3_bucket
        self.s3_key = s3_key
        self.table = table
        self.file_format = file_format
        self.mode = mode
        check_arguments(self, RULES)
        files = [value is not None for value in (s3_bucket, s3_key, table)]
        if (manifest is not None) == any(files) or (any(files) and not all(files)):
            raise D1ConfigurationError("Pass either manifest, or s3_bucket, s3_key and table.")

    def _read_and_written(self) -> tuple[Sequence[str], Sequence[str] | None]:
        if self.manifest is not None:
            return [uri_of(self.manifest, "manifest")], self.tables
        keys = [self.s3_key] if isinstance(self.s3_key, str) else list(self.s3_key or ())
        return [f"s3://{self.s3_bucket}/{key}" for key in keys], [str(self.table)]

    def _prepare(
        self, client: D1Client, target: Database, tables: Sequence[str], folder: Path, record: ImportRecord | None
    ) -> tuple[PreparedImport, dict[str, Any]]:
        from airflow_provider_d1.into_d1.import_file import ImportFile
        from airflow_provider_d1.into_d1.prepare import PreparedImport

        with ImportFile(folder / "import.sql") as file:
            file.add(b"PRAGMA defer_foreign_keys=TRUE;")
            if self.manifest is not None:
                source, rows, size, sha256 = self._add_manifest(file, client, target, tables)
            else:
                source, rows, size, sha256 = self._add_files(file, client, target, tables, folder)
            if record is not None:
                for statement in record.statements(source, sha256, size):
                    file.add(statement)
            file.finish()
        prepared = PreparedImport(file.path, file.md5, file.bytes, file.statements, size, sha256)
        return prepared, {
            "source": source,
            "source_bytes": size,
            "source_sha256": sha256,
            "bytes": file.bytes,
            "mode": self.mode,
            "rows": sum(rows.values()),
            "tables": {name: {"rows": count} for name, count in rows.items()},
        }

    def _add_manifest(
        self, file: ImportFile, client: D1Client, target: Database, present: Sequence[str]
    ) -> tuple[str, dict[str, int], int, str]:
        """Add the rows of a manifest's tables; its URI, rows by table, stored bytes and a hash of them all."""
        from airflow_provider_d1.into_d1.row_inserts import add_rows
        from airflow_provider_d1.into_d1.staged_rows import source_columns, source_rows
        from airflow_provider_d1.staging.manifest import read_manifest
        from airflow_provider_d1.warehouses.batches import staged_batches
        from airflow_provider_d1.warehouses.plan import Column, Part, Table
        from airflow_provider_d1.warehouses.staged_files import StagedFiles

        storage, key = open_source(uri_of(self.manifest, "manifest"), self.aws_conn_id)
        manifest = read_manifest(storage, key)
        if manifest.format == "sql":
            raise D1ManifestError(
                f"{storage.uri(key)} lists {manifest.content}, not tables: restore it with D1ImportOperator"
            )
        entries = manifest.chosen(self.tables)
        columns = {entry.name: source_columns(entry) for entry in entries}
        known = {fold_case(name) for name in present}
        for entry in entries:
            if fold_case(entry.name) not in known:
                file.add(entry.ddl.rstrip().removesuffix(";").encode() + b"\n;")
        self._empty(file, client, target, [entry.name for entry in entries if fold_case(entry.name) in known])
        staged = StagedFiles(storage, verify_checksums=True)
        for entry in entries:
            table = Table(
                entry.name,
                tuple(Column(column.name, column.type) for column in entry.columns),
                entry.rows,
                tuple(Part(part.uri, part.rows or 0, part.bytes, part.sha256) for part in entry.files),
            )
            staged.check(table)
            rows = source_rows(entry, staged_batches(staged, table, manifest.format))
            add_rows(file, entry.name, columns[entry.name], rows)
        parts = [part for entry in entries for part in entry.files]
        digest = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
        counts = {entry.name: entry.rows for entry in entries}
        return storage.uri(key), counts, sum(part.bytes for part in parts), digest

    def _add_files(
        self, file: ImportFile, client: D1Client, target: Database, present: Sequence[str], folder: Path
    ) -> tuple[str, dict[str, int], int, str]:
        """Add the rows of plain files; what :meth:`_add_manifest` returns."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        from airflow_provider_d1.into_d1.row_files import format_of, read_rows
        from airflow_provider_d1.into_d1.row_inserts import add_rows
        from airflow_provider_d1.staging.streams import file_sha256
        from airflow_provider_d1.storage.s3 import S3Storage

        table = str(self.table)
        if fold_case(table) not in {fold_case(name) for name in present}:
            raise D1ConfigurationError(
                f"database {target.name!r} has no table {table!r}{suggest(table, present)}. Create it first, with the"
                " types that its columns are to have."
            )
        storage = S3Storage(S3Hook(aws_conn_id=self.aws_conn_id), str(self.s3_bucket), "")
        keys = [self.s3_key] if isinstance(self.s3_key, str) else list(self.s3_key or ())
        if isinstance(self.s3_key, str) and self.s3_key.endswith("/"):
            keys = sorted(key for key, size in storage.list(self.s3_key.rstrip("/")).items() if size)
        if not keys:
            raise D1ImportFileError(f"{storage.uri(str(self.s3_key))}: no files found")
        self._empty(file, client, target, [table])
        path, rows, size, hashes = folder / "stored", 0, 0, ""
        for key in keys:
            uri = storage.uri(key)
            if storage.size(key) is None:
                raise D1ImportFileError(f"{uri}: file not found")
            storage.fetch(key, path)
            size += path.stat().st_size
            hashes += file_sha256(path)
            try:
                for columns, values in read_rows(path, self.file_format or format_of(key), uri):
                    rows += add_rows(file, table, columns, values, first=rows)
            except D1ImportFileError as error:
                raise D1ImportFileError(str(error) if uri in str(error) else f"{uri}: {error}") from None
        digest = hashlib.sha256(hashes.encode()).hexdigest()
        source = self.s3_key if isinstance(self.s3_key, str) else ",".join(keys)
        return storage.uri(source), {table: rows}, size, digest

    def _empty(self, file: ImportFile, client: D1Client, target: Database, tables: Sequence[str]) -> None:
        """Delete the rows that are replaced, of referencing tables first: dumps have them behind those they name."""
        from airflow_provider_d1.cloudflare.insert_rows import quoted
        from airflow_provider_d1.into_d1.target_tables import check_replaceable

        if self.mode == "replace" and tables:
            check_replaceable(client, target.uuid, tables)
            for name in reversed(tables):
                file.add(f"DELETE FROM {quoted(name)};".encode())  # noqa: S608 - quoted
