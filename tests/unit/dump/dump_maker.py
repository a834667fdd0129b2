"""Random tables and values, written as D1 (of four eras) and the sqlite3 command line write them; for tests.

Written apart from the reader and from the emulator, straight from what is known of the format.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

NAMES = [
    "t", "users", "Order", "we ird", 'quo"te', "it's", "ünï", "select", "semi;colon", "new\nline", "a,b", "x(y)",
    "replace",
    "back`tick", "[br", "-- c", "表", "char(10)", "VALUES(", "sqlite", "_cfx",
]  # fmt: skip
TYPES = [
    "INTEGER", "INT", "BIGINT", "integer", "REAL", "DOUBLE PRECISION", "FLOAT", "TEXT", "VARCHAR(20)", "text",
    "NUMERIC",
    "DECIMAL(10,2)", "DATETIME", "BOOLEAN", "DATE", "BLOB", "", "", "", "ANY", "JSON", "FLOATING POINT", "CHARINT",
]  # fmt: skip
STRICT_TYPES = ["INTEGER", "INT", "REAL", "TEXT", "BLOB", "ANY"]
PIECES = [
    "a", "word ", "it's", "'", "''", "\\", "\\n", "\\r", "\n", "\r", "\r\n", ",", ");", "(", ")", ";", '"', "`",
    "--", "/*",
    "*/", "é", "中文", "😀", "\ufffd", "\x85", "\u2028", "\x0b", "\t", "\x1b", "NULL", "X'41'", "replace('",
    "','\\n',char(10))",
    "char(10)", "\0", "12", "1e5", " 7 ", "2024-01-01", "2024-01-01 10:00:00", "0x1F", "nan", "inf", "Infinit", "",
    "", "x" * 70,
    ");\nINSERT INTO \"t\" VALUES(", "BEGIN", "END;", "\ufeff", "0", ".5", "-", "9223372036854775807", "\\u0041",
    "\\012", "\\015", "(\\n0)", "(\\r0)",
]  # fmt: skip
INTEGERS = [0, 1, -1, 7, 12, 255, 2**31, 2**53 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 2**62, 2**63 - 1, -(2**63), 10**18]
REALS = [
    0.5, -1.5, 0.1, 1.0, -0.0, 100.0, 1e15, 1e16, 1e20, 1e21, 1e22, 1e-7, 5e-324, 1.7976931348623157e308, math.inf,
    -math.inf,
    3.141592653589793, 1e300, 123456.789, 9007199254740993.0, -9223372036854775808.0, 9223372036854775808.0, 12.0,
    49.47,
    0.30000000000000004, 1 / 3, 1e-5, 123456789012345680.0,
]  # fmt: skip


def js_number(value: float) -> str:
    """Return a number as JavaScript prints it, which is how D1 writes integers and reals alike."""
    value = float(value)
    if value == 0:
        return "0"
    digits, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = digits.partition(".")
    significant = (whole + fraction).lstrip("0")
    point = len(whole) - (len(whole + fraction) - len((whole + fraction).lstrip("0"))) + int(exponent or 0)
    significant = significant.rstrip("0")
    sign = "-" if value < 0 else ""
    count = len(significant)
    if count <= point <= 21:
        return sign + significant + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{significant[:point]}.{significant[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{significant}"
    mantissa = significant[0] + ("." + significant[1:] if count > 1 else "")
    return f"{sign}{mantissa}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def d1_text(text: str) -> str:
    quoted = "'" + text.replace("'", "''") + "'"
    if "\r" in text:
        quoted = "replace(" + quoted.replace("\r", "\\r") + ",'\\r',char(13))"
    if "\n" in text:
        quoted = "replace(" + quoted.replace("\n", "\\n") + ",'\\n',char(10))"
    return quoted


def new_d1_text(text: str) -> str:
    """Return a text as D1 writes it since autumn 2026: by placeholders that the text does not hold."""
    quoted = "'" + text.replace("'", "''") + "'"
    for newline, letter, code in (("\r", "r", "015"), ("\n", "n", "012")):
        if newline in text:
            names = [f"\\{letter}", f"\\{code}", *(f"(\\{letter}{number})" for number in range(len(text)))]
            marker = next(name for name in names if name not in text)
            quoted = f"replace({quoted.replace(newline, marker)},'{marker}',char({ord(newline)}))"
    return quoted


def unistr_text(text: str) -> str:
    """Return a text as the sqlite3 command line writes it since 3.50."""
    if not any(ord(c) < 32 for c in text):
        return "'" + text.replace("'", "''") + "'"
    escaped = "".join("\\\\" if c == "\\" else f"\\u{ord(c):04x}" if ord(c) < 32 else c for c in text)
    return "unistr('" + escaped.replace("'", "''") + "')"


def literal(value: object, style: str, chance: Random) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if isinstance(value, str):
        if style == "sqlite" and chance.random() < 0.7:
            return unistr_text(value)
        return new_d1_text(value) if style == "new" else d1_text(value)
    if isinstance(value, float) and math.isinf(value):
        spelling = "Infinity" if style == "bare" else "9e999"
        return ("-" if value < 0 else "") + spelling
    if style == "sqlite":
        return repr(value) if isinstance(value, float) else str(value)
    return js_number(value)


def quote(name: str, style: str, chance: Random) -> str:
    if (
        style == "bare"
        and name.isidentifier()
        and name.isascii()
        and name.lower() not in ("select", "replace", "order")
    ):
        return name
    if style == "sqlite" and chance.random() < 0.2:
        if "]" not in name:
            return f"[{name}]"
        return "`" + name.replace("`", "``") + "`"
    if style == "sqlite" and chance.random() < 0.1:
        return "'" + name.replace("'", "''") + "'"
    return '"' + name.replace('"', '""') + '"'


@dataclass
class MadeTable:
    """A table as made: what was drawn, for a look when a test fails."""

    name: str
    ddl: str
    rows: list[list[object]]


def text(chance: Random) -> str:
    return "".join(chance.choice(PIECES) for _ in range(chance.randrange(4)))


def number(chance: Random) -> int | float:
    kind = chance.randrange(5)
    if kind == 0:
        return chance.choice(INTEGERS)
    if kind == 1:
        return chance.choice(REALS)
    if kind == 2:
        return round(chance.uniform(-1e4, 1e4), chance.randrange(5))
    return chance.randrange(-100, 100)


def fitting(declared: str, chance: Random) -> object:
    """Return a value as a well-kept column of this type holds them."""
    if chance.random() < 0.1:
        return None
    kind = declared.upper()
    if "DATE" in kind:
        return f"20{chance.randrange(10, 30)}-0{chance.randrange(1, 9)}-1{chance.randrange(9)}" + chance.choice(
            ["", " 10:00:00"]
        )
    if "INT" in kind or "BOOL" in kind:
        return chance.choice(INTEGERS) if chance.random() < 0.1 else chance.randrange(-1000, 100000)
    if "REAL" in kind or "FLOA" in kind or "DOUB" in kind or "DEC" in kind or "NUM" in kind:
        return number(chance)
    if "BLOB" in kind:
        return chance.randbytes(chance.randrange(5))
    return text(chance)


def anything(chance: Random) -> object:
    kind = chance.randrange(8)
    if kind == 0:
        return None
    if kind == 1:
        return bytes([chance.randrange(256) for _ in range(chance.randrange(4))])
    if kind < 4:
        return number(chance)
    return text(chance)


def strictly(declared: str, chance: Random) -> object:
    """Return a value that a STRICT column takes, also after D1 has printed it."""
    kind = chance.randrange(6)
    if kind == 0:
        return None
    if declared in ("INTEGER", "INT"):
        return chance.randrange(-(2**40), 2**40)
    if declared == "REAL":
        return number(chance)
    if declared == "TEXT":
        return text(chance)
    if declared == "BLOB":
        return bytes([chance.randrange(256) for _ in range(chance.randrange(4))])
    return anything(chance)


def made_table(chance: Random, name: str, style: str) -> tuple[MadeTable, list[str]]:
    """Draw a table; return it and its part of a dump."""
    strict = chance.random() < 0.15
    count = chance.randrange(1, 6)
    columns = [(f"c{i}" if chance.random() < 0.8 else f"{chance.choice(NAMES)} {i}") for i in range(count)]
    types = [chance.choice(STRICT_TYPES if strict else TYPES) for _ in columns]
    dirt = [chance.choice([0.0, 0.0, 0.05, 0.3, 1.0]) for _ in columns]
    key = chance.choice(["rowid", "none", "without"]) if chance.random() < 0.5 else "none"
    definitions = [f"{quote(c, style, chance)} {t}".rstrip() for c, t in zip(columns, types, strict=True)]
    if key == "rowid":
        columns[0], types[0] = "id", "INTEGER"
        definitions[0] = "id INTEGER PRIMARY KEY"
    elif key == "without":
        columns[0], types[0] = "id", "INTEGER"
        definitions[0] = "id INTEGER"
        definitions.append("PRIMARY KEY (id)")
    if chance.random() < 0.2:
        definitions.insert(1, "made TEXT GENERATED ALWAYS AS ('x') VIRTUAL")
    if chance.random() < 0.1:
        definitions[-1] += " -- a ; comment's end\n"
    options = ", ".join(o for o, on in (("WITHOUT ROWID", key == "without"), ("STRICT", strict)) if on)
    ddl = f"CREATE TABLE {quote(name, style, chance)}({', '.join(definitions)}) {options}".rstrip()
    rows: list[list[object]] = []
    keys = chance.sample(range(-50, 1000), 25)
    for i in range(chance.choice([0, 1, 2, 5, 12, 25])):
        row = [
            strictly(t, chance) if strict else anything(chance) if chance.random() < d else fitting(t, chance)
            for t, d in zip(types, dirt, strict=True)
        ]
        if key != "none":
            row[0] = keys[i]
        rows.append(row)
    order = list(range(len(columns)))
    if style == "sqlite" and chance.random() < 0.2:
        chance.shuffle(order)
    listed = style in ("d1", "new") or order != sorted(order)
    names = "(" + ",".join(quote(columns[i], style, chance) for i in order) + ") " if listed else ""
    insert = f"INSERT INTO {quote(name, style, chance)} {names}VALUES("
    lines = [insert + ",".join(literal(row[i], style, chance) for i in order) + ");" for row in rows]
    if style == "sqlite" and chance.random() < 0.1 and len(rows) > 1:
        values = "),\n(".join(",".join(literal(row[i], style, chance) for i in order) for row in rows)
        lines = [insert + values + ");"]
    return MadeTable(name, ddl, rows), [ddl + ";", *lines]


def in_turns(chance: Random, tables: list[list[str]]) -> list[str]:
    """Let tables give a few of their lines in turn, as a dump that was edited by hand."""
    merged: list[str] = []
    left = list(tables)
    while left:
        lines = chance.choice(left)
        few = chance.choice([1, 2, 2, 3, 8])
        merged += lines[:few]
        del lines[:few]
        left = [lines for lines in left if lines]
    return merged


def made_dump(chance: Random) -> bytes:
    """Draw a whole dump."""
    style = chance.choice(["d1", "d1", "new", "old", "bare", "sqlite"])
    names: list[str] = []
    for _ in range(chance.randrange(1, 4)):
        name = chance.choice(NAMES)
        if name.lower() not in [n.lower() for n in names]:
            names.append(name)
    tables = [made_table(chance, name, style)[1] for name in names]
    parts = in_turns(chance, tables) if chance.random() < 0.2 else [line for lines in tables for line in lines]
    if style == "sqlite":
        parts = ["PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;", *parts, "COMMIT;"]
    else:
        parts = ["PRAGMA defer_foreign_keys=TRUE;", *parts]
        if chance.random() < 0.5:
            parts.append(f"CREATE INDEX i ON {quote(names[0], style, chance)}(1);\nCREATE VIEW v AS SELECT ';' -- x\n;")
    return chance.choice(["\n", "\n", "\r\n"]).join(parts).encode()
