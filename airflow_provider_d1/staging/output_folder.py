"""The command line's output: one run directly in a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1ManifestError, D1StagingError
from airflow_provider_d1.staging.manifest import MANIFEST_KEY, Manifest, dumps, parse_manifest
from airflow_provider_d1.staging.prefix import already_exists

if TYPE_CHECKING:
    from airflow_provider_d1.staging.staging_run import StagingRun
    from airflow_provider_d1.storage.folder import FolderStorage


class OutputFolder:
    """A folder whose files are moved into place when all of them are complete.

    :param storage: the folder.
    :param replace: False refuses a folder with a manifest.
    """

    def __init__(self, storage: FolderStorage, *, replace: bool) -> None:
        self._storage = storage
        self._replace = replace

    def check(self) -> None:
        """Refuse a folder that must not be replaced.

        :raises D1StagingError: when it has a manifest and ``replace`` is False.
        """
        if not self._replace and self._storage.read_bytes(MANIFEST_KEY) is not None:
            raise already_exists(self._storage)

    def publish(self, run: StagingRun, manifest: Manifest) -> None:
        """Move the files into place: the old manifest is removed first, and the new one is added last.

        So all files of a manifest exist whenever a reader finds it.

        :raises D1StagingError: when a file exists that no earlier staging wrote; nothing is changed then.
        """
        run.verify()
        old = self._listed_files()
        for name in run.names:
            if name not in old and self._storage.size(name) is not None:
                raise D1StagingError(
                    f"{self._storage.uri(name)} exists and is not part of an earlier staging; use an empty folder"
                )
        self._storage.put_bytes(run.manifest_key, dumps(manifest))
        self._storage.delete([MANIFEST_KEY])
        self._storage.delete(sorted(old))
        for name in (*run.names, MANIFEST_KEY):
            self._storage.put_file(name, self._storage.local_path(f"{run.folder}/{name}"))

    def abandon(self, run: StagingRun) -> None:
        """Do nothing, as the run's folder is temporary."""

    def _listed_files(self) -> set[str]:
        content = self._storage.read_bytes(MANIFEST_KEY)
        try:
            files = parse_manifest(content).all_files if content is not None else ()
        except D1ManifestError:
            return set()
        return {key for file in files if (key := self._storage.key(file.uri)) is not None}
