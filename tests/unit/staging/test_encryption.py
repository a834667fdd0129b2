"""Encryption with age: exact, in bounded memory; no incomplete file looks complete, and no message shows a key."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pyrage
import pytest
from pyrage import x25519

from airflow_provider_d1.cloudflare.credentials import Secret
from airflow_provider_d1.exceptions import D1ConfigurationError, D1DownloadError, D1ImportFileError
from airflow_provider_d1.staging.encryption import EncryptingReader, decrypt_file, parse_identities, parse_recipients
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.stage import stage, stage_into_folder
from airflow_provider_d1.storage.folder import FolderStorage
from tests.unit.error_reports import frames_of

DATA = b"INSERT INTO t VALUES (1);\n" * 100_000
DUMP = b"PRAGMA defer_foreign_keys=TRUE;\nCREATE TABLE users (id);\nINSERT INTO users VALUES (1);\n"


@pytest.fixture
def identity() -> x25519.Identity:
    return x25519.Identity.generate()


def recipient(identity: x25519.Identity) -> str:
    return str(identity.to_public())


def encrypted(identity: x25519.Identity, data: bytes = DATA) -> bytes:
    with EncryptingReader(io.BytesIO(data), [recipient(identity)]) as reader:
        return reader.read()


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 2_500_000])
def test_what_is_encrypted_is_what_is_decrypted(identity: x25519.Identity, size: int) -> None:
    assert pyrage.decrypt(encrypted(identity, DATA[:size]), [identity]) == DATA[:size]


def test_each_recipient_can_decrypt(identity: x25519.Identity) -> None:
    other = x25519.Identity.generate()
    with EncryptingReader(io.BytesIO(DATA), [recipient(identity), recipient(other)]) as reader:
        content = reader.read()
    assert pyrage.decrypt(content, [identity]) == pyrage.decrypt(content, [other]) == DATA


class Endless:
    """Counts what was read, and fails at a place."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.read_bytes = 0
        self._fails_at = fails_at

    def read(self, size: int) -> bytes:
        self.read_bytes += size
        if self._fails_at is not None and self.read_bytes > self._fails_at:
            raise D1DownloadError("the connection was cut")
        return b"x" * size


def test_little_is_read_ahead(identity: x25519.Identity) -> None:
    source = Endless()
    with EncryptingReader(source, [recipient(identity)]) as reader:
        assert len(io.BufferedReader(reader).read(1 << 20)) == 1 << 20
    assert source.read_bytes < 3 << 20


@pytest.mark.parametrize("fails_at", [0, 10, 1_000_000])
def test_a_failing_source_does_not_look_like_the_end(identity: x25519.Identity, fails_at: int) -> None:
    with (
        EncryptingReader(Endless(fails_at), [recipient(identity)]) as reader,
        pytest.raises(D1DownloadError, match="the connection was cut"),
    ):
        reader.read()


def test_closing_ends_the_thread(identity: x25519.Identity) -> None:
    reader = EncryptingReader(Endless(), [recipient(identity)])
    reader.read(10)
    reader.close()
    assert [thread.name for thread in threading.enumerate() if thread.name == "age-encryption"] == []


@pytest.mark.parametrize("armored", [False, True])
def test_a_file_is_decrypted(identity: x25519.Identity, tmp_path: Path, armored: bool) -> None:
    path = tmp_path / "stored"
    path.write_bytes(pyrage.encrypt(DATA, [identity.to_public()], armored=armored))
    found = decrypt_file(path, tmp_path, Secret(str(identity)), "s3://b/x.age")
    assert found.read_bytes() == DATA
    assert list(tmp_path.iterdir()) == [found]


def test_a_plain_file_is_returned_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.write_bytes(DATA)
    assert decrypt_file(path, tmp_path, None, "s3://b/x.sql") == path


def test_a_file_elsewhere_stays(identity: x25519.Identity, tmp_path: Path) -> None:
    path, work = tmp_path / "stored", tmp_path / "work"
    path.write_bytes(encrypted(identity))
    work.mkdir()
    assert decrypt_file(path, work, Secret(str(identity)), "x").read_bytes() == DATA
    assert path.exists()


def test_a_key_file_of_age_keygen_can_be_the_password(identity: x25519.Identity, tmp_path: Path) -> None:
    """Several keys, so that files of an older key can be read."""
    lines = ["# created: 2026-11-27", f"# public key: {recipient(identity)}", str(x25519.Identity.generate())]
    path = tmp_path / "stored"
    path.write_bytes(encrypted(identity))
    key = Secret("\r\n".join([*lines, "", f"  {identity} ", ""]))
    assert decrypt_file(path, tmp_path, key, "x").read_bytes() == DATA


def test_a_missing_or_wrong_key_is_named_with_the_file(identity: x25519.Identity, tmp_path: Path) -> None:
    path = tmp_path / "stored"
    path.write_bytes(encrypted(identity))
    with pytest.raises(D1ConfigurationError, match=r"^s3://b/x\.age is encrypted with age, expected age_conn_id: pass"):
        decrypt_file(path, tmp_path, None, "s3://b/x.age")
    other = Secret(str(x25519.Identity.generate()))
    with pytest.raises(
        D1ConfigurationError, match=r"^s3://b/x\.age cannot be decrypted .*expected the secret key"
    ) as e:
        decrypt_file(path, tmp_path, other, "s3://b/x.age")
    shown = frames_of(e.value) + "".join(traceback.format_exception(e.value))
    assert "'***'" in shown
    assert str(other) not in shown


@pytest.mark.parametrize("harm", ["cut", "cut between chunks", "changed"])
def test_a_damaged_file_is_named(identity: x25519.Identity, tmp_path: Path, harm: str) -> None:
    content = encrypted(identity)
    if harm == "changed":
        content = content[:70_000] + bytes([content[70_000] ^ 1]) + content[70_001:]
    else:
        header = len(encrypted(identity, b"")) - 16
        content = content[: header + 65_552] if harm == "cut between chunks" else content[:-1]
    path = tmp_path / "stored"
    path.write_bytes(content)
    with pytest.raises(D1ImportFileError, match=r"^s3://b/x\.age is truncated or damaged"):
        decrypt_file(path, tmp_path, Secret(str(identity)), "s3://b/x.age")


@pytest.mark.parametrize("key", ["", "# comment", "AGE-SECRET-KEY-1QQQQ", "tok-123", "age1qqqq"])
def test_what_is_no_secret_key_is_not_shown(key: str) -> None:
    with pytest.raises(D1ConfigurationError, match="password is not an age secret key") as error:
        parse_identities(Secret(key))
    if key:
        assert key not in str(error.value) + frames_of(error.value)


# --- staging


@pytest.mark.parametrize(
    ("compression", "suffix"), [("none", ".sql.age"), ("gzip", ".sql.gz.age"), ("zstd", ".sql.zst.age")]
)
def test_a_staged_dump_is_encrypted(identity: x25519.Identity, tmp_path: Path, compression: str, suffix: str) -> None:
    options = StagingOptions(file_format="sql", compression=compression, age_recipients=[recipient(identity)])
    manifest = stage(io.BytesIO(DUMP), FolderStorage(tmp_path), options, Source(database_name="shop"))
    [file] = manifest.files
    assert file.uri.endswith(f"/{manifest.run}/shop{suffix}")
    assert (manifest.encryption, manifest.dump.bytes) == ("age", len(DUMP))
    path = tmp_path / str(manifest.run) / f"shop{suffix}"
    assert path.stat().st_size == file.bytes
    assert b"CREATE TABLE" not in path.read_bytes()
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(path.read_bytes(), [x25519.Identity.generate()])
    packed = pyrage.decrypt(path.read_bytes(), [identity])
    assert (packed == DUMP) is (compression == "none")


def test_a_dump_that_fails_leaves_no_file(identity: x25519.Identity, tmp_path: Path) -> None:
    options = StagingOptions(file_format="sql", age_recipients=[recipient(identity)])
    with pytest.raises(D1DownloadError, match="the connection was cut"):
        stage(Endless(300_000), FolderStorage(tmp_path), options, Source())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


VALID = "age1" + "q" * 58


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"age_recipients": "age1qqqq"}, "age_recipients must be a list of age public keys"),
        ({"age_recipients": []}, "age_recipients must be a list of age public keys"),
        (
            {"age_recipients": [VALID, "me@example.com"]},
            r"age_recipients\[1\] is 'me@example.com', which is not a valid",
        ),
        ({"age_recipients": [VALID], "file_format": "csv"}, "expected file_format='sql', not 'csv'"),
    ],
)
def test_options_that_cannot_work(options: dict[str, object], words: str) -> None:
    with pytest.raises(D1ConfigurationError, match=words):
        StagingOptions(**({"file_format": "sql"} | options))


def test_a_mistyped_recipient_is_found_by_its_checksum(identity: x25519.Identity) -> None:
    good = recipient(identity)
    mistyped = good[:-1] + ("q" if good[-1] != "q" else "p")
    with pytest.raises(D1ConfigurationError, match=rf"age_recipients\[1\] is '{mistyped}'"):
        parse_recipients([good, mistyped])


@pytest.mark.parametrize("as_list", [True, False])
def test_a_secret_key_in_place_of_a_public_one_is_not_shown(identity: x25519.Identity, as_list: bool) -> None:
    secret = str(identity)
    with pytest.raises(D1ConfigurationError, match="age_recipients") as error:
        StagingOptions(file_format="sql", age_recipients=[secret] if as_list else secret)
    assert secret not in str(error.value)


def test_without_pyrage_the_extra_is_named(
    identity: x25519.Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stored"
    path.write_bytes(encrypted(identity))
    monkeypatch.setitem(sys.modules, "pyrage", None)
    extra = r"pip install 'airflow-provider-d1\[age\]'"
    options = StagingOptions(file_format="sql", age_recipients=[recipient(identity)])
    with pytest.raises(D1ConfigurationError, match=f"age_recipients needs pyrage.*{extra}"):
        stage_into_folder(io.BytesIO(DUMP), FolderStorage(tmp_path / "out"), options, Source())
    with pytest.raises(D1ConfigurationError, match=f"age_conn_id needs pyrage.*{extra}"):
        decrypt_file(path, tmp_path, Secret(str(identity)), "x")


def test_the_command_line_encrypts(identity: x25519.Identity, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "airflow_provider_d1.staging", "-", str(tmp_path / "out"), "--format", "sql"]
    subprocess.run([*command, "--age-recipient", recipient(identity)], input=DUMP, check=True, timeout=60)
    assert pyrage.decrypt((tmp_path / "out" / "dump.sql.age").read_bytes(), [identity]) == DUMP
