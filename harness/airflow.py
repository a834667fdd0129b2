"""Airflow on loopback: scheduler, dag-processor, api-server, any number of triggerers and Celery workers."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from harness.process import end, free_ports, running

T = TypeVar("T")
#: final states of a task instance or a DAG run
FINAL = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
#: seconds between two requests to the api-server, which uses all available CPU for each
_POLL_SECONDS = 2.0


@dataclass
class Airflow:
    """A running deployment, used through its REST API.

    ``folder`` holds everything that the deployment writes: ``logs/`` (of tasks and triggers), ``*.log`` (of
    components), ``tmp/`` (the workers' temp folder) and, with SQLite, ``airflow.db``.
    """

    folder: Path
    url: str
    env: Mapping[str, str] = field(repr=False)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)
    _token: str | None = field(default=None, repr=False)

    # components

    def start_triggerer(self, name: str, queue: str = "default", capacity: int = 1000) -> None:
        """Start a triggerer that serves one queue, and return when its runner has started to query triggers.

        :param capacity: how many triggers it runs at once.
        """
        command = ["triggerer", "--queues", queue, "--capacity", str(capacity), "--skip-serve-logs"]
        self._start(name, command, b"Starting the triggerer")

    def start_celery_worker(self, name: str, queue: str) -> None:
        """Start a worker of CeleryExecutor that runs one task of one queue at a time, and return when it is ready."""
        options = ["--concurrency", "1", "--celery-hostname", name, "--without-mingle", "--without-gossip"]
        self._start(name, ["celery", "worker", "--queues", queue, *options, "--skip-serve-logs"], b" ready.")

    def _start(self, name: str, arguments: Sequence[str], ready_words: bytes) -> None:
        log = self.folder / f"{name}.log"
        seen = log.stat().st_size if log.exists() else 0

        def ready() -> bool:
            with log.open("rb") as lines:
                lines.seek(seen)
                return ready_words in lines.read()

        context = running([airflow(), *arguments], log=log, ready=ready, env=self.env, timeout=240, grace=15)
        self.processes[name] = self._stack.enter_context(_whole_tree(context))

    def signal(self, name: str, number: signal.Signals, *, tree: bool = True) -> None:
        """Send a signal to a component and, as when a machine fails or is suspended, to all its children.

        ``tree=False`` signals the component alone, as an operator's ``kill`` does.
        """
        process = psutil.Process(self.processes[name].pid)
        for each in [process, *(process.children(recursive=True) if tree else [])]:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(number)

    # REST API

    def request(self, method: str, path: str, body: object = None, *, accept: Sequence[int] = ()) -> Any:  # noqa: ANN401 - JSON
        """Call ``/api/v2{path}`` and return the parsed answer, None for an empty one.

        :param accept: error statuses that give None instead of raising.
        :raises RuntimeError: for any other error status, with the server's message.
        """
        if self._token is None:
            self._token = _call("GET", f"{self.url}/auth/token", None, None)["access_token"]
        try:
            return _call(method, f"{self.url}/api/v2{path}", body, self._token)
        except urllib.error.HTTPError as error:
            if error.code in accept:
                return None
            raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')[:500]}") from None

    def set_connection(self, connection_id: str, definition: Mapping[str, Any]) -> None:
        """Create or replace a connection in the metadata database.

        :param definition: as in an ``AIRFLOW_CONN_…`` variable: conn_type, host, login, password, schema, extra.
        """
        body = {"connection_id": connection_id, **definition}
        if not isinstance(body.get("extra", ""), str):
            body["extra"] = json.dumps(body["extra"])
        self.request("DELETE", f"/connections/{connection_id}", accept=[404])
        self.request("POST", "/connections", body)

    def set_pool(self, name: str, slots: int) -> None:
        """Create a pool whose slots deferred tasks hold too."""
        self.request("POST", "/pools", {"name": name, "slots": slots, "include_deferred": True})

    def wait_for_dag(self, dag_id: str, timeout: float = 90) -> None:
        """Wait until the dag-processor has parsed a DAG."""
        wait_until(lambda: self.request("GET", f"/dags/{dag_id}", accept=[404]), f"DAG {dag_id} is parsed", timeout)

    def trigger(self, dag_id: str, run_id: str | None = None, conf: Mapping[str, Any] | None = None) -> str:
        """Start a DAG run and return its id."""
        run_id = run_id or f"{dag_id}-{secrets.token_hex(3)}"
        self.request(
            "POST", f"/dags/{dag_id}/dagRuns", {"dag_run_id": run_id, "logical_date": None, "conf": conf or {}}
        )
        return run_id

    def run_state(self, dag_id: str, run_id: str) -> str | None:
        """State of a DAG run, None when it does not exist (any more)."""
        run = self.request("GET", f"/dags/{dag_id}/dagRuns/{run_id}", accept=[404])
        return None if run is None else run["state"]

    def task(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """A task instance as the API describes it."""
        return self.request("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}")

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float = 240) -> str:
        """Wait for the end of a DAG run and return its state."""
        return wait_until(
            lambda: state if (state := self.run_state(dag_id, run_id)) in FINAL else None,
            f"{run_id} ends",
            timeout,
            every=_POLL_SECONDS,
        )

    def wait_for_task(self, dag_id: str, run_id: str, task_id: str, state: str, timeout: float = 240) -> dict[str, Any]:
        """Wait until a task instance is in ``state``."""

        def reached() -> dict[str, Any] | None:
            task = self.task(dag_id, run_id, task_id)
            return task if task["state"] == state else None

        return wait_until(reached, f"{run_id}/{task_id} is {state}", timeout, every=_POLL_SECONDS)

    def clear(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Clear one task instance in any state, as the UI's button does."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [task_id],
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self.request("POST", f"/dags/{dag_id}/clearTaskInstances", body)

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Mark a task instance by hand as ``success`` or ``failed``."""
        self.request("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}", {"new_state": state})

    def mark_run(self, dag_id: str, run_id: str, state: str) -> None:
        """Mark a DAG run by hand as ``success`` or ``failed``, with all tasks that have not ended."""
        self.request("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", {"state": state})

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """Delete a DAG run with all its task instances."""
        self.request("DELETE", f"/dags/{dag_id}/dagRuns/{run_id}")

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:  # noqa: ANN401 - JSON
        """An XCom's value, None when there is none."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}?deserialize=true"
        entry = self.request("GET", path, accept=[404])
        return None if entry is None else entry["value"]

    def log(self, dag_id: str, run_id: str) -> str:
        """Everything that the tasks and triggers of a DAG run have logged, in all attempts."""
        folder = self.folder / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}"
        return "\n".join(path.read_text(errors="replace") for path in sorted(folder.rglob("*.log*")))

    def task_process(self, dag_id: str, run_id: str, task_id: str) -> psutil.Process:
        """The process in which a running task's code runs (a child of the LocalExecutor's worker)."""
        pid = self.task(dag_id, run_id, task_id)["pid"]
        if pid is None:
            raise RuntimeError(f"{run_id}/{task_id} is not running")
        return psutil.Process(pid)


@contextmanager
def airflow_deployment(
    folder: Path,
    dags: Path,
    *,
    sql_alchemy_conn: str | None = None,
    parallelism: int = 4,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Airflow]:
    """Run an Airflow whose four components are healthy when the block begins and gone when it has ended.

    :param folder: AIRFLOW_HOME (created).
    :param dags: folder with the DAG files.
    :param sql_alchemy_conn: metadata database; a SQLite file in ``folder`` when None.
    :param parallelism: LocalExecutor's processes.
    :param settings: more ``AIRFLOW__SECTION__KEY`` variables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tmp").mkdir(exist_ok=True)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    env = _environment(folder, dags, url, sql_alchemy_conn or f"sqlite:///{folder}/airflow.db", parallelism)
    env |= settings or {}
    with (folder / "migrate.log").open("wb") as log:
        subprocess.run([airflow(), "db", "migrate"], env=env, stdout=log, stderr=log, check=True, timeout=180)
    with ExitStack() as stack:
        deployment = Airflow(folder, url, env, _stack=stack)
        others = {
            "api-server": ["api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            "scheduler": ["scheduler", "--skip-serve-logs"],
            "dag-processor": ["dag-processor"],
        }
        for name, arguments in others.items():
            context = running(
                [airflow(), *arguments], log=folder / f"{name}.log", ready=lambda: True, env=env, grace=20
            )
            deployment.processes[name] = stack.enter_context(_whole_tree(context))
        deployment.start_triggerer("triggerer")
        wait_until(lambda: _healthy(deployment), "all four components are healthy", 300)
        with _ended_together(deployment.processes):
            yield deployment


def airflow() -> Path:
    """Path of the ``airflow`` program of this Python."""
    return Path(sys.executable).parent / "airflow"


def wait_until(probe: Callable[[], T], what: str, timeout: float, every: float = 0.5) -> T:
    """Call ``probe`` until it returns a true value, and return that.

    :raises TimeoutError: when it did not within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        if found := probe():
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"timed out after {timeout:g} s waiting until {what}")
        time.sleep(every)


def _environment(folder: Path, dags: Path, url: str, database: str, parallelism: int) -> dict[str, str]:
    """The whole environment of all components; without the caller's AIRFLOW settings and credentials."""
    keep = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE")
    config = {
        "api.base_url": url,
        "api.secret_key": secrets.token_hex(16),
        "api_auth.jwt_secret": secrets.token_hex(32),
        "core.auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "core.dags_are_paused_at_creation": "False",
        "core.dags_folder": str(dags),
        "core.execution_api_server_url": f"{url}/execution/",
        "core.executor": "LocalExecutor",
        "core.fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "core.load_examples": "False",
        "core.parallelism": str(parallelism),
        "core.simple_auth_manager_all_admins": "True",
        "core.max_active_runs_per_dag": "16",
        "dag_processor.min_file_process_interval": "600",
        "dag_processor.parsing_processes": "1",
        "dag_processor.refresh_interval": "600",
        "database.sql_alchemy_conn": database,
        "logging.base_log_folder": str(folder / "logs"),
        "scheduler.scheduler_heartbeat_sec": "1",
        "scheduler.task_instance_heartbeat_timeout": "120",
        "scheduler.use_job_schedule": "True",
        "triggerer.job_heartbeat_sec": "2",
        "triggerer.queues_enabled": "True",
        "triggerer.triggerer_health_check_threshold": "30",
        "usage_data_collection.enabled": "False",
    }
    variables = {f"AIRFLOW__{key.replace('.', '__').upper()}": value for key, value in config.items()}
    return {
        **{name: os.environ[name] for name in keep if name in os.environ},
        **variables,
        "AIRFLOW_HOME": str(folder),
        "HOME": str(folder),
        "TMPDIR": str(folder / "tmp"),
        "NO_PROXY": "*",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONUNBUFFERED": "1",
    }


def _healthy(deployment: Airflow) -> bool:
    """Whether the deployment's health page reports all four components as healthy."""
    for name, process in deployment.processes.items():
        if process.poll() is not None:
            log = deployment.folder / f"{name}.log"
            raise RuntimeError(f"{name} ended ({process.returncode}):\n{log.read_text(errors='replace')[-2000:]}")
    try:
        health = _call("GET", f"{deployment.url}/api/v2/monitor/health", None, None)
    except OSError:
        return False
    parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    return all(health[part]["status"] == "healthy" for part in parts)


def _call(method: str, url: str, body: object, token: str | None) -> Any:  # noqa: ANN401 - JSON
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=180) as answer:
        raw = answer.read()
    return json.loads(raw) if raw else None


@contextmanager
def _ended_together(components: Mapping[str, subprocess.Popen[bytes]]) -> Iterator[None]:
    """Ask all components to end at once, since each takes seconds, and check that no child outlives them."""
    try:
        yield
    finally:
        children = [child for process in components.values() for child in _children(process)]
        for each in [*(process.pid for process in components.values()), *(child.pid for child in children)]:
            _continue(each)  # a stopped process does not receive SIGTERM
        for process in components.values():
            process.terminate()
        for process in components.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for child in children:
            if child.is_running():
                child.kill()


@contextmanager
def _whole_tree(context: AbstractContextManager[subprocess.Popen[bytes]]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a component, and check that none of its children outlives it."""
    with ExitStack() as stack:
        process = stack.enter_context(context)
        try:
            yield process
        finally:
            children = _children(process)
            for each in [process.pid, *(child.pid for child in children)]:
                _continue(each)  # a stopped process does not receive SIGTERM
            end(process, 20)
            for child in children:
                if child.is_running():
                    child.kill()


def _children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _continue(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
