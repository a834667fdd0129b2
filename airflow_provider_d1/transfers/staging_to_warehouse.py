"""Load staged files with a manifest into a warehouse."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from airflow.providers.common.compat.sdk import BaseHook, BaseOperator

from airflow_provider_d1.exceptions import D1ConfigurationError, D1ManifestError
from airflow_provider_d1.links.d1 import D1WarehouseLink, warehouse_page
from airflow_provider_d1.operators.arguments import check_arguments, check_rendered_arguments
from airflow_provider_d1.operators.database_task import label_mapped_task
from airflow_provider_d1.operators.permanent_errors import permanent_errors_fail_task
from airflow_provider_d1.validation import (
    BOOLEAN,
    NAME_LISTS,
    STRING,
    TABLES,
    Rule,
    one_of,
    optional,
    string,
)
from airflow_provider_d1.warehouses.registry import engine_options

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection, Context

    from airflow_provider_d1.assets.openlineage import Lineage
    from airflow_provider_d1.staging.manifest import Manifest
    from airflow_provider_d1.storage.base import Storage
    from airflow_provider_d1.warehouses.base import Warehouse
    from airflow_provider_d1.warehouses.plan import LoadPlan, LoadResult, Table

RULES: Mapping[str, Rule] = {
    "manifest": Rule(
        lambda value: (isinstance(value, str) and "://" in value) or isinstance(value, Mapping),
        "a manifest's URI (s3://…, file:///…) or the output of the transfer that wrote it",
    ),
    "conn_id": string("a connection's id"),
    "schema": STRING,
    "tables": optional(TABLES),
    "mode": one_of("replace", "append", "merge"),
    "keys": optional(NAME_LISTS),
    "delete_missing": BOOLEAN,
    "replace_strategy": one_of("auto", "rows", "swap"),
    "on_missing": one_of("keep", "drop"),
    "names": one_of("exact", "upper", "lower"),
    "table_prefix": Rule(lambda value: isinstance(value, str), "a string"),
    "type_hints": one_of("storage", "declared"),
    "on_nul": one_of("fail", "replace"),
    "verify_checksums": BOOLEAN,
    "allow_other_database": BOOLEAN,
    "dry_run": BOOLEAN,
    "aws_conn_id": optional(STRING),
    **{name: optional(STRING) for name in engine_options()},
}
#: BaseOperator has a method of this name
ATTRIBUTES: Mapping[str, str] = {"dry_run": "only_statements"}

_Init = TypeVar("_Init", bound=Callable[..., None])


def _with_engine_options(init: _Init) -> _Init:
    """Add the engines' own arguments to the signature, which Airflow reads for ``default_args`` and ``partial``."""
    signature = inspect.signature(init)
    *parameters, rest = signature.parameters.values()
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation="str | None")
        for name in engine_options()
    ]
    vars(init)["__signature__"] = signature.replace(parameters=[*parameters, *options, rest])
    return init


class D1StagingToWarehouseOperator(BaseOperator):
    r"""Load a staged manifest into the warehouse behind a connection, with that warehouse's own bulk loader.

    The connection's type says which: ``postgres``, ``redshift``, ``snowflake``, ``google_cloud_platform`` (BigQuery),
    ``databricks``, ``mysql`` (MariaDB too), ``duckdb`` or ``clickhouse``. Each needs its extra,
    ``airflow-provider-d1[postgres]`` and so on.

    Tables and columns keep their exact names; a name that the warehouse can't hold gets a suffix. Columns keep their
    order. Tables get no keys or constraints. The rows of every table must be as many as the manifest says, else the
    task fails and the tables keep their rows. What is loaded is recorded in ``_d1_loads`` in the same schema.

    :param manifest: the URI of a ``_manifest.json``, or the output of the transfer that wrote it. (templated)
    :param conn_id: the warehouse's connection. (templated)
    :param schema: schema (database, dataset) that the tables go to; created when missing. In BigQuery it may be
        ``project.dataset``, in Databricks ``catalog.schema``. (templated)
    :param tables: only these tables, by their exact names; None for all. (templated)
    :param mode: ``"replace"`` swaps new tables in for the old ones; readers see either, never less. ``"append"`` adds
        the rows, once: an export that is loaded already is skipped. New columns are added, and columns that became
        wider altered. ``"merge"`` changes the rows that are there by their primary key and adds the others. (templated)
    :param keys: for ``mode="merge"``, the columns that identify a row where it is not the primary key, as
        ``{"users": ["id"]}``. (templated)
    :param delete_missing: for ``mode="merge"``, delete the rows whose keys are not staged. (templated)
    :param replace_strategy: for ``mode="replace"``: ``"auto"`` replaces the rows of a table that has the staged
        columns, and swaps a new table in for one that has not, where nothing attached is lost by it. ``"rows"``
        never swaps: a table with other columns is refused with the statements to run. ``"swap"`` always swaps, and is
        refused where something attached would be lost. (templated)
    :param on_missing: what to do with tables that this database was loaded into and that D1 no longer has, when the
        manifest is of the whole database: ``"keep"`` them, or ``"drop"`` those that have nothing attached and no other
        database's rows. (templated)
    :param names: ``"exact"``, or ``"upper"`` or ``"lower"`` for the ASCII letters in the names of tables and columns.
        (templated)
    :param table_prefix: what stands before the name of each table. (templated)
    :param type_hints: ``"storage"`` gives columns the types of what SQLite stores. ``"declared"`` gives those that are
        declared ``BOOLEAN``, ``DATE``, ``DATETIME`` or ``TIMESTAMP``, ``DECIMAL(p,s)`` or ``NUMERIC(p,s)``, and
        ``JSON`` the warehouse's native type where every value fits exactly. (templated)
    :param on_nul: for texts with a NUL character where the warehouse can't hold one (Postgres): ``"fail"``, or
        ``"replace"`` it by U+FFFD. (templated)
    :param verify_checksums: compare the SHA-256 of each staged file, besides its size and rows, which always are.
        (templated)
    :param allow_other_database: let ``mode="replace"`` and ``"merge"`` change a table that holds rows of another D1
        database, as ``_d1_loads`` says; by default such a load is refused. (templated)
    :param dry_run: load nothing, ask no server; return the statements under ``"statements"``. (templated)
    :param aws_conn_id: connection for ``s3://`` manifests, also for warehouses that read S3 themselves. (templated)

    Arguments that only one warehouse has are declared by it and described in docs/warehouses.md: ``iam_role``
    and ``on_long_text`` (Redshift), ``stage`` (Snowflake), ``location`` (BigQuery), ``catalog`` and
    ``storage_credential`` (Databricks). (templated)

    Returns::

        {"manifest": "s3://…", "database_id": …, "bookmark": …, "mode": "replace", "skipped": False, "rows": 3,
         "tables": {"users": {"rows": 3, "table": "\"staging\".\"users\"", "statement": "COPY"}},
         "missing_in_source": []}

    ``rows`` counts what this run loaded; ``skipped`` is True when an append found everything loaded already.
    ``tables`` has the names in the warehouse; one that is not the manifest's has ``"source_name"`` besides, and
    ``"renamed_columns"`` (name in the files → name in the warehouse) where columns got a suffix.
    ``missing_in_source`` names the tables of this database in the schema that D1 no longer has, ``dropped`` those of
    them that were dropped.
    """

    template_fields: Sequence[str] = tuple(ATTRIBUTES.get(name, name) for name in RULES)
    operator_extra_links = (D1WarehouseLink(),)
    ui_color = "#d9e8c4"
    rules: ClassVar[Mapping[str, Rule]] = RULES

    @_with_engine_options
    def __init__(
        self,
        *,
        manifest: str | Mapping[str, Any],
        conn_id: str,
        schema: str,
        tables: Sequence[str] | None = None,
        mode: Literal["replace", "append", "merge"] = "replace",
        keys: Mapping[str, Sequence[str]] | None = None,
        delete_missing: bool = False,
        replace_strategy: Literal["auto", "rows", "swap"] = "auto",
        on_missing: Literal["keep", "drop"] = "keep",
        names: Literal["exact", "upper", "lower"] = "exact",
        table_prefix: str = "",
        type_hints: Literal["storage", "declared"] = "storage",
        on_nul: Literal["fail", "replace"] = "fail",
        verify_checksums: bool = False,
        allow_other_database: bool = False,
        dry_run: bool = False,
        aws_conn_id: str | None = "aws_default",
        **kwargs: Any,
    ) -> None:
        engine = {name: kwargs.pop(name, None) for name in engine_options()}
        super().__init__(**kwargs)
        self.manifest = manifest
        self.conn_id = conn_id
        self.schema = schema
        self.tables = tables
        self.mode = mode
        self.keys = keys
        self.delete_missing = delete_missing
        self.replace_strategy = replace_strategy
        self.on_missing = on_missing
        self.names = names
        self.table_prefix = table_prefix
        self.type_hints = type_hints
        self.on_nul = on_nul
        self.verify_checksums = verify_checksums
        self.allow_other_database = allow_other_database
        self.only_statements = dry_run
        self.aws_conn_id = aws_conn_id
        for name, value in engine.items():
            setattr(self, name, value)
        #: what was loaded in the warehouse's console, for :class:`D1WarehouseLink`; known when the task ends
        self.warehouse_page = ""
        #: the warehouse's; no local variable, as its repr shows the password, and error reporters send those
        self._connection: Connection | None = None
        #: shown instead of a mapped task's index; known when the manifest is read
        self.source_database: str | None = None
        #: for OpenLineage: the manifest, what was planned, the tables with their rows
        self._lineage: tuple[Manifest, LoadPlan, Sequence[tuple[Table, int | None]]] | None = None
        check_arguments(self, self.rules, ATTRIBUTES)

    def execute(self, context: Context) -> dict[str, Any]:
        """Load the manifest's tables and say what was loaded."""
        with permanent_errors_fail_task(self):
            check_rendered_arguments(self, self.rules, ATTRIBUTES)
            return self._load(context)

    def _load(self, context: Context) -> dict[str, Any]:
        from airflow_provider_d1.warehouses.dry_run import planned_statements
        from airflow_provider_d1.warehouses.loader import load
        from airflow_provider_d1.warehouses.plan import LoadResult
        from airflow_provider_d1.warehouses.registry import warehouse_for
        from airflow_provider_d1.warehouses.session import Connections, abbreviated
        from airflow_provider_d1.warehouses.staged_files import StagedFiles, storage_of

        self._connection = BaseHook.get_connection(self.conn_id)
        warehouse = warehouse_for(self._connection.conn_type, self.conn_id)
        uri = self._uri()
        storage, key = storage_of(uri, self.aws_conn_id)
        manifest = self._manifest(storage, key)
        self.source_database = manifest.source.database_name or manifest.source.database_id
        label_mapped_task(context, "{{ task.source_database }}")
        plan = self._plan(warehouse, manifest, uri)
        table = plan.tables[0].name if len(plan.tables) == 1 else None
        self.warehouse_page = warehouse_page(self._connection, plan.options.schema, table, plan.catalog)
        if self.only_statements:
            statements = planned_statements(warehouse, plan)
            self.log.info("A dry run; the statements would be:\n%s", ";\n".join(map(abbreviated, statements)))
            return {**self._result(plan, LoadResult()), "statements": statements}
        self._lineage = (manifest, plan, [(each, None) for each in plan.tables])
        files = StagedFiles(storage, verify_checksums=self.verify_checksums)
        files.check(*plan.tables)
        loaded = load(warehouse, plan, files, Connections(self.conn_id, self.aws_conn_id))
        rows = {each.name: each.rows for each in loaded.tables}
        self._lineage = (manifest, plan, [(each, rows[each.name]) for each in plan.tables])
        result = self._result(plan, loaded)
        tables = sum(not table.skipped for table in loaded.tables)
        self.log.info("Loaded: tables=%d skipped=%d rows=%d", tables, len(loaded.tables) - tables, result["rows"])
        return result

    def get_openlineage_facets_on_complete(self, task_instance: object) -> Lineage | None:  # noqa: ARG002
        """The staged tables as inputs, the warehouse's as outputs, with schemas, column metrics and rows."""
        from airflow_provider_d1.assets.openlineage import load_lineage

        if self._lineage is None or self._connection is None:
            return None
        manifest, plan, loaded = self._lineage
        return load_lineage(manifest, plan, self._connection, loaded)

    def get_openlineage_facets_on_failure(self, task_instance: object) -> Lineage | None:
        """The same without rows; OpenLineage adds the error itself."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def _uri(self) -> str:
        if isinstance(self.manifest, str):
            return self.manifest
        uri = self.manifest.get("manifest")
        if not isinstance(uri, str) or "://" not in uri:
            raise D1ConfigurationError(
                "manifest is a dict without a URI under 'manifest': pass the output of the transfer that wrote it"
            )
        return uri

    def _manifest(self, storage: Storage, key: str) -> Manifest:
        from airflow_provider_d1.staging.manifest import read_manifest

        manifest = read_manifest(storage, key)
        if isinstance(self.manifest, Mapping):
            _refuse_another_run(manifest, self.manifest, storage.uri(key))
        return manifest

    def _plan(self, warehouse: Warehouse[Any], manifest: Manifest, uri: str) -> LoadPlan:
        from airflow_provider_d1.warehouses.plan import LoadOptions, make_plan

        options = LoadOptions(
            schema=self.schema,
            mode=self.mode,
            tables=None if self.tables is None else tuple(self.tables),
            on_nul=self.on_nul,
            allow_other_database=self.allow_other_database,
            keys=self.keys or {},
            delete_missing=self.delete_missing,
            replace_strategy=self.replace_strategy,
            on_missing=self.on_missing,
            names=self.names,
            table_prefix=self.table_prefix,
            type_hints=self.type_hints,
            engine={name: getattr(self, name) for name in engine_options()},
        )
        return make_plan(manifest, uri, warehouse.dialect, options)

    def _result(self, plan: LoadPlan, loaded: LoadResult) -> dict[str, Any]:
        tables = loaded.tables
        return {
            "manifest": plan.origin.manifest,
            "database_id": plan.origin.database_id,
            "bookmark": plan.origin.bookmark,
            "mode": plan.options.mode,
            "skipped": bool(tables) and all(table.skipped for table in tables),
            "rows": sum(table.rows for table in tables),
            "tables": {table.name: table.to_dict() for table in tables},
            "missing_in_source": list(loaded.missing),
            **({"dropped": list(loaded.dropped)} if loaded.dropped else {}),
        }


def _refuse_another_run(manifest: Manifest, output: Mapping[str, Any], uri: str) -> None:
    """Refuse a manifest that is not the one that the transfer wrote whose output is loaded.

    :raises D1ManifestError: names both; not retryable, because the transfer's own run is not there any more.
    """
    found = {
        "database_id": manifest.source.database_id,
        "bookmark": manifest.source.bookmark,
        "run": manifest.run,
    }
    for name, value in found.items():
        expected = output.get(name)
        if expected is not None and expected != value:
            raise D1ManifestError(
                f"{uri} has {name} {value!r}, but the transfer whose output is loaded wrote {name} {expected!r}. "
                "Another run has replaced the manifest: stage again, with a prefix for each database."
            )
