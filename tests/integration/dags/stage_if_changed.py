"""Stage a database only when it has changed since it was staged."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from airflow_provider_d1.sensors.d1_change import D1ChangeSensor
from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator

with DAG(
    "stage_if_changed",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    params={"database": "blog", "timeout": 0},
) as dag:
    changed = D1ChangeSensor(
        task_id="changed",
        database="{{ params.database }}",
        prefix="s3://my-staging-bucket/if-changed/{{ params.database }}",
        poke_interval=1,
        timeout=0,
        soft_fail=True,
    )
    changed >> D1ToS3Operator(
        task_id="stage",
        database="{{ params.database }}",
        s3_bucket="my-staging-bucket",
        s3_prefix="if-changed/{{ params.database }}",
    )
