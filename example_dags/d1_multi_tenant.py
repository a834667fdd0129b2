"""A database for each tenant, all of them into one set of tables: ``_d1_database`` says whose row it is.

Every tenant is staged and loaded by itself, so that one whose export fails holds up no other. Tables and columns need
not be the same everywhere: what a tenant has more is added, NULL for the others.

An export is loaded once, however often its task runs. Every night's export is added to the earlier ones; the rows as of
now are those of each database's last load::

    SELECT * FROM users WHERE (_d1_database, _d1_bookmark) IN (
        SELECT DISTINCT ON (database_id) database_name, bookmark FROM _d1_loads
        WHERE table_name = 'users' ORDER BY database_id, loaded_at DESC)
"""

from __future__ import annotations

import os
from datetime import timedelta

import pendulum
from airflow.sdk import DAG, task_group

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator
from airflow_provider_d1.transfers.staging_to_warehouse import D1StagingToWarehouseOperator

DATABASES = os.environ.get("D1_DATABASES", "tenant-a,tenant-b,tenant-c").split(",")
BUCKET = os.environ.get("D1_STAGING_BUCKET", "my-staging-bucket")
WAREHOUSE = os.environ.get("D1_WAREHOUSE_CONN_ID", "postgres_default")
SCHEMA = os.environ.get("D1_WAREHOUSE_SCHEMA", "tenants")

with DAG(
    "d1_multi_tenant",
    schedule="0 3 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    tags=["d1"],
) as dag:

    @task_group
    def tenant(database: str) -> None:
        """One tenant, from its database to the common tables."""
        stage = D1ToS3Operator(
            task_id="stage",
            database=database,
            s3_bucket=BUCKET,
            # a prefix of its own for each database: a run replaces what it finds under its prefix
            s3_prefix="d1/{{ task.database }}/{{ dag_run.run_after | ds }}",
            audit_columns=True,
            map_index_template="{{ task.database }}",
        )
        D1StagingToWarehouseOperator(
            task_id="load",
            manifest=stage.output,
            conn_id=WAREHOUSE,
            schema=SCHEMA,
            mode="append",
            # loads into the same tables follow each other; this way they don't hold workers while they wait
            max_active_tis_per_dag=1,
        )

    tenant.expand(database=DATABASES)
