"""Stage a D1 database in S3 as typed Parquet files with a manifest.

Trigger the DAG and fill in the form; nothing has to be edited. It needs two connections, here as environment variables
of the scheduler, workers and triggerer::

    AIRFLOW_CONN_D1_DEFAULT='{"conn_type": "d1", "password": "<API token>", "extra": {"account_id": "<account>"}}'
    AIRFLOW_CONN_AWS_DEFAULT='{"conn_type": "aws", "login": "<access key>", "password": "<secret key>",
      "extra": {"region_name": "eu-central-1"}}'

The API token needs the permission *Account, D1, Edit*. For a bucket that is not on AWS, add its address to the extra of
``aws_default``: ``"endpoint_url": "https://<account>.r2.cloudflarestorage.com"``.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator

with DAG(
    "d1_to_s3",
    schedule=None,  # "0 3 * * *" runs it every day at 03:00 with the params below
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # a second run at the same time would only export the same rows again
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "database": Param("shop", type="string", description="Name or UUID of the D1 database"),
        "bucket": Param("my-staging-bucket", type="string", description="S3 bucket for the staged files"),
        "prefix": Param("d1", type="string", description="Folder in the bucket; each database gets one below it"),
    },
    tags=["d1"],
) as dag:
    D1ToS3Operator(
        task_id="stage",
        database="{{ params.database }}",
        s3_bucket="{{ params.bucket }}",
        s3_prefix="{{ params.prefix }}/{{ params.database }}",
    )
