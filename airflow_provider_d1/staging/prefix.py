"""A prefix and the runs in it: publish a run's manifest, and remove older runs.

Each run has its own folder, so two runs never write to the same file. ``_manifest.json`` at the prefix is a copy of the
newest complete run's manifest; it is replaced last, with a conditional write where the store supports it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from airflow_provider_d1.exceptions import D1ConfigurationError, D1ManifestError, D1StagingError
from airflow_provider_d1.staging.manifest import MANIFEST_KEY, Manifest, dumps, parse_manifest
from airflow_provider_d1.staging.staging_run import is_run_id, same_owner, started_at

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest_source import Source
    from airflow_provider_d1.staging.staging_run import StagingRun
    from airflow_provider_d1.storage.base import Storage

logger = logging.getLogger(__name__)

#: an unfinished run of this age is treated as killed: D1's signed URLs are valid for an hour
ABANDONED_AFTER = timedelta(days=1)
#: with ``keep_runs=None`` the number of folders grows; only the newest are searched for unfinished runs
_SEARCHED_RUNS = 100
_ATTEMPTS = 20


class Prefix:
    """The root of a storage, with the runs of one database.

    :param storage: rooted at the prefix.
    :param source: what is being staged.
    :param replace: False refuses a prefix with a manifest; ``"any"`` also accepts one of another database.
    :param keep_runs: how many complete runs remain, this one included; None keeps all.
    """

    def __init__(
        self, storage: Storage, source: Source, *, replace: bool | Literal["any"], keep_runs: int | None
    ) -> None:
        self._storage = storage
        self._source = source
        self._replace = replace
        self._keep_runs = keep_runs
        self._pointer_sent: bytes | None = None
        self._legacy: frozenset[str] = frozenset()

    def check(self) -> None:
        """Refuse a prefix that must not be replaced.

        :raises D1ConfigurationError: when it has runs of another database; the message names both.
        :raises D1StagingError: when it has a manifest and ``replace`` is False; not retryable.
        """
        check_prefix(self._storage, self._replace, self._source.database_id, self._source.database_name)

    def publish(self, run: StagingRun, manifest: Manifest) -> None:
        """Write the run's manifest, then its copy at the prefix unless that is of a newer run; remove older runs.

        :raises D1StagingError: when a stored file is missing or has another size.
        :raises D1ConfigurationError: when a run of another database was published here since the start.
        """
        content = dumps(manifest)
        self._put(run.manifest_key, content)
        run.verify()
        self._point_to(manifest, content)
        self._clean_up(
            run,
            lambda: self._remove_older_runs(run),
            lambda: self._remove(sorted(self._legacy)),
            lambda: self._discard_uploads(run),
        )

    def abandon(self, run: StagingRun) -> None:
        """Remove the files of a run that failed; does not raise, so that the run's own error is reported.

        A run that was interrupted after it was published keeps its files.
        """
        if self._pointer_sent is not None and self._may_be_published(self._pointer_sent):
            return
        self._clean_up(
            run,
            lambda: self._storage.delete([run.manifest_key]),
            lambda: self._storage.delete(sorted(self._storage.list(run.folder))),
            lambda: self._remove_abandoned(run, self._other_runs(run)),
            lambda: self._discard_uploads(run, own=True),
        )

    def _put(self, key: str, content: bytes) -> None:
        try:
            self._storage.put_bytes(key, content)
        except Exception:
            # the response to a successful request can be lost
            if self._storage.read_bytes(key) != content:
                raise

    def _point_to(self, manifest: Manifest, content: bytes) -> None:
        """Replace the manifest at the prefix, and read it again until this run or a newer one is there."""
        for _ in range(_ATTEMPTS):
            current = self._storage.read_bytes(MANIFEST_KEY)
            if current == content:
                return
            latest = _parsed(self._storage, current)
            if latest is not None:
                self._refuse_other_database(latest)
                if _is_newer(latest, manifest):
                    logger.info(
                        "%s not replaced: newer run=%s, this run=%s",
                        self._storage.uri(MANIFEST_KEY),
                        latest.run,
                        manifest.run,
                    )
                    return
                if latest.run is None:
                    keys = (self._storage.key(file.uri) for file in latest.all_files)
                    self._legacy = frozenset(key for key in keys if key is not None)
            self._pointer_sent = content
            try:
                self._storage.replace(MANIFEST_KEY, content, expected=current)
            except Exception:
                # the response to a successful request can be lost
                if self._storage.read_bytes(MANIFEST_KEY) != content:
                    raise
        raise D1StagingError(
            f"{self._storage.uri(MANIFEST_KEY)}: other runs replaced it {_ATTEMPTS} times before this run could. "
            "Run fewer tasks at a time into one prefix, or give each its own prefix."
        )

    def _refuse_other_database(self, latest: Manifest) -> None:
        source = self._source
        _refuse_other_database(self._storage, latest, self._replace, source.database_id, source.database_name)

    def _may_be_published(self, content: bytes) -> bool:
        try:
            return self._storage.read_bytes(MANIFEST_KEY) == content
        except Exception as error:  # noqa: BLE001 # if unknown, keep the files: a manifest without its files would be worse
            logger.warning("Files of the failed run were kept, as the manifest could not be read: %s", error)
            return True

    def _clean_up(self, run: StagingRun, *steps: Callable[[], None]) -> None:
        """Run every step even if others fail, as each may need another permission."""
        for step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001 # leftover files do not affect readers
                logger.warning("Run %s: old or unfinished files could not be removed: %s", run.id, error)

    def _other_runs(self, run: StagingRun) -> dict[str, bool]:
        """Run id → whether it is complete, oldest first."""
        runs = sorted(name for name in self._storage.folders() if is_run_id(name) and name != run.folder)
        if self._keep_runs is None:
            runs = runs[-_SEARCHED_RUNS:]
        return {name: self._storage.size(f"{name}/{MANIFEST_KEY}") is not None for name in runs}

    def _remove_older_runs(self, run: StagingRun) -> None:
        others = self._other_runs(run)
        if self._keep_runs is not None:
            complete = self._oldest_first([run.id, *(name for name, is_complete in others.items() if is_complete)])
            latest = _parsed(self._storage, self._storage.read_bytes(MANIFEST_KEY))
            kept = {run.id, latest.run if latest else None, *complete[-self._keep_runs :]}
            for name in complete:
                if name not in kept:
                    logger.info("Removing run: run=%s keep_runs=%d", name, self._keep_runs)
                    # the manifest first: if the rest fails, the run counts as unfinished
                    self._storage.delete([f"{name}/{MANIFEST_KEY}"])
                    self._storage.delete(sorted(self._storage.list(name)))
        self._remove_abandoned(run, others)

    def _oldest_first(self, runs: list[str]) -> list[str]:
        """Sort complete runs; those that started in the same second by their manifests' time of creation."""
        seconds = Counter(map(started_at, runs))
        keys: dict[str, tuple[datetime, str, str]] = {}
        for name in runs:
            created_at = ""
            if seconds[started_at(name)] > 1:
                manifest = _parsed(self._storage, self._storage.read_bytes(f"{name}/{MANIFEST_KEY}"))
                created_at = "" if manifest is None else manifest.created_at
            keys[name] = (started_at(name), created_at, name)
        return sorted(runs, key=keys.__getitem__)

    def _remove_abandoned(self, run: StagingRun, others: dict[str, bool]) -> None:
        for name, is_complete in others.items():
            if not is_complete and _is_abandoned(name, run):
                logger.info("Removing unfinished run: run=%s", name)
                self._storage.delete(sorted(self._storage.list(name)))

    def _remove(self, keys: list[str]) -> None:
        if keys:
            logger.info("Removing the run of an earlier version: files=%d", len(keys))
            self._storage.delete(keys)

    def _discard_uploads(self, run: StagingRun, *, own: bool = False) -> None:
        def is_ours(key: str) -> bool:
            name = key.partition("/")[0]
            return (own and name == run.folder) or (is_run_id(name) and name != run.id and _is_abandoned(name, run))

        self._storage.discard_unfinished(is_ours)


def check_prefix(
    storage: Storage, replace: bool | Literal["any"], database_id: str | None, database: str | None
) -> None:
    """Refuse a prefix to which a database must not be staged.

    :param database_id: None when it is not known yet.
    :param database: the name or, as given by the user, a name or a UUID.
    :raises D1ConfigurationError: when it has runs of another database; the message names both.
    :raises D1StagingError: when it has a manifest and ``replace`` is False; not retryable.
    """
    content = storage.read_bytes(MANIFEST_KEY)
    if content is None:
        return
    if replace is False:
        raise already_exists(storage)
    latest = _parsed(storage, content)
    if latest is not None:
        _refuse_other_database(storage, latest, replace, database_id, database)


def already_exists(storage: Storage) -> D1StagingError:
    """The error for a manifest that may not be replaced."""
    return D1StagingError(f"{storage.uri(MANIFEST_KEY)} already exists (replace=False)", retryable=False)


def _refuse_other_database(
    storage: Storage,
    latest: Manifest,
    replace: bool | Literal["any"],
    database_id: str | None,
    database: str | None,
) -> None:
    if replace == "any" or not _is_of_another_database(latest.source, database_id, database):
        return
    there, here = _named(latest.source.database_name, latest.source.database_id), _named(database, database_id)
    raise D1ConfigurationError(
        f"{storage.uri(MANIFEST_KEY)} is of database {there}, but this task stages database {here}. Give each database "
        'its own prefix, or pass replace="any" to replace the existing runs.'
    )


def _is_of_another_database(source: Source, database_id: str | None, database: str | None) -> bool:
    if source.database_id is not None and database_id is not None:
        return source.database_id != database_id
    there = {name.lower() for name in (source.database_id, source.database_name) if name}
    here = {name.lower() for name in (database_id, database) if name}
    return bool(there and here) and not there & here


def _named(name: str | None, database_id: str | None) -> str:
    return f"{name!r} ({database_id})" if name and database_id else repr(name or database_id)


def _parsed(storage: Storage, content: bytes | None) -> Manifest | None:
    if content is None:
        return None
    try:
        return parse_manifest(content)
    except D1ManifestError as error:
        logger.warning("%s is malformed and will be replaced: %s", storage.uri(MANIFEST_KEY), error)
        return None


def _is_newer(latest: Manifest, manifest: Manifest) -> bool:
    """Whether the published run has newer data: by the start of its export, otherwise by its own start."""
    if latest.run is None or manifest.run is None:
        return False
    there, here = latest.source, manifest.source
    theirs, ours = _moment(there.started_at), _moment(here.started_at)
    if there.database_id == here.database_id and theirs and ours and theirs != ours:
        return theirs > ours
    return _age_key(latest) > _age_key(manifest)


def _age_key(manifest: Manifest) -> tuple[datetime, str, str]:
    run = manifest.run or ""
    return started_at(run), manifest.created_at, run


def _moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _is_abandoned(name: str, run: StagingRun) -> bool:
    """Whether an unfinished run is from an earlier attempt of this task, or too old to be running."""
    if name == run.id:
        return False
    return (same_owner(name, run.id) and name < run.id) or started_at(name) < datetime.now(UTC) - ABANDONED_AFTER
