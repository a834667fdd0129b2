"""What importing the operators adds to ``import airflow.sdk``, in milliseconds; the bound is 50.

    python -m benchmarks.import_time [--runs 9]

Each run is a process of its own. Airflow's scheduler parses every DAG file over and over, so this is paid all day.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

MODULES = ("airflow_provider_d1.operators.d1", "airflow_provider_d1.transfers.d1_to_s3")
BOUND_MS = 50.0
CODE = """
import sys, time
begin = time.perf_counter()
import airflow.sdk
middle = time.perf_counter()
import {module}
end = time.perf_counter()
print(middle - begin, end - middle)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    print("| import | added, median ms | least | most | `import airflow.sdk`, median s |")
    print("|---|---|---|---|---|")
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="d1-benchmark-") as home:
        environment = {**os.environ, "AIRFLOW_HOME": home}
        measure(MODULES[0], environment)  # writes Airflow's configuration and all bytecode
        for module in MODULES:
            found = [measure(module, environment) for _ in range(runs)]
            added = sorted(1000 * seconds for _, seconds in found)
            airflow = statistics.median(seconds for seconds, _ in found)
            worst = max(worst, statistics.median(added))
            print(f"| `{module}` | {statistics.median(added):.1f} | {added[0]:.1f} | {added[-1]:.1f} | {airflow:.2f} |")
    if worst > BOUND_MS:
        sys.exit(f"more than {BOUND_MS:g} ms")


def measure(module: str, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds that ``import airflow.sdk`` and, after it, the module took."""
    command = [sys.executable, "-c", CODE.format(module=module)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    airflow, added = run.stdout.split()
    return float(airflow), float(added)


if __name__ == "__main__":
    main()
