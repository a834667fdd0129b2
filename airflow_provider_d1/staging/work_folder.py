"""A temporary folder for unfinished parts, removed by a later run if its process was killed.

A process that is killed cannot clean up after itself. So each work folder has a lock file that its process keeps
locked. The system releases the lock when the process ends, and the next run on the machine removes folders that are not
locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airflow_provider_d1.storage.folder import WORK_PREFIX

logger = logging.getLogger(__name__)

LOCK = ".lock"
#: a folder without a lock file is being created, unless it is older than this
_UNLOCKED_SECONDS = 3600.0


@contextmanager
def work_folder(parent: Path | None) -> Iterator[Path]:
    """An empty folder for the time of a run; folders that killed runs have left beside it are removed.

    :param parent: its parent; None for the system's temporary folder.
    :raises OSError: when it cannot be created.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    _remove_abandoned(place)
    while True:
        with tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=place, ignore_cleanup_errors=True) as name:
            lock = Path(name) / LOCK
            with lock.open("wb") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                if lock.exists():  # otherwise another run has locked and removed it
                    yield Path(name)
                    return


def _remove_abandoned(place: Path) -> None:
    with contextlib.suppress(OSError):
        for folder in place.glob(f"{WORK_PREFIX}*"):
            if folder.is_dir() and not folder.is_symlink():
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(folder)


def _remove_if_abandoned(folder: Path) -> None:
    """Remove a folder whose process has ended; in case of doubt, keep it."""
    try:
        handle = os.open(folder / LOCK, os.O_WRONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        if time.time() - folder.stat().st_mtime > _UNLOCKED_SECONDS:
            shutil.rmtree(folder)
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        logger.info("Removing the work folder of a killed run: %s", folder)
        shutil.rmtree(folder)
    finally:
        os.close(handle)
