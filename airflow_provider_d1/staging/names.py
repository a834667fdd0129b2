"""Safe names for files, folders and columns, from any names in a database."""

from __future__ import annotations

import hashlib
import itertools
import re
import string
from collections.abc import Iterable, Sequence

#: long enough for usual tables, and short enough for every store's limit on keys
MAX_FOLDER_LENGTH = 100

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
#: names of devices on Windows, with or without an extension
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
#: a folder must not have the name of a dump
_LIKE_A_DUMP = re.compile(r"(?i).*\.sql(\.gz|\.zst)?")


def safe_name(name: str) -> str:
    """Turn any string into one safe path segment; a changed name gets a short hash of the original.

    Letters, digits, ``_``, ``-`` and inner dots are kept. Changed are names with a leading dot or underscore, which
    Spark, Hive and others treat as hidden, names of Windows devices, and names longer than 100 characters.
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
    """Assigns each table of a run a folder: safe, deterministic, and unique even where case is ignored."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def folder_of(self, table: str) -> str:
        """Return a folder that no other table of this run has; to be called once for each table, in dump order."""
        folder = safe_name(table)
        attempt = 0
        while folder.casefold() in self._taken:
            attempt += 1
            seed = f"{attempt}:{table}".encode("utf-8", "surrogatepass")
            stem = safe_name(table)[: MAX_FOLDER_LENGTH - 11]
            folder = f"{stem}-{hashlib.sha256(seed).hexdigest()[:10]}"
        self._taken.add(folder.casefold())
        return folder


_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake_case(name: str) -> str:
    """``OrderID`` → ``order_id``, ``HTTPServer`` → ``http_server``, ``unit price (€)`` → ``unit_price``."""
    words = re.sub(r"\W+", "_", _BOUNDARY.sub("_", name)).lower()
    stripped = words.rstrip("_") if words.strip("_") else ""
    return stripped or "column"


def file_column_names(columns: Sequence[str], *, snake: bool, audit: Iterable[str] = ()) -> tuple[str, ...]:
    """Name the columns of a table's files: their names in D1, or those in snake_case.

    Where names collide, the column that has the name in D1 keeps it, and each other one gets the first free number:
    ``order_id``, ``order_id_2``. Names are compared as in SQLite, where only ASCII letters ignore case: ``É`` and ``é``
    are two columns.

    :param columns: the columns' names in D1.
    :param snake: convert them to snake_case.
    :param audit: columns that staging adds; they keep their names.
    """
    wanted = [snake_case(column) if snake else column for column in columns]
    taken = {_folded(name) for name in audit}
    names: dict[int, str] = {}
    # unchanged names first, then the others in order
    for index in sorted(range(len(columns)), key=lambda index: (wanted[index] != columns[index], index)):
        if _folded(wanted[index]) not in taken:
            names[index] = wanted[index]
            taken.add(_folded(wanted[index]))
    for index, name in enumerate(wanted):
        if index not in names:
            numbered = (f"{name}_{number}" for number in itertools.count(2))
            names[index] = next(candidate for candidate in numbered if _folded(candidate) not in taken)
            taken.add(_folded(names[index]))
    return tuple(names[index] for index in range(len(columns)))


def _folded(name: str) -> str:
    return name.translate(_ASCII_LOWER)
