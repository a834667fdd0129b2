from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_provider_d1.emulator.faults import Faults, parse
from airflow_provider_d1.emulator.request_log import KINDS


def test_all_faults_are_off_at_first() -> None:
    faults = Faults()
    counts = [n for n in faults.names() if isinstance(getattr(faults, n), int) and n not in USUAL]
    assert all(getattr(faults, name) == 0 for name in counts)
    assert {name: getattr(faults, name) for name in USUAL} == USUAL


USUAL = {
    "export_parts": 4,
    "export_error_times": -1,
    "free_row_reads": -1,
    "rate_limit": 1200,
    "html_status": 502,
    "revoked_after": -1,
    "cut_download_at": -1,
    "url_seconds": 3600,
}


def test_a_count_runs_down() -> None:
    faults = Faults()
    assert not faults.take("html_errors")
    faults.html_errors = 2
    assert [faults.take("html_errors") for _ in range(3)] == [True, True, False]
    assert faults.html_errors == 0


def test_some_faults_last_from_when_they_were_set() -> None:
    now = 10.0
    faults = Faults(clock=lambda: now)
    assert faults.lasts("busy_seconds") == 0
    now = 20.0
    faults.busy_seconds = 5
    now = 23.0
    assert faults.lasts("busy_seconds") == 2
    now = 26.0
    assert faults.lasts("busy_seconds") == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no_range", {"no_range": True}),
        ("no_range=off", {"no_range": False}),
        ("html_errors", {"html_errors": 1}),
        ("html_errors=3", {"html_errors": 3}),
        ("export_seconds=1.5", {"export_seconds": 1.5}),
        ("export_error=D1 DB reset, a=b", {"export_error": "D1 DB reset, a=b"}),
        ("only=export_poll,get", {"only": "export_poll,get"}),
    ],
)
def test_parse(text: str, value: dict[str, object]) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense=1", "unknown fault 'nonsense'"),
        ("_since=1", "unknown fault '_since'"),
        ("clock=1", "unknown fault 'clock'"),
        ("html_errors=many", "html_errors: expected int, got 'many'"),
        ("no_range=perhaps", "no_range: expected bool"),
        ("only=polls", "unknown kind of call 'polls'"),
    ],
)
def test_invalid_values_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_set_is_all_or_nothing() -> None:
    faults = Faults()
    with pytest.raises(ValueError, match="unknown fault 'x'"):
        faults.set({"html_errors": 3, "x": 1})
    assert faults == Faults()


def test_a_typo_in_an_attribute_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown fault 'html_error'"):
        Faults().html_error = 3  # type: ignore[attr-defined]


def test_reset_and_json() -> None:
    faults = Faults()
    faults.set({"export_seconds": 3, "only": ",".join(KINDS), "no_d1_right": True})
    faults.reset()
    assert faults == Faults()
    assert json.loads(json.dumps(faults.to_dict(), allow_nan=False)) == Faults().to_dict()


def test_every_fault_is_documented() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "emulator.md").read_text()
    assert [name for name in Faults.names() if f"`{name}`" not in guide] == []
