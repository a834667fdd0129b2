"""Write a SQL dump of any size in D1's own encoding, streaming and deterministic for a given size.

Five tables, each with about a fifth of the bytes (``articles`` has more): integers and fractions, NUMERIC, DATETIME
and BOOLEAN columns, blobs, NULLs, quotes, columns that widen late, typeless columns, and long texts with newlines,
which D1 wraps in ``replace()``, for about 30 % of the bytes.

    python -m benchmarks.make_dump 500M dump.sql [--slow-path]

``--slow-path`` writes the largest 64-bit integer, as D1 rounds it, into one of a thousand rows: a number beyond 64
bits, which only the reader's exact path can parse.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

TEXT = """
the of and export database worker table row value query edge request latency cache region commit index schema don't
bookmark it's stream object bucket column night morning customer order invoice payment refund shipping delivery
"""
WORDS = TEXT.split()
UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}
CHUNK_ROWS = 500
#: where benchmarks keep their dumps; not under version control
DATA = Path(__file__).parent / "data"


def literal(text: str) -> str:
    """Encode a text as D1 does."""
    quoted = "'" + text.replace("'", "''") + "'"
    if "\r" in text:
        quoted = "replace(" + quoted.replace("\r", "\\r") + ",'\\r',char(13))"
    if "\n" in text:
        quoted = "replace(" + quoted.replace("\n", "\\n") + ",'\\n',char(10))"
    return quoted


def sentence(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=words)).capitalize() + "."


def page(chance: random.Random) -> str:
    """Return a long text with newlines, a third of them pretty JSON."""
    if chance.random() < 0.3:
        body = ",\n  ".join(f'"{chance.choice(WORDS)}": "{sentence(chance, 8)}"' for _ in range(chance.randint(4, 12)))
        return "{\n  " + body + "\n}"
    return "\n\n".join(sentence(chance, chance.randint(15, 60)) for _ in range(chance.randint(2, 6)))


class Pools:
    """Values made once and picked from, so that writing is fast; each pool's length is prime to the others'."""

    def __init__(self) -> None:
        chance = random.Random(20261122)
        self.names = [literal(sentence(chance, 2)[:-1]) for _ in range(1009)]
        self.lines = [literal(sentence(chance, chance.randint(4, 14))) for _ in range(2003)]
        self.pages = [literal(page(chance)) for _ in range(1511)]
        self.cents = [f"{chance.randrange(1, 10**6) / 100:.15g}" for _ in range(4001)]
        self.reals = [repr(chance.gauss(0, 50)) for _ in range(3001)]
        self.times = [
            f"'20{chance.randint(18, 26)}-{chance.randint(1, 12):02d}-{chance.randint(1, 28):02d}"
            f" {chance.randrange(24):02d}:{chance.randrange(60):02d}:{chance.randrange(60):02d}'"
            for _ in range(5003)
        ]
        self.blobs = ["NULL" if i % 5 == 0 else f"X'{chance.randbytes(24).hex()}'" for i in range(1999)]
        self.mixed = [
            chance.choice([str(i), repr(i + 0.5), f"'code {i}'", "NULL", f"X'{i:08x}'", "'12'"]) for i in range(997)
        ]
        self.statuses = ["'new'", "'paid'", "'sent'", "'returned'", "NULL"]


POOLS = Pools()


#: one row in so many has a value for the slow path: 2**63 - 1 as D1 dumps it
SLOW_EVERY = 1000
SLOW_NUMBER = "9223372036854776000"


def customers(i: int, done: float) -> str:  # noqa: ARG001
    p = POOLS
    note = p.pages[i % 1511] if i % 10 == 0 else (p.lines[i % 2003] if i % 3 else "NULL")
    return f"{i},{p.names[i % 1009]},'user{i}@example.com',{p.cents[i % 4001]},{i & 1},{p.times[i % 5003]},{note}"


def orders(i: int, done: float) -> str:  # noqa: ARG001
    p = POOLS
    return (
        f"{i},{i * 7919 % 100003},{p.cents[(i * 3) % 4001]},{i % 12},{p.reals[i % 3001]},{p.statuses[i % 5]},"
        f"{p.times[(i * 5) % 5003]},{p.blobs[i % 1999]}"
    )


def articles(i: int, done: float) -> str:  # noqa: ARG001
    p = POOLS
    return f"{i},{p.lines[i % 2003]},{p.pages[(i * 11) % 1511]},'en',{p.times[(i * 7) % 5003]}"


def events(i: int, done: float) -> str:  # noqa: ARG001
    p = POOLS
    return f"{i},{p.names[i % 1009]},{p.mixed[i % 997]},{1700000000 + i},{p.cents[(i * 9) % 4001]}"


def readings(i: int, done: float) -> str:
    p = POOLS
    reading = p.reals[i % 3001] if done > 0.8 and i % 7 == 0 else str(i * 31 % 9973)
    comment = p.lines[i % 2003] if done > 0.7 else "NULL"
    return f"{i},'sensor-{i % 211}',{reading},{p.cents[i % 4001] if i % 3 else i % 50},{i % 2},{comment}"


DDL = [
    (
        "CREATE TABLE customers(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, email TEXT, balance NUMERIC,"
        " active BOOLEAN, created_at DATETIME DEFAULT CURRENT_TIMESTAMP, notes TEXT)"
    ),
    (
        "CREATE TABLE orders(id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers(id), total DECIMAL(10,2),"
        " quantity INTEGER, weight REAL, status TEXT, placed_at DATETIME, payload BLOB)"
    ),
    (
        "CREATE TABLE articles(\n  id INTEGER PRIMARY KEY, -- one a page\n  title TEXT,\n  body TEXT,\n  lang TEXT,\n"
        "  published_at DATETIME\n)"
    ),
    "CREATE TABLE events(id INTEGER PRIMARY KEY, kind TEXT, value, at INTEGER, ratio NUMERIC)",
    (
        "CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor TEXT, reading INTEGER, level NUMERIC, ok BOOLEAN,"
        " comment TEXT)"
    ),
]
#: share of the bytes, columns, which of them is NUMERIC (0: none; no text before it has a comma), and what writes a
#: row: its number, and how much of the table is done
TABLES: list[tuple[float, str, int, Callable[[int, float], str]]] = [
    (0.2, "id name email balance active created_at notes", 3, customers),
    (0.2, "id customer_id total quantity weight status placed_at payload", 2, orders),
    (0.25, "id title body lang published_at", 0, articles),
    (0.15, "id kind value at ratio", 4, events),
    (0.2, "id sensor reading level ok comment", 3, readings),
]


def dump(size: int, *, slow_path: bool = False) -> Iterator[bytes]:
    """Yield a dump of about ``size`` bytes."""
    yield b"PRAGMA defer_foreign_keys=TRUE;"
    for ddl, (share, columns, numeric, row) in zip(DDL, TABLES, strict=True):
        yield f"\n{ddl};".encode()
        names = ",".join(f'"{column}"' for column in columns.split())
        prefix = f'\nINSERT INTO "{row.__name__}" ({names}) VALUES('
        budget = int(size * share)
        written, i = 0, 0
        while written < budget:
            done = written / budget
            rows = [row(j, done) for j in range(i + 1, i + 1 + CHUNK_ROWS)]
            if slow_path and numeric and i % SLOW_EVERY == 0:
                values = rows[0].split(",")
                values[numeric] = SLOW_NUMBER
                rows[0] = ",".join(values)
            chunk = "".join([f"{prefix}{values});" for values in rows]).encode()
            i += CHUNK_ROWS
            written += len(chunk)
            yield chunk
    yield b"\nANALYZE sqlite_schema;\nDELETE FROM sqlite_sequence;"
    yield b'\nINSERT INTO "sqlite_sequence" ("name","seq") VALUES(\'customers\',1000000);'
    yield b"\nCREATE INDEX orders_by_customer ON orders(customer_id);"


def in_bytes(size: str) -> int:
    """Read a size such as ``300M``."""
    unit = UNITS.get(size[-1].upper())
    return int(float(size[:-1]) * unit) if unit else int(size)


def kept_dump(size: str, folder: Path = DATA, *, slow_path: bool = False) -> Path:
    """Return the dump of a size, made once and kept in ``folder``."""
    path = folder / f"dump-{size}{'-slow-path' if slow_path else ''}.sql"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        write(size, unfinished, slow_path=slow_path)
        unfinished.rename(path)
    return path


def write(size: str, path: Path, *, slow_path: bool = False) -> None:
    """Write a dump of about a size."""
    with path.open("wb") as out:
        for chunk in dump(in_bytes(size), slow_path=slow_path):
            out.write(chunk)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", help="bytes, or with a unit: 300M, 2G")
    parser.add_argument("out", type=Path)
    parser.add_argument("--slow-path", action="store_true")
    arguments = parser.parse_args()
    write(arguments.size, arguments.out, slow_path=arguments.slow_path)
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
