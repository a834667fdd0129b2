"""A thousand tables of one row into S3 with 50 ms added to each request: stored several at a time, beside one by one.

    python -m benchmarks.many_tables [--tables 1000] [--delay 0.05] [--pairs 3]

Every measurement is a process of its own. The delay is a pause in the client before a request is sent, so it stands for
the distance to the bucket and costs neither side any CPU time.
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
from pathlib import Path

from benchmarks.stage_to_s3 import peak, reset_peak
from harness.seaweed import S3Server, s3_server

BUCKET = "benchmark"
WAYS = ("one by one", "several at a time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--delay", type=float, default=0.05)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given.way, given.tables, given.delay)))
        return
    with tempfile.TemporaryDirectory(prefix="d1-benchmark-") as folder, s3_server(Path(folder) / "s3") as s3:
        s3.client().create_bucket(Bucket=BUCKET)
        os.environ["AIRFLOW_HOME"] = f"{folder}/airflow"
        server = (s3.endpoint_url, s3.access_key, s3.secret_key)
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for number in range(given.pairs):
            for way in WAYS[:: 1 if number % 2 == 0 else -1]:
                command = [sys.executable, "-m", "benchmarks.many_tables", "--way", way]
                command += ["--tables", str(given.tables), "--delay", str(given.delay)]
                environment = {**os.environ, "D1_BENCHMARK_S3": json.dumps(server)}
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
                runs[way].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {number + 1} {way}: {runs[way][-1]}", file=sys.stderr)
    ratios = [fast["seconds"] / slow["seconds"] for slow, fast in zip(*runs.values(), strict=True)]
    for way, measured in runs.items():
        seconds, memory = (statistics.median(run[name] for run in measured) for name in ("seconds", "above_idle_mib"))
        print(f"{way}: {seconds:.1f} s, {memory:.0f} MiB above idle")
    print(f"several at a time ÷ one by one: {statistics.median(ratios):.3f}")


def measure(way: str, tables: int, delay: float) -> dict[str, float]:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from airflow_provider_d1.staging import table_pipeline
    from airflow_provider_d1.staging.manifest_source import Source
    from airflow_provider_d1.staging.options import StagingOptions
    from airflow_provider_d1.staging.stage import stage
    from airflow_provider_d1.storage.s3 import S3Storage

    os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = S3Server(*json.loads(os.environ["D1_BENCHMARK_S3"])).airflow_connection()
    storage = S3Storage(S3Hook(), BUCKET, way)
    client = storage._client  # noqa: SLF001 - the requests of the storage itself are to wait
    client.meta.events.register("before-send.s3.*", lambda **_: time.sleep(delay))
    if way == "one by one":
        table_pipeline.UPLOAD_THREADS = 1
    dump = "".join(f"CREATE TABLE t{n}(a);INSERT INTO t{n} VALUES({n});\n" for n in range(tables)).encode()
    idle, cpu, started = reset_peak(), time.process_time(), time.perf_counter()
    manifest = stage(io.BytesIO(dump), storage, StagingOptions(), Source())
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    if manifest.rows != tables:
        raise AssertionError(f"{manifest.rows} rows of {tables}")
    return {"seconds": round(seconds, 2), "cpu": round(cpu, 2), "above_idle_mib": round(peak() - idle)}


if __name__ == "__main__":
    main()
