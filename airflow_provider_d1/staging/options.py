"""The options of staging. The operators, the command line and their help texts are derived from this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from airflow_provider_d1.cloudflare.messages import MIB
from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.staging.encryption import check_recipients
from airflow_provider_d1.validation import BOOLEAN, Rule, integer, names, one_of, optional

FileFormat = Literal["parquet", "csv", "jsonl", "sql"]
FILE_FORMATS: tuple[FileFormat, ...] = ("parquet", "csv", "jsonl", "sql")

#: format → its compressions, the default first; "none" stores the files uncompressed
COMPRESSIONS: Mapping[FileFormat, tuple[str, ...]] = {
    "parquet": ("zstd", "snappy", "gzip", "none"),
    "csv": ("gzip", "zstd", "none"),
    "jsonl": ("gzip", "zstd", "none"),
    "sql": ("none", "gzip", "zstd"),
}

#: all compressions
CODECS = tuple(sorted({codec for choices in COMPRESSIONS.values() for codec in choices}))

#: option → what it must be
STAGING_RULES: Mapping[str, Rule] = {
    "file_format": one_of(*FILE_FORMATS),
    "compression": optional(one_of(*CODECS)),
    "keep_dump": BOOLEAN,
    "on_lossy": one_of("warn", "fail", "ignore"),
    "on_type_conflict": one_of("widen", "fail"),
    "max_part_bytes": integer(1),
    "parse_temporal": BOOLEAN,
    "audit_columns": BOOLEAN,
    "column_names": one_of("preserve", "snake_case"),
    "replace": Rule(
        lambda value: isinstance(value, bool) or value == "any", "True, False or 'any'", BOOLEAN.from_rendered
    ),
    "keep_runs": optional(integer(1)),
    "exclude_tables": optional(names("a list of table names", empty=True)),
    "age_recipients": replace(
        optional(names("a list of age public keys (age1…)")),
        shows_value=False,  # it may be a secret key by mistake
    ),
}


#: option → what it does, in the operators' documentation and in the command line's help
STAGING_HELP: Mapping[str, str] = {
    "file_format": '``"parquet"``, ``"csv"``, ``"jsonl"``, or ``"sql"`` for the dump as it is',
    "compression": "None takes the format's default: Parquet zstd, CSV and JSONL gzip, SQL none",
    "keep_dump": "store the dump beside the tables too, compressed with zstd",
    "on_lossy": 'what to do about values that D1\'s export may have altered: ``"warn"``, ``"fail"`` or ``"ignore"``',
    "on_type_conflict": 'for values that do not fit a column\'s type: ``"widen"`` the column, or ``"fail"``',
    "max_part_bytes": "largest size of a staged file in bytes; a single larger row exceeds it",
    "parse_temporal": "convert text columns in which every value is a date or a timestamp of one form",
    "audit_columns": "add ``_d1_database``, ``_d1_bookmark`` and ``_loaded_at`` to every table",
    "column_names": '``"preserve"`` the column names of D1, or convert them to ``"snake_case"``',
    "replace": "False refuses a destination that already has a manifest; one with runs of another database is refused "
    'unless ``"any"`` is given',
    "keep_runs": "how many complete runs to keep in the prefix, including the new one; None keeps all",
    "exclude_tables": "tables to leave out, by their exact names",
    "age_recipients": "public keys (``age1…``) for which the dump is encrypted with age; needs the extra ``[age]`` and "
    '``"sql"`` as format',
}


@dataclass(frozen=True, slots=True)
class StagingOptions:
    """How a dump becomes staged files; :data:`STAGING_HELP` says what each option does.

    :raises D1ConfigurationError: for a value that cannot work; the message names the option.
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
    exclude_tables: Sequence[str] | None = None
    age_recipients: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, rule in STAGING_RULES.items():
            rule.check(name, getattr(self, name))
        choices = COMPRESSIONS[self.file_format]
        if self.compression is not None and self.compression not in choices:
            raise D1ConfigurationError(
                f"compression must be one of {', '.join(map(repr, choices))} for file_format={self.file_format!r}, "
                f"not {self.compression!r}."
            )
        if self.exclude_tables and self.file_format == "sql":
            raise D1ConfigurationError(
                "exclude_tables cannot leave tables out of a dump that is stored as it is: pass it to the export, or"
                " choose another file_format than 'sql'."
            )

        if self.age_recipients and self.file_format != "sql":
            raise D1ConfigurationError(
                f"age_recipients encrypts dumps only: expected file_format='sql', not {self.file_format!r}."
            )
        check_recipients(self.age_recipients)

    @property
    def codec(self) -> str | None:
        """The compression in use; None for files stored as they are."""
        chosen = self.compression or COMPRESSIONS[self.file_format][0]
        return None if chosen == "none" else chosen
