"""Read the fields of a manifest's JSON objects, each with an error that names the field.

``where`` is the path of the object, as in ``tables[3].columns[0]``; the empty one is the manifest itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from airflow_provider_d1.exceptions import D1ManifestError

Json = Mapping[str, Any]
T = TypeVar("T")


def malformed(where: str, key: str, expected: str) -> D1ManifestError:
    """The error for a field."""
    path = f"{where}.{key}" if where else key
    return D1ManifestError(f"Manifest: {path} is missing or malformed; expected {expected}")


def text(data: Json, key: str, where: str) -> str:
    """A string."""
    value = data.get(key)
    if not isinstance(value, str):
        raise malformed(where, key, "a string")
    return value


def count(data: Json, key: str, where: str) -> int:
    """An integer of at least 0."""
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise malformed(where, key, "an integer of at least 0")
    return value


def number(data: Json, key: str, where: str) -> float:
    """Any number."""
    value = data.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise malformed(where, key, "a number")
    return value


def flag(data: Json, key: str, where: str) -> bool:
    """True or false."""
    value = data.get(key)
    if not isinstance(value, bool):
        raise malformed(where, key, "true or false")
    return value


def sha256(data: Json, key: str, where: str) -> str:
    """A SHA-256 in lower-case hex."""
    value = text(data, key, where)
    if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise malformed(where, key, "a SHA-256 in lower-case hex")
    return value


def mapping(data: Json, key: str, where: str) -> Json:
    """An object."""
    value = data.get(key)
    if not isinstance(value, Mapping):
        raise malformed(where, key, "an object")
    return value


def texts(data: Json, key: str, where: str) -> tuple[str, ...]:
    """A list of strings."""
    value = data.get(key)
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise malformed(where, key, "a list of strings")
    return tuple(value)


def each(data: Json, key: str, where: str, read: Callable[[Json, str], T]) -> tuple[T, ...]:
    """A list of objects, each read by a function."""
    value = data.get(key)
    path = f"{where}.{key}" if where else key
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise malformed(where, key, "a list")
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise malformed(path, f"[{index}]", "an object")
    return tuple(read(item, f"{path}[{index}]") for index, item in enumerate(value))


def optional(data: Json, key: str, where: str, read: Callable[[Json, str, str], T]) -> T | None:
    """None where the field is absent or null, otherwise as ``read`` returns it."""
    return None if data.get(key) is None else read(data, key, where)
