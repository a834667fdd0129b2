"""A backup that is encrypted with age: restored with its key, and refused without it before anything is sent to D1."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from pyrage import x25519

from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.exceptions import D1ConfigurationError, D1ManifestError
from airflow_provider_d1.hooks.age_key import read_age_key
from airflow_provider_d1.operators.d1_compare import D1CompareBackupsOperator
from airflow_provider_d1.operators.d1_import import D1ImportOperator
from airflow_provider_d1.staging.manifest import parse_manifest
from airflow_provider_d1.transfers.d1_to_object_storage import D1ToObjectStorageOperator
from airflow_provider_d1.transfers.s3_to_d1 import S3ToD1Operator
from airflow_provider_d1.warehouses.plan import LoadOptions, make_plan
from tests.unit.error_reports import frames_of
from tests.unit.warehouses.warehouse_plans import ENGINES

SHOP = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO users VALUES (1, 'Ada'), (2, 'Grace');"
IDENTITY = x25519.Identity.generate()
OTHER = x25519.Identity.generate()


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(f"tok-{secrets.token_hex(16)}", databases={"shop": SHOP, "fresh": ""}) as emulator:
        definition = {
            "conn_type": "d1",
            "host": emulator.url,
            "password": emulator.token,
            "extra": {"account_id": emulator.account_id},
        }
        monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(definition))
        for name, key in {"age": IDENTITY, "other": OTHER, "wrong": f"{str(IDENTITY)[:-1]}x"}.items():
            connection = {"conn_type": "generic", "password": str(key)}
            monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
        yield emulator


@pytest.fixture
def backup(emulator: Emulator, tmp_path: Path) -> dict[str, Any]:
    return back_up(tmp_path / "backup")


def back_up(folder: Path, **arguments: Any) -> dict[str, Any]:
    arguments = {"compression": "zstd", "age_recipients": [str(IDENTITY.to_public())]} | arguments
    return D1ToObjectStorageOperator(
        task_id="back_up", database="shop", path=folder.as_uri(), file_format="sql", deferrable=False, **arguments
    ).execute({"ti": SimpleNamespace()})


def restore(source: Any, **arguments: Any) -> dict[str, Any]:
    return D1ImportOperator(
        task_id="restore", database="fresh", source=source, record_table=None, deferrable=False, **arguments
    ).execute({})


def sent(emulator: Emulator) -> list[str]:
    return [call.kind for call in emulator.calls if call.kind.startswith(("import", "query", "raw", "upload"))]


def test_a_backup_is_restored_with_its_key(emulator: Emulator, backup: dict[str, Any], tmp_path: Path) -> None:
    result = restore(backup, source_database="shop", age_conn_id="age")
    assert result["source"].endswith("/shop.sql.zst.age")
    plain = back_up(tmp_path / "plain", age_recipients=None)
    compare = {"task_id": "compare", "first": backup, "second": plain}
    assert D1CompareBackupsOperator(**compare, age_conn_id="age").execute({})["rows"] == 2
    with pytest.raises(AirflowFailException, match=r"shop\.sql\.zst\.age is encrypted with age, expected age_conn_id"):
        D1CompareBackupsOperator(**compare).execute({})
    assert str(IDENTITY) not in json.dumps([backup, result])


def test_an_encrypted_file_without_a_manifest(emulator: Emulator, backup: dict[str, Any], tmp_path: Path) -> None:
    [file] = (tmp_path / "backup" / backup["run"]).glob("*.age")
    assert restore(str(file), age_conn_id="age")["manifest"] is None
    with pytest.raises(AirflowFailException, match=r"\.age is encrypted with age, expected age_conn_id: pass"):
        restore(str(file))


@pytest.mark.parametrize(
    ("conn_id", "words"),
    [
        (None, "is encrypted with age, expected age_conn_id: pass the id of a connection"),
        ("other", "cannot be decrypted .*expected the secret key of one of its recipients"),
        ("wrong", "Connection 'wrong': password is not an age secret key, expected AGE-SECRET-KEY-1…"),
        ("absent", "age_conn_id: connection 'absent' is not defined, expected one whose password"),
    ],
)
def test_without_the_key_nothing_is_written_and_no_key_is_shown(
    emulator: Emulator, backup: dict[str, Any], conn_id: str | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    emulator.calls.clear()
    with pytest.raises(AirflowFailException, match=words) as failed:
        restore(backup, source_database="shop", age_conn_id=conn_id)
    assert [kind for kind in sent(emulator) if kind.startswith(("import", "upload"))] == []
    shown = caplog.text + str(failed.value) + frames_of(failed.value)
    assert "d1_import.py" in shown
    for key in (IDENTITY, OTHER):
        assert str(key)[:-1] not in shown


def test_tampering_is_found_before_decryption(emulator: Emulator, backup: dict[str, Any], tmp_path: Path) -> None:
    [file] = (tmp_path / "backup" / backup["run"]).glob("*.age")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(AirflowFailException, match="its SHA-256 differs from the manifest"):
        restore(backup, source_database="shop", age_conn_id="age")


def test_other_readers_say_that_it_is_encrypted(emulator: Emulator, backup: dict[str, Any]) -> None:
    words = "lists an SQL dump that is encrypted with age, not tables"
    operator = S3ToD1Operator(task_id="load", database="fresh", manifest=backup, deferrable=False)
    with pytest.raises(AirflowFailException, match=words):
        operator.execute({})
    manifest = parse_manifest(Path(backup["manifest"].removeprefix("file://")).read_bytes())
    with pytest.raises(D1ManifestError, match=words):
        make_plan(manifest, backup["manifest"], ENGINES["duckdb"].dialect, LoadOptions("d1"))


@pytest.mark.parametrize("recipient", ["AGE-SECRET-KEY-1QQQQ", f"age1{'q' * 58}"])
def test_a_recipient_that_cannot_work_fails_before_the_export(
    emulator: Emulator, tmp_path: Path, recipient: str
) -> None:
    with pytest.raises((D1ConfigurationError, AirflowFailException), match=r"age_recipients\[0\]") as failed:
        back_up(tmp_path, age_recipients=[recipient])
    assert "AGE-SECRET" not in str(failed.value)
    assert list(emulator.calls) == []


@pytest.mark.parametrize(("rendered", "value"), [("", None), ("None", None), (f"['age1{'q' * 58}']", 1)])
def test_rendered_recipients(rendered: str, value: int | None) -> None:
    rule = D1ToObjectStorageOperator.rules["age_recipients"]
    found = rule.from_rendered(rendered)
    rule.check("age_recipients", found)
    assert (None if found is None else len(found)) == value


def test_an_empty_template_is_no_connection() -> None:
    for operator in (D1ImportOperator, D1CompareBackupsOperator):
        assert operator.rules["age_conn_id"].from_rendered("") is None
        assert "age_conn_id" in operator.template_fields
    assert read_age_key(None) is None
