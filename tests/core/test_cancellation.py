"""Each operation cancelled at each of its checkpoints: nothing half-sent, lost or left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import Event, EventBus, EventChannel, Subscription, open_event_bus

from ..observing import (
    Cancellation,
    assert_balanced,
    assert_books,
    at_every_checkpoint,
    drain,
    paths,
    tasks_living,
)

EVERY = pytest.mark.parametrize("every", [1, 2, 32])
SHUFFLES = 5
"""How often a race is repeated: trio shuffles who runs first."""


@asynccontextmanager
async def nothing_left_behind(bus: EventBus) -> AsyncIterator[None]:
    """The same tasks, subscriptions, routes and waiting senders after the block as before it."""

    def everything() -> dict[str, int]:
        statistics = bus.statistics()
        return {
            "tasks": tasks_living(),
            "subscriptions": statistics.open_subscriptions,
            "routes remembered": statistics.routes_remembered,
            "inbox": statistics.current_inbox_used,
            "waiting senders": statistics.tasks_waiting_send,
        }

    await wait_all_tasks_blocked()
    before = everything()
    yield
    await wait_all_tasks_blocked()
    assert everything() == before


async def later(act: Callable[[], object]) -> None:
    """Do something as soon as everybody else waits."""
    await wait_all_tasks_blocked()
    act()


# ---------------------------------------------------------------------------------------------
# send
# ---------------------------------------------------------------------------------------------


@EVERY
async def test_a_cancelled_send_reaches_no_subscriber_and_another_one_reaches_all(
    every: int, autojump_clock: MockClock
) -> None:
    async def scene(cancellation: Cancellation[None]) -> None:
        async with open_event_bus(checkpoint_every=every) as bus:
            subscriptions = [await bus.subscribe(system) for system in ("a", "*", "**", "(a|b)")]
            other = await bus.subscribe("b")
            await cancellation.run(partial(bus.send, "a", "k", "/x"))
            await wait_all_tasks_blocked()
            sent = [] if cancellation.cancelled else ["/x"]
            assert [drain(s.channel()) for s in subscriptions] == [sent] * 4
            assert bus.statistics().accepted == len(sent)
            assert_books(other)

    assert await at_every_checkpoint(scene) >= (1 if every == 1 else 0)


@EVERY
async def test_a_send_cancelled_while_it_waits_for_a_subscription_was_not_sent(
    every: int, autojump_clock: MockClock
) -> None:
    async def scene(cancellation: Cancellation[None]) -> None:
        async with open_event_bus(checkpoint_every=every) as bus:
            stuck = await bus.subscribe("a", max_buffer_size=1)
            witness = await bus.subscribe("**")
            await bus.send("a", "k", "/0")
            read: list[str] = []
            async with nothing_left_behind(bus), trio.open_nursery() as nursery:
                nursery.start_soon(later, lambda: read.extend(drain(stuck.channel())))
                await cancellation.run(partial(bus.send, "a", "k", "/x"))
            sent = [] if cancellation.cancelled else ["/x"]
            assert read == ["/0"]
            assert drain(stuck.channel()) == sent
            assert drain(witness.channel()) == ["/0", *sent]
            assert bus.statistics().accepted == 1 + len(sent)

    assert await at_every_checkpoint(scene) >= 1


async def test_a_send_of_a_fresh_kind_cancelled_while_it_waits_leaves_no_trace(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/0")
        async with nothing_left_behind(bus):
            for number in range(10):
                with trio.move_on_after(1) as scope:
                    await bus.send("a", f"fresh{number}", "/x")
                assert scope.cancelled_caught
        assert bus.statistics().accepted == 1


@EVERY
async def test_a_send_cancelled_while_it_waits_for_the_inbox_was_not_sent(
    every: int, autojump_clock: MockClock
) -> None:
    async def scene(cancellation: Cancellation[None]) -> None:
        async with open_event_bus(inbox_size=2, checkpoint_every=every) as bus:
            subscription = await bus.subscribe("a")
            await wait_all_tasks_blocked()
            bus.send_nowait("a", "k", "/0")
            bus.send_nowait("a", "k", "/1")
            await cancellation.run(partial(bus.send, "a", "k", "/x"))
            await wait_all_tasks_blocked()
            sent = [] if cancellation.cancelled else ["/x"]
            assert drain(subscription.channel()) == ["/0", "/1", *sent]
            assert bus.statistics().tasks_waiting_send == 0

    assert await at_every_checkpoint(scene) >= 1


async def test_a_sender_cancelled_while_room_is_made_has_sent_all_or_nothing(
    autojump_clock: MockClock,
) -> None:
    """The cancellation comes right before the room, or 0, 1, 2, ... turns after it."""
    outcomes = set()
    for turns in range(-1, 6):
        for _ in range(SHUFFLES):
            async with open_event_bus() as bus:
                stuck = await bus.subscribe("a", max_buffer_size=1)
                witness = await bus.subscribe("**")
                await bus.send("a", "k", "/0")
                await wait_all_tasks_blocked()
                returned: list[str] = []

                async def sender(
                    path: str, bus: EventBus = bus, returned: list[str] = returned
                ) -> None:
                    await bus.send("a", "k", path)
                    returned.append(path)

                async with trio.open_nursery() as nursery:
                    async with trio.open_nursery() as inner:
                        inner.start_soon(sender, "/first")
                        await wait_all_tasks_blocked()
                        nursery.start_soon(sender, "/second")
                        await wait_all_tasks_blocked()
                        if turns < 0:
                            inner.cancel_scope.cancel()
                        assert drain(stuck.channel()) == ["/0"]
                        for _ in range(turns):
                            await trio.lowlevel.checkpoint()
                        inner.cancel_scope.cancel()
                    await wait_all_tasks_blocked()
                    read = drain(stuck.channel())
                    assert len(read) == 1  # the room was not lost with the one who had it
                    await wait_all_tasks_blocked()
                    read += drain(stuck.channel())
                await wait_all_tasks_blocked()
                assert read == returned
                assert drain(witness.channel()) == ["/0", *read]
                assert read in (["/second"], ["/first", "/second"])
                assert bus.statistics().accepted == 1 + len(read)
                outcomes.add(len(read))
    assert outcomes == {1, 2}  # else there was no race


# ---------------------------------------------------------------------------------------------
# receive
# ---------------------------------------------------------------------------------------------


async def by_receive(channel: EventChannel) -> list[Event]:
    return [await channel.receive()]


async def by_iteration(channel: EventChannel) -> list[Event]:
    return [await anext(aiter(channel))]


async def by_batch(channel: EventChannel) -> list[Event]:
    return await anext(channel.batches())


async def by_small_batch(channel: EventChannel) -> list[Event]:
    return await anext(channel.batches(max_size=1))


Reading = Callable[[EventChannel], Awaitable[list[Event]]]
READINGS = pytest.mark.parametrize("read", [by_receive, by_iteration, by_batch, by_small_batch])


@READINGS
@EVERY
async def test_reading_what_is_there_loses_nothing_when_cancelled(
    read: Reading, every: int, autojump_clock: MockClock
) -> None:
    async def scene(cancellation: Cancellation[list[Event]]) -> None:
        async with open_event_bus(checkpoint_every=every) as bus:
            subscription = await bus.subscribe("a")
            for number in range(3):
                bus.send_nowait("a", "k", f"/{number}")
            async with nothing_left_behind(bus):

                async def operation() -> list[Event]:
                    return await read(subscription.channel())

                await cancellation.run(operation)
            taken = paths(cancellation.result or [])
            assert bool(taken) == (not cancellation.cancelled)
            assert_books(subscription, delivered=len(taken), queued=3 - len(taken))
            assert taken + drain(subscription.channel()) == ["/0", "/1", "/2"]

    assert await at_every_checkpoint(scene) >= (1 if every == 1 else 0)


@READINGS
@EVERY
async def test_waiting_for_an_event_loses_nothing_when_cancelled(
    read: Reading, every: int, autojump_clock: MockClock
) -> None:
    async def scene(cancellation: Cancellation[list[Event]]) -> None:
        async with open_event_bus(checkpoint_every=every) as bus:
            subscription = await bus.subscribe("a")
            await bus.send("a", "k", "/warms up the memory of the bus")
            await wait_all_tasks_blocked()
            drain(subscription.channel())
            async with nothing_left_behind(bus), trio.open_nursery() as nursery:

                async def operation() -> list[Event]:
                    return await read(subscription.channel())

                nursery.start_soon(later, partial(bus.send_nowait, "a", "k", "/x"))
                await cancellation.run(operation)
            taken = paths(cancellation.result or [])
            assert bool(taken) == (not cancellation.cancelled)
            assert taken + drain(subscription.channel()) == ["/x"]
            assert subscription.channel().statistics().tasks_waiting_receive == 0
            assert_books(subscription, delivered=2)

    assert await at_every_checkpoint(scene) >= 1


@READINGS
async def test_a_reader_cancelled_while_events_arrive_takes_or_leaves_them(
    read: Reading, autojump_clock: MockClock
) -> None:
    """The cancellation comes 0, 1, 2, ... turns after the events were sent."""
    outcomes = set()
    for turns in range(6):
        for _ in range(SHUFFLES):
            async with open_event_bus() as bus:
                subscription = await bus.subscribe("a")
                channel = subscription.channel()
                taken: list[str] = []

                async def reader(channel: EventChannel = channel, taken: list[str] = taken) -> None:
                    taken.extend(paths(await read(channel)))

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(reader)
                    await wait_all_tasks_blocked()
                    bus.send_nowait("a", "k", "/0")
                    bus.send_nowait("a", "k", "/1")
                    for _ in range(turns):
                        await trio.lowlevel.checkpoint()
                        assert_balanced(subscription)
                    nursery.cancel_scope.cancel()
                assert subscription.statistics().delivered == len(taken)
                await wait_all_tasks_blocked()
                assert_books(subscription, delivered=len(taken), queued=2 - len(taken))
                assert taken + drain(channel) == ["/0", "/1"]
                outcomes.add(bool(taken))
    assert outcomes == {False, True}  # else there was no race


@READINGS
async def test_an_event_goes_to_the_next_reader_when_the_first_is_cancelled(
    read: Reading, autojump_clock: MockClock
) -> None:
    for turns in range(4):
        for _ in range(SHUFFLES):
            async with open_event_bus() as bus, trio.open_nursery() as nursery:
                subscription = await bus.subscribe("a")
                taken: list[str] = []

                async def reader(
                    subscription: Subscription = subscription, taken: list[str] = taken
                ) -> None:
                    taken.extend(paths(await read(subscription.channel())))

                async with trio.open_nursery() as inner:
                    inner.start_soon(reader)
                    await wait_all_tasks_blocked()
                    nursery.start_soon(reader)
                    await wait_all_tasks_blocked()
                    bus.send_nowait("a", "k", "/0")
                    for _ in range(turns):
                        await trio.lowlevel.checkpoint()
                    inner.cancel_scope.cancel()
                await wait_all_tasks_blocked()
                assert taken == ["/0"]
                assert_books(subscription, delivered=1)
                nursery.cancel_scope.cancel()


async def test_cancelled_readers_are_forgotten(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        for read in (by_receive, by_iteration, by_batch) * 5:
            with trio.move_on_after(1) as scope:
                await read(subscription.channel())
            assert scope.cancelled_caught
            assert subscription.channel().statistics().tasks_waiting_receive == 0
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        assert_books(subscription, queued=1)


# ---------------------------------------------------------------------------------------------
# subscribe, aclose, the block of the bus
# ---------------------------------------------------------------------------------------------


@EVERY
async def test_a_cancelled_subscribe_leaves_no_subscription(
    every: int, autojump_clock: MockClock
) -> None:
    async def scene(cancellation: Cancellation[Subscription]) -> None:
        async with open_event_bus(checkpoint_every=every, max_subscriptions=1) as bus:
            async with nothing_left_behind(bus):
                await cancellation.run(partial(bus.subscribe, "a.*", "(k|l)"))
                assert (cancellation.result is None) == cancellation.cancelled
                if cancellation.result is not None:
                    cancellation.result.close()
            async with await bus.subscribe("a.*") as subscription:
                await bus.send("a.b", "k", "/x")
                await wait_all_tasks_blocked()
                assert drain(subscription.channel()) == ["/x"]

    assert await at_every_checkpoint(scene) == 1


async def test_a_cancelled_aclose_has_closed(autojump_clock: MockClock) -> None:
    async def scene(cancellation: Cancellation[None]) -> None:
        async with open_event_bus() as bus, nothing_left_behind(bus):
            subscription = await bus.subscribe("a")
            await cancellation.run(subscription.channel().aclose)
            with pytest.raises(trio.ClosedResourceError):
                subscription.channel().receive_nowait()

    assert await at_every_checkpoint(scene) >= 1


@pytest.mark.parametrize("raises", [False, True], ids=["normally", "by exception"])
async def test_a_whole_bus_cancelled_at_any_checkpoint_leaves_no_task(
    raises: bool, autojump_clock: MockClock
) -> None:
    before = tasks_living()

    async def scene(cancellation: Cancellation[None]) -> None:
        subscriptions: list[Subscription] = []

        async def operation() -> None:
            async with open_event_bus(inbox_size=2, checkpoint_every=1) as bus:
                for system in ("a", "**"):
                    subscriptions.append(await bus.subscribe(system, max_buffer_size=1))
                await bus.send("a", "k", "/0")
                await subscriptions[0].channel().receive()
                await subscriptions[1].channel().receive()
                await bus.send("b", "k", "/1")
                if raises:
                    raise KeyError("mine")

        error: KeyError | None = None
        try:
            await cancellation.run(operation)
        except KeyError as caught:
            error = caught
        assert cancellation.cancelled or raises == (error is not None)
        assert tasks_living() == before
        for subscription in subscriptions:
            assert_balanced(subscription)
            drain(subscription.channel())
            with pytest.raises(trio.EndOfChannel):
                await subscription.channel().receive()

    assert await at_every_checkpoint(scene) >= 6


async def test_a_send_that_three_full_subscriptions_stop_is_sent_to_all_or_none(
    autojump_clock: MockClock,
) -> None:
    outcomes = set()

    async def scene(cancellation: Cancellation[None]) -> None:
        async with open_event_bus(inbox_size=2) as bus, trio.open_nursery() as nursery:
            patterns = ("a.*", "*.b", "a.b")
            subscriptions = [await bus.subscribe(each, max_buffer_size=1) for each in patterns]
            await bus.send("a.b", "k", "/fills them")
            await wait_all_tasks_blocked()

            async def read_in_turn() -> None:
                for subscription in subscriptions:
                    for _ in range(3):
                        await trio.lowlevel.checkpoint()
                    subscription.receive_nowait()

            nursery.start_soon(read_in_turn)
            nursery.start_soon(bus.send, "a.b", "k", "/another sender")
            await cancellation.run(lambda: bus.send("a.b", "k", "/x"))
            await wait_all_tasks_blocked()
            got = [set(drain(subscription.channel())) for subscription in subscriptions]
            for _ in range(3):  # whatever was stopped goes on
                await wait_all_tasks_blocked()
                for paths, subscription in zip(got, subscriptions, strict=True):
                    paths |= set(drain(subscription.channel()))
            sent = {"/another sender"} | (set() if cancellation.cancelled else {"/x"})
            assert got == [sent, sent, sent]
            assert bus.statistics().tasks_waiting_send == 0
            outcomes.add(cancellation.cancelled)

    assert await at_every_checkpoint(scene) >= 1
    assert outcomes == {True, False}
