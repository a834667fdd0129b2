"""The export's state machine, step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_provider_d1.cloudflare.export_protocol import Complete, first_step, step
from airflow_provider_d1.cloudflare.models import ExportRequest
from airflow_provider_d1.cloudflare.polled_job import Busy, Failed, Lost, Running, Send, Sent, State, Unclear, gap_after
from airflow_provider_d1.exceptions import (
    D1ApiError,
    D1ConnectionError,
    D1ExportError,
    D1ExportLostError,
    D1RateLimitError,
)

RULES = ExportRequest()
AT_ONCE = Sent(took=0.0, age=0.0)
RUNNING = State(bookmark="b", polls=1)
NO_ANSWER = Unclear(D1ConnectionError("no answer"))
END = Complete("b2", "x.sql", "https://…")


def limited(seconds: float | None) -> Unclear:
    return Unclear(D1RateLimitError("wait", retry_after=seconds))


# --- a start


def test_it_begins_with_a_start_at_once() -> None:
    assert first_step() == (State(), Send(None, 0.0))


def test_the_first_poll_follows_at_once() -> None:
    assert step(State(), Running("b"), AT_ONCE, RULES) == (State(bookmark="b"), Send("b", 0.0))


def test_a_start_may_be_complete_already() -> None:
    state, outcome = step(State(), END, AT_ONCE, RULES)
    assert outcome is END
    assert (state.bookmark, state.polls) == ("b2", 0)


def test_busy_is_waited_out_and_costs_no_restart() -> None:
    state, send = step(State(), Busy(), AT_ONCE, RULES)
    assert state == State(busy=True)
    assert send.bookmark is None
    assert 1 <= send.delay <= 5
    state, _ = step(state, Running("b"), AT_ONCE, RULES)
    assert state == State(bookmark="b")


@pytest.mark.parametrize(
    "answer", [NO_ANSWER, Unclear(D1ApiError("502", status=502, retryable=True)), Running(None), Lost()]
)
def test_an_unanswered_start_is_not_repeated_within_a_second(answer: Unclear) -> None:
    state, send = step(State(), answer, AT_ONCE, RULES)
    assert send.bookmark is None
    assert send.delay > 1
    assert state.restarts == 0


def test_unclear_starts_back_off_up_to_a_limit() -> None:
    state, delays = State(), []
    for _ in range(3000):
        state, send = step(state, NO_ANSWER, AT_ONCE, RULES)
        delays.append(send.delay)
    assert delays[:5] == [2, 4, 8, 15, 15]
    assert delays[-1] == 15


def test_a_refused_start_waits_for_retry_after() -> None:
    assert step(State(), limited(287.0), AT_ONCE, RULES)[1] == Send(None, 287.0, refused=True, readmit=True)
    assert step(State(), limited(0.0), AT_ONCE, RULES)[1].delay >= 1


# --- a poll


def test_the_latest_bookmark_is_the_one_to_send() -> None:
    state, send = step(RUNNING, Running("newer"), AT_ONCE, RULES)
    assert state.bookmark == send.bookmark == "newer"
    assert isinstance(send, Send)


def test_an_answer_without_a_bookmark_keeps_the_old_one() -> None:
    assert step(RUNNING, Running(None), AT_ONCE, RULES)[0].bookmark == "b"


def test_parts_add_up_over_the_answers() -> None:
    state, _ = step(RUNNING, Running("b", frozenset({2, 1})), AT_ONCE, RULES)
    state, _ = step(state, Running("b", frozenset({4})), AT_ONCE, RULES)
    assert state.parts == {1, 2, 4}


def test_a_busy_response_to_a_poll_continues_polling() -> None:
    state, send = step(RUNNING, Busy(), AT_ONCE, RULES)
    assert (state, send) == (RUNNING, Send("b", 0.5))


@pytest.mark.parametrize("polls", [1, 7])
def test_lost_starts_again_even_on_the_first_poll(polls: int) -> None:
    state, send = step(State(bookmark="b", polls=polls, parts=frozenset({1})), Lost(), AT_ONCE, RULES)
    assert state == State(polls=polls, restarts=1)
    assert send == Send(None, 1.0)


@pytest.mark.parametrize(
    ("state", "sent"),
    [
        (State(bookmark="b", restarts=3), replace(AT_ONCE, blocked=True)),
        (State(bookmark="b", restarts=3, refused=True), AT_ONCE),
    ],
)
def test_an_export_lost_to_a_block_does_not_count_and_is_admitted_again(state: State, sent: Sent) -> None:
    after, send = step(state, Lost(), sent, ExportRequest(max_restarts=3))
    assert (after.restarts, after.excused) == (4, 1)
    assert send == Send(None, 1.0, readmit=True)
    with pytest.raises(D1ExportLostError):
        step(replace(after, bookmark="c"), Lost(), AT_ONCE, ExportRequest(max_restarts=3))


def test_a_refused_poll_is_remembered_until_the_next_clear_response() -> None:
    state, _ = step(RUNNING, limited(287.0), AT_ONCE, RULES)
    assert state.refused
    assert not step(state, Running("b"), AT_ONCE, RULES)[0].refused


def test_restarts_are_limited() -> None:
    used_up = State(bookmark="b", polls=9, restarts=3)
    with pytest.raises(D1ExportLostError, match="lost the export 4 times") as caught:
        step(used_up, Lost(), AT_ONCE, ExportRequest(max_restarts=3))
    assert caught.value.retryable
    with pytest.raises(D1ExportLostError):
        step(RUNNING, Lost(), AT_ONCE, ExportRequest(max_restarts=0))


def test_an_unanswered_poll_is_soon_followed_by_another() -> None:
    state, delays = RUNNING, []
    for _ in range(3000):
        state, send = step(state, NO_ANSWER, AT_ONCE, RULES)
        assert isinstance(send, Send)
        assert send.bookmark == "b"
        delays.append(send.delay)
    assert delays[:5] == [0.5, 1, 2, 4, 5]
    assert max(delays) == 5


def test_a_poll_that_used_up_its_gap_is_followed_at_once() -> None:
    assert step(RUNNING, NO_ANSWER, Sent(took=9.5, age=30), RULES)[1] == Send("b", 0.0)
    assert step(RUNNING, Running("b"), Sent(took=9.5, age=30), RULES)[1] == Send("b", 0.0)


def test_a_gap_runs_from_sending_to_sending() -> None:
    assert step(RUNNING, Running("b"), Sent(took=2.0, age=30), RULES)[1] == Send("b", 3.0)


def test_a_refused_poll_waits_for_retry_after() -> None:
    assert step(RUNNING, limited(287.0), AT_ONCE, RULES)[1] == Send("b", 287.0, refused=True)


def test_an_overloaded_d1_that_does_not_say_how_long_is_asked_again_soon() -> None:
    assert step(RUNNING, limited(None), AT_ONCE, RULES)[1] == Send("b", 0.5)


def test_a_failure_is_raised_as_it_is() -> None:
    error = D1ExportError("boom")
    for state in (State(), RUNNING):
        with pytest.raises(D1ExportError) as caught:
            step(state, Failed(error), AT_ONCE, RULES)
        assert caught.value is error


# --- the gaps


@pytest.mark.parametrize(("age", "gap"), [(0, 0.5), (1.5, 0.5), (3, 1.0), (9, 3.0), (15, 5.0), (3600, 5.0)])
def test_gaps_grow_with_the_age(age: float, gap: float) -> None:
    assert gap_after(Sent(0.0, age), None) == gap


def test_a_number_is_a_constant_gap() -> None:
    assert [gap_after(Sent(0.0, age, under_pressure=True), 2.5) for age in (0, 10, 100)] == [2.5] * 3
    assert gap_after(Sent(0.0, 0.0, nearly_exhausted=True), 0.1) == 5.0
    assert gap_after(Sent(0.0, 0.0, nearly_exhausted=True), 8.0) == 8.0


def test_when_calls_are_scarce_every_gap_is_the_longest() -> None:
    assert gap_after(Sent(0.0, 0.0, under_pressure=True), None) == 5.0


def polls_until(seconds: float) -> list[float]:
    """When an export that takes so long is polled, on a line without delay."""
    times = [0.0]
    while times[-1] < seconds:
        times.append(times[-1] + gap_after(Sent(0.0, times[-1]), None))
    return times


def test_a_minute_costs_at_most_25_calls_with_the_look_ups_and_the_start() -> None:
    assert max(len(polls_until(60 + n / 10)) for n in range(-50, 1)) + 3 <= 25


def test_the_end_is_noticed_within_two_and_a_half_seconds_on_average() -> None:
    for around in (5, 20, 60, 600):
        delays = [polls_until(end)[-1] - end for end in (around + n / 50 for n in range(500))]
        assert sum(delays) / len(delays) <= 2.51
