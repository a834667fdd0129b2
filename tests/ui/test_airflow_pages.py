"""The provider in Airflow's UI, used with a real browser: form, test button, trigger form, graph, log, links, asset."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from harness.airflow import wait_until

if TYPE_CHECKING:
    from tests.ui.pages import Ui


@pytest.fixture(scope="module")
def connection(ui: Ui) -> dict[str, object]:
    """The connection ``d1_default``, made by the form; what its Test button says."""
    fields = {
        "host": ui.emulator.url,
        "login": ui.emulator.account_id,
        "password": ui.token,
        "port": "443",
        "schema": "shop",
    }
    form = ui.fill_in_connection("d1_default", fields)
    form.get_by_role("button", name="Save").click()
    form.wait_for(state="hidden")
    return ui.test_connection("d1_default")


@pytest.fixture(scope="module")
def run(ui: Ui, connection: dict[str, object]) -> str:
    """A finished run of the example, triggered by its form."""
    run_id = ui.trigger_by_form("d1_to_warehouse", schema="from_the_form")
    assert ui.wait_for_run("d1_to_warehouse", run_id) == "success"
    return run_id


def test_a_saved_connection_passes_the_test_of_its_row(ui: Ui, connection: dict[str, object]) -> None:
    assert (connection["http_status"], connection["status"]) == (200, True)
    database = f"shop ({ui.emulator.database_id('shop')})"
    assert connection["message"] == f"The account has 1 D1 database. Default database: {database}."


def test_the_form_asks_for_what_is_required(ui: Ui) -> None:
    form = ui.fill_in_connection("d1_other", {})
    for label in ("API token (required)", "Account ID (required)", "Port (443)", "Default database"):
        assert form.get_by_text(label).is_visible()


def test_the_trigger_form_reaches_the_tasks(ui: Ui, run: str) -> None:
    loaded = ui.airflow.xcom("d1_to_warehouse", run, "load")
    assert loaded["rows"] == 503
    assert "from_the_form" in loaded["tables"]["orders"]["table"]


def test_the_graph_shows_both_tasks(ui: Ui, run: str) -> None:
    ui.open_run("d1_to_warehouse", run)
    nodes = ui.page.locator(".react-flow__node").all_inner_texts()
    assert sorted(node.split()[0] for node in nodes) == ["load", "stage"]
    assert all("success" in node for node in nodes)


def test_the_log_says_what_was_done_without_secrets(ui: Ui, run: str) -> None:
    ui.open_task("d1_to_warehouse", run, "stage")
    ui.page.get_by_text("Staged: tables=2 rows=503").wait_for()
    shown = ui.page.inner_text("body")
    for line in ("Exporting in the triggerer: database=shop", "shop: export started", "Exported: database=shop"):
        assert line in shown
    assert ui.token not in shown
    assert "X-Amz-Signature" not in shown


def page_of(ui: Ui, database: str | None = None) -> str:
    """A database in Cloudflare's dashboard, or without a name the list of them."""
    page = f"https://dash.cloudflare.com/{ui.emulator.account_id}/workers/d1"
    return page if database is None else f"{page}/databases/{ui.emulator.database_id(database)}"


def test_a_finished_task_links_to_its_database(ui: Ui, run: str) -> None:
    assert ui.link_of_task("D1 database", "d1_to_warehouse", run, "stage") == page_of(ui, "shop")


def test_a_failed_task_links_to_the_account(ui: Ui, connection: dict[str, object]) -> None:
    run_id = ui.trigger_by_form("d1_to_warehouse", database="nowhere")
    assert ui.wait_for_run("d1_to_warehouse", run_id) == "failed"
    ui.open_task("d1_to_warehouse", run_id, "stage")
    ui.page.get_by_text("the account has no D1 database 'nowhere'").first.wait_for()
    assert ui.link_of_task("D1 database", "d1_to_warehouse", run_id, "stage") == page_of(ui)


def test_mapped_tasks_link_to_their_databases_and_are_labelled_by_them(ui: Ui, connection: dict[str, object]) -> None:
    """The first one finishes and the second one fails."""
    run_id = ui.airflow.trigger("d1_many_databases", conf={"databases": ["shop", "nowhere"]})
    assert ui.wait_for_run("d1_many_databases", run_id) == "failed"
    task = ("d1_many_databases", run_id, "stage")
    assert ui.link_of_task("D1 database", *task, map_index=0) == page_of(ui, "shop")
    assert ui.link_of_task("D1 database", *task, map_index=1) == page_of(ui)
    ui.open(f"/dags/d1_many_databases/runs/{quote(run_id)}/tasks/stage/mapped")
    for label in ("shop", "nowhere"):
        ui.page.get_by_text(label, exact=True).first.wait_for()


def test_the_asset_page_shows_the_run_that_it_started(ui: Ui, connection: dict[str, object]) -> None:
    run_id = ui.airflow.trigger("d1_asset")
    assert ui.wait_for_run("d1_asset", run_id) == "success"
    (load,) = wait_until(lambda: ui.runs("d1_asset_load"), "the asset has started its DAG", 120)
    assert ui.wait_for_run("d1_asset_load", load) == "success"
    ui.open_asset("d1_shop")
    ui.page.get_by_text("1 Asset Event").wait_for()
    ui.page.get_by_role("link", name="d1_asset_load").first.wait_for()
