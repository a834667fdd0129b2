"""What an error reporter sends of an exception: the local variables of every frame, as their repr."""

from __future__ import annotations

import traceback
from pathlib import Path

_TESTS = str(Path(__file__).parents[1])


def frames_of(error: BaseException | None) -> str:
    """The local variables of every frame of every error in the chain, but for the tests' own frames."""
    text = ""
    while error is not None:
        report = traceback.TracebackException.from_exception(error, capture_locals=True)
        for frame in report.stack:
            if not frame.filename.startswith(_TESTS):
                text += f"{frame.filename}:{frame.name} {frame.locals!r}\n"
        error = error.__cause__ or error.__context__
    return text
