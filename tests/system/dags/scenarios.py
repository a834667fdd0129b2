"""The DAGs of the scenarios: one each, named like its connection, bucket prefix and, where it has its own, queue."""

from __future__ import annotations

import atexit
import resource
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Asset

from airflow_provider_d1.operators.d1 import D1ExportOperator
from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator
from airflow_provider_d1.transfers.staging_to_warehouse import D1StagingToWarehouseOperator

BUCKET = "system-tests"


class StageWithoutRoom(D1ToS3Operator):
    """In its first attempt no file can grow past 64 KiB."""

    def _finish(self, context, export):
        if context["ti"].try_number == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, resource.RLIM_INFINITY))
        return super()._finish(context, export)


def linger() -> None:
    """Wait until the export has begun, and a little longer: long after an export of no length has ended."""
    begun = Path(tempfile.gettempdir()) / "export_begun"
    latest = time.monotonic() + 120
    while not begun.exists() and time.monotonic() < latest:
        time.sleep(0.1)
    time.sleep(3)


class ExportAndLinger(D1ExportOperator):
    """The process that defers the task ends late, as one that flushes logs or traces does."""

    def execute(self, context):
        atexit.register(linger)
        return super().execute(context)

    def execute_complete(self, context, event=None):
        time.sleep(8)  # the task is under way when a late report of the first process's end would come
        return super().execute_complete(context, event)


class StageTogether(D1ToS3Operator):
    """Stages only while another one does, so two workers are needed."""

    def _finish(self, context, export):
        mark = Path(tempfile.gettempdir()) / f"staging_together_{context['ti'].map_index}"
        mark.touch()
        latest = time.monotonic() + 300
        while len(list(mark.parent.glob("staging_together_*"))) < 2 and time.monotonic() < latest:
            time.sleep(0.2)
        return super()._finish(context, export)


def stage(
    dag_id: str, *, retries: int = 0, queue: str = "default", operator: type = D1ToS3Operator, **arguments: object
) -> DAG:
    """A DAG with one task that exports the database ``shop`` and stages it under its own prefix."""
    with DAG(dag_id, schedule=None, catchup=False) as dag:
        operator(
            task_id="stage",
            d1_conn_id=dag_id,
            aws_conn_id=f"{dag_id}_s3",
            database="shop",
            s3_bucket=arguments.pop("s3_bucket", BUCKET),
            s3_prefix=dag_id,
            retries=retries,
            retry_delay=timedelta(seconds=1),
            queue=queue,
            **arguments,
        )
    return dag


def load(
    dag: DAG, *, task_id: str = "load", conn_id: str | None = None, aws_conn_id: str | None = None, retries: int = 0
) -> None:
    """Load what the DAG stages, into a schema of its name; by default through connections of its name too."""
    with dag:
        D1StagingToWarehouseOperator(
            task_id=task_id,
            manifest=dag.get_task("stage").output,
            conn_id=conn_id or f"{dag.dag_id}_warehouse",
            aws_conn_id=aws_conn_id or f"{dag.dag_id}_s3",
            schema=dag.dag_id,
            retries=retries,
            retry_delay=timedelta(seconds=1),
        )
    globals()[dag.dag_id] = dag


for name in ("terminated", "killed", "stopped"):
    globals()[name] = stage(f"triggerer_{name}", queue=name)

#: of which the big table makes 32
SMALL_PARTS = {"max_part_bytes": 96 * 1024, "file_format": "csv"}
for name in ("early", "late", "before_manifest"):
    globals()[name] = stage(f"worker_killed_{name}", retries=1, **SMALL_PARTS)
killed_multipart = stage("worker_killed_multipart", retries=1, file_format="sql")
cleared_when_done = stage("cleared_when_done", retries=1)

for name in ("cleared", "marked_failed", "run_deleted"):
    globals()[name] = stage(f"{name}_while_deferred", retries=1)
timed_out = stage("timed_out_while_deferred", timeout=90)

for name in (
    "rate_limit_block",
    "bad_answers",
    "slow_answers",
    "lost_start_answer",
    "lost_three_times",
    "busy",
    "inner_failure",
    "virtual_table",
    "table_vanishes",
    "token_revoked",
    "no_such_host",
    "download_cut",
    "url_expired",
):
    globals()[name] = stage(name, retries=1, tables=["users"] if name == "table_vanishes" else None)
lost_too_often = stage("lost_too_often", max_restarts=1)
busy_too_long = stage("busy_too_long", timeout=90)

for name in ("s3_slow_down", "s3_denies_manifest"):
    globals()[name] = stage(name)
s3_drops_part = stage("s3_drops_part", **SMALL_PARTS)
s3_drops_multipart = stage("s3_drops_multipart", file_format="sql")
s3_no_bucket = stage("s3_no_bucket", retries=1, s3_bucket="no-such-bucket")

temp_full = stage("temp_full", retries=1, operator=StageWithoutRoom)
temp_read_only = stage("temp_read_only", retries=1, temp_dir="/sys")  # not even root can create a folder there

shop = Asset("d1://system-tests/shop")
asset = stage("asset", retries=2, outlets=[shop])  # a busy machine may fail to start a worker in time
with DAG("asset_load", schedule=[shop], catchup=False) as asset_load:
    D1StagingToWarehouseOperator(
        task_id="load",
        manifest="{{ (triggering_asset_events.values() | first | last).extra.manifest }}",
        conn_id="asset_warehouse",
        schema="d1",
        aws_conn_id="asset_s3",
        retries=2,
        retry_delay=timedelta(seconds=1),
    )

with DAG("two_at_once", schedule=None, catchup=False) as two_at_once:
    for task_id in ("one", "other"):
        D1ExportOperator(task_id=task_id, d1_conn_id="two_at_once", database="shop")

for name in ("two_runs", "token_accepted_after_rotation", "token_revoked_by_rotation"):
    globals()[name] = stage(name, retries=1)

load(stage("staged_during_load", tables=["users"]))
two_loads = stage("two_loads", tables=["users"])
for name in ("two_loads_warehouse", "two_loads_clickhouse"):
    s3 = "two_loads_s3" if name == "two_loads_warehouse" else f"{name}_s3"
    load(two_loads, task_id=name, conn_id=name, aws_conn_id=s3, retries=2)

for name in ("load_killed", "restarted_postgres", "restarted_mysql"):
    load(stage(name, retries=2, **SMALL_PARTS), retries=1)  # a busy machine may fail to start a worker in time

with DAG("celery", schedule=None, catchup=False) as celery:
    places = {"queue": "celery", "executor": "CeleryExecutor", "aws_conn_id": "celery_s3"}
    staged = StageTogether.partial(
        task_id="stage", d1_conn_id="celery", pool="celery_exports", s3_bucket=BUCKET, **places
    ).expand_kwargs([{"database": f"shop-{n}", "s3_prefix": f"celery/shop-{n}"} for n in range(4)])
    D1StagingToWarehouseOperator.partial(task_id="load", conn_id="celery_warehouse", schema="celery", **places).expand(
        manifest=staged.output
    )

with DAG("worker_lingers", schedule=None, catchup=False) as worker_lingers:
    ExportAndLinger(
        task_id="export",
        d1_conn_id="worker_lingers",
        database="shop",
        retries=2,  # a busy machine may fail to start a worker in time
        retry_delay=timedelta(seconds=1),
    )
