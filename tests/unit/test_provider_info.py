"""Airflow's own schemas accept the metadata, and everything it names exists."""

from __future__ import annotations

import json
import re
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml

from airflow_provider_d1.provider_info import get_provider_info
from airflow_provider_d1.warehouses.registry import WAREHOUSES
from tests.unit.operators.every_operator import operators

REPOSITORY = Path(__file__).parents[2]


def schema(name: str) -> dict:
    return json.loads(files("airflow").joinpath(name).read_text())


def test_the_runtime_schema_accepts_it() -> None:
    jsonschema.validate(get_provider_info(), schema("provider_info.schema.json"))


def test_the_connection_form_follows_the_stricter_schema_of_the_source_tree() -> None:
    connection_types = schema("provider.yaml.schema.json")["properties"]["connection-types"]
    jsonschema.validate(get_provider_info()["connection-types"], connection_types)


def test_the_form_shows_what_is_needed_without_unfolding_anything() -> None:
    """Airflow 3.3 folds extra fields away, and its Test button refuses a connection without a port."""
    (connection,) = get_provider_info()["connection-types"]
    assert connection["connection-type"] == "d1"
    behaviour = connection["ui-field-behaviour"]
    assert behaviour["hidden-fields"] == []
    assert behaviour["relabeling"]["login"].startswith("Account ID")
    assert behaviour["placeholders"]["port"].startswith("443")
    assert set(connection["conn-fields"]) == {"account_id", "timeout", "requests_per_5_minutes"}


def test_the_entry_point_leads_here() -> None:
    (entry,) = [e for e in entry_points(group="apache_airflow_provider") if e.value.startswith("airflow_provider_d1")]
    assert entry.load()() == get_provider_info()


def modules() -> list[str]:
    info = get_provider_info()
    listed = [
        name
        for key in ("hooks", "operators", "sensors", "triggers")
        for entry in info[key]
        for name in entry["python-modules"]
    ]
    return listed + [transfer["python-module"] for transfer in info["transfers"]]


@pytest.mark.parametrize("name", modules())
def test_every_module_exists(name: str) -> None:
    import_module(name)


def test_every_class_exists() -> None:
    info = get_provider_info()
    assets = [path for entry in info["asset-uris"] for key, path in entry.items() if key != "schemes"]
    for path in [*info["extra-links"], *(c["hook-class-name"] for c in info["connection-types"]), *assets]:
        module, name = path.rsplit(".", 1)
        assert getattr(import_module(module), name)


def test_the_registry_file_lists_what_exists() -> None:
    """Every class of ``.airflow-registry.yaml`` is in a module that the metadata names, and every operator is in it."""
    registry = yaml.safe_load((REPOSITORY / ".airflow-registry.yaml").read_text())
    info = get_provider_info()
    assert (registry["package-name"], registry["display-name"]) == (info["package-name"], info["name"])
    kinds = ("operators", "sensors", "transfers", "hooks", "triggers")
    listed = [entry["module"] for kind in kinds for entry in registry[kind]]
    assert all(f".{kind}." in entry["module"] for kind in kinds for entry in registry[kind])
    assert len(listed) == len(set(listed))
    assert set(operators()) <= {path.rpartition(".")[2] for path in listed}
    for path in listed:
        module, _, name = path.rpartition(".")
        assert isinstance(getattr(import_module(module), name), type)
    assert {path.rpartition(".")[0] for path in listed} <= set(modules())


def test_every_transfer_is_listed() -> None:
    """A transfer is a module that defines an operator, but for the base class of them all."""
    folder = Path(import_module("airflow_provider_d1.transfers").__path__[0])
    operators = {
        f"airflow_provider_d1.transfers.{path.stem}"
        for path in folder.glob("*.py")
        if re.search(r"^class \w+Operator\(", path.read_text(), re.MULTILINE) and path.stem != "staging"
    }
    assert operators == {transfer["python-module"] for transfer in get_provider_info()["transfers"]}


def test_transfers_go_by_names_that_some_provider_integrates() -> None:
    """Airflow wants a matching integration in any provider; all of these are installed here.

    But for MySQL's, which needs a C library: its integration has this name in apache-airflow-providers-mysql.
    """
    known = {
        integration["integration-name"]
        for entry in entry_points(group="apache_airflow_provider")
        for integration in entry.load()().get("integrations", [])
    } | {"MySQL"}
    for transfer in get_provider_info()["transfers"]:
        assert {transfer["source-integration-name"], transfer["target-integration-name"]} <= known


def test_every_warehouse_is_a_target() -> None:
    loads = [entry for entry in get_provider_info()["transfers"] if entry["python-module"].endswith("_to_warehouse")]
    assert len(loads) == len(set(WAREHOUSES.values()))
