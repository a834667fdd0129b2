"""D1 → S3 → Redshift with Airflow's own ``S3ToRedshiftOperator``, one mapped task for each table that was staged.

The tables have to be there, with their columns in the staged order, and each is replaced by itself: no schema drift, no
count of rows, no all-or-nothing. ``d1_to_redshift.py`` has all that.
"""

from __future__ import annotations

import os
from datetime import timedelta

import pendulum
from airflow.providers.amazon.aws.transfers.s3_to_redshift import S3ToRedshiftOperator
from airflow.sdk import DAG, task

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator

DATABASE = os.environ.get("D1_DATABASE", "shop")
BUCKET = os.environ.get("D1_STAGING_BUCKET", "my-staging-bucket")
SCHEMA = os.environ.get("D1_WAREHOUSE_SCHEMA", "d1")


def quoted(name: str) -> str:
    """The operator takes SQL, not names."""
    return '"' + name.replace('"', '""') + '"'


with DAG(
    "d1_to_redshift_stock",
    schedule="0 3 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    tags=["d1", "redshift"],
) as dag:
    stage = D1ToS3Operator(
        task_id="stage",
        database=DATABASE,
        s3_bucket=BUCKET,
        s3_prefix="d1/{{ task.database }}/{{ dag_run.run_after | ds }}",
    )

    @task
    def copies(staged: dict) -> list[dict]:
        """One set of arguments for each table; the folder holds the files of this run and no others."""
        return [
            {
                "table": quoted(name),
                "s3_key": table["uris"][0].removeprefix(f"s3://{BUCKET}/").rpartition("/")[0] + "/",
            }
            for name, table in staged["tables"].items()
        ]

    S3ToRedshiftOperator.partial(
        task_id="load",
        schema=quoted(SCHEMA),
        s3_bucket=BUCKET,
        redshift_conn_id="redshift_default",
        method="REPLACE",
        copy_options=["FORMAT AS PARQUET"],
        map_index_template="{{ task.table }}",
    ).expand_kwargs(copies(stage.output))
