"""Stage a D1 database, copy it to Cloud Storage and load it into BigQuery with Airflow's own operators.

The load is mapped over the staged tables. Each table is replaced by the contents of its Parquet files in one job; row
counts are not checked, and tables do not change together. ``d1_to_warehouse.py`` checks counts and needs no second
bucket. The connections are those of ``d1_to_s3.py``, and ``google_cloud_default``.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param, task

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator

try:
    from airflow.providers.google.cloud.transfers.gcs_to_bigquery import GCSToBigQueryOperator
    from airflow.providers.google.cloud.transfers.s3_to_gcs import S3ToGCSOperator
except ImportError:
    GCSToBigQueryOperator = S3ToGCSOperator = None

DAG_ID = "d1_to_bigquery_stock"

if GCSToBigQueryOperator is None:
    missing = "This example needs another provider: pip install apache-airflow-providers-google"
    dag = DAG(DAG_ID, schedule=None, description=missing, tags=["d1", "bigquery"])
else:
    with DAG(
        DAG_ID,
        schedule=None,  # "0 3 * * *" runs it every day at 03:00 with the params below
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        max_active_runs=1,  # two runs would replace the same tables
        default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
        params={
            "database": Param("shop", type="string", description="Name or UUID of the D1 database"),
            "bucket": Param("my-staging-bucket", type="string", description="S3 bucket for the staged files"),
            "prefix": Param("d1", type="string", description="Folder in the bucket; each database gets one below it"),
            "gcs_bucket": Param("my-gcs-bucket", type="string", description="Cloud Storage bucket for their copies"),
            "schema": Param("d1", type="string", description="Dataset of the target tables"),
        },
        tags=["d1", "bigquery"],
    ) as dag:
        stage = D1ToS3Operator(
            task_id="stage",
            database="{{ params.database }}",
            s3_bucket="{{ params.bucket }}",
            s3_prefix="{{ params.prefix }}/{{ params.database }}",
        )
        to_gcs = S3ToGCSOperator(
            task_id="to_gcs",
            bucket="{{ params.bucket }}",
            # the folder of this run
            prefix="{{ params.prefix }}/{{ params.database }}/{{ ti.xcom_pull('stage')['run'] }}/",
            dest_gcs="gs://{{ params.gcs_bucket }}/",
            replace=True,
            return_gcs_uris=True,
        )

        @task
        def loads(staged: dict, params: dict | None = None) -> list[dict]:
            """One set of arguments for each table; the copies have the keys that the objects have in S3."""
            params = params or {}
            return [
                {
                    "source_objects": [uri.removeprefix(f"s3://{params['bucket']}/") for uri in table["uris"]],
                    "destination_project_dataset_table": f"{params['schema']}.{name}",
                }
                for name, table in staged["tables"].items()
            ]

        load = GCSToBigQueryOperator.partial(
            task_id="load",
            bucket="{{ params.gcs_bucket }}",
            source_format="PARQUET",
            autodetect=None,  # Parquet files have their own types
            write_disposition="WRITE_TRUNCATE",
            map_index_template="{{ task.destination_project_dataset_table }}",
        ).expand_kwargs(loads(stage.output))

        stage >> to_gcs >> load
