"""D1 → S3 → Snowflake with Airflow's own operator for external stages, one mapped task for each table that was staged.

The tables have to be there, and rows are added to them: Snowflake remembers for 64 days which files it has loaded and
skips them, so a repeated task adds nothing. ``d1_to_snowflake.py`` replaces, checks counts and follows the schema. The
external stage (``D1_SNOWFLAKE_STAGE``) has the bucket itself as its URL, ``s3://my-staging-bucket/``.
"""

from __future__ import annotations

import os
from datetime import timedelta

import pendulum
from airflow.providers.snowflake.transfers.copy_into_snowflake import CopyFromExternalStageToSnowflakeOperator
from airflow.sdk import DAG, task

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator

DATABASE = os.environ.get("D1_DATABASE", "shop")
BUCKET = os.environ.get("D1_STAGING_BUCKET", "my-staging-bucket")
SCHEMA = os.environ.get("D1_WAREHOUSE_SCHEMA", "d1")
STAGE = os.environ.get("D1_SNOWFLAKE_STAGE", "OPS.PUBLIC.D1_STAGING")


def quoted(name: str) -> str:
    """The operator takes SQL, not names."""
    return '"' + name.replace('"', '""') + '"'


with DAG(
    "d1_to_snowflake_stock",
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

    @task
    def copies(staged: dict) -> list[dict]:
        """One set of arguments for each table: exactly the files of this run."""
        return [
            {"table": quoted(name), "files": [uri.removeprefix(f"s3://{BUCKET}/") for uri in table["uris"]]}
            for name, table in staged["tables"].items()
        ]

    CopyFromExternalStageToSnowflakeOperator.partial(
        task_id="load",
        schema=quoted(SCHEMA),
        stage=STAGE,
        file_format="(TYPE = PARQUET BINARY_AS_TEXT = FALSE USE_LOGICAL_TYPE = TRUE)",
        copy_options="MATCH_BY_COLUMN_NAME = CASE_SENSITIVE",
        snowflake_conn_id="snowflake_default",
        map_index_template="{{ task.table }}",
    ).expand_kwargs(copies(stage.output))
