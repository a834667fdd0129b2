"""What is done with one table of a load, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.drift import Drift
    from airflow_provider_d1.warehouses.plan import Column, Table


@dataclass(frozen=True, slots=True)
class WarehouseOption:
    """An argument of the operator that only one engine has; templated, and a text or None.

    :param name: the keyword.
    :param help: what it means, for the docs.
    :param example: a value.
    """

    name: str
    help: str
    example: str


@dataclass(slots=True)
class TableLoad:
    """What is done with one table.

    :param action: ``create`` it; ``overwrite`` its rows, as its columns are the staged ones; ``swap`` a new table in;
        ``append`` rows to it; ``merge`` rows into it by ``key``.
    :param drift: how the table has to change before an append, and the columns that the staged ones go into.
    :param into: the table that the staged files are loaded into: a helper table, or the table itself.
    :param columns: the columns of ``into`` that the files are loaded into, in staged order.
    :param checked: the values in ``into`` decide which types the table's columns have.
    :param rows_before: the rows that the table had, where they stay and the files are loaded into the table itself.
    :param key: the table's columns by which rows are matched, empty where none are.
    :param delete_missing: delete the rows whose keys are not staged.
    :param refers_to_itself: whether a foreign key of the table refers to the table, in MySQL.
    :param partitions: those of the helper table, in ClickHouse.
    :param views: the materialized views that get the rows, in ClickHouse.
    :param other_columns: those of the table that are not staged and can be written, in ClickHouse.
    :param keeps_grants: False where a swap must not keep grants, as policies may be lost by it.
    :param nul_replaced: column → values whose NUL characters were replaced.
    :param texts_truncated: column → texts that were cut, in Redshift.
    """

    table: Table
    action: Literal["create", "overwrite", "swap", "append", "merge"]
    drift: Drift
    into: str
    columns: tuple[Column, ...]
    checked: bool = False
    rows_before: int = 0
    key: tuple[str, ...] = ()
    delete_missing: bool = False
    refers_to_itself: bool = False
    partitions: Sequence[str] = ("all",)
    views: Sequence[str] = ()
    other_columns: Sequence[str] = ()
    keeps_grants: bool = True
    nul_replaced: dict[str, int] = field(default_factory=dict)
    texts_truncated: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Publication:
    """The statements that make a table's rows visible: DDL, which mostly commits implicitly, then those on rows.

    :param renames: the helper table becomes the table, so that it need not be dropped.
    :param makes: other helper tables, which are dropped at the end.
    """

    ddl: Sequence[str] = ()
    dml: Sequence[str] = ()
    renames: bool = False
    makes: Sequence[str] = ()
