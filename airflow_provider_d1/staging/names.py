"""Names that users chose become names that files, folders and columns can safely have."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from airflow_provider_d1.exceptions import D1ConfigurationError

#: long enough for any sane table, short enough that prefix, folder and file stay far below every store's limit
MAX_FOLDER_LENGTH = 100

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
#: names that Windows gives to devices, with or without an extension
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
#: a folder must not be called what a dump beside it may be called
_LIKE_A_DUMP = re.compile(r"(?i).*\.sql(\.gz|\.zst)?")


def safe_name(name: str) -> str:
    """Turn any text into one plain path segment; a name that has to change gets a short hash of the original.

    Letters, digits, ``_``, ``-`` and inner dots stay. A leading dot or underscore goes, since Spark, Hive and others
    take such files for hidden, and so do names of Windows devices and whatever is longer than 100 characters.
    """
    if (
        name
        and name[0] not in "._-"
        and name[-1] != "."
        and len(name) <= MAX_FOLDER_LENGTH
        and not _UNSAFE.search(name)
        and not _RESERVED.fullmatch(name)
        and not _LIKE_A_DUMP.fullmatch(name)
    ):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    stem = _UNSAFE.sub("_", name).replace(".", "_").strip("_-")[: MAX_FOLDER_LENGTH - len(digest) - 1]
    return f"{stem or 'table'}-{digest}"


class Folders:
    """Gives every table of a run its folder: safe, deterministic, and unique also where case does not count."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def folder_of(self, table: str) -> str:
        """Return a folder that no other table of this run has; call it once for each table, in dump order."""
        folder = safe_name(table)
        attempt = 0
        while folder.casefold() in self._taken:
            attempt += 1
            seed = f"{attempt}:{table}".encode("utf-8", "surrogatepass")
            stem = safe_name(table)[: MAX_FOLDER_LENGTH - 11]
            folder = f"{stem}-{hashlib.sha256(seed).hexdigest()[:10]}"
        self._taken.add(folder.casefold())
        return folder


_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake_case(name: str) -> str:
    """``OrderID`` → ``order_id``, ``HTTPServer`` → ``http_server``, ``unit price (€)`` → ``unit_price``."""
    words = re.sub(r"\W+", "_", _BOUNDARY.sub("_", name)).lower()
    stripped = words.rstrip("_") if words.strip("_") else ""
    return stripped or "column"


def file_column_names(table: str, columns: Sequence[str], *, snake: bool, audit: Iterable[str] = ()) -> tuple[str, ...]:
    """Name the columns of a table's files.

    :param table: the table, for the message.
    :param columns: the columns' names in D1.
    :param snake: turn them into snake_case.
    :param audit: columns that staging adds; their names must be free.
    :raises D1ConfigurationError: when two columns would get one name (case does not count); the message names both.
    """
    taken = {name.casefold(): name for name in audit}
    audits = set(taken)
    names: list[str] = []
    for column in columns:
        name = snake_case(column) if snake else column
        other = taken.get(name.casefold())
        if other is not None and name.casefold() in audits:
            raise D1ConfigurationError(
                f"Table {table!r} already has a column {column!r}, which audit_columns=True would add as {other!r}"
            )
        if other is not None:
            raise D1ConfigurationError(
                f"Columns {other!r} and {column!r} of table {table!r} would both be called {name!r} in the staged files"
                f"{'; use column_names=preserve' if snake else ''}"
            )
        taken[name.casefold()] = column
        names.append(name)
    return tuple(names)
