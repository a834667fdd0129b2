"""Databricks: ``COPY INTO`` Delta tables from the bucket, with an explicit list of files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.warehouses.base import Warehouse
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.native_types import converted
from airflow_provider_d1.warehouses.session import Connections, CursorSession, Run, is_permanent_sqlstate
from airflow_provider_d1.warehouses.table_load import TableLoad, WarehouseOption

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.plan import Column, LoadPlan
    from airflow_provider_d1.warehouses.staged_files import StagedFiles

_MAX_FILES = 1000
_NEEDS_MAPPING = re.compile(r"[ ,;{}()\n\t=]")
_MAPPING = "'delta.columnMapping.mode' = 'name'"
_TIMESTAMP_NTZ = "'delta.feature.timestampNtz' = 'supported'"
_SQLSTATE = re.compile(r"SQLSTATE: (\w{5})")
#: of older runtimes, which give no SQLSTATE
_PERMANENT_CLASSES = re.compile(
    r"\[(PARSE_SYNTAX_ERROR|TABLE_OR_VIEW_NOT_FOUND|SCHEMA_NOT_FOUND|UNRESOLVED_COLUMN|INSUFFICIENT_PERMISSIONS|CAST_)"
)


class Databricks(Warehouse[CursorSession]):
    """Databricks SQL warehouses with Unity Catalog."""

    dialect = Dialect(
        name="Databricks",
        types={
            "int64": "BIGINT",
            "float64": "DOUBLE",
            "string": "STRING",
            "binary": "BINARY",
            "timestamp[us]": "TIMESTAMP_NTZ",
            "date32": "DATE",
        },
        known_types={
            "bigint": "int64",
            "long": "int64",
            "double": "float64",
            "string": "string",
            "binary": "binary",
            "timestamp_ntz": "timestamp[us]",
            "date": "date32",
        },
        native={
            "boolean": "BOOLEAN",
            "date": "DATE",
            "timestamp": "TIMESTAMP_NTZ",
            "decimal": "DECIMAL({precision},{scale})",
        },
        no_native={"json": "a VARIANT changes the text"},
        largest_decimal=(38, 38, 38),
        text_length="CHAR_LENGTH({value})",
        zoned=frozenset({"timestamp"}),
        max_length=255,
        length_in="characters",
        fold=str.lower,
        stored=str.lower,
        quote="`",
        backslash=True,
        apostrophe_escape="backslash",
        # Unity Catalog's rule for schemas and tables; columns may have them, by column mapping
        forbidden=re.compile(r"[\x00-\x1f\x7f]"),
        forbidden_table=re.compile(r"[./ ]"),
        catalogs=True,
    )
    extra = "databricks"
    modules = ("airflow.providers.databricks.hooks.databricks_sql", "databricks.sql.exc")
    statement = "COPY INTO"
    options = (
        WarehouseOption(
            "catalog",
            "Databricks: the Unity Catalog catalog that the schema is in; None is the connection's or the workspace's.",
            "main",
        ),
        WarehouseOption(
            "storage_credential",
            "Databricks: name of the storage credential that reads the bucket; None uses an external location.",
            "d1 reader",
        ),
    )
    timestamp_type = "TIMESTAMP"
    now = "current_timestamp()"
    transaction = "statement"
    renames = False
    merge_deletes = True
    reads_text_formats = False
    table_suffix = " USING DELTA"
    loads_suffix = " USING DELTA"

    def driver_errors(self) -> tuple[type[Exception], ...]:
        from databricks.sql.exc import Error

        return (Error,)

    def is_permanent(self, error: Exception) -> bool:
        if getattr(error, "context", {}).get("http-code") in (400, 401, 403, 404):
            return True
        state = _SQLSTATE.search(str(error))
        return is_permanent_sqlstate(state[1]) if state else _PERMANENT_CLASSES.search(str(error)) is not None

    def check(self, plan: LoadPlan, files: StagedFiles) -> None:
        if files.local(plan.origin.manifest) is not None:
            raise D1ConfigurationError(
                f"Databricks loads from object storage, and the manifest is {plan.origin.manifest}"
            )
        bucket_uri(plan.origin.manifest, files.azure_account)
        for table in plan.tables:
            names = Counter(column.source_name.lower() for column in table.columns)
            twins = [c.source_name for c in table.columns if names[c.source_name.lower()] > 1]
            if twins:
                raise D1ConfigurationError(
                    f"Table {table.source_name!r} has columns whose names differ only in case, and Databricks can't "
                    f"distinguish them in a Parquet file: {', '.join(map(repr, twins))}. Stage with "
                    "column_names='snake_case', or leave the table out with tables=[…]"
                )

    def connect(self, plan: LoadPlan, files: StagedFiles, connections: Connections) -> CursorSession:
        from airflow.providers.databricks.hooks.databricks_sql import DatabricksSqlHook

        # the driver tries for a quarter of an hour, as long as a stopped SQL warehouse can take to start
        return CursorSession(DatabricksSqlHook(databricks_conn_id=connections.conn_id).get_conn())

    def columns_query(self, plan: LoadPlan, table: str) -> str:
        literal, stored = plan.dialect.literal, plan.dialect.stored
        return (
            f"SELECT column_name, full_data_type FROM {plan.information_schema}.columns "
            f"WHERE table_schema = {literal(stored(plan.options.schema))} AND table_name = {literal(stored(table))} "
            "ORDER BY ordinal_position"
        )

    def cast(self, name: str, old: str, new: str) -> str:
        if (old, new) == ("float64", "string"):
            return f"REPLACE(CAST({name} AS STRING), 'Infinity', 'Inf')"  # 1.0 is written as 1.0
        if (old, new) == ("binary", "string"):
            return f"HEX({name})"
        return f"CAST({name} AS {self.dialect.types[new]})"

    def alter_column(self, plan: LoadPlan, table: str, column: str, old: str, new: str) -> list[str]:
        path, name = plan.path(table), plan.dialect.identifier(column)  # Delta rewrites the table for it
        changed = f"SELECT * EXCEPT ({name}), {converted(self, name, old, new)} AS {name} FROM {path}"
        # the other columns, which are not known here, may have names that need the mapping
        return [f"CREATE OR REPLACE TABLE {path}{self.table_suffix} TBLPROPERTIES ({_MAPPING}) AS {changed}"]

    def drop_columns(self, plan: LoadPlan, table: str, names: Sequence[str]) -> list[str]:
        mapping = f"ALTER TABLE {plan.path(table)} SET TBLPROPERTIES ({_MAPPING})"  # Delta drops none without it
        return [*([mapping] if names else []), *super().drop_columns(plan, table, names)]

    def create_table(self, plan: LoadPlan, name: str, columns: Sequence[Column], clause: str = "") -> str:
        statement = super().create_table(plan, name, columns, clause)
        return f"{statement} TBLPROPERTIES ({_MAPPING})" if _need_mapping(columns) else statement

    def add_columns(self, plan: LoadPlan, table: str, columns: Sequence[Column]) -> list[str]:
        """A table that was made without such columns has to be given the table features that they need."""
        properties = [_MAPPING] if _need_mapping(columns) else []
        if any(self.dialect.type_of(column.type, column.native).startswith("TIMESTAMP_NTZ") for column in columns):
            properties.append(_TIMESTAMP_NTZ)
        features = f"ALTER TABLE {plan.path(table)} SET TBLPROPERTIES ({', '.join(properties)})"
        return [*([features] if properties else []), *super().add_columns(plan, table, columns)]

    def overwrite(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        return [self.insert_from_helper(plan, work, "INSERT OVERWRITE TABLE")]

    def swap(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        return [self.rename_helper(plan, work)]

    def attached_query(self, plan: LoadPlan, table: str) -> str:
        literal, stored = plan.dialect.literal, plan.dialect.stored
        where = f"WHERE table_schema = {literal(stored(plan.options.schema))} AND table_name = {literal(stored(table))}"
        return (
            f"SELECT 'row filter' FROM {plan.information_schema}.row_filters {where} "
            f"UNION ALL SELECT 'mask of column ' || column_name FROM {plan.information_schema}.column_masks {where}"
        )

    def rename_helper(self, plan: LoadPlan, work: TableLoad) -> str:
        # one commit; a clone is a deep one unless it says otherwise: it needs no file of the helper table
        return f"CREATE OR REPLACE TABLE {plan.path(work.table.name)} CLONE {plan.path(work.into)}"

    def fill_statements(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        return self._copies(plan, work, "<storage account>")

    def fill(self, run: Run[CursorSession], work: TableLoad) -> int:
        run.files.check_contents(work.table)
        for statement in self._copies(run.plan, work, run.files.azure_account):
            run.execute(statement)
        return run.count(work.into)

    def _copies(self, plan: LoadPlan, work: TableLoad, azure_account: str | None) -> list[str]:
        literal = plan.dialect.literal
        by_folder: dict[str, list[str]] = {}
        for part in work.table.parts:
            folder, _, name = bucket_uri(part.uri, azure_account).rpartition("/")
            by_folder.setdefault(folder, []).append(name)
        credential = plan.options.engine.get("storage_credential")
        access = "" if credential is None else f" WITH (CREDENTIAL {plan.dialect.identifier(credential)})"
        return [
            f"COPY INTO {plan.path(work.into)} FROM {self._renamed(work, literal(folder + '/') + access)} "
            "FILEFORMAT = PARQUET "
            f"FILES = ({', '.join(literal(name) for name in names[start : start + _MAX_FILES])}) "
            "COPY_OPTIONS ('force' = 'true', 'mergeSchema' = 'false')"
            for folder, names in by_folder.items()
            for start in range(0, len(names), _MAX_FILES)
        ]

    def _renamed(self, work: TableLoad, source: str) -> str:
        """The source of a COPY INTO, which goes by the columns' names, with the helper table's names."""
        if all(column.source is None for column in work.table.columns):
            return source
        identifier = self.dialect.identifier
        columns = (f"{identifier(column.source_name)} AS {identifier(column.name)}" for column in work.table.columns)
        return f"(SELECT {', '.join(columns)} FROM {source})"


def bucket_uri(uri: str, azure_account: str | None) -> str:
    """A URI as Databricks reads it: without an Airflow connection, and with the storage account in Azure's.

    :raises D1ConfigurationError: when the account of an Azure URI is not known.
    """
    scheme, _, rest = uri.partition("://")
    place, slash, key = rest.partition("/")
    bucket = place.rpartition("@")[2]
    if scheme not in ("abfs", "abfss", "az", "adl"):
        return f"{scheme}://{bucket}{slash}{key}"
    if azure_account is None:
        raise D1ConfigurationError(
            f"{uri}: the storage account is not known, and Databricks reads "
            f"abfss://{bucket}@<storage account>.dfs.core.windows.net{slash}{key}; set the account's name as login of "
            "the Azure connection"
        )
    return f"abfss://{bucket}@{azure_account}.dfs.core.windows.net{slash}{key}"


def _need_mapping(columns: Sequence[Column]) -> bool:
    """Whether Delta holds a name only with column mapping, which older readers of the table lack."""
    return any(_NEEDS_MAPPING.search(column.name) for column in columns)
