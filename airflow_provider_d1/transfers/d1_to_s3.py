"""Stage a D1 database in S3 as typed files with a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_d1.links.d1 import storage_page
from airflow_provider_d1.operators.arguments import check_arguments
from airflow_provider_d1.transfers.staging import D1ToStagingOperator
from airflow_provider_d1.validation import STRING, Rule, optional

if TYPE_CHECKING:
    from airflow_provider_d1.storage.base import Storage

S3_RULES: Mapping[str, Rule] = {
    "s3_bucket": Rule(
        lambda value: isinstance(value, str) and bool(value) and "/" not in value,
        "a bucket's name, without s3:// or a path",
    ),
    "s3_prefix": Rule(
        lambda value: isinstance(value, str) and "://" not in value,
        "a path inside the bucket, without s3:// and the bucket",
    ),
    "aws_conn_id": optional(STRING),
    "extra_args": optional(Rule(lambda value: isinstance(value, Mapping), "a dict of boto3's ExtraArgs")),
}


class D1ToS3Operator(D1ToStagingOperator):
    """Stage a D1 database in S3: ``{s3_prefix}/{run}/{table}/part-00000.parquet`` … and ``{s3_prefix}/_manifest.json``.

    Each database needs a prefix of its own: ``s3_prefix="d1/{{ task.database }}"`` gives one to each task of an
    ``.expand(database=[…])``.

    :param s3_bucket: the bucket's name. (templated)
    :param s3_prefix: the prefix in the bucket. (templated)
    :param aws_conn_id: Airflow connection for S3, None for boto3's default credentials. (templated)
    :param extra_args: boto3's ``ExtraArgs`` of each upload (KMS key, storage class, tags …), in addition to the
        connection's. (templated)

    All parameters of :class:`~airflow_provider_d1.transfers.staging.D1ToStagingOperator` apply too.
    """

    # database before s3_prefix: fields are rendered in this order, and a prefix may refer to task.database
    template_fields: Sequence[str] = (
        *D1ToStagingOperator.template_fields,
        "s3_bucket",
        "s3_prefix",
        "aws_conn_id",
        "extra_args",
    )
    ui_color = "#f4b183"
    rules: ClassVar[Mapping[str, Rule]] = {**D1ToStagingOperator.rules, **S3_RULES}

    def __init__(
        self,
        *,
        s3_bucket: str,
        s3_prefix: str,
        aws_conn_id: str | None = "aws_default",
        extra_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.s3_bucket = s3_bucket
        self.s3_prefix = s3_prefix
        self.aws_conn_id = aws_conn_id
        self.extra_args = extra_args
        check_arguments(self, S3_RULES)

    def _storage(self) -> Storage:
        """The prefix of the bucket."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        from airflow_provider_d1.storage.s3 import S3Storage

        return S3Storage(S3Hook(aws_conn_id=self.aws_conn_id), self.s3_bucket, self.s3_prefix, self.extra_args)

    def _page(self, run: str | None = None) -> str:
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        connection = S3Hook(aws_conn_id=self.aws_conn_id).conn_config
        return storage_page(
            self._folder_uri(run),
            region=connection.region_name,
            endpoint=connection.get_service_endpoint_url("s3"),
        )
