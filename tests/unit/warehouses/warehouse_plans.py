"""Manifests and plans for the tests of statements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_d1.staging.manifest import DumpEntry, Manifest
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.manifest_tables import ColumnEntry, FileEntry, StorageCounts, TableEntry
from airflow_provider_d1.warehouses.plan import LoadOptions, LoadPlan, make_plan
from airflow_provider_d1.warehouses.registry import WAREHOUSES, engine_options, warehouse_of

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.base import Warehouse

#: every warehouse, by the name of its module; a new one is in every test that enumerates them
ENGINES: dict[str, Warehouse[Any]] = {module: warehouse_of(kind) for kind, (module, *_) in WAREHOUSES.items()}
TOKEN = "20261122t000000_0badcafe"
TYPES = ("int64", "float64", "string", "binary", "timestamp[us]", "date32")


def manifest(tables: dict[str, dict[str, str]] | None = None, **changes: Any) -> Manifest:
    """A manifest of tables given as name → column → type; each has two parts."""
    tables = tables or {
        "users": {f"a {name.partition('[')[0]}": name for name in TYPES} | {"select": "int64"},
        "orders-2026": {"id": "int64"},
    }
    entries = []
    for number, (name, columns) in enumerate(tables.items()):
        files = tuple(
            FileEntry(f"s3://bucket/d1/shop's/t{number}/part-0000{part}.parquet", 1000 + part, "ab" * 32, 2 - part)
            for part in range(2)
        )
        listed = tuple(ColumnEntry(column, "", kind, True, 0, StorageCounts()) for column, kind in columns.items())
        entries.append(TableEntry(name, 3, "", listed, files))
    content: dict[str, Any] = {
        "created_at": "2026-11-22T00:00:00+00:00",
        "provider_version": "0",
        "source": Source(database_id="uuid", database_name="it's", bookmark="00000-1"),
        "dump": DumpEntry(1, "cd" * 32),
        "format": "parquet",
        "compression": "zstd",
        "tables": tuple(entries),
    }
    return Manifest(**(content | changes))


def plan(warehouse: Warehouse[Any], manifest: Manifest, **options: Any) -> LoadPlan:
    uri = "s3://bucket/d1/shop's/_manifest.json"
    engine = {name: options.pop(name, None) for name in engine_options()}
    chosen = LoadOptions(**{"schema": "staging", "engine": engine, **options})
    return make_plan(manifest, uri, warehouse.dialect, chosen, TOKEN)
