"""The transfers turn an export, their own or another task's, into staged files; here in a folder."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from airflow.sdk import DAG

from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.exceptions import (
    D1ConfigurationError,
    D1DumpError,
    D1ExportError,
    D1SealError,
    D1SignedUrlExpiredError,
    D1StagingError,
)
from airflow_provider_d1.hooks.d1 import D1Hook
from airflow_provider_d1.operators.d1 import D1ExportOperator
from airflow_provider_d1.staging.options import STAGING_HELP, STAGING_RULES, StagingOptions
from airflow_provider_d1.staging.stage import stage
from airflow_provider_d1.staging.staging_run import same_owner
from airflow_provider_d1.storage.folder import FolderStorage
from airflow_provider_d1.transfers.d1_to_object_storage import D1ToObjectStorageOperator
from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator
from airflow_provider_d1.transfers.staging import D1ToStagingOperator
from airflow_provider_d1.triggers import events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_d1.cloudflare.models import D1Export

SHOP = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
INSERT INTO users VALUES (1, 'Ada'), (2, 'Grace'), (3, NULL);
CREATE TABLE "empty one" (id INTEGER);
"""
S3 = {"task_id": "stage", "s3_bucket": "bucket", "s3_prefix": "d1/shop"}


class Store(dict):
    """Airflow's task_state_store, as far as it is used."""

    def set(self, key: str, value: Any, *, retention: timedelta) -> None:
        assert timedelta(0) < retention <= timedelta(hours=1)
        self[key] = json.loads(json.dumps(value))

    def delete(self, key: str) -> None:
        self.pop(key, None)


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator(f"tok-{secrets.token_hex(16)}", databases={"shop": SHOP}) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    running.reset()
    definition = {
        "conn_type": "d1",
        "host": running.url,
        "password": running.token,
        "extra": {"account_id": running.account_id},
    }
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(definition))
    return running


@pytest.fixture
def export(emulator: Emulator) -> D1Export:
    return D1Hook(database="shop").export()


def to_folder(folder: Path, **arguments: Any) -> D1ToObjectStorageOperator:
    return D1ToObjectStorageOperator(task_id="stage", path=folder.as_uri(), **arguments)


def context(store: Store | None = None, max_tries: int = 2) -> dict[str, Any]:
    found = {} if store is None else {"task_state_store": store}
    return {"ti": SimpleNamespace(max_tries=max_tries), **found}


def test_a_given_export_is_staged_in_the_worker(export: D1Export, tmp_path: Path) -> None:
    result = to_folder(tmp_path, export=export.to_dict()).execute(context())
    assert set(result) == {"manifest", "latest", "run", "database_id", "bookmark", "rows", "bytes", "tables"}
    assert (result["database_id"], result["bookmark"], result["rows"]) == (export.database_id, export.bookmark, 3)
    assert result["manifest"] == (tmp_path / result["run"] / "_manifest.json").as_uri()
    assert result["latest"] == (tmp_path / "_manifest.json").as_uri()
    assert list(result["tables"]) == ["users", "empty one"]
    (uri,) = result["tables"]["users"]["uris"]
    rows = pq.read_table(uri.removeprefix("file://")).to_pylist()
    assert rows[0] == {"id": 1, "name": "Ada"}
    manifest = json.loads((tmp_path / "_manifest.json").read_text())
    assert manifest["source"]["unavailable_seconds"] == export.unavailable_seconds
    assert json.loads(json.dumps(result)) == result


def test_a_d1export_itself_will_do(export: D1Export, tmp_path: Path) -> None:
    assert to_folder(tmp_path, export=export).execute(context())["rows"] == 3


def test_a_database_is_exported_first_in_the_triggerer(export: D1Export, tmp_path: Path) -> None:
    operator = to_folder(tmp_path, database="shop", tables=["users"], timeout=60)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context())
    assert deferred.value.trigger.serialize()[1]["request"]["tables"] == ["users"]
    assert operator.execute_complete(context(), events.success(export))["rows"] == 3


def test_without_deferral_it_does_all_in_the_worker(emulator: Emulator, tmp_path: Path) -> None:
    operator = to_folder(tmp_path, database="shop", deferrable=False, file_format="csv")
    assert operator.execute(context())["rows"] == 3


def test_excluded_tables_are_not_exported(emulator: Emulator, tmp_path: Path) -> None:
    operator = to_folder(tmp_path, database="shop", exclude_tables=["users"], deferrable=False)
    assert list(operator.execute(context())["tables"]) == ["empty one"]
    source = json.loads((tmp_path / "_manifest.json").read_text())["source"]
    assert source["options"]["tables"] == ["empty one"]
    assert source["skipped"] == [{"name": "users", "reason": "excluded"}]
    with pytest.raises(AirflowFailException, match=r"exclude_tables: no such table.*did you mean 'users'"):
        to_folder(tmp_path, database="shop", exclude_tables=["user"], deferrable=False).execute(context())


@pytest.mark.parametrize("deferrable", [True, False])
def test_what_may_not_be_replaced_is_refused_before_an_export(
    emulator: Emulator, export: D1Export, tmp_path: Path, deferrable: bool
) -> None:
    to_folder(tmp_path, export=export).execute(context())
    emulator.reset()
    with pytest.raises(AirflowFailException, match="already exists"):
        to_folder(tmp_path, database="shop", replace=False, deferrable=deferrable).execute(context())
    assert not emulator.calls


@pytest.mark.parametrize("database", ["blog", "00000000-0000-4000-8000-000000000000"])
@pytest.mark.parametrize("deferrable", [True, False])
def test_another_databases_prefix_is_refused_before_an_export(
    emulator: Emulator, export: D1Export, tmp_path: Path, deferrable: bool, database: str
) -> None:
    to_folder(tmp_path, export=export).execute(context())
    emulator.reset()
    with pytest.raises(AirflowFailException, match=rf"'shop'.*{database}.*replace=\"any\""):
        to_folder(tmp_path, database=database, deferrable=deferrable).execute(context())
    assert not emulator.calls


def test_the_connections_database_counts_too(
    emulator: Emulator, export: D1Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = json.loads(os.environ["AIRFLOW_CONN_D1_DEFAULT"])
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps({**definition, "schema": "blog"}))
    to_folder(tmp_path, export=export).execute(context())
    with pytest.raises(AirflowFailException, match="blog"):
        to_folder(tmp_path).execute(context())


@pytest.mark.parametrize("database", ["shop", "the uuid"])
def test_a_second_run_of_the_same_database_is_not_refused(export: D1Export, tmp_path: Path, database: str) -> None:
    to_folder(tmp_path, export=export).execute(context())
    named = export.database_id if database == "the uuid" else database
    with pytest.raises(TaskDeferred):
        to_folder(tmp_path, database=named).execute(context())


def test_attempts_of_one_task_share_the_owner_of_their_runs(export: D1Export, tmp_path: Path) -> None:
    ti = {"max_tries": 2, "dag_id": "d", "task_id": "t", "run_id": "r"}
    runs = [
        to_folder(tmp_path / f"{number}", export=export).execute({"ti": SimpleNamespace(**ti, map_index=map_index)})[
            "run"
        ]
        for number, map_index in enumerate([0, 0, 1])
    ]
    assert same_owner(runs[0], runs[1])
    assert not same_owner(runs[0], runs[2])


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_destination_that_cannot_be_written_is_found_before_the_export(
    emulator: Emulator, tmp_path: Path, deferrable: bool
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AirflowFailException, match=r"D1StagingError: .*cannot write to file://"):
        to_folder(tmp_path / "file" / "below", database="shop", deferrable=deferrable).execute(context())
    assert not emulator.calls.of("export_start")


def test_the_dump_as_it_came(export: D1Export, tmp_path: Path) -> None:
    result = to_folder(tmp_path, export=export, file_format="sql").execute(context())
    assert (result["tables"], result["rows"]) == ({}, 0)
    (file,) = json.loads((tmp_path / "_manifest.json").read_text())["files"]
    assert result["bytes"] == file["bytes"]


@pytest.mark.parametrize("operator", [D1ToS3Operator, D1ToObjectStorageOperator])
def test_every_export_and_staging_parameter_is_taken(operator: type[D1ToStagingOperator]) -> None:
    export_only = {
        "database": "shop",
        "tables": ["t"],
        "exclude_tables": [],
        "no_data": True,
        "on_virtual_table": "skip",
        "poll_interval": 1,
    }
    export_only |= {
        "timeout": 5,
        "queue_timeout": 6,
        "max_restarts": 1,
        "d1_conn_id": "other",
        "deferrable": False,
        "no_schema": True,
    }
    assert set(export_only) == keywords(D1ExportOperator)
    staging = {"file_format": "sql", "compression": "gzip", "keep_dump": True, "on_lossy": "fail", "replace": False}
    staging |= {"on_type_conflict": "fail", "max_part_bytes": 1000, "parse_temporal": True, "audit_columns": True}
    staging |= {"column_names": "snake_case", "keep_runs": 5, "age_recipients": [f"age1{'q' * 58}"]}
    assert set(staging) | {"exclude_tables"} == set(StagingOptions.__dataclass_fields__)
    place = {"path": "file:///x"} if operator is D1ToObjectStorageOperator else {"s3_bucket": "b", "s3_prefix": "p"}
    made = operator(task_id="stage", temp_dir="/x", **place, **export_only, **staging)
    assert all(getattr(made, name) == value for name, value in (export_only | staging).items())
    assert keywords(D1ToStagingOperator) == set(staging) | {"export", "temp_dir"}


def test_the_operators_options_are_those_of_staging() -> None:
    """One source: a default or a help text that changes there changes here."""
    signature = inspect.signature(D1ToStagingOperator.__init__).parameters
    documented = " ".join((D1ToStagingOperator.__doc__ or "").split())
    for option in dataclasses.fields(StagingOptions):
        if option.name == "exclude_tables":  # of the export too
            continue
        assert signature[option.name].default == option.default
        assert signature[option.name].annotation == option.type
        assert f":param {option.name}: {STAGING_HELP[option.name]}." in documented
    assert set(STAGING_HELP) == set(STAGING_RULES) == {option.name for option in dataclasses.fields(StagingOptions)}


@pytest.mark.parametrize("operator", [D1ToStagingOperator, D1ToS3Operator, D1ToObjectStorageOperator])
def test_every_argument_is_templated_and_documented_so(operator: type[D1ToStagingOperator]) -> None:
    documented = re.findall(r":param (\w+):(.*?)\(templated\)", operator.__doc__ or "", re.DOTALL)
    assert [name for name, words in documented if ":param" in words] == []
    assert {name for name, _ in documented} == keywords(operator) <= set(operator.template_fields)


@pytest.mark.parametrize(
    ("name", "rendered", "value"),
    [
        ("file_format", "csv", "csv"),
        ("compression", "zstd", "zstd"),
        ("keep_dump", "true", True),
        ("max_part_bytes", "1000", 1000),
        ("keep_runs", "None", None),
        ("keep_runs", "7", 7),
        ("replace", "False", False),
        ("replace", "any", "any"),
        ("column_names", "snake_case", "snake_case"),
    ],
)
def test_a_rendered_option_gets_its_type_before_and_after_the_deferral(
    export: D1Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rendered: str, value: object
) -> None:
    used: list[StagingOptions] = []

    def stage_with(dump: Any, storage: Any, options: StagingOptions, *args: Any, **kwargs: Any) -> Any:
        used.append(options)
        return stage(dump, storage, options, *args, **kwargs)

    monkeypatch.setattr("airflow_provider_d1.staging.stage.stage", stage_with)

    def rendered_operator() -> D1ToObjectStorageOperator:
        operator = to_folder(tmp_path, database="shop", **{name: "{{ params.value }}"})
        operator.render_template_fields({"params": {"value": rendered}})
        return operator

    operator = rendered_operator()
    with pytest.raises(TaskDeferred):
        operator.execute(context())
    assert getattr(operator, name) == value
    operator = rendered_operator()  # the worker that continues starts from the DAG file
    assert operator.execute_complete(context(), events.success(export))["rows"] == 3
    assert [getattr(options, name) for options in used] == [value]


@pytest.mark.parametrize(
    ("name", "rendered", "words"),
    [("file_format", "avro", "file_format must be"), ("max_part_bytes", "many", "max_part_bytes must be")],
)
def test_an_option_that_renders_badly_fails_before_the_export(
    emulator: Emulator, tmp_path: Path, name: str, rendered: str, words: str
) -> None:
    operator = to_folder(tmp_path, database="shop", **{name: "{{ params.value }}"})
    operator.render_template_fields({"params": {"value": rendered}})
    with pytest.raises(AirflowFailException, match=words):
        operator.execute(context())
    assert not emulator.calls.of("export_start")


def test_tables_are_left_out_of_an_export_that_another_task_made(export: D1Export, tmp_path: Path) -> None:
    result = to_folder(tmp_path, export=export, exclude_tables=["users"]).execute(context())
    assert list(result["tables"]) == ["empty one"]
    manifest = json.loads(Path(result["manifest"].removeprefix("file://")).read_text())
    assert manifest["source"]["skipped"] == [{"name": "users", "reason": "excluded"}]
    with pytest.raises(AirflowFailException, match=r"exclude_tables: no such table.*did you mean 'users'"):
        to_folder(tmp_path, export=export, exclude_tables=["Users"]).execute(context())
    with pytest.raises(D1ConfigurationError, match="exclude_tables cannot leave"):
        to_folder(tmp_path, export=export, exclude_tables=["users"], file_format="sql")


def keywords(operator: type) -> set[str]:
    parameters = inspect.signature(operator.__init__).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"s3_bucket": ""}, "s3_bucket must be"),
        ({"s3_bucket": "s3://bucket"}, "s3_bucket must be"),
        ({"s3_prefix": "s3://bucket/x"}, "s3_prefix must be"),
        ({"s3_prefix": None}, "s3_prefix must be"),
        ({"aws_conn_id": ""}, "aws_conn_id must be"),
        ({"extra_args": "ServerSideEncryption"}, "extra_args must be"),
        ({"file_format": "avro"}, "file_format must be"),
        ({"compression": "lz4"}, "compression"),
        ({"on_lossy": "error"}, "on_lossy must be"),
        ({"on_type_conflict": "cast"}, "on_type_conflict must be"),
        ({"max_part_bytes": 0}, "max_part_bytes must be"),
        ({"column_names": "camelCase"}, "column_names must be"),
        ({"keep_dump": "yes"}, "keep_dump must be"),
        ({"replace": None}, "replace must be"),
        ({"replace": "all"}, "replace must be"),
        ({"keep_runs": 0}, "keep_runs must be"),
        ({"keep_runs": True}, "keep_runs must be"),
        ({"no_schema": True}, "no_schema"),
        ({"no_schema": True, "file_format": "csv"}, "no_schema"),
        ({"tables": []}, "tables must be"),
        ({"export": {"bookmark": "x"}, "database": "shop"}, "not both"),
    ],
    ids=str,
)
def test_a_bad_argument_is_refused_at_construction(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(D1ConfigurationError, match=words):
        D1ToS3Operator(**{**S3, **arguments})


def test_no_schema_is_fine_for_the_dump_as_it_came() -> None:
    assert D1ToS3Operator(**S3, no_schema=True, file_format="sql").no_schema


def test_another_tasks_output_is_a_dependency() -> None:
    with DAG("two_tasks", schedule=None):
        export = D1ExportOperator(task_id="export", database="shop")
        stage = D1ToS3Operator(**S3, export=export.output)
    assert stage.upstream_task_ids == {"export"}


def test_a_prefix_may_refer_to_the_database_of_a_mapped_task() -> None:
    with DAG("mapped_prefix", schedule=None):
        mapped = D1ToS3Operator.partial(task_id="stage", s3_bucket="b", s3_prefix="d1/{{ task.database }}")
        operator = mapped.expand(database=["shop"]).unmap({"database": "shop"})
    operator.render_template_fields({"task": operator})
    assert operator.s3_prefix == "d1/shop"


@pytest.fixture
def orders(export: D1Export) -> Iterator[None]:
    """A table that the database has and the dump of ``export`` has not, as if the dump had been cut before it."""
    hook = D1Hook(database="shop")
    hook.query("CREATE TABLE orders (id INTEGER)")
    yield
    hook.query("DROP TABLE orders")


def test_an_export_knows_the_tables_that_its_dump_should_have(export: D1Export) -> None:
    assert export.tables == ("users", "empty one")
    assert D1Hook(database="shop").export(tables=["users"]).tables == ("users",)


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize("form", ["parquet", "sql"])
def test_a_dump_that_lacks_a_table_is_refused_and_exported_again(export: D1Export, tmp_path: Path, form: str) -> None:
    cut = dataclasses.replace(export, tables=(*(export.tables or ()), "orders"))
    store = Store()
    with pytest.raises(D1DumpError, match=r"the dump lacks 'orders'.*Export again") as refused:
        to_folder(tmp_path, database="shop", file_format=form).execute_complete(context(store), events.success(cut))
    assert refused.value.retryable
    assert not store, "the retry exports again"
    assert not list(tmp_path.iterdir())
    with pytest.raises(AirflowFailException, match="the dump lacks 'orders'"):
        to_folder(tmp_path, export=cut, file_format=form).execute(context())


def test_a_table_that_was_dropped_before_the_export_began_may_be_missing(
    export: D1Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dropped = dataclasses.replace(export, tables=(*(export.tables or ()), "gone"))
    assert to_folder(tmp_path, export=dropped).execute(context())["rows"] == 3
    assert "Tables dropped before the export, and not in the dump: gone" in capsys.readouterr().out


@pytest.mark.parametrize("export", ["{'bookmark': 'x'}", {"bookmark": "x"}, 7])
def test_a_malformed_export_fails_without_retry(export: object, tmp_path: Path) -> None:
    with pytest.raises(AirflowFailException, match="export"):
        to_folder(tmp_path, export=export).execute(context())


def test_an_export_without_schema_cannot_become_tables(emulator: Emulator, tmp_path: Path) -> None:
    export = D1Hook(database="shop").export(no_schema=True)
    with pytest.raises(AirflowFailException, match="no_schema"):
        to_folder(tmp_path, export=export).execute(context())
    assert to_folder(tmp_path, export=export, file_format="sql").execute(context())["manifest"]
    assert not [d for d in emulator.downloads if "no_schema" in d.path]


def test_an_expired_url_of_another_task_is_not_retried(emulator: Emulator, export: D1Export, tmp_path: Path) -> None:
    emulator.faults.expired_urls = 99
    with pytest.raises(AirflowFailException, match="D1SignedUrlExpiredError") as raised:
        to_folder(tmp_path, export=export).execute(context())
    assert isinstance(raised.value.__cause__, D1SignedUrlExpiredError)


def test_an_expired_url_of_its_own_is_retried(emulator: Emulator, export: D1Export, tmp_path: Path) -> None:
    emulator.faults.expired_urls = 99
    store = Store()
    with pytest.raises(D1SignedUrlExpiredError):
        to_folder(tmp_path, database="shop").execute_complete(context(store), events.success(export))
    assert not store


@pytest.fixture
def rotated(emulator: Emulator, export: D1Export, monkeypatch: pytest.MonkeyPatch) -> D1Export:
    """An export whose connection has got another token since."""
    definition = json.loads(os.environ["AIRFLOW_CONN_D1_DEFAULT"])
    definition["password"] = f"tok-{secrets.token_hex(16)}"
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(definition))
    return export


def test_a_token_rotated_while_the_task_was_deferred_is_retried(rotated: D1Export, tmp_path: Path) -> None:
    store = Store()
    with pytest.raises(D1SealError) as raised:
        to_folder(tmp_path, database="shop").execute_complete(context(store), events.success(rotated))
    assert raised.value.retryable
    assert not store  # the retry exports again, with the new token


def test_another_tasks_export_under_a_rotated_token_is_not_retried(rotated: D1Export, tmp_path: Path) -> None:
    with pytest.raises(AirflowFailException, match="D1SealError"):
        to_folder(tmp_path, export=rotated).execute(context())


def test_a_failed_export_is_an_error_and_nothing_is_staged(tmp_path: Path) -> None:
    with pytest.raises(D1ExportError, match="odd"):
        to_folder(tmp_path, database="shop").execute_complete(context(), events.failure(D1ExportError("odd")))
    assert not list(tmp_path.iterdir())


class TestRetry:
    """A try that fails while it stages leaves its export to the next one."""

    @pytest.fixture
    def store(self, export: D1Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
        store = Store()
        with monkeypatch.context() as patch:
            patch.setattr(FolderStorage, "put_bytes", refuse)
            with pytest.raises(D1StagingError):
                to_folder(tmp_path, database="shop").execute_complete(context(store), events.success(export))
        return store

    def test_what_is_kept_is_sealed(self, store: Store, emulator: Emulator) -> None:
        kept = json.dumps(store)
        assert "d1seal1." in kept
        assert "http" not in kept
        assert emulator.token not in kept

    def test_the_next_try_needs_no_new_export(self, store: Store, emulator: Emulator, tmp_path: Path) -> None:
        emulator.calls.clear()
        assert to_folder(tmp_path, database="shop").execute(context(store))["rows"] == 3
        assert not emulator.calls
        assert not store

    def test_a_cleared_task_exports_anew(self, store: Store, tmp_path: Path) -> None:
        """Clearing moves ``max_tries``; what an earlier run of the task knew no longer counts."""
        with pytest.raises(TaskDeferred):
            to_folder(tmp_path, database="shop").execute(context(store, max_tries=3))

    @pytest.mark.parametrize("change", [{"database": "blog"}, {"tables": ["users"]}, {"d1_conn_id": "other"}], ids=str)
    def test_another_request_exports_anew(self, store: Store, change: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(TaskDeferred):
            to_folder(tmp_path, **{"database": "shop", **change}).execute(context(store))

    def test_a_url_near_its_end_exports_anew(self, store: Store, tmp_path: Path) -> None:
        (state,) = store.values()
        state["export"]["expires_at"] = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
        with pytest.raises(TaskDeferred):
            to_folder(tmp_path, database="shop").execute(context(store))

    def test_a_failing_task_state_store_only_costs_a_new_export(self, store: Store, tmp_path: Path) -> None:
        for damaged in (Store(dict.fromkeys(store, "nonsense")), SimpleNamespace()):
            with pytest.raises(TaskDeferred):
                to_folder(tmp_path, database="shop").execute(context(damaged))


def refuse(*_: object) -> None:
    raise D1StagingError("the store is full")
