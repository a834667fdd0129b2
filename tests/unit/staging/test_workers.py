"""Channels and worker groups: order, bounds, and no endless waits."""

from __future__ import annotations

import threading

import pytest

from airflow_provider_d1.staging.workers import Channel, Stopped, WorkerGroup


def test_items_come_out_in_the_order_of_their_places() -> None:
    channel: Channel[str] = Channel(3)
    first, second, third = channel.reserve(), channel.reserve(), channel.reserve()
    channel.deliver(third, "c")
    channel.deliver(second, "b")
    channel.deliver(first, "a")
    channel.end()
    assert list(channel) == ["a", "b", "c"]


@pytest.mark.parametrize(("weight", "fit"), [(1, 2), (1 / 4, 8)])
def test_a_producer_waits_while_the_weight_is_reached(weight: float, fit: int) -> None:
    channel: Channel[int] = Channel(2)
    put: list[int] = []
    as_many_as_fit = threading.Event()

    def produce() -> None:
        for number in range(20):
            channel.put(number, weight)
            put.append(number)
            if len(put) == fit:
                as_many_as_fit.set()
        channel.end()

    thread = threading.Thread(target=produce)
    thread.start()
    assert as_many_as_fit.wait(10)
    taken = []
    for number in channel:
        assert len(put) <= number + fit + 1
        taken.append(number)
    thread.join(10)
    assert taken == put == list(range(20))


def test_several_consumers_share_the_items() -> None:
    channel: Channel[int] = Channel(4)
    taken: list[int] = []
    with WorkerGroup(lambda: None) as workers:
        for name in "ab":
            workers.start(name, lambda: taken.extend(channel))
        for number in range(100):
            channel.put(number)
        channel.end()
    assert sorted(taken) == list(range(100))


@pytest.mark.parametrize("act", ["put", "take"])
def test_stopping_interrupts_waiting_and_later_calls(act: str) -> None:
    channel: Channel[int] = Channel(1)
    if act == "put":
        channel.put(0)
    stopped = threading.Event()

    def wait() -> None:
        with pytest.raises(Stopped):
            channel.put(1) if act == "put" else next(iter(channel))
        stopped.set()

    thread = threading.Thread(target=wait)
    thread.start()
    channel.stop()
    thread.join(10)
    assert stopped.is_set()
    with pytest.raises(Stopped):
        channel.put(2)
    with pytest.raises(Stopped):
        list(channel)


def test_the_first_error_stops_all_and_is_what_is_raised() -> None:
    stops: list[str] = []
    with pytest.raises(ValueError, match="first"), WorkerGroup(lambda: stops.append("stop")) as workers:  # noqa: PT012 - the block is what is tested
        endless: Channel[int] = workers.channel(1)
        workers.start("waits", lambda: list(endless))

        def fail() -> None:
            raise ValueError("first")

        workers.start("fails", fail)
        while True:
            workers.channel(1).put(1)  # a channel that is made after the failure is stopped too
    assert stops == ["stop"]


def test_an_error_in_the_block_passes_through() -> None:
    with pytest.raises(KeyError, match="mine"), WorkerGroup(lambda: None) as workers:  # noqa: PT012 - the block is what is tested
        endless: Channel[int] = workers.channel(1)
        workers.start("waits", lambda: list(endless))
        raise KeyError("mine")


def test_a_second_error_does_not_hide_the_first() -> None:
    gate = threading.Event()

    def second() -> None:
        gate.wait(10)
        raise ValueError("second")

    with pytest.raises(ValueError, match="first"), WorkerGroup(gate.set) as workers:  # noqa: PT012 - the block is what is tested
        workers.start("second", second)
        raise ValueError("first")
