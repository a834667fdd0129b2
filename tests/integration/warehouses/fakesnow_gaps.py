"""What fakesnow (0.11) lacks and the loader needs, filled in."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import fakesnow
import fakesnow.copy_into
import fakesnow.cursor
import fakesnow.transforms
import pytest
import sqlglot
from snowflake.connector.errors import ProgrammingError

#: these wait for each other on one table, until the end of the transaction
_LOCKING = re.compile(r"(?:MERGE|INSERT OVERWRITE|DELETE) (?:INTO|FROM) ((?:\"(?:[^\"]|\"\")*\"\.?)+)")
_LOCKS: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
_held = threading.local()

_OVERWRITE = re.compile(r"INSERT OVERWRITE INTO ((?:\"(?:[^\"]|\"\")*\"\.?)+)(.*)", re.DOTALL)


@contextmanager
def fakesnow_without_gaps() -> Iterator[None]:
    """``fakesnow.patch()`` with what it lacks.

    ``FILES`` of stages, columns in any case, any names in ``$1['…']``, INSERT OVERWRITE, MERGE, locks, conflicts,
    ``DATETIME_PRECISION``.
    """
    urls_of = fakesnow.copy_into._source_urls
    execute = fakesnow.cursor.FakeSnowflakeCursor.execute
    indices = fakesnow.transforms.indices_to_json_extract

    def urls(source: str, files: list[str]) -> list[str]:
        internal = fakesnow.copy_into.stage.is_internal(source)
        return urls_of(f"{Path(source).as_uri()}/" if internal else source, files)

    def exact_names(*table: Any) -> list[str]:
        return [name for name, _ in fakesnow.copy_into._describe_table(*table)]

    def element(expression: Any) -> Any:
        return expression if _of_staged_row(expression) else indices(expression)

    def columns(select: Any) -> Any:
        for bracket in list(select.find_all(sqlglot.exp.Bracket)):
            if _of_staged_row(bracket):
                bracket.replace(sqlglot.exp.column(bracket.expressions[0].this, quoted=True))
        return select

    def overwrites(cursor: Any, command: str, *arguments: Any, **options: Any) -> Any:
        held: dict[str, threading.Lock] = vars(_held).setdefault("locks", {})
        ends = command in ("COMMIT", "ROLLBACK")
        if (locking := _LOCKING.match(command)) is not None and locking[1] not in held:
            _LOCKS[locking[1]].acquire()
            held[locking[1]] = _LOCKS[locking[1]]
        # its catalogue has no such column; all timestamps have the default
        command = command.replace("datetime_precision", "9")
        try:
            if (found := _OVERWRITE.fullmatch(command)) is not None:
                execute(cursor, f"DELETE FROM {found[1]}")
                command = f"INSERT INTO {found[1]}{found[2]}"
            return execute(cursor, command, *arguments, **options)
        except duckdb.TransactionException as error:  # where Snowflake waits for a lock, and gives up in the end
            raise ProgrammingError(msg=str(error), errno=625, sqlstate="40001") from error
        finally:
            while ends and held:
                held.popitem()[1].release()

    with pytest.MonkeyPatch.context() as patch, fakesnow.patch():
        patch.setattr(fakesnow.copy_into, "_source_urls", urls)
        patch.setattr(fakesnow.copy_into, "_get_table_columns", exact_names)
        patch.setattr(fakesnow.transforms, "indices_to_json_extract", element)
        patch.setattr(fakesnow.copy_into, "_strip_json_extract", columns)
        # its own MERGE writes to a second database, which no transaction can; DuckDB has the statement
        patch.setattr(fakesnow.transforms, "merge", lambda expression: [expression])
        patch.setattr(fakesnow.cursor.FakeSnowflakeCursor, "execute", overwrites)
        yield


def _of_staged_row(expression: Any) -> bool:
    return isinstance(expression, sqlglot.exp.Bracket) and isinstance(expression.this, sqlglot.exp.Parameter)
