"""Switch off one protection at a time and check that a test fails: ``python -m tests.mutation.run [WORD …]``.

The package, the tests and the harness are copied into temporary folders, one for each processor. Each mutation changes
one place of a copy and runs the tests that should fail. A protection whose tests still pass is reported, and so is a
mutation whose code is not found. With words, only the protections whose name contains one of them are tried.
"""

from __future__ import annotations

import os
import queue
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.mutations import MUTATIONS, REPOSITORY, Mutation

#: address space of the tests, so that a mutation that removes a size limit does not exhaust the machine's memory. The
#: tests with several DuckDB databases in one process need more than 8 GiB.
MEMORY = 16 << 30
#: seconds for the tests of one file without a mutation
TIMEOUT = 1800
COPIED = ("airflow_provider_d1", "harness", "tests", "example_dags", "demo", "pyproject.toml")
#: of programs that tests start
LINKED = (".venv-bqemulator",)


@dataclass(frozen=True)
class Outcome:
    """The result of one mutation's tests."""

    caught: bool
    detail: str


def main(words: list[str]) -> int:
    chosen = [m for m in MUTATIONS if not words or any(word in m.protection for word in words)]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))  # the tests inherit it
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        workers = os.cpu_count() or 1
        for number in range(workers):
            copies.put(copy_repository(Path(name, str(number))))

        #: seconds that the tests of a file take without a mutation
        seconds: dict[str, float] = {}

        def unmutated(file: str, tests: Iterable[str]) -> subprocess.CompletedProcess[str]:
            began = time.monotonic()
            with borrowed(copies) as copy:
                finished = run_tests(copy, sorted(tests), TIMEOUT)
            seconds[file] = time.monotonic() - began
            return finished

        def judge(mutation: Mutation) -> bool:
            began = time.monotonic()
            with borrowed(copies) as copy:
                outcome = attempt(copy, mutation, 60 + 3 * sum(seconds[file] for file in tests_by_file([mutation])))
            mark = "caught  " if outcome.caught else "SURVIVED"
            print(f"{mark} {mutation.protection}: {outcome.detail} ({time.monotonic() - began:.0f} s)", flush=True)
            return outcome.caught

        with ThreadPoolExecutor(workers) as pool:
            # one process for each file: all in one need more memory than a mutation may have
            files = tests_by_file(chosen)
            for file, finished in zip(files, pool.map(unmutated, files, files.values()), strict=True):
                if finished.returncode != 0:
                    print(finished.stdout[-4000:])
                    print(f"The tests in {file} fail before any mutation: exit code {finished.returncode}.")
                    pool.shutdown(cancel_futures=True)
                    return 2
            caught = list(pool.map(judge, chosen))
    print(f"{sum(caught)} of {len(caught)} protections are covered by a test")
    return 0 if all(caught) else 1


def tests_by_file(mutations: list[Mutation]) -> dict[str, set[str]]:
    files: dict[str, set[str]] = {}
    for test in (test for mutation in mutations for test in mutation.tests):
        files.setdefault(test.partition("::")[0], set()).add(test)
    return files


@contextmanager
def borrowed(copies: queue.SimpleQueue[Path]) -> Iterator[Path]:
    copy = copies.get()
    try:
        yield copy
    finally:
        copies.put(copy)


def copy_repository(copy: Path) -> Path:
    for part in COPIED:
        source = REPOSITORY / part
        if source.is_dir():
            shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__", "system"))
        elif source.exists():
            copy.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy / part)
    for part in LINKED:
        (copy / part).symlink_to(REPOSITORY / part)
    return copy


def attempt(copy: Path, mutation: Mutation, timeout: float) -> Outcome:
    if len(places := mutation.places(copy)) != 1:
        return Outcome(False, f"{mutation.old!r} occurs {len(places)} times in {mutation.package}:{mutation.within}")
    path, mutated = mutation.apply(copy)
    original = path.read_text()
    path.write_text(mutated)
    try:
        finished = run_tests(copy, list(mutation.tests), timeout)
    finally:
        path.write_text(original)
    failed = [line.split(" ")[1] for line in finished.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if finished.returncode == 1 and failed:
        return Outcome(True, failed[0])
    if finished.returncode == 124:
        return Outcome(True, "the tests timed out")
    return Outcome(False, f"exit code {finished.returncode}: {finished.stdout.strip()[-300:]}")


def run_tests(copy: Path, tests: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "--tb=short",
        "--show-capture=no",
        "-p",
        "no:cacheprovider",
        *tests,
    ]
    # in CI a test fails where it would be skipped, and a skipped test catches nothing
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "CI": "true"}
    try:
        return subprocess.run(
            command,
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
