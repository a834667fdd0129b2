"""Parsed blocks to their tables, and at the end what the manifest says about these."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_d1 import __version__
from airflow_provider_d1.dump.column_types import settle_newlines
from airflow_provider_d1.dump.reader import TableStarted
from airflow_provider_d1.exceptions import D1FidelityError, D1TypeConflictError
from airflow_provider_d1.staging.audit import AuditColumns, type_name
from airflow_provider_d1.staging.fidelity import certain_losses, conflict_lines, lossy_line
from airflow_provider_d1.staging.manifest import ColumnEntry, LossyCounts, Source, StorageCounts, TableEntry
from airflow_provider_d1.staging.names import Folders, file_column_names, snake_case
from airflow_provider_d1.staging.parts import MOST_BLOCKS, LocalPart, TablePlan, TableWriter
from airflow_provider_d1.staging.store import PartDone, PartStore, TableDone

if TYPE_CHECKING:
    from airflow_provider_d1.dump.blocks import ParsedBlock
    from airflow_provider_d1.dump.schema import TableSchema
    from airflow_provider_d1.staging.formats import TableFormat
    from airflow_provider_d1.staging.options import StagingOptions
    from airflow_provider_d1.staging.progress import ProgressMeter

logger = logging.getLogger(__name__)


class Planner:
    """Decides what is the same for all rows of a table: folder, names, audit columns, metadata."""

    def __init__(self, source: Source, options: StagingOptions) -> None:
        self._folders = Folders()
        self._snake = options.column_names == "snake_case"
        self._audit = AuditColumns.of(source, datetime.now(UTC)) if options.audit_columns else AuditColumns()
        facts = {
            "d1.account_id": source.account_id,
            "d1.database_id": source.database_id,
            "d1.database_name": source.database_name,
            "d1.bookmark": source.bookmark,
            "d1.filename": source.filename,
            "d1.provider_version": __version__,
        }
        self._metadata = {key: value for key, value in facts.items() if value is not None}

    def plan(self, schema: TableSchema) -> TablePlan:
        """Plan a table; a column that cannot keep its name is logged."""
        columns = [column.name for column in schema.columns]
        names = file_column_names(columns, snake=self._snake, audit=self._audit.names)
        for column, name in zip(columns, names, strict=True):
            natural = snake_case(column) if self._snake else column
            if name != natural:
                logger.warning(
                    "Table %r: column %r is staged as %r, because %r is taken", schema.name, column, name, natural
                )
        return TablePlan(
            schema=schema,
            folder=self._folders.folder_of(schema.name),
            names=names,
            audit=self._audit,
            metadata={**self._metadata, "d1.table": schema.name},
        )


class TableRouter:
    """Gives every block to its table's writer, and what that finishes to the store. Not thread-safe.

    A table is finished when the dump goes on to another one; should the dump come back to it, it gets more parts. Once
    a dump has done so, tables that take turns wait for each other, so that not every turn makes a part.

    :param emit: takes what is to be stored, in order.
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
        self._takes_turns = False
        self._left: dict[str, TableWriter] = {}  # whose rows wait while other tables have their turn
        self._blocks_finished = 0
        self._blocks = 0
        self._exact_rows = 0
        self._fallbacks: Counter[str] = Counter()

    def handle(self, item: TableStarted | ParsedBlock) -> None:
        """Take the next table or block of the dump."""
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
            self._takes_turns |= writer.rows > 0
            self._leave(self._current)
        self._current = writer
        self._send(writer, writer.add(item))
        self._meter.add_rows(item.schema.name, item.rows)
        self._blocks += 1
        if item.fallback_reason is not None:
            self._fallbacks[item.fallback_reason] += 1
            self._exact_rows += item.exact_rows

    def end(self) -> None:
        """Say that the dump has ended: now all types are final.

        :raises D1FidelityError: with ``on_lossy="fail"``, naming every column.
        :raises D1TypeConflictError: with ``on_type_conflict="fail"``, naming every column.
        """
        settled = settle_newlines([writer.stats for writer in self._writers.values()])
        for writer, stats in zip(self._writers.values(), settled, strict=True):
            writer.stats = stats
        self._judge()
        for writer in self._writers.values():
            if writer is self._current or writer.waits or not writer.begun:
                self._finish(writer, last=True)
            elif writer.final_types() != writer.closing_types():
                self._emit(TableDone(writer.plan, writer.final_types(), writer.stats))
        self._log_fallbacks()

    def discard(self) -> None:
        """Close what is open after a failure; nothing more is handed to the store."""
        for writer in self._writers.values():
            writer.discard()

    def entries(self, store: PartStore) -> tuple[TableEntry, ...]:
        """Describe all tables in dump order, once the store has settled them."""
        return tuple(self._entry(writer, store) for writer in self._writers.values())

    def _leave(self, writer: TableWriter) -> None:
        """Finish a table; in a dump that takes turns, all that were left lately, once they are worth it together."""
        self._left[writer.plan.schema.name] = writer
        few = self._blocks - self._blocks_finished < MOST_BLOCKS and not writer.has_open_file
        if self._takes_turns and few and sum(w.waiting_bytes for w in self._left.values()) < self._form.batch_bytes:
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

    def _judge(self) -> None:
        tables = [(writer.plan.schema, writer.stats) for writer in self._writers.values()]
        conflicts = [
            line
            for w in self._writers.values()
            for line in conflict_lines(w.plan.schema, w.stats, map(type_name, w.final_types()))
        ]
        if conflicts and self._options.on_type_conflict == "fail":
            raise D1TypeConflictError("; ".join(conflicts))
        if self._options.on_lossy == "fail" and (losses := [e for t in tables for e in certain_losses(*t)]):
            raise D1FidelityError("; ".join(losses))
        for line in conflicts:
            logger.warning("%s", line)
        if self._options.on_lossy == "warn":
            for schema, stats in tables:
                if suspicion := lossy_line(schema, stats):
                    logger.warning("%s", suspicion)

    def _log_fallbacks(self) -> None:
        if self._fallbacks:
            count = sum(self._fallbacks.values())
            reasons = ", ".join(f"{reason} ({times})" for reason, times in self._fallbacks.most_common())
            logger.info(
                "%d of %d blocks (%.1f %%), %d rows, left the fast path: %s",
                count,
                self._blocks,
                100 * count / self._blocks,
                self._exact_rows,
                reasons,
            )

    def _entry(self, writer: TableWriter, store: PartStore) -> TableEntry:
        plan = writer.plan
        columns = [
            ColumnEntry(
                name=name,
                declared_type=column.declared_type,
                type=type_name(kind),
                nullable=column.nullable,
                primary_key=column.primary_key,
                storage=StorageCounts(**seen.storage),
                lossy=LossyCounts(**seen.lossy),
                source_name=None if name == column.name else column.name,
            )
            for name, column, kind, seen in zip(
                plan.names, plan.schema.columns, writer.final_types(), writer.stats, strict=True
            )
        ]
        return TableEntry(
            name=plan.schema.name,
            rows=writer.rows,
            ddl=plan.schema.ddl,
            columns=(*columns, *plan.audit.entries(writer.rows)),
            files=store.files(plan.schema.name),
            generated=plan.schema.generated,
        )
