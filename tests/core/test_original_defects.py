"""Mistakes that the original and other event buses made, each as a test for this one."""

from __future__ import annotations

import gc
import itertools
import sys
import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    BusClosedError,
    EventBus,
    Overflow,
    Pattern,
    Subscription,
    SubscriptionOverflowError,
    open_event_bus,
)

from ..observing import assert_books, drain, paths, tasks_living

# ---------------------------------------------------------------------------------------------
# The original
# ---------------------------------------------------------------------------------------------


async def test_a_blocked_subscriber_does_not_stop_the_bus_and_the_inbox_does_not_grow(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=8) as bus, trio.open_nursery() as nursery:
        stuck = await bus.subscribe("a", max_buffer_size=1)
        free = await bus.subscribe("b", max_buffer_size=1000)

        async def send_forever() -> None:
            while True:
                await bus.send("a", "k", "/x")

        for _ in range(20):
            nursery.start_soon(send_forever)
        await wait_all_tasks_blocked()
        with trio.fail_after(1):
            for number in range(500):
                await bus.send("b", "k", f"/{number}")
                assert bus.statistics().current_inbox_used <= 8
        await wait_all_tasks_blocked()
        assert drain(free.channel()) == [f"/{number}" for number in range(500)]
        assert stuck.statistics().queued <= 1 + 8 + 20
        nursery.cancel_scope.cancel()


async def test_a_cancelled_sender_does_not_leave_a_partial_fan_out(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        roomy = [await bus.subscribe("a") for _ in range(5)]
        stuck = await bus.subscribe("a", max_buffer_size=1)
        roomy += [await bus.subscribe("a") for _ in range(5)]
        await bus.send("a", "k", "/1")
        with trio.move_on_after(1) as scope:
            await wait_all_tasks_blocked()
            await bus.send("a", "k", "/2")
        assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        assert [drain(s.channel()) for s in [*roomy, stuck]] == [["/1"]] * 11


class TooManySteps(Exception):
    """A function took more steps than it was given."""


@contextmanager
def at_most_steps(limit: int) -> Iterator[None]:
    """Let the block execute that many lines of Python."""
    left = limit

    def trace(frame: types.FrameType, event: str, argument: object) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise TooManySteps
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def test_many_stars_do_not_take_exponential_time() -> None:
    pattern = Pattern.parse(".".join(["**", "a"] * 8))
    with at_most_steps(20_000):
        assert not pattern.matches(".".join(["a"] * 15 + ["b"]))
        assert pattern.matches(".".join(["a"] * 16))


async def test_routing_along_many_stars_does_not_take_exponential_time(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscriptions = [
            await bus.subscribe(".".join([*["**", "a"] * 7, "**", end])) for end in ("b", "c")
        ]
        await wait_all_tasks_blocked()
        bus.send_nowait("warm.up", "k", "/0")
        await wait_all_tasks_blocked()
        with at_most_steps(50_000):
            bus.send_nowait(".".join(["a"] * 15 + ["b"]), "k", "/1")
        await wait_all_tasks_blocked()
        assert [drain(s.channel()) for s in subscriptions] == [["/1"], []]


@pytest.mark.parametrize("leave", [False, True], ids=["close", "leave"])
async def test_queued_sends_do_not_vanish_when_the_bus_stops(
    leave: bool, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        received: list[str] = []

        async def read(subscription: Subscription) -> None:
            received.extend(paths([event async for event in subscription]))

        async with open_event_bus(inbox_size=100) as bus:
            subscription = await bus.subscribe("a", max_buffer_size=3)
            nursery.start_soon(read, subscription)
            await wait_all_tasks_blocked()
            for number in range(100):
                bus.send_nowait("a", "k", f"/{number}")
            if not leave:
                bus.close()
                await wait_all_tasks_blocked()
                assert len(received) == 100
    assert received == [f"/{number}" for number in range(100)]


async def test_there_is_one_grammar_by_segments_and_no_prefix_globbing(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("orders.*", "order.*")
        await bus.send("orders.eu", "order.created", "/yes")
        await bus.send("orders.eu.new", "order.created", "/deeper system")
        await bus.send("orders.eu", "order.created.twice", "/deeper kind")
        await bus.send("orders", "order", "/shorter")
        await bus.send("orders-old.eu", "order.created", "/same prefix")
        await wait_all_tasks_blocked()
        assert drain(subscription.channel()) == ["/yes"]


# ---------------------------------------------------------------------------------------------
# Others
# ---------------------------------------------------------------------------------------------


async def test_order_survives_the_shuffling_of_tasks(autojump_clock: MockClock) -> None:
    """pyee, slurry: a task per message, and trio reverses runnable batches half of the time."""
    for _ in range(10):
        async with open_event_bus(inbox_size=3, checkpoint_every=1) as bus:
            subscriptions = [await bus.subscribe("a", max_buffer_size=2) for _ in range(3)]
            received: list[list[str]] = [[] for _ in subscriptions]

            async def read(subscription: Subscription, into: list[str]) -> None:
                async for event in subscription:
                    into.append(event.path)

            async with trio.open_nursery() as nursery:
                for subscription, into in zip(subscriptions, received, strict=True):
                    nursery.start_soon(read, subscription, into)
                for number in range(30):
                    await bus.send("a", "k", f"/{number}")
                bus.close()
            assert received == [[f"/{number}" for number in range(30)]] * 3


async def test_a_reader_that_crashed_leaves_no_growing_queue(autojump_clock: MockClock) -> None:
    """aiopubsub: an exception in a handler leaves a dead listener whose queue grows."""
    async with open_event_bus() as bus:
        before = tasks_living()
        with pytest.raises(KeyError):
            async with await bus.subscribe("a") as subscription:
                bus.send_nowait("a", "k", "/1")
                async for _ in subscription:
                    raise KeyError
        for _ in range(1000):
            await bus.send("a", "k", "/2")
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=1)
        assert tasks_living() == before


async def test_more_than_fifty_events_may_be_on_their_way(autojump_clock: MockClock) -> None:
    """bubus: the 51st dispatch that nobody awaited raises."""
    async with open_event_bus(inbox_size=1000) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1000)
        await wait_all_tasks_blocked()
        for _ in range(1000):
            bus.send_nowait("a", "k", "/x")
        await wait_all_tasks_blocked()
        assert_books(subscription, queued=1000)


class Data:
    """Something that can be referred to weakly."""


@pytest.mark.parametrize("overflow", Overflow)
async def test_the_bus_keeps_no_history(overflow: Overflow, autojump_clock: MockClock) -> None:
    """bubus: an unlimited history makes the bus slower and slower."""
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1, overflow=overflow)
        alive: list[weakref.ref[Data]] = []

        async def send(system: str) -> None:
            data = Data()
            alive.append(weakref.ref(data))
            with trio.move_on_after(1):
                await bus.send(system, "k", "/x", data)
            await wait_all_tasks_blocked()

        async with trio.open_nursery() as nursery:  # senders that are not the reader
            nursery.start_soon(send, "unmatched")
            await wait_all_tasks_blocked()
            nursery.start_soon(send, "a")
            await wait_all_tasks_blocked()
            assert drain(subscription.channel()) == ["/x"]
            nursery.start_soon(send, "a")
            await wait_all_tasks_blocked()
            nursery.start_soon(send, "a")  # dropped, drops another, closes, or waits in vain
        subscription.channel().close()
        bus.send_nowait("unmatched", "k", "/the latest may still be in somebody's hands")
        await wait_all_tasks_blocked()
        gc.collect()
        assert [reference() for reference in alive] == [None] * 4


async def test_blocking_means_blocking_and_nothing_is_dropped(autojump_clock: MockClock) -> None:
    """asphalt: drops although its documentation says that it blocks."""
    async with open_event_bus(inbox_size=2) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.BLOCK)
        received: list[str] = []

        async def read_slowly() -> None:
            async for event in subscription:
                received.append(event.path)
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_slowly)
            for number in range(50):
                await bus.send("a", "k", f"/{number}")
            bus.close()
        assert received == [f"/{number}" for number in range(50)]
        assert_books(subscription, delivered=50)


async def test_a_slow_subscriber_does_not_slow_down_a_fast_one(autojump_clock: MockClock) -> None:
    """lahja: a slow subscriber blocks the whole endpoint. Here only when both want the event."""
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        slow = await bus.subscribe("a", "for.slow", max_buffer_size=1)
        fast = await bus.subscribe("a", max_buffer_size=1)
        received: list[str] = []

        async def read_fast() -> None:
            async for event in fast:
                received.append(event.path)

        nursery.start_soon(read_fast)
        for _ in range(3):
            nursery.start_soon(bus.send, "a", "for.slow", "/slow")
        await wait_all_tasks_blocked()
        start = trio.current_time()
        for number in range(100):
            await bus.send("a", "for.fast", f"/{number}")
        await wait_all_tasks_blocked()
        assert trio.current_time() == start
        assert [path for path in received if path != "/slow"] == [f"/{n}" for n in range(100)]
        slow.close()
        await wait_all_tasks_blocked()
        fast.close()


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_INCOMING])
@pytest.mark.parametrize("lost", [1, 5, 6])
async def test_the_number_of_lost_events_is_exact(
    lost: int, overflow: Overflow, autojump_clock: MockClock
) -> None:
    """tractor: reports 5 lost when 6 were."""
    async with open_event_bus() as bus:
        for in_one_burst in (True, False):
            subscription = await bus.subscribe("a", max_buffer_size=4, overflow=overflow)
            await wait_all_tasks_blocked()
            for number in range(4 + lost):
                bus.send_nowait("a", "k", f"/{number}")
                if not in_one_burst:
                    await wait_all_tasks_blocked()
            await wait_all_tasks_blocked()
            assert_books(subscription, queued=4, dropped=lost)
            missing = {f"/{n}" for n in range(4 + lost)} - set(drain(subscription.channel()))
            assert len(missing) == lost
            subscription.close()


async def test_a_subscription_that_only_the_bus_refers_to_stays_in_force(
    autojump_clock: MockClock,
) -> None:
    """blinker, PyPubSub: a handler that is a local closure is never called, being collected."""
    async with open_event_bus() as bus:
        received: list[str] = []

        async def listen() -> None:
            subscription = await bus.subscribe("a")

            async def handler() -> None:
                async for event in subscription:
                    received.append(event.path)

            nursery.start_soon(handler)

        async with trio.open_nursery() as nursery:
            await listen()
            gc.collect()
            await bus.send("a", "k", "/x")
            await wait_all_tasks_blocked()
            assert received == ["/x"]
            bus.close()


async def test_concurrent_senders_are_seen_in_the_same_order_by_all(
    autojump_clock: MockClock,
) -> None:
    """fs2 Topic: concurrent publishes are seen in different orders by different subscribers."""
    for _ in range(10):
        async with open_event_bus(inbox_size=2, checkpoint_every=1) as bus:
            subscriptions = [await bus.subscribe("**", max_buffer_size=100) for _ in range(4)]

            async def sender(name: str, bus: EventBus = bus) -> None:
                for number in range(5):
                    await bus.send(name, "k", f"/{name}/{number}")

            async with trio.open_nursery() as nursery:
                for name in ("x", "y", "z"):
                    nursery.start_soon(sender, name)
            await wait_all_tasks_blocked()
            first, *others = [drain(subscription.channel()) for subscription in subscriptions]
            assert len(first) == 15
            assert others == [first] * 3


async def test_closing_frees_senders_that_wait(autojump_clock: MockClock) -> None:
    """fs2 Topic: close does not free blocked producers."""
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/0")
        await wait_all_tasks_blocked()
        outcomes: list[str] = []

        async def sender() -> None:
            try:
                await bus.send("a", "k", "/x")
            except BusClosedError:
                outcomes.append("closed")
            else:
                outcomes.append("sent")

        nursery.start_soon(sender)
        await wait_all_tasks_blocked()
        subscription.close()
        await wait_all_tasks_blocked()
        assert outcomes == ["sent"]
        await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/0")
        await wait_all_tasks_blocked()
        nursery.start_soon(sender)
        await wait_all_tasks_blocked()
        bus.close()
        await wait_all_tasks_blocked()
        assert outcomes == ["sent", "closed"]


async def test_closed_subscriptions_leave_no_nodes_in_the_index(
    autojump_clock: MockClock,
) -> None:
    """RabbitMQ, EventEmitter2: removing subscriptions left nodes of the index behind."""
    segments = ("a", "b", "*", "**", "(a|b)")
    patterns = [".".join(parts) for parts in itertools.product(segments, repeat=3)]

    async with open_event_bus() as bus:

        async def come_and_go() -> int:
            for close_channel in (False, True):
                subscriptions = [
                    await bus.subscribe(pattern, kind, overflow=Overflow.DROP_OLDEST)
                    for pattern in patterns
                    for kind in (None, "k.*")
                ]
                await bus.send("a.b.a", "k.l", "/x")
                await wait_all_tasks_blocked()
                for subscription in subscriptions:
                    (subscription.channel() if close_channel else subscription).close()
                await wait_all_tasks_blocked()
                del subscription, subscriptions
            assert bus.statistics().open_subscriptions == 0
            assert bus.statistics().routes_remembered == 0
            gc.collect()
            return len(gc.get_objects())

        await come_and_go()
        before = await come_and_go()
        after = await come_and_go()
        assert after - before < len(patterns)


async def test_a_million_kinds_do_not_fill_the_memory_of_routes(autojump_clock: MockClock) -> None:
    """NATS: a match cache with a million keys was slower than none."""
    async with open_event_bus() as bus:
        await bus.subscribe("**", max_buffer_size=1, overflow=Overflow.DROP_OLDEST)
        peak = 0
        for number in range(6000):
            await bus.send("a", f"k{number}", "/x")
            peak = max(peak, bus.statistics().routes_remembered)
        assert 0 < peak <= 4096


async def test_what_is_sent_is_received_or_counted_as_lost(autojump_clock: MockClock) -> None:
    """mosquitto acknowledges what it dropped; Kotlin's `tryEmit` says false and nobody looks."""
    async with open_event_bus() as bus:
        sent = 0
        subscriptions = {
            overflow: await bus.subscribe("a", max_buffer_size=3, overflow=overflow)
            for overflow in Overflow
        }
        await wait_all_tasks_blocked()
        for number in range(30):
            try:
                bus.send_nowait("a", "k", f"/{number}")
            except trio.WouldBlock:
                continue
            sent += 1
            if number % 4 == 0:
                await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert 3 <= sent < 30
        for overflow, subscription in subscriptions.items():
            read = []
            try:
                while True:
                    read.append(subscription.channel().receive_nowait().path)
                    await wait_all_tasks_blocked()
            except (trio.WouldBlock, SubscriptionOverflowError):
                pass
            books = subscription.statistics()
            assert books.delivered == len(read)
            if overflow is not Overflow.CLOSE:  # with `LATEST`, as all paths differ
                assert books.matched == books.delivered + books.dropped == sent
            else:
                assert books.dropped >= 1
                assert books.matched == 3 + books.dropped
