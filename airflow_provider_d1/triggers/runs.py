"""How often a trigger was begun before: a triggerer that ends in the middle of an export tells its successor nothing.

Airflow then calls ``run()`` from the beginning, with the same arguments. What one run can leave for the next is an XCom
of the task (a plain number under :data:`KEY`), which Airflow clears when a try of the task begins and keeps while it
defers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

KEY = "d1_export_runs"


def begin_count(context: Mapping[str, Any]) -> None:
    """Write 0, in the worker before it defers: Airflow logs an error for an XCom that is read and not there.

    :param context: the task's.
    """
    task_instance = context.get("ti")
    if task_instance is None:
        return
    try:
        task_instance.xcom_push(key=KEY, value=0)
    except Exception as error:  # noqa: BLE001 - see begun_before()
        log.debug("Could not begin to count the trigger's runs: %s", type(error).__name__)


async def begun_before(task_instance: Any) -> int:  # noqa: ANN401 - another class in each version of Airflow
    """Count this run and return how many there were before it in the same try of the task.

    0 where nobody can know: in ``dag.test()``, in Airflow 2, and when the XCom can't be read or written, since a number
    in a report is worth no failed export.

    :param task_instance: the trigger's.
    """
    if task_instance is None:
        return 0
    try:
        from airflow.sdk.execution_time.xcom import XCom

        place = {name: getattr(task_instance, name) for name in ("dag_id", "task_id", "run_id", "map_index")}
        before = await XCom.aget_one(key=KEY, **place)
        before = before if isinstance(before, int) else 0
        await XCom.aset(KEY, before + 1, **place)
    except Exception as error:  # noqa: BLE001 - see above
        log.debug("Could not count the trigger's runs: %s", type(error).__name__)
        return 0
    return before
