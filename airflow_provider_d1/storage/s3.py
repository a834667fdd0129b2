"""Staged files in S3 or an S3-compatible store.

The caller passes the client or Airflow's hook; importing this module imports neither boto3 nor Airflow.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1StagingError
from airflow_provider_d1.storage.base import below

if TYPE_CHECKING:
    from boto3.s3.transfer import TransferConfig

_CONNECTIONS = 36
#: boto3 sends bytes with less work than a file
_READ_AT_ONCE_BYTES = 1 << 20
#: boto3 splits larger files; for smaller ones its transfer manager costs more time than the request
_SINGLE_REQUEST_BYTES = 8 << 20
#: boto3 waits for an interim response before it sends a body (``Expect: 100-continue``). That is one more round trip,
#: which takes longer than sending a body of this size
_SENT_AT_ONCE_BYTES = 256 << 10
#: S3's limit of keys in one DeleteObjects call
_DELETE_BATCH = 1000
#: arguments of an upload that are also needed to read the object
_READ_ARGS = frozenset(
    {"SSECustomerAlgorithm", "SSECustomerKey", "SSECustomerKeyMD5", "RequestPayer", "ExpectedBucketOwner"}
)
_OWNER_ARGS = frozenset({"RequestPayer", "ExpectedBucketOwner"})
#: codes for an object that does not match If-Match or If-None-Match
_CHANGED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409"})
#: key of the upload of the write check, which is aborted
_CHECK_KEY = "_d1_write_check"
#: permanent errors of the write check
_NOT_WRITABLE = frozenset(
    {
        "AccessDenied",
        "AllAccessDisabled",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidBucketName",
        "InvalidToken",
        "NoSuchBucket",
        "PermanentRedirect",
        "SignatureDoesNotMatch",
    }
)
#: codes of a store that does not have a call, or a header of it
_UNKNOWN = frozenset({"NotImplemented", "MethodNotAllowed", "InvalidArgument", "InvalidRequest", "501", "405"})
_ACCESS = "Check the bucket's name, and the credentials and permissions of the AWS connection"
_CHECKSUMS = (
    "A store that refuses boto3's checksums needs config_kwargs in the AWS connection's extra: "
    '{"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}'
)


class S3Storage:
    """A prefix of an S3 bucket.

    An object appears when its upload is complete, never before; an upload that fails is aborted, so that its
    parts do not remain and cost money.

    :param hook: the Amazon provider's ``S3Hook``, or a boto3 S3 client.
    :param bucket: name of the bucket.
    :param prefix: the prefix in the bucket; leading and trailing slashes are ignored.
    :param extra_args: arguments of every upload as boto3's ``ExtraArgs`` has them (KMS key, storage class, tags …), in
        addition to the hook's.
    """

    def __init__(
        self,
        hook: Any,  # noqa: ANN401 # boto3 makes its classes at run time, and the hook's class belongs to Airflow
        bucket: str,
        prefix: str,
        extra_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.hook = hook
        self._extra_args = {**getattr(hook, "extra_args", {}), **(extra_args or {})}
        self._bucket = bucket
        self._root = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._cancelled = threading.Event()

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401 # see above
        if hasattr(self.hook, "get_client_type"):
            from botocore.config import Config

            # one HTTP connection for each parallel upload, unless the Airflow connection sets another number
            config = Config(max_pool_connections=_CONNECTIONS).merge(self.hook.config)
            client = self.hook.get_client_type(config=config)
        else:
            client = self.hook.get_conn() if hasattr(self.hook, "get_conn") else self.hook
        client.meta.events.register("before-send.s3.PutObject", _send_at_once, unique_id="airflow-provider-d1")
        return client

    def uri(self, key: str) -> str:
        """``s3://bucket/prefix/key``."""
        return f"s3://{self._bucket}/{self._root}{key}"

    def key(self, uri: str) -> str | None:
        """Key of an ``s3://bucket/prefix/…`` URI."""
        return below(self.uri(""), uri)

    def folders(self) -> list[str]:
        """Common prefixes at the root."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._root, Delimiter="/", **self._only(_OWNER_ARGS)
        )
        return [entry["Prefix"][len(self._root) : -1] for page in pages for entry in page.get("CommonPrefixes", ())]

    def list(self, folder: str = "") -> dict[str, int]:
        """Objects below a folder."""
        start = self._root + (f"{folder}/" if folder else "")
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=start, **self._only(_OWNER_ARGS)
        )
        objects = (
            (entry["Key"][len(self._root) :], entry["Size"]) for page in pages for entry in page.get("Contents", ())
        )
        return {key: size for key, size in objects if key}

    def size(self, key: str) -> int | None:
        """Size of an object, by HeadObject."""
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=self._root + key, **self._only(_READ_ARGS))
        except self._client.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        size: int = head["ContentLength"]
        return size

    def local_path(self, key: str) -> None:
        """Always None."""

    def put_file(self, key: str, path: Path) -> None:
        """Upload a file: a small one in one request, a large one in parts that are read from disk as they are sent."""
        self._stop_if_cancelled()
        target = {"Bucket": self._bucket, "Key": self._root + key}
        size = path.stat().st_size
        if size <= _READ_AT_ONCE_BYTES:
            self.put_bytes(key, path.read_bytes())
        elif size <= _SINGLE_REQUEST_BYTES:
            with path.open("rb") as file:
                self._client.put_object(**target, Body=file, **self._extra_args)
        else:
            self._client.upload_file(
                str(path),
                **target,
                ExtraArgs=self._extra_args,
                Callback=self._stop_if_cancelled,
                Config=_transfer_config(),
            )

    def put_bytes(self, key: str, data: bytes) -> None:
        """Upload a small object in one request."""
        self._stop_if_cancelled()
        self._client.put_object(Bucket=self._bucket, Key=self._root + key, Body=data, **self._extra_args)

    def put_stream(self, key: str, stream: io.BufferedIOBase) -> int:
        """Upload a stream of unknown length in parts, with a few of them in memory.

        The stream must not return short reads (``io.BufferedReader`` does not): boto3 takes one for the end.
        """
        self._stop_if_cancelled()
        self._client.upload_fileobj(
            stream,
            self._bucket,
            self._root + key,
            ExtraArgs=self._extra_args,
            Callback=self._stop_if_cancelled,
            Config=_transfer_config(),
        )
        head = self._client.head_object(Bucket=self._bucket, Key=self._root + key, **self._only(_READ_ARGS))
        length: int = head["ContentLength"]
        return length

    def replace(self, key: str, data: bytes, *, expected: bytes | None) -> bool:
        """Put with If-Match or If-None-Match; unconditionally where the store does not support conditions."""
        content, tag = self._read(key)
        if content != expected:
            return False
        self._stop_if_cancelled()
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        target = {"Bucket": self._bucket, "Key": self._root + key, "Body": data, **self._extra_args}
        try:
            self._client.put_object(**target, **condition)
        except self._client.exceptions.ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if code in _CHANGED:
                return False
            if code not in _UNKNOWN:
                raise
            self._client.put_object(**target)
        return True

    def fetch(self, key: str, path: Path) -> None:
        """Download an object."""
        self._client.download_file(
            self._bucket, self._root + key, str(path), ExtraArgs=self._only(_READ_ARGS), Config=_transfer_config()
        )

    def read_bytes(self, key: str) -> bytes | None:
        """Content of a small object; None when there is none."""
        return self._read(key)[0]

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, one by one where the store has no DeleteObjects.

        :raises D1StagingError: when S3 refuses some; the message has the reason for the first one.
        """
        names = [self._root + key for key in keys]
        for start in range(0, len(names), _DELETE_BATCH):
            batch = names[start : start + _DELETE_BATCH]
            request = {"Objects": [{"Key": name} for name in batch], "Quiet": True}
            try:
                answer = self._client.delete_objects(Bucket=self._bucket, Delete=request, **self._only(_OWNER_ARGS))
            except self._client.exceptions.ClientError as error:
                if error.response.get("Error", {}).get("Code") not in _UNKNOWN:
                    raise
                for name in batch:
                    self._client.delete_object(Bucket=self._bucket, Key=name, **self._only(_OWNER_ARGS))
                continue
            if errors := answer.get("Errors"):
                first = errors[0]
                raise D1StagingError(
                    f"S3 did not delete {len(errors)} objects; the first is s3://{self._bucket}/{first.get('Key')}: "
                    f"{first.get('Code')} {first.get('Message')}"
                )

    def check_writable(self) -> None:
        """Start and abort a multipart upload, which requires the permission to write and creates no object."""
        from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

        target = {"Bucket": self._bucket, "Key": f"{self._root}{_CHECK_KEY}"}
        try:
            # some stores start an upload to a bucket that does not exist
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._root, MaxKeys=1, **self._only(_OWNER_ARGS))
            upload = self._client.create_multipart_upload(**target, **{**self._checksums, **self._extra_args})
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise self._not_writable(str(error)) from error
        except ClientError as error:
            answer = error.response.get("Error", {})
            reason = f"{answer.get('Code')}: {answer.get('Message', '')}"
            if answer.get("Code") in _UNKNOWN:
                raise self._not_writable(reason, _CHECKSUMS) from error
            if answer.get("Code") in _NOT_WRITABLE:
                raise self._not_writable(reason) from error
            raise
        with contextlib.suppress(ClientError):  # without permission to abort, a lifecycle rule has to remove it
            self._client.abort_multipart_upload(**target, UploadId=upload["UploadId"], **self._only(_OWNER_ARGS))

    @property
    def _checksums(self) -> dict[str, str]:
        """What boto3 adds to the uploads that it splits, unless the connection says otherwise."""
        wanted = getattr(self._client.meta.config, "request_checksum_calculation", None) == "when_supported"
        return {"ChecksumAlgorithm": "CRC32"} if wanted else {}

    def cancel(self) -> None:
        """Stop uploads at their next piece."""
        self._cancelled.set()

    def discard_unfinished(self, ours: Callable[[str], bool]) -> None:
        """Abort multipart uploads under the prefix for whose key ``ours`` is true."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=self._root, **self._only(_OWNER_ARGS)
        )
        for page in pages:
            for upload in page.get("Uploads", ()):
                if upload["Key"].startswith(self._root) and ours(upload["Key"][len(self._root) :]):
                    self._client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"], **self._only(_OWNER_ARGS)
                    )

    def _not_writable(self, reason: str, remedy: str = _ACCESS) -> D1StagingError:
        return D1StagingError(f"cannot write to {self.uri('')}: {reason.rstrip('. ')}. {remedy}", retryable=False)

    def _read(self, key: str) -> tuple[bytes | None, str | None]:
        """Content and ETag."""
        try:
            response = self._client.get_object(Bucket=self._bucket, Key=self._root + key, **self._only(_READ_ARGS))
        except self._client.exceptions.NoSuchKey:
            return None, None
        with response["Body"] as body:
            return body.read(), response["ETag"]

    def _only(self, names: frozenset[str]) -> dict[str, Any]:
        return {name: value for name, value in self._extra_args.items() if name in names}

    def _stop_if_cancelled(self, _bytes_sent: int = 0) -> None:
        if self._cancelled.is_set():
            raise D1StagingError("the staging run was stopped")


def _send_at_once(request: Any, **_: Any) -> None:  # noqa: ANN401 # botocore's
    """Send a small body without waiting for an interim response."""
    headers = request.headers
    size = headers.get("X-Amz-Decoded-Content-Length") or headers.get("Content-Length")
    if size is not None and int(size) <= _SENT_AT_ONCE_BYTES and "Expect" in headers:
        del headers["Expect"]


def _transfer_config() -> TransferConfig:
    """Four requests at a time with 8 MiB each: enough for a worker's network, with bounded memory."""
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(max_concurrency=4)
