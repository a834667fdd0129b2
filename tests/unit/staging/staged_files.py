"""Read staged files with readers that are not ours, and hold them against what SQLite makes of the dump."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import pyarrow.parquet as pq

from airflow_provider_d1.staging.manifest import MANIFEST_KEY, Manifest
from airflow_provider_d1.staging.staging_run import is_run_id
from tests.unit.dump.dump_oracle import expected_type, for_sqlite, read_with_sqlite

if TYPE_CHECKING:
    from airflow_provider_d1.staging.manifest_tables import FileEntry, TableEntry


def assert_true_to(dump: bytes, manifest: Manifest, folder: Path) -> None:
    """Compare tables, types, counts, values, sizes and hashes; the folder holds the listed files and nothing else."""
    expected = read_with_sqlite(for_sqlite(dump))
    assert [table.name for table in manifest.tables] == list(expected)
    for table in manifest.tables:
        judge = expected[table.name]
        stored = [(name, declared, pk) for _, name, declared, _, _, pk, hidden in judge.xinfo if not hidden]
        assert [(c.name, c.declared_type, c.primary_key) for c in table.columns] == stored
        assert list(table.generated) == [name for _, name, *_, hidden in judge.xinfo if hidden]
        staged = staged_columns(manifest, table)
        for column in table.columns:
            rows = judge.columns[column.name]
            kinds = [kind for kind, *_ in rows]
            assert column.storage.to_dict() == {kind: kinds.count(kind) for kind in column.storage.to_dict()}
            assert len(rows) == table.rows
            kind = expected_type(rows)
            if kind is not None:
                assert column.type == {"double": "float64"}.get(str(kind), str(kind))
            values, wanted = staged[column.name], [as_staged(row, column.type) for row in rows]
            if judge.without_rowid:
                values, wanted = sorted(values, key=repr), sorted(wanted, key=repr)
            assert list(map(repr, values)) == list(map(repr, wanted)), (table.name, column.name)
    assert_folder_is_what_the_manifest_lists(manifest, folder)


def assert_folder_is_what_the_manifest_lists(manifest: Manifest, folder: Path) -> None:
    """A run's own folder or the command line's output: the listed files with their manifest, and nothing else."""
    own = folder / str(manifest.run)
    if own.is_dir():
        assert sorted(path.name for path in folder.iterdir() if not is_run_id(path.name)) == [MANIFEST_KEY]
        assert (folder / MANIFEST_KEY).read_bytes() == (own / MANIFEST_KEY).read_bytes()
        folder = own
    listed = {path_of(file): file for file in manifest.all_files}
    assert set(folder.rglob("*")) == set(listed) | {path.parent for path in listed} - {folder} | {folder / MANIFEST_KEY}
    for path, file in listed.items():
        content = path.read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.bytes, file.sha256)


def as_staged(row: tuple, staged_type: str) -> Any:
    """What a file must hold for (typeof, value, text form)."""
    kind, value, text = row
    if kind == "null":
        return None
    return {"int64": lambda: value, "float64": lambda: float(value), "binary": lambda: value, "string": lambda: text}[
        staged_type
    ]()


def staged_columns(manifest: Manifest, table: TableEntry) -> dict[str, list[Any]]:
    """The columns of a staged table, all parts together."""
    columns: dict[str, list[Any]] = {column.name: [] for column in table.columns}
    for file in table.files:
        part = read_part(manifest, table, file)
        assert list(part) == list(columns)
        for name, values in part.items():
            assert len(values) == file.rows
            columns[name] += values
    return columns


def path_of(file: FileEntry) -> Path:
    return Path(unquote(urlparse(file.uri).path))


def read_part(manifest: Manifest, table: TableEntry, file: FileEntry) -> dict[str, list[Any]]:
    path = path_of(file)
    if manifest.format == "parquet":
        with pq.ParquetFile(path) as part:
            names = {"double": "float64", "date32[day]": "date32"}
            assert [names.get(str(f.type), str(f.type)) for f in part.schema_arrow] == [c.type for c in table.columns]
            return part.read().to_pydict()
    text = gzip.decompress(path.read_bytes()).decode()
    types = {column.name: column.type for column in table.columns}
    if manifest.format == "jsonl":
        rows = [json.loads(line) for line in text.split("\n")[:-1]]
        assert all(list(row) == list(types) for row in rows)
        return {name: [from_json(row[name], kind) for row in rows] for name, kind in types.items()}
    header, *records = rfc4180(text)
    assert [name for name, _ in header] == list(types)
    return {name: [from_csv(r[index], kind) for r in records] for index, (name, kind) in enumerate(types.items())}


def from_json(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "int64":
        assert isinstance(value, int)
    return {"binary": bytes.fromhex, "float64": float}.get(kind, lambda same: same)(value)


def from_csv(cell: tuple[str, bool], kind: str) -> Any:
    text, was_quoted = cell
    if not text and not was_quoted:
        return None
    return {"int64": int, "float64": float, "binary": bytes.fromhex}.get(kind, str)(text)


def rfc4180(text: str) -> Iterator[list[tuple[str, bool]]]:
    """Read CSV and keep whether a field was quoted, which Python's own reader forgets."""
    at = 0
    while at < len(text):
        record: list[tuple[str, bool]] = []
        while True:
            if text[at] == '"':
                end = at + 1
                while text[(end := text.index('"', end)) : end + 2] == '""':
                    end += 2
                record.append((text[at + 1 : end].replace('""', '"'), True))
                at = end + 1
            else:
                end = min(stop for stop in (text.find(",", at), text.find("\n", at)) if stop >= 0)
                record.append((text[at:end], False))
                at = end
            assert text[at] in ",\n"
            at += 1
            if text[at - 1] == "\n":
                break
        yield record
