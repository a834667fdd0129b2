"""Stage many databases: one mapped task for each.

A task occupies a worker only while it copies the dump. D1 allows 1,200 API calls per token in five minutes. Exports
that do not fit wait before they start, so a waiting database still answers queries. The connections are those of
``d1_to_s3.py``.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param, task

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator

with DAG(
    "d1_many_databases",
    schedule=None,  # "0 3 * * *" runs it every day at 03:00 with the params below
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # a second run at the same time would only export the same rows again
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "databases": Param(["shop", "blog", "crm"], type="array", description="Names or UUIDs, one a line"),
        "bucket": Param("my-staging-bucket", type="string", description="S3 bucket for the staged files"),
        "prefix": Param("d1", type="string", description="Folder in the bucket; each database gets one below it"),
    },
    tags=["d1"],
) as dag:

    @task
    def databases(params: dict | None = None) -> list[str]:
        """The list from the form. ``D1Hook().list_databases()`` would return every database of the account."""
        return (params or {})["databases"]

    D1ToS3Operator.partial(
        task_id="stage",
        s3_bucket="{{ params.bucket }}",
        # each database needs a prefix of its own: a run replaces what it finds there
        s3_prefix="{{ params.prefix }}/{{ task.database }}",
        map_index_template="{{ task.database }}",
    ).expand(database=databases())
