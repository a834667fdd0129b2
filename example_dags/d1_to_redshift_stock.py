"""Stage a D1 database and load it into Redshift with Airflow's own ``S3ToRedshiftOperator``, one mapped task for each.

The target tables must already exist, with their columns in the staged order; each table is replaced independently.
There is no schema drift, no row count check and no transaction over all tables: ``d1_to_warehouse.py`` has these. The
connections are those of ``d1_to_s3.py``, and ``redshift_default``.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.providers.amazon.aws.transfers.s3_to_redshift import S3ToRedshiftOperator
from airflow.sdk import DAG, Param, task

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator


def quoted(name: str) -> str:
    """Quote a name: the operator puts it into SQL as it is."""
    return '"' + name.replace('"', '""') + '"'


with DAG(
    "d1_to_redshift_stock",
    schedule=None,  # "0 3 * * *" runs it every day at 03:00 with the params below
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # two runs would replace the same tables
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "database": Param("shop", type="string", description="Name or UUID of the D1 database"),
        "bucket": Param("my-staging-bucket", type="string", description="S3 bucket for the staged files"),
        "prefix": Param("d1", type="string", description="Folder in the bucket; each database gets one below it"),
        "schema": Param("d1", type="string", description="Schema of the target tables"),
    },
    tags=["d1", "redshift"],
) as dag:
    stage = D1ToS3Operator(
        task_id="stage",
        database="{{ params.database }}",
        s3_bucket="{{ params.bucket }}",
        s3_prefix="{{ params.prefix }}/{{ params.database }}",
    )

    @task
    def copies(staged: dict, params: dict | None = None) -> list[dict]:
        """One set of arguments for each table; its folder holds the files of this run and no others."""
        params = params or {}
        return [
            {
                "schema": quoted(params["schema"]),
                "table": quoted(name),
                "s3_key": table["uris"][0].removeprefix(f"s3://{params['bucket']}/").rpartition("/")[0] + "/",
            }
            for name, table in staged["tables"].items()
        ]

    S3ToRedshiftOperator.partial(
        task_id="load",
        s3_bucket="{{ params.bucket }}",
        redshift_conn_id="redshift_default",
        method="REPLACE",
        copy_options=["FORMAT AS PARQUET"],
        map_index_template="{{ task.table }}",
    ).expand_kwargs(copies(stage.output))
