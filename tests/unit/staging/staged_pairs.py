"""Two runs at once into one prefix, in threads and in processes, and what must hold in any order."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import threading
import time
from collections.abc import Callable
from functools import partial
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


def assert_readable(storage: Storage) -> None:
    """What a reader finds at the prefix at any moment is one whole run, or it has been replaced meanwhile."""
    content = storage.read_bytes(MANIFEST_KEY)
    if content is None:
        return
    try:
        assert_whole(storage, parse_manifest(content))
    except AssertionError:
        # keep_runs has removed it: both runs of the pair are newer
        if storage.read_bytes(MANIFEST_KEY) == content:
            raise


StorageOf = Callable[[int], "Storage"]


def check_pairs_of_threads(storage_of: StorageOf, pairs: int) -> None:
    """Stage pairs in threads, each into a prefix of its own, which a reader reads meanwhile.

    :param storage_of: number of a pair → its prefix; every second one has a run already.
    """
    for pair in range(pairs):
        new_storage = partial(storage_of, pair)
        if pair % 2:
            stage_text(new_storage(), f"earlier {pair}")
        manifests: list[Manifest] = []
        writing = threading.Thread(
            target=lambda new=new_storage, texts=(f"one {pair}", f"two {pair}"), found=manifests: found.extend(
                stage_pair(new, texts)
            )
        )
        writing.start()
        while writing.is_alive():
            assert_readable(new_storage())
            writing.join(0.005)
        assert len(manifests) == 2
        assert_pair_is_whole(new_storage(), manifests)


def check_pairs_of_processes(storage_of: StorageOf, pairs: int) -> None:
    """As :func:`check_pairs_of_threads`, with two processes that begin each pair at the same moment."""
    for pair in range(1, pairs, 2):
        stage_text(storage_of(pair), f"earlier {pair}")
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.SimpleQueue()
    processes = [
        context.Process(target=_stage_in_a_process, args=(storage_of, pairs, barrier, results, name))
        for name in ("one", "two")
    ]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes) and results.empty():
        for pair in range(pairs):
            assert_readable(storage_of(pair))
            time.sleep(0.02)
    runs = [results.get() for process in processes if process.join(120) is None and process.exitcode == 0]
    assert [len(each) for each in runs] == [pairs, pairs]
    for pair in range(pairs):
        storage = storage_of(pair)
        own = [parse_manifest(storage.read_bytes(f"{each[pair]}/{MANIFEST_KEY}") or b"") for each in runs]
        assert_pair_is_whole(storage, own)


def _stage_in_a_process(storage_of: StorageOf, pairs: int, barrier, results, name: str) -> None:
    runs = []
    for pair in range(pairs):
        storage = storage_of(pair)
        barrier.wait(60)
        runs.append(stage_text(storage, f"{name} {pair}").run)
    results.put(runs)
