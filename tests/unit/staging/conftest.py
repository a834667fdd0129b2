"""Fixtures for the tests of staging."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def steps_of_large_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small dumps take the steps of large ones, so that these are tested: the fast path, and files on disk.

    ``test_small_tables`` has the other ones.
    """
    monkeypatch.setattr("airflow_provider_d1.staging.table_pipeline._EXACT_BYTES", 0)
    monkeypatch.setattr("airflow_provider_d1.staging.parts._IN_MEMORY_BYTES", -1)
