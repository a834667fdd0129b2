"""Bad arguments are refused where they are written, and by name."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.operators.d1 import D1ExportOperator
from airflow_provider_d1.transfers.staging_to_warehouse import D1StagingToWarehouseOperator


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
