"""What D1 allows in a query: no transactions, no other files; certain PRAGMAs, functions and virtual tables."""

from __future__ import annotations

import apsw

#: the real engine's message
TRANSACTION = (
    "To execute a transaction, please use the state.storage.transaction() or state.storage.transactionSync() APIs"
    " instead of the SQL BEGIN TRANSACTION or SAVEPOINT statements. The JavaScript API is safer because it will"
    " automatically roll back on exceptions, and because it interacts correctly with Durable Objects' automatic atomic"
    " write coalescing."
)

_PRAGMAS = frozenset(
    (
        "case_sensitive_like",
        "data_version",
        "defer_foreign_keys",
        "foreign_key_check",
        "foreign_key_list",
        "foreign_keys",
        "ignore_check_constraints",
        "index_info",
        "index_list",
        "index_xinfo",
        "legacy_alter_table",
        "optimize",
        "page_size",
        "quick_check",
        "recursive_triggers",
        "reverse_unordered_selects",
        "table_info",
        "table_list",
        "table_xinfo",
    )
)
_VIRTUAL_TABLES = frozenset(("fts5", "fts5vocab", "rtree", "rtree_i32"))
#: functions of apsw's SQLite that D1 does not have
_FUNCTIONS_REFUSED = frozenset(
    (
        "ceiling",
        "fts5",
        "fts5_get_locale",
        "fts5_insttoken",
        "fts5_locale",
        "fts5_source_id",
        "json_array_insert",
        "json_error_position",
        "json_pretty",
        "jsonb_array_insert",
        "load_extension",
        "log10",
        "power",
        "rtreedepth",
        "rtreenode",
        "sqlite_compileoption_get",
        "sqlite_compileoption_used",
        "sqlite_log",
        "sqlite_source_id",
        "sqlite_version",
        "subtype",
        "unistr",
        "unistr_quote",
    )
)
_REFUSED = frozenset(
    (
        apsw.SQLITE_ATTACH,
        apsw.SQLITE_CREATE_TEMP_INDEX,
        apsw.SQLITE_CREATE_TEMP_TABLE,
        apsw.SQLITE_CREATE_TEMP_TRIGGER,
        apsw.SQLITE_CREATE_TEMP_VIEW,
        apsw.SQLITE_DETACH,
    )
)
#: operations whose first argument is a table
_ON_TABLES = frozenset(
    (apsw.SQLITE_DELETE, apsw.SQLITE_DROP_TABLE, apsw.SQLITE_INSERT, apsw.SQLITE_READ, apsw.SQLITE_UPDATE)
)


def reserved(name: str | None) -> bool:
    """Whether a name is Cloudflare's own."""
    return (name or "").lower().startswith("_cf_")


class Authorizer:
    """SQLite's authorizer callback for one query; ``reason`` is the message of a refusal where SQLite has none."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def __call__(self, operation: int, first: str | None, second: str | None, *_where: str | None) -> int:
        """Accept or refuse one operation of a statement that is being prepared."""
        if operation in (apsw.SQLITE_TRANSACTION, apsw.SQLITE_SAVEPOINT):
            self.reason = TRANSACTION
            return apsw.SQLITE_DENY
        allowed = (
            operation not in _REFUSED
            and not (operation == apsw.SQLITE_PRAGMA and (first or "").lower() not in _PRAGMAS)
            and not (operation == apsw.SQLITE_FUNCTION and (second or "").lower() in _FUNCTIONS_REFUSED)
            and not (operation == apsw.SQLITE_CREATE_VTABLE and (second or "").lower() not in _VIRTUAL_TABLES)
            and not (operation in _ON_TABLES and reserved(first))
            and not (operation == apsw.SQLITE_ALTER_TABLE and reserved(second))
        )
        return apsw.SQLITE_OK if allowed else apsw.SQLITE_DENY
