"""A killed run leaves its work folder; the next run removes it, and only it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from airflow_provider_d1.staging.work_folder import LOCK, work_folder
from airflow_provider_d1.storage.folder import WORK_PREFIX

WORKER = """
import sys, time
from pathlib import Path
from airflow_provider_d1.staging.work_folder import work_folder
with work_folder(Path(sys.argv[1])) as folder:
    (folder / "part").write_bytes(b"half")
    print(folder.name, flush=True)
    time.sleep(60)
"""


def worker(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", WORKER, str(parent)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, parent / process.stdout.readline().strip()


def test_it_is_gone_after_the_run(tmp_path: Path) -> None:
    with work_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        (folder / "part").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_and_a_living_run_is_left_alone(tmp_path: Path) -> None:
    dead, dead_folder = worker(tmp_path)
    living, living_folder = worker(tmp_path)
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert (dead_folder / "part").exists()
        with work_folder(tmp_path) as folder:
            assert not dead_folder.exists()
            assert (living_folder / "part").exists()
            assert folder not in (dead_folder, living_folder)
    finally:
        for process in (dead, living):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def test_a_folder_that_is_being_made_is_left_alone_and_an_old_one_removed(tmp_path: Path) -> None:
    new, old = tmp_path / f"{WORK_PREFIX}new", tmp_path / f"{WORK_PREFIX}old"
    for folder in (new, old):
        folder.mkdir()
    os.utime(old, (0, 0))
    with work_folder(tmp_path):
        assert new.exists()
        assert not old.exists()


def test_other_peoples_folders_are_none_of_its_business(tmp_path: Path) -> None:
    other = tmp_path / "another-owners"
    other.mkdir()
    (other / LOCK).touch()
    target = tmp_path / "target"
    target.mkdir()
    (target / LOCK).touch()
    (tmp_path / f"{WORK_PREFIX}link").symlink_to(target)
    with work_folder(tmp_path):
        assert (other / LOCK).exists()
        assert (target / LOCK).exists()
