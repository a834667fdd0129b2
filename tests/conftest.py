"""An AIRFLOW_HOME of the session's own, set before anything imports Airflow: nobody's is read or written."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_HOME = Path(tempfile.mkdtemp(prefix="airflow-provider-d1-tests-"))
_REPOSITORY = Path(__file__).parents[1]

for _name in [name for name in os.environ if name.startswith("AIRFLOW_")]:
    del os.environ[_name]
os.environ |= {
    "AIRFLOW_HOME": str(_HOME),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    # dag.test() wants the DAG's file to be in the DAGs folder
    "AIRFLOW__CORE__DAGS_FOLDER": str(_REPOSITORY),
    "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(_HOME / "logs"),
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
}


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)
