"""The emulator's dumps are the real engine's, byte for byte."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest
import real_engine
from random_database import Generator
from real_engine import DumpRequest, EngineDumps

from airflow_provider_d1.emulator import dump_writer
from airflow_provider_d1.emulator.store import LocalDatabase

pytestmark = pytest.mark.conformance

CORPUS = Path(__file__).parents[1] / "data" / "corpus"
FULL = DumpRequest()
NO_DATA = DumpRequest(no_data=True)
NO_SCHEMA = DumpRequest(no_schema=True)
BARE = DumpRequest(no_data=True, no_schema=True)
#: tables, an index without its table, a table without its index, sequences, statistics, and names that match nothing
SOME = DumpRequest(tables=("gen", "idx_partial", "comp", "sqlite_sequence", "sqlite_stat1", "v_a", "Gen", "nothing"))
SOME_ROWS = DumpRequest(no_schema=True, tables=("auto", "表", "weird table"))
WRONG_CASE = DumpRequest(tables=("SCALARS",))
SEEDS = range(12)


def corpus(name: str) -> list[str]:
    return json.loads((CORPUS / f"{name}.json").read_text())


DOCS, DOCS_FTS, SHADOW = (DumpRequest(tables=(t,)) for t in ("docs", "docs_fts", "docs_fts_config"))
JOBS = {
    "nasty": (corpus("nasty"), [FULL, NO_DATA, NO_SCHEMA, BARE, SOME, SOME_ROWS, WRONG_CASE]),
    "fts": (corpus("fts"), [FULL, NO_DATA, DOCS, DOCS_FTS, SHADOW]),
    "empty": ([], [FULL, NO_SCHEMA]),
    **{f"random{seed}": (Generator(seed).statements(), [FULL, NO_DATA, NO_SCHEMA]) for seed in SEEDS},
}
CASES = [(name, request) for name, (_, requests) in JOBS.items() for request in requests]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EngineDumps]:
    try:
        return real_engine.dumps(JOBS, tmp_path_factory.mktemp("engine"))
    except real_engine.EngineMissingError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must hold the dumps against the real engine: {missing}")
        message = f"THE DUMPS WERE NOT HELD AGAINST THE REAL D1 ENGINE: {missing}"
        warnings.warn(message, stacklevel=1)
        pytest.skip(message)


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LocalDatabase]:
    folder = tmp_path_factory.mktemp("emulator")
    return {
        name: LocalDatabase(folder / f"{name}.sqlite", name, name, statements) for name, (statements, _) in JOBS.items()
    }


@pytest.mark.parametrize(("name", "request_"), CASES, ids=lambda value: str(value).removeprefix("DumpRequest"))
def test_same_bytes(
    name: str, request_: DumpRequest, engine: dict[str, EngineDumps], databases: dict[str, LocalDatabase]
) -> None:
    options = dump_writer.DumpOptions(request_.no_schema, request_.no_data, request_.tables)
    ours: bytes | str
    with databases[name].reader() as connection:
        try:
            ours = b"".join(dump_writer.chunks(connection, options))
        except dump_writer.VirtualTableError as error:
            ours = str(error)
    theirs = engine[name].dumps[request_]
    if isinstance(theirs, str):
        assert isinstance(ours, str)
        assert ours in theirs  # the engine's message has its stack behind it
    else:
        assert ours == theirs


def test_engine_ran_what_the_emulator_ran(engine: dict[str, EngineDumps]) -> None:
    reserved = next(i for i, s in enumerate(JOBS["nasty"][0]) if "_cf_fake" in s)
    assert {name: dumps.refused for name, dumps in engine.items() if dumps.refused} == {
        "nasty": {reserved: "D1_ERROR: not authorized: SQLITE_AUTH"}
    }


def test_random_databases_reach_the_oddities(databases: dict[str, LocalDatabase]) -> None:
    seen = b""
    for seed in SEEDS:
        with databases[f"random{seed}"].reader() as connection:
            seen += b"".join(dump_writer.chunks(connection, dump_writer.DumpOptions()))
    oddities = [b"replace(replace('", b"9e999", b"-9e999", b"e+21", b"9007199254740992", b"9223372036854776000", b"\0"]
    oddities += ["�".encode(), b"X''", b"DELETE FROM sqlite_sequence;", b"ANALYZE sqlite_schema;", b"AS (upper("]
    oddities += [
        b"STRICT",
        b"WITHOUT ROWID",
        b"CREATE TRIGGER",
        b"CREATE VIEW",
        b"CREATE TABLE IF NOT EXISTS",
        b"[",
        b"e-7",
    ]
    assert [oddity for oddity in oddities if oddity not in seen] == []
