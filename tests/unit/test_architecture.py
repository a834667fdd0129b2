"""The import contracts of ``pyproject.toml`` hold, and the packages below ``hooks`` run without Airflow."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "airflow_provider_d1"
CONTRACTS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
[WITHOUT_AIRFLOW] = [c["source_modules"] for c in CONTRACTS if c.get("forbidden_modules") == ["airflow"]]


def test_the_import_contracts_hold() -> None:
    assert importlib.util.find_spec("importlinter"), "import-linter is not installed; run `make .venv/.ready`"
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--no-logo",
    ]
    finished = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert f"{len(CONTRACTS)} kept, 0 broken" in finished.stdout


def test_each_package_below_hooks_has_the_contract_about_airflow() -> None:
    [layers] = [contract["layers"] for contract in CONTRACTS if contract["type"] == "layers"]
    first = next(number for number, layer in enumerate(layers) if "hooks" in layer)
    below = {name.strip(" ()") for layer in layers[first + 1 :] for name in layer.split("|")} | {"emulator"}
    present = {name for name in below if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()}
    assert {f"airflow_provider_d1.{name}" for name in present} == set(WITHOUT_AIRFLOW)


@pytest.mark.parametrize("package", WITHOUT_AIRFLOW)
def test_a_package_below_hooks_runs_without_airflow(package: str) -> None:
    folder = REPOSITORY / package.replace(".", "/")
    paths = [path for path in folder.rglob("*.py") if path.name != "__main__.py"] or [folder.with_suffix(".py")]
    modules = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in sorted(paths)]
    imports = f"for module in {modules!r}: __import__(module.removesuffix('.__init__'))"
    code = f"import sys\n{imports}\nassert 'airflow' not in sys.modules, 'airflow was imported'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
