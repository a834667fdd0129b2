"""Byte mutations of real dumps against SQLite: no crash but D1DumpError, no hang, no wrong value accepted.

    nice -n 15 python -m tests.fuzz.fuzz_dump --minutes 30

Each round mutates a dump of the corpus (without its huge rows) or a random one, and reads it. What our reader refuses
with a D1DumpError is fine. What it accepts is run by SQLite; when that accepts it too, every table and value must be
the same. SQLite may refuse what we accept where we do not look: constraints, and what views, indexes and triggers hold.
A failure prints the seed and writes the dump; ``--seed N --rounds 1`` repeats it.
"""

from __future__ import annotations

import argparse
import collections
import signal
import sys
import time
from pathlib import Path
from random import Random

import apsw

from airflow_provider_d1.exceptions import D1DumpError
from tests.unit.dump.dump_maker import made_dump
from tests.unit.dump.dump_oracle import compare, for_sqlite, read_with_ours, read_with_sqlite

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 60
#: bytes that mean something to SQL or to the reader
MORSELS = [
    b"'", b"''", b'"', b"`", b"[", b"]", b",", b"(", b")", b";", b"\n", b"\r\n", b"\r", b" ", b"\t", b"\0", b"\xff",
    b"\xef\xbf\xbd",
    b"\xc3", b"--", b"/*", b"*/", b"NULL", b"null", b"X'", b"x'41'", b"'12'", b"12", b"-", b"+", b".", b"e5",
    b"0x1F", b"1_0",
    b"1e999", b"9e999", b"-9e999", b"Infinity", b"nan", b"9223372036854775807", b"9223372036854775808",
    b"-9223372036854775808",
    b"replace('a\\nb\\n','\\n',char(10))", b"replace('a\\nb\\012','\\012',char(10))", b"'\\012'", b"\\015",
    b"replace(", b"char(10)", b"unistr('\\u0041')", b"CAST(1 AS TEXT)", b"TRUE",
    b");\n", b"),(", b"VALUES(", b"INSERT INTO ", b"CREATE TABLE ", b"INTEGER", b" TEXT", b" REAL", b" NUMERIC",
    b" DEFAULT 1",
    b" PRIMARY KEY", b" STRICT", b" WITHOUT ROWID", b" -- x\n", b"END;", b"BEGIN;", b"COMMIT;", b"\\n", b"\\r",
    b"1.0", b"007",
    b" GENERATED ALWAYS AS (1)", b"COLLATE NOCASE", b"IF NOT EXISTS ", b"12345678901234567890123", b"\x0b", b"\x0c",
]  # fmt: skip


def mutate(dump: bytes, chance: Random) -> bytes:
    data = bytearray(dump)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        at = chance.randrange(len(data) + 1)
        length = chance.choice([0, 0, 1, 1, 2, 5, 40])
        kind = chance.randrange(7)
        if kind == 0:
            data[at : at + length] = chance.choice(MORSELS)
        elif kind == 1:
            data[at:at] = chance.choice(MORSELS)
        elif kind == 2:
            del data[at : at + max(1, length)]
        elif kind == 3 and at < len(data):
            data[at] = chance.randrange(256)
        elif kind == 4:
            other = chance.randrange(len(data) + 1)
            data[at : at + length] = data[other : other + chance.choice([1, 5, 40, 200])]
        elif kind == 5 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        else:  # exchange two fields of the dump
            parts = bytes(data).split(b",")
            one, two = chance.randrange(len(parts)), chance.randrange(len(parts))
            parts[one], parts[two] = parts[two], parts[one]
            data = bytearray(b",".join(parts))
    return bytes(data)


def corpus() -> list[bytes]:
    dumps = []
    for path in sorted((ROOT / "tests" / "data" / "corpus").glob("*.sql")):
        if "noschema" in path.name:
            continue
        lines = [line for line in path.read_bytes().split(b"\n") if len(line) < 10_000]
        dumps.append(for_sqlite(b"\n".join(lines)).replace(b"'||char(0)||'", b"\0"))
    return dumps


def too_long(*_: object) -> None:
    raise TimeoutError("the reader hangs")


def run(dump: bytes, chance: Random, seen: collections.Counter[str]) -> None:
    """Read one dump both ways; raise for what must not be."""
    signal.alarm(HANG_SECONDS)
    try:
        ours = read_with_ours(dump, block_size=chance.choice([1, 100, 1000, 1 << 20]))
    except D1DumpError:
        seen["refused"] += 1
        return
    finally:
        signal.alarm(0)
    try:
        expected = read_with_sqlite(for_sqlite(dump))
    except (apsw.Error, UnicodeDecodeError) as error:
        words = " ".join(str(error).split()[:3])
        seen["accepted; SQLite: " + words] += 1
        return
    compare(expected, ours)
    seen["accepted, same values"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**12)
    parser.add_argument("--rounds", type=int, default=10**12)
    parser.add_argument("--out", type=Path, default=Path.cwd(), help="where failing dumps go")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, too_long)
    sources = corpus()
    seen: collections.Counter[str] = collections.Counter()
    failures = 0
    started = time.monotonic()
    for seed in range(arguments.seed, arguments.seed + arguments.rounds):
        if time.monotonic() - started > arguments.minutes * 60 or failures >= 20:
            break
        chance = Random(seed)
        source = chance.choice(sources) if chance.random() < 0.5 else made_dump(chance)
        dump = mutate(source, chance)
        try:
            run(dump, chance, seen)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            failures += 1
            path = arguments.out / f"fuzz-{seed}.sql"
            path.write_bytes(dump)
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:300]} ({path})", flush=True)
    for what, count in seen.most_common(25):
        print(f"{count:8d}  {what}")
    print(f"{sum(seen.values()):8d}  dumps in {time.monotonic() - started:.0f} s, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
