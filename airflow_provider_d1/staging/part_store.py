"""Store finished parts, and cast those whose types are too narrow in the end."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_provider_d1.exceptions import D1DumpError
from airflow_provider_d1.staging.parts import LocalPart, PartWriter, local_part
from airflow_provider_d1.staging.streams import file_sha256

if TYPE_CHECKING:
    from airflow_provider_d1.dump.column_types import ColumnStats
    from airflow_provider_d1.staging.formats import TableFormat
    from airflow_provider_d1.staging.manifest_tables import FileEntry
    from airflow_provider_d1.staging.staging_run import StagingRun
    from airflow_provider_d1.staging.table_plan import TablePlan

#: how many small parts are stored at a time
UPLOAD_THREADS = 20
#: how many may wait for a thread
MAX_PENDING_UPLOADS = 2 * UPLOAD_THREADS
#: a larger part is stored alone, so that waiting parts need no more space than one part of the default size
SMALL_PART_BYTES = 4 << 20


@dataclass(frozen=True)
class PartDone:
    """A table has one more finished file."""

    plan: TablePlan
    part: LocalPart


@dataclass(frozen=True)
class TableDone:
    """All rows of a table so far are in files, which are to have these types."""

    plan: TablePlan
    types: tuple[pa.DataType, ...]
    stats: tuple[ColumnStats, ...]


@dataclass(frozen=True)
class _Held:
    """A part with its key: kept on this machine under a path, being stored, or stored."""

    key: str
    part: LocalPart
    place: Path | Future[FileEntry] | FileEntry


class PartStore:
    """Hashes and stores parts, deletes them here, and casts those whose types are too narrow in the end.

    A part that will be cast is kept here until then, up to the size of one part; other parts are stored at once and
    fetched back one at a time when they have to be cast. So the disk never has more than a few parts.

    Small parts are stored several at a time: a thousand tables of one row would otherwise wait for a thousand
    responses in sequence. A large part is stored alone, because storage splits it into parallel requests.

    :param uploads: stores small parts in its threads; None stores every part in the calling thread.
    """

    def __init__(
        self,
        run: StagingRun,
        form: TableFormat,
        max_bytes: int,
        new_path: Callable[[], Path],
        uploads: Executor | None = None,
    ) -> None:
        self._run = run
        self._form = form
        self._max_bytes = max_bytes
        self._new_path = new_path
        self._uploads = uploads
        self._pending: deque[Future[FileEntry]] = deque()
        self._held: dict[str, list[_Held]] = {}
        self._numbers: dict[str, int] = {}
        self._kept_bytes = 0

    def handle(self, news: PartDone | TableDone) -> None:
        """Store or cast parts; called in order, by one thread."""
        if isinstance(news, PartDone):
            self._held.setdefault(news.plan.schema.name, []).append(self._take(news.plan, news.part))
        else:
            self._settle(news)

    def finish(self) -> None:
        """Wait until everything is stored; raises the first error of a thread that stored something."""
        while self._pending:
            self._pending.popleft().result()

    def files(self, table: str) -> tuple[FileEntry, ...]:
        """Return a settled table's files in the order of its rows."""
        return tuple(_stored(held.place) for held in self._held[table] if not isinstance(held.place, Path))

    def _take(self, plan: TablePlan, part: LocalPart) -> _Held:
        key = self._next_key(plan)
        kept = part.provisional and self._kept_bytes + part.bytes <= self._max_bytes
        if kept and isinstance(part.content, Path):
            self._kept_bytes += part.bytes
            return _Held(key, part, part.content)
        return self._put(key, part)

    def _next_key(self, plan: TablePlan) -> str:
        number = self._numbers.get(plan.folder, 0)
        self._numbers[plan.folder] = number + 1
        return self._run.part_key(plan.folder, number, self._form.suffix)

    def _put(self, key: str, part: LocalPart) -> _Held:
        without_content = part if isinstance(part.content, Path) else replace(part, content=b"")
        if self._uploads is None or part.bytes > SMALL_PART_BYTES:
            return _Held(key, without_content, self._upload(key, part))
        if len(self._pending) >= MAX_PENDING_UPLOADS:  # bounds the disk space, and reports an error early
            self._pending.popleft().result()
        future = self._uploads.submit(self._upload, key, part)
        self._pending.append(future)
        return _Held(key, without_content, future)

    def _upload(self, key: str, part: LocalPart) -> FileEntry:
        if isinstance(part.content, bytes):
            digest = hashlib.sha256(part.content).hexdigest()
            self._run.storage.put_bytes(key, part.content)
        else:
            digest = file_sha256(part.content)
            self._run.storage.put_file(key, part.content)
            part.content.unlink(missing_ok=True)
        return self._run.stored(key, length=part.bytes, sha256=digest, rows=part.rows)

    def _settle(self, done: TableDone) -> None:
        table = done.plan.schema.name
        settled: list[_Held] = []
        for held in self._held[table]:
            if held.part.types != done.types:
                settled += self._cast(held, done)
            elif isinstance(held.place, Path):
                self._kept_bytes -= held.part.bytes
                settled.append(self._put(held.key, held.part))
            else:
                settled.append(held)
        self._held[table] = settled

    def _cast(self, held: _Held, done: TableDone) -> list[_Held]:
        """Write a part once more with other types; wider values may need more than one file."""
        plan, part = done.plan, held.part
        _refuse_to_unparse_times(plan, part.types, done.types)
        if isinstance(held.place, Path):
            path = held.place
            self._kept_bytes -= part.bytes
        else:
            _stored(held.place)
            path = self._new_path()
            self._run.storage.fetch(held.key, path)
        result: list[_Held] = []
        for content, rows in self._recast(part, path, done):
            key = self._next_key(plan) if result else held.key
            result.append(self._put(key, local_part(content, rows, done.types, done.stats)))
        path.unlink()
        return result

    def _recast(self, part: LocalPart, path: Path, done: TableDone) -> Iterator[tuple[Path | bytes, int]]:
        plan = done.plan
        writer = PartWriter(plan, done.types, self._form, self._max_bytes, self._new_path)
        try:
            for rows in self._form.read(path, plan.arrow_schema(part.types)):
                for batch in rows.to_batches():
                    own = batch.columns[: len(part.types)]
                    yield from writer.write(plan.cast_rows(own, part.stats, done.types))
            yield from writer.close()
        finally:
            writer.discard()


def _stored(entry: FileEntry | Future[FileEntry]) -> FileEntry:
    return entry.result() if isinstance(entry, Future) else entry


def _refuse_to_unparse_times(plan: TablePlan, old: Sequence[pa.DataType], new: Sequence[pa.DataType]) -> None:
    for column, before, after in zip(plan.schema.columns, old, new, strict=True):
        if pa.types.is_temporal(before) and before != after:
            raise D1DumpError(
                f"column {column.name!r} was staged as a date or timestamp, but later rows have other values. "
                "Use parse_temporal=False",
                table=plan.schema.name,
            )
