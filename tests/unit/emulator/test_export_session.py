from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from airflow_provider_d1.cloudflare.models import ExportOptions
from airflow_provider_d1.emulator.dump_writer import VIRTUAL_TABLE_ERROR
from airflow_provider_d1.emulator.exports import (
    BUSY_START,
    LOST,
    ExportActive,
    ExportAnswer,
    ExportComplete,
    ExportFailed,
    ExportSession,
)
from airflow_provider_d1.emulator.faults import Faults


@dataclass
class Job:
    finished: bool = True
    error: str | None = None
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Bench:
    """A session with a hand on its clock and on its dumps."""

    def __init__(self, **faults: object) -> None:
        self.now = 100.0
        self.faults = Faults(clock=lambda: self.now)
        self.faults.set(faults)
        self.jobs: list[Job] = []
        self.next_job = Job()
        self.session = ExportSession(self._write, "shop", self._bookmark, self.faults)

    def _write(self, _options: ExportOptions, _filename: str) -> Job:
        self.jobs.append(self.next_job)
        return self.next_job

    def _bookmark(self) -> str:
        return f"bookmark{len(self.jobs)}"

    def start(self) -> ExportAnswer:
        return self.session.start(ExportOptions(), self.now)

    def poll(self, bookmark: str = "bookmark0", after: float = 0.0) -> ExportAnswer:
        self.now += after
        return self.session.poll(bookmark, self.now)

    def unavailable(self, after: float = 0.0) -> bool:
        self.now += after
        return self.session.unavailable(self.now)


def test_a_small_export() -> None:
    bench = Bench(export_parts=3)
    assert bench.start() == ExportActive("bookmark0", ("Generating shop-bookmark0.sql",))
    assert bench.poll() == ExportComplete(
        "bookmark0",
        (
            "Uploaded part 2",
            "Uploaded part 1",
            "Uploaded part 3",
            "Finished uploading shop-bookmark0.sql in 3 parts.",
        ),
        "shop-bookmark0.sql",
    )


def test_complete_is_returned_once() -> None:
    bench = Bench()
    bench.start()
    assert isinstance(bench.poll(), ExportComplete)
    assert bench.poll() == ExportFailed(LOST)


def test_messages_come_once_and_parts_out_of_order() -> None:
    bench = Bench(export_seconds=40, export_parts=5)
    bench.start()
    messages = []
    for _ in range(8):
        answer = bench.poll(after=5)
        assert isinstance(answer, ExportActive | ExportComplete)
        messages += list(answer.messages)
    assert isinstance(answer, ExportComplete)
    numbers = [int(match[1]) for line in messages if (match := re.fullmatch(r"Uploaded part (\d)", line))]
    assert numbers == [2, 1, 4, 3, 5]
    assert messages[-1] == "Finished uploading shop-bookmark0.sql in 5 parts."


def test_an_export_takes_its_seconds_and_until_its_dump_is_written() -> None:
    bench = Bench(export_seconds=10)
    bench.next_job = Job(finished=False)
    bench.start()
    assert isinstance(bench.poll(after=9.9), ExportActive)
    assert isinstance(bench.poll(after=5), ExportActive)
    bench.next_job.finished = True
    assert isinstance(bench.poll(), ExportComplete)


def test_queries_are_refused_while_it_runs() -> None:
    bench = Bench(export_seconds=10)
    assert not bench.unavailable()
    bench.start()
    assert bench.unavailable(after=9.9)
    assert not bench.unavailable(after=0.2)


@pytest.mark.parametrize(("gap", "alive"), [(15.0, True), (15.1, False)])
def test_an_export_without_polls_is_cancelled(gap: float, alive: bool) -> None:
    bench = Bench(export_seconds=60)
    bench.start()
    assert isinstance(bench.poll(after=gap), ExportActive if alive else ExportFailed)
    assert bench.jobs[0].cancelled is not alive


def test_polls_keep_it_alive() -> None:
    bench = Bench(export_seconds=60)
    bench.start()
    assert all(isinstance(bench.poll(after=14), ExportActive) for _ in range(4))
    assert isinstance(bench.poll(after=14), ExportComplete)


def test_a_second_start_is_refused_until_an_orphan_times_out() -> None:
    bench = Bench(export_seconds=60)
    bench.start()
    assert bench.start() == ExportFailed(BUSY_START)
    bench.now += 15.1
    assert bench.start() == ExportActive("bookmark1", ("Generating shop-bookmark1.sql",))
    assert bench.poll("bookmark0") == ExportFailed(LOST)
    assert isinstance(bench.poll("bookmark1"), ExportActive)


def test_a_wrong_bookmark_is_no_poll() -> None:
    bench = Bench(export_seconds=60)
    bench.start()
    assert bench.poll("another", after=10) == ExportFailed(LOST)
    assert bench.poll(after=10) == ExportFailed(LOST)


def test_lost_exports_run_out() -> None:
    bench = Bench(lost_exports=1, lost_after_polls=2, export_seconds=10)
    bench.start()
    assert [type(bench.poll(after=1)) for _ in range(3)] == [ExportActive, ExportActive, ExportFailed]
    assert bench.jobs[0].cancelled
    bench.start()
    assert [type(bench.poll("bookmark1", after=4)) for _ in range(3)] == [ExportActive, ExportActive, ExportComplete]


def test_another_client_keeps_it_busy() -> None:
    bench = Bench()
    bench.faults.busy_seconds = 7
    assert bench.start() == ExportFailed(BUSY_START)
    assert bench.unavailable(after=6.9)
    assert not bench.unavailable(after=0.1)
    assert isinstance(bench.start(), ExportActive)


def test_errors_of_one_s_own() -> None:
    bench = Bench(start_error="no", export_error_times=1)
    assert bench.start() == ExportFailed("no")
    assert isinstance(bench.start(), ExportActive)

    bench = Bench(export_error="inner")
    bench.start()
    assert bench.poll() == ExportFailed("inner")
    assert not bench.unavailable()

    bench = Bench(export_status_error="outer")
    bench.start()
    assert bench.poll() == ExportFailed("outer", "bookmark0")


def test_a_virtual_table_locks_the_database_permanently() -> None:
    bench = Bench()
    bench.next_job = Job(error=VIRTUAL_TABLE_ERROR)
    bench.start()
    assert bench.unavailable()
    assert bench.poll() == ExportFailed(VIRTUAL_TABLE_ERROR)
    assert bench.unavailable(after=11 * 3600)
    assert bench.start() == ExportFailed(BUSY_START)
    bench.faults.virtual_table_lock_seconds = 0
    assert not bench.unavailable()


def test_the_lock_comes_without_polls_too() -> None:
    bench = Bench(virtual_table_lock_seconds=60)
    bench.next_job = Job(error=VIRTUAL_TABLE_ERROR)
    bench.start()
    assert bench.unavailable(after=16)
    assert bench.unavailable(after=59)
    assert not bench.unavailable(after=2)
