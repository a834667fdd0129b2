"""Redshift's statements in their order, on Postgres, with COPY read by the test: see redshift_on_postgres.py."""

from __future__ import annotations

import datetime as dt
import re
import secrets
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from airflow.providers.amazon.aws.hooks.redshift_sql import RedshiftSQLHook
from airflow.providers.common.compat.sdk import AirflowFailException

from tests.integration.dag_runs import BUCKET
from tests.integration.warehouses.interleaving import Interleaving
from tests.integration.warehouses.redshift_on_postgres import Redshift
from tests.integration.warehouses.staged import write_staged
from tests.integration.warehouses.warehouse_engines import CONN_ID

MOMENTS = [
    *map(
        dt.datetime.fromisoformat,
        [
            "0001-01-01",
            "1969-12-31T23:59:59.999999",
            "1970-01-01",
            "2024-02-29T12:30:01.250001",
            "9999-12-31T23:59:59.999999",
        ],
    ),
    None,
]
USERS = pa.table(
    {
        "Id": pa.array([1, -(2**63), 2**63 - 1, 4, 5, 6]),
        "a b": ["it's \\ \n\t", None, "", "é", " ", "\\'"],
        "x": pa.array([b"\0\xff", None, b"", b"x", b"'", b"\\"], pa.binary()),
        "f": [1.0, None, -0.5, 1e300, float("inf"), 5e-324],
        "at": pa.array(MOMENTS, pa.timestamp("us")),
        "day": pa.array([moment and moment.date() for moment in MOMENTS], pa.date32()),
    }
)
MORE = pa.concat_tables([USERS.slice(3, 1), USERS.slice(5, 1)])
LONG = "é" * 40_000
KEYS = {"users": ["Id"]}


@pytest.fixture
def engine(postgres: Any, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Redshift:
    engine = Redshift(postgres, s3)
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", engine.airflow_connection())
    monkeypatch.setattr(RedshiftSQLHook, "get_conn", lambda _: engine.connect())
    return engine


@pytest.fixture
def schema() -> str:
    return f"staging {secrets.token_hex(4)}"


@pytest.fixture
def stage(s3: Any, tmp_path: Path):
    """Stage tables as another export each time, in S3; returns the manifest's URI."""
    count, client, run = 0, s3.client(), secrets.token_hex(4)

    def write(tables: dict[str, pa.Table], **options: Any) -> str:
        nonlocal count
        count += 1
        folder, prefix = tmp_path / f"export{count}", f"d1/it's {run}/export{count}"
        folder.mkdir()
        uri = write_staged(
            folder, tables, uri=f"s3://{BUCKET}/{prefix}", **{"bookmark": f"b-{count}", "rows_in_part": 4, **options}
        )
        for path in folder.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), BUCKET, f"{prefix}/{path.relative_to(folder)}")
        return uri

    return write


def values(*contents: pa.Table) -> list[tuple[Any, ...]]:
    return sorted((tuple(row.values()) for content in contents for row in content.to_pylist()), key=repr)


def left_in_bucket(s3: Any) -> list[str]:
    """What the loads have put into the bucket and not deleted."""
    found = s3.client().list_objects_v2(Bucket=BUCKET, Prefix="d1/it's").get("Contents", [])
    return [entry["Key"] for entry in found if "/_copy_" in entry["Key"]]


def test_replace_and_append(engine, schema, load_staged, stage, s3) -> None:
    first, second = stage({"Users": USERS, "Été": USERS.slice(0, 0)}), stage({"Users": MORE})
    for _ in range(2):  # the first one makes the table, the second one replaces its rows
        assert load_staged(first)["rows"] == 6
        assert engine.rows(schema, "users") == values(USERS)
    assert engine.rows(schema, "Été") == []
    assert load_staged(first, mode="append")["skipped"] is True  # names are found as they are stored
    kinds = [kind for _, kind in engine.columns(schema, "users")]
    text, moment = "character varying", "timestamp without time zone"
    assert kinds == ["bigint", text, "bytea", "double precision", moment, "date"]
    for skipped in (False, True):
        result = load_staged(second, mode="append", iam_role="default")
        assert result["skipped"] is skipped
    assert engine.rows(schema, "users") == values(USERS, MORE)
    load_staged(stage({"Users": MORE.select(["at", "Id"])}))
    assert engine.rows(schema, "users") == values(MORE.select(["at", "Id"]))
    assert engine.tables(schema) == {"users", "Été", "_d1_loads"}
    assert left_in_bucket(s3) == []
    assert [row[3:] for row in engine.loads(schema)] == [(6, "replace"), (0, "replace")] * 2 + [
        (2, "append"),
        (2, "replace"),
    ]


@pytest.mark.parametrize("delete_missing", [False, True])
def test_merge(engine, schema, load_staged, stage, delete_missing) -> None:
    load_staged(stage({"users": USERS}, keys=KEYS))
    changed = MORE.set_column(1, "a b", pa.array(["new", None]))
    uri = stage({"users": changed}, keys=KEYS)
    for _ in range(2):
        load_staged(uri, mode="merge", delete_missing=delete_missing)
        others = [] if delete_missing else [USERS.slice(0, 3), USERS.slice(4, 1)]
        assert engine.rows(schema, "users") == values(changed, *others)
    assert engine.tables(schema) == {"users", "_d1_loads"}


def test_the_lock_is_the_first_statement_of_the_only_transaction(engine, schema, load_staged, stage) -> None:
    load_staged(stage({"users": USERS}))
    begin = engine.statements.index("BEGIN")
    assert engine.statements[begin + 1].startswith("LOCK ")
    assert engine.statements.count("BEGIN") == engine.statements.count("COMMIT") == 1
    before = [statement.split()[0] for statement in engine.statements[:begin]]
    assert before == ["SET", "SELECT", "CREATE", "SELECT", "CREATE"]
    assert engine.statements[0] == "SET enable_case_sensitive_identifier TO false"
    engine.statements.clear()
    load_staged(stage({"users": USERS}))
    assert [statement.split()[0] for statement in engine.statements[: engine.statements.index("BEGIN")]] == [
        "SET",
        "SELECT",
        "SELECT",
    ]


@pytest.mark.parametrize("isolation", ["serializable", "repeatable read"])
@pytest.mark.parametrize("same", [True, False])
def test_two_loads_at_once(engine, schema, load_staged, stage, isolation, same) -> None:
    """The second one begins when the first one has its lock, and sees what that one has committed."""
    engine.isolation = isolation
    load_staged(stage({"users": USERS}))
    one, other = stage({"users": MORE}), stage({"users": USERS.slice(1, 1)})
    with Interleaving(blocked=2) as loads:
        loads.start("one", lambda: load_staged(one, mode="append"))
        loads.run_until("one", lambda statement: "COPY" in statement)
        loads.start("other", lambda: load_staged(one if same else other, mode="append"))
        for _ in range(2):
            loads.step("other")
        assert loads.finish("one")["rows"] == 2
        result = loads.finish("other")
    assert result["skipped"] is same
    assert engine.rows(schema, "users") == values(USERS, MORE, *([] if same else [USERS.slice(1, 1)]))
    sequences = engine.execute(f"SELECT sequence FROM {engine.quoted(schema, '_d1_loads')} ORDER BY 1")
    assert sequences == [(number,) for number in range(1, 3 if same else 4)]


@pytest.mark.parametrize("moments", [True, False])
def test_a_text_that_is_too_long(engine, schema, load_staged, stage, s3, moments) -> None:
    load_staged(stage({"users": MORE.select(["Id", "a b"])}))
    before = engine.rows(schema, "users")
    long = pa.table({"Id": list(range(6)), "a b": ["x", LONG, None, "x" * 65535, "x" * 65536, "y"]})
    if moments:
        long = long.append_column("at", USERS["at"])
    uri = stage({"users": long})
    problem = r"'users' is not loaded: .*65,535 bytes, 2 in column 'a b'.*on_long_text='truncate'"
    with pytest.raises(AirflowFailException, match=problem):
        load_staged(uri)
    assert engine.rows(schema, "users") == before
    assert left_in_bucket(s3) == []

    result = load_staged(uri, on_long_text="truncate")
    assert result["tables"]["users"]["texts_truncated"] == {"a b": 2}
    cut = ["x", "é" * 32767, None, "x" * 65535, "x" * 65535, "y"]
    assert engine.rows(schema, "users") == values(long.set_column(1, "a b", pa.array(cut)))
    assert left_in_bucket(s3) == []
    with pytest.raises(AirflowFailException, match="on_long_text is 'cut': expected 'fail' or 'truncate'"):
        load_staged(uri, on_long_text="cut")


def test_only_parts_that_need_it_are_written_again(engine, schema, load_staged, stage) -> None:
    long = pa.table({"id": list(range(5)), "text": ["x", None, "", "y", LONG]})
    load_staged(stage({"users": long}), on_long_text="truncate", verify_checksums=True)
    assert engine.rows(schema, "users") == values(
        long.set_column(1, "text", pa.array(["x", None, "", "y", "é" * 32767]))
    )
    assert [bool(re.search(r"/t0/part-00000\.parquet$", uri)) for uri in engine.copied] == [True, False]
    engine.copied.clear()
    load_staged(stage({"users": long.slice(0, 4)}))
    assert ["/t0/part-" in uri for uri in engine.copied] == [True]


def test_an_error_of_the_record_leaves_everything_as_it_was(
    engine, schema, load_staged, stage, s3, monkeypatch
) -> None:
    from airflow_provider_d1.warehouses import load_history

    load_staged(stage({"users": USERS}))
    monkeypatch.setattr(load_history, "insert_statement", lambda *_: "INSERT INTO no such table")
    with pytest.raises(AirflowFailException, match="Redshift rejected the load; no table was changed"):
        load_staged(stage({"users": MORE, "more": MORE}))
    assert engine.rows(schema, "users") == values(USERS)
    assert engine.tables(schema) == {"users", "_d1_loads"}
    assert left_in_bucket(s3) == []


def test_the_keys_are_in_no_log(engine, load_staged, stage, s3, caplog) -> None:
    caplog.set_level("DEBUG")
    load_staged(stage({"users": USERS}))
    (copy,) = [statement for statement in engine.statements if statement.startswith("COPY")]
    assert s3.secret_key in copy
    assert s3.secret_key not in caplog.text
    assert re.search(r"Running: COPY .* SECRET_ACCESS_KEY '\*\*\*'", caplog.text)
