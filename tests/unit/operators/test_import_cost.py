"""A DAG file that imports the operators loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
import airflow.sdk
before = set(sys.modules)
import {module}
print("\\n".join(sorted(set(sys.modules) - before)))
"""
HEAVY = {"boto3", "botocore", "pyarrow", "httpx", "numpy", "pandas", "sqlparse", "cryptography", "starlette"}


@pytest.mark.parametrize("module", ["airflow_provider_d1.operators.d1", "airflow_provider_d1.transfers.d1_to_s3"])
def test_importing_the_operators_loads_nothing_heavy(module: str) -> None:
    run = subprocess.run([sys.executable, "-c", CODE.format(module=module)], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert module in loaded
    assert {name.split(".")[0] for name in loaded} & HEAVY == set()
    # the hook brings Airflow's SQL machinery, the trigger the triggerer's: both are for run time
    assert not [
        name for name in loaded if name.startswith(("airflow_provider_d1.hooks.", "airflow_provider_d1.triggers."))
    ]
