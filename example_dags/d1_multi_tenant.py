"""Load the databases of many tenants into one set of tables; the column ``_d1_database`` names the tenant of each row.

Each tenant is staged and loaded independently, so a failed export does not delay the others. Their tables and columns
may differ: a column that only some tenants have is NULL for the rest. The connections are those of
``d1_to_warehouse.py``.

An export is loaded once, however often its task runs. Every run's rows are added to the earlier ones. The current rows
are those of each database's last load::

    SELECT * FROM users WHERE (_d1_database, _d1_bookmark) IN (
        SELECT DISTINCT ON (database_id) database_name, bookmark FROM _d1_loads
        WHERE table_name = 'users' ORDER BY database_id, loaded_at DESC)
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param, task, task_group

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator
from airflow_provider_d1.transfers.staging_to_warehouse import D1StagingToWarehouseOperator

with DAG(
    "d1_multi_tenant",
    schedule=None,  # "0 3 * * *" runs it every day at 03:00 with the params below
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # a second run at the same time would only export the same rows again
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "databases": Param(
            ["tenant-a", "tenant-b", "tenant-c"], type="array", description="Names or UUIDs, one a line"
        ),
        "bucket": Param("my-staging-bucket", type="string", description="S3 bucket for the staged files"),
        "prefix": Param(
            "d1/tenants", type="string", description="Folder in the bucket; each database gets one below it"
        ),
        "warehouse": Param("warehouse", type="string", description="Connection id of the warehouse"),
        "schema": Param("tenants", type="string", description="Schema (BigQuery: dataset) of the common tables"),
    },
    tags=["d1"],
) as dag:

    @task
    def databases(params: dict | None = None) -> list[str]:
        """The list from the form."""
        return (params or {})["databases"]

    @task_group
    def tenant(database: str) -> None:
        """One tenant, from its database to the common tables."""
        stage = D1ToS3Operator(
            task_id="stage",
            database=database,
            s3_bucket="{{ params.bucket }}",
            # each database needs a prefix of its own: a run replaces what it finds there
            s3_prefix="{{ params.prefix }}/{{ task.database }}",
            audit_columns=True,
            map_index_template="{{ task.database }}",
        )
        D1StagingToWarehouseOperator(
            task_id="load",
            manifest=stage.output,
            conn_id="{{ params.warehouse }}",
            schema="{{ params.schema }}",
            mode="append",
            # loads into the same tables wait for each other; this way they do not occupy workers while they wait
            max_active_tis_per_dag=1,
        )

    tenant.expand(database=databases())
