"""Programs over two buses, drawn at random, and small ones in every order of their tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import BusClosedError, open_event_bus
from trio_events.bridge import MemoryLog, open_bridge

from .. import schedules
from ..observing import drain
from ..schedules import Orders, Schedule
from .logs import ShakyLog, entry, paths_in, until, write

STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 1), st.integers(1, 20)),
    st.tuples(st.just("flush"), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("lose answers"), st.just(0), st.integers(1, 3)),
    st.tuples(st.just("go away"), st.just(0), st.just(0)),
    st.tuples(st.just("come back"), st.just(0), st.just(0)),
    st.tuples(st.just("sleep"), st.just(0), st.integers(1, 20)),
)


async def play(steps: list[tuple[str, int, int]], buffer_size: int) -> None:
    log = ShakyLog()
    sent: list[list[str]] = [[], []]
    async with open_event_bus() as one, open_event_bus() as other:
        buses = [one, other]
        bridges = [await open_bridge(bus, log) for bus in buses]
        subscriptions = [await bus.subscribe("s", max_buffer_size=10_000) for bus in buses]
        followers = []
        for bridge in bridges:
            await bridge.export("s", max_buffer_size=buffer_size)
            followers.append(await bridge.follow("s"))
        for what, who, number in steps:
            match what:
                case "send":
                    for _ in range(number):
                        path = f"/{who}/{len(sent[who])}"
                        with trio.move_on_after(1) as scope:
                            await buses[who].send("s", "k", path)
                        if not scope.cancelled_caught:
                            sent[who].append(path)
                case "flush":
                    with trio.move_on_after(1):
                        await bridges[who].flush()
                        stored = await paths_in(log.inner)
                        assert [p for p in stored if p.startswith(f"/{who}/")] == sent[who]
                case "lose answers":
                    log.lost_answers = number
                case "go away":
                    log.go_away()
                case "come back":
                    log.error = None
                case _:
                    await trio.sleep(number)
            for follower in followers:
                s = follower.statistics()
                assert s.passed == s.imported + s.own == s.position
        log.error, log.lost_answers = None, 0
        total = sum(map(len, sent))
        await until(lambda: all(follower.position == total for follower in followers))
        await wait_all_tasks_blocked()
        stored = await paths_in(log.inner)
        for who, subscription in enumerate(subscriptions):
            assert [p for p in stored if p.startswith(f"/{who}/")] == sent[who]
            seen = drain(subscription.channel())
            foreign = f"/{1 - who}/"
            assert sorted(seen) == sorted(stored)
            assert [p for p in seen if p.startswith(foreign)] == sent[1 - who]
    assert await paths_in(log.inner) == stored
    assert log.open_sessions == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, max_size=25), st.sampled_from([1, 3, 1_000]))
def test_any_program_exchanges_every_event_once_and_in_order(
    steps: list[tuple[str, int, int]], buffer_size: int
) -> None:
    trio.run(play, steps, buffer_size, clock=MockClock(autojump_threshold=0))


@pytest.fixture
def explore(caplog: pytest.LogCaptureFixture) -> Callable[..., Any]:
    if reason := schedules.reason_not_to_explore():
        pytest.skip(f"NO SCHEDULE WAS EXPLORED: {reason}; adapt tests/schedules.py")
    caplog.set_level(logging.CRITICAL, "trio_events")
    return schedules.explore


@pytest.mark.parametrize("what_ends", ["bus", "bridge", "export"])
def test_in_every_order_what_was_accepted_before_the_end_is_stored(
    what_ends: str, explore: Callable[..., Any]
) -> None:
    async def program(schedule: Schedule) -> None:
        log, sent = MemoryLog(), []
        async with open_event_bus() as bus:
            bridge = await open_bridge(bus, log)
            export = await bridge.export("s", max_buffer_size=2)

            async def send(name: str) -> None:
                for number in range(3):
                    await trio.lowlevel.checkpoint()
                    try:
                        await bus.send("s", "k", f"/{name}/{number}")
                    except BusClosedError:
                        return
                    sent.append(f"/{name}/{number}")

            async def end() -> None:
                await trio.lowlevel.checkpoint()
                ends: dict[str, Any] = {"bus": bus, "bridge": bridge, "export": export}
                ends[what_ends].close()

            async with schedule.explored(), trio.open_nursery() as nursery:
                nursery.start_soon(send, "a")
                nursery.start_soon(send, "b")
                nursery.start_soon(end)
        stored = await paths_in(log)
        assert len(stored) == export.statistics().matched
        for name in "ab":
            of_it = [path for path in stored if path.startswith(f"/{name}/")]
            assert of_it == [p for p in sent if p.startswith(f"/{name}/")][: len(of_it)]
        if what_ends == "bus":
            assert sorted(stored) == sorted(sent)

    explored = explore(program, orders=Orders.ALL, detours=3, cap=400)
    assert explored.schedules > 50


@pytest.mark.parametrize("what_ends", ["bus", "bridge", "follower"])
def test_in_every_order_a_follower_that_is_closed_has_sent_what_its_position_says(
    what_ends: str, explore: Callable[..., Any]
) -> None:
    async def program(schedule: Schedule) -> None:
        log = MemoryLog()
        async with open_event_bus() as bus:
            bridge = await open_bridge(bus, log)
            subscription = await bus.subscribe("s", max_buffer_size=2)
            follower = await bridge.follow("s")

            async def append() -> None:
                for number in range(4):
                    await write(log, entry(f"/{number}"))

            async def end() -> None:
                await trio.lowlevel.checkpoint()
                ends: dict[str, Any] = {"bus": bus, "bridge": bridge, "follower": follower}
                ends[what_ends].close()

            async with schedule.explored(), trio.open_nursery() as nursery:
                nursery.start_soon(append)
                nursery.start_soon(end)
        got = drain(subscription.channel())
        assert got == [f"/{number}" for number in range(follower.position)]
        assert follower.statistics().imported == follower.position

    explored = explore(program, orders=Orders.ALL, detours=3, cap=400)
    assert explored.schedules > 20
