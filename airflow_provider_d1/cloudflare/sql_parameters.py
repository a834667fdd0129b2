"""Bind parameters to a statement, by name or by position, before anything is sent.

D1 supports ``?`` and ``?NNN`` only. So each marker is replaced by an expression for its value (see
:mod:`~airflow_provider_d1.cloudflare.sql_values`), and every statement is sent with exactly the parameters that it
uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_provider_d1.cloudflare.sql_errors import DataError, ProgrammingError
from airflow_provider_d1.cloudflare.sql_tokens import Token, split, tokens
from airflow_provider_d1.cloudflare.sql_values import JsonValue, to_sql

#: D1's limit for one statement
MAX_PARAMETERS = 100

Parameters = Mapping[str, Any] | Iterable[Any]


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement, and the values of the parameters ``?1``, ``?2`` … in it.

    ``markers`` are pairs of an expression in it and the marker that it replaces, so that the name of a column
    such as ``SELECT ?`` is the one that the caller wrote.
    """

    sql: str
    params: list[JsonValue] = field(default_factory=list, repr=False)
    markers: tuple[tuple[str, str], ...] = ()

    def with_sql(self, sql: str) -> Statement:
        """Another text with the same parameters."""
        return replace(self, sql=sql)

    def column_name(self, name: str) -> str:
        """The name of a result's column with the caller's own markers in it."""
        for expression, marker in self.markers:
            if expression in name:
                name = re.sub(rf"{re.escape(expression)}(?!\d)", marker.replace("\\", r"\\"), name)
        return name


def bind(sql: str, parameters: Parameters | None = None) -> list[Statement]:
    """Bind parameters to the statements of a script.

    :param sql: one statement or several; their markers are one series, so each ``?`` takes the next value.
    :param parameters: a mapping for ``:name``, ``@name`` and ``$name``; a sequence for ``?`` and ``?NNN``.
    :return: the statements, each with the values that it uses.
    :raises ProgrammingError: parameters of a type that cannot be bound (a string, bytes, a set); missing or unused
        names; a number of values that differs from the number of markers; more than 100 in one statement.
    """
    statements = split(sql)
    if not statements:
        raise ProgrammingError("SQL: no statement found; expected at least one.")
    for statement in statements:
        _check_tokens(sql, statement)
    markers = [token for statement in statements for token in statement if token.kind == "marker"]
    values = _values(markers, parameters)
    return [_bound(statement, values) for statement in statements]


def check_each(scripts: Iterable[str], parameters: Parameters | None) -> None:
    """Check the parameters of several scripts that run one after the other.

    :param scripts: each as :func:`bind` takes it.
    :param parameters: a mapping must hold the names of all scripts and no others; a sequence must fit each script.
    :raises ProgrammingError: as :func:`bind`, for any of the scripts.
    """
    used: set[str] = set()
    for script in scripts:
        if isinstance(parameters, Mapping):
            names = marker_names(script)
            used |= names
            bind(script, {name: parameters[name] for name in names & parameters.keys()})
        else:
            bind(script, parameters)
    if isinstance(parameters, Mapping):
        _check_names(used, parameters)


def marker_names(sql: str) -> set[str]:
    """The names of the markers ``:name``, ``@name`` and ``$name``, without their first character."""
    return {token.text[1:] for token in tokens(sql) if _is_named(token)}


def sequence(parameters: Iterable[Any]) -> list[Any]:
    """Values by position.

    :raises ProgrammingError: for a set, a mapping, a string or bytes.
    """
    if isinstance(parameters, str | bytes | bytearray | memoryview | Set | Mapping) or not isinstance(
        parameters, Iterable
    ):
        raise ProgrammingError(
            f"SQL parameters: {type(parameters).__name__} cannot be bound by position; expected a list or a tuple with"
            " a value for each ?. Put a single value into a list: [value]."
        )
    return list(parameters)


def _check_tokens(sql: str, statement: Sequence[Token]) -> None:
    for token in statement:
        if token.kind == "illegal":
            line = sql.count("\n", 0, token.start) + 1
            if token.text == ":":
                hint = "Write CAST(x AS type) in place of x::type, and :name for a parameter."
            elif token.text == "\0":
                hint = "SQL cannot contain NUL; pass the string as a parameter."
            else:
                hint = "Close the quote, or give the parameter a name."
            raise ProgrammingError(f"SQL, line {line}: unexpected {token.text!r}. {hint}")


def _values(markers: Sequence[Token], parameters: Parameters | None) -> Mapping[str, Any]:
    """The value of each marker, by its key."""
    positions = list(_positions(markers))
    named = [token for token in markers if _is_named(token)]
    if named and positions:
        raise ProgrammingError(
            f"SQL: markers by position (?) and by name ({named[0].text}) are mixed; expected one of the two kinds."
        )
    if isinstance(parameters, Mapping):
        if positions:
            raise ProgrammingError(
                "SQL parameters: a mapping was given for markers by position (?); expected a list or a tuple. Write"
                " :name in the statement to bind by name."
            )
        return _by_name(named, parameters)
    given = [] if parameters is None else sequence(parameters)
    if named:
        raise ProgrammingError(
            f"SQL parameters: {'nothing' if parameters is None else 'a sequence'} was given for markers by name"
            f" ({named[0].text}); expected a mapping with a value for each name."
        )
    wanted = max((number for _, number in positions), default=0)
    if wanted != len(given):
        raise ProgrammingError(f"SQL parameters: expected {wanted}, got {len(given)}.")
    return {key: given[number - 1] for key, number in positions}


def _positions(markers: Sequence[Token]) -> Iterator[tuple[str, int]]:
    """Keys and numbers of the markers by position: ``?`` is one more than the largest number before it."""
    largest = 0
    for token in markers:
        if token.text.startswith("?"):
            number = int(token.text[1:]) if len(token.text) > 1 else largest + 1
            if not 0 < number <= 32766:
                raise ProgrammingError(f"SQL: the parameter number in {token.text} is not between 1 and 32766.")
            largest = max(largest, number)
            yield _key(token), number


def _by_name(markers: Sequence[Token], parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    names = {token.text[1:] for token in markers}
    _check_names(names, parameters)
    return {name: parameters[name] for name in names}


def _check_names(names: Set[str], parameters: Mapping[str, Any]) -> None:
    hint = "Names are given without their first character: 'keep' for :keep, @keep or $keep."
    if missing := sorted(names - parameters.keys()):
        raise ProgrammingError(f"SQL parameters: no value for {', '.join(missing)}. {hint}")
    if unused := sorted(map(str, parameters.keys() - names)):
        raise ProgrammingError(f"SQL parameters: no marker in the statement for {', '.join(unused)}. {hint}")


def _is_named(token: Token) -> bool:
    return token.kind == "marker" and not token.text.startswith("?")


def _key(token: Token) -> str:
    """What two markers of one value have in common: their name or number; each plain ``?`` has a value of its own."""
    if token.text.startswith("?"):
        return token.text if len(token.text) > 1 else f"? {token.start}"
    return token.text[1:]


def _bound(statement: Sequence[Token], values: Mapping[str, Any]) -> Statement:
    expressions: dict[str, str] = {}
    markers: list[tuple[str, str]] = []
    params: list[JsonValue] = []
    parts = []
    for token in statement:
        if token.kind == "marker":
            key = _key(token)
            if key not in expressions:
                template, values_sent = _to_sql(token.text, values[key])
                params += values_sent
                expressions[key] = template.replace("?", f"?{len(params)}")
                markers.append((expressions[key], token.text))
            parts.append(expressions[key])
        else:
            parts.append(token.text)
    if len(params) > MAX_PARAMETERS:
        raise ProgrammingError(
            f"SQL parameters: the statement has {len(params)}; D1 allows {MAX_PARAMETERS}. Split the statement."
        )
    return Statement("".join(parts).strip(), params, tuple(markers))


def _to_sql(marker: str, value: object) -> tuple[str, list[JsonValue]]:
    try:
        return to_sql(value)
    except (DataError, ProgrammingError) as error:
        raise type(error)(f"SQL parameter {marker}: {error}") from None
