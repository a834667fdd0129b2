"""What every operator and sensor reports: lineage, asset events, links and labels, after success and after failure."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowTaskTimeout,
    Asset,
    AssetAlias,
    BaseOperator,
    TaskDeferred,
)
from airflow.providers.openlineage.extractors.base import DefaultExtractor
from airflow.sdk.execution_time.context import OutletEventAccessors
from openlineage.client.serde import Serde

from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.hooks.d1 import D1Hook
from airflow_provider_d1.transfers.d1_to_object_storage import D1ToObjectStorageOperator
from airflow_provider_d1.transfers.staging_to_warehouse import ATTRIBUTES
from airflow_provider_d1.warehouses.registry import engine_options
from tests.unit.operators.every_operator import operators

SHOP = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
INSERT INTO users VALUES (1, 'Ada'), (2, NULL);
CREATE TABLE orders (id INTEGER);
"""
SCRIPT = "CREATE TABLE IF NOT EXISTS notes (note TEXT);\nINSERT INTO notes VALUES ('one');\n"
ACCOUNT = "0123456789abcdef0123456789abcdef"
D1 = f"d1://{ACCOUNT}"


class Staged:
    """Runs of the database ``shop`` in a folder: typed tables, the dump, and a script."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables = self._stage("tables")
        self.dump = self._stage("dump", file_format="sql")
        self.script = folder / "script.sql"
        self.script.write_text(SCRIPT)

    def _stage(self, name: str, **arguments: Any) -> dict[str, Any]:
        path = (self.folder / name).as_uri()
        operator = D1ToObjectStorageOperator(
            task_id="stage", database="shop", path=path, deferrable=False, keep_runs=None, **arguments
        )
        return operator.execute({})


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator(f"tok-{secrets.token_hex(16)}", ACCOUNT, databases={"shop": SHOP, "copy": ""}) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def staged(running: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Staged]:
    folder = tmp_path_factory.mktemp("lineage")
    definition = {"conn_type": "d1", "host": running.url, "password": running.token, "login": running.account_id}
    warehouse = {"conn_type": "duckdb", "host": str(folder / "warehouse.duckdb")}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(definition))
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(warehouse))
        yield Staged(folder / "staged")


def context(**more: Any) -> dict[str, Any]:
    run_id = secrets.token_hex(4)
    ti = SimpleNamespace(dag_id="dag", task_id="task", run_id=run_id, map_index=-1, max_tries=2)
    return {"ti": ti, **more}


def completed(operator: Any, context_: dict[str, Any]) -> Any:
    """The operator that has finished, and its result: after a deferral another instance, as in a deployment."""
    try:
        return operator, operator.execute(context_)
    except TaskDeferred as deferred:
        trigger = deferred.trigger
    resumed = operators()[type(operator).__name__](**operator.made_with)
    operator.resumed = resumed

    async def events() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    (event,) = asyncio.run(events())
    return resumed, resumed.execute_complete(context_, json.loads(json.dumps(event)))


def failed(operator: Any, context_: dict[str, Any] | None = None) -> Any:
    """The operator that has failed."""
    with pytest.raises(AirflowFailException):
        completed(operator, context_ or context())
    return getattr(operator, "resumed", operator)


def make(name: str, arguments: dict[str, Any], **more: Any) -> Any:
    given = {"task_id": "task", **arguments, **more}
    operator: Any = operators()[name](**given)
    operator.made_with = given
    return operator


def lineage(operator: Any, *, failed: bool = False) -> tuple[list[str], list[str]]:
    """Names of the inputs and outputs, as OpenLineage's extractor gets and serialises them."""
    extractor = DefaultExtractor(operator)
    found = (extractor.extract_on_failure if failed else extractor.extract_on_complete)(SimpleNamespace())
    datasets = json.loads(Serde.to_json(found))
    return tuple([f"{each['namespace']} {each['name']}" for each in datasets[key]] for key in ("inputs", "outputs"))


#: class → arguments, inputs, outputs
Case = tuple[dict[str, Any], list[str], list[str]]
CASES: dict[str, Callable[[Staged], Case]] = {
    "D1ExportOperator": lambda _: ({"database": "shop"}, [f"{D1} shop.users", f"{D1} shop.orders"], []),
    "D1ToObjectStorageOperator": lambda s: (
        {"database": "shop", "path": (s.folder / "again").as_uri()},
        [f"{D1} shop.users", f"{D1} shop.orders"],
        [f"file {s.folder}/again/users", f"file {s.folder}/again/orders"],
    ),
    "D1StagingToWarehouseOperator": lambda s: (
        {"manifest": s.tables["latest"], "conn_id": "warehouse", "schema": "d1"},
        [f"file {s.folder}/tables/users", f"file {s.folder}/tables/orders"],
        [f"duckdb://{s.folder.parent}/warehouse.duckdb d1.{table}" for table in ("users", "orders")],
    ),
    "D1ImportOperator": lambda s: (
        {"database": "copy", "source": s.dump, "source_database": "shop", "require_empty": False},
        [f"file {s.folder}/dump"],
        [f"{D1} copy"],
    ),
    "S3ToD1Operator": lambda s: (
        {"database": "copy", "manifest": s.tables["latest"]},
        [f"file {s.folder}/tables/users", f"file {s.folder}/tables/orders"],
        [f"{D1} copy.users", f"{D1} copy.orders"],
    ),
    "D1RestoreOperator": lambda _: (
        {"database": "copy", "bookmark": D1Hook(database="copy").get_bookmark()},
        [],
        [f"{D1} copy"],
    ),
    "D1CompareBackupsOperator": lambda s: (
        {"first": s.dump, "second": s.dump["latest"]},
        [f"file {s.folder}/dump", f"file {s.folder}/dump"],
        [],
    ),
    "D1ChangeSensor": lambda s: (
        {"database": "shop", "prefix": (s.folder / "none").as_uri()},
        [f"{D1} shop"],
        [],
    ),
}
#: it differs from D1ToObjectStorageOperator in its storage, and is tested with a real S3 server
ELSEWHERE = {"D1ToS3Operator"}
WRITERS = ("D1ImportOperator", "S3ToD1Operator", "D1RestoreOperator")
ON_ONE_DATABASE = sorted(set(CASES) - {"D1StagingToWarehouseOperator", "D1CompareBackupsOperator"})


@pytest.fixture
def empty_copy(staged: Staged) -> None:
    """A backup may only be restored into a database without its tables."""
    hook = D1Hook(database="copy")
    for row in hook.query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '%sqlite%'"):
        if not row["name"].startswith("_"):
            hook.run(f'DROP TABLE "{row["name"]}"')


def test_every_operator_is_covered() -> None:
    assert set(operators()) == set(CASES) | ELSEWHERE


@pytest.mark.usefixtures("empty_copy")
@pytest.mark.parametrize("name", CASES)
def test_lineage_of_a_finished_task(name: str, staged: Staged) -> None:
    arguments, inputs, outputs = CASES[name](staged)
    operator, _ = completed(make(name, arguments), context())
    assert lineage(operator) == (inputs, outputs)


@pytest.mark.parametrize("name", CASES)
def test_lineage_of_a_failed_task_has_what_is_known(name: str, staged: Staged) -> None:
    """OpenLineage adds the error. A missing database is known by the name that the task gives it."""
    arguments, inputs, outputs = CASES[name](staged)
    if "database" in arguments:
        arguments = {**arguments, "database": "nowhere"}
        known = f"{D1} nowhere"
        staged_inputs = [f"file {staged.folder}/{name}" for name in ("dump", "tables") if f"/{name}" in str(inputs)]
        inputs, outputs = (staged_inputs, [known]) if name in WRITERS else ([known], [])
    elif name == "D1CompareBackupsOperator":
        arguments = {
            **arguments,
            "first": staged.dump["manifest"].replace(staged.dump["run"], "20260101T000000Z-000000"),
        }
    else:
        arguments = {**arguments, "tables": ["nowhere"]}
    operator = failed(make(name, arguments))
    if name == "D1StagingToWarehouseOperator":  # it has no tables to load
        assert DefaultExtractor(operator).extract_on_failure(SimpleNamespace()) is None
    else:
        assert lineage(operator, failed=True) == (inputs, outputs)


def test_plain_files_of_an_import_are_its_inputs(staged: Staged) -> None:
    operator = make("D1ImportOperator", {"database": "copy", "source": str(staged.script)})
    operator, _ = completed(operator, context())
    assert lineage(operator) == ([f"file {staged.script}"], [f"{D1} copy"])
    keys = {"s3_bucket": "bucket", "s3_key": ["in/a b.csv", "in/c.csv"], "table": "absent"}
    operator = make("S3ToD1Operator", {"database": "copy", **keys})
    with pytest.raises(AirflowFailException, match="has no table 'absent'"):
        operator.execute(context())
    assert lineage(operator, failed=True) == (
        ["s3://bucket in/a b.csv", "s3://bucket in/c.csv"],
        [f"{D1} copy.absent"],
    )


@pytest.mark.usefixtures("empty_copy")
def test_an_import_of_tables_reports_rows_state_and_bookmark(staged: Staged) -> None:
    operator, result = completed(make("S3ToD1Operator", CASES["S3ToD1Operator"](staged)[0]), context())
    found = json.loads(Serde.to_json(DefaultExtractor(operator).extract_on_complete(SimpleNamespace())))
    users, orders = found["outputs"]
    rows = [each["outputFacets"]["outputStatistics"]["rowCount"] for each in (users, orders)]
    assert rows == [2, 0]
    assert users["facets"]["version"]["datasetVersion"] == result["bookmark"]
    assert users["facets"]["lifecycleStateChange"]["lifecycleStateChange"] == "OVERWRITE"


@pytest.mark.usefixtures("empty_copy")
@pytest.mark.parametrize("name", WRITERS)
def test_the_events_of_the_outlets_say_what_was_written(name: str, staged: Staged) -> None:
    own, alias = Asset(f"{D1}/copy"), AssetAlias("written")
    events = OutletEventAccessors()
    operator = make(name, CASES[name](staged)[0], outlets=[own, alias])
    operator, result = completed(operator, context(outlet_events=events))
    extra = events[own].extra
    assert extra == {key: value for key, value in result.items() if key != "tables"}
    assert {"database_id", "database_name", "bookmark", "previous_bookmark"} <= set(extra)
    (event,) = events[alias].asset_alias_events
    assert (event.dest_asset_key.uri, event.extra) == (f"{D1}/copy", extra)


@pytest.mark.usefixtures("empty_copy")
@pytest.mark.parametrize("name", ON_ONE_DATABASE)
def test_the_link_of_a_finished_task_leads_to_its_database(name: str, staged: Staged, running: Emulator) -> None:
    arguments, _, _ = CASES[name](staged)
    operator, _ = completed(make(name, arguments), context())
    page = f"https://dash.cloudflare.com/{ACCOUNT}/workers/d1/databases/{running.database_id(arguments['database'])}"
    assert operator.operator_extra_links[0].get_link(operator, ti_key=None) == page


@pytest.mark.parametrize("name", ON_ONE_DATABASE)
def test_the_link_of_a_failed_task_leads_to_the_account(name: str, staged: Staged) -> None:
    arguments, _, _ = CASES[name](staged)
    operator = failed(make(name, {**arguments, "database": "nowhere"}))
    page = f"https://dash.cloudflare.com/{ACCOUNT}/workers/d1"
    assert operator.operator_extra_links[0].get_link(operator, ti_key=None) == page


@pytest.mark.parametrize("name", ON_ONE_DATABASE)
def test_a_mapped_task_shows_its_database(name: str, staged: Staged) -> None:
    """Airflow renders the label when the task ends. A task that is not mapped has no index to replace."""
    arguments = {**CASES[name](staged)[0], "database": "nowhere"}
    for index, given, shown in ((3, None, "{{ task.database }}"), (3, "{{ ds }}", "{{ ds }}"), (-1, None, None)):
        context_ = context(map_index_template=given)
        context_["ti"].map_index = index
        failed(make(name, arguments), context_)
        assert context_["map_index_template"] == shown


def test_a_mapped_load_shows_the_database_of_its_manifest(staged: Staged) -> None:
    context_ = context(map_index_template=None)
    context_["ti"].map_index = 1
    arguments, _, _ = CASES["D1StagingToWarehouseOperator"](staged)
    operator, _ = completed(make("D1StagingToWarehouseOperator", arguments), context_)
    assert (context_["map_index_template"], operator.source_database) == ("{{ task.source_database }}", "shop")


@pytest.mark.usefixtures("staged")
def test_the_sensor_links_to_its_database_after_a_wait(running: Emulator, tmp_path: Path) -> None:
    """In another process than that which looked the database up."""
    prefix = (Staged(tmp_path).folder / "tables").as_uri()
    arguments = {"database": "shop", "prefix": prefix, "poke_interval": 0.1, "timeout": 30}
    operator = make("D1ChangeSensor", arguments)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context())
    D1Hook(database="shop").run("UPDATE users SET name = 'Eve' WHERE id = 1")

    async def events() -> list[Any]:
        return [event.payload async for event in deferred.value.trigger.run()]

    (event,) = asyncio.run(events())
    resumed = make("D1ChangeSensor", arguments)
    change = resumed.execute_complete(context(), json.loads(json.dumps(event)))
    assert resumed.database_page.endswith(f"/databases/{running.database_id('shop')}")
    found = json.loads(Serde.to_json(DefaultExtractor(resumed).extract_on_complete(SimpleNamespace())))
    assert found["inputs"][0]["facets"]["version"]["datasetVersion"] == change["bookmark"]


# --- arguments


def parameters_of(operator: type[BaseOperator]) -> dict[str, str]:
    """Every own argument of an operator → what its docstring, or a base class's, says about it."""
    own: set[str] = set()
    documented: dict[str, str] = {}
    for cls in operator.__mro__:
        if cls.__module__.startswith("airflow_provider_d1"):
            if "__init__" in vars(cls):
                parameters = inspect.signature(cls.__init__).parameters.values()
                own |= {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
            body = re.split(r"\n\n", cls.__doc__ or "")
            for part in body:
                documented |= dict(re.findall(r":param (\w+):(.*?)(?=:param|\Z)", part, re.DOTALL))
    return {name: " ".join(documented.get(name, "").split()) for name in own - set(engine_options())}


@pytest.mark.parametrize("name", operators())
def test_every_argument_is_templated_or_documented_as_not_templated(name: str) -> None:
    operator = operators()[name]
    parameters = parameters_of(operator)
    templated = {name for name in parameters if ATTRIBUTES.get(name, name) in operator.template_fields}
    assert {name for name, words in parameters.items() if words.endswith("(templated)")} == templated
    assert {name for name, words in parameters.items() if words.endswith("(not templated)")} == (
        set(parameters) - templated
    )
    assert set(parameters) - templated <= {"deferrable"}


@pytest.mark.usefixtures("empty_copy")
@pytest.mark.parametrize("name", [name for name, cls in operators().items() if "deferrable" in parameters_of(cls)])
def test_execution_timeout_bounds_the_deferred_time(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Airflow does not enforce it on deferred tasks. The worker's log has the deadline."""
    staged = Staged(tmp_path)
    monkeypatch.setattr("time.time", lambda: 1000.0)
    if name == "D1ToS3Operator":
        arguments: dict[str, Any] = {"database": "shop", "s3_bucket": "b", "s3_prefix": "p"}
        monkeypatch.setattr(operators()[name], "_storage", lambda _: SimpleNamespace(check_writable=lambda: None))
        monkeypatch.setattr(operators()[name], "_check_prefix", lambda _: None)
        monkeypatch.setattr(operators()[name], "_destination", lambda _: "")
    else:
        arguments = CASES[name](staged)[0]
    if name == "D1ChangeSensor":
        arguments = {**arguments, "prefix": (staged.folder / "tables").as_uri()}
    for timeout, execution_timeout, end in ((600, 60, 1060.0), (60, 600, None)):
        operator = make(name, arguments, timeout=timeout, execution_timeout=timedelta(seconds=execution_timeout))
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute(context())
        deadline = deferred.value.trigger.serialize()[1]["deadline"]
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "in the triggerer" in line]
        for figure in (f"database={arguments['database']}", "connection=d1_default", "deadline=1970-01-01T00:"):
            assert figure in line
        assert deadline <= 1000.0 + execution_timeout
        assert end is None or deadline == end


def test_a_sensor_that_reaches_its_execution_timeout_is_retried() -> None:
    """Its own timeout is final, as in every sensor."""
    event = {"status": "timeout", "message": "the database did not change before the deadline"}
    arguments = {"prefix": "s3://bucket/prefix", "timeout": 600, "execution_timeout": timedelta(seconds=60)}
    with pytest.raises(AirflowTaskTimeout, match="execution_timeout=60 s"):
        make("D1ChangeSensor", arguments).execute_complete(context(), event)


@pytest.mark.parametrize("name", operators())
def test_every_argument_has_a_rule_that_converts_what_a_template_renders(name: str) -> None:
    """A template renders text; the argument gets the type of its default."""
    operator: Any = operators()[name]
    # an export is another task's output, which has its own check
    assert set(parameters_of(operator)) - {"export"} <= set(operator.rules)
    defaults = {
        parameter.name: parameter.default
        for cls in operator.__mro__
        if cls.__module__.startswith("airflow_provider_d1") and "__init__" in vars(cls)
        for parameter in inspect.signature(cls.__init__).parameters.values()
        if parameter.default not in (inspect.Parameter.empty, None)
    }
    for argument, value in defaults.items():
        if ATTRIBUTES.get(argument, argument) in operator.template_fields:
            default = list(value) if isinstance(value, tuple) else value
            converted = operator.rules[argument].from_rendered(str(default).replace("'", '"'))
            assert converted == default, argument
            assert isinstance(converted, str) == isinstance(default, str), argument
