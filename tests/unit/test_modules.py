"""Modules are of a size that can be read at once, and no two modules or classes share a name for different things."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "airflow_provider_d1"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
#: module names that several packages have on purpose: Airflow's and Python's convention, and each package's base class
SHARED_NAMES = {"d1.py", "__main__.py", "base.py"}
LONGEST, SHORT, SHORT_MODULES = 400, 40, 5
PRIVATE_LINES = 10
#: a private name as monkeypatch takes it
PATCHED = re.compile(r"airflow_provider_d1(\.\w+)*\._[a-z]\w*(\.\w+)*")


def test_no_module_is_too_long() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_few_modules_are_tiny() -> None:
    short = [path for path in MODULES if len(path.read_text().splitlines()) < SHORT]
    assert len(short) <= SHORT_MODULES, [str(path.relative_to(PACKAGE)) for path in short]


def test_no_two_modules_share_a_name() -> None:
    places = defaultdict(list)
    for path in MODULES:
        if path.name not in SHARED_NAMES:
            places[path.name].append(str(path.relative_to(PACKAGE)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_two_public_classes_share_a_name() -> None:
    places = defaultdict(list)
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_tests_use_few_private_names() -> None:
    lines = [
        f"{path.relative_to(REPOSITORY)}:{line}"
        for path in sorted((REPOSITORY / "tests").rglob("*.py"))
        for line in sorted(private_lines(ast.parse(path.read_text())))
    ]
    assert len(lines) <= PRIVATE_LINES, "\n".join(lines)


def private_lines(tree: ast.Module) -> set[int]:
    """Return the lines that use a private name of this package, be it imported, an attribute or patched by its path."""
    own, foreign = {"self", "cls"}, {"super"}
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            ours = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("airflow_provider_d1")
            if ours and any(is_private(alias.name) for alias in node.names):
                lines.add(node.lineno)
            if not ours:
                foreign |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute | ast.Call | ast.Subscript):
                root = root.func if isinstance(root, ast.Call) else root.value
            direct = isinstance(node.value, ast.Name) and node.value.id in own
            if not direct and not (isinstance(root, ast.Name) and root.id in foreign):
                lines.add(node.lineno)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and PATCHED.fullmatch(node.value):
            lines.add(node.lineno)
    return lines


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")
