"""The environment of the scenarios: one Airflow, one S3 server and, for each scenario, its own D1 emulator."""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import psutil

from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.emulator.signing import Signer
from harness.airflow import Airflow, wait_until
from harness.s3_faults import S3Proxy, s3_proxy

if TYPE_CHECKING:
    from harness.postgres import PostgresServer
    from harness.seaweed import S3Server

#: three tables, one of them empty
SHOP = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, score REAL);
INSERT INTO users VALUES (1, 'Ada', 1.5), (2, 'Grace', 2.5), (3, NULL, NULL);
CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER, note TEXT);
INSERT INTO orders VALUES (1, 1, 'first'), (2, 2, 'second');
CREATE TABLE empty_one (id INTEGER);
"""
#: about 2 MB of text that does not compress
BIG = """
CREATE TABLE big (id INTEGER PRIMARY KEY, noise TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO big SELECT i, hex(randomblob(50)) FROM n;
"""
#: about 25 MB, which S3's client sends in four parts if it is one file
HUGE = """
CREATE TABLE huge (id INTEGER PRIMARY KEY, noise TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)
INSERT INTO huge SELECT i, hex(randomblob(1050)) FROM n;
"""
SIGNATURE = re.compile(rb"X-Amz-Signature(?:=|%3D|\"?: ?\"?)[0-9a-fA-F]{16}", re.IGNORECASE)
#: scenarios that run at once
MAX_CONCURRENT = 8
#: how long an export takes unless a scenario says otherwise: long enough to interfere with it
EXPORT_SECONDS = 8.0
#: only a guard against hanging: on a busy machine everything takes many times as long
TIMEOUT = 900.0


@dataclass
class Scenario:
    """A D1 emulator with its connection, and the DAG of the same name."""

    name: str
    airflow: Airflow
    s3: Any  # a boto3 client of the server itself
    proxy: S3Proxy
    bucket: str
    emulator: Emulator
    token: str = field(repr=False)

    def connect(self, token: str) -> None:
        """Set the D1 connection."""
        extra = {"account_id": self.emulator.account_id}
        definition = {"conn_type": "d1", "host": self.emulator.url, "password": token, "extra": extra}
        self.airflow.set_connection(self.name, definition)

    def run(self) -> str:
        return self.airflow.trigger(self.name)

    def ended(self, run_id: str, timeout: float = TIMEOUT) -> str:
        return self.airflow.wait_for_run(self.name, run_id, timeout)

    def succeeds(self, run_id: str, timeout: float = TIMEOUT) -> dict[str, Any]:
        """Wait until the run has succeeded, check the staged files and return the manifest."""
        state = self.ended(run_id, timeout)
        assert state == "success", self.airflow.log(self.name, run_id)[-6000:]
        return self.staged()

    def fails(self, run_id: str, timeout: float = TIMEOUT) -> str:
        """Wait until the run has failed and return what its tasks and triggers logged."""
        state = self.ended(run_id, timeout)
        log = self.airflow.log(self.name, run_id)
        assert state == "failed", log[-6000:]
        return log

    def deferred(self, run_id: str, task_id: str = "stage") -> None:
        """Wait until the task is deferred, the scheduler has processed that, and the export is being polled."""
        self.airflow.wait_for_task(self.name, run_id, task_id, "deferred", TIMEOUT)
        log = self.airflow.folder / "scheduler.log"  # the only place that shows it; see EXPORT_SECONDS
        heard = f"Received executor event with state success for task instance TaskInstanceKey(dag_id='{self.name}'"
        wait_until(lambda: heard in log.read_text(errors="replace"), "the worker has released the task", TIMEOUT)
        wait_until(lambda: len(self.calls("export_poll")) >= 2, "the export is polled", TIMEOUT, every=0.1)

    def calls(self, *kinds: str) -> list[Any]:
        return self.emulator.calls.of(*kinds)

    def exports(self) -> int:
        """The number of exports that D1 has accepted. A refused start has status 200, a start with a lost answer 0."""
        return len([call for call in self.calls("export_start") if call.status == 202])

    def attempts(self, run_id: str, task_id: str = "stage") -> int:
        """The number of attempts of a task."""
        return self.airflow.task(self.name, run_id, task_id)["try_number"]

    def answers_queries(self) -> bool:
        """Whether the database answers queries, which it does not while it is exported."""
        return self.query("SELECT 1")

    def query(self, sql: str) -> bool:
        """Run a statement in the database ``shop`` as another client; False when D1 refuses."""
        path = f"/accounts/{self.emulator.account_id}/d1/database/{self.emulator.database_id('shop')}/query"
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.emulator.url}{path}", json.dumps({"sql": sql}).encode(), headers)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30):
                return True
        except urllib.error.HTTPError:
            return False

    def wait_until_abandoned(self) -> None:
        """Wait until the export is no longer polled and D1 has cancelled it for that reason."""
        self.wait_until_not_polled()
        asked = len(self.calls("export_start", "export_poll"))
        wait_until(self.answers_queries, "the database answers queries again", 60)
        assert len(self.calls("export_start", "export_poll")) == asked
        assert self.exports() == len(self.calls("export_start")) == 1

    def wait_until_not_polled(self, seconds: float = 8, timeout: float = 180) -> None:
        """Wait until no export has been started or polled for a while; a running one is polled at least every 5 s."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            before = len(self.calls("export_start", "export_poll"))
            time.sleep(seconds)
            if len(self.calls("export_start", "export_poll")) == before:
                return
        raise AssertionError(f"the export of {self.name} was still polled after {timeout:g} s")

    # what is left behind

    @contextmanager
    def reader(self) -> Iterator[list[str]]:
        """Read the prefix repeatedly as a loader would, and collect each new state once.

        A state is ``nothing`` (no manifest), ``all of it``, or what of a manifest's files was missing.
        """
        seen: list[str] = []
        over = threading.Event()

        def look() -> None:
            state = self._as_read()
            if seen[-1:] != [state]:
                seen.append(state)

        def read() -> None:
            while not over.wait(0.5):
                look()

        thread = threading.Thread(target=read, name=f"reader of {self.name}")
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            thread.join()
        look()

    def _as_read(self) -> str:
        manifest = self.manifest()
        if manifest is None:
            return "nothing"
        objects = self.objects()
        missing = {key: size for key, size in self.listed(manifest).items() if objects.get(key) != size}
        return f"missing: {sorted(missing)}" if missing else "all of it"

    def listed(self, manifest: dict[str, Any]) -> dict[str, int]:
        """The files that a manifest lists, by key, with their sizes."""
        entries = [manifest, *manifest.get("tables", [])]
        files = [file for entry in entries for file in entry.get("files", [])]
        return {file["uri"].removeprefix(f"s3://{self.bucket}/"): file["bytes"] for file in files}

    def objects(self) -> dict[str, int]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.name}/")
        return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}

    def uploads(self) -> list[str]:
        """Keys of multipart uploads that were neither completed nor aborted."""
        found = self.s3.list_multipart_uploads(Bucket=self.bucket, Prefix=f"{self.name}/")
        return [upload["Key"] for upload in found.get("Uploads", [])]

    def manifest(self) -> dict[str, Any] | None:
        key = f"{self.name}/_manifest.json"
        return json.loads(self.read(key)) if key in self.objects() else None

    def read(self, key: str) -> bytes:
        return self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def staged(self) -> dict[str, Any]:
        """The newest run's manifest; each run's own one lists all objects of its folder, and there are no others."""
        manifest = self.manifest()
        assert manifest is not None, self.objects()
        objects = self.objects()
        del objects[f"{self.name}/_manifest.json"]
        runs = {key.split("/")[1] for key in objects}
        assert manifest["run"] in runs
        expected: dict[str, int] = {}
        for run in runs:
            own = self.read(f"{self.name}/{run}/_manifest.json")
            expected |= {**self.listed(json.loads(own)), f"{self.name}/{run}/_manifest.json": len(own)}
        assert objects == expected
        assert self.uploads() == []
        return manifest

    def nothing_staged(self) -> None:
        assert self.objects() == {}
        assert self.uploads() == []


class Environment:
    """Runs all scenarios of a session, and records what they may have leaked."""

    def __init__(self, airflow: Airflow, s3: S3Server, bucket: str, postgres: PostgresServer) -> None:
        self.airflow = airflow
        self.s3 = s3
        self._client = s3.client()
        self.bucket = bucket
        self.postgres = postgres
        #: scenario, or its name and a word more → its API token
        self.tokens: dict[str, str] = {}
        #: of every URL that any emulator has signed
        self.signatures: set[str] = set()
        #: secrets found in the processes' arguments and environments
        self.process_leaks: set[str] = set()
        self.processes_seen: set[int] = set()
        self._pool = ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="scenario")
        self._futures: dict[str, Future[None]] = {}
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch_processes, name="process-watcher")

    def __enter__(self) -> Environment:
        sign = self._sign = Signer.sign

        def noted(signer: Signer, *arguments: Any) -> str:
            url = sign(signer, *arguments)
            self.signatures.update(parse_qs(urlsplit(url).query)["X-Amz-Signature"])
            return url

        Signer.sign = noted
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        Signer.sign = self._sign
        self._over.set()
        self._watcher.join()

    def start(self, nodeid: str, scenario: Callable[..., None], **arguments: object) -> None:
        self._futures[nodeid] = self._pool.submit(scenario, environment=self, **arguments)

    def result(self, nodeid: str) -> None:
        self._futures[nodeid].result()

    def wait_for_all(self) -> None:
        for future in self._futures.values():
            future.exception()

    @contextmanager
    def scenario(self, name: str, seed: str = SHOP, databases: Mapping[str, str] | None = None) -> Iterator[Scenario]:
        """Start the D1 emulator and the S3 proxy for the DAG called ``name``, and set its connections.

        :param seed: of the database ``shop``.
        :param databases: name → seed, instead of it.
        """
        token = self.tokens[name] = f"secret-{secrets.token_hex(20)}"
        account = secrets.token_hex(16)
        faults = {"export_seconds": EXPORT_SECONDS}
        with ExitStack() as stack:
            d1 = stack.enter_context(Emulator(token, account, databases or {"shop": seed}, faults=faults))
            proxy = stack.enter_context(s3_proxy(self.s3))
            scenario = Scenario(name, self.airflow, self._client, proxy, self.bucket, d1, token)
            scenario.connect(token)
            self.airflow.set_connection(f"{name}_s3", json.loads(proxy.server.airflow_connection()))
            self.airflow.set_connection(f"{name}_warehouse", json.loads(self.postgres.airflow_connection()))
            yield scenario

    def kept_states(self, dag_id: str) -> list[str]:
        """Keys that the tasks of a DAG have in Airflow's ``task_state_store``."""
        with self.postgres.connect() as connection:
            rows = connection.execute("SELECT key FROM task_state_store WHERE dag_id = %s", [dag_id]).fetchall()
        return [key for (key,) in rows]

    def leaks_in(self, where: str, content: bytes) -> list[str]:
        """What of the secrets is in ``content``, in words without the secret."""
        tokens, signatures = dict(self.tokens), set(self.signatures)  # scenarios that are still running add to them
        found = [f"the token of {name} in {where}" for name, token in tokens.items() if token.encode() in content]
        if SIGNATURE.search(content) or any(signature.encode() in content for signature in signatures):
            found.append(f"a signed URL in {where}")
        return found

    def _watch_processes(self) -> None:
        while not self._over.wait(1):
            for component in list(self.airflow.processes.values()):
                self._look_at(component.pid)

    def _look_at(self, pid: int) -> None:
        try:
            parent = psutil.Process(pid)
            family = [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in family:
            for part in ("cmdline", "environ"):
                try:
                    content = Path(f"/proc/{process.pid}/{part}").read_bytes()
                except OSError:
                    continue  # the process has ended
                self.processes_seen.add(process.pid)
                self.process_leaks.update(self.leaks_in(f"the {part} of a process", content))
