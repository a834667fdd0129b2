"""Each warehouse's provider is an extra; a missing one is named before anything is asked."""

from __future__ import annotations

import sys
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.storage.s3 import S3Storage
from airflow_provider_d1.warehouses.loader import load
from airflow_provider_d1.warehouses.registry import WAREHOUSES, engine_options, warehouse_of
from airflow_provider_d1.warehouses.session import Connections
from airflow_provider_d1.warehouses.staged_files import StagedFiles
from tests.unit.warehouses.warehouse_plans import ENGINES, manifest, plan

DOCS = Path(__file__).parents[3] / "docs" / "warehouses.md"


@pytest.mark.parametrize(("name", "module"), [(name, module) for name in ENGINES for module in ENGINES[name].modules])
def test_what_is_missing_is_named_with_its_extra(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = ENGINES[name]
    for loaded in [loaded for loaded in sys.modules if loaded.startswith((f"{module}.", *warehouse.modules))]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    files = StagedFiles(S3Storage(object(), "bucket", "d1"), verify_checksums=False)
    with pytest.raises(
        D1ConfigurationError, match=rf"pip install 'airflow-provider-d1\[{warehouse.extra}\]'.*{module}"
    ):
        load(warehouse, plan(warehouse, manifest()), files, Connections("any", "aws_default"))


@pytest.mark.parametrize("name", ENGINES)
def test_every_warehouse_has_an_extra_that_brings_something(name: str) -> None:
    extra = ENGINES[name].extra
    assert extra in (metadata("airflow-provider-d1").get_all("Provides-Extra") or [])
    wanted = [requirement for requirement in requires("airflow-provider-d1") or [] if "extra ==" in requirement]
    assert any(f'extra == "{extra}"' in r.replace("'", '"') for r in wanted), extra


@pytest.mark.parametrize("conn_type", WAREHOUSES)
def test_the_registry_names_the_options_that_a_warehouse_declares(conn_type: str) -> None:
    """It repeats their names so that parsing a DAG imports no engine."""
    _, _, *named = WAREHOUSES[conn_type]
    assert named == [option.name for option in warehouse_of(conn_type).options]
    assert set(named) <= set(engine_options())


@pytest.mark.parametrize("conn_type", WAREHOUSES)
def test_the_docs_have_a_row_for_each_warehouse_and_option(conn_type: str) -> None:
    text = DOCS.read_text()
    warehouse = warehouse_of(conn_type)
    assert f"| {warehouse.dialect.name} | `[{warehouse.extra}]` |" in text
    for option in warehouse.options:
        assert f"| `{option.name}` | {warehouse.dialect.name} |" in text
