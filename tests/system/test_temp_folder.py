"""The worker's temporary folder is full or read-only: in tasks, and with real file systems in a namespace."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_d1.storage.folder import WORK_PREFIX
from tests.system.environment import BIG, Environment

#: stage a dump whose parts do not fit into the temporary folder, over files that an earlier run has staged
STAGE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.stage import stage
from airflow_provider_d1.storage.folder import FolderStorage

dump, out, temp = map(Path, sys.argv[1:])
with dump.open("rb") as stream:
    try:
        stage(stream, FolderStorage(out), StagingOptions(), Source(database_name="shop"), temp_dir=temp)
    except OSError as error:
        print(error)
        raise SystemExit(3)
"""


def test_a_file_of_the_first_try_cannot_grow(environment: Environment) -> None:
    with environment.scenario("temp_full", BIG) as scenario:
        run = scenario.run()
        manifest = scenario.succeeds(run)
        assert manifest["tables"][0]["rows"] == 20000
        assert "File too large" in environment.airflow.log(scenario.name, run)
        assert scenario.attempts(run) == 2
        assert scenario.exports() == len(scenario.calls("export_start")) == 1


def test_nothing_can_be_written_at_all(environment: Environment) -> None:
    with environment.scenario("temp_read_only") as scenario:
        run = scenario.run()
        assert f"/sys/{WORK_PREFIX}" in scenario.fails(run)
        assert scenario.attempts(run) == 2
        assert scenario.exports() == len(scenario.calls("export_start")) == 1
        scenario.nothing_staged()


def after(preparation: str, *command: str | Path, within: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run a command after another that prepares its process."""
    return subprocess.run(
        [*within, "sh", "-c", f'{preparation} && exec "$@"', "sh", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


#: mounts of such a process are visible only to itself
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


@pytest.mark.parametrize(
    ("within", "preparation", "reason"),
    [
        (NAMESPACE, "mount -t tmpfs -o size=128k tmpfs '{temp}'", "No space left on device"),
        (NAMESPACE, "mount -t tmpfs -o ro tmpfs '{temp}'", "Read-only file system"),
        ((), "ulimit -f 128", "File too large"),
    ],
    ids=["full", "read-only", "no-larger-files"],
)
def test_nothing_is_staged_and_what_was_there_stays(
    tmp_path: Path, within: tuple[str, ...], preparation: str, reason: str
) -> None:
    temp, out = tmp_path / "temp", tmp_path / "out"
    temp.mkdir()
    preparation = preparation.format(temp=temp)
    if within and (shutil.which(within[0]) is None or after(preparation, "true", within=within).returncode):
        pytest.skip("this machine does not allow mounts in a new namespace")
    small, big = tmp_path / "small.sql", tmp_path / "big.sql"
    create = "CREATE TABLE noise (id INTEGER, body TEXT);\n"
    small.write_text(create + "INSERT INTO noise VALUES(1,'a');\n")
    rows = (f"INSERT INTO noise VALUES({i},'{hash(str(i)) ** 3:x}{hash(str(-i)) ** 3:x}');\n" for i in range(20_000))
    big.write_text(create + "".join(rows))
    subprocess.run([sys.executable, "-c", STAGE, small, out, tmp_path], check=True, timeout=300)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    failed = after(preparation, sys.executable, "-c", STAGE, big, out, temp, within=within)

    assert failed.returncode == 3, failed.stderr[-2000:]
    assert reason in failed.stdout
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert list(temp.iterdir()) == []
