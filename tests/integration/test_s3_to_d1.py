"""Files and staged manifests in a real S3 server become rows in D1, exactly and once."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import math
import secrets
from collections.abc import Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.hooks.d1 import D1Hook
from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator
from airflow_provider_d1.transfers.s3_to_d1 import S3ToD1Operator
from tests.integration.dag_runs import BUCKET

if TYPE_CHECKING:
    from harness.seaweed import S3Server

SOURCE = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, "we""ird" REAL);
INSERT INTO users VALUES (1, 'a' || char(10) || 'b''c', 1.0), (2, '', 9e999), (3, 'NUL' || char(0) || '!', -9e999),
  (4, 'é漢🙂', NULL), (9007199254740991, '', 1e300);
CREATE TABLE "order" (id INTEGER, user INTEGER REFERENCES users, raw BLOB, x, day DATE);
INSERT INTO "order" VALUES (1, 1, x'', 1, '2026-11-27'), (2, 3, x'00ff27', 2.5, '2026-11-28'),
  (3, NULL, zeroblob(150000), 4, NULL);
CREATE TABLE vacant (a TEXT);
"""
TARGET = """
CREATE TABLE t (i INTEGER, r REAL, s TEXT, b BLOB, d DECIMAL(10, 2), day DATE, x);
CREATE TABLE parent (id INTEGER PRIMARY KEY);
CREATE TABLE bystander (id INTEGER REFERENCES parent, parent REFERENCES child ON DELETE SET NULL);
CREATE TABLE child (id INTEGER REFERENCES parent ON DELETE CASCADE);
INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1);
"""
COLUMNS = "i, r, s, b, d, day, x"


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator(
        f"tok-{secrets.token_hex(16)}", databases={"source": SOURCE, "copy": "", "files": TARGET}
    ) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: Emulator, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    definition = {
        "conn_type": "d1",
        "host": running.url,
        "password": running.token,
        "extra": {"account_id": running.account_id},
    }
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(definition))
    running.reset()
    return running


def context(run_id: str = "run") -> dict[str, Any]:
    return {"ti": SimpleNamespace(dag_id="d", task_id="t", run_id=run_id, map_index=-1, max_tries=1)}


def load(run_id: str | None = None, **arguments: Any) -> dict[str, Any]:
    operator = S3ToD1Operator(task_id="load", deferrable=False, **arguments)
    return operator.execute(context(run_id or secrets.token_hex(4)))


def rows(database: str, sql: str) -> list[tuple[Any, ...]]:
    return D1Hook(database=database, log_sql=False).get_records(sql)


def put(s3: S3Server, key: str, data: bytes) -> str:
    s3.client().put_object(Bucket=BUCKET, Key=key, Body=data)
    return key


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def typed(found: list[tuple[Any, ...]]) -> list[list[tuple[str, Any]]]:
    return [[(type(value).__name__, value) for value in row] for row in found]


@pytest.mark.parametrize("file_format", ["parquet", "csv", "jsonl"])
def test_a_staged_manifest_becomes_the_same_tables(emulator: Emulator, s3: S3Server, file_format: str) -> None:
    staged = D1ToS3Operator(
        task_id="stage", database="source", s3_bucket=BUCKET, s3_prefix=f"to-d1/{file_format}", file_format=file_format,
        audit_columns=True, deferrable=False,
    ).execute(context())  # fmt: skip
    for _ in range(2):  # the second time the tables exist, and their rows are replaced
        result = load(manifest=staged, database="copy")
        assert result["tables"] == {"users": {"rows": 5}, "order": {"rows": 3}, "vacant": {"rows": 0}}
        assert (result["rows"], result["mode"], result["source"]) == (8, "replace", staged["manifest"])
        for table in ("users", "order", "vacant"):
            columns = [row["name"] for row in D1Hook(database="source").query(f'PRAGMA table_info("{table}")')]
            sql = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
            for select in (
                f'SELECT {sql} FROM "{table}" ORDER BY rowid',
                f"SELECT sql FROM sqlite_schema WHERE name = '{table}'",
            ):
                assert typed(rows("copy", select)) == typed(rows("source", select))


def test_columns_of_several_types_are_refused(emulator: Emulator, s3: S3Server) -> None:
    hook = D1Hook(database="files")
    hook.run("CREATE TABLE IF NOT EXISTS mixed (a); DELETE FROM mixed; INSERT INTO mixed VALUES (1), ('x')")
    staged = D1ToS3Operator(
        task_id="stage", database="files", tables=["mixed"], s3_bucket=BUCKET, s3_prefix="to-d1/mixed", deferrable=False
    ).execute(context())
    with pytest.raises(AirflowFailException, match=r"table 'mixed', column 'a': it has values of several types"):
        load(manifest=staged, database="copy")


def test_a_staged_file_that_was_changed_is_refused(emulator: Emulator, s3: S3Server) -> None:
    staged = D1ToS3Operator(
        task_id="stage", database="source", s3_bucket=BUCKET, s3_prefix="to-d1/changed", deferrable=False
    ).execute(context())
    key = staged["tables"]["users"]["uris"][0].removeprefix(f"s3://{BUCKET}/")
    body = s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    put(s3, key, body[:100] + bytes([body[100] ^ 1]) + body[101:])
    with pytest.raises(Exception, match="another SHA-256 than the manifest says"):
        load(manifest=staged, database="copy", tables=["users"])
    assert emulator.calls.of("import_init") == []


NOON = dt.datetime(2026, 11, 27, 12, 30, 5, 250000)  # noqa: DTZ001
PARQUET = {
    "i": pa.array([2**63 - 1, -(2**63), None], pa.int64()),
    "r": pa.array([math.inf, 0.1, -math.inf]),
    "s": pa.array(["a\r\nb'\0c", "", None]),
    "b": pa.array([b"", b"\0\xff'", None]),
    "d": pa.array([Decimal("12.50"), Decimal("-0.01"), None]),
    "day": pa.array([dt.date(2026, 11, 27), None, None]),
    "x": pa.array([NOON, None, NOON]),
}
EXPECTED = [
    (2**63 - 1, math.inf, "a\r\nb'\0c", b"", 12.5, "2026-11-27", "2026-11-27 12:30:05.250000"),
    (-(2**63), 0.1, "", b"\0\xff'", -0.01, None, None),
    (None, -math.inf, None, None, None, None, "2026-11-27 12:30:05.250000"),
]


def test_parquet_files_with_their_types(emulator: Emulator, s3: S3Server) -> None:
    put(s3, "files/p/1.parquet", parquet(**PARQUET))
    put(s3, "files/p/2.parquet", parquet(x=[True, False], s=["x" * 120_000, "y"]))
    for _ in range(2):
        result = load(s3_bucket=BUCKET, s3_key="files/p/", table="t", database="files")
        assert result["tables"] == {"t": {"rows": 5}}
        found = rows("files", f"SELECT {COLUMNS} FROM t ORDER BY rowid")
        assert typed(found[:3]) == typed(EXPECTED)
        assert [row[2] for row in found[3:]] == ["x" * 120_000, "y"]
        assert typed([row[6:] for row in found[3:]]) == typed([(1,), (0,)])
    keys = ["files/p/1.parquet", "files/p/2.parquet"]
    result = load(s3_bucket=BUCKET, s3_key=keys, table="t", database="files")
    assert (result["rows"], result["source"]) == (5, f"s3://{BUCKET}/{keys[0]},{keys[1]}")


CSV = b"""i,s,r,x\r\n9223372036854775807,"a\nb""c",1e3,007\r\n,"",0.5,\r\n3,plain,,"1"\r\n"""


@pytest.mark.parametrize("packed", [False, True])
def test_csv_files_by_the_types_of_the_table(emulator: Emulator, s3: S3Server, packed: bool) -> None:
    key = put(s3, "files/c.csv" + (".gz" if packed else ""), gzip.compress(CSV) if packed else CSV)
    load(s3_bucket=BUCKET, s3_key=key, table="t", database="files")
    assert typed(rows("files", "SELECT i, s, r, x FROM t ORDER BY rowid")) == typed(
        [(2**63 - 1, 'a\nb"c', 1000.0, "007"), (None, "", 0.5, None), (3, "plain", None, "1")]
    )


def test_json_lines(emulator: Emulator, s3: S3Server) -> None:
    lines = [
        {"i": 2**62 + 1, "x": [1, {"a": "é"}], "s": "a\0b"},
        {"i": None, "x": True, "s": "\n"},
        {"r": 1.0, "x": 2},
    ]
    key = put(s3, "files/j.jsonl", b"\n".join(json.dumps(line).encode() for line in lines))
    load(s3_bucket=BUCKET, s3_key=[key], table="t", database="files")
    assert typed(rows("files", "SELECT i, x, s, r FROM t ORDER BY rowid")) == typed(
        [(2**62 + 1, '[1,{"a":"é"}]', "a\0b", None), (None, 1, "\n", None), (None, 2, None, 1.0)]
    )


def test_append_adds_once_for_a_run(emulator: Emulator, s3: S3Server) -> None:
    key = put(s3, "files/a.parquet", parquet(i=[1, 2]))
    D1Hook(database="files").run("DELETE FROM t")
    arguments = {"s3_bucket": BUCKET, "s3_key": key, "table": "t", "database": "files", "mode": "append"}
    assert not load("first", **arguments)["repeated"]
    assert load("first", **arguments)["repeated"]
    load("second", **arguments)
    assert rows("files", "SELECT i FROM t") == [(1,), (2,), (1,), (2,)]


@pytest.mark.parametrize("fault", ["lost_imports", "lost_import_answers"])
def test_an_append_whose_answer_is_lost_adds_once(emulator: Emulator, s3: S3Server, fault: str) -> None:
    key = put(s3, "files/l.parquet", parquet(i=[1, 2]))
    D1Hook(database="files").run("DELETE FROM t")
    emulator.faults.set({fault: 1})
    load(s3_bucket=BUCKET, s3_key=key, table="t", database="files", mode="append", max_restarts=1)
    assert rows("files", "SELECT i FROM t") == [(1,), (2,)]


@pytest.mark.parametrize(
    ("data", "key", "words"),
    [
        (parquet(r=[1.0, math.nan]), "n.parquet", r"n.parquet: table 't', row 1, column 'r': NaN is not an SQL value"),
        (parquet(nope=[1]), "c.parquet", "table t has no column named nope"),
        (b"not parquet", "b.parquet", "b.parquet: not a readable parquet file"),
        (b"[1]\n", "l.jsonl", "line 1 is not an object"),
        (b"x", "x.txt", "unknown format"),
        (json.dumps({"i": 2**64}).encode(), "i.jsonl", "integer beyond 64 bits"),
        (b"a,a\n1,2\n", "d.csv", "two columns have the same name"),
    ],
)
def test_files_that_cannot_be_loaded(emulator: Emulator, s3: S3Server, data: bytes, key: str, words: str) -> None:
    before = rows("files", "SELECT count(*) FROM t")
    with pytest.raises(AirflowFailException, match=words):
        load(s3_bucket=BUCKET, s3_key=put(s3, f"bad/{key}", data), table="t", database="files")
    assert rows("files", "SELECT count(*) FROM t") == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"s3_key": "nothing.parquet", "table": "t"}, "nothing.parquet: file not found"),
        ({"s3_key": "nothing/", "table": "t"}, "no files found"),
        ({"s3_key": "x.csv", "table": "T2"}, r"has no table 'T2'; did you mean 't'.*Create it first"),
        ({"s3_key": "x.csv", "table": "parent"}, r"'child' references 'parent' with ON DELETE CASCADE.*mode='append'"),
    ],
)
def test_what_is_refused_before_anything_is_sent(
    emulator: Emulator, s3: S3Server, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(AirflowFailException, match=words):
        load(s3_bucket=BUCKET, database="files", **arguments)
    assert emulator.calls.of("import_init") == []


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"manifest": "s3://b/_manifest.json", "table": "t"},
        {"s3_bucket": "b", "s3_key": "k"},
        {"manifest": "no uri"},
        {"manifest": "s3://b/m", "mode": "merge"},
    ],
)
def test_arguments_that_cannot_work(arguments: dict[str, Any]) -> None:
    with pytest.raises(D1ConfigurationError):
        S3ToD1Operator(task_id="load", **arguments)


def test_every_argument_but_one_is_templated() -> None:
    assert set(S3ToD1Operator.rules) == set(S3ToD1Operator.template_fields) | {"deferrable"}
