"""One staging run into one prefix: which names it may use, and how it ends, with a manifest or without a trace.

Nothing that stood in the prefix when the run began is overwritten or deleted before the new manifest stands. What a
reader finds is therefore always one whole run: the old one or the new one.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1ManifestError, D1StagingError
from airflow_provider_d1.staging.manifest import MANIFEST_KEY, FileEntry, Manifest, dumps, load

if TYPE_CHECKING:
    from airflow_provider_d1.staging.sinks import Sink

logger = logging.getLogger(__name__)

#: stands while a first run is at work in an empty prefix: files with plain names beside it are that run's
UNFINISHED_KEY = "_unfinished.json"

#: what a run adds to its names in a prefix that is not empty; nobody else writes such names
_RUN_MARK = r"-d1x[0-9a-f]{8}"
_ENDING = r"\.(parquet|(csv|jsonl|sql)(\.gz|\.zst)?)"
_WITH_TOKEN = re.compile(rf"([^/]+/part-\d{{5,}}|[^/]+){_RUN_MARK}{_ENDING}")
_PLAIN_PART = re.compile(rf"[^/]+/part-\d{{5,}}{_ENDING}")


class StagingRun:
    """Keeps the books of one run. Thread-safe.

    :param sink: where the files go.
    :param replace: False refuses a prefix in which a manifest stands.
    :raises D1StagingError: when it is refused; not retryable.
    """

    def __init__(self, sink: Sink, *, replace: bool) -> None:
        self.sink = sink
        self._lock = threading.Lock()
        self._attempted: set[str] = set()
        self._stored: dict[str, int] = {}
        self._sent: bytes | None = None
        before = sink.list()
        if not replace and MANIFEST_KEY in before:
            raise already_stands(sink)
        self._before = frozenset(before)
        # plain names for the first run, which nothing can collide with; a short token for all others
        self._token = f"-d1x{secrets.token_hex(4)}" if before else ""

    def begin(self, root_keys: Sequence[str] = ()) -> None:
        """Leave a mark where there is nothing yet, so that a later run knows the files of this one should it be killed.

        :param root_keys: names without a folder that this run will use, if they stay plain.
        """
        if not self._before:
            mark = {"started_at": datetime.now(UTC).isoformat(timespec="seconds"), "files": list(root_keys)}
            self.sink.put_bytes(self._attempt(UNFINISHED_KEY), json.dumps(mark).encode())

    def part_key(self, folder: str, number: int, suffix: str) -> str:
        """Key of a table's part, such as ``users/part-00000.parquet``."""
        return self._attempt(f"{folder}/part-{number:05d}{self._token}{suffix}")

    def dump_key(self, name: str, suffix: str) -> str:
        """Key of a dump at the root of the prefix, such as ``shop.sql.zst``."""
        return self._attempt(f"{name}{self._token}{suffix}")

    def stored(self, key: str, *, length: int, sha256: str, rows: int | None = None) -> FileEntry:
        """Note a file that has been put; its size is verified before the manifest is written."""
        with self._lock:
            self._stored[key] = length
        return FileEntry(uri=self.sink.uri(key), bytes=length, sha256=sha256, rows=rows)

    def commit(self, manifest: Manifest) -> None:
        """Verify that everything arrived whole, write the manifest, then remove what it replaces.

        :raises D1StagingError: when the store does not hold exactly what was put.
        """
        self._verify()
        is_stale = self._stale_test()
        stale = {key for key in self._before if is_stale(key)}
        self._put_manifest(dumps(manifest))
        try:
            if stale:
                logger.info("Removing %d files of earlier runs beside %s", len(stale), self.sink.uri(MANIFEST_KEY))
            self.sink.delete(sorted(stale | ({UNFINISHED_KEY} & self._attempted)))
            self.sink.discard_unfinished(is_stale)
        except Exception as error:  # noqa: BLE001 # the new manifest stands; leftovers harm nobody who reads it
            logger.warning("The manifest stands, but files of earlier runs could not be removed: %s", error)

    def rollback(self) -> None:
        """Remove every file of this run; never raises, so that the reason for the rollback stays in sight.

        A run that was interrupted after its manifest was sent keeps its files if that manifest stands, or may stand.
        """
        if self._sent is not None and self._manifest_may_stand(self._sent):
            return
        with self._lock:
            keys = sorted(self._attempted)
        try:
            self.sink.discard_unfinished(keys.__contains__)
            self.sink.delete(keys)
        except Exception as error:  # noqa: BLE001 # see above
            logger.warning("Files of the failed run could not be removed: %s", error)

    def _put_manifest(self, content: bytes) -> None:
        self._sent = content
        try:
            self.sink.put_bytes(MANIFEST_KEY, content)
        except Exception:
            # the answer to a successful put can get lost on the way
            if self.sink.read_bytes(MANIFEST_KEY) != content:
                raise

    def _manifest_may_stand(self, content: bytes) -> bool:
        try:
            return self.sink.read_bytes(MANIFEST_KEY) == content
        except Exception as error:  # noqa: BLE001 # unknown: better orphans than a manifest without its files
            logger.warning("Files of the failed run stay, since its manifest could not be checked: %s", error)
            return True

    def _attempt(self, key: str) -> str:
        with self._lock:
            if key in self._before:
                raise D1StagingError(f"{self.sink.uri(key)} exists already")
            self._attempted.add(key)
        return key

    def _verify(self) -> None:
        found = self.sink.list()
        for key, length in self._stored.items():
            if found.get(key) != length:
                raise D1StagingError(f"{self.sink.uri(key)} should have {length} bytes but has {found.get(key)}")

    def _stale_test(self) -> Callable[[str], bool]:
        """Return a test for what earlier runs wrote, finished and killed ones; it spares everybody else's files."""
        listed = self._listed_by_old_manifest()
        folders = {key.partition("/")[0] for key in listed if "/" in key}
        killed = UNFINISHED_KEY in self._before
        mark = self.sink.read_bytes(UNFINISHED_KEY) if killed else None
        named = {*listed, *_files_of(mark), UNFINISHED_KEY}

        def is_stale(key: str) -> bool:
            if key in named or _WITH_TOKEN.fullmatch(key):
                return True
            return _PLAIN_PART.fullmatch(key) is not None and (killed or key.partition("/")[0] in folders)

        return is_stale

    def _listed_by_old_manifest(self) -> set[str]:
        content = self.sink.read_bytes(MANIFEST_KEY) if MANIFEST_KEY in self._before else None
        if content is None:
            return set()
        try:
            manifest = load(content)
        except D1ManifestError as error:
            logger.warning("The manifest that is being replaced cannot be read: %s", error)
            return set()
        uris = {file.uri for file in manifest.all_files}
        return {key for key in self._before if self.sink.uri(key) in uris}


def _files_of(mark: bytes | None) -> list[str]:
    try:
        return [str(key) for key in json.loads(mark or b"{}").get("files", ())]
    except (ValueError, AttributeError, TypeError):
        return []


def already_stands(sink: Sink) -> D1StagingError:
    """What to raise for a manifest that may not be replaced."""
    return D1StagingError(f"{sink.uri(MANIFEST_KEY)} already stands, and replace is False", retryable=False)
