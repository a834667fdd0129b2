"""Arguments are checked when the DAG is parsed, as far as they are known by then."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_d1.exceptions import D1ConfigurationError

#: an export's gaps between polls: D1 gives an export up that nobody asks about for 15 s
LONGEST_POLL_INTERVAL = 10.0


@dataclass(frozen=True, slots=True)
class Rule:
    """What an argument has to be: a predicate, and the same in words for the error."""

    holds: Callable[[Any], bool]
    words: str


def is_text(value: object) -> bool:
    """Whether it is a text with something in it."""
    return isinstance(value, str) and bool(value.strip())


def is_number(value: object) -> bool:
    """Whether it is a finite number; a boolean is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def is_count(value: object) -> bool:
    """Whether it is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def optional(rule: Rule) -> Rule:
    """The same, or None."""
    return Rule(lambda value: value is None or rule.holds(value), f"{rule.words}, or None")


def one_of(*choices: str | None) -> Rule:
    """One of a few values."""
    return Rule(lambda value: value in choices, " or ".join(repr(choice) for choice in choices))


TEXT = Rule(is_text, "a text that is not empty")
BOOLEAN = Rule(lambda value: isinstance(value, bool), "True or False")
TABLES = Rule(
    lambda value: isinstance(value, list | tuple) and bool(value) and all(is_text(name) for name in value),
    "a list with at least one table name",
)

EXPORT_RULES: Mapping[str, Rule] = {
    "database": optional(Rule(is_text, "a database's name or UUID")),
    "tables": optional(TABLES),
    "no_data": BOOLEAN,
    "no_schema": BOOLEAN,
    "on_virtual_table": one_of("fail", "skip"),
    "poll_interval": optional(
        Rule(
            lambda value: is_number(value) and 0 < value <= LONGEST_POLL_INTERVAL,
            f"seconds above 0 and at most {LONGEST_POLL_INTERVAL:g}",
        )
    ),
    "timeout": Rule(lambda value: is_number(value) and value > 0, "seconds above 0"),
    "queue_timeout": optional(Rule(lambda value: is_number(value) and value >= 0, "seconds from 0")),
    "max_restarts": Rule(is_count, "a whole number from 0"),
    "d1_conn_id": Rule(is_text, "a connection's id"),
    "deferrable": BOOLEAN,
}


def check(operator: object, rules: Mapping[str, Rule], *, templates: Collection[str] = ()) -> None:
    """Hold an operator's attributes against their rules.

    :param operator: has an attribute for each rule.
    :param rules: attribute → rule.
    :param templates: attributes that are passed over while they hold a template or another task's output: a constructor
        passes ``template_fields``, ``execute()`` nothing.
    :raises D1ConfigurationError: for the first attribute that breaks its rule; it names it.
    """
    for name, rule in rules.items():
        value = getattr(operator, name)
        if name in templates and _filled_at_run_time(value):
            continue
        if not rule.holds(value):
            shown = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
            raise D1ConfigurationError(f"{name} must be {rule.words}, not {shown}.")


def _filled_at_run_time(value: object) -> bool:
    """Whether a value is, or holds, a Jinja template or a reference to another task's output."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, list | tuple | set):
        return any(_filled_at_run_time(item) for item in value)
    if isinstance(value, dict):
        return any(_filled_at_run_time(item) for item in value.values())
    # XComArg, and whatever else Airflow resolves before execute()
    return callable(getattr(value, "resolve", None))
