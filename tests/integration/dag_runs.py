"""Run a DAG file through ``dag.test()`` and look at what it left in the metadata database."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("example_dags", "tests/integration/dags")
BUCKET = "my-staging-bucket"


@dataclass(frozen=True)
class Run:
    """A finished run; ``tasks`` and ``results`` go by task id and map index (-1 for a task that is not mapped)."""

    state: str
    tasks: dict[tuple[str, int], str]
    results: dict[tuple[str, int], Any]


def run_dag(name: str, **params: Any) -> Run:
    """Run the DAG that is called ``dag`` in the file ``{name}.py``, with ``params`` as a trigger form sends them."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    (path,) = [found for folder in FOLDERS if (found := REPOSITORY / folder / f"{name}.py").exists()]
    dag = runpy.run_path(str(path))["dag"]
    for task in dag.tasks:
        task.retries = 0  # dag.test() waits for a retry as long as the DAG says
    run = dag.test(run_conf=params)
    with create_session() as session:
        rows = session.scalars(
            select(XComModel).where(
                XComModel.dag_id == run.dag_id, XComModel.run_id == run.run_id, XComModel.key == "return_value"
            )
        )
        results = {(row.task_id, row.map_index): row.value for row in rows}
    tasks = {(ti.task_id, ti.map_index): str(ti.state) for ti in run.get_task_instances()}
    return Run(str(run.state), tasks, results)
