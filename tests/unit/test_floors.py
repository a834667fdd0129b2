"""The house has floors: imports run downwards only, and parsing a DAG loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "airflow_provider_d1"

#: room → the rooms of this package that it may import (besides itself)
ALLOWED = {
    "exceptions": set(),
    "provider_info": {"__init__"},
    "cloudflare": {"exceptions", "__init__"},
    "dump": {"exceptions"},
    "staging": {"dump", "exceptions", "__init__"},
    "hooks": {"cloudflare", "exceptions", "__init__"},
    "triggers": {"hooks", "cloudflare", "exceptions"},
    "links": {"exceptions"},
    "assets": set(),
    "operators": {"hooks", "triggers", "links", "cloudflare", "exceptions"},
    "warehouses": {"staging", "dump", "exceptions"},
    "transfers": {
        "operators",
        "hooks",
        "triggers",
        "links",
        "cloudflare",
        "staging",
        "warehouses",
        "exceptions",
        "__init__",
    },
    "emulator": {"exceptions", "__init__"},
}
NO_AIRFLOW = {"cloudflare", "dump", "staging", "emulator", "exceptions"}
HTTPX_ONLY_IN = {"cloudflare"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def module_graph() -> dict[str, set[str]]:
    def module(path: Path) -> str:
        parts = ("airflow_provider_d1", *path.relative_to(PACKAGE).with_suffix("").parts)
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    modules = {module(path): path for path in sources()}
    return {name: (imported(path) & modules.keys()) - {name} for name, path in modules.items()}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downwards_only(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert not any(name.startswith("airflow_provider_d1") for name in imported(path))
        return
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "airflow_provider_d1" and len(parts) > 1:
            target = parts[1] if (PACKAGE / parts[1]).is_dir() or (PACKAGE / f"{parts[1]}.py").exists() else "__init__"
            assert target in ALLOWED[room] | {room}, f"{room} must not import {name}"
        if parts[0] == "airflow":
            assert room not in NO_AIRFLOW, f"{room} must not import Airflow ({name})"
        if parts[0] == "httpx":
            assert room in HTTPX_ONLY_IN, f"only cloudflare/ may import httpx, not {room}"


def test_no_import_circles() -> None:
    graph = module_graph()
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail, name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("room", sorted(NO_AIRFLOW - {"exceptions"}))
def test_lower_floors_run_without_airflow(room: str) -> None:
    modules = [
        ".".join(("airflow_provider_d1", *p.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for p in sources()
        if room_of(p) == room and p.name != "__main__.py"
    ]
    code = (
        f"import sys\nfor m in {modules!r}: __import__(m)\nassert 'airflow' not in sys.modules, 'airflow was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
