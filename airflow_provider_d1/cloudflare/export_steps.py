"""The export's state machine, pure: what to send next and after how long, given what was answered.

What shapes it: D1 cancels an export that was not polled for 15 seconds, tells of its end perhaps only once, forgets
exports, and runs one at a time for each database.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from airflow_provider_d1.cloudflare.budget import POLL_GAP
from airflow_provider_d1.cloudflare.export_protocol import (
    Busy,
    Complete,
    ExportAnswer,
    Failed,
    Lost,
    Running,
    Unclear,
)
from airflow_provider_d1.exceptions import D1ApiError, D1ExportLostError, D1RateLimitError

#: shortest gap between two polls
MIN_GAP = 0.5
#: seconds before a start is sent again: after a lost export; after no clear answer, doubling; while D1 is busy
RESTART_GAP = 1.0
MAX_RESTART_GAP = 15.0
BUSY_GAP = POLL_GAP


@dataclass(frozen=True, slots=True)
class Rules:
    """How an export is to be run.

    :param poll_interval: constant gap between polls in seconds, at most 10; None adapts.
    :param max_restarts: how often an export that D1 lost is started again.
    """

    poll_interval: float | None = None
    max_restarts: int = 3


@dataclass(frozen=True, slots=True)
class State:
    """Where an export stands between two requests; ``bookmark`` is None while none is running."""

    bookmark: str | None = None
    polls: int = 0
    restarts: int = 0
    unclear: int = 0
    busy: bool = False
    parts: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Send:
    """Send the next request after ``delay`` seconds: a start when ``bookmark`` is None, else a poll of it.

    ``refused`` says that the delay is Cloudflare's own, for the request limit.
    """

    bookmark: str | None
    delay: float
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """The request just answered: seconds it took, the export's age at its sending, and the budget's state."""

    took: float
    age: float
    tight: bool = False
    scarce: bool = False


def first_step() -> tuple[State, Send]:
    """Begin with a start."""
    return State(), Send(None, 0.0)


def step(state: State, answer: ExportAnswer, sent: Sent, rules: Rules) -> tuple[State, Send | Complete]:
    """What an answer leads to.

    :param state: where the export stood when the request was sent.
    :param answer: what came back.
    :param sent: circumstances of the request.
    :param rules: what the user asked for.
    :return: the new state, and what to send next or the finished export.
    :raises D1ExportError: when it is over without a dump.
    :raises D1ApiError: when the API refuses for good.
    """
    if isinstance(answer, Failed):
        raise answer.error
    if isinstance(answer, Complete):
        return replace(state, parts=state.parts | answer.parts, bookmark=answer.bookmark or state.bookmark), answer
    return _after_start(state, answer) if state.bookmark is None else _after_poll(state, answer, sent, rules)


def _after_start(state: State, answer: Running | Busy | Lost | Unclear) -> tuple[State, Send]:
    match answer:
        case Running(bookmark) if bookmark is not None:
            return replace(state, bookmark=bookmark, unclear=0, busy=False, parts=answer.parts), Send(bookmark, 0.0)
        case Busy():
            # Somebody's export, or the orphan of a start whose answer was lost: the one ends, the other times out.
            return replace(state, busy=True, unclear=0), Send(None, BUSY_GAP)
        case Unclear(D1RateLimitError(retry_after=float(seconds))):
            wait = Send(None, max(seconds, RESTART_GAP), refused=True)
            return replace(state, unclear=state.unclear + 1, busy=False), wait
        case _:
            gap = min(2.0 * RESTART_GAP * 2 ** min(state.unclear, 10), MAX_RESTART_GAP)
            if isinstance(answer, Unclear) and isinstance(answer.error, D1ApiError):
                gap = max(gap, answer.error.retry_after or 0.0)
            return replace(state, unclear=state.unclear + 1, busy=False), Send(None, gap)


def _after_poll(state: State, answer: Running | Busy | Lost | Unclear, sent: Sent, rules: Rules) -> tuple[State, Send]:
    match answer:
        case Lost():
            if state.restarts >= rules.max_restarts:
                raise D1ExportLostError(
                    f"D1 lost the export {state.restarts + 1} times (max_restarts={rules.max_restarts}): it was"
                    " cancelled, or its end was told in an answer that did not arrive"
                )
            return State(polls=state.polls, restarts=state.restarts + 1), Send(None, RESTART_GAP)
        case Unclear(D1RateLimitError(retry_after=float(seconds))):
            wait = Send(state.bookmark, max(seconds, MIN_GAP), refused=True)
            return replace(state, unclear=state.unclear + 1), wait
        case Unclear():
            gap = min(MIN_GAP * 2 ** min(state.unclear, 10), POLL_GAP)
            return replace(state, unclear=state.unclear + 1), Send(state.bookmark, max(0.0, gap - sent.took))
        case Running():
            state = replace(
                state, bookmark=answer.bookmark or state.bookmark, unclear=0, parts=state.parts | answer.parts
            )
        case Busy():
            pass  # if it is ours that runs, go on polling; if not, D1 will say that ours is lost
    return state, Send(state.bookmark, max(0.0, gap_after(sent, rules.poll_interval) - sent.took))


def gap_after(sent: Sent, poll_interval: float | None) -> float:
    """Seconds between sending one poll and the next: constant, or a quarter of the age that the export will have then.

    A quarter of the *coming* age is a third of the present one. A constant gap gives way only to the request limit.
    """
    if poll_interval is not None:
        return max(poll_interval, POLL_GAP) if sent.scarce else poll_interval
    return POLL_GAP if sent.tight else min(max(MIN_GAP, sent.age / 3), POLL_GAP)
