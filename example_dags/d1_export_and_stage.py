"""Export once, use the export twice: typed tables for the warehouse, and the dump itself as a backup.

While the export runs no worker is held; the database answers no queries meanwhile, so it is exported only once. The
export's output holds the signed URL sealed: only tasks with the same D1 connection can open it, for an hour.
"""

from __future__ import annotations

import os
from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from airflow_provider_d1.operators.d1 import D1ExportOperator
from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator

DATABASE = os.environ.get("D1_DATABASE", "shop")
BUCKET = os.environ.get("D1_STAGING_BUCKET", "my-staging-bucket")

with DAG(
    "d1_export_and_stage",
    schedule="0 3 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    tags=["d1"],
) as dag:
    export = D1ExportOperator(task_id="export", database=DATABASE, timeout=1800)

    tables = D1ToS3Operator(
        task_id="stage_tables",
        export=export.output,
        s3_bucket=BUCKET,
        s3_prefix="d1/tables",
        file_format="parquet",
    )
    backup = D1ToS3Operator(
        task_id="keep_dump",
        export=export.output,
        s3_bucket=BUCKET,
        s3_prefix="d1/backup/{{ dag_run.run_after | ds }}",
        file_format="sql",
        compression="zstd",
    )
