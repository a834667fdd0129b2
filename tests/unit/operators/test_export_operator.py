"""The operator hands an export to the triggerer and reads what comes back."""

from __future__ import annotations

import inspect
import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from airflow.sdk import DAG

from airflow_provider_d1.cloudflare.models import D1Export, ExportOptions, ExportRequest, SkippedObject
from airflow_provider_d1.exceptions import (
    D1AuthenticationError,
    D1ConfigurationError,
    D1ExportBusyError,
    D1ExportError,
    D1ExportTimeoutError,
    D1VirtualTableError,
)
from airflow_provider_d1.hooks.d1 import D1Hook
from airflow_provider_d1.links.d1 import D1DatabaseLink
from airflow_provider_d1.operators.d1 import D1ExportOperator
from airflow_provider_d1.transfers.d1_to_object_storage import D1ToObjectStorageOperator
from airflow_provider_d1.triggers import events
from airflow_provider_d1.triggers.d1 import D1ExportTrigger

EXPORT = D1Export(
    database_id="11111111-2222-3333-4444-555555555555",
    database_name="shop",
    account_id="acc",
    bookmark="00000001",
    filename="shop.sql",
    sealed_url="d1seal1.1.x",
    expires_at=datetime(2026, 11, 22, 13, tzinfo=UTC),
    started_at=datetime(2026, 11, 22, 12, tzinfo=UTC),
    completed_at=datetime(2026, 11, 22, 12, 0, 30, 500_000, tzinfo=UTC),
    polls=9,
    restarts=1,
    options=ExportOptions(),
    skipped=(SkippedObject("search", "virtual table"),),
)
#: no value is its parameter's default
ARGUMENTS: dict[str, Any] = {
    "database": "shop",
    "tables": ["users"],
    "exclude_tables": [],
    "no_data": True,
    "no_schema": True,
    "on_virtual_table": "skip",
    "poll_interval": 2.5,
    "timeout": 77,
    "queue_timeout": 88,
    "max_restarts": 7,
    "d1_conn_id": "d1_other",
    "deferrable": True,
}


def own_parameters() -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(D1ExportOperator.__init__).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def deferred(operator: D1ExportOperator) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as raised:
        operator.execute({})
    return raised.value


def test_the_promised_parameters_and_defaults() -> None:
    assert {name: p.default for name, p in own_parameters().items()} == {
        "database": None,
        "tables": None,
        "exclude_tables": None,
        "no_data": False,
        "no_schema": False,
        "on_virtual_table": "fail",
        "poll_interval": None,
        "timeout": 3600,
        "queue_timeout": None,
        "max_restarts": 3,
        "d1_conn_id": "d1_default",
        "deferrable": True,
    }


def test_every_parameter_reaches_the_trigger() -> None:
    assert set(ARGUMENTS) == set(own_parameters())
    before = time.time()
    trigger = deferred(D1ExportOperator(task_id="export", **ARGUMENTS)).trigger
    assert isinstance(trigger, D1ExportTrigger)
    _, kwargs = trigger.serialize()
    assert before + 77 + 88 <= kwargs.pop("deadline") <= time.time() + 77 + 88
    request = {name: value for name, value in ARGUMENTS.items() if name not in ("deferrable", "d1_conn_id")}
    assert kwargs == {"request": request, "d1_conn_id": "d1_other"}


def test_every_parameter_reaches_the_hook_when_not_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run_export(hook: D1Hook, request: ExportRequest) -> D1Export:
        seen.update(d1_conn_id=hook.get_conn_id(), **request.to_dict())
        return EXPORT

    monkeypatch.setattr(D1Hook, "run_export", run_export)
    operator = D1ExportOperator(task_id="export", **{**ARGUMENTS, "deferrable": False})
    assert operator.execute({}) == EXPORT.to_dict()
    assert seen == {name: value for name, value in ARGUMENTS.items() if name != "deferrable"}


def test_execution_timeout_bounds_the_deferred_time() -> None:
    before = time.time()
    operator = D1ExportOperator(task_id="export", execution_timeout=timedelta(minutes=5))
    assert before + 300 <= deferred(operator).trigger.serialize()[1]["deadline"] <= time.time() + 300
    operator = D1ExportOperator(task_id="export", timeout=10, queue_timeout=5, execution_timeout=timedelta(minutes=5))
    assert deferred(operator).trigger.serialize()[1]["deadline"] <= time.time() + 15


def test_it_defers_by_default_regardless_of_airflows_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "False")
    error = deferred(D1ExportOperator(task_id="export"))
    assert error.method_name == "execute_complete"
    assert error.timeout is None
    assert not error.kwargs  # dag.test() drops them


def test_the_result_is_plain_json() -> None:
    result = D1ExportOperator(task_id="export").execute_complete({}, json.loads(json.dumps(events.success(EXPORT))))
    assert result == EXPORT.to_dict()
    assert json.loads(json.dumps(result)) == result


def test_the_essentials_are_logged(capfd: pytest.CaptureFixture[str]) -> None:
    D1ExportOperator(task_id="export").execute_complete({}, events.success(EXPORT))
    logged = capfd.readouterr().out
    for essential in (
        "shop",
        "00000001",
        "shop.sql",
        "polls=9",
        "restarts=1",
        "unavailable_seconds=30.5",
        "Skipped: tables=1 search (virtual table)",
    ):
        assert essential in logged
    assert EXPORT.sealed_url not in logged


@pytest.mark.parametrize("error", [D1VirtualTableError("fts5"), D1AuthenticationError("bad token", status=401)])
def test_an_error_that_no_retry_can_repair_fails_the_task_and_names_its_place(error: Exception) -> None:
    operator = D1ExportOperator(task_id="export", database="shop", d1_conn_id="d1_other")
    place = "database 'shop', connection 'd1_other'"
    with pytest.raises(AirflowFailException, match=f"^{type(error).__name__}: {place}: {error}") as raised:
        operator.execute_complete({}, events.failure(error))
    assert type(raised.value.__cause__) is type(error)


@pytest.mark.parametrize("error", [D1ExportError("odd"), D1ExportBusyError("busy"), D1ExportTimeoutError("slow")])
def test_an_error_that_a_retry_may_repair_is_raised_as_itself_with_its_place(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)) as raised:
        D1ExportOperator(task_id="export").execute_complete({}, events.failure(error))
    assert raised.value.__notes__ == ["the connection's default database, connection 'd1_default'"]


def test_a_malformed_event_is_an_error() -> None:
    with pytest.raises(D1ExportError, match="event"):
        D1ExportOperator(task_id="export").execute_complete({}, None)


@pytest.mark.parametrize(
    ("name", "rendered", "words"),
    [
        ("tables", "users", "tables must be a list"),
        ("tables", "[", "tables must be a list"),
        ("timeout", "soon", "timeout must be a number of seconds"),
        ("timeout", "nan", "timeout must be a number of seconds"),
        ("max_restarts", "1.5", "max_restarts must be an integer"),
        ("no_data", "maybe", "no_data must be True or False"),
        ("on_virtual_table", "", "on_virtual_table must be"),
        ("database", "", "database must be"),
        ("timeout", "None", "timeout must be"),
    ],
)
def test_a_template_that_renders_badly_fails_before_anything_starts(name: str, rendered: str, words: str) -> None:
    operator = D1ExportOperator(task_id="export", **{name: "{{ params.value }}"})
    operator.render_template_fields({"params": {"value": rendered}})
    with pytest.raises(AirflowFailException, match=words) as raised:
        operator.execute({})
    assert isinstance(raised.value.__cause__, D1ConfigurationError)


@pytest.mark.parametrize(
    ("name", "rendered", "value"),
    [
        ("tables", "['users', 'Orders']", ["users", "Orders"]),
        ("tables", "None", None),
        ("exclude_tables", "[]", []),
        ("no_data", "True", True),
        ("no_schema", "false", False),
        ("on_virtual_table", "skip", "skip"),
        ("poll_interval", "2.5", 2.5),
        ("poll_interval", "", None),
        ("timeout", "120", 120.0),
        ("queue_timeout", "0", 0.0),
        ("max_restarts", " 7 ", 7),
        ("database", "123", "123"),
    ],
)
def test_a_rendered_template_gets_its_type(name: str, rendered: str, value: object) -> None:
    operator = D1ExportOperator(task_id="export", **{name: "{{ params.value }}"})
    operator.render_template_fields({"params": {"value": rendered}})
    sent = deferred(operator).trigger.serialize()[1]["request"][name]
    assert (sent, type(sent)) == (value, type(value))


def test_the_export_is_logged_before_deferring(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "d1", "login": "a" * 32, "password": "t", "schema": "shop"}
    monkeypatch.setenv("AIRFLOW_CONN_D1_OTHER", json.dumps(connection))
    tables = [f"table_{number}" for number in range(1000)]
    arguments = {"database": "shop", "tables": tables, "d1_conn_id": "d1_other"}
    deferred(D1ExportOperator(task_id="export", **arguments))
    deferred(D1ToObjectStorageOperator(task_id="stage", path=tmp_path.as_uri(), **arguments))
    one, other = re.findall(r"Exporting in the triggerer: .*? deadline=\S+", capfd.readouterr().out)
    for line in (one, other):
        assert "database=shop tables=table_0,table_1," in line
        assert "(1000 in all) connection=d1_other" in line
        assert len(line) <= 300
    assert "destination" not in one
    assert f"destination={tmp_path.as_uri()}/ " in other


def test_every_argument_is_documented_as_templated_or_not() -> None:
    documented = re.findall(r":param (\w+):(.*?)\((not )?templated\)", D1ExportOperator.__doc__ or "", re.DOTALL)
    assert [name for name, words, _ in documented if ":param" in words] == []
    assert {name for name, _, _ in documented} == set(own_parameters())
    assert [name for name, _, negated in documented if negated] == ["deferrable"]
    assert set(D1ExportOperator.template_fields) == set(own_parameters()) - {"deferrable"}


def test_templates_are_rendered() -> None:
    with DAG("templates", schedule=None):
        operator = D1ExportOperator(task_id="export", database="{{ name }}", tables=["{{ name }}s"])
    operator.render_template_fields({"name": "shop"})
    assert (operator.database, operator.tables) == ("shop", ["shops"])
    assert isinstance(D1ExportOperator.template_fields, tuple)


def test_it_can_be_mapped() -> None:
    with DAG("mapped", schedule=None):
        mapped = D1ExportOperator.partial(task_id="export", d1_conn_id="d1_other").expand(database=["a", "b"])
    assert mapped.unmap({"database": "a"}).database == "a"


def test_a_label_needs_a_named_database() -> None:
    context: dict[str, Any] = {"map_index_template": None, "ti": SimpleNamespace(map_index=1)}
    D1ExportOperator(task_id="export").execute_complete(context, events.success(EXPORT))
    assert context["map_index_template"] is None


def test_the_link_leads_to_the_database_once_it_is_known() -> None:
    operator = D1ExportOperator(task_id="export")
    link = D1DatabaseLink()
    assert link.get_link(operator, ti_key=None) == ""
    operator.execute_complete({}, events.success(EXPORT))
    assert link.get_link(operator, ti_key=None) == (
        "https://dash.cloudflare.com/acc/workers/d1/databases/11111111-2222-3333-4444-555555555555"
    )
