"""The types that a table's columns keep or get, decided when the rows are in a helper table: every value must fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses.declared_types import same_type
from airflow_provider_d1.warehouses.drift import Alteration, Drift, wider
from airflow_provider_d1.warehouses.native_types import Fit, fit, kind_in, old_type

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.base import Warehouse
    from airflow_provider_d1.warehouses.plan import Column
    from airflow_provider_d1.warehouses.session import Run
    from airflow_provider_d1.warehouses.table_load import TableLoad

log = logging.getLogger(__name__)

#: kind of a type → the staged type that holds the values that a load has put into it, and what CAST calls it
_HELD = {"boolean": "int64", "decimal": "float64", "json": "string", "date": "string", "timestamp": "string"}
_OLD = {"date": "date32", "timestamp": "timestamp[us]"}
_LONGEST_LINE = 300


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A column, and the type that its values are tried with."""

    staged: Column
    target: Column
    type: str

    @property
    def kind(self) -> str:
        return kind_in(self.target, self.type)

    @property
    def may_widen(self) -> bool:
        """Whether the column may get another type: a load chose this one, or would widen it as an append does."""
        hint, kind = self.target.hint, self.kind
        by_hint = hint is not None and same_type(hint.type, self.type)
        return by_hint or (kind in _OLD and self.staged.type == "string")


def settle(warehouse: Warehouse[Any], run: Run[Any], work: TableLoad, *, new_table: bool | None = None) -> None:
    """Give the table's columns the types that hold all staged values, and change ``work`` accordingly.

    :param new_table: whether the helper table, with these types, becomes the table; by default the action says so.
    :raises D1WarehouseError: for a column with a type of its own that some values do not fit; with their number and
        the statement to run.
    """
    name = work.table.name
    fresh = work.action in ("create", "swap") if new_table is None else new_table
    may_swap = new_table is None and work.action == "overwrite" and run.plan.options.replace_strategy == "auto"
    candidates = _candidates(work, hinted=fresh or may_swap)
    fits = {
        each.target.name: warehouse.fit(run.plan, work, "", each.staged, each.type, each.kind) for each in candidates
    }
    problems = _problems(warehouse, run, work, fits)
    native, widened = _by_values(warehouse, run, work, candidates, problems)
    if may_swap and widened:
        work.action, fresh = "swap", True
    chosen = [each for each in candidates if not each.target.native and each.target.name in native]
    if may_swap and chosen and not fresh:
        if _attached(warehouse, run, name):
            for each in chosen:
                _log_kept(name, each.target, f"a table with {each.type} would not have what is attached to this one")
                del native[each.target.name]
        else:
            work.action, fresh = "swap", True
    altered = [] if fresh else [_widen(warehouse, run, work, each) for each in widened]
    new_types, added = {change.column: change.new for change in altered}, {column.name for column in work.drift.added}
    targets = tuple(
        replace(column, type=new_types.get(column.name, column.type), native=native.get(column.name, ""))
        for column in work.drift.targets
    )
    new = tuple(column for column in targets if column.name in added)
    work.drift = Drift(new, (*work.drift.altered, *altered), targets)
    _retype(warehouse, run, work, new_table=fresh)


def _candidates(work: TableLoad, *, hinted: bool) -> list[_Candidate]:
    """The columns with types of their own, and those whose declared types ask for one.

    :param hinted: whether a column that is in the table already may get another type.
    """
    added = {column.name for column in work.drift.added}
    result = []
    for staged, target in zip(work.columns, work.drift.targets, strict=True):
        hint = target.hint
        if target.native:
            result.append(_Candidate(staged, target, target.native))
        elif hint is not None and hint.reason:
            _log_kept(work.table.name, target, hint.reason)
        elif hint is not None and (hinted or target.name in added):
            result.append(_Candidate(staged, target, hint.type))
    return result


def _by_values(
    warehouse: Warehouse[Any],
    run: Run[Any],
    work: TableLoad,
    candidates: Sequence[_Candidate],
    problems: Mapping[str, str],
) -> tuple[dict[str, str], list[_Candidate]]:
    """Column → the type that every value fits into; and the table's columns that have to become wider."""
    native: dict[str, str] = {}
    widened: list[_Candidate] = []
    refused: list[_Candidate] = []
    for each in candidates:
        column, problem = each.target, problems.get(each.target.name)
        if problem is None:
            native[column.name] = each.type
            continue
        if not column.native or each.may_widen:
            _log_kept(work.table.name, column, f"{problem} {each.type}")
        if column.native:
            (widened if each.may_widen else refused).append(each)
    if refused:
        raise _unfit(warehouse, run, work, refused, problems)
    return native, widened


def _log_kept(table: str, column: Column, why: str) -> None:
    line = f"table={table} column={column.name} type={column.native or column.type} kept=true reason={why}"
    log.info("%s", line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…")


def _retype(warehouse: Warehouse[Any], run: Run[Any], work: TableLoad, *, new_table: bool) -> None:
    """Put the rows into a helper table that has the chosen types, where it is what becomes the table."""
    statements = warehouse.retype(run, work, new_table=new_table)
    if not statements:
        return
    raw, work_columns = work.into, work.drift.targets
    tracked = raw in run.helpers
    if tracked:
        run.helpers.append(work.table.typed)
    for statement in statements:
        run.execute(statement)
    run.execute(warehouse.drop_helper(run.plan, raw))
    if tracked:
        run.helpers.remove(raw)
    work.into, work.columns = work.table.typed, work_columns


def _problems(warehouse: Warehouse[Any], run: Run[Any], work: TableLoad, fits: Mapping[str, Fit]) -> dict[str, str]:
    """Column → what is wrong with its values, for those that do not fit."""
    if not fits:
        return {}
    for statement in (statement for each in fits.values() for statement in each.prepare):
        run.execute(statement)

    def count(names: list[str]) -> dict[str, str]:
        listed = ", ".join(f"COUNT(CASE WHEN {fits[name].misfit} THEN 1 END)" for name in names)
        (counts,) = run.session.rows(f"SELECT {listed} FROM {run.plan.path(work.into)}")
        found = {name: number for name, number in zip(names, counts, strict=True) if number}
        return {name: f"{number} staged values would change in" for name, number in found.items()}

    problems: dict[str, str] = {}
    try:
        with warehouse.savepoint(run):
            return count(list(fits))
    except warehouse.driver_errors() as error:
        if not warehouse.is_permanent(error):
            raise
    for name in fits:  # the warehouse rejects values of one of them
        try:
            with warehouse.savepoint(run):
                problems |= count([name])
        except warehouse.driver_errors() as error:
            if not warehouse.is_permanent(error):
                raise
            problems[name] = f"{str(error).strip().partition(chr(10))[0]}: values do not fit"
    return problems


def _unfit(
    warehouse: Warehouse[Any], run: Run[Any], work: TableLoad, refused: list[_Candidate], problems: Mapping[str, str]
) -> D1WarehouseError:
    texts = []
    for each in refused:
        old, column = old_type(run.plan.dialect, each.target.native), each.target.name
        change = "; ".join(warehouse.alter_column(run.plan, work.table.name, column, old, each.staged.type))
        texts.append(f"its column {column!r} is {each.target.native}, and {problems[column]} it; run {change}")
    return D1WarehouseError(f"table {work.table.name!r} is unchanged: {'; '.join(texts)}")


def _widen(warehouse: Warehouse[Any], run: Run[Any], work: TableLoad, each: _Candidate) -> Alteration:
    """The change of a column back to the staged type, or a wider one that holds its old values too."""
    plan, table, column = run.plan, work.table.name, each.target.name
    new = wider(_HELD[each.kind], each.staged.type)
    old = _OLD.get(each.kind, each.kind)
    change = Alteration(column, old, new, tuple(warehouse.alter_column(plan, table, column, old, new)))
    in_place = warehouse.alterable(old, new) and (work.action != "overwrite" or warehouse.alters_to_replace)
    if not in_place:
        raise D1WarehouseError(
            f"table {table!r} is unchanged: its column {column!r} is {each.target.native} and has to become wider: "
            f"{change.statement}"
        )
    name = plan.dialect.identifier(column)
    questions = []
    if old == "decimal":
        back = fit(warehouse, warehouse.cast(name, "", "float64"), "float64", each.type).value
        questions.append(f"SELECT COUNT(*) FROM {plan.path(table)} WHERE {back} <> {name}")
    if (each.staged.type, new) == ("int64", "float64"):
        staged = plan.dialect.identifier(each.staged.name)
        questions.append(f"SELECT COUNT(*) FROM {plan.path(work.into)} WHERE {staged} NOT BETWEEN -{2**53} AND {2**53}")
    for question in questions:
        ((count,),) = run.session.rows(question)
        if count:
            raise D1WarehouseError(
                f"table {table!r} is unchanged: its column {column!r} is {each.target.native} and has to become wider, "
                f"and {count} numbers would be rounded by {change.statement}"
            )
    return change


def _attached(warehouse: Warehouse[Any], run: Run[Any], table: str) -> bool:
    try:
        return bool(warehouse.attached(run, table))
    except warehouse.driver_errors():
        if warehouse.transaction == "load":
            raise  # the transaction has failed with it
        return True
