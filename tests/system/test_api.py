"""Failures of the API; every scenario runs the operator, the trigger and the staging task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.airflow import wait_until
from tests.system.environment import TIMEOUT

if TYPE_CHECKING:
    from tests.system.environment import Environment


def test_the_rate_limit_blocks_for_a_while(environment: Environment) -> None:
    with environment.scenario("rate_limit_block") as scenario:
        scenario.emulator.faults.export_seconds = 3600
        run = scenario.run()
        scenario.deferred(run)
        scenario.emulator.faults.set({"export_seconds": 2, "blocked_seconds": 25})
        manifest = scenario.succeeds(run)
        refused = [call for call in scenario.emulator.calls if call.status == 429]
        assert 1 <= len(refused) <= 3  # it honours Retry-After
        assert scenario.exports() == 2  # D1 cancels an export that is not polled for 15 s
        assert len(scenario.calls("export_start")) == 2
        assert manifest["source"]["restarts"] == 1


def test_bad_answers_of_every_kind(environment: Environment) -> None:
    with environment.scenario("bad_answers") as scenario:
        faults = scenario.emulator.faults
        faults.export_seconds = 20
        faults.set({"html_errors": 2, "truncated_json": 1, "reset_connections": 2, "overloaded": 1})
        run = scenario.run()
        scenario.deferred(run)
        for status in (500, 503, 504):
            faults.set({"html_errors": 1, "html_status": status})
            wait_until(lambda: faults.html_errors == 0, "the page was served", TIMEOUT, every=0.05)
        faults.set({"truncated_json": 1, "reset_connections": 1, "lost_poll_answers": 1})
        scenario.succeeds(run)
        assert scenario.exports() <= 2  # the lost answer may have been the one with the URL
        left = faults.to_dict()
        assert not any(left[name] for name in ("html_errors", "truncated_json", "reset_connections", "overloaded"))
        assert scenario.attempts(run) == 1
        assert len(scenario.emulator.calls) <= 60


def test_answers_slower_than_the_gap_between_polls(environment: Environment) -> None:
    with environment.scenario("slow_answers") as scenario:
        scenario.emulator.faults.set({"slow_seconds": 4, "only": "export_poll"})
        scenario.succeeds(scenario.run())
        assert scenario.exports() == len(scenario.calls("export_start")) == 1
        assert len(scenario.calls("export_poll")) <= 5


def test_the_answer_to_the_start_is_lost(environment: Environment) -> None:
    with environment.scenario("lost_start_answer") as scenario:
        scenario.emulator.faults.lost_start_answers = 1
        scenario.succeeds(scenario.run())
        # the orphan is never polled; the next is taken when D1 has given it up after 15 s
        assert scenario.exports() == 1
        starts = scenario.calls("export_start")
        assert starts[1].time - starts[0].time >= 1
        assert starts[-1].time - starts[0].time >= 15
        assert len(starts) <= 8


def test_an_export_is_lost_three_times(environment: Environment) -> None:
    with environment.scenario("lost_three_times") as scenario:
        scenario.emulator.faults.set({"lost_exports": 3, "lost_after_polls": 1})
        manifest = scenario.succeeds(scenario.run())
        assert manifest["source"]["restarts"] == 3
        assert len(scenario.calls("export_start")) == scenario.exports() == 4


def test_an_export_is_lost_once_too_often(environment: Environment) -> None:
    with environment.scenario("lost_too_often") as scenario:
        scenario.emulator.faults.set({"export_seconds": 3600, "lost_exports": 9, "lost_after_polls": 5})
        assert "D1ExportLostError" in scenario.fails(scenario.run())
        assert len(scenario.calls("export_start")) == 2
        assert len(scenario.calls("export_poll")) == 12
        scenario.nothing_staged()


def test_another_export_holds_the_database(environment: Environment) -> None:
    with environment.scenario("busy") as scenario:
        scenario.emulator.faults.busy_seconds = 120
        scenario.succeeds(scenario.run())
        assert scenario.exports() == 1
        assert len(scenario.emulator.calls) <= 45  # one each five seconds, then the export's own


def test_another_export_holds_the_database_too_long(environment: Environment) -> None:
    with environment.scenario("busy_too_long") as scenario:
        scenario.emulator.faults.busy_seconds = 3600
        assert "D1ExportBusyError" in scenario.fails(scenario.run())
        assert scenario.exports() == 0
        assert len(scenario.emulator.calls) <= 30
        scenario.nothing_staged()


def test_d1_fails_inside_a_successful_response(environment: Environment) -> None:
    with environment.scenario("inner_failure") as scenario:
        scenario.emulator.faults.set({"export_error": "D1 Export error: something broke", "export_error_times": 1})
        run = scenario.run()
        scenario.succeeds(run)
        assert scenario.exports() == len(scenario.calls("export_start")) == 2
        assert scenario.attempts(run) == 2  # Airflow's own retry
        assert "something broke" in environment.airflow.log(scenario.name, run)


def test_a_database_with_a_virtual_table_is_left_alone(environment: Environment) -> None:
    with environment.scenario(
        "virtual_table", "CREATE TABLE t (a); CREATE VIRTUAL TABLE search USING fts5(body);"
    ) as scenario:
        scenario.emulator.faults.set({"slow_seconds": 4, "only": "list,raw"})  # see EXPORT_SECONDS
        run = scenario.run()
        assert "D1VirtualTableError" in scenario.fails(run)
        assert scenario.calls("export_start") == []  # such an attempt could lock the database for hours
        assert len(scenario.emulator.calls) == 2
        assert scenario.attempts(run) == 1
        scenario.nothing_staged()


def test_a_table_vanishes_between_the_look_and_the_export(environment: Environment) -> None:
    with environment.scenario("table_vanishes") as scenario:
        scenario.emulator.faults.drop_table = "users"
        run = scenario.run()
        assert "D1TableNotFoundError" in scenario.fails(run)
        assert scenario.attempts(run) == 1
        assert len(scenario.calls("export_start")) == 1
        assert len(scenario.calls("raw")) == 2  # the look before the export and the look after it
        scenario.nothing_staged()


def test_the_token_is_revoked_in_the_middle(environment: Environment) -> None:
    with environment.scenario("token_revoked") as scenario:
        scenario.emulator.faults.export_seconds = 3600
        run = scenario.run()
        scenario.deferred(run)
        scenario.emulator.faults.revoked_after = 0
        assert "D1AuthenticationError" in scenario.fails(run)
        assert scenario.attempts(run) == 1  # a permanent error
        refused = [call for call in scenario.emulator.calls if call.status in (401, 403)]
        exports = [call for call in refused if call.kind.startswith("export")]
        assert len(exports) == 1
        # the rest is the connection test, once, whose words the error repeats
        account = f"/accounts/{scenario.emulator.account_id}"
        checks = [f"{account}/d1/database", "/user/tokens/verify", f"{account}/tokens/verify"]
        assert [call.path for call in refused] == [exports[0].path, *checks]
        scenario.nothing_staged()


def test_the_host_has_no_address(environment: Environment) -> None:
    with environment.scenario("no_such_host") as scenario:
        connection = {"conn_type": "d1", "host": "https://d1.invalid/client/v4", "password": scenario.token}
        environment.airflow.set_connection(scenario.name, {**connection, "extra": {"account_id": "a" * 32}})
        run = scenario.run()
        assert "no connection" in scenario.fails(run)
        assert scenario.attempts(run) == 2  # it may pass, so Airflow retries
        scenario.nothing_staged()


@pytest.mark.parametrize("fault", ["download_cut", "url_expired"])
def test_the_download_fails(environment: Environment, fault: str) -> None:
    with environment.scenario(fault) as scenario:
        cut = fault == "download_cut"
        scenario.emulator.faults.set({"cut_downloads": 2} if cut else {"expired_urls": 1})
        run = scenario.run()
        manifest = scenario.succeeds(run)
        assert manifest["tables"][0]["rows"] == 3
        assert scenario.attempts(run) == (1 if cut else 2)
        # a cut download is resumed; an expired URL needs a new export, in Airflow's retry
        assert scenario.exports() == len(scenario.calls("export_start")) == (1 if cut else 2)
        assert len(scenario.emulator.downloads) == (3 if cut else 2)
        assert not any(download.authorization for download in scenario.emulator.downloads)
