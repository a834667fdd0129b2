"""A string whose repr shows nothing.

Error reporters (Sentry, for one) send the repr of every local variable of every frame. A token or signed URL that is a
:class:`Secret` shows as ``'***'`` there; everywhere else it is an ordinary string.
"""

from __future__ import annotations

#: a shorter token is no real one, and could be a part of any word
_SHORTEST = 8


class Secret(str):
    """An API token or a signed URL."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def redact(self, text: str) -> str:
        """The text without the secret, for a message: a server may repeat what it was sent."""
        return text.replace(self, "***") if len(self) >= _SHORTEST else text
