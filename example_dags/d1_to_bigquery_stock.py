"""D1 → S3 → Cloud Storage → BigQuery with Airflow's own operators, the load mapped over the tables that were staged.

Each table is replaced by what its Parquet files hold, in one job, with their types; counts aren't checked, and tables
don't change together. ``d1_to_bigquery.py`` needs no second bucket.
"""

from __future__ import annotations

import os
from datetime import timedelta

import pendulum
from airflow.providers.google.cloud.transfers.gcs_to_bigquery import GCSToBigQueryOperator
from airflow.providers.google.cloud.transfers.s3_to_gcs import S3ToGCSOperator
from airflow.sdk import DAG, task

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator

DATABASE = os.environ.get("D1_DATABASE", "shop")
BUCKET = os.environ.get("D1_STAGING_BUCKET", "my-staging-bucket")
SCHEMA = os.environ.get("D1_WAREHOUSE_SCHEMA", "d1")
PREFIX = f"d1/{DATABASE}/{{{{ dag_run.run_after | ds }}}}"
GCS_BUCKET = os.environ.get("D1_GCS_BUCKET", "my-gcs-bucket")

with DAG(
    "d1_to_bigquery_stock",
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
        s3_prefix=PREFIX,
    )
    to_gcs = S3ToGCSOperator(
        task_id="to_gcs",
        bucket=BUCKET,
        prefix=PREFIX + "/{{ ti.xcom_pull('stage')['run'] }}/",  # this run's folder
        dest_gcs=f"gs://{GCS_BUCKET}/",
        replace=True,
        return_gcs_uris=True,
    )

    @task
    def loads(staged: dict) -> list[dict]:
        """One set of arguments for each table; the objects have the keys that they have in S3."""
        return [
            {
                "source_objects": [uri.removeprefix(f"s3://{BUCKET}/") for uri in table["uris"]],
                "destination_project_dataset_table": f"{SCHEMA}.{name}",
            }
            for name, table in staged["tables"].items()
        ]

    load = GCSToBigQueryOperator.partial(
        task_id="load",
        bucket=GCS_BUCKET,
        source_format="PARQUET",
        autodetect=None,  # Parquet says by itself what its types are
        write_disposition="WRITE_TRUNCATE",
        map_index_template="{{ task.destination_project_dataset_table }}",
    ).expand_kwargs(loads(stage.output))

    stage >> to_gcs >> load
