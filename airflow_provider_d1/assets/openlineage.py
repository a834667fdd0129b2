"""OpenLineage datasets and facets of an export, a staging run, a load, an import and a restore.

Names follow OpenLineage's naming: a D1 table is ``<database>.<table>`` in the namespace ``d1://<account id>``; a staged
table is its folder without the run, so that all runs are versions of one dataset. OpenLineage calls this in the worker
after the task; the package ``apache-airflow-providers-openlineage`` is optional, so it is imported in the functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote, urlsplit

from airflow_provider_d1.staging.staging_run import is_run_id

if TYPE_CHECKING:
    from airflow.providers.common.compat.openlineage.facet import InputDataset, OutputDataset
    from airflow.providers.common.compat.sdk import Connection
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_d1.cloudflare.models import D1Export
    from airflow_provider_d1.staging.manifest import Manifest
    from airflow_provider_d1.staging.manifest_tables import ColumnEntry, TableEntry
    from airflow_provider_d1.warehouses.plan import LoadPlan, Table

    Lineage: TypeAlias = OperatorLineage[Any, Any]

#: the mode in which a load replaces the rows of its tables
_REPLACE = "replace"


def database_lineage(account_id: str, database: str, *, bookmark: str | None = None, written: bool = False) -> Lineage:
    """The lineage of a task that knows no tables, or failed before it knew them: the database.

    :param bookmark: the database's state, as its version; None when it is not known.
    :param written: as the output instead of the input.
    """
    namespace = f"d1://{account_id}"
    if written:
        return _lineage([], [_output(namespace, database, version=bookmark, overwrites=bookmark is not None)])
    return _lineage([_input(namespace, database, version=bookmark)], [])


def export_lineage(export: D1Export) -> Lineage:
    """The lineage of an export: its tables as inputs, or the database where the tables are unknown."""
    namespace, database = f"d1://{export.account_id}", export.database_name
    names = [database] if export.tables is None else [f"{database}.{table}" for table in export.tables]
    return _lineage([_input(namespace, name, version=export.bookmark) for name in names], [])


def staging_lineage(manifest: Manifest, uri: str) -> Lineage:
    """The lineage of a staging run: each D1 table as an input, its staged form as an output.

    :param uri: of the run's own manifest.
    """
    source = manifest.source
    namespace = f"d1://{source.account_id}"
    staged_namespace, folder = _run_place(uri)
    inputs, outputs = [], []
    for table in manifest.tables:
        name = f"{source.database_name or source.database_id}.{table.name}"
        inputs.append(_input(namespace, name, version=source.bookmark, table=table))
        outputs.append(
            _output(
                staged_namespace,
                f"{folder}/{table.name}",
                version=manifest.run,
                columns=table.columns,
                rows=table.rows,
                size=sum(file.bytes for file in table.files),
                files=len(table.files),
                origin=(namespace, name),
            )
        )
    if not manifest.tables:  # the dump itself
        inputs = [_input(namespace, str(source.database_name or source.database_id), version=source.bookmark)]
        size = sum(file.bytes for file in manifest.files)
        outputs = [_output(staged_namespace, folder, version=manifest.run, size=size, files=len(manifest.files))]
    return _lineage(inputs, outputs)


def load_lineage(
    manifest: Manifest, plan: LoadPlan, connection: Connection, loaded: Iterable[tuple[Table, int | None]]
) -> Lineage:
    """The lineage of a load: each staged table as an input, the warehouse's table as an output.

    :param plan: what was planned: the manifest's URI, the schema, the mode.
    :param connection: the warehouse's.
    :param loaded: the tables and the rows that were loaded into each; None where the load has failed.
    """
    targets = {target.source_name: (target, rows) for target, rows in loaded}
    staged_namespace, folder = _run_place(plan.origin.manifest)
    namespace, database = warehouse_namespace(connection)
    inputs, outputs = [], []
    for table in manifest.tables:
        if table.name not in targets:
            continue
        target, rows = targets[table.name]
        name = f"{folder}/{table.name}"
        inputs.append(_input(staged_namespace, name, version=manifest.run, table=table, staged=True))
        outputs.append(
            _output(
                namespace,
                ".".join(part for part in (plan.catalog or database, plan.options.schema, target.name) if part),
                version=manifest.source.bookmark,
                columns=[
                    replace(entry, name=column.name, source_name=column.source_name)
                    for entry, column in zip(table.columns, target.columns, strict=True)
                ],
                rows=rows,
                origin=(staged_namespace, name),
                overwrites=plan.options.mode == _REPLACE and rows is not None,
            )
        )
    return _lineage(inputs, outputs)


def import_lineage(
    sources: Sequence[str],
    target: tuple[str, str] | None,
    tables: Mapping[str, int | None] | None = None,
    *,
    bookmark: str | None = None,
    overwrites: bool = False,
) -> Lineage:
    """The lineage of an import: the files as inputs, D1's tables as outputs, or the database where they are unknown.

    :param sources: URIs of manifests, files or folders.
    :param target: account and name of the database; None when they are not known.
    :param tables: the imported tables with their rows; of a failed import None for the rows. A manifest among the
        sources stands for the staged form of these tables.
    :param bookmark: the database's after the import.
    :param overwrites: whether the rows have replaced others.
    """
    inputs: list[InputDataset] = []
    for uri in sources:
        if not uri.endswith("/_manifest.json"):
            inputs.append(_input(*_place(uri)))
            continue
        namespace, folder = _run_place(uri)
        names = [folder] if tables is None else [f"{folder}/{table}" for table in tables]
        inputs += [_input(namespace, name, version=_run_of(uri)) for name in names]
    if target is None:
        return _lineage(inputs, [])
    account_id, database = target
    written: Mapping[str, int | None] = {database: None}
    if tables is not None:
        written = {f"{database}.{table}": rows for table, rows in tables.items()}
    outputs = [
        _output(f"d1://{account_id}", name, version=bookmark, rows=rows, overwrites=overwrites)
        for name, rows in written.items()
    ]
    return _lineage(inputs, outputs)


def warehouse_namespace(connection: Connection) -> tuple[str, str | None]:
    """The namespace and database of a warehouse, as its own provider names them for OpenLineage.

    The type, host and port of the connection where the provider is not installed or has no name for it.
    """
    from airflow.providers.openlineage.sqlparser import SQLParser

    try:
        hook: Any = connection
        info = hook.get_hook().get_openlineage_database_info(connection)
    except Exception:  # noqa: BLE001 - another provider's code, and any name is better than no lineage
        info = None
    if info is not None:
        # Databricks' hook takes the catalog only as an argument of its own
        return SQLParser.create_namespace(info), info.database or connection.extra_dejson.get("catalog")
    authority = f"{connection.host or ''}:{connection.port}" if connection.port else connection.host or ""
    database = connection.schema if connection.conn_type not in ("duckdb", "mysql", "clickhouse") else None
    return f"{connection.conn_type}://{authority}", database


def _run_place(uri: str) -> tuple[str, str]:
    """Namespace and folder of the staged runs, from ``…/<run>/_manifest.json`` or the newest run's copy above it."""
    namespace, name = _place(uri)
    folder = name.rpartition("/")[0]
    return namespace, folder if _run_of(uri) is None else folder.rpartition("/")[0]


def _run_of(uri: str) -> str | None:
    """The run in a manifest's URI; None for the copy of the newest run's manifest, and for version 1."""
    folder = uri.split("/")[-2]
    return folder if is_run_id(folder) else None


def _place(uri: str) -> tuple[str, str]:
    """Namespace and name of a file, as OpenLineage names them."""
    parts = urlsplit(uri)
    path = unquote(parts.path)
    if parts.scheme in ("", "file"):
        return "file", path
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", path.strip("/")


def _lineage(inputs: list[InputDataset], outputs: list[OutputDataset]) -> Lineage:
    from airflow.providers.openlineage.extractors import OperatorLineage

    return OperatorLineage(inputs=inputs, outputs=outputs)


def _input(
    namespace: str, name: str, *, version: str | None = None, table: TableEntry | None = None, staged: bool = False
) -> InputDataset:
    """A table as an input; its columns have D1's names and types, or with ``staged`` those of the files."""
    from airflow.providers.common.compat.openlineage.facet import InputDataset
    from openlineage.client.facet_v2 import data_quality_metrics_input_dataset as metrics

    facets = _version(version)
    input_facets: dict[str, Any] = {}
    if table is not None:
        named = [
            (column.name if staged else column.source_name or column.name, column)
            for column in table.columns
            if staged or not column.audit
        ]
        facets["schema"] = _schema((name, column.type if staged else column.declared_type) for name, column in named)
        input_facets["dataQualityMetrics"] = metrics.DataQualityMetricsInputDatasetFacet(
            rowCount=table.rows,
            columnMetrics={
                name: metrics.ColumnMetrics(nullCount=column.storage.null, count=table.rows - column.storage.null)
                for name, column in named
            },
        )
    return InputDataset(namespace=namespace, name=name, facets=facets, inputFacets=input_facets)


def _output(
    namespace: str,
    name: str,
    *,
    version: str | None,
    columns: Sequence[ColumnEntry] = (),
    rows: int | None = None,
    size: int | None = None,
    files: int | None = None,
    origin: tuple[str, str] | None = None,
    overwrites: bool = False,
) -> OutputDataset:
    from airflow.providers.common.compat.openlineage.facet import (
        ColumnLineageDatasetFacet,
        Fields,
        InputField,
        LifecycleStateChange,
        LifecycleStateChangeDatasetFacet,
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
    )

    facets = _version(version)
    output_facets: dict[str, Any] = {}
    if columns:
        facets["schema"] = _schema((column.name, column.type) for column in columns)
    if columns and origin is not None:
        sources = {c.name: c.source_name or c.name for c in columns if not c.audit}
        facets["columnLineage"] = ColumnLineageDatasetFacet(
            fields={
                column: Fields(inputFields=[InputField(namespace=origin[0], name=origin[1], field=field)])
                for column, field in sources.items()
            }
        )
    if overwrites:
        facets["lifecycleStateChange"] = LifecycleStateChangeDatasetFacet(
            lifecycleStateChange=LifecycleStateChange.OVERWRITE
        )
    if rows is not None or size is not None:
        statistics: dict[str, Any] = {"rowCount": rows, "size": size, "fileCount": files}
        output_facets["outputStatistics"] = OutputStatisticsOutputDatasetFacet(**statistics)
    return OutputDataset(namespace=namespace, name=name, facets=facets, outputFacets=output_facets)


def _version(version: str | None) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset

    if version is None:
        return {}
    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version)}


def _schema(columns: Iterable[tuple[str, str]]) -> Any:  # noqa: ANN401 - a facet; the package is optional
    from airflow.providers.common.compat.openlineage.facet import SchemaDatasetFacet, SchemaDatasetFacetFields

    return SchemaDatasetFacet(fields=[SchemaDatasetFacetFields(name=name, type=type_) for name, type_ in columns])
