"""What a user can ask of a staging run, checked as soon as it is said: long before a database is exported for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from airflow_provider_d1.exceptions import D1ConfigurationError

MIB = 1 << 20

FileFormat = Literal["parquet", "csv", "jsonl", "sql"]
FILE_FORMATS: tuple[FileFormat, ...] = ("parquet", "csv", "jsonl", "sql")

#: format → the compressions it can have, its default first; "none" stores the files as they are
COMPRESSIONS: Mapping[FileFormat, tuple[str, ...]] = {
    "parquet": ("zstd", "snappy", "gzip", "none"),
    "csv": ("gzip", "zstd", "none"),
    "jsonl": ("gzip", "zstd", "none"),
    "sql": ("none", "gzip", "zstd"),
}


@dataclass(frozen=True, slots=True)
class StagingOptions:
    """How a dump becomes staged files.

    :param file_format: ``"parquet"``, ``"csv"``, ``"jsonl"``, or ``"sql"`` for the dump as it came.
    :param compression: None takes the format's default (Parquet zstd, CSV and JSONL gzip, SQL none).
    :param keep_dump: store the dump beside the tables too, zstd-compressed, in the same pass.
    :param on_lossy: what to do about values that D1's exporter may have altered: ``"warn"``, ``"fail"``, ``"ignore"``.
    :param on_type_conflict: for values that do not fit a column's type, ``"widen"`` the column or ``"fail"``.
    :param max_part_bytes: the largest size of a staged file, in bytes; only a single huge row makes a larger one.
    :param parse_temporal: make a text column a timestamp or a date when every value in it parses the same way.
    :param audit_columns: add ``_d1_database``, ``_d1_bookmark`` and ``_loaded_at`` to every table.
    :param column_names: ``"preserve"`` D1's names or turn them into ``"snake_case"``.
    :param replace: False refuses a place that already has a manifest; ``"any"`` also replaces the runs of another
        database, which are refused otherwise.
    :param keep_runs: how many complete runs stay in a prefix, the new one included; None keeps all.
    :raises D1ConfigurationError: for a value that cannot work; the message names the parameter.
    """

    file_format: FileFormat = "parquet"
    compression: str | None = None
    keep_dump: bool = False
    on_lossy: Literal["warn", "fail", "ignore"] = "warn"
    on_type_conflict: Literal["widen", "fail"] = "widen"
    max_part_bytes: int = 256 * MIB
    parse_temporal: bool = False
    audit_columns: bool = False
    column_names: Literal["preserve", "snake_case"] = "preserve"
    replace: bool | Literal["any"] = True
    keep_runs: int | None = 2

    def __post_init__(self) -> None:
        _one_of("file_format", self.file_format, FILE_FORMATS)
        if self.compression is not None:
            _one_of(f"compression (of {self.file_format})", self.compression, COMPRESSIONS[self.file_format])
        _one_of("on_lossy", self.on_lossy, ("warn", "fail", "ignore"))
        _one_of("on_type_conflict", self.on_type_conflict, ("widen", "fail"))
        _one_of("column_names", self.column_names, ("preserve", "snake_case"))
        if not _is_positive(self.max_part_bytes):
            raise D1ConfigurationError(
                f"max_part_bytes must be a positive number of bytes, not {self.max_part_bytes!r}"
            )
        if not isinstance(self.replace, bool) and self.replace != "any":
            raise D1ConfigurationError(f"replace must be True, False or 'any', not {self.replace!r}")
        if self.keep_runs is not None and not _is_positive(self.keep_runs):
            raise D1ConfigurationError(f"keep_runs must be a positive number of runs, or None, not {self.keep_runs!r}")

    @property
    def codec(self) -> str | None:
        """The compression in force; None for files stored as they are."""
        chosen = self.compression or COMPRESSIONS[self.file_format][0]
        return None if chosen == "none" else chosen


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise D1ConfigurationError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")
