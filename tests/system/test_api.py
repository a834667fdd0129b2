"""The API has a bad day; every scenario goes through the operator, the trigger and the staging task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.airflow import wait_until
from tests.system.night import PATIENCE

if TYPE_CHECKING:
    from tests.system.night import Night


def test_the_rate_limit_blocks_for_a_while(night: Night) -> None:
    with night.bed("rate_limit_block") as bed:
        bed.emulator.faults.export_seconds = 3600
        run = bed.run()
        bed.deferred(run)
        bed.emulator.faults.set({"export_seconds": 2, "blocked_seconds": 25})
        manifest = bed.succeeds(run)
        refused = [call for call in bed.emulator.calls if call.status == 429]
        assert 1 <= len(refused) <= 3  # it waits as long as it is told to, instead of knocking
        assert bed.exports() == 2  # D1 gives up what it was not asked about for 15 s
        assert len(bed.calls("export_start")) == 2
        assert manifest["source"]["restarts"] == 1


def test_bad_answers_of_every_kind(night: Night) -> None:
    with night.bed("bad_answers") as bed:
        faults = bed.emulator.faults
        faults.export_seconds = 20
        faults.set({"html_errors": 2, "truncated_json": 1, "reset_connections": 2, "overloaded": 1})
        run = bed.run()
        bed.deferred(run)
        for status in (500, 503, 504):
            faults.set({"html_errors": 1, "html_status": status})
            wait_until(lambda: faults.html_errors == 0, "the page was served", PATIENCE, every=0.05)
        faults.set({"truncated_json": 1, "reset_connections": 1, "lost_poll_answers": 1})
        bed.succeeds(run)
        assert bed.exports() <= 2  # the lost answer may have been the one with the URL
        left = faults.to_dict()
        assert not any(left[name] for name in ("html_errors", "truncated_json", "reset_connections", "overloaded"))
        assert bed.tries(run) == 1
        assert len(bed.emulator.calls) <= 60


def test_answers_slower_than_the_gap_between_polls(night: Night) -> None:
    with night.bed("slow_answers") as bed:
        bed.emulator.faults.set({"slow_seconds": 4, "only": "export_poll"})
        bed.succeeds(bed.run())
        assert bed.exports() == len(bed.calls("export_start")) == 1
        assert len(bed.calls("export_poll")) <= 5


def test_the_answer_to_the_start_is_lost(night: Night) -> None:
    with night.bed("lost_start_answer") as bed:
        bed.emulator.faults.lost_start_answers = 1
        bed.succeeds(bed.run())
        # the orphan is never polled; the next is taken when D1 has given it up after 15 s
        assert bed.exports() == 1
        starts = bed.calls("export_start")
        assert starts[1].time - starts[0].time >= 1
        assert starts[-1].time - starts[0].time >= 15
        assert len(starts) <= 8


def test_an_export_is_lost_three_times(night: Night) -> None:
    with night.bed("lost_three_times") as bed:
        bed.emulator.faults.set({"lost_exports": 3, "lost_after_polls": 1})
        manifest = bed.succeeds(bed.run())
        assert manifest["source"]["restarts"] == 3
        assert len(bed.calls("export_start")) == bed.exports() == 4


def test_an_export_is_lost_once_too_often(night: Night) -> None:
    with night.bed("lost_too_often") as bed:
        bed.emulator.faults.set({"export_seconds": 3600, "lost_exports": 9, "lost_after_polls": 5})
        assert "D1ExportLostError" in bed.fails(bed.run())
        assert len(bed.calls("export_start")) == 2
        assert len(bed.calls("export_poll")) == 12
        bed.nothing_staged()


def test_another_export_holds_the_database(night: Night) -> None:
    with night.bed("busy") as bed:
        bed.emulator.faults.busy_seconds = 120
        bed.succeeds(bed.run())
        assert bed.exports() == 1
        assert len(bed.emulator.calls) <= 45  # one each five seconds, then the export's own


def test_another_export_holds_the_database_too_long(night: Night) -> None:
    with night.bed("busy_too_long") as bed:
        bed.emulator.faults.busy_seconds = 3600
        assert "D1ExportBusyError" in bed.fails(bed.run())
        assert bed.exports() == 0
        assert len(bed.emulator.calls) <= 30
        bed.nothing_staged()


def test_d1_fails_inside_an_answer_that_says_success(night: Night) -> None:
    with night.bed("inner_failure") as bed:
        bed.emulator.faults.set({"export_error": "D1 Export error: something broke", "export_error_times": 1})
        run = bed.run()
        bed.succeeds(run)
        assert bed.exports() == len(bed.calls("export_start")) == 2
        assert bed.tries(run) == 2  # Airflow's own retry
        assert "something broke" in night.airflow.log(bed.name, run)


def test_a_database_with_a_virtual_table_is_left_alone(night: Night) -> None:
    with night.bed("virtual_table", "CREATE TABLE t (a); CREATE VIRTUAL TABLE search USING fts5(body);") as bed:
        bed.emulator.faults.set({"slow_seconds": 4, "only": "list,raw"})  # see EXPORT_SECONDS
        run = bed.run()
        assert "D1VirtualTableError" in bed.fails(run)
        assert bed.calls("export_start") == []  # such an attempt could lock the database for hours
        assert len(bed.emulator.calls) == 2
        assert bed.tries(run) == 1
        bed.nothing_staged()


def test_a_table_vanishes_between_the_look_and_the_export(night: Night) -> None:
    with night.bed("table_vanishes") as bed:
        bed.emulator.faults.drop_table = "users"
        run = bed.run()
        assert "D1TableNotFoundError" in bed.fails(run)
        assert bed.tries(run) == 1
        assert len(bed.calls("export_start")) == 1
        assert len(bed.calls("raw")) == 2  # the look before the export and the look after it
        bed.nothing_staged()


def test_the_token_is_revoked_in_the_middle(night: Night) -> None:
    with night.bed("token_revoked") as bed:
        bed.emulator.faults.export_seconds = 3600
        run = bed.run()
        bed.deferred(run)
        bed.emulator.faults.revoked_after = 0
        assert "D1AuthenticationError" in bed.fails(run)
        assert bed.tries(run) == 1  # no retry can mend it
        refused = [call for call in bed.emulator.calls if call.status in (401, 403)]
        assert len(refused) == 1
        bed.nothing_staged()


def test_the_host_has_no_address(night: Night) -> None:
    with night.bed("no_such_host") as bed:
        connection = {"conn_type": "d1", "host": "https://d1.invalid/client/v4", "password": bed.token}
        night.airflow.set_connection(bed.name, {**connection, "extra": {"account_id": "a" * 32}})
        run = bed.run()
        assert "no connection" in bed.fails(run)
        assert bed.tries(run) == 2  # it may pass, so Airflow retries
        bed.nothing_staged()


@pytest.mark.parametrize("fault", ["download_cut", "url_expired"])
def test_the_download_fails(night: Night, fault: str) -> None:
    with night.bed(fault) as bed:
        cut = fault == "download_cut"
        bed.emulator.faults.set({"cut_downloads": 2} if cut else {"expired_urls": 1})
        run = bed.run()
        manifest = bed.succeeds(run)
        assert manifest["tables"][0]["rows"] == 3
        assert bed.tries(run) == (1 if cut else 2)
        # a cut download goes on where it was; an expired URL needs a new export, in Airflow's retry
        assert bed.exports() == len(bed.calls("export_start")) == (1 if cut else 2)
        assert len(bed.emulator.downloads) == (3 if cut else 2)
        assert not any(download.authorization for download in bed.emulator.downloads)
