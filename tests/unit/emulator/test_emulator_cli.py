from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from airflow_provider_d1.emulator import __main__ as cli

COMMAND = [sys.executable, "-m", "airflow_provider_d1.emulator"]


@contextmanager
def running(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline(), process
        finally:
            process.terminate()
            process.wait(20)


def test_it_serves_until_a_signal(tmp_path: Path) -> None:
    seed = tmp_path / "seed.sql"
    seed.write_text("CREATE TABLE t(a); INSERT INTO t VALUES (7);")
    ready = tmp_path / "ready.sql"
    ready.write_text("-- a dump")
    arguments = ["--token", "s3cret", "--account", "acct", "--database", f"shop={seed}", "--database", "empty"]
    arguments += ["--dump", f"big={ready}", "--fault", "html_errors=1", "--fault", "no_range", "--speed", "10"]
    with running(*arguments) as (line, process):
        url = re.fullmatch(r"D1 emulator ready at (http://127\.0\.0\.1:\d+/client/v4) \(.*\)\n", line)
        assert url, (line, process.stderr)
        assert "s3cret" not in line
        with httpx.Client(base_url=url[1], headers={"Authorization": "Bearer s3cret"}, verify=False) as http:
            assert http.get("/user/tokens/verify").status_code == 502
            found = http.get("/accounts/acct/d1/database").json()["result"]
            assert [database["name"] for database in found] == ["shop", "empty", "big"]
            path = f"/accounts/acct/d1/database/{found[0]['uuid']}/query"
            assert http.post(path, json={"sql": "SELECT a FROM t"}).json()["result"][0]["results"] == [{"a": 7}]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--database", "shop=missing.sql"], "missing.sql does not exist"),
        (["--database", "=x.sql"], "'=x.sql' is not NAME=FILE"),
        (["--dump", "big="], "'big=' is not NAME=FILE"),
        (["--dump", "big"], "'big' is not NAME=FILE"),
        (["--fault", "nonsense"], "unknown fault 'nonsense'"),
        (["--fault", "html_errors=many"], "html_errors: expected int, got 'many'"),
        (["--speed", "0"], "speed must be above 0"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_bad_seed_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.sql").write_text("CREATE TABLE t(")
    assert cli.main(["--database", f"shop={tmp_path / 'bad.sql'}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"error: .*bad\.sql: incomplete input", line)


def test_a_taken_port_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with running() as (line, _):
        port = re.search(r":(\d+)/", line)
        assert port
        assert cli.main(["--port", port[1]]) == 1
    assert re.fullmatch(r"error: .*in use.*", capsys.readouterr().err.strip())


def test_without_its_extra_it_names_the_package_to_install() -> None:
    code = "import sys, runpy; sys.modules['apsw'] = None; runpy.run_module('airflow_provider_d1.emulator')"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "error: apsw is missing; the emulator needs pip install 'airflow-provider-d1[emulator]'\n"


def test_signal_handlers_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    (tmp_path / "bad.json").write_text("{}")
    assert cli.main(["--database", f"shop={tmp_path / 'bad.json'}"]) == 1
    assert signal.getsignal(signal.SIGINT) is before
