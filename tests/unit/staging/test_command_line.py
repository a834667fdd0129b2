"""``python -m airflow_provider_d1.staging`` as a user meets it: another process, exit codes, two streams, a folder."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from airflow_provider_d1.staging.__main__ import argument_parser
from airflow_provider_d1.staging.manifest import parse_manifest
from airflow_provider_d1.staging.options import StagingOptions
from tests.unit.staging.staged_files import assert_folder_is_what_the_manifest_lists, assert_true_to

CORPUS = Path(__file__).parents[2] / "data" / "corpus" / "nasty_full.sql"
SMALL = b'CREATE TABLE "t"(id INTEGER PRIMARY KEY, v TEXT);\nINSERT INTO "t" VALUES(1,\'one\');'


def run(*arguments: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "airflow_provider_d1.staging", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("file_format", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("packing", ["plain", "gzip", "zstd", "pipe"])
def test_a_dump_becomes_files_and_a_manifest(packing: str, file_format: str, tmp_path: Path) -> None:
    content = CORPUS.read_bytes()
    packed = {"gzip": gzip.compress(content, 1), "zstd": zstandard.compress(content)}.get(packing, content)
    dump = tmp_path / {"gzip": "dump.sql.gz", "zstd": "dump.sql.zst"}.get(packing, "dump.sql")
    dump.write_bytes(packed)
    out = tmp_path / "out"
    done = run("-" if packing == "pipe" else dump, out, "--format", file_format, stdin=packed)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines()[-1] == str(out / "_manifest.json")
    manifest = parse_manifest((out / "_manifest.json").read_bytes())
    assert manifest.format == file_format
    assert_true_to(content, manifest, out)


@pytest.mark.parametrize(
    "bad",
    [
        SMALL + b"\nDROP TABLE t;",
        SMALL + b'\nINSERT INTO "t" VALUES(2,\'cut o',
        SMALL + b'\nINSERT INTO "t" VALUES(2,evil(1));',
        b"",
        gzip.compress(SMALL * 1000)[:-20],
        zstandard.compress(SMALL)[:-5],
    ],
)
@pytest.mark.parametrize("before", [False, True])
def test_a_bad_dump_is_one_clear_line_and_no_trace(bad: bytes, before: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if before:
        assert run("-", out, stdin=SMALL).returncode == 0
        manifest = parse_manifest((out / "_manifest.json").read_bytes())
    done = run("-", out, stdin=bad)
    assert done.returncode == 1
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    if before:
        assert parse_manifest((out / "_manifest.json").read_bytes()) == manifest
        assert_folder_is_what_the_manifest_lists(manifest, out)
    else:
        assert not out.exists()


def test_tables_are_left_out(tmp_path: Path) -> None:
    dump = SMALL + b'\nCREATE TABLE "logs"(id INTEGER);\nINSERT INTO "logs" VALUES(1);'
    done = run("-", tmp_path / "out", "--exclude-table", "logs", stdin=dump)
    assert done.returncode == 0, done.stderr.decode()
    manifest = parse_manifest((tmp_path / "out" / "_manifest.json").read_bytes())
    assert [table.name for table in manifest.tables] == ["t"]
    assert [(skipped.name, skipped.reason) for skipped in manifest.source.skipped] == [("logs", "excluded")]
    done = run("-", tmp_path / "other", "--exclude-table", "t", "--exclude-table", "log", stdin=dump)
    assert done.returncode == 1
    assert b"did you mean 'logs'?" in done.stderr


def test_the_error_names_the_place(tmp_path: Path) -> None:
    dump = SMALL + b'\nINSERT INTO "t" VALUES(2,evil(1));'
    done = run("-", tmp_path / "out", stdin=dump)
    assert b"'t'" in done.stderr
    assert f"byte {dump.index(b'evil')}".encode() in done.stderr


@pytest.mark.parametrize(
    "arguments", [["no such file.sql", "out"], ["-", "out", "--compression", "snappy", "--format", "csv"]]
)
def test_what_cannot_work_is_one_line_too(arguments: list[str], tmp_path: Path) -> None:
    arguments[1] = str(tmp_path / "out")
    done = run(*arguments, stdin=SMALL)
    assert done.returncode == 1
    assert len(done.stderr.decode().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_every_option_arrives(tmp_path: Path) -> None:
    dump = b"CREATE TABLE t(\"OrderId\" INTEGER, at DATETIME);INSERT INTO t VALUES(1,'2026-01-01 00:00:00');"
    options = ["--compression", "snappy", "--keep-dump", "--parse-temporal", "--audit-columns", "--threads", "0"]
    options += ["--column-names", "snake_case", "--max-part-bytes", "5000", "--temp-dir", str(tmp_path / "tmp")]
    done = run("-", tmp_path / "out", *options, stdin=dump)
    assert done.returncode == 0, done.stderr
    manifest = parse_manifest((tmp_path / "out" / "_manifest.json").read_bytes())
    (table,) = manifest.tables
    assert [(c.name, c.type, c.source_name) for c in table.columns] == [
        ("order_id", "int64", "OrderId"),
        ("at", "timestamp[us]", None),
        ("_d1_database", "string", None),
        ("_d1_bookmark", "string", None),
        ("_loaded_at", "timestamp[us]", None),
    ]
    assert manifest.compression == "snappy"
    assert manifest.dump.kept is not None
    assert_folder_is_what_the_manifest_lists(manifest, tmp_path / "out")
    again = run("-", tmp_path / "out", "--no-replace", stdin=dump)
    assert again.returncode == 1
    assert b"replace=False" in again.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


def test_every_option_has_a_flag_a_default_and_a_help() -> None:
    parser = argument_parser()
    given = vars(parser.parse_args(["dump.sql", "out"]))
    for option in dataclasses.fields(StagingOptions):
        assert (option.name not in given) if option.name == "keep_runs" else given[option.name] == option.default
    assert [action.dest for action in parser._actions if not action.help] == []


@pytest.mark.parametrize("option", [["--on-lossy", "fail"], ["--on-type-conflict", "fail"]])
def test_on_lossy_and_on_type_conflict_fail(option: list[str], tmp_path: Path) -> None:
    done = run(CORPUS, tmp_path / "out", *option)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: scalars.v: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_no_files(number: signal.Signals, code: int, tmp_path: Path) -> None:
    # what runs in the background of a shell ignores SIGINT, and so would its children
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "airflow_provider_d1.staging", "-", str(tmp_path / "out"), "--max-part-bytes", "50000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    signal.signal(signal.SIGINT, before)
    assert process.stdin is not None
    rows = "".join(f"INSERT INTO t VALUES({n},'{n:0100}');\n" for n in range(100_000))
    process.stdin.write(b"CREATE TABLE t(a,b);\n" + rows.encode())
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/.d1-staging-*/staged/t/part-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert stderr.decode().splitlines()[-1].startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_bomb_is_cut_off_before_it_fills_the_memory(pack, tmp_path: Path) -> None:
    """A gigabyte of one endless text in a few kilobytes or megabytes."""
    bomb = tmp_path / "bomb"
    bomb.write_bytes(pack(b"CREATE TABLE t(a);INSERT INTO t VALUES('") + pack(b"a" * (4 << 20)) * 256)
    assert bomb.stat().st_size < 8 << 20
    with (tmp_path / "stderr").open("wb+") as stderr:
        command = [sys.executable, "-m", "airflow_provider_d1.staging", str(bomb), str(tmp_path / "out")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stderr.seek(0)
        assert stderr.read().splitlines()[-1] == b"error: byte 18: statement is longer than 128 MiB"
    assert process.returncode == 1
    assert used.ru_maxrss < 700 << 10  # kilobytes
    assert not (tmp_path / "out").exists()


def test_a_closed_stdout_is_not_an_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "airflow_provider_d1.staging", "-", str(tmp_path / "out")]
    done = subprocess.run(command, input=SMALL, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr
    assert done.returncode == 0
    assert_true_to(SMALL, parse_manifest((tmp_path / "out" / "_manifest.json").read_bytes()), tmp_path / "out")


def test_no_standard_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "airflow_provider_d1.staging", "-", str(tmp_path / "out")]
    done = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *command], capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")


@pytest.mark.parametrize("options", [["--max-part-bytes", "8000"], ["--keep-dump"], ["--format", "csv"]])
def test_names_that_are_no_utf8(options: list[str], tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    dump, out = folder + b"/d\xff.sql", folder + b"/out \xff"
    numbers = b"".join(b"INSERT INTO u(a) VALUES(%d);" % n for n in range(1000))
    late_text = b"CREATE TABLE u(a INTEGER);" + numbers + b"INSERT INTO u VALUES('a text');"
    Path(os.fsdecode(dump)).write_bytes(SMALL + late_text)
    command = [sys.executable, "-m", "airflow_provider_d1.staging", dump, out, *options]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == out + b"/_manifest.json"
    manifest = parse_manifest(Path(os.fsdecode(done.stdout.splitlines()[-1])).read_bytes())
    assert manifest.source.filename == "d\ufffd.sql"


def test_it_needs_no_airflow_and_no_boto3(tmp_path: Path) -> None:
    (tmp_path / "dump.sql").write_bytes(SMALL)
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('airflow', 'boto3', 'botocore', 'httpx', 'pandas'):\n"
        "            raise AssertionError('imported ' + name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from airflow_provider_d1.staging.__main__ import main\n"
        f"sys.exit(main([{str(tmp_path / 'dump.sql')!r}, {str(tmp_path / 'out')!r}]))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["tables"][0]["rows"] == 1
