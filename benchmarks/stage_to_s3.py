"""A dump from D1's download into S3: our stream with its hash and checks, beside a bare pipe, in one run.

    python -m benchmarks.stage_to_s3 [--size 2G] [--pairs 3]

Every measurement is a process of its own with Airflow, the hooks and boto3 loaded; *idle* is its memory at that moment.
The bare pipe is httpx's stream straight into boto3's ``upload_fileobj``: no hash, no length check, no manifest. The
server side (emulator, S3 server) is the same for both and shares the machine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.make_dump import kept_dump
from harness.process import free_ports, running
from harness.seaweed import S3Server, s3_server

BUCKET = "benchmark"
TOKEN, ACCOUNT = "benchmark-token", "benchmark-account"
WAYS = {
    "bare": "bare pipe (httpx → boto3)",
    "plain": "stage, uncompressed",
    "gzip": "stage, gzip (isal 1)",
    "zstd": "stage, zstd 1",
    "file": "boto3 upload of a local file",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="2G")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--dump", type=Path, help="a dump of your own instead of a generated one")
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given.way, given.dump)))
        return
    dump = given.dump or kept_dump(given.size)
    with tempfile.TemporaryDirectory(prefix="d1-benchmark-") as folder, servers(Path(folder), dump) as environment:
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for number in range(given.pairs):
            # the order turns with each round, so that no way always finds the warmer machine
            for way in list(WAYS)[:: 1 if number % 2 == 0 else -1]:
                runs[way].append(in_its_own_process(way, dump, environment))
                print(f"round {number + 1} {way}: {runs[way][-1]}", file=sys.stderr)
    report(runs, dump.stat().st_size)


@contextmanager
def servers(folder: Path, dump: Path) -> Iterator[dict[str, str]]:
    """The S3 server and the emulator, as processes; yields the environment that reaches them."""
    with s3_server(folder / "s3", volumes=200) as s3:
        s3.client().create_bucket(Bucket=BUCKET)
        (port,) = free_ports(1)
        command = [sys.executable, "-m", "airflow_provider_d1.emulator", "--port", str(port), "--token", TOKEN]
        command += ["--account", ACCOUNT, "--dump", f"big={dump}"]
        log = folder / "emulator.log"
        with running(command, log=log, ready=lambda: "ready at" in log.read_text()):
            yield environment(s3, port, folder)


def environment(s3: S3Server, port: int, folder: Path) -> dict[str, str]:
    """Airflow connections of both servers, in an Airflow home of its own."""
    connection = {
        "conn_type": "d1",
        "host": f"http://127.0.0.1:{port}/client/v4",
        "password": TOKEN,
        "schema": "big",
        "extra": {"account_id": ACCOUNT},
    }
    return {
        **os.environ,
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "AIRFLOW_CONN_D1_DEFAULT": json.dumps(connection),
        "AIRFLOW_CONN_AWS_DEFAULT": s3.airflow_connection(),
        "NO_PROXY": "127.0.0.1",
    }


def in_its_own_process(way: str, dump: Path, env: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.stage_to_s3", "--way", way, "--dump", str(dump)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(way: str, dump: Path) -> dict[str, float]:
    """One upload in this process: seconds, CPU seconds, and memory in MiB before and at its peak above that."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from airflow_provider_d1.cloudflare.seal import unseal
    from airflow_provider_d1.hooks.d1 import D1Hook
    from airflow_provider_d1.staging.manifest_source import Source
    from airflow_provider_d1.staging.options import StagingOptions
    from airflow_provider_d1.staging.stage import stage
    from airflow_provider_d1.storage.s3 import S3Storage

    client = S3Hook().get_conn()
    hook = D1Hook()
    export = hook.export(poll_interval=0.5)
    idle, cpu, started = reset_peak(), time.process_time(), time.perf_counter()
    if way == "bare":
        bare_pipe(unseal(export.sealed_url, TOKEN), client)
    elif way == "file":
        client.upload_file(str(dump), BUCKET, "file.sql")
    else:
        options = StagingOptions(file_format="sql", compression=None if way == "plain" else way)
        source = Source.from_dict({**export.to_dict(), "unavailable_seconds": export.unavailable_seconds})
        with hook.download(export) as stream:
            stage(stream, S3Storage(client, BUCKET, way), options, source)
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu": round(time.process_time() - cpu, 2),
        "idle_mib": round(idle),
        "above_idle_mib": round(peak() - idle),
    }


def bare_pipe(url: str, client: object) -> None:
    import httpx

    class Pipe(io.RawIOBase):
        def __init__(self, pieces: Iterator[bytes]) -> None:
            self.pieces, self.rest = pieces, b""

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            self.rest = self.rest or next(self.pieces, b"")
            length = min(len(buffer), len(self.rest))
            buffer[:length], self.rest = self.rest[:length], self.rest[length:]
            return length

    with httpx.stream("GET", url, timeout=60) as answer:
        client.upload_fileobj(io.BufferedReader(Pipe(answer.iter_raw()), 1 << 20), BUCKET, "bare.sql")


def reset_peak() -> float:
    """Resident memory now, in MiB; the peak is counted from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> float:
    return _status("VmHWM")


def _status(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def report(runs: dict[str, list[dict[str, float]]], size: int) -> None:
    print(f"\n{size / 1e6:.0f} MB dump, medians of {len(runs['bare'])} rounds\n")
    print("| way | seconds | MB/s | throughput, of the bare pipe | CPU s | MiB above idle |\n|---|---|---|---|---|---|")
    for way, measured in runs.items():
        seconds = statistics.median(run["seconds"] for run in measured)
        ratio = statistics.median(
            bare["seconds"] / run["seconds"] for bare, run in zip(runs["bare"], measured, strict=True)
        )
        cpu = statistics.median(run["cpu"] for run in measured)
        memory = statistics.median(run["above_idle_mib"] for run in measured)
        print(f"| {WAYS[way]} | {seconds:.1f} | {size / 1e6 / seconds:.0f} | {ratio:.2f} | {cpu:.1f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
