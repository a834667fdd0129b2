"""The hook against a local D1 API over real HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException
from airflow.providers.common.sql.hooks.handlers import fetch_all_handler
from airflow.providers.common.sql.hooks.sql import DbApiHook
from airflow.providers.common.sql.operators.sql import (
    BranchSQLOperator,
    SQLCheckOperator,
    SQLColumnCheckOperator,
    SQLExecuteQueryOperator,
    SQLTableCheckOperator,
    SQLValueCheckOperator,
)
from airflow.providers.common.sql.sensors.sql import SqlSensor

from airflow_provider_d1.cloudflare.sql_errors import ProgrammingError
from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.exceptions import (
    D1ApiError,
    D1AuthenticationError,
    D1ConfigurationError,
    D1DatabaseNotFoundError,
    D1SealError,
    D1VirtualTableError,
)
from airflow_provider_d1.hooks import masking
from airflow_provider_d1.hooks.d1 import D1Hook
from airflow_provider_d1.triggers import events

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.models import D1Export

SHOP = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
INSERT INTO users VALUES (1, 'Ada'), (2, 'Grace'), (3, NULL);
"""
FTS = "CREATE TABLE notes (id INTEGER PRIMARY KEY); CREATE VIRTUAL TABLE words USING fts5(text);"


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator(f"tok-{secrets.token_hex(16)}", databases={"shop": SHOP, "notes": FTS}) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    running.reset()
    connect(monkeypatch, running)
    return running


def connect(monkeypatch: pytest.MonkeyPatch, emulator: Emulator, conn_id: str = "d1_default", **fields: Any) -> None:
    definition = {
        "conn_type": "d1",
        "host": emulator.url,
        "password": emulator.token,
        "schema": "shop",
        "extra": {"account_id": emulator.account_id},
    }
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(definition | fields))


def dump_of(hook: D1Hook, export: D1Export | dict[str, Any]) -> str:
    with hook.download(export) as stream:
        return io.BufferedReader(stream).read().decode()


def test_databases_are_listed_and_found_by_name_or_uuid(emulator: Emulator) -> None:
    hook = D1Hook()
    assert {database.name for database in hook.list_databases()} == {"shop", "notes"}
    assert [database.name for database in hook.list_databases("not")] == ["notes"]
    uuid = emulator.database_id("shop")
    assert hook.get_database("shop").uuid == uuid
    assert hook.get_database(uuid).name == "shop"
    assert hook.get_database().name == "shop"
    with pytest.raises(D1DatabaseNotFoundError, match="shop"):
        hook.get_database("shopp")


def test_query(emulator: Emulator) -> None:
    hook = D1Hook()
    assert hook.query("SELECT id, name FROM users WHERE id > ? ORDER BY id", [1]) == [
        {"id": 2, "name": "Grace"},
        {"id": 3, "name": None},
    ]
    assert hook.query("SELECT id FROM users WHERE name = 'missing'") == []
    hook.query("SELECT 1 AS one")
    # the name is looked up once for each hook
    assert len([call for call in emulator.calls if call.kind == "list"]) == 1


def test_time_travel(emulator: Emulator) -> None:
    hook = D1Hook()
    hook.run("CREATE TABLE past (n); INSERT INTO past VALUES (1)")
    before = hook.get_bookmark()
    assert hook.get_bookmark() == before
    hook.run("DELETE FROM past")
    assert hook.get_bookmark() != before
    restored = hook.restore(before)
    assert hook.query("SELECT n FROM past") == [{"n": 1}]
    hook.restore(restored.previous_bookmark)
    assert hook.query("SELECT n FROM past") == []
    now = datetime.now(UTC)
    assert hook.get_bookmark(now) == hook.get_bookmark()
    hook.run("INSERT INTO past VALUES (2)")
    hook.restore(timestamp=now)
    assert hook.query("SELECT n FROM past") == []


@pytest.mark.parametrize(
    "moment",
    [{}, {"bookmark": ""}, {"bookmark": "x", "timestamp": datetime.now(UTC)}, {"timestamp": datetime(2026, 1, 1)}],  # noqa: DTZ001
)
def test_a_restore_needs_either_a_bookmark_or_a_timestamp_with_a_zone(
    emulator: Emulator, moment: dict[str, Any]
) -> None:
    with pytest.raises(D1ConfigurationError, match="expected"):
        D1Hook().restore(**moment)
    assert not emulator.calls.of("restore")


def test_an_unknown_bookmark_is_refused(emulator: Emulator) -> None:
    with pytest.raises(D1ApiError, match="Invalid bookmark"):
        D1Hook().restore("nothing")


def test_export_and_download(emulator: Emulator) -> None:
    hook = D1Hook()
    lines: list[str] = []
    export = hook.export(on_progress=lines.append)
    assert (export.database_name, export.database_id) == ("shop", emulator.database_id("shop"))
    assert lines
    assert "'Grace'" in dump_of(hook, export)
    assert dump_of(hook, json.loads(json.dumps(export.to_dict()))) == dump_of(hook, export)
    only = hook.export("shop", tables=["users"], no_data=True)
    assert "INSERT" not in dump_of(hook, only)
    assert only.options.tables == ("users",)


async def test_export_while_the_callers_event_loop_runs(emulator: Emulator) -> None:
    export = D1Hook().export()
    assert export.database_name == "shop"
    assert await asyncio.to_thread(lambda: D1Hook().export().database_name) == "shop"


def test_export_from_a_thread(emulator: Emulator) -> None:
    names: list[str] = []
    thread = threading.Thread(target=lambda: names.append(D1Hook().export().database_name))
    thread.start()
    thread.join(60)
    assert names == ["shop"]


def test_one_name_is_no_list_of_tables(emulator: Emulator) -> None:
    with pytest.raises(D1ConfigurationError, match="tables must be a list"):
        D1Hook(database="shop").export(tables="users")
    assert not emulator.calls.of("export_start")


def test_an_errors_own_class_comes_out_of_the_thread(emulator: Emulator) -> None:
    async def inside() -> None:
        D1Hook().export("notes")

    with pytest.raises(D1VirtualTableError):
        asyncio.run(inside())
    assert not [call for call in emulator.calls if call.kind == "export_start"]


def test_a_cut_download_is_whole(emulator: Emulator) -> None:
    hook = D1Hook()
    export = hook.export()
    whole = hashlib.sha256(dump_of(hook, export).encode()).hexdigest()
    emulator.faults.cut_downloads = 1
    assert hashlib.sha256(dump_of(hook, export).encode()).hexdigest() == whole


def test_another_connections_token_does_not_open_the_url(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    export = D1Hook().export()
    connect(monkeypatch, emulator, "d1_other", password="another-token")
    with pytest.raises(D1SealError):
        D1Hook("d1_other").download(export)


def test_a_dict_that_is_not_an_export_is_refused(emulator: Emulator) -> None:
    with pytest.raises(D1ConfigurationError, match="'database_id' is missing"):
        D1Hook().download({"bookmark": "x"})


def test_token_and_signed_url_are_masked(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    masked: list[str] = []
    monkeypatch.setattr(masking, "mask_secret", masked.append)
    hook = D1Hook()
    hook.download(hook.export()).close()
    assert emulator.token in masked
    (url,) = [secret for secret in masked if secret.startswith("http")]
    assert url.split("X-Amz-Signature=")[1].split("&")[0] in masked


@pytest.mark.parametrize(
    ("fields", "faults", "words"),
    [
        ({}, {}, "2 D1 databases. Default database: shop"),
        ({"schema": ""}, {}, "2 D1 databases."),
        ({"password": "wrong"}, {}, "does not accept the API token"),
        ({"extra": {"account_id": "f" * 32}}, {}, "wrong account"),
        ({"schema": "nowhere"}, {}, "no D1 database 'nowhere'"),
        ({}, {"no_d1_right": True}, "no D1 permission"),
        ({"extra": {}}, {}, "account_id"),
        ({"password": ""}, {}, "password"),
    ],
    ids=["fine", "fine-without-database", "token", "account", "database", "right", "no-account-id", "no-token"],
)
def test_the_connection_test_distinguishes_the_reasons(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], faults: dict[str, Any], words: str
) -> None:
    connect(monkeypatch, emulator, **fields)
    emulator.faults.set(faults)
    works, message = D1Hook().test_connection()
    assert words in message
    assert works is words.startswith("2 D1")
    assert emulator.token not in message


def test_the_error_for_a_missing_connection_names_it() -> None:
    hook = D1Hook("d1_nowhere")
    with pytest.raises(D1ConfigurationError, match="Connection 'd1_nowhere' is not defined"):
        hook.query("SELECT 1")
    works, message = hook.test_connection()
    assert not works
    assert message.startswith("Connection 'd1_nowhere' is not defined")


def test_the_connection_test_does_not_name_the_transient_connection(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's form tests a connection under a random ID."""
    connect(monkeypatch, emulator, password="")
    works, message = D1Hook().test_connection()
    assert (works, message.split(" ")[0]) == (False, "password")


@pytest.mark.parametrize(
    ("fields", "faults", "words"),
    [
        ({"password": "wrong"}, {}, "does not accept the API token"),
        ({"extra": {"account_id": "f" * 32}}, {}, "wrong account"),
        ({}, {"no_d1_right": True}, "no D1 permission"),
    ],
    ids=["token", "account", "right"],
)
def test_an_export_reports_the_result_of_the_connection_test(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], faults: dict[str, Any], words: str
) -> None:
    connect(monkeypatch, emulator, **fields)
    emulator.faults.set(faults)
    with pytest.raises(D1AuthenticationError, match=words) as raised:
        D1Hook(database=emulator.database_id("shop")).export()
    assert str(raised.value) == D1Hook().test_connection()[1]


@pytest.fixture
def other_server() -> Iterator[str]:
    """A web server that is not Cloudflare's and knows none of its paths."""

    class NotFound(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), NotFound)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/client/v4"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("database", ["shop", "00000000-0000-4000-8000-000000000000"])
def test_a_host_that_is_not_cloudflares_is_named(
    other_server: str, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    """A 404 of its own is no wrong account, and says nothing about the token."""
    connection = {"conn_type": "d1", "host": other_server, "password": "token", "login": "a" * 32, "schema": database}
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(connection))
    works, message = D1Hook().test_connection()
    assert not works
    assert message.startswith("host: the server there is not Cloudflare's API")
    assert "token" not in message
    assert "https://api.cloudflare.com/client/v4" in message
    with pytest.raises(D1ConfigurationError, match=r"^Connection 'd1_default': host: the server there is not"):
        D1Hook().export()


def test_one_client_makes_every_call_of_an_export(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trigger runs the same coroutine: no poll opens a connection of its own."""
    import httpx

    clients: list[httpx.AsyncClient] = []
    init = httpx.AsyncClient.__init__

    def counted(self: httpx.AsyncClient, **arguments: Any) -> None:
        clients.append(self)
        init(self, **arguments)

    monkeypatch.setattr(httpx.AsyncClient, "__init__", counted)
    emulator.faults.export_seconds = 1
    D1Hook(database="shop").export(poll_interval=0.1)
    assert len(emulator.calls.of("export_poll")) > 2
    assert len(clients) == 1
    assert clients[0].is_closed


def test_a_missing_database_keeps_its_own_message(emulator: Emulator) -> None:
    with pytest.raises(D1DatabaseNotFoundError, match=r"no D1 database 'shpo'; did you mean 'shop'"):
        D1Hook(database="shpo").export()


def test_an_export_refused_to_a_reading_token_asks_for_edit(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, emulator)

    async def refuse(*_: Any, **__: Any) -> None:
        raise D1AuthenticationError("refused", status=403, code=10000)

    monkeypatch.setattr("airflow_provider_d1.cloudflare.export.run_export", refuse)
    with pytest.raises(D1AuthenticationError, match=r"refused\. .*D1: Edit"):
        D1Hook(database="shop").export()


def test_an_export_as_a_dict_has_plain_json_types_only(emulator: Emulator) -> None:
    """The triggerer encodes an event with msgspec, which refuses a subclass of str."""

    def leaves(value: Any) -> list[type]:
        if type(value) is dict:
            return [kind for item in (*value, *value.values()) for kind in leaves(item)]
        return [kind for item in value for kind in leaves(item)] if type(value) is list else [type(value)]

    event = events.success(D1Hook(database="shop").export())
    assert set(leaves(event)) <= {str, int, float, bool, type(None)}


async def test_the_async_client(emulator: Emulator) -> None:
    async with await D1Hook().get_async_client() as client:
        assert (await client.get_database("shop")).uuid == emulator.database_id("shop")


def test_extras_that_airflows_sql_operators_pass_are_dropped(emulator: Emulator) -> None:
    hook = D1Hook(d1_conn_id="d1_default", account_id="x", timeout=3, anything=object())
    assert isinstance(hook, DbApiHook)
    assert hook.get_settings().credentials.account_id == emulator.account_id


def test_the_db_api(emulator: Emulator) -> None:
    hook = D1Hook()
    assert hook.get_records("SELECT id, name FROM users ORDER BY id") == [(1, "Ada"), (2, "Grace"), (3, None)]
    assert hook.get_first("SELECT count(*) FROM users WHERE id < ?", parameters=[3]) == (2,)
    assert hook.get_first("SELECT 1 WHERE 0") is None
    hook.run(["CREATE TABLE extra (id INTEGER, note TEXT)", "INSERT INTO extra VALUES (1, 'x')"])
    assert hook.run("SELECT * FROM extra", handler=fetch_all_handler) == [(1, "x")]
    hook.insert_rows("extra", [(2, "y"), (3, None)], target_fields=["id", "note"])
    assert hook.get_records("SELECT * FROM extra WHERE id > 1") == [(2, "y"), (3, None)]
    hook.schema = "notes"
    assert hook.get_records("SELECT * FROM notes") == []


def test_the_cursor_hands_rows_out_in_pieces(emulator: Emulator) -> None:
    connection = D1Hook().get_conn()
    cursor = connection.cursor()
    cursor.execute("SELECT id AS a, id AS a FROM users ORDER BY id")
    assert [column[0] for column in cursor.description] == ["a", "a"]
    assert cursor.rowcount == 3
    assert cursor.fetchone() == (1, 1)
    assert cursor.fetchmany(5) == [(2, 2), (3, 3)]
    assert cursor.fetchone() is None
    assert cursor.fetchall() == []
    connection.commit()
    connection.close()


def test_rows_are_inserted_with_as_few_calls_as_the_limit_on_parameters_allows(emulator: Emulator) -> None:
    hook = D1Hook()
    hook.run('CREATE TABLE "odd ""name" (id INTEGER PRIMARY KEY, price REAL, note TEXT)')
    emulator.calls.clear()
    hook.insert_rows('odd "name', ((n, n / 2, None) for n in range(70)), target_fields=["id", "price", "note"])
    (call,) = emulator.calls.of("raw")
    assert [len(each["params"]) for each in call.body["batch"]] == [99, 99, 12]  # 33 rows of 3 each
    hook.insert_rows('odd "name', ((n, None, None) for n in range(100, 370)), commit_every=50)
    assert len(emulator.calls.of("raw")) == 7
    hook.run('DELETE FROM "odd ""name" WHERE id >= 100')
    hook.insert_rows('odd "name', [(69, 1.5, "it's")], replace=True)
    assert hook.get_first('SELECT count(*), sum(id) FROM "odd ""name"') == (70, 2415)
    assert hook.get_first('SELECT * FROM "odd ""name" WHERE id = 69') == (69, 1.5, "it's")
    hook.insert_rows('odd "name', [])


def test_names_are_bound_by_name(emulator: Emulator) -> None:
    hook = D1Hook()
    hook.run("CREATE TABLE named (id INTEGER, s TEXT)")
    hook.run("INSERT INTO named VALUES ($id, :s), (2, @s)", parameters={"s": "x", "id": 1})
    hook.run("INSERT INTO named VALUES (3, 'y')")
    hook.run("DELETE FROM named WHERE s <> :keep", parameters={"keep": "x"})
    assert hook.get_records("SELECT id FROM named WHERE s = :s ORDER BY id", {"s": "x"}) == [(1,), (2,)]
    assert hook.query("SELECT id FROM named WHERE id > @least", {"least": 1}) == [{"id": 2}]
    connection = hook.get_conn()
    cursor = connection.cursor()
    cursor.executemany("INSERT INTO named VALUES (:id, :s)", [{"id": 5, "s": "e"}, {"s": "f", "id": 6}])
    assert cursor.execute("SELECT s FROM named WHERE id IN (:a, :b)", {"b": 6, "a": 5}).fetchall() == [("e",), ("f",)]
    connection.close()
    hook.insert_rows("named", [{"s": "g", "id": 7}, {"id": 8, "s": "h"}])
    hook.insert_rows("named", [(9, "i"), {"s": "j", "id": 10}], target_fields=["id", "s"])
    assert hook.get_records("SELECT id, s FROM named WHERE id > ? ORDER BY id", [6]) == [
        *((7, "g"), (8, "h")),
        *((9, "i"), (10, "j")),
    ]
    # a list of statements shares the names
    hook.run(["DELETE FROM named WHERE s = :s", "DELETE FROM named WHERE id = :id"], parameters={"s": "x", "id": 5})
    assert hook.get_first("SELECT min(id) FROM named") == (6,)


def test_a_script_runs_in_order_and_returns_its_last_result(emulator: Emulator) -> None:
    hook = D1Hook()
    script = "CREATE TABLE steps (n); INSERT INTO steps VALUES (?); SELECT n, ? FROM steps"
    assert hook.get_records(script, parameters=[7, "seven"]) == [(7, "seven")]
    assert hook.query("DELETE FROM steps; SELECT count(*) AS n FROM steps") == [{"n": 0}]


WRONG = {
    "text": ("SELECT ?", "a"),
    "bytes": ("SELECT ?", b"a"),
    "set": ("SELECT ?", {"a"}),
    "missing": ("SELECT :a, :b", {"a": 1}),
    "unused": ("SELECT :a", {"a": 1, "b": 2}),
    "mapping-for-positions": ("DELETE FROM users WHERE name <> ?", {"keep": "Ada"}),
    "positions-for-names": ("SELECT :a", [1]),
    "too-few": ("SELECT ?, ?", [1]),
    "too-many": ("SELECT ?", [1, 2]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_parameters_that_do_not_fit_are_refused_before_anything_is_sent(emulator: Emulator, wrong: str) -> None:
    sql, parameters = WRONG[wrong]
    hook = D1Hook()
    connection = hook.get_conn()
    cursor = connection.cursor()
    query: dict[str, Any] = {"task_id": "t", "conn_id": "d1_default"}
    emulator.calls.clear()
    attempts: list[Callable[[], object]] = [
        lambda: hook.query(sql, parameters),
        lambda: hook.run(sql, parameters=parameters),
        lambda: hook.run(["DELETE FROM users", sql], parameters=parameters),
        lambda: hook.run(f"DELETE FROM users; {sql}", parameters=parameters, split_statements=True),
        lambda: hook.get_records(sql, parameters),
        lambda: hook.get_first(sql, parameters),
        lambda: cursor.execute(sql, parameters),
        lambda: cursor.executemany(sql, [parameters]),
        lambda: SQLExecuteQueryOperator(**query, sql=sql, parameters=parameters).execute({}),
        lambda: SQLCheckOperator(**query, sql=sql, parameters=parameters).execute({}),
        lambda: SQLValueCheckOperator(**query, sql=sql, pass_value=1, parameters=parameters).execute({}),
        lambda: BranchSQLOperator(
            **query, sql=sql, parameters=parameters, follow_task_ids_if_true="a", follow_task_ids_if_false="b"
        ).execute({}),
        lambda: SqlSensor(**query, sql=sql, parameters=parameters).poke({}),
    ]
    for attempt in attempts:
        with pytest.raises(ProgrammingError):
            attempt()
    connection.close()
    assert not emulator.calls.of("raw") + emulator.calls.of("query")


@pytest.mark.parametrize(
    ("rows", "fields", "words"),
    [
        (["ab"], ["id", "name"], "str cannot be bound by position"),
        ([b"ab"], None, "bytes cannot be bound"),
        ([{1, 2}], None, "set cannot be bound"),
        ([{"id": 9}], ["id", "name"], "values for id; expected values for id, name"),
        ([{"id": 9, "name": "x", "age": 3}], ["id", "name"], "values for id, name, age"),
        ([(9, "x"), {"id": 10, "name": "y"}], None, "as the first row is one"),
        ([(9, "x"), (10,)], None, "a row has 1 value; expected 2"),
        ([(9,)], ["id", "name"], "a row has 1 value; expected 2"),
        ([(9,)], "id", "target_fields is a string"),
    ],
)
def test_rows_that_do_not_fit_are_refused(emulator: Emulator, rows: Any, fields: Any, words: str) -> None:
    with pytest.raises(ProgrammingError, match=words):
        D1Hook().insert_rows("users", rows, target_fields=fields)
    assert not emulator.calls.of("raw")


def test_airflows_sql_operators_work(emulator: Emulator) -> None:
    query = SQLExecuteQueryOperator(
        task_id="query", conn_id="d1_default", sql="SELECT name FROM users WHERE id = ?", parameters=[2]
    )
    assert query.execute({}) == [("Grace",)]
    other = SQLExecuteQueryOperator(
        task_id="other", conn_id="d1_default", database="notes", sql="SELECT count(*) FROM notes"
    )
    assert other.execute({}) == [(0,)]
    checks = {"enough": {"check_statement": "count(*) = 3"}}
    SQLTableCheckOperator(task_id="check", conn_id="d1_default", table="users", checks=checks).execute({})
    columns = {"id": {"unique_check": {"equal_to": 0}, "min": {"geq_to": 1}}}
    SQLColumnCheckOperator(task_id="columns", conn_id="d1_default", table="users", column_mapping=columns).execute({})
    wrong = {"too_many": {"check_statement": "count(*) = 4"}}
    with pytest.raises(AirflowException, match="too_many"):
        SQLTableCheckOperator(task_id="wrong", conn_id="d1_default", table="users", checks=wrong).execute({})
