"""What people attach to a loaded table in Postgres is there after the next ``replace``, by pg_dump's own account."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from tests.integration.warehouses.warehouse_engines import CONN_ID, Postgres

OLD = pa.table({"id": [1, 2, 3], "name": ["Ada", "Grace", None], "boss": pa.array([None, 1, 1], pa.int64())})
NEW = pa.table({"id": [2, 3, 4], "name": ["Grace", "Edsger", "Alan"], "boss": pa.array([3, None, 3], pa.int64())})

#: one kind of object at a time. {t} is the loaded table, {s} the schema, {r} a role of this test
ATTACHED: dict[str, list[str]] = {
    "row-level security": [
        "GRANT SELECT ON {t} TO {r}",
        "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY only_one ON {t} USING (id = 2)",
    ],
    "row-level security without a policy": ["ALTER TABLE {t} ENABLE ROW LEVEL SECURITY"],
    "forced row-level security": ["ALTER TABLE {t} FORCE ROW LEVEL SECURITY"],
    "a policy that is not enabled": ["CREATE POLICY only_one ON {t} USING (id = 2)"],
    "table grant": ["GRANT SELECT, INSERT ON {t} TO {r} WITH GRANT OPTION"],
    "grant to everybody": ["GRANT SELECT ON {t} TO PUBLIC"],
    "column grant": ["GRANT SELECT (id) ON {t} TO {r}"],
    "revoke from the owner": ["REVOKE TRIGGER ON {t} FROM CURRENT_USER"],
    "owner": ["GRANT ALL ON SCHEMA {s} TO {r}", "ALTER TABLE {t} OWNER TO {r}"],
    "index": ["CREATE INDEX by_name ON {t} (lower(name)) WHERE boss IS NULL"],
    "unique constraint": ["ALTER TABLE {t} ADD UNIQUE (name)"],
    "primary key": ["ALTER TABLE {t} ADD PRIMARY KEY (id)"],
    "deferrable primary key": ["ALTER TABLE {t} ADD PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED"],
    "exclusion constraint": ["ALTER TABLE {t} ADD EXCLUDE USING btree (id WITH =)"],
    "clustered index": ["CREATE INDEX by_id ON {t} (id)", "ALTER TABLE {t} CLUSTER ON by_id"],
    "replica identity": ["ALTER TABLE {t} REPLICA IDENTITY FULL"],
    "not null": ["ALTER TABLE {t} ALTER COLUMN id SET NOT NULL"],
    "default": ["ALTER TABLE {t} ALTER COLUMN name SET DEFAULT 'nobody'"],
    "identity": [
        "ALTER TABLE {t} ALTER COLUMN id SET NOT NULL",
        "ALTER TABLE {t} ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY",
    ],
    "check": ["ALTER TABLE {t} ADD CHECK (id > 0)"],
    "storage of a column": ["ALTER TABLE {t} ALTER COLUMN name SET STORAGE EXTERNAL"],
    "statistics target": ["ALTER TABLE {t} ALTER COLUMN name SET STATISTICS 500"],
    "column option": ["ALTER TABLE {t} ALTER COLUMN name SET (n_distinct = 5)"],
    "storage parameter": ["ALTER TABLE {t} SET (fillfactor = 70)"],
    "storage parameter of the toast table": ["ALTER TABLE {t} SET (toast.autovacuum_enabled = false)"],
    "unlogged": ["ALTER TABLE {t} SET UNLOGGED"],
    "foreign key to another table": [
        "CREATE TABLE {s}.boss (id bigint PRIMARY KEY)",
        "INSERT INTO {s}.boss VALUES (1), (3)",
        "ALTER TABLE {t} ADD FOREIGN KEY (boss) REFERENCES {s}.boss",
    ],
    "foreign key to itself": [
        "ALTER TABLE {t} ADD PRIMARY KEY (id)",
        "ALTER TABLE {t} ADD FOREIGN KEY (boss) REFERENCES {t} (id)",
    ],
    "foreign key to itself that cascades": [
        "ALTER TABLE {t} ADD PRIMARY KEY (id)",
        "ALTER TABLE {t} ADD FOREIGN KEY (boss) REFERENCES {t} (id) ON DELETE CASCADE",
    ],
    "foreign key from another table": [
        "ALTER TABLE {t} ADD PRIMARY KEY (id)",
        "CREATE TABLE {s}.orders (n int, user_id bigint REFERENCES {t})",
        "INSERT INTO {s}.orders VALUES (1, 2), (2, 3)",
    ],
    "foreign key from another table that cascades": [
        "ALTER TABLE {t} ADD PRIMARY KEY (id)",
        "CREATE TABLE {s}.orders (n int, user_id bigint REFERENCES {t} ON DELETE CASCADE)",
        "INSERT INTO {s}.orders VALUES (1, 2), (2, 3)",
    ],
    "foreign key to a unique column that restricts": [
        "ALTER TABLE {t} ADD UNIQUE (id)",
        "CREATE TABLE {s}.orders (n int, user_id bigint REFERENCES {t} (id) ON DELETE RESTRICT)",
        "INSERT INTO {s}.orders VALUES (1, 2), (2, 3)",
    ],
    "trigger": [
        "CREATE FUNCTION {s}.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER note BEFORE INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION {s}.note()",
    ],
    "disabled trigger": [
        "CREATE FUNCTION {s}.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER note BEFORE INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION {s}.note()",
        "ALTER TABLE {t} DISABLE TRIGGER note",
    ],
    "comment on the table": ["COMMENT ON TABLE {t} IS 'the users'"],
    "comment on a column": ["COMMENT ON COLUMN {t}.name IS 'the name'"],
    "publication": [
        "ALTER TABLE {t} ADD PRIMARY KEY (id)",
        "CREATE PUBLICATION {p} FOR TABLE {t} (id, name) WHERE (id > 1)",
    ],
    "publication without anything to tell rows apart": ["CREATE PUBLICATION {p} FOR TABLE {t}"],
    "view": ["CREATE VIEW {s}.names AS SELECT name FROM {t}"],
    "materialized view": ["CREATE MATERIALIZED VIEW {s}.stored_names AS SELECT name FROM {t}"],
    "extended statistics": ["CREATE STATISTICS {s}.both ON id, boss FROM {t}"],
    "function with its rows": [
        "CREATE FUNCTION {s}.shown(u {t}) RETURNS text LANGUAGE sql AS 'SELECT u.name'",
    ],
    "function that reads it": [
        "CREATE FUNCTION {s}.how_many() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM {t}; END",
    ],
    "column of its row type": ["CREATE TABLE {s}.history (row {t})"],
    "parent table": ["CREATE TABLE {s}.people (id bigint)", "ALTER TABLE {t} INHERIT {s}.people"],
    "child table": ["CREATE TABLE {s}.old_users () INHERITS ({t})", "INSERT INTO {s}.old_users VALUES (1, 'Ada', 1)"],
    "partition of another table": [
        "CREATE TABLE {s}.people (id bigint, name text, boss bigint) PARTITION BY RANGE (id)",
        "ALTER TABLE {s}.people ATTACH PARTITION {t} FOR VALUES FROM (0) TO (1000)",
    ],
    "partitions": [
        "DROP TABLE {t}",
        "CREATE TABLE {t} (id bigint, name text, boss bigint) PARTITION BY RANGE (id)",
        "CREATE TABLE {s}.low PARTITION OF {t} FOR VALUES FROM (0) TO (3)",
        "CREATE TABLE {s}.high PARTITION OF {t} FOR VALUES FROM (3) TO (1000)",
    ],
    "a column with a default": ["ALTER TABLE {t} ADD COLUMN seen timestamptz DEFAULT now()"],
    "a generated column": ["ALTER TABLE {t} ADD COLUMN loud text GENERATED ALWAYS AS (upper(name)) STORED"],
    "columns in another order": [
        "DROP TABLE {t}",
        "CREATE TABLE {t} (boss bigint, name text, id bigint PRIMARY KEY)",
    ],
    "narrower types": [
        "ALTER TABLE {t} ALTER COLUMN id TYPE integer",
        "ALTER TABLE {t} ALTER COLUMN name TYPE varchar(10)",
        "ALTER TABLE {t} ALTER COLUMN boss TYPE numeric",
    ],
    "collation of a column": ['ALTER TABLE {t} ALTER COLUMN name TYPE text COLLATE "C"'],
}
TOGETHER = [
    "row-level security",
    "column grant",
    "revoke from the owner",
    "index",
    "primary key",
    "unique constraint",
    "default",
    "check",
    "trigger",
    "comment on the table",
    "comment on a column",
    "publication without anything to tell rows apart",
    "view",
    "materialized view",
    "extended statistics",
    "a generated column",
    "replica identity",
    "storage parameter",
]


@pytest.fixture
def engine(request, monkeypatch) -> Postgres:
    engine = Postgres(request.getfixturevalue("postgres"))
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", engine.airflow_connection())
    return engine


@pytest.fixture
def names(engine, schema) -> Iterator[dict[str, str]]:
    role, publication = engine.quoted(f"analyst {schema}"), engine.quoted(f"changes {schema}")
    engine.execute(f"CREATE ROLE {role} NOLOGIN")
    yield {"t": engine.quoted(schema, "users"), "s": engine.quoted(schema), "r": role, "p": publication}
    engine.execute(f"DROP SCHEMA IF EXISTS {engine.quoted(schema)} CASCADE")
    engine.execute(f"DROP PUBLICATION IF EXISTS {publication}")
    engine.execute(f"DROP OWNED BY {role}")
    engine.execute(f"DROP ROLE {role}")


@pytest.fixture
def stage(stage):
    return lambda users, **source: stage({"users": users}, **source)


def dump(engine: Postgres) -> str:
    """The whole database without its rows, as pg_dump writes it."""
    server = engine.server
    command = [str(server.programs / "pg_dump"), "--schema-only", "-h", server.host, "-p", str(server.port)]
    made = subprocess.run(
        [*command, "-U", server.user, server.database],
        env={**os.environ, "PGPASSWORD": server.password},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return "\n".join(line for line in made.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


def oid(engine: Postgres, names: dict[str, str]) -> int:
    ((found,),) = engine.execute(f"SELECT to_regclass('{names['t']}')::oid::bigint")
    return found


def users(engine: Postgres, names: dict[str, str], only: str = "ONLY ") -> list[tuple[Any, ...]]:
    return engine.execute(f"SELECT id, name, boss FROM {only}{names['t']} ORDER BY id")


@pytest.mark.parametrize("kind", [*ATTACHED, "all together"])
def test_replace_keeps_what_is_attached(engine, schema, load_staged, stage, names, kind) -> None:
    load_staged(stage(OLD))
    bare = dump(engine)
    kinds = TOGETHER if kind == "all together" else [kind]
    for statement in [statement for name in kinds for statement in ATTACHED[name]]:
        engine.execute(statement.format(**names))
    before, table = dump(engine), oid(engine, names)
    assert before != bare, "pg_dump does not show this kind, so the comparison below could not fail"
    others = engine.tables(schema)
    assert load_staged(stage(NEW))["rows"] == 3
    assert dump(engine) == before
    assert oid(engine, names) == table
    assert engine.tables(schema) == others
    assert users(engine, names, "" if kind == "partitions" else "ONLY ") == [
        tuple(row.values()) for row in NEW.to_pylist()
    ]
    if "orders" in others:
        assert engine.execute(f"SELECT n, user_id FROM {names['s']}.orders ORDER BY n") == [(1, 2), (2, 3)]
    if kind == "child table":
        assert engine.execute(f"SELECT id FROM {names['s']}.old_users") == [(1,)]


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_append_and_merge_keep_what_is_attached(engine, schema, load_staged, stage, names, mode) -> None:
    load_staged(stage(OLD))
    for statement in [statement for name in TOGETHER for statement in ATTACHED[name]]:
        engine.execute(statement.format(**names))
    before, table = dump(engine), oid(engine, names)
    added = NEW.slice(2)
    load_staged(stage(added, keys={"users": ["id"]}), mode=mode)
    assert dump(engine) == before
    assert oid(engine, names) == table
    assert users(engine, names) == [tuple(row.values()) for content in (OLD, added) for row in content.to_pylist()]


def test_a_table_with_nothing_attached_is_swapped(engine, schema, load_staged, stage, names) -> None:
    """A swap writes every row once and leaves no dead ones; here nothing is lost by it."""
    load_staged(stage(OLD))
    before, table = dump(engine), oid(engine, names)
    load_staged(stage(NEW))
    assert oid(engine, names) != table
    assert dump(engine) == before


def test_the_strategy_decides_between_rows_and_a_swap(engine, schema, load_staged, stage, names) -> None:
    load_staged(stage(OLD))
    before = oid(engine, names)
    load_staged(stage(NEW), replace_strategy="rows")
    assert oid(engine, names) == before
    assert users(engine, names) == sorted(tuple(row.values()) for row in NEW.to_pylist())
    load_staged(stage(OLD), replace_strategy="swap")
    assert oid(engine, names) != before
    engine.execute(f"CREATE INDEX by_name ON {names['t']} (name)")
    with pytest.raises(AirflowFailException, match=r"'users' is unchanged.*index .*by_name.*replace_strategy='rows'"):
        load_staged(stage(NEW), replace_strategy="swap")
    assert users(engine, names) == sorted(tuple(row.values()) for row in OLD.to_pylist())


def test_a_revoke_against_default_privileges_stays(engine, schema, load_staged, stage, names) -> None:
    engine.execute(f"CREATE SCHEMA {names['s']}")
    engine.execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA {names['s']} GRANT SELECT ON TABLES TO {names['r']}")
    load_staged(stage(OLD))
    table = oid(engine, names)
    load_staged(stage(OLD))
    assert oid(engine, names) != table, "a swap keeps default privileges, so they alone do not prevent it"
    engine.execute(f"REVOKE ALL ON {names['t']} FROM {names['r']}")
    before = dump(engine)
    load_staged(stage(NEW))
    assert dump(engine) == before
    with closing(engine.server.connect()) as connection:
        connection.execute(f"SET ROLE {names['r']}")
        with pytest.raises(Exception, match="permission denied"):
            connection.execute(f"SELECT * FROM {names['t']}")


def test_readers_under_a_policy_see_their_rows_only(engine, schema, load_staged, stage, names) -> None:
    load_staged(stage(OLD))
    for statement in ATTACHED["row-level security"]:
        engine.execute(statement.format(**names))
    engine.execute(f"GRANT USAGE ON SCHEMA {names['s']} TO {names['r']}")

    def seen() -> list[tuple[Any, ...]]:
        with closing(engine.server.connect()) as connection:
            connection.execute(f"SET ROLE {names['r']}")
            return connection.execute(f"SELECT id, name FROM {names['t']}").fetchall()

    assert seen() == [(2, "Grace")]
    load_staged(stage(NEW))
    assert seen() == [(2, "Grace")]


def login_as(engine, names, monkeypatch) -> None:
    """Let the loads log in as the role that is no superuser."""
    import json

    password = engine.server.password
    engine.execute(f"ALTER ROLE {names['r']} LOGIN PASSWORD '{password}'")
    definition = json.loads(engine.airflow_connection()) | {"login": names["r"][1:-1].replace('""', '"')}
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(definition))


def test_a_loader_under_a_policy_is_refused_and_not_shown_a_part(
    engine, schema, load_staged, stage, names, monkeypatch
) -> None:
    """DELETE would leave the row that the policy hides, and count(*) would not count it: three rows, as expected."""
    load_staged(stage(OLD))
    engine.execute(f"ALTER TABLE {names['t']} ENABLE ROW LEVEL SECURITY")
    engine.execute(f"CREATE POLICY not_the_first ON {names['t']} USING (id > 1) WITH CHECK (true)")
    engine.execute(f"GRANT ALL ON SCHEMA {names['s']} TO {names['r']}")
    engine.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {names['s']} TO {names['r']}")
    login_as(engine, names, monkeypatch)
    with pytest.raises(AirflowFailException, match="row-level security"):
        load_staged(stage(NEW))
    assert len(users(engine, names)) == 3
    assert users(engine, names)[0] == (1, "Ada", None)


def test_a_loader_that_does_not_own_the_table_replaces_its_rows(
    engine, schema, load_staged, stage, names, monkeypatch
) -> None:
    load_staged(stage(OLD))
    engine.execute(f"GRANT ALL ON SCHEMA {names['s']} TO {names['r']}")
    engine.execute(f"GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA {names['s']} TO {names['r']}")
    before = dump(engine)
    login_as(engine, names, monkeypatch)
    load_staged(stage(NEW))
    assert dump(engine) == before
    assert users(engine, names) == [tuple(row.values()) for row in NEW.to_pylist()]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION"])
def test_only_rows_that_are_gone_touch_those_that_refer_to_them(
    engine, schema, load_staged, stage, names, action
) -> None:
    load_staged(stage(OLD))
    engine.execute(f"ALTER TABLE {names['t']} ADD PRIMARY KEY (id)")
    engine.execute(
        f"CREATE TABLE {names['s']}.orders (n int, user_id bigint REFERENCES {names['t']} ON DELETE {action})"
    )
    engine.execute(f"INSERT INTO {names['s']}.orders VALUES (1, 1), (2, 2), (3, 3)")
    if action in ("RESTRICT", "NO ACTION"):
        with pytest.raises(AirflowFailException, match="orders"):
            load_staged(stage(NEW))
        assert len(users(engine, names)) == 3
        return
    load_staged(stage(NEW))
    kept = engine.execute(f"SELECT n, user_id FROM {names['s']}.orders ORDER BY n")
    assert kept == ([(2, 2), (3, 3)] if action == "CASCADE" else [(1, None), (2, 2), (3, 3)])


def test_columns_that_are_new_are_added_and_others_stay(engine, schema, load_staged, stage, names) -> None:
    load_staged(stage(OLD))
    engine.execute(f"ALTER TABLE {names['t']} ADD PRIMARY KEY (id), ADD COLUMN note text DEFAULT 'none'")
    engine.execute(f"CREATE VIEW {names['s']}.ids AS SELECT id, note FROM {names['t']}")
    table = oid(engine, names)
    load_staged(stage(NEW.drop_columns(["boss"]).append_column("email", pa.array(["a", "b", None]))))
    assert oid(engine, names) == table
    assert [name for name, _ in engine.columns(schema, "users")] == ["id", "name", "boss", "note", "email"]
    assert engine.rows(schema, "users") == [
        (2, "Grace", None, "none", "a"),
        (3, "Edsger", None, "none", "b"),
        (4, "Alan", None, "none", None),
    ]
    assert engine.execute(f"SELECT * FROM {names['s']}.ids ORDER BY id") == [(2, "none"), (3, "none"), (4, "none")]


def test_a_wider_column_is_widened_in_place(engine, schema, load_staged, stage, names) -> None:
    load_staged(stage(OLD))
    engine.execute(f"CREATE INDEX by_name ON {names['t']} (name)")
    engine.execute(f"COMMENT ON COLUMN {names['t']}.id IS 'the id'")
    table = oid(engine, names)
    load_staged(stage(NEW.set_column(0, "id", pa.array([2.5, 3.0, 1e20]))))
    assert oid(engine, names) == table
    assert dict(engine.columns(schema, "users"))["id"] == "double precision"
    assert [row[0] for row in users(engine, names)] == [2.5, 3.0, 1e20]
    load_staged(stage(NEW))
    assert dict(engine.columns(schema, "users"))["id"] == "double precision"
    assert users(engine, names) == [tuple(row.values()) for row in NEW.to_pylist()]
    assert "the id" in dump(engine)
    assert "by_name" in dump(engine)


@pytest.mark.parametrize(
    "dependent",
    ["CREATE VIEW {s}.ids AS SELECT id FROM {t}", "CREATE POLICY only_one ON {t} USING (id = 2)"],
    ids=["view", "policy"],
)
def test_a_wider_column_under_a_dependent_is_refused_with_the_statement(
    engine, schema, load_staged, stage, names, dependent
) -> None:
    load_staged(stage(OLD))
    engine.execute(dependent.format(**names))
    before = dump(engine)
    uri = stage(NEW.set_column(0, "id", pa.array([2.5, 3.0, 1e20])))
    with pytest.raises(AirflowFailException, match=r"'users'.*'id'.*(ids|only_one).*ALTER TABLE .* TYPE double") as why:
        load_staged(uri)
    assert "SQLSTATE" not in str(why.value)
    assert dump(engine) == before
    assert len(users(engine, names)) == 3


@pytest.mark.parametrize(
    ("kind", "value"),
    [("integer", 2**31), ("smallint", 40000), ("numeric(3)", 1000), ("real", 2**24 + 1), ("boolean", 1)],
)
def test_a_value_that_a_narrower_column_would_change_is_refused(
    engine, schema, load_staged, stage, names, kind, value
) -> None:
    load_staged(stage(OLD))
    engine.execute(f"ALTER TABLE {names['t']} DROP COLUMN boss, ADD COLUMN boss {kind}")
    before = dump(engine)
    with pytest.raises(AirflowFailException, match=r"'users'.*'boss'.*TYPE bigint"):
        load_staged(stage(NEW.set_column(2, "boss", pa.array([1, 2, value]))))
    assert dump(engine) == before
    assert len(users(engine, names)) == 3


def test_a_trigger_that_keeps_rows_out_fails_the_load(engine, schema, load_staged, stage, names) -> None:
    load_staged(stage(OLD))
    for event, row in (("INSERT", "NEW"), ("DELETE", "OLD")):
        engine.execute(
            f"CREATE OR REPLACE FUNCTION {names['s']}.no() RETURNS trigger LANGUAGE plpgsql "
            f"AS 'BEGIN RETURN CASE WHEN {row}.id = 3 THEN NULL ELSE {row} END; END'"
        )
        engine.execute(
            f"CREATE TRIGGER no BEFORE {event} ON {names['t']} FOR EACH ROW EXECUTE FUNCTION {names['s']}.no()"
        )
        with pytest.raises(AirflowFailException, match=r"'users'.*trigger"):
            load_staged(stage(NEW))
        assert users(engine, names) == [tuple(row.values()) for row in OLD.to_pylist()]
        engine.execute(f"DROP TRIGGER no ON {names['t']}")
