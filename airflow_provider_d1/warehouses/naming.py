"""Names in the warehouse for the tables and columns of a manifest; pure, and the same from one load to the next.

A name stays exact where the warehouse can hold it. Where it is too long, has a character that the warehouse can't hold,
is reserved, or is one name with another one to the warehouse, it gets a suffix: a hash of the name in the manifest.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from airflow_provider_d1.exceptions import D1ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.dialect import Dialect

Letters = Literal["exact", "upper", "lower"]

_LETTERS: Mapping[Letters, Mapping[int, int]] = {
    "exact": {},
    "upper": str.maketrans(string.ascii_lowercase, string.ascii_uppercase),
    "lower": str.maketrans(string.ascii_uppercase, string.ascii_lowercase),
}
_DIGITS = 8
#: that a character takes in a name; 12 where each of its bytes takes three
_MOST_BYTES = 12
#: a prefix leaves room for at least so many characters of a table's name, with a suffix
_LEAST_ROOM = 20


@dataclass(frozen=True, slots=True)
class Naming:
    """How the tables and columns of a manifest are called in one schema of a warehouse.

    :param letters: the operator's ``names``: whether ASCII letters stay, or become upper or lower case.
    :param table_prefix: what stands before the name of each table.
    """

    dialect: Dialect
    schema: str
    letters: Letters = "exact"
    table_prefix: str = ""

    def asked(self, source: str, *, column: bool) -> str:
        """The name that the arguments ask for, whether or not the warehouse can hold it."""
        return (source if column else self.table_prefix + source).translate(self._letters(column=column))

    def check_prefix(self) -> None:
        """Refuse a prefix that no table's name can have.

        :raises D1ConfigurationError: naming what is wrong with it.
        """
        if not self.table_prefix:
            return
        prefix = self.asked("", column=False)
        problem = self.dialect.name_problem(f"{prefix}t", column=False)
        if problem is None and self._room(prefix, column=False) < _LEAST_ROOM:
            problem = "is too long"
        if problem is not None:
            raise D1ConfigurationError(
                f"table_prefix: {prefix!r} {problem} for {self.dialect.name}; choose another prefix"
            )

    def tables(self, sources: Iterable[str], reserved: Callable[[str], bool]) -> dict[str, str]:
        """Name in the manifest → name in the warehouse.

        :param sources: all tables of the manifest in its order, not only the chosen ones: then the names do not
            depend on what is chosen.
        :param reserved: whether a folded name is the loader's own.
        """
        return self._assigned(sources, column=False, reserved=reserved)

    def columns(self, sources: Iterable[str]) -> dict[str, str]:
        """The same for the columns of one table."""
        return self._assigned(sources, column=True, reserved=lambda _: False)

    def _assigned(self, sources: Iterable[str], *, column: bool, reserved: Callable[[str], bool]) -> dict[str, str]:
        sources, fold = list(sources), self.dialect.fold
        asked = {source: self.asked(source, column=column) for source in sources}
        spelling = "" if column else self.table_prefix
        names: dict[str, str] = {}
        taken: set[str] = set()
        # a name that keeps its spelling first. Then those that came to D1 first: a new one does not take their names
        for source in sorted(sources, key=lambda source: self._changes(spelling + source)):
            name = asked[source]
            free = fold(name) not in taken and not reserved(fold(name))
            if free and self._fits(name, column=column):
                names[source] = name
                taken.add(fold(name))
        for source in sources:
            attempt = 0
            while source not in names:
                name = self._suffixed(source, asked[source], attempt, column=column)
                attempt += 1
                if fold(name) not in taken and not reserved(fold(name)):
                    names[source] = name
                    taken.add(fold(name))
        return {source: names[source] for source in sources}

    def _suffixed(self, source: str, name: str, attempt: int, *, column: bool) -> str:
        seed = f"{attempt}:{source}" if attempt else source
        digest = hashlib.sha256(seed.encode()).hexdigest()[:_DIGITS]
        letters = self._letters(column=column)
        suffix = f"_{digest}".translate(letters)
        kind = ("column" if column else "table").translate(letters)
        for stem in (name, self._held(name, column=column)):
            shortened = stem or kind
            while shortened and (room := self._room(shortened + suffix, column=column)) < 0:
                shortened = shortened[: room // _MOST_BYTES]
            if self._fits(shortened + suffix, column=column):
                return shortened + suffix
        return kind + suffix

    def _changes(self, name: str) -> bool:
        return name.translate(_LETTERS[self.letters]) != name

    def _letters(self, *, column: bool) -> Mapping[int, int]:
        # tables of two databases that are one table in the warehouse must have one name in _d1_loads too
        lower = self.dialect.lower_case_tables and not column
        return _LETTERS["lower" if lower else self.letters]

    def _room(self, name: str, *, column: bool) -> int:
        return self.dialect.room(self.schema, name, column=column)

    def _fits(self, name: str, *, column: bool) -> bool:
        return self._room(name, column=column) >= 0 and self.dialect.name_problem(name, column=column) is None

    def _held(self, name: str, *, column: bool) -> str:
        """The name with ``_`` in place of what the warehouse can't hold."""
        dialect = self.dialect
        for pattern in (dialect.forbidden, dialect.forbidden_column if column else dialect.forbidden_table):
            if pattern is not None:
                name = pattern.sub("_", name)
        return name
