"""Stage a D1 database in S3 and load it into a warehouse: Postgres, Redshift, Snowflake, BigQuery, Databricks, …

The warehouse is the one behind the connection that the form asks for; its type decides how the rows are loaded. The
provider's extra of the same name installs what the load needs, such as ``airflow-provider-d1[snowflake]``. It needs
three connections; ``d1_default`` and ``aws_default`` are as in ``d1_to_s3.py``, and the third is one of::

    AIRFLOW_CONN_WAREHOUSE='{"conn_type": "postgres", "host": "…", "schema": "<database>", "login": "…", …}'
    AIRFLOW_CONN_WAREHOUSE='{"conn_type": "redshift", "host": "…", "schema": "<database>", "login": "…", …}'
    AIRFLOW_CONN_WAREHOUSE='{"conn_type": "snowflake", "login": "…", "extra": {"account": "…", "database": "…"}}'
    AIRFLOW_CONN_WAREHOUSE='{"conn_type": "google_cloud_platform", "extra": {"project": "…"}}'
    AIRFLOW_CONN_WAREHOUSE='{"conn_type": "databricks", "host": "…", "password": "…", "extra": {"http_path": "…"}}'
    AIRFLOW_CONN_WAREHOUSE='{"conn_type": "clickhouse", "host": "…", "login": "…", "password": "…"}'
    AIRFLOW_CONN_WAREHOUSE='{"conn_type": "mysql", "host": "…", "login": "…", "password": "…"}'
    AIRFLOW_CONN_WAREHOUSE='{"conn_type": "duckdb", "host": "/path/to/warehouse.duckdb"}'
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator
from airflow_provider_d1.transfers.staging_to_warehouse import D1StagingToWarehouseOperator

with DAG(
    "d1_to_warehouse",
    schedule=None,  # "0 3 * * *" runs it every day at 03:00 with the params below
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # two runs would replace the same tables, and one process at a time can open a DuckDB file
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "database": Param("shop", type="string", description="Name or UUID of the D1 database"),
        "bucket": Param("my-staging-bucket", type="string", description="S3 bucket for the staged files"),
        "prefix": Param("d1", type="string", description="Folder in the bucket; each database gets one below it"),
        "warehouse": Param("warehouse", type="string", description="Connection id of the warehouse"),
        "schema": Param("d1", type="string", description="Schema (BigQuery: dataset) that the tables are loaded into"),
    },
    tags=["d1"],
) as dag:
    stage = D1ToS3Operator(
        task_id="stage",
        database="{{ params.database }}",
        s3_bucket="{{ params.bucket }}",
        s3_prefix="{{ params.prefix }}/{{ params.database }}",
        keep_dump=True,  # keeps the SQL dump beside the tables, as a backup
    )
    D1StagingToWarehouseOperator(
        task_id="load",
        manifest=stage.output,
        conn_id="{{ params.warehouse }}",
        schema="{{ params.schema }}",
        # Some warehouses have an option of their own:
        # Postgres    on_nul="replace": it cannot store NUL characters, and refuses a database that has some by default
        # Redshift    iam_role="arn:aws:iam::<account>:role/<role>": COPY gets the keys of aws_default otherwise
        # Snowflake   stage="OPS.PUBLIC.D1_STAGING", whose URL is the bucket: the worker uploads the files otherwise
        # BigQuery    location="EU": a new dataset is made there; it is not needed where there is a dataset
        # Databricks  catalog="main": the connection's or the workspace's catalog otherwise
        #             storage_credential="<name>": it needs an external location for the bucket otherwise
    )
