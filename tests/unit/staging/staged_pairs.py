"""Two runs at once into one prefix, and what must hold afterwards whoever was first."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_provider_d1.staging.manifest import MANIFEST_KEY, Manifest, parse_manifest
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.stage import stage

if TYPE_CHECKING:
    from airflow_provider_d1.storage.base import Storage

OPTIONS = StagingOptions(file_format="csv")
SOURCE = Source(database_id="d-1", database_name="shop")


def dump_of(text: str) -> bytes:
    return f"CREATE TABLE users(a TEXT);INSERT INTO users VALUES('{text}');".encode()


def stage_text(storage: Storage, text: str, options: StagingOptions = OPTIONS, source: Source = SOURCE) -> Manifest:
    return stage(io.BytesIO(dump_of(text)), storage, options, source, parse_threads=0)


def stage_pair(new_storage: Callable[[], Storage], texts: tuple[str, str]) -> list[Manifest]:
    """Both runs begin at the same moment, in a thread each; an error of either is raised."""
    barrier = threading.Barrier(2)
    manifests: list[Manifest] = []
    errors: list[BaseException] = []

    def run(text: str) -> None:
        storage = new_storage()
        barrier.wait()
        try:
            manifests.append(stage_text(storage, text))
        except BaseException as error:  # noqa: BLE001 - raised below, in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return manifests


def assert_whole(storage: Storage, manifest: Manifest) -> None:
    """Every listed file is there with the listed bytes, in the folder of the manifest's own run."""
    assert manifest.run is not None
    for file in manifest.all_files:
        key = storage.key(file.uri)
        assert key is not None
        assert key.startswith(f"{manifest.run}/")
        content = storage.read_bytes(key)
        assert content is not None, f"{key} is missing"
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.bytes, file.sha256), key


def assert_pair_is_whole(storage: Storage, manifests: list[Manifest]) -> None:
    """Both runs' own manifests can be loaded, and the prefix names the newer of the two."""
    for manifest in manifests:
        assert parse_manifest(storage.read_bytes(f"{manifest.run}/{MANIFEST_KEY}") or b"") == manifest
        assert_whole(storage, manifest)
    newest = max(manifests, key=lambda manifest: ((manifest.run or "")[:16], manifest.created_at, manifest.run or ""))
    assert parse_manifest(storage.read_bytes(MANIFEST_KEY) or b"") == newest
