"""Waiting is in force from the call on: what is sent before the first turn of others counts."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

import trio_events as events
from trio_events import Event, EventBus, open_event_bus

from .. import schedules
from ..observing import paths
from ..schedules import Schedule


@pytest.fixture(autouse=True)
def explorable(caplog: pytest.LogCaptureFixture) -> None:
    if reason := schedules.reason_not_to_explore():
        pytest.skip(f"NO SCHEDULE WAS EXPLORED: {reason}; adapt tests/schedules.py")
    caplog.set_level(logging.CRITICAL, "trio_events")


async def wait_for(bus: EventBus) -> str:
    return (await bus.wait_for("s", "k")).path


async def wait_for_ambient(bus: EventBus) -> str:
    return (await events.wait_for("s", "k")).path


async def expect(bus: EventBus) -> str:
    async with bus.expect("s", "k") as waiter:
        return (await waiter.event()).path


async def expect_all(bus: EventBus) -> str:
    async with bus.expect("s", "k") as waiter:
        got = [await anext(waiter.events()) for _ in range(3)]
    assert paths(got) == ["/1", "/2", "/3"]
    return got[0].path


@pytest.mark.parametrize(
    "wait", [wait_for, wait_for_ambient, expect, expect_all], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("every", [1, 2, 64])
def test_an_event_of_a_task_started_just_before_is_not_missed(
    wait: Callable[[EventBus], Awaitable[str]], every: int
) -> None:
    async def program(schedule: Schedule) -> None:
        async with open_event_bus(checkpoint_every=every) as bus, trio.open_nursery() as nursery:

            async def send() -> None:
                for path in ("/1", "/2", "/3"):
                    await bus.send("s", "k", path)

            async with schedule.explored():
                nursery.start_soon(send)
                with trio.fail_after(10):
                    assert await wait(bus) == "/1"

    explored = schedules.explore(program)
    assert explored.complete
    assert explored.schedules > 1


@pytest.mark.parametrize("ambient", [True, False])
def test_a_reply_that_is_sent_in_the_moment_of_the_request_is_not_missed(ambient: bool) -> None:
    async def program(schedule: Schedule) -> None:
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            await bus.subscribe("s", "k")
            made = events.request if ambient else bus.request

            async with schedule.explored():
                nursery.start_soon(bus.send, "s", "k.accepted", "/1")
                with trio.fail_after(10):
                    assert (await made("s", "k", "/1")).accepted

    explored = schedules.explore(program)
    assert explored.complete
    assert explored.schedules > 1


async def test_what_was_sent_before_the_call_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        bus.send_nowait("s", "k", "/before")  # accepted, but not routed yet
        nursery.start_soon(bus.send, "s", "k", "/after")
        assert (await bus.wait_for("s", "k")).path == "/after"
        bus.send_nowait("s", "k", "/before")
        async with bus.expect("s", "k") as waiter:
            bus.send_nowait("s", "k", "/after")
            assert (await waiter.event()).path == "/after"


async def test_a_wait_that_is_cancelled_before_its_first_turn_leaves_nothing(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        answered = await bus.subscribe("s", "k")
        for wait in (wait_for, expect, lambda bus: bus.request("s", "k", "/x")):
            with trio.CancelScope() as scope:
                scope.cancel()
                await wait(bus)
            assert scope.cancelled_caught
            assert bus.statistics().open_waiters == 0
        assert answered.statistics().matched == 0


async def test_a_coroutine_that_was_not_awaited_waits_for_nothing() -> None:
    async with open_event_bus() as bus:
        coroutine = bus.wait_for("s", "k")
        assert bus.statistics().open_waiters == 0
        coroutine.close()


async def test_several_that_wait_each_get_the_event(autojump_clock: MockClock) -> None:
    got: list[Event] = []
    async with open_event_bus() as bus, trio.open_nursery() as nursery:

        async def wait() -> None:
            got.append(await bus.wait_for("s", path="/x"))

        for _ in range(3):
            nursery.start_soon(wait)
        nursery.start_soon(bus.send, "s", "k", "/y")
        await trio.sleep(1)
        await bus.send("s", "k", "/x")
    assert paths(got) == ["/x"] * 3
