"""Back up a D1 database to S3 or R2, and keep thirty backups.

Deleting a D1 database also deletes its Time Travel history. A backup is independent of the database: it is the dump as
D1 wrote it, compressed with zstd, with a manifest that has its size and SHA-256. ``d1_restore`` restores it.

Connections are those of the example ``d1_to_s3``. To encrypt the backups with your own KMS key, add
``extra_args={"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "<key>"}``. R2 encrypts all objects at rest.

To encrypt them before they leave the worker, create a key pair with ``age-keygen``, set the param ``age_recipient`` to
the public key, and install the extra ``[age]``. Without the secret key such a backup cannot be restored.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param

from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator

with DAG(
    "d1_backup",
    schedule="0 3 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "database": Param("shop", type="string", description="Name or UUID of the D1 database"),
        "bucket": Param("my-staging-bucket", type="string", description="S3 bucket for the backups"),
        "prefix": Param("backups", type="string", description="Folder in the bucket; each database gets one below it"),
        "age_recipient": Param("", type="string", description="Public key of age (age1…); empty: not encrypted"),
    },
    tags=["d1"],
) as dag:
    D1ToS3Operator(
        task_id="back_up",
        database="{{ params.database }}",
        s3_bucket="{{ params.bucket }}",
        s3_prefix="{{ params.prefix }}/{{ params.database }}",
        file_format="sql",
        compression="zstd",
        keep_runs=30,
        age_recipients="{{ [params.age_recipient] if params.age_recipient }}",
    )
