"""Airflow's pages in a headless Chromium: what the UI tests and the screenshots share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def browser_missing() -> str | None:
    """Why no page can be opened on this machine, None when it can."""
    if chromium() is None:
        return "no Chromium on the PATH; `apt-get install chromium` brings it"
    try:
        import playwright  # noqa: F401 - only whether it is there
    except ImportError:
        return "playwright is not installed; `make test-ui` does that"
    return None


def chromium() -> str | None:
    """Path of the browser."""
    return next((found for name in CHROMIUM if (found := shutil.which(name))), None)


@contextmanager
def open_page(width: int = 1280, height: int = 800) -> Iterator[Any]:
    """A page of Playwright's synchronous API; it only reaches servers on this machine."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="light")
        context.route(lambda url: "://127.0.0.1" not in url, lambda route: route.abort())
        context.set_default_timeout(60_000)
        try:
            yield context.new_page()
        finally:
            browser.close()
