"""The way of a dump into staging, whole: choose the format's way, and end with a manifest or without a trace."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_d1 import __version__
from airflow_provider_d1.staging.manifest import DumpEntry, FileEntry, Manifest, Source, TableEntry
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.progress import Progress, ProgressMeter
from airflow_provider_d1.staging.raw import KEPT_CODEC, dump_files, store_dump
from airflow_provider_d1.staging.run import StagingRun
from airflow_provider_d1.staging.streams import MeteredReader, Readable
from airflow_provider_d1.staging.work_folder import work_folder

if TYPE_CHECKING:
    from airflow_provider_d1.staging.sinks import Sink

__all__ = ["StagingOptions", "stage"]


def stage(
    dump: Readable,
    sink: Sink,
    options: StagingOptions,
    source: Source,
    *,
    temp_dir: Path | None = None,
    parse_threads: int = 2,
    on_progress: Callable[[Progress], None] | None = None,
) -> Manifest:
    """Turn a dump into staged files and write the manifest last.

    A run that fails leaves the prefix as it found it: an older manifest and its files stay whole.

    :param dump: the uncompressed dump; only ``read(n)`` is called, from one thread. The caller closes it.
    :param sink: where the files go.
    :param options: how.
    :param source: where the dump came from, for the manifest.
    :param temp_dir: where a few unfinished parts may lie for a while; the system's folder for such things by default.
    :param parse_threads: more than two do not help; one takes less memory, none does everything in this thread.
    :param on_progress: called in this thread after every piece of the dump; must be quick.
    :raises D1DumpError: for what is no dump, with its byte offset.
    :raises D1FidelityError: with ``on_lossy="fail"``, naming the columns.
    :raises D1TypeConflictError: with ``on_type_conflict="fail"``, naming the columns.
    :raises D1StagingError: when files did not arrive whole, or a manifest stands and ``replace`` is False.
    :raises D1ConfigurationError: when column names collide.
    """
    run = StagingRun(sink, replace=options.replace)
    meter = ProgressMeter(on_progress)
    try:
        run.begin(dump_files(options, source))
        metered = MeteredReader(dump, on_bytes=meter.add_bytes)
        if options.file_format == "sql":
            stored = store_dump(metered, run, source, options.codec)
            manifest = _manifest(options, source, DumpEntry(metered.length, metered.sha256), files=(stored,))
        else:
            from airflow_provider_d1.staging.tables import stage_tables

            with work_folder(temp_dir) as work:
                staged = stage_tables(
                    metered, run, options, source, work=work, meter=meter, parse_threads=parse_threads
                )
            entry = DumpEntry(metered.length, metered.sha256, staged.kept, KEPT_CODEC if staged.kept else None)
            manifest = _manifest(options, source, entry, tables=staged.tables)
        run.commit(manifest)
    except BaseException:
        run.rollback()
        raise
    meter.finish()
    return manifest


def _manifest(
    options: StagingOptions,
    source: Source,
    dump: DumpEntry,
    *,
    tables: tuple[TableEntry, ...] = (),
    files: tuple[FileEntry, ...] = (),
) -> Manifest:
    return Manifest(
        created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        provider_version=__version__,
        source=source,
        dump=dump,
        format=options.file_format,
        compression=options.codec,
        tables=tables,
        files=files,
        binary_encoding="hex" if options.file_format in ("csv", "jsonl") else None,
    )
