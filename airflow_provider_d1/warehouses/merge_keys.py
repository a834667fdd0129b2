"""By which columns ``mode="merge"`` matches a table's rows: the primary key, or what the task says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.validation import suggest

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest import Manifest
    from airflow_provider_d1.staging.manifest_tables import TableEntry


def merge_keys(
    manifest: Manifest, chosen: Iterable[TableEntry], given: Mapping[str, Sequence[str]], *, delete_missing: bool
) -> Mapping[str, tuple[str, ...]]:
    """The key's columns for each table that is merged.

    :param chosen: the tables to be loaded.
    :param given: table → columns, where it is not the primary key.
    :raises D1ConfigurationError: for names that the manifest does not have, for tables without a key, and for
        ``delete_missing`` with a manifest that does not have every row of its tables.
    """
    by_name = {entry.name: entry for entry in manifest.tables}
    for name, columns in given.items():
        if name not in by_name:
            raise D1ConfigurationError(f"keys: the manifest has no table {name!r}{suggest(name, by_name)}")
        known = [column.name for column in by_name[name].columns]
        for column in columns:
            if column not in known:
                hint = suggest(column, known) or f"; it has {', '.join(map(repr, known))}"
                raise D1ConfigurationError(f"keys: table {name!r} has no column {column!r}{hint}")
    keys = {entry.name: tuple(dict.fromkeys(given.get(entry.name, entry.primary_key))) for entry in chosen}
    without = [name for name, key in keys.items() if not key]
    if without:
        examples = ", ".join(f"{name!r}: ['…']" for name in without)
        raise D1ConfigurationError(
            f"mode='merge' matches rows by primary key, and these tables have none: {', '.join(map(repr, without))}. "
            f"Name columns that identify a row with keys={{{examples}}}, or load these tables in a task of their own "
            "with another mode"
        )
    if delete_missing and (manifest.source.options.no_data or manifest.extract != "export"):
        what = "no_data=True" if manifest.source.options.no_data else f"the method {manifest.extract!r}"
        raise D1ConfigurationError(
            f"delete_missing=True deletes the rows that the manifest does not have, and this one was made with {what}: "
            "it does not have every row. Load it without delete_missing, or stage a full export"
        )
    return keys
