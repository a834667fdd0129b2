"""Use a temporary AIRFLOW_HOME, set before anything imports Airflow; no other one is read or written."""

from __future__ import annotations

import json
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
    # dag.test() looks for the DAG's file in the bundles
    "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(
        [
            {
                "name": name,
                "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
                "kwargs": {"path": str(_REPOSITORY / folder), "refresh_interval": 3600},
            }
            for name, folder in {
                "examples": "example_dags",
                "tests": "tests/integration/dags",
                "versions": "tests/versions/dags",
            }.items()
        ]
    ),
    "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(_HOME / "logs"),
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
}


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)
