"""Staged files as staging writes them, made from Arrow tables by hand: no test of a loader depends on the stager."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIX = {"parquet": ".parquet", "csv": ".csv.gz", "jsonl": ".jsonl.gz"}


def write_staged(
    folder: Path,
    tables: Mapping[str, pa.Table],
    file_format: str = "parquet",
    *,
    database_id: str | None = "11111111-2222-3333-4444-555555555555",
    database_name: str | None = "shop",
    bookmark: str | None = "bookmark-1",
    rows_in_part: int = 1000,
    keys: Mapping[str, Sequence[str]] | None = None,
    declared: Mapping[str, str] | None = None,
    uri: str | None = None,
) -> str:
    """Write parts and manifest into ``folder`` and return the manifest's URI.

    :param keys: table → its primary key.
    :param declared: column → its declared type.
    :param uri: what the folder is called in the manifest; by default its ``file://`` URI.
    """
    uri = uri or f"file://{quote(str(folder))}"
    entries = []
    for number, (name, table) in enumerate(tables.items()):
        place = folder / f"t{number}"
        place.mkdir(parents=True, exist_ok=True)
        files = []
        for part, start in enumerate(range(0, max(1, table.num_rows), rows_in_part)):
            rows = table.slice(start, rows_in_part)
            path = place / f"part-{part:05d}{SUFFIX[file_format]}"
            _write(path, rows, file_format)
            content = path.read_bytes()
            files.append(
                {
                    "uri": f"{uri}/t{number}/{path.name}",
                    "rows": rows.num_rows,
                    "bytes": len(content),
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
            )
        entries.append(_entry(name, table, files, (keys or {}).get(name, ()), declared or {}))
    manifest = {
        "version": 1,
        "created_at": "2026-11-22T00:00:00+00:00",
        "provider_version": "0",
        "source": {
            "account_id": None,
            "database_id": database_id,
            "database_name": database_name,
            "bookmark": bookmark,
            "filename": None,
            "started_at": None,
            "completed_at": None,
            "unavailable_seconds": None,
            "restarts": 0,
            "options": {"tables": None, "no_data": False, "no_schema": False},
            "skipped": [],
        },
        "dump": {"bytes": 1, "sha256": hashlib.sha256(repr(tables).encode()).hexdigest()},
        "format": file_format,
        "compression": "zstd" if file_format == "parquet" else "gzip",
        **({} if file_format == "parquet" else {"binary_encoding": "hex"}),
        "tables": entries,
    }
    (folder / "_manifest.json").write_text(json.dumps(manifest))
    return f"{uri}/_manifest.json"


def edit_manifest(folder: Path, change: Any) -> None:
    """Change a manifest as an accident would: ``change`` gets its dict."""
    path = folder / "_manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def _entry(
    name: str,
    table: pa.Table,
    files: Sequence[Mapping[str, Any]],
    key: Sequence[str],
    declared: Mapping[str, str],
) -> dict[str, Any]:
    nothing = {"integer": 0, "real": 0, "text": 0, "blob": 0}
    columns = [
        {
            "name": field.name,
            "declared_type": declared.get(field.name, ""),
            "type": {"date32[day]": "date32", "double": "float64"}.get(str(field.type), str(field.type)),
            "nullable": True,
            "primary_key": list(key).index(field.name) + 1 if field.name in key else 0,
            "storage": {**nothing, "null": table.num_rows},
            "lossy": {
                "unsafe_integers": 0,
                "infinities": 0,
                "ambiguous_newlines": 0,
                "replacement_characters": 0,
            },
        }
        for field in table.schema
    ]
    return {"name": name, "rows": table.num_rows, "ddl": "", "schema_hash": "", "columns": columns, "files": files}


def _write(path: Path, table: pa.Table, file_format: str) -> None:
    if file_format == "parquet":
        pq.write_table(table, path, compression="zstd")
        return
    with gzip.open(path, "wb") as file:
        if file_format == "csv":
            file.write((",".join(_quoted(name) for name in table.column_names) + "\n").encode())
        for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if file_format == "csv":
                file.write((",".join(_csv(value) for value in row) + "\n").encode())
            else:
                record = {name: _json(value) for name, value in zip(table.column_names, row, strict=True)}
                file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())


def _quoted(text: str) -> str:
    doubled = text.replace('"', '""')
    return f'"{doubled}"'


def _csv(value: Any) -> str:
    if value is None:
        return ""
    plain = _json(value)
    return _quoted(plain) if isinstance(value, str | bytes) else str(plain)


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex().upper()
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, str | int | float) else str(value)
