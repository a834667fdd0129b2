"""Write one table: collect blocks into batches, and batches into parts of bounded size.

The type of a column is final only at the end of the table. Until then a part has the types that the rows so far
require. When these change, the part is closed, and the part store casts it once at the end
(:mod:`airflow_provider_d1.staging.part_store`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_provider_d1.dump.column_types import ColumnStats, final_type, part_type

if TYPE_CHECKING:
    from airflow_provider_d1.dump.blocks import ParsedBlock
    from airflow_provider_d1.staging.formats import PartFile, TableFormat
    from airflow_provider_d1.staging.table_plan import TablePlan

#: The whole rows of a smaller table are written into memory: with many such tables, the calls for small local files
#: take longer than all other work on them.
_IN_MEMORY_BYTES = 64 << 10
#: blocks that wait to be written; more of them, even small ones, only need memory
MOST_BLOCKS = 1000


@dataclass(frozen=True)
class LocalPart:
    """A finished file on this machine.

    :param content: its path, or what is in it.
    :param bytes: its size.
    :param types: of the table's own columns in it.
    :param stats: of its rows and those before them, for :func:`airflow_provider_d1.dump.column_types.cast`.
    :param provisional: closed because the types changed, so it will have to be cast.
    """

    content: Path | bytes
    rows: int
    bytes: int
    types: tuple[pa.DataType, ...]
    stats: tuple[ColumnStats, ...]
    provisional: bool


def local_part(
    content: Path | bytes,
    rows: int,
    types: tuple[pa.DataType, ...],
    stats: tuple[ColumnStats, ...],
    *,
    provisional: bool = False,
) -> LocalPart:
    """A finished file with its size."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    return LocalPart(content, rows, size, types, stats, provisional)


class PartWriter:
    """Writes rows of fixed types into files of bounded size.

    :param plan: the table.
    :param types: of its own columns.
    :param form: of the files.
    :param max_bytes: largest size of a file; only a single larger row exceeds it.
    :param new_path: returns the path of a new local file.
    """

    def __init__(
        self,
        plan: TablePlan,
        types: tuple[pa.DataType, ...],
        form: TableFormat,
        max_bytes: int,
        new_path: Callable[[], Path],
    ) -> None:
        self.types = types
        self._schema = plan.arrow_schema(types)
        self._form = form
        self._max_bytes = max_bytes
        self._new_path = new_path
        self._file: PartFile | None = None
        self._rows = 0

    def write(self, rows: pa.Table, *, whole: bool = False) -> Iterator[tuple[Path | bytes, int]]:
        """Append rows; yield each file that this fills, with its number of rows, before the next one is created.

        :param whole: no other rows follow, so files of a few rows can be in memory.
        """
        in_memory = whole and rows.nbytes <= _IN_MEMORY_BYTES
        waiting = [rows]
        while waiting:
            rows = waiting.pop()
            if self._file is None:
                path = None if in_memory else self._new_path()
                self._file = self._form.open(path, self._schema, rows)
            if self._file.add(rows, None if rows.num_rows <= 1 and not self._rows else self._max_bytes):
                self._rows += rows.num_rows
            elif self._rows:
                waiting.append(rows)
                yield from self.close()
            else:
                half = rows.num_rows // 2
                waiting += [rows.slice(half), rows.slice(0, half)]

    def close(self) -> Iterator[tuple[Path | bytes, int]]:
        """Finish the open file, if there is one, and yield it."""
        if self._file is None:
            return
        file, rows = self._file, self._rows
        self._file, self._rows = None, 0
        yield file.close(), rows

    def discard(self) -> None:
        """Close the open file of a run that has failed; its content does not matter."""
        if self._file is not None:
            with contextlib.suppress(Exception):
                self._file.close()


class TableWriter:
    """Takes a table's parsed blocks in order and yields finished parts.

    ``stats`` covers all rows so far; ``begun`` is whether anything was written.

    :param parse_temporal: whether columns may become dates and timestamps when the table ends.
    """

    def __init__(
        self,
        plan: TablePlan,
        form: TableFormat,
        max_bytes: int,
        new_path: Callable[[], Path],
        *,
        parse_temporal: bool,
    ) -> None:
        self.plan = plan
        self.stats = tuple(ColumnStats() for _ in plan.schema.columns)
        self.rows = 0
        self.begun = False
        self._form = form
        self._max_bytes = max_bytes
        self._batch_bytes = min(form.batch_bytes, max_bytes // 2)
        self._new_path = new_path
        self._parse_temporal = parse_temporal
        self._waiting: list[ParsedBlock] = []
        self._waiting_bytes = 0
        self._written = self.stats  # stats of the rows that are in files
        self._part: PartWriter | None = None

    @property
    def waits(self) -> bool:
        """Whether some rows are not in a file yet."""
        return bool(self._waiting)

    @property
    def waiting_bytes(self) -> int:
        """Memory of these rows in bytes."""
        return self._waiting_bytes

    @property
    def has_open_file(self) -> bool:
        """Whether a part is being written."""
        return self._part is not None

    def add(self, block: ParsedBlock) -> Iterator[LocalPart]:
        """Add a block; yield the parts that it completes."""
        self.stats = tuple(seen + column.stats for seen, column in zip(self.stats, block.columns, strict=True))
        self.rows += block.rows
        self._waiting.append(block)
        self._waiting_bytes += sum(column.array.nbytes for column in block.columns)
        if self._waiting_bytes >= self._batch_bytes or len(self._waiting) >= MOST_BLOCKS:
            yield from self._flush(self.safe_types())

    def finish(self, *, last: bool) -> Iterator[LocalPart]:
        """Write the waiting rows; every table has at least one part, which shows its columns.

        :param last: no more blocks can follow; otherwise the dump may have more rows of the table.
        """
        types = self.final_types() if last else self.closing_types()
        if self._waiting or not self.begun:
            yield from self._flush(types, whole=True)
        yield from self._close(provisional=self._part is not None and self._part.types != types)

    def safe_types(self) -> tuple[pa.DataType, ...]:
        """Types for the rows so far that can still be cast to any later type."""
        return tuple(part_type(c.affinity, e) for c, e in zip(self.plan.schema.columns, self.stats, strict=True))

    def final_types(self) -> tuple[pa.DataType, ...]:
        """Types if no more rows follow."""
        return tuple(
            final_type(column.affinity, seen, parse_temporal=self._parse_temporal)
            for column, seen in zip(self.plan.schema.columns, self.stats, strict=True)
        )

    def closing_types(self) -> tuple[pa.DataType, ...]:
        """Types when the dump continues with another table, and probably has no more rows of this one.

        Temporal types are final then, for speed: more rows are rare, and refused if they have another form.
        """
        pairs = zip(self.safe_types(), self.final_types(), strict=True)
        return tuple(final if pa.types.is_temporal(final) else safe for safe, final in pairs)

    def discard(self) -> None:
        """Close the open file after a failure."""
        if self._part is not None:
            self._part.discard()

    def _flush(self, types: tuple[pa.DataType, ...], *, whole: bool = False) -> Iterator[LocalPart]:
        if self._part is None or self._part.types != types:
            yield from self._close(provisional=True)
            self._part = PartWriter(self.plan, types, self._form, self._max_bytes, self._new_path)
        tables = [
            self.plan.cast_rows([c.array for c in block.columns], [c.stats for c in block.columns], types)
            for block in self._waiting
        ]
        rows = pa.concat_tables(tables) if tables else self.plan.arrow_schema(types).empty_table()
        self._waiting, self._waiting_bytes = [], 0
        self.begun = True
        self._written = self.stats
        for content, count in self._part.write(rows, whole=whole):
            yield local_part(content, count, types, self._written)

    def _close(self, *, provisional: bool) -> Iterator[LocalPart]:
        if self._part is not None:
            part, self._part = self._part, None
            for content, count in part.close():
                yield local_part(content, count, part.types, self._written, provisional=provisional)
