"""Stage a D1 database in S3 every night: one task that holds a worker only while it moves bytes.

Needs two connections: ``d1_default`` (type ``d1``) and ``aws_default``.
"""

from __future__ import annotations

import os
from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator

DATABASE = os.environ.get("D1_DATABASE", "shop")
BUCKET = os.environ.get("D1_STAGING_BUCKET", "my-staging-bucket")

with DAG(
    "d1_nightly_to_s3",
    schedule="0 3 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    tags=["d1"],
) as dag:
    D1ToS3Operator(
        task_id="stage",
        database=DATABASE,
        s3_bucket=BUCKET,
        s3_prefix="d1/{{ task.database }}/{{ dag_run.run_after | ds }}",
    )
