"""Names as SQLite reads and compares them."""

from __future__ import annotations

_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def fold_case(name: str) -> str:
    """Return a name as SQLite compares names: ASCII letters in lower case, all others as they are.

    So ``Users`` and ``users`` are one name, ``É`` and ``é`` are two.
    """
    return name.translate(_ASCII_LOWER)


def unquote(name: bytes) -> bytes:
    """Return a name without its quotes; a bare name is not changed."""
    opening = name[:1]
    if opening == b"[":
        return name[1:-1]
    if opening in (b'"', b"'", b"`"):
        return name[1:-1].replace(opening * 2, opening)
    return name


def is_internal(name: str) -> bool:
    """Tell whether a table is SQLite's or Cloudflare's own, which is neither staged nor listed."""
    folded = fold_case(name)
    return folded == "sqlite_sequence" or folded.startswith(("sqlite_stat", "_cf_"))
