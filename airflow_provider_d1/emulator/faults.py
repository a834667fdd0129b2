"""The failures that the emulator can simulate, switched on by name in Python, on the command line or by HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import InitVar, dataclass, fields
from typing import Any, get_type_hints

from airflow_provider_d1.emulator.request_log import KINDS


@dataclass
class Faults:
    """The failures to simulate, and how often. Set an attribute to switch a fault on; :meth:`reset` switches all off.

    A *count* is the number of requests that will fail; it counts down to 0. Seconds are emulator seconds, which
    ``speed`` shortens; only ``url_seconds`` are real ones, because clients compare them with their own clock.
    """

    # -- the export
    #: seconds that an export takes
    export_seconds: float = 0.0
    #: parts that its messages report
    export_parts: int = 4
    #: the response to *start* is already ``complete``
    complete_at_start: bool = False
    #: count: exports that D1 loses
    lost_exports: int = 0
    #: how many polls are answered before such an export is lost
    lost_after_polls: int = 0
    #: another client's export blocks the database for so many seconds after this is set
    busy_seconds: float = 0.0
    #: an inner failure (HTTP 200) with this message in response to *start*
    start_error: str = ""
    #: an inner failure with this message instead of ``complete``
    export_error: str = ""
    #: a ``status: "error"`` with this message instead of ``complete``
    export_status_error: str = ""
    #: count: how many times the three above happen; below 0 means every time
    export_error_times: int = -1
    #: how long a failed export of a virtual table leaves the database locked; below 0 means permanently
    virtual_table_lock_seconds: float = -1.0
    #: an export fails for a virtual table in the database even when ``tables`` excludes it
    virtual_tables_always_fail: bool = False
    #: dumps are written as before autumn 2026: literal ``\n`` or ``\r`` beside newlines become newlines
    old_newlines: bool = False
    #: a table that is dropped just before an export starts
    drop_table: str = ""

    #: bookmarks change with every call that returns one, although nothing is written
    moving_bookmarks: bool = False

    # -- the import
    #: seconds that an import takes
    import_seconds: float = 0.0
    #: count: uploads that fail with HTTP 500 in XML
    upload_errors: int = 0
    #: count: imports that run, but whose result is lost
    lost_imports: int = 0

    # -- the API
    #: rows that a Free plan may still read today, by queries and exports; at 0 these are refused; below 0 there is no
    #: limit
    free_row_reads: int = -1
    #: the faults down to ``reset_connections`` apply only to these kinds of call, separated by commas
    only: str = ""
    #: seconds by which each response is delayed
    slow_seconds: float = 0.0
    #: count: responses 429 of an overloaded D1, which is not the rate limit
    overloaded: int = 0
    #: count: responses with status 500, code 7500 and the message of ``d1_error``
    d1_errors: int = 0
    d1_error: str = "Network connection lost."
    #: count: 502 pages in HTML
    html_errors: int = 0
    #: the status of those pages
    html_status: int = 502
    #: count: truncated JSON
    truncated_json: int = 0
    #: count: connections reset before the call has any effect
    reset_connections: int = 0
    #: count: starts that take effect although their response is lost
    lost_start_answers: int = 0
    #: count: polls that take effect although their response is lost, ``complete`` included
    lost_poll_answers: int = 0
    #: count: import calls (ingest and poll) that take effect although their response is lost
    lost_import_answers: int = 0
    #: calls that a credential has in each window
    rate_limit: int = 1200
    #: length of that window, and of the block after it
    rate_window_seconds: float = 300.0
    #: every call is answered by 429 for so many seconds after this is set
    blocked_seconds: float = 0.0
    #: after so many more calls the token is no longer valid; below 0 it stays valid
    revoked_after: int = -1
    #: the token is valid but has no D1 permission
    no_d1_right: bool = False

    # -- the download
    #: count: downloads that are cut
    cut_downloads: int = 0
    #: bytes of the body that a cut download receives; below 0 means half of it
    cut_download_at: int = -1
    #: count: responses 500 in XML
    download_errors: int = 0
    #: count: requests for which the URL counts as expired
    expired_urls: int = 0
    #: seconds for which a new URL is valid
    url_seconds: int = 3600
    #: Range is ignored and the whole object is sent
    no_range: bool = False
    #: no Content-Length: the body is chunked
    no_content_length: bool = False
    #: added to the Content-Length; the body is cut at the shorter of the two lengths
    content_length_off: int = 0
    #: offset of a 206's first byte from the requested one
    range_offset_off: int = 0
    #: another ETag on every request
    changed_etag: bool = False
    #: other bytes (and another ETag) from the second request for an object on
    changed_body: bool = False
    #: bytes in a real second; 0 for no limit
    download_pace: int = 0

    clock: InitVar[Callable[[], float]] = time.monotonic

    def __post_init__(self, clock: Callable[[], float]) -> None:
        self._now = clock
        self._lock = threading.Lock()
        self._since = dict.fromkeys(self.names(), clock())

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            value = _coerce(name, value)
            if "_since" in self.__dict__:
                self._since[name] = self._now()
        super().__setattr__(name, value)

    @staticmethod
    def names() -> list[str]:
        """All faults' names."""
        return [f.name for f in fields(Faults)]

    def set(self, values: Mapping[str, Any]) -> None:
        """Switch faults by name.

        :param values: name → value, or its text.
        :raises ValueError: for an unknown fault or an invalid value; nothing is changed then.
        """
        checked = {name: _coerce(name, value) for name, value in values.items()}
        for name, value in checked.items():
            setattr(self, name, value)

    def reset(self) -> None:
        """Switch all faults off."""
        for f in fields(self):
            setattr(self, f.name, f.default)

    def to_dict(self) -> dict[str, Any]:
        """Name → value."""
        return {name: getattr(self, name) for name in self.names()}

    def take(self, name: str) -> bool:
        """Decrease a count by one; False when it is 0."""
        with self._lock:
            left = getattr(self, name)
            if left > 0:
                super().__setattr__(name, left - 1)
            return bool(left > 0)

    def spend(self, name: str, amount: int) -> None:
        """Decrease a number, at most to 0; below 0 there is no limit."""
        with self._lock:
            left = getattr(self, name)
            if left > 0:
                super().__setattr__(name, max(0, left - amount))

    def lasts(self, name: str) -> float:
        """Seconds until a fault that began when it was set ends; 0 when it has ended."""
        left: float = self._since[name] + getattr(self, name) - self._now()
        return max(0.0, left)


_TYPES = {name: kind for name, kind in get_type_hints(Faults).items() if kind in (bool, int, float, str)}
_WORDS = {"": True, "1": True, "true": True, "on": True, "0": False, "false": False, "off": False}


def _coerce(name: str, value: object) -> bool | int | float | str:
    kind = _TYPES.get(name)
    if kind is None:
        raise ValueError(f"unknown fault {name!r}; known: {', '.join(sorted(_TYPES))}")
    if kind is bool and isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    if name == "only" and isinstance(value, str):
        _check_kinds(value)
    if isinstance(value, bool | str) and kind is type(value):
        return value
    if kind in (int, float) and isinstance(value, int | float | str):
        with suppress(ValueError, OverflowError):
            return int(value) if kind is int else float(value)
    raise ValueError(f"fault {name}: expected {kind.__name__}, got {value!r}")


def _check_kinds(text: str) -> None:
    for kind in filter(None, text.split(",")):
        if kind not in KINDS:
            raise ValueError(f"fault only: unknown kind of call {kind!r}; known: {', '.join(KINDS)}")


def parse(text: str) -> dict[str, bool | int | float | str]:
    """Read ``NAME=VALUE`` from the command line; a name without a value switches a state on, or sets a count to 1.

    :raises ValueError: for an unknown fault or an invalid value.
    """
    name, equals, value = text.partition("=")
    return {name: _coerce(name, value if equals or _TYPES.get(name) is bool else "1")}
