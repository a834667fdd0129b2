"""D1 → S3 → BigQuery every night: one Parquet load job after the other, through the worker.

Needs ``d1_default`` (type ``d1``), ``aws_default`` and ``google_cloud_default``. Who stages in Cloud Storage instead
(``D1ToObjectStorageOperator(path="gs://…")``) lets BigQuery read the files by itself.
"""

from __future__ import annotations

import os
from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator
from airflow_provider_d1.transfers.staging_to_warehouse import D1StagingToWarehouseOperator

DATABASE = os.environ.get("D1_DATABASE", "shop")
BUCKET = os.environ.get("D1_STAGING_BUCKET", "my-staging-bucket")
SCHEMA = os.environ.get("D1_WAREHOUSE_SCHEMA", "d1")

with DAG(
    "d1_to_bigquery",
    schedule="0 3 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    tags=["d1", "bigquery"],
) as dag:
    stage = D1ToS3Operator(
        task_id="stage",
        database=DATABASE,
        s3_bucket=BUCKET,
        s3_prefix="d1/{{ task.database }}/{{ dag_run.run_after | ds }}",
    )
    D1StagingToWarehouseOperator(
        task_id="load",
        manifest=stage.output,
        conn_id="google_cloud_default",
        schema=SCHEMA,  # the dataset
    )
