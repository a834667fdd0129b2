"""Every operator and sensor of the provider, found in its metadata."""

from __future__ import annotations

import inspect
from importlib import import_module

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_d1.provider_info import get_provider_info


def operators() -> dict[str, type[BaseOperator]]:
    """Class name → class, without the base classes."""
    info = get_provider_info()
    listed = [module for kind in ("operators", "sensors") for each in info[kind] for module in each["python-modules"]]
    listed += [each["python-module"] for each in info["transfers"]]
    found = {}
    for module in map(import_module, listed):
        for name, value in vars(module).items():
            own = inspect.isclass(value) and value.__module__ == module.__name__ and issubclass(value, BaseOperator)
            if own and not name.endswith(("Base", "ToStagingOperator")):
                found[name] = value
    return found
