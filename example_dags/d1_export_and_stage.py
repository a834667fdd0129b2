"""Export a D1 database once and use the export twice: tables for the warehouse, and the SQL dump as a backup.

D1 answers no queries while it exports, so it should export only once. The export runs in the triggerer and occupies no
worker slot. Its output contains the signed URL of the dump in sealed form: only tasks with the same D1 connection can
open it, for one hour. The connections are those of ``d1_to_s3.py``.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param

from airflow_provider_d1.operators.d1 import D1ExportOperator
from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator

with DAG(
    "d1_export_and_stage",
    schedule=None,  # "0 3 * * *" runs it every day at 03:00 with the params below
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # a second run at the same time would only export the same rows again
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "database": Param("shop", type="string", description="Name or UUID of the D1 database"),
        "bucket": Param("my-staging-bucket", type="string", description="S3 bucket for tables and backups"),
        "prefix": Param("d1", type="string", description="Folder in the bucket"),
    },
    tags=["d1"],
) as dag:
    export = D1ExportOperator(task_id="export", database="{{ params.database }}", timeout=1800)

    tables = D1ToS3Operator(
        task_id="stage_tables",
        export=export.output,
        s3_bucket="{{ params.bucket }}",
        s3_prefix="{{ params.prefix }}/tables/{{ params.database }}",
    )
    backup = D1ToS3Operator(
        task_id="keep_dump",
        export=export.output,
        s3_bucket="{{ params.bucket }}",
        s3_prefix="{{ params.prefix }}/backup/{{ params.database }}/{{ dag_run.run_after | ds }}",
        file_format="sql",
        compression="zstd",
    )
