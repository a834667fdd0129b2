"""Stage a D1 database in any object store that Airflow supports, as typed files with a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_d1.operators.arguments import check_arguments
from airflow_provider_d1.transfers.staging import D1ToStagingOperator
from airflow_provider_d1.validation import Rule

if TYPE_CHECKING:
    from airflow_provider_d1.storage.base import Storage

PATH_RULES: Mapping[str, Rule] = {
    "path": Rule(
        lambda value: isinstance(value, str) and "://" in value,
        "a URL such as gs://connection@bucket/prefix or file:///folder",
    )
}


class D1ToObjectStorageOperator(D1ToStagingOperator):
    """Stage a D1 database under ``path``: ``{path}/{run}/{table}/part-00000.parquet`` … and ``{path}/_manifest.json``.

    Each database needs a path of its own. For S3,
    :class:`~airflow_provider_d1.transfers.d1_to_s3.D1ToS3Operator` is faster, and also removes unfinished uploads.

    :param path: what ``ObjectStoragePath`` takes: ``gs://connection@bucket/prefix``, ``abfs://…``, ``file:///…``. The
        store's provider package must be installed. (templated)

    All parameters of :class:`~airflow_provider_d1.transfers.staging.D1ToStagingOperator` apply too.
    """

    # database before path: fields are rendered in this order, and a path may refer to task.database
    template_fields: Sequence[str] = (*D1ToStagingOperator.template_fields, "path")
    ui_color = "#f4b183"
    rules: ClassVar[Mapping[str, Rule]] = {**D1ToStagingOperator.rules, **PATH_RULES}

    def __init__(self, *, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path
        check_arguments(self, PATH_RULES)

    def _storage(self) -> Storage:
        return storage_at(self.path)


def storage_at(url: str) -> Storage:
    """The storage behind a URL; a local folder is written with the atomic renames that it allows.

    :param url: what ``ObjectStoragePath`` takes.
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_d1.storage.folder import FolderStorage
    from airflow_provider_d1.storage.object_storage import ObjectStorage

    path = ObjectStoragePath(url)
    if path.protocol in ("", "file", "local"):
        return FolderStorage(path.path)
    return ObjectStorage(path)
