"""Each kind of operator and the sensor in one DAG; ``D1_VERSIONS_OUT`` is the folder that they write to."""

import os
from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_d1.operators.d1 import D1ExportOperator
from airflow_provider_d1.operators.d1_restore import D1RestoreOperator
from airflow_provider_d1.sensors.d1_change import D1ChangeSensor
from airflow_provider_d1.transfers.d1_to_object_storage import D1ToObjectStorageOperator
from airflow_provider_d1.transfers.s3_to_d1 import S3ToD1Operator

out = os.environ.get("D1_VERSIONS_OUT", "")

with DAG("d1_versions", start_date=datetime(2026, 1, 1, tzinfo=UTC), schedule=None) as dag:
    export = D1ExportOperator(task_id="export", database="shop")
    stage = D1ToObjectStorageOperator(task_id="stage", export=export.output, path=f"file://{out}/staged")
    D1ToObjectStorageOperator.partial(task_id="many", path=f"file://{out}/{{{{ task.database }}}}").expand(
        database=["shop", "blog"]
    )
    D1ToObjectStorageOperator(task_id="here", database="shop", path=f"file://{out}/here", deferrable=False)

    @task
    def names(database: str) -> list[str]:
        from airflow_provider_d1.hooks.d1 import D1Hook

        rows = D1Hook(database=database).query("SELECT name FROM users WHERE id = :id", {"id": 1})
        return [row["name"] for row in rows]

    names("shop")
    copy = S3ToD1Operator(task_id="copy", database="copy", manifest=stage.output)
    before = "{{ ti.xcom_pull(task_ids='copy')['previous_bookmark'] }}"
    copy >> D1RestoreOperator(task_id="undo", database="copy", bookmark=before)
    D1ChangeSensor(task_id="changed", database="shop", prefix=f"file://{out}/nothing-staged-here")
    D1ExportOperator(task_id="missing", database="nowhere", retries=3)
