"""Stage many databases: one mapped task for each, of which only those that move bytes hold a worker.

D1 allows a token 1,200 API calls in five minutes. The provider keeps within it by itself: exports beyond what fits wait
their turn before they start, so a database that waits still answers queries.
"""

from __future__ import annotations

import os
from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator

DATABASES = os.environ.get("D1_DATABASES", "shop,blog,crm").split(",")
BUCKET = os.environ.get("D1_STAGING_BUCKET", "my-staging-bucket")

with DAG(
    "d1_many_databases",
    schedule="0 3 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    tags=["d1"],
) as dag:
    D1ToS3Operator.partial(
        task_id="stage",
        s3_bucket=BUCKET,
        # a prefix of its own for each database: a run replaces what it finds under its prefix
        s3_prefix="d1/{{ task.database }}",
        map_index_template="{{ task.database }}",
    ).expand(database=DATABASES)
