"""The worker's temporary folder is full or read-only: real file systems, in a namespace of the process's own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: stage a dump whose parts do not fit into the temporary folder, over files that an earlier run has staged
STAGE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from airflow_provider_d1.staging.manifest import Source
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.pipeline import stage
from airflow_provider_d1.staging.sinks import FolderSink

dump, out, temp = map(Path, sys.argv[1:])
with dump.open("rb") as stream:
    try:
        stage(stream, FolderSink(out), StagingOptions(), Source(database_name="shop"), temp_dir=temp)
    except OSError as error:
        print(error)
        raise SystemExit(3)
"""


def in_namespace(mount: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command after a mount that only it sees."""
    script = f'{mount} && exec "$@"'
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        ("mount -t tmpfs -o size=128k tmpfs '{temp}'", "No space left on device"),
        ("mount -t tmpfs -o ro tmpfs '{temp}'", "Read-only file system"),
    ],
)
def test_nothing_is_staged_and_what_was_there_stays(tmp_path: Path, mount: str, reason: str) -> None:
    temp, out = tmp_path / "temp", tmp_path / "out"
    temp.mkdir()
    if shutil.which("unshare") is None or in_namespace(mount.format(temp=temp), "true").returncode:
        pytest.skip("this machine lets nobody mount in a namespace of his own")
    small, big = tmp_path / "small.sql", tmp_path / "big.sql"
    create = "CREATE TABLE noise (id INTEGER, body TEXT);\n"
    small.write_text(create + "INSERT INTO noise VALUES(1,'a');\n")
    rows = (f"INSERT INTO noise VALUES({i},'{hash(str(i)) ** 3:x}{hash(str(-i)) ** 3:x}');\n" for i in range(20_000))
    big.write_text(create + "".join(rows))
    subprocess.run([sys.executable, "-c", STAGE, small, out, tmp_path], check=True, timeout=120)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    failed = in_namespace(mount.format(temp=temp), sys.executable, "-c", STAGE, big, out, temp)

    assert failed.returncode == 3, failed.stderr[-2000:]
    assert reason in failed.stdout
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
