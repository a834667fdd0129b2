"""D1 → S3 → Snowflake every night: ``COPY INTO`` from an external stage, or from files that the worker uploads.

Needs ``d1_default`` (type ``d1``), ``aws_default`` and ``snowflake_default``, whose extra names the database. An
external stage (``D1_SNOWFLAKE_STAGE``, say ``OPS.PUBLIC.D1_STAGING``) has the bucket itself as its URL,
``s3://my-staging-bucket/``.
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
STAGE = os.environ.get("D1_SNOWFLAKE_STAGE")

with DAG(
    "d1_to_snowflake",
    schedule="0 3 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    tags=["d1", "snowflake"],
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
        conn_id="snowflake_default",
        schema=SCHEMA,
        stage=STAGE,
    )
