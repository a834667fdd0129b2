"""Restore a backup of ``d1_backup`` into a fresh D1 database, and compare every table with the backup.

Create the database first (``npx wrangler d1 create shop-restored``) and trigger the DAG; nothing has to be edited. Run
it regularly, to verify that the backups can be restored. Connections are those of the example ``d1_to_s3``.

For encrypted backups, ``age_conn_id`` names a connection whose password is the secret key of age, and ``age_recipient``
is the public key for the backup of the restored database. Both need the extra ``[age]``.

* ``restore`` refuses a changed or truncated backup, a backup of another database, and a target that has tables.
* ``dump`` backs up the restored database.
* ``compare`` fails unless both dumps have the same tables, rows and values.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param

from airflow_provider_d1.operators.d1_compare import D1CompareBackupsOperator
from airflow_provider_d1.operators.d1_import import D1ImportOperator
from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator

with DAG(
    "d1_restore",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "database": Param("shop", type="string", description="Name or UUID of the database that was backed up"),
        "target": Param("shop-restored", type="string", description="Name or UUID of the empty database to restore to"),
        "bucket": Param("my-staging-bucket", type="string", description="S3 bucket of the backups"),
        "prefix": Param("backups", type="string", description="Folder of the backups in the bucket"),
        "run": Param("", type="string", description="Which backup, such as 20261127T030000Z-3f9c1a; empty: the newest"),
        "age_conn_id": Param("", type="string", description="Connection with the secret key; empty: not encrypted"),
        "age_recipient": Param("", type="string", description="Public key of age (age1…); empty: not encrypted"),
    },
    tags=["d1"],
) as dag:
    restore = D1ImportOperator(
        task_id="restore",
        database="{{ params.target }}",
        source="s3://{{ params.bucket }}/{{ params.prefix }}/{{ params.database }}/"
        "{{ params.run ~ '/' if params.run }}_manifest.json",
        source_database="{{ params.database }}",
        age_conn_id="{{ params.age_conn_id }}",
    )
    dump = D1ToS3Operator(
        task_id="dump",
        database="{{ params.target }}",
        s3_bucket="{{ params.bucket }}",
        s3_prefix="{{ params.prefix }}-restored/{{ params.target }}",
        file_format="sql",
        compression="zstd",
        keep_runs=1,
        age_recipients="{{ [params.age_recipient] if params.age_recipient }}",
    )
    compare = D1CompareBackupsOperator(
        task_id="compare", first=restore.output, second=dump.output, age_conn_id="{{ params.age_conn_id }}"
    )
    restore >> dump >> compare
