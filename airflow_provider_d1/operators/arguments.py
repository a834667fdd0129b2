"""Validate an operator's arguments: when the DAG is parsed, except for templated values, and when the task runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_d1.cloudflare.models import EXPORT_RULES
from airflow_provider_d1.validation import BOOLEAN, Rule, string

#: arguments of the exporting operators, with those of the export itself
OPERATOR_RULES: Mapping[str, Rule] = {
    **EXPORT_RULES,
    "d1_conn_id": string("a connection's id"),
    "deferrable": BOOLEAN,
}


def check_arguments(
    operator: Any,  # noqa: ANN401 - has the attributes that the rules name
    rules: Mapping[str, Rule],
    attributes: Mapping[str, str] | None = None,
) -> None:
    """Check an operator's arguments in its constructor; templates and other tasks' outputs have no value yet.

    :param operator: has an attribute for each rule.
    :param rules: argument → rule.
    :param attributes: argument → attribute, where the names differ.
    :raises D1ConfigurationError: for the first argument that breaks its rule; the message names it.
    """
    for name, rule in rules.items():
        attribute = (attributes or {}).get(name, name)
        value = getattr(operator, attribute)
        if attribute not in operator.template_fields or not has_no_value_yet(value):
            rule.check(name, value)


def check_rendered_arguments(
    operator: Any,  # noqa: ANN401 - see check_arguments
    rules: Mapping[str, Rule],
    attributes: Mapping[str, str] | None = None,
) -> None:
    """Give rendered templates their types in place, and check all arguments: the first step of ``execute()``.

    Parameters and errors as for :func:`check_arguments`.
    """
    for name, rule in rules.items():
        attribute = (attributes or {}).get(name, name)
        value = getattr(operator, attribute)
        if attribute in operator.template_fields:
            value = rule.from_rendered(value)
            setattr(operator, attribute, value)
        rule.check(name, value)


def has_no_value_yet(value: object) -> bool:
    """Whether a value is, or holds, a Jinja template or a reference to another task's output."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, list | tuple | set):
        return any(has_no_value_yet(item) for item in value)
    if isinstance(value, dict):
        return any(has_no_value_yet(item) for item in value.values())
    # XComArg, and other values that Airflow resolves before execute()
    return callable(getattr(value, "resolve", None))
