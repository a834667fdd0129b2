"""Route parsed blocks to the writers of their tables, and finished parts to the part store."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_d1.dump.column_types import settle_newlines
from airflow_provider_d1.dump.reader import TableStarted
from airflow_provider_d1.staging.part_store import PartDone, TableDone
from airflow_provider_d1.staging.parts import MOST_BLOCKS, LocalPart, TableWriter
from airflow_provider_d1.staging.table_report import report_values

if TYPE_CHECKING:
    from airflow_provider_d1.dump.blocks import ParsedBlock
    from airflow_provider_d1.staging.formats import TableFormat
    from airflow_provider_d1.staging.options import StagingOptions
    from airflow_provider_d1.staging.progress import ProgressMeter
    from airflow_provider_d1.staging.table_plan import Planner

logger = logging.getLogger(__name__)


class TableRouter:
    """Passes each block to its table's writer, and finished parts to the store. Not thread-safe.

    A table is finished when the dump continues with another one; if more of its rows follow, it gets more parts. From
    then on rows of alternating tables are collected before they are written, so that not every change of table makes a
    part.

    :param emit: called with each part or table to store, in order.
    """

    def __init__(
        self,
        planner: Planner,
        form: TableFormat,
        options: StagingOptions,
        new_path: Callable[[], Path],
        meter: ProgressMeter,
        emit: Callable[[PartDone | TableDone], None],
    ) -> None:
        self._planner = planner
        self._form = form
        self._options = options
        self._new_path = new_path
        self._meter = meter
        self._emit = emit
        self._writers: dict[str, TableWriter] = {}
        self._current: TableWriter | None = None
        self._alternates = False
        self._left: dict[str, TableWriter] = {}  # tables whose rows wait to be written together
        self._blocks_finished = 0
        self._blocks = 0
        self._exact_rows = 0
        self._fallbacks: Counter[str] = Counter()

    def handle(self, item: TableStarted | ParsedBlock) -> None:
        """Process the next table or block of the dump."""
        if isinstance(item, TableStarted):
            self._writers[item.schema.name] = TableWriter(
                self._planner.plan(item.schema),
                self._form,
                self._options.max_part_bytes,
                self._new_path,
                parse_temporal=self._options.parse_temporal,
            )
            return
        writer = self._writers[item.schema.name]
        if self._current is not None and self._current is not writer:
            self._alternates |= writer.rows > 0
            self._leave(self._current)
        self._current = writer
        self._send(writer, writer.add(item))
        self._meter.add_rows(item.schema.name, item.rows)
        self._blocks += 1
        if item.fallback_reason is not None:
            self._fallbacks[item.fallback_reason] += 1
            self._exact_rows += item.exact_rows

    def end(self) -> None:
        """Finish all tables at the end of the dump, when all types are final.

        :raises D1LossyExportError: with ``on_lossy="fail"``, naming every column.
        :raises D1TypeConflictError: with ``on_type_conflict="fail"``, naming every column.
        """
        settled = settle_newlines([writer.stats for writer in self._writers.values()])
        for writer, stats in zip(self._writers.values(), settled, strict=True):
            writer.stats = stats
        report_values(self.tables, self._options)
        for writer in self._writers.values():
            if writer is self._current or writer.waits or not writer.begun:
                self._finish(writer, last=True)
            elif writer.final_types() != writer.closing_types():
                self._emit(TableDone(writer.plan, writer.final_types(), writer.stats))
        self._log_fallbacks()

    @property
    def tables(self) -> tuple[TableWriter, ...]:
        """All tables in dump order."""
        return tuple(self._writers.values())

    def discard(self) -> None:
        """Close open files after a failure, without storing them."""
        for writer in self._writers.values():
            writer.discard()

    def _leave(self, writer: TableWriter) -> None:
        """Finish a table; with alternating tables, finish all waiting ones once they are large enough together."""
        self._left[writer.plan.schema.name] = writer
        few = self._blocks - self._blocks_finished < MOST_BLOCKS and not writer.has_open_file
        if self._alternates and few and sum(w.waiting_bytes for w in self._left.values()) < self._form.batch_bytes:
            return
        for left in self._left.values():
            self._finish(left, last=False)
        self._left.clear()
        self._blocks_finished = self._blocks

    def _finish(self, writer: TableWriter, *, last: bool) -> None:
        self._send(writer, writer.finish(last=last))
        types = writer.final_types() if last else writer.closing_types()
        self._emit(TableDone(writer.plan, types, writer.stats))

    def _send(self, writer: TableWriter, parts: Iterable[LocalPart]) -> None:
        for part in parts:
            self._emit(PartDone(writer.plan, part))

    def _log_fallbacks(self) -> None:
        if self._fallbacks:
            count = sum(self._fallbacks.values())
            reasons = ", ".join(f"{reason} ({times})" for reason, times in self._fallbacks.most_common())
            logger.debug(
                "Parsed by the exact path: rows=%d blocks=%d of %d reasons=%s",
                self._exact_rows,
                count,
                self._blocks,
                reasons,
            )
