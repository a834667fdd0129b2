"""The tables that the demo prints after a run, and the checks behind them."""

from __future__ import annotations

import json
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import duckdb
import zstandard

from airflow_provider_d1.cloudflare.client import D1Client

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.credentials import Credentials
    from harness.seaweed import S3Server


@dataclass(frozen=True)
class Staged:
    """One staged database: its manifest, and the bucket that holds it."""

    s3: S3Server
    bucket: str
    key: str
    manifest: Mapping[str, Any]

    @classmethod
    def read(cls, s3: S3Server, uri: str) -> Staged:
        """Read the manifest at an ``s3://`` URI."""
        bucket, key = uri.removeprefix("s3://").split("/", 1)
        body = s3.client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return cls(s3, bucket, key, json.loads(body))

    @property
    def database(self) -> str:
        """The database's name."""
        return str(self.manifest["source"]["database_name"])

    def rows(self) -> dict[str, int]:
        """Rows by table, as the manifest has them."""
        return {table["name"]: table["rows"] for table in self.manifest["tables"]}

    def parquet_rows(self, folder: Path) -> dict[str, int]:
        """Rows by table, as DuckDB counts them in the staged files."""
        counts = {}
        for number, table in enumerate(self.manifest["tables"]):
            files = []
            for part, file in enumerate(table["files"]):
                files.append(str(folder / f"{number}-{part}.parquet"))
                self._download(file["uri"], files[-1])
            counts[table["name"]] = duckdb.read_parquet(files).count("*").fetchall()[0][0]
        return counts

    def dump_rows(self, folder: Path) -> dict[str, int]:
        """Rows by table, as SQLite counts them after running the kept dump; empty without one."""
        if "uri" not in self.manifest["dump"]:
            return {}
        compressed = folder / "dump.sql.zst"
        self._download(self.manifest["dump"]["uri"], str(compressed))
        with compressed.open("rb") as file:
            script = zstandard.ZstdDecompressor().stream_reader(file).read().decode()
        # SQLite's parser ends at a NUL character; D1 writes those of a text as they are
        return table_rows(script.replace("\0", ""), self.rows())

    def objects(self) -> tuple[int, int]:
        """The number of objects below the prefix, and their total size."""
        prefix = self.key.rpartition("/")[0]
        pages = self.s3.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        sizes = [entry["Size"] for page in pages for entry in page.get("Contents", ())]
        return len(sizes), sum(sizes)

    def _download(self, uri: str, path: str) -> None:
        self.s3.client().download_file(self.bucket, uri.removeprefix(f"s3://{self.bucket}/"), path)


def table_rows(script: str, tables: Iterable[str]) -> dict[str, int]:
    """Run a dump in a new SQLite database and count the rows of tables."""
    database = apsw.Connection(":memory:")
    database.execute(script)
    return {name: database.execute(f'SELECT count(*) FROM "{_quoted(name)}"').fetchall()[0][0] for name in tables}


def source_rows(credentials: Credentials, database: str, tables: Iterable[str]) -> dict[str, int]:
    """Count the rows of tables in D1."""
    with D1Client(credentials) as client:
        uuid = client.get_database(database).uuid
        return {name: client.query(uuid, f'SELECT count(*) AS n FROM "{_quoted(name)}"')[0]["n"] for name in tables}


def _quoted(name: str) -> str:
    return name.replace('"', '""')


def show(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: numbers right-aligned, texts left-aligned and at most 60 characters."""
    lines = [[_cell(value) for value in row] for row in rows]
    widths = [max(_width(cell) for cell in column) for column in zip(head, *lines, strict=True)]
    numeric = [all(re.fullmatch(r"[\d.,-]*", line[i]) for line in lines) for i in range(len(head))]
    for line in [list(head), *lines]:
        cells = []
        for cell, width, to_the_right in zip(line, widths, numeric, strict=True):
            space = " " * (width - _width(cell))
            cells.append(space + cell if to_the_right else cell + space)
        print("  " + "  ".join(cells).rstrip())
    print()


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    text = "-" if value is None else str(value).replace("\n", "\\n")
    return text if len(text) <= 60 else f"{text[:59]}…"


def _width(text: str) -> int:
    """Columns on a terminal: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for files that only a check needs."""
    return tempfile.TemporaryDirectory(prefix="d1-demo-")
