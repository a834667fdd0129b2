"""Rules for arguments, checked when a DAG is parsed, when a task runs, and by the core itself."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_d1.exceptions import D1ConfigurationError


@dataclass(frozen=True, slots=True)
class Rule:
    """What an argument must be: a predicate, and its description for the error message.

    :param holds: whether a value is valid.
    :param words: what the value must be.
    :param read: how a rendered template, which is a string, becomes a value. It raises ValueError for a
        string that is not a value. None for an argument that is a string.
    :param shows_value: False keeps an invalid value out of the message, where it may be a secret.
    """

    holds: Callable[[Any], bool]
    words: str
    read: Callable[[str], Any] | None = None
    shows_value: bool = True

    def check(self, name: str, value: object) -> None:
        """Refuse an invalid value.

        :param name: the argument's name, for the message.
        :raises D1ConfigurationError: names the argument, what it must be and what it is.
        """
        if not self.holds(value):
            plain = self.shows_value and isinstance(value, str | int | float | None)
            shown = repr(value) if plain else type(value).__name__
            raise D1ConfigurationError(f"{name} must be {self.words}, not {shown}.")

    def from_rendered(self, value: object) -> object:
        """Convert a rendered template; an invalid string is not changed, and :meth:`check` refuses it."""
        if self.read is None or not isinstance(value, str) or self.holds(value):
            return value
        try:
            return self.read(value.strip())
        except ValueError:
            return value


def is_string(value: object) -> bool:
    """Whether it is a string that is not empty."""
    return isinstance(value, str) and bool(value.strip())


def is_number(value: object) -> bool:
    """Whether it is a finite number; a boolean is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def is_integer(value: object, minimum: int = 0) -> bool:
    """Whether it is an integer of at least ``minimum``; a boolean is not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def optional(rule: Rule) -> Rule:
    """The same, or None. The strings "" and "None", as templates render None, mean None unless it is a string."""
    read = rule.read
    return Rule(
        lambda value: value is None or rule.holds(value),
        f"{rule.words}, or None",
        None if read is None else lambda rendered: None if rendered in ("", "None") else read(rendered),
    )


def one_of(*choices: str | None) -> Rule:
    """One of the given values."""
    return Rule(lambda value: value in choices, " or ".join(repr(choice) for choice in choices))


def string(words: str) -> Rule:
    """A string that is not empty."""
    return Rule(is_string, words)


def number(words: str, holds: Callable[[float], bool]) -> Rule:
    """A finite number for which ``holds``."""
    return Rule(lambda value: is_number(value) and holds(value), words, float)


def integer(minimum: int) -> Rule:
    """An integer of at least ``minimum``."""
    return Rule(lambda value: is_integer(value, minimum), f"an integer of at least {minimum}", int)


def names(words: str, *, empty: bool = False) -> Rule:
    """A list of strings that are not empty.

    :param empty: whether the list itself may be empty.
    """
    return Rule(
        lambda value: isinstance(value, list | tuple) and (empty or bool(value)) and all(map(is_string, value)),
        words,
        _read_literal,
    )


def _read_boolean(rendered: str) -> bool:
    if rendered.lower() not in ("true", "false"):
        raise ValueError(rendered)
    return rendered.lower() == "true"


def _read_literal(rendered: str) -> object:
    try:
        return ast.literal_eval(rendered)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(rendered) from error


STRING = string("a string that is not empty")
#: of a connection that may be left out; a template that renders to an empty string leaves it out
OPTIONAL_CONNECTION = Rule(
    lambda value: value is None or is_string(value),
    "a connection's id, or None",
    lambda rendered: None if rendered in ("", "None") else rendered,
)
BOOLEAN = Rule(lambda value: isinstance(value, bool), "True or False", _read_boolean)
TABLES = names("a list with at least one table name")
NAME_LISTS = Rule(
    lambda value: isinstance(value, Mapping) and all(is_string(key) and TABLES.holds(value[key]) for key in value),
    "a dict of table names, each with a list of at least one column name",
    _read_literal,
)


def counted(count: int, noun: str) -> str:
    """``"1 row"``, ``"0 rows"``, ``"2 rows"``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def abridged(names: Iterable[str], separator: str = ", ", *, longest: int = 60) -> str:
    """Names in one log line; those that exceed ``longest`` characters together are only counted."""
    shown: list[str] = []
    names = list(names)
    for name in names:
        if sum(map(len, shown)) + len(name) > longest:
            return separator.join([*shown, f"… ({len(names)} in all)"])
        shown.append(name)
    return separator.join(shown)


def suggest(name: str, candidates: Iterable[str]) -> str:
    """``"; did you mean 'shop'?"`` for the names most like ``name``, or nothing."""
    by_folded = {candidate.casefold(): candidate for candidate in candidates}
    near = [by_folded[folded] for folded in difflib.get_close_matches(name.casefold(), list(by_folded), n=3)]
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def fold_case(name: str) -> str:
    """A name as SQLite compares names: ASCII letters in lower case, all others as they are.

    So ``Users`` and ``users`` are one name, ``É`` and ``é`` are two.
    """
    return name.translate(_ASCII_LOWER)
