"""MySQL and MariaDB: what is attached to a table stays, readers are not held up, and errors end as they should."""

from __future__ import annotations

import math
import random
import struct
import threading
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_d1.dump.text_form import real_to_text
from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses import mysql as mysql_loader
from airflow_provider_d1.warehouses import session as loader_session
from tests.integration.warehouses.warehouse_engines import CONN_ID, MySQL

OLD = pa.table({"id": [1, 2, 3], "name": ["Ada", "Grace", None], "boss": pa.array([None, 1, 1], pa.int64())})
NEW = pa.table({"id": [2, 3, 4], "name": ["Grace", "Edsger", "Alan"], "boss": pa.array([4, None, 3], pa.int64())})

#: one kind of object at a time. {t} is the loaded table, {s} the schema
ATTACHED: dict[str, list[str]] = {
    "index": ["CREATE INDEX by_name ON {t} (name(10))"],
    "primary key": ["ALTER TABLE {t} ADD PRIMARY KEY (id)"],
    "unique key": ["ALTER TABLE {t} ADD UNIQUE (name(10))"],
    "full text": ["ALTER TABLE {t} ADD FULLTEXT (name)"],
    "auto increment": ["ALTER TABLE {t} MODIFY id bigint AUTO_INCREMENT PRIMARY KEY"],
    "check": ["ALTER TABLE {t} ADD CONSTRAINT positive CHECK (id > 0)"],
    "not null and default": [
        "ALTER TABLE {t} ALTER name SET DEFAULT 'nobody'",
        "ALTER TABLE {t} MODIFY id bigint NOT NULL",
    ],
    "comment on a column": ["ALTER TABLE {t} MODIFY id bigint COMMENT 'the id'"],
    "comment on the table": ["ALTER TABLE {t} COMMENT 'the users'"],
    "row format": ["ALTER TABLE {t} ROW_FORMAT=COMPRESSED"],
    "partitions": ["ALTER TABLE {t} PARTITION BY HASH (id) PARTITIONS 3"],
    "collation": ["ALTER TABLE {t} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"],
    "trigger": ["CREATE TRIGGER {s}.note BEFORE INSERT ON {t} FOR EACH ROW SET @noted = NEW.id"],
    "view": ["CREATE VIEW {s}.names AS SELECT name FROM {t}"],
    "foreign key to another table": [
        "CREATE TABLE {s}.boss (id bigint PRIMARY KEY)",
        "INSERT INTO {s}.boss VALUES (1), (3), (4)",
        "ALTER TABLE {t} ADD FOREIGN KEY (boss) REFERENCES {s}.boss (id)",
    ],
    "foreign key to itself": [
        "ALTER TABLE {t} ADD PRIMARY KEY (id)",
        "ALTER TABLE {t} ADD FOREIGN KEY (boss) REFERENCES {t} (id) ON DELETE CASCADE",
    ],
    "foreign key from another table": [
        "ALTER TABLE {t} ADD PRIMARY KEY (id)",
        "CREATE TABLE {s}.orders (n int, user_id bigint, FOREIGN KEY (user_id) REFERENCES {t} (id) ON DELETE CASCADE)",
        "INSERT INTO {s}.orders VALUES (1, 2), (2, 3)",
    ],
    "foreign key to a unique column": [
        "ALTER TABLE {t} ADD UNIQUE (id)",
        "CREATE TABLE {s}.orders (n int, user_id bigint, FOREIGN KEY (user_id) REFERENCES {t} (id))",
        "INSERT INTO {s}.orders VALUES (1, 2), (2, 3)",
    ],
}


@pytest.fixture
def engine(mysql_engine: MySQL, monkeypatch: pytest.MonkeyPatch) -> MySQL:
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", mysql_engine.airflow_connection())
    return mysql_engine


@pytest.fixture
def names(engine, schema) -> dict[str, str]:
    return {"t": engine.quoted(schema, "users"), "s": engine.quoted(schema)}


@pytest.fixture
def stage(stage):
    return lambda users, **source: stage({"users": users}, **source)


def definition(engine: MySQL, schema: str, names: dict[str, str]) -> list[Any]:
    """What the server says about the tables, views and triggers of the schema, but for the counter of ids."""
    tables = [
        engine.execute(f"SHOW CREATE TABLE {engine.quoted(schema, name)}")
        for name in sorted(engine.tables(schema) - {"_d1_loads"})
    ]
    text = [str(table).partition("AUTO_INCREMENT=")[0] for table in tables]
    return [*text, engine.execute(f"SHOW TRIGGERS IN {names['s']}")]


def values(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


@pytest.mark.parametrize("kind", ATTACHED)
def test_replace_keeps_what_is_attached(engine, schema, load_staged, stage, names, kind) -> None:
    load_staged(stage(OLD))
    bare = definition(engine, schema, names)
    for statement in ATTACHED[kind]:
        engine.execute(statement.format(**names))
    before = definition(engine, schema, names)
    assert before != bare
    assert load_staged(stage(NEW))["rows"] == 3
    assert definition(engine, schema, names) == before
    assert engine.execute(f"SELECT id, name, boss FROM {names['t']} ORDER BY id") == values(NEW)
    if "orders" in engine.tables(schema):
        assert engine.execute(f"SELECT * FROM {names['s']}.orders ORDER BY n") == [(1, 2), (2, 3)]


@pytest.mark.parametrize("mode", ["append", "merge"])
@pytest.mark.parametrize("kind", ["index", "comment on a column", "partitions", "trigger", "view"])
def test_append_and_merge_keep_what_is_attached(engine, schema, load_staged, stage, names, mode, kind) -> None:
    load_staged(stage(OLD))
    for statement in ATTACHED[kind]:
        engine.execute(statement.format(**names))
    before = definition(engine, schema, names)
    added = NEW.slice(2)
    load_staged(stage(added, keys={"users": ["id"]}), mode=mode)
    assert definition(engine, schema, names) == before
    assert engine.execute(f"SELECT id, name, boss FROM {names['t']} ORDER BY id") == values(OLD) + values(added)


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "RESTRICT"])
def test_only_rows_that_are_gone_touch_those_that_refer_to_them(
    engine, schema, load_staged, stage, names, action
) -> None:
    load_staged(stage(OLD))
    engine.execute(f"ALTER TABLE {names['t']} ADD PRIMARY KEY (id)")
    engine.execute(
        f"CREATE TABLE {names['s']}.orders (n int, user_id bigint, "
        f"FOREIGN KEY (user_id) REFERENCES {names['t']} (id) ON DELETE {action})"
    )
    engine.execute(f"INSERT INTO {names['s']}.orders VALUES (1, 1), (2, 2), (3, 3)")
    if action == "RESTRICT":
        with pytest.raises(AirflowFailException, match="foreign key"):
            load_staged(stage(NEW))
        assert engine.execute(f"SELECT id, name, boss FROM {names['t']} ORDER BY id") == values(OLD)
        return
    load_staged(stage(NEW))
    kept = engine.execute(f"SELECT n, user_id FROM {names['s']}.orders ORDER BY n")
    assert kept == ([(2, 2), (3, 3)] if action == "CASCADE" else [(1, None), (2, 2), (3, 3)])


@pytest.mark.parametrize("kind", [kind for kind in ATTACHED if kind not in ("view", "row format", "collation")])
def test_other_columns_of_a_table_with_something_attached_are_refused(
    engine, schema, load_staged, stage, names, kind
) -> None:
    load_staged(stage(OLD))
    for statement in ATTACHED[kind]:
        engine.execute(statement.format(**names))
    before = definition(engine, schema, names)
    with pytest.raises(AirflowFailException, match=r"'users' is unchanged.*ALTER TABLE"):
        load_staged(stage(NEW.append_column("email", pa.array(["a", "b", "c"]))))
    assert definition(engine, schema, names) == before
    assert engine.execute(f"SELECT COUNT(*) FROM {names['t']}") == [(3,)]


def test_a_table_without_transactions_is_refused_with_the_statement(engine, schema, load_staged, stage, names) -> None:
    load_staged(stage(OLD))
    engine.execute(f"ALTER TABLE {names['t']} ENGINE=MyISAM")
    for mode in ("replace", "append"):
        with pytest.raises(AirflowFailException, match=r"'users'.*MyISAM.*ALTER TABLE .* ENGINE=InnoDB"):
            load_staged(stage(NEW), mode=mode)
    assert engine.rows(schema, "users") == values(OLD)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_number_is_refused_and_named(engine, schema, load_staged, stage, value) -> None:
    load_staged(stage(OLD))
    with pytest.raises(AirflowFailException, match=r"'users'.*'credit' has 1 infinite values"):
        load_staged(stage(pa.table({"credit": [1.5, value, None]})))
    assert engine.rows(schema, "users") == values(OLD)
    assert engine.tables(schema) == {"users", "_d1_loads"}


def test_a_row_longer_than_a_packet_is_refused_with_the_setting(engine, load_staged, stage, monkeypatch) -> None:
    monkeypatch.setattr(mysql_loader, "_LARGEST_INSERT", 1000)
    assert load_staged(stage(pa.table({"a": ["x" * 5000, "y"]})))["rows"] == 2
    whole = mysql_loader.MySQLSession.__init__

    def small(session: Any, *arguments: Any) -> None:
        whole(session, *arguments)
        session.largest_statement = 4000

    monkeypatch.setattr(mysql_loader.MySQLSession, "__init__", small)
    with pytest.raises(AirflowFailException, match=r"'users'.*max_allowed_packet is 4000"):
        load_staged(stage(pa.table({"a": ["x" * 5000, "y"]})))


def test_doubles_become_text_in_sqlites_form(engine, load_staged, stage, schema) -> None:
    """In the shortest form that gives the same double back, which has a digit less than SQLite's for some."""
    numbers = random.Random(7)
    doubles = [struct.unpack("<d", struct.pack("<Q", numbers.getrandbits(64)))[0] for _ in range(300)]
    doubles = [value for value in doubles if math.isfinite(value)]
    doubles += [numbers.choice([1, 2.5, 1.23]) * 10.0**power for power in range(-30, 30)] + [0.1, 12345.678, -1e-5]
    load_staged(stage(pa.table({"v": doubles})), mode="append")
    load_staged(stage(pa.table({"v": ["x"]})), mode="append")
    for value, (text,) in zip(
        doubles, engine.execute(f"SELECT v FROM {engine.quoted(schema, 'users')}")[:-1], strict=True
    ):
        assert float(text) == value
        assert len(text) == len(real_to_text(value)) or (
            len(text) < len(real_to_text(value)) and text[:15] == real_to_text(value)[:15]
        )


def test_rows_are_replaced_under_a_reader_that_does_not_end(engine, load_staged, stage, names) -> None:
    load_staged(stage(OLD))
    with closing(engine.server.connect(autocommit=False)) as reader, reader.cursor() as cursor:
        cursor.execute(f"SELECT id FROM {names['t']} ORDER BY id")
        assert cursor.fetchall() == ((1,), (2,), (3,))
        load_staged(stage(NEW))
        cursor.execute(f"SELECT id FROM {names['t']} ORDER BY id")
        assert cursor.fetchall() == ((1,), (2,), (3,))
    assert engine.execute(f"SELECT id FROM {names['t']} ORDER BY id") == [(2,), (3,), (4,)]


def test_a_swap_waits_for_a_reader_and_lets_others_in(engine, load_staged, stage, names, monkeypatch) -> None:
    load_staged(stage(OLD))
    attempts = threading.Event()
    monkeypatch.setattr(loader_session.time, "sleep", lambda _: attempts.set())
    monkeypatch.setattr(loader_session, "_ATTEMPTS", 10**6)
    other = stage(pa.table({"id": [9]}))
    with closing(engine.server.connect(autocommit=False)) as reader, reader.cursor() as cursor:
        cursor.execute(f"SELECT id FROM {names['t']} ORDER BY id")
        worker = threading.Thread(target=load_staged, args=[other])
        worker.start()
        assert attempts.wait(60)
        assert len(engine.execute(f"SELECT id FROM {names['t']}")) == 3
        assert worker.is_alive()
    worker.join(60)
    assert engine.execute(f"SELECT * FROM {names['t']}") == [(9,)]


def test_loads_of_one_export_at_once_append_it_once(engine, schema, load_staged, stage) -> None:
    load_staged(stage(OLD))
    new = stage(NEW)
    results: list[dict[str, Any]] = []
    workers = [threading.Thread(target=lambda: results.append(load_staged(new, mode="append"))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert sorted(result["skipped"] for result in results) == [False, True, True]
    assert engine.execute(f"SELECT COUNT(*) FROM {engine.quoted(schema, 'users')}") == [(6,)]


TRANSIENT = (1021, 1040, 1053, 1114, 1205, 1213, 1290, 1836, 2006, 2013, 9999)
PERMANENT = (1044, 1054, 1062, 1064, 1142, 1146, 1264, 1366, 1406, 1452, 4025)


@pytest.mark.parametrize("number", [*TRANSIENT, *PERMANENT])
def test_an_error_is_retried_unless_it_would_come_again(engine, load_staged, stage, names, number) -> None:
    """A trigger on the last table that a load writes to raises what the server might."""
    load_staged(stage(OLD))
    engine.execute(
        f"CREATE TRIGGER {names['s']}.fail BEFORE INSERT ON {names['s']}._d1_loads FOR EACH ROW "
        f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = 'it is {number}'"
    )
    uri = stage(NEW)
    expected: type[Exception] = AirflowFailException if number in PERMANENT else D1WarehouseError
    with pytest.raises(expected, match=f"it is {number}") as failure:
        load_staged(uri)
    if number in TRANSIENT:
        assert failure.value.retryable
    assert engine.execute(f"SELECT id, name, boss FROM {names['t']} ORDER BY id") == values(OLD)
    engine.execute(f"DROP TRIGGER {names['s']}.fail")
    assert load_staged(uri)["rows"] == 3


def test_a_connection_that_is_cut_in_the_middle(engine, load_staged, stage, monkeypatch) -> None:
    whole = mysql_loader.staged_batches

    def cutting(*arguments: Any):
        for (number,) in engine.execute("SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID()"):
            engine.execute(f"KILL {number}")
        yield from whole(*arguments)

    uri = stage(NEW)
    with monkeypatch.context() as patch:
        patch.setattr(mysql_loader, "staged_batches", cutting)
        with pytest.raises(D1WarehouseError) as failure:
            load_staged(uri)
    assert failure.value.retryable
    assert load_staged(uri)["rows"] == 3
