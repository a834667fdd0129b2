"""Report the hook's SQL and exports to Airflow's hook lineage and to OpenLineage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.openlineage.sqlparser import DatabaseInfo

    from airflow_provider_d1.cloudflare.models import D1Export
    from airflow_provider_d1.cloudflare.sql_parameters import Parameters


def report_sql(
    hook: Any,  # noqa: ANN401 - any hook; Airflow's collector has no narrower type
    sql: str,
    parameters: Parameters | None = None,
    *,
    rows: int | None = None,
    database: str | None = None,
) -> None:
    """Report a statement to Airflow's hook lineage collector; does nothing with a common-sql that has none."""
    try:
        from airflow.providers.common.sql.hooks.lineage import send_sql_hook_lineage
    except ImportError:
        return
    send_sql_hook_lineage(context=hook, sql=sql, sql_parameters=parameters, row_count=rows, default_db=database)


def report_export(hook: Any, export: D1Export) -> None:  # noqa: ANN401 - see report_sql
    """Report the exported tables to Airflow's hook lineage collector, or the database where they are unknown."""
    from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

    collector: Any = get_hook_lineage_collector()  # type: ignore[no-untyped-call]
    for table in export.tables or (None,):
        asset = {"account_id": export.account_id, "database": export.database_name, "table": table}
        collector.add_input_asset(context=hook, scheme="d1", asset_kwargs=asset)


def openlineage_database(account_id: str) -> DatabaseInfo:
    """How OpenLineage names D1's tables: namespace ``d1://<account id>``, name ``<database>.<table>``.

    The database is OpenLineage's schema: a name with a database in it would need a schema in between.
    """
    from airflow.providers.openlineage.sqlparser import DatabaseInfo

    return DatabaseInfo(scheme="d1", authority=account_id, normalize_name_method=str)
