"""What Redshift's ``COPY`` reads: a COPY manifest, and copies of the parts that it can't load as they are staged.

``COPY`` of Parquet is Redshift Spectrum. It does not know the annotation of a staged ``timestamp[us]`` (a logical type
without a converted one) and makes other moments of the values, without an error: https://github.com/apache/arrow/issues/38000.
It fails at a text that is too long, and for Parquet there is no TRUNCATECOLUMNS. Those parts are written again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses.batches import staged_batches
from airflow_provider_d1.warehouses.plan import Column, LoadPlan, Table, leftover_helpers
from airflow_provider_d1.warehouses.staged_files import StagedFiles, split_s3

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_d1.warehouses.table_load import TableLoad

#: bytes of UTF-8 in the longest varchar
MAX_TEXT = 65535


@dataclass(frozen=True, slots=True)
class CopyFile:
    """A file that ``COPY`` reads, and its length, which Parquet needs."""

    uri: str
    bytes: int


def copied_columns(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns as ``COPY`` gets them: moments as microseconds since 1970."""
    return tuple(replace(column, type="int64") if column.type == "timestamp[us]" else column for column in columns)


def moment(microseconds: str) -> str:
    """The timestamp for an expression of microseconds since 1970.

    Seconds and microseconds each, as an interval is multiplied as a double, which holds no more than 53 bits.
    """
    return (
        f"TIMESTAMP 'epoch' + {microseconds} / 1000000 * INTERVAL '1 second' "
        f"+ MOD({microseconds}, 1000000) * INTERVAL '1 microsecond'"
    )


def manifest_uri(plan: LoadPlan, work: TableLoad) -> str:
    """Where the COPY manifest is put while the load runs: beside the staged one."""
    return f"{_folder(plan)}{work.into}.json"


def copy_manifest(files: Sequence[CopyFile]) -> dict[str, Any]:
    """What COPY reads: every file, none of them optional."""
    return {"entries": [{"url": file.uri, "mandatory": True, "meta": {"content_length": file.bytes}} for file in files]}


@contextmanager
def copy_files(s3: Any, files: StagedFiles, plan: LoadPlan, work: TableLoad, *, truncates: bool) -> Iterator[None]:
    """Put the COPY manifest, and copies of parts where they are needed, into the bucket; delete them at the end.

    Texts that were cut are counted in ``work.texts_truncated``.

    :param truncates: cut texts that are too long.
    :raises D1WarehouseError: for such texts otherwise, where the parts are read here at all.
    """
    made: list[str] = []
    try:
        if truncates or copied_columns(work.columns) != work.columns:
            copied = _copies(s3, files, plan, work, made, truncates=truncates)
        else:
            files.check_contents(work.table)
            copied = [CopyFile(part.uri, part.bytes) for part in work.table.parts]
        made.append(manifest_uri(plan, work))
        bucket, key = split_s3(made[-1])
        s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(copy_manifest(copied)).encode())
        yield
    finally:
        for uri in made:
            bucket, key = split_s3(uri)
            s3.delete_object(Bucket=bucket, Key=key)


def _copies(
    s3: Any, files: StagedFiles, plan: LoadPlan, work: TableLoad, made: list[str], *, truncates: bool
) -> list[CopyFile]:
    result: list[CopyFile] = []
    long: dict[str, int] = {}
    converts = copied_columns(work.columns) != work.columns
    for number, part in enumerate(part for part in work.table.parts if part.rows):
        with tempfile.TemporaryDirectory(prefix="d1-load-") as folder:
            path = Path(folder) / "copy.parquet"
            counts = _write_copy(files, replace(work.table, parts=(part,)), path)
            for column, count in counts.items():
                long[column] = long.get(column, 0) + count
            if not counts and not converts:
                result.append(CopyFile(part.uri, part.bytes))
            elif not long or truncates:
                made.append(f"{_folder(plan)}{work.into}-{number:05d}.parquet")
                result.append(CopyFile(made[-1], path.stat().st_size))
                bucket, key = split_s3(made[-1])
                s3.upload_file(str(path), bucket, key)
    if long and not truncates:
        raise long_texts(work.table, long)
    work.texts_truncated.update(long)
    return result


def _write_copy(files: StagedFiles, table: Table, path: Path) -> dict[str, int]:
    """Write a table's parts again as one file that COPY can load; count the texts that are cut, by column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts: dict[str, int] = {}
    writer: pq.ParquetWriter | None = None
    try:
        for batch in staged_batches(files, table, "parquet"):
            arrays = []
            for column, array in zip(table.columns, batch.columns, strict=True):
                if pa.types.is_timestamp(array.type):
                    arrays.append(array.cast(pa.int64()))
                elif pa.types.is_string(array.type):
                    short, cut = _shortened(array)
                    arrays.append(short)
                    if cut:
                        counts[column.name] = counts.get(column.name, 0) + cut
                else:
                    arrays.append(array)
            copied = pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
            if writer is None:
                writer = pq.ParquetWriter(path, copied.schema, compression="snappy")
            writer.write_batch(copied)
    finally:
        if writer is not None:
            writer.close()
    return counts


def _shortened(texts: pa.StringArray) -> tuple[pa.StringArray, int]:
    """Texts of at most :data:`MAX_TEXT` bytes of UTF-8, cut between characters, and how many were cut."""
    import pyarrow as pa
    import pyarrow.compute as pc

    long = pc.greater(pc.binary_length(texts), MAX_TEXT)
    count = int(pc.sum(long).as_py() or 0)
    if not count:
        return texts, 0
    cut = [text.as_py().encode()[:MAX_TEXT].decode(errors="ignore") for text in texts.filter(long)]
    return pc.replace_with_mask(texts, pc.fill_null(long, False), pa.array(cut, pa.string())), count


def count_long_texts(files: StagedFiles, table: Table) -> dict[str, int]:
    """Read a table's parts and count the texts that Redshift can't hold, by column."""
    import pyarrow as pa

    counts: dict[str, int] = {}
    for batch in staged_batches(files, table, "parquet"):
        for column, array in zip(table.columns, batch.columns, strict=True):
            if pa.types.is_string(array.type) and (count := _shortened(array)[1]):
                counts[column.name] = counts.get(column.name, 0) + count
    return counts


def long_texts(table: Table, counts: dict[str, int]) -> D1WarehouseError:
    """The error for texts that are too long."""
    found = ", ".join(f"{count} in column {column!r}" for column, count in counts.items())
    return D1WarehouseError(
        f"table {table.name!r} is not loaded: texts of more than {MAX_TEXT:,} bytes, {found}; Redshift's varchar holds "
        "no longer ones. Pass on_long_text='truncate' to cut them, or leave the table out with tables=[…]"
    )


def delete_leftovers(s3: Any, plan: LoadPlan) -> None:
    """Remove what loads that were killed have left beside the manifest, where this is allowed."""
    bucket, start = split_s3(_folder(plan))
    with suppress(Exception):
        listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"{start}_d1_new_").get("Contents", [])
        keys: dict[str, list[str]] = {}
        for entry in listed:
            helper = entry["Key"].removeprefix(start).partition(".")[0].partition("-")[0]
            keys.setdefault(helper, []).append(entry["Key"])
        for helper in leftover_helpers(keys):
            for key in keys[helper]:
                s3.delete_object(Bucket=bucket, Key=key)


def _folder(plan: LoadPlan) -> str:
    """What the URIs of all such files begin with."""
    return f"{plan.origin.manifest.rpartition('/')[0]}/_copy_"
