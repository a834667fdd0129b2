"""Texts that are not valid UTF-8, which Python can only fetch as bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from airflow_provider_d1.emulator import literals

Value = float | str | bytes | None


def fields(columns: Iterable[str]) -> str:
    """What to SELECT in place of these columns: for each a flag whether it is a text, and its value or its bytes.

    :param columns: quoted names.
    """
    return ", ".join(
        f"typeof({c})='text', CASE typeof({c}) WHEN 'text' THEN CAST({c} AS BLOB) ELSE {c} END" for c in columns
    )


def decoded(row: Sequence[Value]) -> Iterator[Value]:
    """The values of a row that was fetched so, with their texts as JavaScript would hold them."""
    for is_text, value in zip(row[::2], row[1::2], strict=True):
        yield literals.javascript_text(value) if is_text and isinstance(value, bytes) else value
