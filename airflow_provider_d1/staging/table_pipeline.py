"""Stage the tables of a dump: split, parse, write, hash and store at the same time, with the rows in dump order.

The calling thread reads and splits; others parse blocks; one writes parts; one hashes and stores them, several small
ones at a time, and casts those of the wrong type while the next table is being parsed. The channels between them are
bounded, and so is the memory. Without parse threads, all steps run in the calling thread.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_d1.dump.blocks import Block, ParsedBlock, parse_block, parse_exactly
from airflow_provider_d1.dump.reader import DumpReader, TableStarted
from airflow_provider_d1.exceptions import D1DumpError, D1TableNotFoundError
from airflow_provider_d1.staging.dump_file import KEPT_CODEC, store_dump
from airflow_provider_d1.staging.formats import table_format
from airflow_provider_d1.staging.part_store import UPLOAD_THREADS, PartDone, PartStore, TableDone
from airflow_provider_d1.staging.streams import CHUNK, Readable
from airflow_provider_d1.staging.table_plan import Planner
from airflow_provider_d1.staging.table_report import table_entry
from airflow_provider_d1.staging.table_router import TableRouter
from airflow_provider_d1.staging.workers import Channel, WorkerGroup
from airflow_provider_d1.validation import suggest

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest_source import Source
    from airflow_provider_d1.staging.manifest_tables import FileEntry, TableEntry
    from airflow_provider_d1.staging.options import StagingOptions
    from airflow_provider_d1.staging.progress import ProgressMeter
    from airflow_provider_d1.staging.staging_run import StagingRun

_BLOCKS_AHEAD = 2
#: a smaller block is parsed by the thread that reads: to pass it to another one takes longer
_SMALL_BLOCK_BYTES = 64 << 10
#: a block of a few rows is parsed faster one value at a time
_EXACT_BYTES = 1 << 10
#: weight in a channel of a small block, of a part of at most this size, and of an item without rows: with many small
#: tables the threads would otherwise spend more time on waiting for each other than on work
_LIGHT_WEIGHT = 1 / 16
_LIGHT_PART_BYTES = 256 << 10


@dataclass(frozen=True)
class StagedTables:
    """The tables of a dump; ``kept`` is the stored dump itself, with ``keep_dump``."""

    tables: tuple[TableEntry, ...]
    kept: FileEntry | None


def stage_tables(
    dump: Readable,
    run: StagingRun,
    options: StagingOptions,
    source: Source,
    *,
    work: Path,
    meter: ProgressMeter,
    parse_threads: int,
) -> StagedTables:
    """Stage a dump's tables as stored parts; the caller writes the manifest.

    :param dump: the uncompressed dump.
    :param work: an empty folder for parts that are not stored yet.
    :param meter: counts rows and tables.
    :param parse_threads: with 0 everything runs in this thread.
    :raises D1Error: as :func:`airflow_provider_d1.staging.stage.stage` does; all threads have ended then.
    """
    form = table_format(options)
    new_path = _counting_paths(work)
    planner = Planner(source, options)
    reader = DumpReader(temporal=options.parse_temporal)
    kept: list[FileEntry] = []
    with contextlib.ExitStack() as after_the_workers, WorkerGroup(run.storage.cancel) as workers:
        uploads = ThreadPoolExecutor(UPLOAD_THREADS, "d1-staging-upload") if parse_threads else None
        if uploads is not None:
            after_the_workers.callback(uploads.shutdown, cancel_futures=True)
        store = PartStore(run, form, options.max_part_bytes, new_path, uploads)
        if options.keep_dump:
            chunks: Channel[bytes] = workers.channel(4)
            workers.start("dump", lambda: kept.append(store_dump(_Chunks(chunks), run, source, KEPT_CODEC)))
            dump = _Tee(dump, chunks)
        parts: Channel[PartDone | TableDone] = workers.channel(2)
        emit = (lambda news: parts.put(news, _weight(news))) if parse_threads else store.handle
        events = _without(options.exclude_tables or (), source, _events(dump, reader))
        router = TableRouter(planner, form, options, new_path, meter, emit)
        after_the_workers.callback(router.discard)
        if parse_threads:
            _Pipeline(workers, parse_threads, router, parts, store).feed(events)
        else:
            for event in events:
                router.handle(_parsed(event) if isinstance(event, Block) else event)
            router.end()
        if options.keep_dump:
            chunks.end()
    entries = tuple(table_entry(table, store.files(table.plan.schema.name)) for table in router.tables)
    return StagedTables(entries, kept[0] if kept else None)


class _Pipeline:
    """Parse threads, a writing and a storing thread, and the channels between them.

    An error in the dump is passed on in dump order, so that of two errors the first one is reported. Any other error
    stops all threads at once.
    """

    def __init__(
        self,
        workers: WorkerGroup,
        parse_threads: int,
        router: TableRouter,
        parts: Channel[PartDone | TableDone],
        store: PartStore,
    ) -> None:
        self._router = router
        self._parts = parts
        self._store = store
        self._jobs: Channel[tuple[int, Block]] = workers.channel(parse_threads)
        self._ordered: Channel[TableStarted | ParsedBlock | D1DumpError] = workers.channel(
            parse_threads + _BLOCKS_AHEAD
        )
        for number in range(parse_threads):
            workers.start(f"parse-{number}", self._parse)
        workers.start("write", self._write)
        workers.start("store", self._store_parts)

    def feed(self, events: Iterator[TableStarted | Block]) -> None:
        """Pass the tables and blocks of the dump to the threads."""
        try:
            for event in events:
                if not isinstance(event, Block):
                    self._ordered.put(event, _LIGHT_WEIGHT)
                elif len(event.body) < _SMALL_BLOCK_BYTES:
                    self._ordered.put(_parsed(event), _LIGHT_WEIGHT)
                else:
                    self._jobs.put((self._ordered.reserve(), event))
        except D1DumpError as error:
            self._ordered.put(error)
        self._jobs.end()
        self._ordered.end()

    def _parse(self) -> None:
        for place, block in self._jobs:
            try:
                self._ordered.deliver(place, parse_block(block))
            except D1DumpError as error:
                self._ordered.deliver(place, error)

    def _write(self) -> None:
        for item in self._ordered:
            if isinstance(item, D1DumpError):
                raise item
            self._router.handle(item)
        self._router.end()
        self._parts.end()

    def _store_parts(self) -> None:
        for news in self._parts:
            self._store.handle(news)
        self._store.finish()


class _Tee:
    """Reads a stream and also puts each piece into a channel."""

    def __init__(self, source: Readable, copies: Channel[bytes]) -> None:
        self._source = source
        self._copies = copies

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        if data:
            self._copies.put(data)
        return data


class _Chunks:
    """A stream that reads the pieces of a channel."""

    def __init__(self, pieces: Channel[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        data = self._rest or next(self._pieces, b"")
        self._rest = data[size:]
        return data[:size]


def _events(dump: Readable, reader: DumpReader) -> Iterator[TableStarted | Block]:
    while data := dump.read(CHUNK):
        yield from reader.feed(data)
    yield from reader.finish()


def _without(
    excluded: Collection[str], source: Source, events: Iterable[TableStarted | Block]
) -> Iterator[TableStarted | Block]:
    """Remove excluded tables before their rows are parsed.

    :raises D1TableNotFoundError: at the end, for a name that is neither in the dump nor among the skipped tables.
    """
    known = {skipped.name for skipped in source.skipped}
    for event in events:
        name = event.schema.name
        if isinstance(event, TableStarted):
            known.add(name)
        if name not in excluded:
            yield event
    if missing := [name for name in excluded if name not in known]:
        hints = ", ".join(f"{name!r}{suggest(name, known)}" for name in missing)
        raise D1TableNotFoundError(f"exclude_tables: no such table (names are case-sensitive): {hints}")


def _parsed(block: Block) -> ParsedBlock:
    return parse_exactly(block) if len(block.body) < _EXACT_BYTES else parse_block(block)


def _weight(news: PartDone | TableDone) -> float:
    large = isinstance(news, PartDone) and news.part.bytes > _LIGHT_PART_BYTES
    return 1 if large else _LIGHT_WEIGHT


def _counting_paths(folder: Path) -> Callable[[], Path]:
    numbers = itertools.count()
    return lambda: folder / f"part-{next(numbers)}"
