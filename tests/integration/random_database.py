"""Databases full of oddities, the same ones for the same seed, as SQL statements that any SQLite can run."""

from __future__ import annotations

import random
import struct

NAMES = (
    "plain",
    'quo"te',
    "it's",
    "semi;colon",
    "new\nline",
    "ünï 表",
    "Mixed Case",
    "select",
    "[br",
    "b`t",
    "_x",
    "x.y",
)
TYPES = ("INTEGER", "REAL", "TEXT", "BLOB", "NUMERIC", "DATETIME", "BOOLEAN", "VARCHAR(20)", "DECIMAL(10,2)", "INT", "")
INTEGERS = (
    0,
    1,
    -1,
    2**31,
    2**53 - 1,
    2**53,
    2**53 + 1,
    -(2**53) - 1,
    2**63 - 1,
    -(2**63),
    1234567890123456789,
    10**18,
)
REALS = (
    "1.0",
    "-0.0",
    "0.1",
    "1e20",
    "1e21",
    "1e-6",
    "1e-7",
    "123456789012345680000.0",
    "5e-324",
    "9e999",
    "-9e999",
    "1e16",
)
PIECES = (
    "a",
    "'",
    "''",
    "\n",
    "\r",
    "\r\n",
    "\\n",
    "\\r",
    "\\",
    ";",
    "--",
    "/*",
    ",",
    ")",
    "NULL",
    "replace('",
    "X'00'",
    "é",
    "表",
)
PIECES += ("😀", "\u2028", "\u0085", "\t", "\x1b", "\x7f", "\ufeff", "�", '"', "%", " ")

KEYS = {
    "rowid": "id INTEGER PRIMARY KEY",
    "autoincrement": "id INTEGER PRIMARY KEY AUTOINCREMENT",
    "without rowid": "id TEXT PRIMARY KEY",
}


class Generator:
    """Draws one database.

    :param seed: decides everything.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def statements(self) -> list[str]:
        """CREATE, INSERT, DELETE, index, view and trigger statements, then perhaps ANALYZE."""
        names = self.random.sample(NAMES, self.random.randint(2, 6))
        lines: list[str] = []
        for number, name in enumerate(names):
            lines += self._table(f"{name}{number}")
        if self.random.random() < 0.5:
            lines.append("ANALYZE")
        return lines

    def _table(self, name: str) -> list[str]:
        draw = self.random
        columns = [f"{part}{i}" for i, part in enumerate(draw.sample(NAMES, draw.randint(1, 6)))]
        kind = draw.choice(("plain", "plain", "rowid", "autoincrement", "without rowid", "generated", "strict"))
        keyed = kind == "without rowid"
        target = f"{_quoted(name)} ({'id, ' if keyed else ''}{', '.join(map(_quoted, columns))})"
        lines = [self._create(name, columns, kind)]
        for number in range(draw.randint(0, 40)):
            values = [f"'key {draw.randint(0, 10**9)} {number}'"] if keyed else []
            values += [self._value() for _ in columns]
            lines.append(f"INSERT INTO {target} VALUES ({', '.join(values)})")
        if draw.random() < 0.3 and not keyed:
            lines.append(f"DELETE FROM {_quoted(name)} WHERE rowid % 3 = 1")
        return lines + self._around(name, draw.choice(columns))

    def _create(self, name: str, columns: list[str], kind: str) -> str:
        draw = self.random
        definitions = [f"{_quoted(c)} {'ANY' if kind == 'strict' else draw.choice(TYPES)}".strip() for c in columns]
        if kind == "generated":
            computed = f"gen TEXT AS (upper({_quoted(columns[0])})) {draw.choice(('STORED', 'VIRTUAL'))}"
            definitions.insert(draw.randint(0, 1), computed)
        elif kind in KEYS:
            definitions.insert(0, KEYS[kind])
        quote = draw.choice((_quoted, _bracketed, _backticked, _single))
        gap = draw.choice((", ", ",\n  ", ", -- why; not\n  ", " /* ' */, "))
        tail = {"without rowid": " WITHOUT ROWID", "strict": " STRICT"}.get(kind, "")
        return f"CREATE TABLE {quote(name)}({gap.join(definitions)}){tail}"

    def _around(self, name: str, column: str) -> list[str]:
        draw = self.random
        table = _quoted(name)
        candidates = (
            f"CREATE INDEX {_quoted('idx ' + name)} ON {table} ({_quoted(column)})",
            f"CREATE VIEW {_quoted('view ' + name)} AS SELECT * FROM {table} -- all; of it",
            f"CREATE TRIGGER {_quoted('trg ' + name)} AFTER DELETE ON {table} BEGIN\n  SELECT 'x;y';\nEND",
        )
        return [statement for statement in candidates if draw.random() < 0.4]

    def _value(self) -> str:
        draw = self.random
        kind = draw.randrange(7)
        if kind == 0:
            return "NULL"
        if kind == 1:
            return str(draw.choice((draw.choice(INTEGERS), draw.randint(-(10**6), 10**6))))
        if kind == 2:
            return draw.choice((draw.choice(REALS), repr(draw.uniform(-1e6, 1e6)), self._any_double()))
        if kind == 3:
            return f"X'{draw.randbytes(draw.choice((0, 1, 2, 30))).hex()}'"
        if kind == 4:  # any bytes at all as a text, NUL and invalid UTF-8 included
            return f"CAST(X'{draw.randbytes(draw.randint(0, 12)).hex()}' AS TEXT)"
        text = "".join(draw.choices(PIECES, k=draw.randint(0, 8)))
        return f"CAST(X'{text.encode().hex()}' AS TEXT)"

    def _any_double(self) -> str:
        (value,) = struct.unpack("<d", self.random.randbytes(8))
        return repr(value) if value - value == 0 else "9e999"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _bracketed(name: str) -> str:
    return f"[{name}]"


def _backticked(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _single(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"
