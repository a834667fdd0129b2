"""Bad arguments are refused where they are written, and by name."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.operators.arguments import check_rendered_arguments
from airflow_provider_d1.operators.d1 import D1ExportOperator
from airflow_provider_d1.transfers.staging_to_warehouse import ATTRIBUTES, RULES, D1StagingToWarehouseOperator
from airflow_provider_d1.warehouses.registry import engine_options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database", ""),
        ("database", 7),
        ("tables", "users"),
        ("tables", []),
        ("tables", ["users", 3]),
        ("tables", [""]),
        ("exclude_tables", "users"),
        ("exclude_tables", [3]),
        ("timeout", "60"),
        ("queue_timeout", -1),
        ("no_data", "yes"),
        ("no_schema", None),
        ("on_virtual_table", "ignore"),
        ("poll_interval", 0),
        ("poll_interval", 10.5),
        ("poll_interval", True),
        ("timeout", 0),
        ("timeout", float("inf")),
        ("timeout", None),
        ("timeout", float("nan")),
        ("max_restarts", -1),
        ("max_restarts", 1.5),
        ("d1_conn_id", ""),
        ("deferrable", "no"),
    ],
)
def test_a_bad_argument_is_refused_at_construction_and_named(name: str, value: Any) -> None:
    with pytest.raises(D1ConfigurationError, match=rf"^{name} must be "):
        D1ExportOperator(task_id="export", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database", None),
        ("database", "shop"),
        ("tables", ["users"]),
        ("tables", ("users", "Orders")),
        ("poll_interval", 10),
        ("poll_interval", 0.5),
        ("timeout", 1),
        ("max_restarts", 0),
        ("on_virtual_table", "skip"),
        ("database", "{{ params.database }}"),
        ("tables", ["users", "{{ ds }}"]),
        ("tables", "{{ params.tables }}"),
        ("timeout", "{{ params.timeout }}"),
        ("no_data", "{{ params.no_data }}"),
        ("exclude_tables", []),
        ("d1_conn_id", "{% if true %}d1_default{% endif %}"),
    ],
)
def test_a_good_or_templated_argument_is_accepted(name: str, value: Any) -> None:
    assert getattr(D1ExportOperator(task_id="export", **{name: value}), name) == value


def test_another_tasks_output_is_accepted() -> None:
    with DAG("output_as_argument", schedule=None):

        @task
        def name_tables() -> list[str]:
            return ["users"]

        operator = D1ExportOperator(task_id="export", tables=name_tables())
    assert operator.upstream_task_ids == {"name_tables"}


def test_a_template_where_airflow_renders_none_is_refused() -> None:
    with pytest.raises(D1ConfigurationError, match="deferrable must be True or False"):
        D1ExportOperator(task_id="export", deferrable="{{ params.deferrable }}")


def test_dry_run_is_named_as_the_user_wrote_it() -> None:
    with pytest.raises(D1ConfigurationError, match=r"^dry_run must be True or False, not 'yes'"):
        D1StagingToWarehouseOperator(
            task_id="load", manifest="s3://b/_manifest.json", conn_id="c", schema="s", dry_run="yes"
        )


LOAD = {"task_id": "load", "manifest": "s3://b/_manifest.json", "conn_id": "c", "schema": "s"}


def test_every_argument_of_the_loader_is_templated_and_documented_so() -> None:
    parameters = inspect.signature(D1StagingToWarehouseOperator.__init__).parameters.values()
    own = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    documented = re.findall(r":param (\w+):(.*?)\(templated\)", D1StagingToWarehouseOperator.__doc__ or "", re.DOTALL)
    assert [name for name, words in documented if ":param" in words] == []
    assert {name for name, _ in documented} == own - set(engine_options())
    assert set(RULES) == own
    assert set(D1StagingToWarehouseOperator.template_fields) == {ATTRIBUTES.get(name, name) for name in own}


def test_a_rendered_argument_of_the_loader_gets_its_type() -> None:
    operator = D1StagingToWarehouseOperator(
        **LOAD, dry_run="{{ dry }}", mode="{{ mode }}", verify_checksums="{{ dry }}"
    )
    operator.render_template_fields({"dry": "true", "mode": "append"})
    check_rendered_arguments(operator, operator.rules, ATTRIBUTES)
    assert (operator.only_statements, operator.mode, operator.verify_checksums) == (True, "append", True)
    operator = D1StagingToWarehouseOperator(**LOAD, mode="{{ mode }}")
    operator.render_template_fields({"mode": "add"})
    with pytest.raises(D1ConfigurationError, match=r"^mode must be .*, not 'add'"):
        check_rendered_arguments(operator, operator.rules, ATTRIBUTES)
