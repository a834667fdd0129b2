"""Stage a dump as Parquet, compared with ``sqlite3 < dump.sql`` and with coalesced INSERTs and ADBC, in one run.

    python -m benchmarks.dump_to_parquet [--size 500M] [--pairs 3] [--memory-size 2G]

Every measurement is a separate process, including imports, hashes and the manifest. The methods alternate, and the
figures are medians of the ratios within a round, so that a busy machine slows down both sides. sqlite3 loads into a new
file in one transaction, journal and sync off, and writes no Parquet. The other method combines rows into multi-row
INSERTs (split by our reader, so at our speed), loads them in the same way, and passes the tables to pyarrow with ADBC's
SQLite driver; columns of mixed types, which it would refuse, are declared to it. The values for the slow path
(2**63 - 1 as D1 dumps it) show what the exact parser costs when single rows need it.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.make_dump import DATA, kept_dump

WAYS = {
    "ours": "ours",
    "single": "ours, one thread",
    "slow-path": "ours, with a value for the slow path in one of 1,000 rows",
    "sqlite3": "sqlite3 < dump.sql",
    "coalesced": "coalesced INSERTs, ADBC, pyarrow",
}
#: columns of the generated dump that hold more than one storage class
MIXED = {"events": ("value",), "readings": ("reading",)}
NO_JOURNAL = "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="500M")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--memory-size", help="a second, larger dump, only to see how memory and disk grow")
    parser.add_argument("--formats", action="store_true", help="measure CSV and JSONL too")
    parser.add_argument("--data", type=Path, default=DATA, help="where the dumps are kept")
    parser.add_argument("--way", choices=["coalesced", "shares"], help=argparse.SUPPRESS)
    parser.add_argument("--dump", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way == "coalesced":
        coalesced(given.dump, given.out)
    elif given.way == "shares":
        shares(given.dump, given.out)
    else:
        report(given)


def report(given: argparse.Namespace) -> None:
    path, slow_path = kept_dump(given.size, given.data), kept_dump(given.size, given.data, slow_path=True)
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(given.pairs):
        # the order turns with each round, so that no way always finds the warmer machine
        for way in list(WAYS)[:: 1 if number % 2 == 0 else -1]:
            runs[way].append(measured(command(way, slow_path if way == "slow-path" else path)))
            print(f"round {number + 1} {way}: {runs[way][-1]}", file=sys.stderr)
    megabytes = path.stat().st_size / 1e6
    print(f"\nDump of {megabytes:,.0f} MB, {given.pairs} rounds, {machine()}\n")
    print("| | wall s | MB/s | CPU s | peak MiB | ours ÷ this, wall | CPU |\n|---|---|---|---|---|---|---|")
    for way, label in WAYS.items():
        wall, cpu, peak = (statistics.median(run[key] for run in runs[way]) for key in ("wall", "cpu", "peak"))
        ratios = [
            statistics.median(ours[key] / other[key] for ours, other in zip(runs["ours"], runs[way], strict=True))
            for key in ("wall", "cpu")
        ]
        print(
            f"| {label} | {wall:.1f} | {megabytes / wall:,.0f} | {cpu:.1f} | {peak:,.0f} |"
            f" {ratios[0]:.2f} | {ratios[1]:.2f} |"
        )
    print("\nWhere our CPU time goes (one run, every stage in its own threads):\n")
    print(shares_of(path))
    if given.formats:
        print("| format | wall s | CPU s | peak MiB |\n|---|---|---|---|")
        for name in ("parquet", "csv", "jsonl"):
            run = measured([*command("ours", path), "--format", name])
            print(f"| {name} | {run['wall']:.1f} | {run['cpu']:.1f} | {run['peak']:,.0f} |")
    if given.memory_size:
        large = measured(command("ours", kept_dump(given.memory_size, given.data)))
        small = statistics.median(run["peak"] for run in runs["ours"])
        print(
            f"\nMemory: {small:,.0f} MiB at {given.size}, {large['peak']:,.0f} MiB at {given.memory_size}"
            f" ({large['peak'] / small - 1:+.0%}, {large['wall']:.1f} s wall)."
        )


def command(way: str, path: Path) -> list[str]:
    """Return the command of a way; ``{out}`` stands for an empty folder of its own."""
    match way:
        case "ours" | "single" | "slow-path":
            staging = [sys.executable, "-m", "airflow_provider_d1.staging", str(path), "{out}/staged"]
            return [*staging, "--threads", "0"] if way == "single" else staging
        case "sqlite3":
            load = 'set -o pipefail; (echo "$2 BEGIN;"; cat "$0"; echo "; COMMIT;") | sqlite3 "$1/fresh.db" >/dev/null'
            return ["bash", "-c", load, str(path), "{out}", NO_JOURNAL]
        case _:
            this = [sys.executable, "-m", "benchmarks.dump_to_parquet"]
            return [*this, "--way", way, "--dump", str(path), "--out", "{out}"]


def measured(arguments: list[str]) -> dict[str, float]:
    """Run a command; return wall and CPU seconds and the largest process's peak memory in MiB."""
    with tempfile.TemporaryDirectory(prefix="d1-benchmark-") as out:
        started = time.monotonic()
        process = subprocess.Popen(
            [argument.replace("{out}", out) for argument in arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        complaint = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        if status:
            raise SystemExit(f"{arguments} failed:\n{complaint.decode()}")
    return {"wall": round(wall, 2), "cpu": round(usage.ru_utime + usage.ru_stime, 2), "peak": usage.ru_maxrss / 1024}


def coalesced(path: Path, out: Path) -> None:
    """Load with multi-row INSERTs, write what SQLite then holds with ADBC and pyarrow."""
    import sqlite3

    import adbc_driver_sqlite.dbapi
    import pyarrow as pa
    import pyarrow.parquet as pq

    from airflow_provider_d1.dump.reader import DumpReader, TableStarted

    connection = sqlite3.connect(out / "fresh.db", isolation_level=None)
    connection.executescript(f"{NO_JOURNAL} BEGIN;")
    reader = DumpReader()
    tables = []
    with path.open("rb") as file:
        while True:
            data = file.read(MIB)
            for item in reader.feed(data) if data else reader.finish():
                if isinstance(item, TableStarted):
                    tables.append(item.schema)
                    connection.execute(item.schema.ddl)
                else:
                    names = ",".join(f'"{item.schema.columns[index].name}"' for index in item.layout)
                    rows = bytes(item.body).replace(bytes(item.separator), b"),(").decode()
                    connection.execute(f'INSERT INTO "{item.schema.name}" ({names}) VALUES({rows}')
            if not data:
                break
    connection.execute("COMMIT")
    connection.close()
    with adbc_driver_sqlite.dbapi.connect(str(out / "fresh.db")) as database, database.cursor() as cursor:
        # it takes the types from the first batch, and readings.comment is NULL for a long time
        cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": "100000000"})
        for schema in tables:
            columns = ",".join(
                f'CAST("{c.name}" AS TEXT) AS "{c.name}"' if c.name in MIXED.get(schema.name, ()) else f'"{c.name}"'
                for c in schema.columns
            )
            cursor.execute(f'SELECT {columns} FROM "{schema.name}"')
            batches: pa.RecordBatchReader = cursor.fetch_record_batch()
            with pq.ParquetWriter(
                out / f"{schema.name}.parquet", batches.schema, compression="zstd", compression_level=1
            ) as writer:
                for batch in batches:
                    writer.write_batch(batch)


def shares_of(path: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="d1-benchmark-") as out:
        arguments = [argument.replace("{out}", out) for argument in command("shares", path)]
        return subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout


def shares(path: Path, out: Path) -> None:
    """Stage in this process with clocks around the stages, and print each one's CPU time."""
    seconds: Counter[str] = Counter()

    def clocked(owner: Any, name: str, label: str) -> None:
        whole: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(whole)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return whole(*args, **kwargs)
            finally:
                seconds[label] += time.thread_time() - started

        setattr(owner, name, timed)

    started = time.process_time()
    from airflow_provider_d1.staging import parquet, part_store, streams, table_pipeline
    from airflow_provider_d1.staging.manifest_source import Source
    from airflow_provider_d1.staging.options import StagingOptions
    from airflow_provider_d1.staging.stage import stage
    from airflow_provider_d1.storage.folder import FolderStorage

    seconds["start of Python, imports"] = time.process_time()
    clocked(table_pipeline, "parse_block", "parse (threads of its own)")
    clocked(parquet.ParquetPart, "add", "write Parquet")
    clocked(table_pipeline.DumpReader, "feed", "cut")
    clocked(streams.MeteredReader, "read", "read, SHA-256 of the dump")
    clocked(part_store, "file_sha256", "SHA-256 of the files")
    clocked(part_store.PartStore, "_cast", "cast parts again (their writing included above)")
    clocked(FolderStorage, "put_file", "flush to disk, rename")
    began = time.monotonic()
    with path.open("rb", buffering=0) as file:
        stage(file, FolderStorage(out / "staged"), StagingOptions(), Source(), temp_dir=out)
    wall, total = time.monotonic() - began, time.process_time()
    print("| stage | CPU s | share |\n|---|---|---|")
    for label, spent in seconds.most_common():
        print(f"| {label} | {spent:.2f} | {spent / total:.0%} |")
    print(f"\n{total:.1f} s of CPU in {wall + started:.1f} s.")


def machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "unknown processor",
    )
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores ({model}), Python {sys.version.split()[0]}, load {load:.1f} at the end"


if __name__ == "__main__":
    if shutil.which("sqlite3") is None:
        raise SystemExit("the sqlite3 command is missing")
    main()
