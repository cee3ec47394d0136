"""Turns for other tasks, and cancellation points, also when nothing has to wait."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import EventBus, EventChannel, Overflow, Subscription, open_event_bus

from ..observing import assert_books, counted_turns

EVERY = pytest.mark.parametrize("every", [1, 2, 7, 32])


async def lossy(bus: EventBus) -> Subscription:
    """A subscription that no sender ever waits for."""
    return await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.DROP_OLDEST)


async def fill(bus: EventBus, channel: EventChannel, count: int) -> None:
    """Have that many events in the buffer of a channel."""
    for _ in range(count):
        bus.send_nowait("a", "k", "/x")
    await wait_all_tasks_blocked()
    assert channel.statistics().current_buffer_used == count


@EVERY
async def test_a_busy_sender_yields_once_per_checkpoint_every_operations(
    every: int, autojump_clock: MockClock
) -> None:
    async with open_event_bus(inbox_size=10_000, checkpoint_every=every) as bus:
        await lossy(bus)
        with counted_turns() as turns:
            for _ in range(10 * every):
                await bus.send("a", "k", "/x")
        assert turns.count >= 10


@EVERY
@pytest.mark.parametrize("how", ["receive", "for"])
async def test_a_busy_reader_yields_once_per_checkpoint_every_operations(
    every: int, how: str, autojump_clock: MockClock
) -> None:
    count = 10 * every
    async with open_event_bus(inbox_size=10_000, checkpoint_every=every) as bus:
        channel = (await bus.subscribe("a", max_buffer_size=count)).channel()
        await fill(bus, channel, count)
        with counted_turns() as turns:
            if how == "receive":
                for _ in range(count):
                    await channel.receive()
            else:
                left = count
                async for _ in channel:
                    left -= 1
                    if not left:
                        break
        assert turns.count >= 10


@EVERY
async def test_reading_from_many_subscriptions_in_turn_counts_as_well(
    every: int, autojump_clock: MockClock
) -> None:
    async with open_event_bus(inbox_size=10_000, checkpoint_every=every) as bus:
        channels = [(await bus.subscribe("a")).channel() for _ in range(10 * every)]
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        with counted_turns() as turns:
            for channel in channels:
                await channel.receive()
        assert turns.count >= 10


@EVERY
async def test_sending_and_reading_in_turn_counts_as_well(
    every: int, autojump_clock: MockClock
) -> None:
    count = 5 * every
    async with open_event_bus(inbox_size=10_000, checkpoint_every=every) as bus:
        await lossy(bus)
        channel = (await bus.subscribe("b", max_buffer_size=count)).channel()
        for _ in range(count):
            bus.send_nowait("b", "k", "/x")
        await wait_all_tasks_blocked()
        with counted_turns() as turns:
            for _ in range(count):
                await bus.send("a", "k", "/x")
                await channel.receive()
        assert turns.count >= 10


async def test_an_operation_that_need_not_wait_seldom_gives_a_turn(
    autojump_clock: MockClock,
) -> None:
    """This is where the speed comes from."""
    async with open_event_bus(inbox_size=10_000) as bus:
        channel = (await bus.subscribe("a", max_buffer_size=10_000)).channel()
        with counted_turns() as turns:
            for _ in range(1280):
                await bus.send("a", "k", "/x")
        assert 20 <= turns.count <= 40
        await wait_all_tasks_blocked()
        with counted_turns() as turns:
            for _ in range(1280):
                await channel.receive()
        assert 20 <= turns.count <= 40


async def test_a_bus_may_give_a_turn_as_seldom_as_one_likes(autojump_clock: MockClock) -> None:
    async with open_event_bus(checkpoint_every=sys.maxsize) as bus:
        await bus.send("a", "k", "/x")


async def test_another_task_gets_its_turns_beside_a_busy_sender_and_a_busy_reader(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=64, checkpoint_every=8) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=64)
        operations = 0
        seen: list[int] = []

        async def other() -> None:
            while True:
                seen.append(operations)
                await trio.lowlevel.checkpoint()

        async def sender() -> None:
            nonlocal operations
            for _ in range(1000):
                await bus.send("a", "k", "/x")
                operations += 1
            subscription.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            nursery.start_soon(sender)
            async for _ in subscription:
                operations += 1
            nursery.cancel_scope.cancel()
        assert operations == 2000
        # Between two of its turns each of the two busy tasks has at most two of its own.
        assert max(b - a for a, b in itertools.pairwise(seen)) <= 2 * 2 * 8


async def test_a_busy_sender_lets_the_router_and_the_readers_work(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=10_000, checkpoint_every=4) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=10_000)
        received = 0

        async def read() -> None:
            nonlocal received
            async for _ in subscription:
                received += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            for number in range(100):
                await bus.send("a", "k", "/x")
                assert number - received <= 5 * 4
            nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------------------------------
# Always a cancellation point
# ---------------------------------------------------------------------------------------------


async def do_send(bus: EventBus, channel: EventChannel) -> object:
    await bus.send("b", "k", "/x")
    return None


async def do_receive(bus: EventBus, channel: EventChannel) -> object:
    return await channel.receive()


async def do_iterate(bus: EventBus, channel: EventChannel) -> object:
    return await anext(aiter(channel))


async def do_batch(bus: EventBus, channel: EventChannel) -> object:
    return await anext(channel.batches(max_size=1))


async def do_subscribe(bus: EventBus, channel: EventChannel) -> object:
    return await bus.subscribe("b")


@pytest.mark.parametrize("act", [do_send, do_receive, do_iterate, do_batch, do_subscribe])
@pytest.mark.parametrize("every", [1, 3, 1000])
async def test_every_operation_is_a_cancellation_point_every_time(
    act: Callable[[EventBus, EventChannel], Awaitable[object]],
    every: int,
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(checkpoint_every=every) as bus:
        subscription = await bus.subscribe("a")
        channel = subscription.channel()
        await fill(bus, channel, 20)
        for _ in range(10):
            with trio.CancelScope() as scope:
                scope.cancel()
                await act(bus, channel)
            assert scope.cancelled_caught
            await wait_all_tasks_blocked()
            assert_books(subscription, queued=20)
            assert bus.statistics().accepted == 20
            assert bus.statistics().open_subscriptions == 1
        for _ in range(10):  # and it works again
            await act(bus, channel)


async def test_iteration_is_a_cancellation_point_at_every_event(autojump_clock: MockClock) -> None:
    async with open_event_bus(checkpoint_every=1000) as bus:
        subscription = await bus.subscribe("a")
        await fill(bus, subscription.channel(), 10)
        read = 0
        with trio.CancelScope() as scope:
            async for _ in subscription:
                read += 1
                if read == 4:
                    scope.cancel()
        assert scope.cancelled_caught
        assert_books(subscription, delivered=4, queued=6)
