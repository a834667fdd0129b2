"""What D1's exports and imports have in common: the meaning of a response, and what to send next.

Both are jobs that the client starts and then polls. D1 cancels a job that was not polled for 15 seconds, announces its
end only once, can lose it, and runs one at a time for each database. The transitions here follow from that;
:mod:`~airflow_provider_d1.cloudflare.export_protocol` and :mod:`~airflow_provider_d1.cloudflare.import_protocol` add
their requests and what a finished job returns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airflow_provider_d1.cloudflare import api_errors, protocol
from airflow_provider_d1.cloudflare.rate_limit import POLL_GAP
from airflow_provider_d1.exceptions import D1ApiError, D1ExportError, D1ImportError, D1RateLimitError
from airflow_provider_d1.validation import counted

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.messages import Response

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Running:
    """The job is running; ``bookmark`` is None where the response had none. Only exports have ``parts``."""

    bookmark: str | None
    parts: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Busy:
    """Another job of this database is running, or one without polls has not yet timed out."""


@dataclass(frozen=True, slots=True)
class Lost:
    """D1 knows no such job: it was cancelled or timed out, or its end was announced before."""


@dataclass(frozen=True, slots=True)
class Unclear:
    """No response, or one that says nothing about the job: a reset, a gateway's page, a transient error of D1."""

    error: D1ApiError | D1ExportError | D1ImportError


@dataclass(frozen=True, slots=True)
class Failed:
    """The job is over, without a result."""

    error: D1ApiError | D1ExportError | D1ImportError


@dataclass(frozen=True, slots=True)
class JobKind:
    """A kind of job in messages and errors.

    :param noun: ``export``; ``task``, what D1 could not do when it fails.
    :param error: the error of a failed job; ``lost_error``, of one that D1 has lost too often.
    """

    noun: str
    task: str
    error: type[D1ExportError | D1ImportError]
    lost_error: type[D1ExportError | D1ImportError]


def read_result(
    answer: Response, from_message: Callable[[str], A | None], failed: Callable[[str], Failed]
) -> dict[str, Any] | A | Unclear | Failed:
    """Read the failures, outer and inner, of a response; without one, return its result.

    :param from_message: the meaning of a message, None where it has none.
    :param failed: the failure with a message of no known meaning, which may be empty.
    """
    try:
        envelope = protocol.read_envelope(answer)
    except D1ApiError as error:
        return from_error(error)
    result = envelope.result if isinstance(envelope.result, dict) else {}
    if not envelope.success or answer.status >= 400:
        said = envelope.message or _inner_error(result)
        return from_message(said) or from_error(api_errors.failure(answer, envelope.errors or ((None, said),)))
    # an explicit failure counts before any status, and a status of "error" before what else the answer holds
    inner = _inner_error(result)
    if result.get("success") is False or inner or result.get("status") == "error":
        return from_message(inner) or failed(inner)
    return result


def read_message(message: str, kind: JobKind) -> Busy | Unclear | Failed | None:
    """The meaning of a message that both kinds of jobs know."""
    if api_errors.is_busy(message):
        return Busy()
    if api_errors.is_permanent(message):
        said = api_errors.with_remedy(message)
        return Failed(kind.error(f"D1 could not {kind.task}: {said}", retryable=False))
    if api_errors.is_transient(message):
        return Unclear(kind.error(f"D1 answered: {message}"))
    return None


def from_error(error: D1ApiError) -> Unclear | Failed:
    """The meaning of an error of the API."""
    return Unclear(error) if error.retryable else Failed(error)


def _inner_error(result: dict[str, Any]) -> str:
    return api_errors.text_of(result.get("error")) or api_errors.text_of(result.get("errors"))


# --- transitions ------------------------------------------------------------------------------------------------------

#: shortest gap between two polls
MIN_GAP = 0.5
#: seconds before a start is sent again: after a lost job; after no clear answer, doubling; while D1 is busy
RESTART_GAP = 1.0
MAX_RESTART_GAP = 15.0
BUSY_GAP = POLL_GAP


@dataclass(frozen=True, slots=True)
class State:
    """Where a job stands between two requests; ``bookmark`` is None while none is running.

    ``unclear`` counts unclear responses in a row. ``excused`` are those of the ``restarts`` that a rate-limit block
    caused; ``refused`` says that the rate limit refused a poll since the last clear response.
    """

    bookmark: str | None = None
    polls: int = 0
    restarts: int = 0
    excused: int = 0
    unclear: int = 0
    refused: bool = False
    busy: bool = False
    parts: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Send:
    """Send the next request after ``delay`` seconds: a start when ``bookmark`` is None, else a poll of it.

    ``refused`` says that the delay is Cloudflare's own, for the rate limit. ``readmit`` says that the rate limiter has
    to admit the job again before it is started.
    """

    bookmark: str | None
    delay: float
    refused: bool = False
    readmit: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """The request just answered: seconds it took, the job's age at its sending, and the rate limiter's state.

    ``blocked`` says that calls were held back or refused since the last response about the job.
    """

    took: float
    age: float
    under_pressure: bool = False
    nearly_exhausted: bool = False
    blocked: bool = False


class JobRequest(Protocol):
    """What the transitions need of a request."""

    @property
    def poll_interval(self) -> float | None:
        """Constant gap between polls in seconds; None adapts."""

    @property
    def max_restarts(self) -> int:
        """How often a lost job is started again."""


def after_start(state: State, answer: Running | Busy | Lost | Unclear) -> tuple[State, Send]:
    """The next step after the response to a start."""
    match answer:
        case Running(bookmark) if bookmark is not None:
            return replace(state, bookmark=bookmark, unclear=0, busy=False, parts=answer.parts), Send(bookmark, 0.0)
        case Busy():
            # Another job, or our own start whose response was lost: the first ends, the second times out.
            return replace(state, busy=True, unclear=0), Send(None, BUSY_GAP)
        case Unclear(D1RateLimitError(retry_after=float(seconds))):
            wait = Send(None, max(seconds, RESTART_GAP), refused=True, readmit=True)
            return replace(state, unclear=state.unclear + 1, busy=False), wait
        case _:
            gap = min(2.0 * RESTART_GAP * 2 ** min(state.unclear, 10), MAX_RESTART_GAP)
            if isinstance(answer, Unclear) and isinstance(answer.error, D1ApiError):
                gap = max(gap, answer.error.retry_after or 0.0)
            return replace(state, unclear=state.unclear + 1, busy=False), Send(None, gap)


def after_poll(
    state: State, answer: Running | Busy | Lost | Unclear, sent: Sent, request: JobRequest, kind: JobKind
) -> tuple[State, Send]:
    """The next step after the response to a poll.

    :raises D1ExportLostError: when D1 lost an export more often than ``max_restarts`` allows.
    :raises D1ImportLostError: the same for an import.
    """
    match answer:
        case Lost():
            if sent.blocked or state.refused:
                # When the rate limit blocks the token, every running job is lost and begins again. So this loss
                # does not count against max_restarts, and each job has to be admitted once more.
                begun_again = State(polls=state.polls, restarts=state.restarts + 1, excused=state.excused + 1)
                return begun_again, Send(None, RESTART_GAP, readmit=True)
            if state.restarts - state.excused >= request.max_restarts:
                times = counted(state.restarts + 1, "time")
                raise kind.lost_error(
                    f"D1 lost the {kind.noun} {times} (max_restarts={request.max_restarts}): it was"
                    " cancelled, or the response announcing its completion was lost"
                )
            return State(polls=state.polls, restarts=state.restarts + 1, excused=state.excused), Send(None, RESTART_GAP)
        case Unclear(D1RateLimitError(retry_after=float(seconds))):
            wait = Send(state.bookmark, max(seconds, MIN_GAP), refused=True)
            return replace(state, unclear=state.unclear + 1, refused=True), wait
        case Unclear():
            gap = min(MIN_GAP * 2 ** min(state.unclear, 10), POLL_GAP)
            return replace(state, unclear=state.unclear + 1), Send(state.bookmark, max(0.0, gap - sent.took))
        case Running():
            state = replace(
                state,
                bookmark=answer.bookmark or state.bookmark,
                unclear=0,
                refused=False,
                parts=state.parts | answer.parts,
            )
        case Busy():
            pass  # if our own job is running, go on polling; if not, the next response says that ours is lost
    return state, Send(state.bookmark, max(0.0, gap_after(sent, request.poll_interval) - sent.took))


def gap_after(sent: Sent, poll_interval: float | None) -> float:
    """Seconds between sending one poll and the next: constant, or a quarter of the age that the job will have then.

    A quarter of the *coming* age is a third of the present one. A constant gap gives way only to the rate limit.
    """
    if poll_interval is not None:
        return max(poll_interval, POLL_GAP) if sent.nearly_exhausted else poll_interval
    return POLL_GAP if sent.under_pressure else min(max(MIN_GAP, sent.age / 3), POLL_GAP)
