"""Airflow's pages as a person uses them, by the words on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from airflow_provider_d1.emulator.server import Emulator
    from harness.airflow import Airflow


@dataclass
class Ui:
    """A browser's page, and what is behind it."""

    page: Any
    airflow: Airflow
    emulator: Emulator
    token: str = field(repr=False)

    def open(self, path: str) -> None:
        """Open a page of Airflow."""
        self.page.goto(f"{self.airflow.url}{path}")

    def fill_in_connection(self, connection_id: str, fields: dict[str, str]) -> Any:
        """Open the form for a new connection of type D1 and fill it in; return its dialog."""
        self.open("/connections")
        self.page.get_by_role("button", name="Add Connection").click()
        form = self.page.get_by_role("dialog")
        form.locator("input[name=connection_id]").fill(connection_id)
        kind = form.locator("input[aria-autocomplete=list]").first
        kind.click()
        kind.fill("Cloudflare")
        self.page.get_by_role("option", name="Cloudflare D1").click()
        for name, value in fields.items():
            form.locator(f"[name={name}]").fill(value)
        return form

    def test_connection(self, connection_id: str) -> dict[str, Any]:
        """Press *Test Connection* in a connection's row; return what the server answered to the page."""
        row = self.page.get_by_role("row").filter(has_text=connection_id)
        with self.page.expect_response("**/connections/test") as answer:
            row.get_by_role("button", name="Test Connection").click()
        return {"http_status": answer.value.status, **answer.value.json()}

    def trigger_by_form(self, dag_id: str, **params: str) -> str:
        """Trigger a DAG with its form and return the run's id."""
        before = self.runs(dag_id)
        self.open(f"/dags/{dag_id}")
        self.page.get_by_role("button", name="Trigger").first.click()
        form = self.page.get_by_role("dialog")
        for name, value in params.items():
            form.locator(f"input[name=element_{name}]").fill(value)
        with self.page.expect_response("**/dagRuns") as answer:
            form.get_by_role("button", name="Trigger", exact=True).click()
        run_id: str = answer.value.json()["dag_run_id"]
        assert run_id not in before
        return run_id

    def runs(self, dag_id: str) -> list[str]:
        """The ids of a DAG's runs."""
        return [run["dag_run_id"] for run in self.airflow.request("GET", f"/dags/{dag_id}/dagRuns")["dag_runs"]]

    def wait_for_run(self, dag_id: str, run_id: str) -> str:
        """The state in which a run ends; a browser and all of Airflow share the machine, so it may take minutes."""
        return self.airflow.wait_for_run(dag_id, run_id, timeout=600)

    def open_run(self, dag_id: str, run_id: str) -> None:
        """Open a run's page with its graph."""
        self.open(f"/dags/{dag_id}/runs/{quote(run_id)}/")
        self.page.get_by_label("Show Graph").click()
        self.page.locator(".react-flow__node").first.wait_for()

    def open_task(
        self, dag_id: str, run_id: str, task_id: str, tab: str = "Logs", map_index: int | None = None
    ) -> None:
        """Open one of the tabs of a task instance's page."""
        mapped = "" if map_index is None else f"/mapped/{map_index}"
        self.open(f"/dags/{dag_id}/runs/{quote(run_id)}/tasks/{task_id}{mapped}")
        self.page.get_by_role("link", name=tab, exact=True).click()

    def link_of_task(self, name: str, *task: str, map_index: int | None = None) -> str | None:
        """The address of a button on the page *Details* of a task instance.

        :param task: DAG, run and task.
        """
        self.open_task(*task, tab="Details", map_index=map_index)
        link = self.page.get_by_role("link", name=name)
        link.wait_for()
        address: str | None = link.get_attribute("href")
        return address

    def open_asset(self, name: str) -> None:
        """Open an asset's page."""
        (asset,) = [each for each in self.airflow.request("GET", "/assets")["assets"] if each["name"] == name]
        self.open(f"/assets/{asset['id']}")
