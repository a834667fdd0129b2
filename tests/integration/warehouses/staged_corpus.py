"""The corpus, staged, and what a warehouse should then hold of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.stage import stage
from airflow_provider_d1.storage.folder import FolderStorage

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest import Manifest
    from tests.integration.warehouses.warehouse_engines import Engine
    from tests.unit.dump.dump_oracle import SqliteTable

CORPUS = Path(__file__).parents[2] / "data" / "corpus" / "nasty_full.sql"


def staged(folder: Path, file_format: str, **options: Any) -> Manifest:
    """Stage the corpus's dump into a folder."""
    with CORPUS.open("rb") as stream:
        return stage(
            stream,
            FolderStorage(folder),
            StagingOptions(file_format=file_format, on_lossy="ignore", **options),
            Source(filename=CORPUS.name),
        )


def expected_rows(engine: Engine, table: SqliteTable, manifest: Manifest, name: str) -> list[tuple[Any, ...]]:
    (entry,) = [entry for entry in manifest.tables if entry.name == name]
    columns = []
    for column in entry.columns:
        values = []
        for kind, value, text in table.columns[column.name]:
            if kind == "null":
                values.append(None)
            elif column.type == "string":
                values.append(text if engine.holds_nul else text.replace("\0", "\ufffd"))
            else:
                values.append(float(value) if column.type == "float64" else value)
        columns.append(values)
    return list(zip(*columns, strict=True))


def alike(rows: list[tuple[Any, ...]]) -> list[str]:
    return sorted(map(repr, rows))
