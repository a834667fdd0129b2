"""Stage a D1 database, and load it in another DAG that Airflow starts when a run is staged.

The two DAGs know each other by the asset only. The staging task names it as its outlet; the event's extra has the
manifest of the run, so the second DAG loads exactly the run that started it, even when a newer one is there already.
The connections are those of ``d1_to_warehouse.py``. Replace the account ID in the asset by your own.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Asset, Param

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator
from airflow_provider_d1.transfers.staging_to_warehouse import D1StagingToWarehouseOperator

shop = Asset(name="d1_shop", uri="d1://0123456789abcdef0123456789abcdef/shop")

with DAG(
    "d1_asset",
    schedule=None,  # "0 3 * * *" runs it every day at 03:00 with the params below
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # a second run at the same time would only export the same rows again
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "bucket": Param("my-staging-bucket", type="string", description="S3 bucket for the staged files"),
        "prefix": Param("d1", type="string", description="Folder in the bucket"),
    },
    tags=["d1"],
) as dag:
    D1ToS3Operator(
        task_id="stage",
        database="shop",
        s3_bucket="{{ params.bucket }}",
        s3_prefix="{{ params.prefix }}/shop",
        keep_runs=7,  # the load of an earlier run may still have to come
        outlets=[shop],
    )

with DAG(
    "d1_asset_load",
    schedule=[shop],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # two runs would replace the same tables
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "warehouse": Param("warehouse", type="string", description="Connection id of the warehouse"),
        "schema": Param("d1", type="string", description="Schema (BigQuery: dataset) that the tables are loaded into"),
    },
    tags=["d1"],
) as load_dag:
    D1StagingToWarehouseOperator(
        task_id="load",
        # several runs may have been staged since the last load: the last one has all rows
        manifest="{{ (triggering_asset_events.values() | first | last).extra.manifest }}",
        conn_id="{{ params.warehouse }}",
        schema="{{ params.schema }}",
    )
