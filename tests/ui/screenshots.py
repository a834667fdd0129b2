"""``make screenshots``: the pictures of docs/images, made from a running Airflow with the local D1 API."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from harness.airflow import wait_until
from harness.browser import browser_missing
from tests.ui.conftest import airflow_in_a_browser

if TYPE_CHECKING:
    from tests.ui.pages import Ui

IMAGES = Path(__file__).parents[2] / "docs" / "images"
LARGEST = 150_000
#: Airflow makes a node as wide as the task's name, measured on a canvas outside of the page, and at least 200 pixels,
#: which is too narrow for the longest name of an operator
WIDER_NODES = """
const measure = CanvasRenderingContext2D.prototype.measureText;
CanvasRenderingContext2D.prototype.measureText = function (text) {
  const measured = measure.call(this, text);
  return this.canvas.isConnected ? measured : { width: Math.max(measured.width, 250) };
};
"""


def main() -> int:
    """Take all pictures; 1 when one is too large, 2 without a browser."""
    if (missing := browser_missing()) is not None:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="d1-screenshots-") as folder, airflow_in_a_browser(Path(folder)) as ui:
        take_all(ui)
    sizes = {path.name: path.stat().st_size for path in sorted(IMAGES.glob("*.png"))}
    for name, size in sizes.items():
        print(f"{name:24} {size:>8,} bytes")
    return int(any(size > LARGEST for size in sizes.values()))


def take_all(ui: Ui) -> None:
    """One picture for each thing that a user sees first."""
    ui.page.add_init_script(WIDER_NODES)
    fields = {"host": "https://api.cloudflare.com/client/v4", "login": ui.emulator.account_id, "password": ui.token}
    form = ui.fill_in_connection("d1_default", {**fields, "port": "443", "schema": "shop"})
    take(ui, "connection-form")
    form.locator("[name=host]").fill(ui.emulator.url)
    form.get_by_role("button", name="Save").click()
    form.wait_for(state="hidden")

    run_id = ui.trigger_by_form("d1_to_warehouse")
    assert ui.wait_for_run("d1_to_warehouse", run_id) == "success"
    ui.open_run("d1_to_warehouse", run_id)
    take(ui, "run-graph", (76, 60, 815, 530))
    ui.page.get_by_label("Show Grid").click()  # Airflow remembers the graph, which leaves no room for the next pages
    ui.open_task("d1_to_warehouse", run_id, "load")
    ui.page.get_by_text("Loaded: tables=2").wait_for()
    ui.page.keyboard.press("w")  # wraps the lines
    take(ui, "task-log", (332, 320, 940, 450))
    ui.open_task("d1_to_warehouse", run_id, "stage", "Details")
    ui.page.get_by_role("link", name="D1 database").wait_for()
    take(ui, "task-links", (332, 60, 940, 480))

    staged = ui.airflow.trigger("d1_asset")
    assert ui.wait_for_run("d1_asset", staged) == "success"
    (load,) = wait_until(lambda: ui.runs("d1_asset_load"), "the asset has started its DAG", 120)
    assert ui.wait_for_run("d1_asset_load", load) == "success"
    ui.open_asset("d1_shop")
    ui.page.get_by_text("1 Asset Event").wait_for()
    take(ui, "asset")

    ui.open("/dags/d1_to_warehouse")
    ui.page.get_by_role("button", name="Trigger").first.click()
    ui.page.get_by_text("Connection id of the warehouse").wait_for()
    take(ui, "trigger-form")


def take(ui: Ui, name: str, part: tuple[int, int, int, int] | None = None) -> None:
    """Save what the page shows when it has come to rest.

    :param part: left, top, width and height; None for all of it.
    """
    ui.page.wait_for_timeout(2500)
    clip = None if part is None else dict(zip(("x", "y", "width", "height"), part, strict=True))
    ui.page.screenshot(path=str(IMAGES / f"{name}.png"), animations="disabled", clip=clip)


if __name__ == "__main__":
    sys.exit(main())
