#!/usr/bin/env python3
"""Test the supported versions of Airflow and Python against each other, each pair in an environment of its own.

Without arguments it runs every pair; ``3.0/3.11`` runs one, ``--corners`` the oldest and the newest. Each environment
is made by uv in ``.cache/matrix`` and deleted again. ``--write`` puts the results into docs/versions.md.

``lowest`` stands for the lowest versions of all direct dependencies, Airflow included, that pyproject.toml allows.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import newest_python

REPOSITORY = Path(__file__).parents[1]
CACHE = REPOSITORY / ".cache" / "matrix"
TABLE = REPOSITORY / "docs" / "versions.md"
START, END = "<!-- results: make test-matrix -->\n", "<!-- end of results -->\n"

AIRFLOW = ("lowest", "2.11", "3.0", "3.1", "3.2", "latest")
PYTHON = ("3.11", "3.12", "3.13", "3.14")
#: what upstream's own constraints hold back and the requirements of these versions of Airflow do not
CONSTRAINTS = {
    # their ObjectStoragePath does not know newer ones
    "lowest": ("universal-pathlib<0.3",),
    # newer ones of fastapi reject the answers of Airflow 3.0's execution API
    "3.0": ("fastapi<0.117", "universal-pathlib<0.3"),
    # with newer ones its in-process execution API does not start
    "3.2": ("cadwyn<7", "fastapi<0.137", "pydantic<2.13", "starlette<1", "svcs<26"),
}
#: in which every pair must pass
EVERYWHERE = ("tests/versions",)
#: these import airflow.sdk, which Airflow 2 does not have
AIRFLOW_3 = (
    "tests/unit/assets",
    "tests/unit/hooks",
    "tests/unit/operators/test_arguments.py",
    "tests/unit/operators/test_export_operator.py",
    "tests/unit/operators/test_import_operator.py",
    "tests/unit/operators/test_restore_operator.py",
    "tests/unit/sensors",
    "tests/unit/transfers/test_staging_operators.py",
    "tests/unit/triggers",
)
TOOLS = ("apache-airflow-providers-openlineage>=2.0", "jsonschema>=4.20", "pytest>=8", "pytest-asyncio>=1")


@dataclass(frozen=True)
class Pair:
    """A version of Airflow with a version of Python."""

    airflow: str
    python: str

    def __str__(self) -> str:
        return f"{self.airflow}/{self.python}"

    @property
    def requirement(self) -> str:
        """What uv installs as Airflow."""
        return "apache-airflow" if self.airflow in ("lowest", "latest") else f"apache-airflow=={self.airflow}.*"


def main() -> int:
    """Run the pairs and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pairs", nargs="*", help="such as 3.0/3.11; all without any")
    parser.add_argument("--corners", action="store_true", help="only the oldest and the newest of both")
    parser.add_argument("--write", action="store_true", help="put the results into docs/versions.md")
    arguments = parser.parse_args()
    chosen = [Pair(*name.split("/")) for name in arguments.pairs] or [Pair(a, p) for a in AIRFLOW for p in PYTHON]
    if arguments.corners:
        pythons = [python for python in PYTHON if interpreter(python)]
        chosen = [Pair("lowest", pythons[0]), Pair("latest", pythons[-1])]
    results = {pair: run(pair) for pair in chosen}
    if arguments.write:
        write(results)
    return int(any(result.startswith("fails") for result in results.values()))


def run(pair: Pair) -> str:
    """Return what became of a pair: ``passes``, ``fails``, or why it can't be had."""
    began = time.monotonic()
    folder = CACHE / str(pair).replace("/", "-")
    found = interpreter(pair.python)
    if found is None:
        result = "no interpreter"
    elif (problem := install(pair, found, folder)) is not None:
        result = f"does not install: {problem}"
    else:
        result = test(folder)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{pair!s:12} {result} ({time.monotonic() - began:.0f} s)", flush=True)
    return result


def interpreter(python: str) -> str | None:
    """Path of a version of Python that is on this machine."""
    candidates = newest_python.candidates(python)
    return next((candidate for candidate in candidates if newest_python.works(candidate, python)), None)


def install(pair: Pair, python: str, folder: Path) -> str | None:
    """Make the environment; return uv's reason when it can't."""
    subprocess.run([uv(), "venv", "--quiet", "--clear", "--python", python, str(folder)], check=True)
    command = [uv(), "pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
    if pair.airflow == "lowest":
        command += ["--resolution", "lowest-direct"]
    command += [pair.requirement, "--editable", f"{REPOSITORY}[emulator]", *TOOLS, *CONSTRAINTS.get(pair.airflow, ())]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode == 0:
        return None
    print(finished.stderr[-3000:], file=sys.stderr)
    reasons = [" ".join(line.split()) for line in finished.stderr.splitlines() if "because" in line.lower()]
    return reasons[0] if reasons else "see above"


def test(folder: Path) -> str:
    """Run the tests in a pair's environment."""
    version = installed(folder, "apache-airflow")
    files = EVERYWHERE if version.startswith("2.") else (*EVERYWHERE, *AIRFLOW_3)
    command = [str(folder / "bin" / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    log = folder / "tests.log"
    with log.open("wb") as output:
        finished = subprocess.run(
            command, cwd=REPOSITORY, stdout=output, stderr=output, check=False, env={**os.environ, "CI": "true"}
        )
    last = log.read_text(errors="replace")
    counted = re.findall(r"(\d+) passed", last)
    if finished.returncode != 0 or not counted:
        print(last[-12000:], file=sys.stderr)
        return f"fails with {version}"
    return f"passes with {version}: {counted[-1]} tests"


def installed(folder: Path, package: str) -> str:
    """Version of a package in an environment."""
    command = [uv(), "pip", "show", "--python", str(folder / "bin" / "python"), package]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^Version: (.+)$", finished.stdout, re.MULTILINE)
    return found[1] if found else "?"


def uv() -> str:
    """Path of uv."""
    return str(Path(sys.executable).parent / "uv")


def write(results: dict[Pair, str]) -> None:
    """Replace the table in docs/versions.md, keeping the cells of pairs that did not run."""
    text = TABLE.read_text()
    before, rest = text.split(START)
    old, after = rest.split(END)
    cells = {}
    for line in old.splitlines()[2:]:
        airflow, *row = [cell.strip() for cell in line.strip("|").split("|")]
        cells |= {Pair(airflow.strip("*` "), python): cell for python, cell in zip(PYTHON, row, strict=True)}
    cells |= results
    lines = [
        "| Airflow | " + " | ".join(f"Python {python}" for python in PYTHON) + " |",
        "|---|" + "---|" * len(PYTHON),
    ]
    for airflow in AIRFLOW:
        row = [cells.get(Pair(airflow, python), "not run") for python in PYTHON]
        lines.append(f"| {airflow} | " + " | ".join(row) + " |")
    TABLE.write_text(f"{before}{START}" + "\n".join(lines) + f"\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
