"""Stage a dump: write the files, then the manifest; on failure remove everything."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from airflow_provider_d1 import __version__
from airflow_provider_d1.cloudflare.models import EXCLUDED, SkippedObject
from airflow_provider_d1.staging.dump_file import KEPT_CODEC, store_dump
from airflow_provider_d1.staging.dump_tables import TableNameReader
from airflow_provider_d1.staging.encryption import AGE
from airflow_provider_d1.staging.manifest import DumpEntry, Manifest
from airflow_provider_d1.staging.output_folder import OutputFolder
from airflow_provider_d1.staging.prefix import Prefix
from airflow_provider_d1.staging.progress import Progress, ProgressMeter
from airflow_provider_d1.staging.staging_run import StagingRun, new_run_id
from airflow_provider_d1.staging.streams import MeteredReader, Readable
from airflow_provider_d1.staging.work_folder import work_folder

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest_source import Source
    from airflow_provider_d1.staging.manifest_tables import FileEntry, TableEntry
    from airflow_provider_d1.staging.options import StagingOptions
    from airflow_provider_d1.storage.base import Storage
    from airflow_provider_d1.storage.folder import FolderStorage


class Destination(Protocol):
    """Where a run is published or discarded."""

    def check(self) -> None:
        """Refuse a destination that must not be replaced, before anything is written."""

    def publish(self, run: StagingRun, manifest: Manifest) -> None:
        """Verify the run's files and make its manifest the current one."""

    def abandon(self, run: StagingRun) -> None:
        """Remove the files of a run that failed; must not raise."""


def stage(
    dump: Readable,
    storage: Storage,
    options: StagingOptions,
    source: Source,
    *,
    owner: str | None = None,
    check_tables: Callable[[Collection[str]], None] | None = None,
    temp_dir: Path | None = None,
    parse_threads: int = 2,
    on_progress: Callable[[Progress], None] | None = None,
) -> Manifest:
    """Stage a dump as a new run in a prefix: files in the run's folder, and its manifest last.

    A run that fails leaves no files; other runs are not changed.

    :param dump: the uncompressed dump; only ``read(n)`` is called, from one thread. The caller closes it.
    :param storage: rooted at the prefix.
    :param options: the staging options.
    :param source: the dump's source, for the manifest.
    :param owner: identifies the task over its attempts; see
        :func:`~airflow_provider_d1.staging.staging_run.new_run_id`.
    :param check_tables: called with the names of all staged tables before anything is published; raises to refuse them.
    :param temp_dir: for a few unfinished parts; by default the system's temporary folder.
    :param parse_threads: more than two do not help; one needs less memory; with 0 everything runs in this thread.
    :param on_progress: called after every piece of the dump, in the thread that reads it; must be fast.
    :raises D1DumpError: when the dump is malformed, with its byte offset.
    :raises D1LossyExportError: with ``on_lossy="fail"``, naming the columns.
    :raises D1TypeConflictError: with ``on_type_conflict="fail"``, naming the columns.
    :raises D1StagingError: when files did not arrive completely, or a manifest exists and ``replace`` is False.
    :raises D1TableNotFoundError: for a name in ``exclude_tables`` that is not a table of the dump.
    :raises D1ConfigurationError: when the prefix has runs of another database.
    """
    prefix = Prefix(storage, source, replace=options.replace, keep_runs=options.keep_runs)
    run = StagingRun(storage, new_run_id(owner))
    return _stage(dump, prefix, run, options, source, temp_dir, parse_threads, on_progress, check_tables)


def stage_into_folder(
    dump: Readable,
    storage: FolderStorage,
    options: StagingOptions,
    source: Source,
    *,
    temp_dir: Path | None = None,
    parse_threads: int = 2,
    on_progress: Callable[[Progress], None] | None = None,
) -> Manifest:
    """Stage a dump as the only run of a local folder, as the command line does; parameters as of :func:`stage`.

    The files are written to a temporary folder inside it and moved into place when all are complete. Only then an
    earlier staging in the folder is replaced.

    :param temp_dir: the folder itself by default.
    """
    # unfinished parts are on the same file system as finished ones, so they can be moved instead of copied
    storage.path.mkdir(parents=True, exist_ok=True)
    with work_folder(storage.path) as build:
        run = StagingRun(storage, new_run_id(), folder=f"{build.name}/staged", listed_in="")
        folder = OutputFolder(storage, replace=options.replace is not False)
        return _stage(dump, folder, run, options, source, temp_dir or build, parse_threads, on_progress)


def _stage(
    dump: Readable,
    destination: Destination,
    run: StagingRun,
    options: StagingOptions,
    source: Source,
    temp_dir: Path | None,
    parse_threads: int,
    on_progress: Callable[[Progress], None] | None,
    check_tables: Callable[[Collection[str]], None] | None = None,
) -> Manifest:
    destination.check()
    meter = ProgressMeter(on_progress)
    try:
        names = TableNameReader(dump) if options.file_format == "sql" else None
        metered = MeteredReader(names or dump, on_bytes=meter.add_bytes)
        if names is not None:
            stored = store_dump(metered, run, source, options.codec, options.age_recipients)
            if check_tables is not None:
                check_tables(names.names)
            entry = DumpEntry(metered.length, metered.sha256)
            manifest = _manifest(run, options, source, entry, files=(stored,))
        else:
            from airflow_provider_d1.staging.table_pipeline import stage_tables

            with work_folder(temp_dir) as work:
                staged = stage_tables(
                    metered, run, options, source, work=work, meter=meter, parse_threads=parse_threads
                )
            if check_tables is not None:
                check_tables({table.name for table in staged.tables})
            entry = DumpEntry(metered.length, metered.sha256, staged.kept, KEPT_CODEC if staged.kept else None)
            present = {skipped.name for skipped in source.skipped}
            excluded = [name for name in dict.fromkeys(options.exclude_tables or ()) if name not in present]
            source = replace(source, skipped=(*source.skipped, *(SkippedObject(name, EXCLUDED) for name in excluded)))
            manifest = _manifest(run, options, source, entry, tables=staged.tables)
        destination.publish(run, manifest)
    except BaseException:
        destination.abandon(run)
        raise
    meter.finish()
    return manifest


def _manifest(
    run: StagingRun,
    options: StagingOptions,
    source: Source,
    dump: DumpEntry,
    *,
    tables: tuple[TableEntry, ...] = (),
    files: tuple[FileEntry, ...] = (),
) -> Manifest:
    return Manifest(
        run=run.id,
        created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        provider_version=__version__,
        source=source,
        dump=dump,
        format=options.file_format,
        compression=options.codec,
        encryption=AGE if options.age_recipients else None,
        tables=tables,
        files=files,
        binary_encoding="hex" if options.file_format in ("csv", "jsonl") else None,
    )
