"""Switch off one protection at a time and show that a test notices: ``python -m tests.mutation.run [WORD …]``.

The package, the tests and the harness are copied into a temporary folder; each mutation changes one place of the copy
and runs the tests that should fail. A protection whose tests pass without it is reported, and so is a change whose
place is no longer there. With words, only the protections whose name contains one of them.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.mutations import MUTATIONS

#: address space of the tests: what no longer bounds an endless answer shall not take the machine with it
MEMORY = 4 << 30
REPOSITORY = Path(__file__).parents[2]
COPIED = ("airflow_provider_d1", "harness", "tests", "example_dags", "demo", "pyproject.toml")


@dataclass(frozen=True)
class Outcome:
    """How the tests of one mutation ended."""

    caught: bool
    words: str


def main(words: list[str]) -> int:
    chosen = [m for m in MUTATIONS if not words or any(word in m.protection for word in words)]
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        copy = Path(name)
        for part in COPIED:
            source = REPOSITORY / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__", "system"))
            elif source.exists():
                shutil.copy(source, copy / part)
        tests = sorted({test for mutation in chosen for test in mutation.tests})
        baseline = run_tests(copy, tests)
        if baseline.returncode != 0:
            print(baseline.stdout[-4000:])
            print("The tests fail with all protections on; nothing can be learned.")
            return 2
        outcomes = {}
        for mutation in chosen:
            began = time.monotonic()
            outcomes[mutation.protection] = outcome = attempt(copy, mutation)
            mark = "caught  " if outcome.caught else "SURVIVED"
            print(f"{mark} {mutation.protection}: {outcome.words} ({time.monotonic() - began:.0f} s)", flush=True)
    missed = sum(not outcome.caught for outcome in outcomes.values())
    print(f"{len(outcomes) - missed} of {len(outcomes)} protections are held by a test")
    return 1 if missed else 0


def attempt(copy: Path, mutation) -> Outcome:
    path = copy / mutation.file
    original = path.read_text()
    if original.count(mutation.old) != 1:
        return Outcome(False, f"its place occurs {original.count(mutation.old)} times in {mutation.file}")
    path.write_text(original.replace(mutation.old, mutation.new))
    try:
        finished = run_tests(copy, list(mutation.tests))
    finally:
        path.write_text(original)
    failed = [line.split(" ")[1] for line in finished.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if finished.returncode == 1 and failed:
        return Outcome(True, failed[0])
    if finished.returncode == 124:
        return Outcome(True, "the tests did not end in time")
    return Outcome(False, f"exit code {finished.returncode}: {finished.stdout.strip()[-300:]}")


def run_tests(copy: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return subprocess.run(
            command,
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
