"""Stage a D1 database and load it into Snowflake with Airflow's own operator, one mapped task for each table.

The target tables must already exist, and rows are added to them. Snowflake remembers for 64 days which files it has
loaded and skips them, so a repeated task adds nothing. ``d1_to_warehouse.py`` also replaces tables, checks counts and
follows the schema. The external stage must have the bucket itself as its URL, ``s3://my-staging-bucket/``. The
connections are those of ``d1_to_s3.py``, and ``snowflake_default``.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param, task

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator

try:
    from airflow.providers.snowflake.transfers.copy_into_snowflake import CopyFromExternalStageToSnowflakeOperator
except ImportError:
    CopyFromExternalStageToSnowflakeOperator = None

DAG_ID = "d1_to_snowflake_stock"


def quoted(name: str) -> str:
    """Quote a name: the operator puts it into SQL as it is."""
    return '"' + name.replace('"', '""') + '"'


if CopyFromExternalStageToSnowflakeOperator is None:
    missing = "This example needs another provider: pip install apache-airflow-providers-snowflake"
    dag = DAG(DAG_ID, schedule=None, description=missing, tags=["d1", "snowflake"])
else:
    with DAG(
        DAG_ID,
        schedule=None,  # "0 3 * * *" runs it every day at 03:00 with the params below
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        max_active_runs=1,  # a second run at the same time would add the same rows again, from other files
        default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
        params={
            "database": Param("shop", type="string", description="Name or UUID of the D1 database"),
            "bucket": Param("my-staging-bucket", type="string", description="S3 bucket for the staged files"),
            "prefix": Param("d1", type="string", description="Folder in the bucket; each database gets one below it"),
            "schema": Param("d1", type="string", description="Schema of the target tables"),
            "stage": Param("OPS.PUBLIC.D1_STAGING", type="string", description="External stage of the bucket"),
        },
        tags=["d1", "snowflake"],
    ) as dag:
        stage = D1ToS3Operator(
            task_id="stage",
            database="{{ params.database }}",
            s3_bucket="{{ params.bucket }}",
            s3_prefix="{{ params.prefix }}/{{ params.database }}",
        )

        @task
        def copies(staged: dict, params: dict | None = None) -> list[dict]:
            """One set of arguments for each table: exactly the files of this run."""
            params = params or {}
            return [
                {
                    "schema": quoted(params["schema"]),
                    "stage": params["stage"],
                    "table": quoted(name),
                    "files": [uri.removeprefix(f"s3://{params['bucket']}/") for uri in table["uris"]],
                }
                for name, table in staged["tables"].items()
            ]

        CopyFromExternalStageToSnowflakeOperator.partial(
            task_id="load",
            file_format="(TYPE = PARQUET BINARY_AS_TEXT = FALSE USE_LOGICAL_TYPE = TRUE)",
            copy_options="MATCH_BY_COLUMN_NAME = CASE_SENSITIVE",
            snowflake_conn_id="snowflake_default",
            map_index_template="{{ task.table }}",
        ).expand_kwargs(copies(stage.output))
