"""The error tree: one way to say whether a retry can help."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

import airflow_provider_d1
from airflow_provider_d1.exceptions import D1Error, D1FidelityError, D1LossyExportError


def family(root: type[D1Error]) -> Iterator[type[D1Error]]:
    yield root
    for child in root.__subclasses__():
        yield from family(child)


CLASSES = sorted(set(family(D1Error)), key=lambda error: error.__name__)


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_takes_retryable_and_keeps_the_class_default_without_it(error: type[D1Error]) -> None:
    assert error("x").retryable is error.retryable
    for retryable in (True, False):
        made = error("x", retryable=retryable)
        assert made.retryable is retryable
        assert pickle.loads(pickle.dumps(made)).retryable is retryable
    assert str(error("what happened")) == "what happened"


def test_the_former_name_of_a_lossy_export_still_works() -> None:
    with pytest.raises(D1FidelityError):
        raise D1LossyExportError("t.id: 1 integer of 2^53 and beyond")
    for name in ("D1FidelityError", "D1LossyExportError"):
        assert type(D1Error.from_name(name, "x", retryable=False)) is D1LossyExportError
        assert pickle.loads(f"cairflow_provider_d1.exceptions\n{name}\n.".encode()) is D1LossyExportError


def test_nothing_changes_retryable_after_construction() -> None:
    root = Path(airflow_provider_d1.__file__).parent
    assigned = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in sorted(root.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "retryable" and isinstance(node.ctx, ast.Store)
    ]
    assert len(assigned) == 1, assigned
    assert assigned[0].startswith("exceptions.py:")
