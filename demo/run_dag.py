"""Run example DAGs with Airflow, each for one database, and write the tasks' return values to a file.

    python -m demo.run_dag RESULTS.json BUCKET SCHEMA nycflights=d1_to_warehouse corpus=d1_to_s3

It is a separate process, so that Airflow reads its settings from the environment that the demo prepares.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path


def main(results: str, bucket: str, schema: str, *runs: str) -> int:
    """Return 0 when every run succeeded; ``results`` has database → task → return value."""
    from airflow.utils.db import initdb

    initdb()
    returned: dict[str, dict[str, object]] = {}
    succeeded = True
    for run_of in runs:
        database, _, dag = run_of.partition("=")
        params = {"database": database, "bucket": bucket, "schema": schema}
        run = runpy.run_path(f"{os.environ['AIRFLOW__CORE__DAGS_FOLDER']}/{dag}.py")["dag"].test(run_conf=params)
        tasks = run.get_task_instances()
        returned[database] = {ti.task_id: ti.xcom_pull(task_ids=ti.task_id) for ti in tasks if ti.state == "success"}
        succeeded &= str(run.state) == "success"
    Path(results).write_text(json.dumps(returned))
    return 0 if succeeded else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
