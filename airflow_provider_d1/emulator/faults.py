"""Faults, which are switched on by name from Python, the command line or the control route."""

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

    A *count* is the number of requests that will fail; it counts down to 0. Seconds are the emulator's own, so they
    shrink with ``speed``; only ``url_seconds`` are real ones, because clients compare them with their own clock.
    """

    # -- the export
    #: seconds that an export takes
    export_seconds: float = 0.0
    #: parts that its messages report
    export_parts: int = 4
    #: the answer to *start* is already ``complete``
    complete_at_start: bool = False
    #: count: exports that D1 forgets
    lost_exports: int = 0
    #: how many polls such an export answers before it is forgotten
    lost_after_polls: int = 0
    #: another client's export blocks the database for so long, from the moment this is set
    busy_seconds: float = 0.0
    #: an inner failure (HTTP 200) with this text in answer to *start*
    start_error: str = ""
    #: an inner failure with this text in place of ``complete``
    export_error: str = ""
    #: a ``status: "error"`` with this text in place of ``complete``
    export_status_error: str = ""
    #: count: how many times the three above happen; below 0 means every time
    export_error_times: int = -1
    #: how long a failed export of a virtual table leaves the database locked; below 0 means for good
    virtual_table_lock_seconds: float = -1.0
    #: an export fails for a virtual table in the database even when ``tables`` leaves it out
    virtual_tables_always_fail: bool = False
    #: dumps are written as before autumn 2026: newlines beside a literal ``\n`` or ``\r`` come back as newlines
    old_newlines: bool = False
    #: a table that is dropped just before an export starts
    drop_table: str = ""

    #: bookmarks move with every call that gives one, although nothing is written
    moving_bookmarks: bool = False

    # -- the import
    #: seconds that an import takes
    import_seconds: float = 0.0
    #: count: uploads answered by a 500 in XML
    upload_errors: int = 0
    #: count: imports that are run while their end is forgotten
    lost_imports: int = 0

    # -- the API
    #: rows that a Free plan may still read today, by queries and exports; at 0 these are refused, below 0 never
    free_row_reads: int = -1
    #: what follows, down to ``reset_connections``, applies only to these kinds of call, separated by commas
    only: str = ""
    #: seconds that each answer is held back
    slow_seconds: float = 0.0
    #: count: answers 429 of an overloaded D1, which is not the rate limit
    overloaded: int = 0
    #: count: answers of status 500, code 7500 and this text
    d1_errors: int = 0
    d1_error: str = "Network connection lost."
    #: count: 502 pages in HTML
    html_errors: int = 0
    #: the status of those pages
    html_status: int = 502
    #: count: JSON that breaks off
    truncated_json: int = 0
    #: count: connections reset before the call has any effect
    reset_connections: int = 0
    #: count: starts that take effect while their answer is lost
    lost_start_answers: int = 0
    #: count: polls that take effect while their answer is lost, ``complete`` included
    lost_poll_answers: int = 0
    #: count: import calls (ingest and poll) that take effect while their answer is lost
    lost_import_answers: int = 0
    #: calls that a credential has in each window
    rate_limit: int = 1200
    #: how long that window is, and the block after it
    rate_window_seconds: float = 300.0
    #: every call answers 429 for so long from the moment this is set
    blocked_seconds: float = 0.0
    #: after so many more calls the token is no longer valid; below 0 it stays valid
    revoked_after: int = -1
    #: the token is valid but has no D1 permission
    no_d1_right: bool = False

    # -- the download
    #: count: downloads that are cut
    cut_downloads: int = 0
    #: bytes of the answer's body that a cut download still gets; below 0 means half of it
    cut_download_at: int = -1
    #: count: 500 answers in XML
    download_errors: int = 0
    #: count: URLs that turn out to be expired
    expired_urls: int = 0
    #: how long a new URL is valid
    url_seconds: int = 3600
    #: Range is ignored and the whole object is sent
    no_range: bool = False
    #: no Content-Length: the body comes in chunks
    no_content_length: bool = False
    #: added to the Content-Length that is announced; the body is cut at the shorter of the two
    content_length_off: int = 0
    #: a 206 begins so many bytes away from where it was asked to
    range_offset_off: int = 0
    #: another ETag on every request
    changed_etag: bool = False
    #: other bytes (and another ETag) from the second request for an object on
    changed_body: bool = False
    #: bytes in a real second; 0 is as fast as it goes
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
        :raises ValueError: for a name that is no fault or a value that does not fit; nothing is changed then.
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
        """Use up one of a count; False when none is left."""
        with self._lock:
            left = getattr(self, name)
            if left > 0:
                super().__setattr__(name, left - 1)
            return bool(left > 0)

    def spend(self, name: str, amount: int) -> None:
        """Take several from a number that runs down to 0; below 0 it is without a limit."""
        with self._lock:
            left = getattr(self, name)
            if left > 0:
                super().__setattr__(name, max(0, left - amount))

    def lasts(self, name: str) -> float:
        """How many more seconds a fault that began when it was set goes on; 0 when it is over."""
        left: float = self._since[name] + getattr(self, name) - self._now()
        return max(0.0, left)


_TYPES = {name: kind for name, kind in get_type_hints(Faults).items() if kind in (bool, int, float, str)}
_WORDS = {"": True, "1": True, "true": True, "on": True, "0": False, "false": False, "off": False}


def _coerce(name: str, value: object) -> bool | int | float | str:
    kind = _TYPES.get(name)
    if kind is None:
        raise ValueError(f"no fault is called {name!r}; there are {', '.join(sorted(_TYPES))}")
    if kind is bool and isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    if name == "only" and isinstance(value, str):
        _check_kinds(value)
    if isinstance(value, bool | str) and kind is type(value):
        return value
    if kind in (int, float) and isinstance(value, int | float | str):
        with suppress(ValueError, OverflowError):
            return int(value) if kind is int else float(value)
    raise ValueError(f"fault {name} takes a {kind.__name__}, not {value!r}")


def _check_kinds(text: str) -> None:
    for kind in filter(None, text.split(",")):
        if kind not in KINDS:
            raise ValueError(f"fault only: no call is of kind {kind!r}; there are {', '.join(KINDS)}")


def parse(text: str) -> dict[str, bool | int | float | str]:
    """Read ``NAME=VALUE`` as the command line has it; a bare name switches a state on or means once.

    :raises ValueError: for a name that is no fault or a value that does not fit.
    """
    name, equals, value = text.partition("=")
    return {name: _coerce(name, value if equals or _TYPES.get(name) is bool else "1")}
