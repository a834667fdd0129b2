"""S3 credentials of an Airflow connection, for warehouses that read the staging bucket."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.providers.common.compat.sdk import mask_secret


@dataclass(frozen=True, slots=True)
class S3Access:
    """What it takes to read a bucket. The keys are never logged, shown or kept.

    ``endpoint_url`` is None for Amazon's own S3.
    """

    bucket: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str | None = None
    endpoint_url: str | None = None

    def hidden_in(self, text: str) -> str:
        """The text without the keys that may be in it."""
        for secret in (self.secret_key, self.session_token, self.access_key):
            if secret:
                text = text.replace(secret, "***")
        return text

    @property
    def endpoint_host(self) -> str | None:
        """Host and port of the endpoint."""
        return urlsplit(self.endpoint_url).netloc or None if self.endpoint_url else None

    @property
    def use_ssl(self) -> bool:
        """Whether the endpoint is an https one; Amazon's own is."""
        return self.endpoint_url is None or urlsplit(self.endpoint_url).scheme == "https"

    def url(self, key: str) -> str:
        """The plain http(s) URL of an object, unsigned."""
        path = quote(key, safe="/~")
        if self.endpoint_url is not None:
            return f"{self.endpoint_url.rstrip('/')}/{self.bucket}/{path}"
        return f"https://s3.{self.region or 'us-east-1'}.amazonaws.com/{self.bucket}/{path}"


def s3_access(hook: Any, bucket: str) -> S3Access | None:
    """Ask an ``S3Hook`` for its credentials, assumed roles and temporary ones included, and for its endpoint.

    :returns: None when the hook has no credentials at all (public buckets).
    """
    credentials = hook.get_session().get_credentials()
    if credentials is None:
        return None
    frozen = credentials.get_frozen_credentials()
    for secret in (frozen.secret_key, frozen.token):
        if secret:
            mask_secret(secret)
    meta = hook.get_conn().meta
    host = urlsplit(meta.endpoint_url).hostname or ""
    amazon = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    return S3Access(
        bucket=bucket,
        access_key=frozen.access_key,
        secret_key=frozen.secret_key,
        session_token=frozen.token or None,
        region=meta.region_name,
        endpoint_url=None if amazon else meta.endpoint_url,
    )
