"""A full buffer: what each policy does, and the books after every step."""

from __future__ import annotations

import attrs
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    ErrorKind,
    EventBus,
    EventBusError,
    Overflow,
    Subscription,
    SubscriptionOverflowError,
    open_event_bus,
)

from ..observing import assert_balanced, assert_books, drain, paths
from ..time_limit import run_with_time_limit

LOSSY = [overflow for overflow in Overflow if overflow is not Overflow.BLOCK]


async def send(bus: EventBus, *paths: str) -> None:
    """Send events one by one, each routed before the next."""
    for path in paths:
        bus.send_nowait("a", "k", path)
        await wait_all_tasks_blocked()


def send_burst(bus: EventBus, *paths: str) -> None:
    """Send events that the router takes in one go."""
    for path in paths:
        bus.send_nowait("a", "k", path)


# ---------------------------------------------------------------------------------------------
# Each policy, step by step
# ---------------------------------------------------------------------------------------------


async def test_block_loses_nothing_and_lets_the_sender_wait(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=2, overflow=Overflow.BLOCK)
        assert_books(subscription)
        await send(bus, "/1")
        assert_books(subscription, queued=1)
        await send(bus, "/2")
        assert_books(subscription, queued=2)
        nursery.start_soon(bus.send, "a", "k", "/3")
        await wait_all_tasks_blocked()
        assert_books(subscription, queued=2, tasks_waiting_send=1)
        assert bus.statistics().accepted == 2
        assert subscription.channel().receive_nowait().path == "/1"
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=1, queued=2)
        assert drain(subscription.channel()) == ["/2", "/3"]
        assert_books(subscription, delivered=3)


async def test_block_holds_what_the_router_had_taken_when_the_buffer_filled_up(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2, overflow=Overflow.BLOCK)
        send_burst(bus, "/1", "/2", "/3", "/4", "/5")
        await wait_all_tasks_blocked()
        assert_books(subscription, queued=5, held=3)
        channel = subscription.channel()
        assert channel.receive_nowait().path == "/1"
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=1, queued=4, held=2)
        with pytest.raises(trio.WouldBlock):
            bus.send_nowait("a", "k", "/refused")
        for number in range(2, 6):
            assert channel.receive_nowait().path == f"/{number}"
            await wait_all_tasks_blocked()
            assert_balanced(subscription)
        assert_books(subscription, delivered=5)
        await send(bus, "/6")
        assert_books(subscription, delivered=5, queued=1)


async def test_drop_oldest_makes_room_by_losing_the_oldest(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2, overflow=Overflow.DROP_OLDEST)
        await send(bus, "/1", "/2")
        assert_books(subscription, queued=2)
        await send(bus, "/3")
        assert_books(subscription, queued=2, dropped=1)
        await send(bus, "/4")
        assert_books(subscription, queued=2, dropped=2)
        assert subscription.channel().receive_nowait().path == "/3"
        assert_books(subscription, delivered=1, queued=1, dropped=2)
        await send(bus, "/5")
        assert_books(subscription, delivered=1, queued=2, dropped=2)
        await send(bus, "/6")
        assert_books(subscription, delivered=1, queued=2, dropped=3)
        assert drain(subscription.channel()) == ["/5", "/6"]
        assert_books(subscription, delivered=3, dropped=3)


async def test_drop_incoming_keeps_what_is_buffered(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2, overflow=Overflow.DROP_INCOMING)
        await send(bus, "/1", "/2")
        assert_books(subscription, queued=2)
        await send(bus, "/3")
        assert_books(subscription, queued=2, dropped=1)
        await send(bus, "/4")
        assert_books(subscription, queued=2, dropped=2)
        assert subscription.channel().receive_nowait().path == "/1"
        assert_books(subscription, delivered=1, queued=1, dropped=2)
        await send(bus, "/5")
        assert_books(subscription, delivered=1, queued=2, dropped=2)
        assert drain(subscription.channel()) == ["/2", "/5"]
        assert_books(subscription, delivered=3, dropped=2)


async def test_latest_keeps_the_newest_of_each_path_at_its_place(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=3, overflow=Overflow.LATEST)
        await send(bus, "/1", "/2", "/1")
        assert_books(subscription, queued=3)
        await send(bus, "/3")  # the first /1 makes room
        assert_books(subscription, queued=3, superseded=1)
        await send(bus, "/2")
        assert_books(subscription, queued=3, superseded=2)
        assert subscription.receive_nowait().path == "/1"
        assert_books(subscription, delivered=1, queued=2, superseded=2)
        await send(bus, "/3")  # there is room, so both stay
        assert_books(subscription, delivered=1, queued=3, superseded=2)
        await send(bus, "/3")
        assert_books(subscription, delivered=1, queued=2, superseded=4)
        assert drain(subscription.channel()) == ["/2", "/3"]
        assert_books(subscription, delivered=3, superseded=4)


async def test_latest_loses_the_oldest_if_there_are_more_paths_than_room(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2, overflow=Overflow.LATEST)
        await send(bus, "/1", "/2", "/3")
        assert_books(subscription, queued=2, dropped=1)
        await send(bus, "/2", "/4")
        assert_books(subscription, queued=2, dropped=2, superseded=1)
        assert drain(subscription.channel()) == ["/2", "/4"]


async def test_latest_tells_systems_and_kinds_apart(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("**", max_buffer_size=3, overflow=Overflow.LATEST)
        for names in (("a", "k"), ("b", "k"), ("a", "l"), ("b", "k"), ("a", "k")):
            await bus.send(*names, "/1")
        await wait_all_tasks_blocked()
        assert_books(subscription, queued=3, superseded=2)
        read = [subscription.receive_nowait() for _ in range(3)]
        assert [(e.system, e.kind) for e in read] == [("a", "l"), ("b", "k"), ("a", "k")]


async def test_a_reader_that_keeps_up_gets_every_event_with_latest(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=4, overflow=Overflow.LATEST)
        for round in range(20):
            send_burst(bus, "/1", "/1", "/1", "/1")
            await wait_all_tasks_blocked()
            assert drain(subscription.channel()) == ["/1"] * 4
            assert_books(subscription, delivered=4 * (round + 1))


async def test_latest_takes_up_a_front_that_is_half_read_and_several_lists(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=4, overflow=Overflow.LATEST)
        send_burst(bus, "/1", "/2", "/3")
        await wait_all_tasks_blocked()
        assert subscription.receive_nowait().path == "/1"
        await send(bus, "/4", "/2")
        assert_books(subscription, delivered=1, queued=4)
        await send(bus, "/3")
        assert_books(subscription, delivered=1, queued=3, superseded=2)
        assert paths(await anext(subscription.batches(max_size=2))) == ["/4", "/2"]
        await send(bus, "/5")
        subscription.close()
        assert paths([event async for event in subscription]) == ["/3", "/5"]


async def test_latest_discards_what_is_unread_of_it_when_its_channel_is_closed(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2, overflow=Overflow.LATEST)
        await send(bus, "/1", "/2", "/1")
        subscription.channel().close()
        assert_books(subscription, discarded=2, superseded=1)


async def test_close_ends_the_subscription_and_leaves_what_is_buffered_readable(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2, overflow=Overflow.CLOSE)
        await send(bus, "/1", "/2")
        assert_books(subscription, queued=2)
        assert bus.statistics().open_subscriptions == 1
        await send(bus, "/3")
        assert_books(subscription, queued=2, dropped=1)
        assert bus.statistics().open_subscriptions == 0
        await send(bus, "/4")
        assert_books(subscription, queued=2, dropped=1)
        assert bus.statistics().unmatched == 1
        channel = subscription.channel()
        assert channel.receive_nowait().path == "/1"
        await send(bus, "/5")
        assert (await channel.receive()).path == "/2"
        for _ in range(2):  # and it's persistent
            with pytest.raises(SubscriptionOverflowError) as caught:
                await channel.receive()
            with pytest.raises(SubscriptionOverflowError):
                channel.receive_nowait()
            assert caught.value.kind is ErrorKind.UNAVAILABLE
            assert caught.value.retryable
        assert_books(subscription, delivered=2, dropped=1)


async def test_an_overflow_ends_iteration_with_the_error_and_not_silently(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        for as_batches in (False, True):
            subscription = await bus.subscribe("a", max_buffer_size=2, overflow=Overflow.CLOSE)
            await send(bus, "/1", "/2", "/3")
            read = []
            with pytest.raises(SubscriptionOverflowError):
                if as_batches:
                    async for batch in subscription.channel().batches(max_size=1):
                        read += paths(batch)
                else:
                    async for event in subscription:
                        read.append(event.path)
            assert read == ["/1", "/2"]


async def test_after_an_overflow_one_can_subscribe_again(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        first = await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.CLOSE)
        await send(bus, "/1", "/2")
        second = await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.CLOSE)
        await send(bus, "/3")
        assert second.channel().receive_nowait().path == "/3"
        assert first.channel().receive_nowait().path == "/1"
        with pytest.raises(SubscriptionOverflowError):
            first.channel().receive_nowait()


@pytest.mark.parametrize("end", ["subscription", "channel", "bus"])
async def test_an_overflow_error_stays_when_others_close_and_not_when_the_reader_does(
    end: str, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.CLOSE)
        channel = subscription.channel()
        await send(bus, "/1", "/2")
        {"subscription": subscription.close, "channel": channel.close, "bus": bus.close}[end]()
        await wait_all_tasks_blocked()
        if end == "channel":
            with pytest.raises(trio.ClosedResourceError):
                channel.receive_nowait()
            assert_books(subscription, dropped=1, discarded=1)
        else:
            assert channel.receive_nowait().path == "/1"
            with pytest.raises(SubscriptionOverflowError):
                channel.receive_nowait()
            assert_books(subscription, delivered=1, dropped=1)


# ---------------------------------------------------------------------------------------------
# Bursts: the same as one by one
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overflow", "left", "dropped"),
    [
        (Overflow.BLOCK, ["/1", "/2", "/3", "/4", "/5"], 0),
        (Overflow.DROP_OLDEST, ["/4", "/5"], 3),
        (Overflow.DROP_INCOMING, ["/1", "/2"], 3),
        (Overflow.LATEST, ["/4", "/5"], 3),
    ],
)
async def test_a_burst_ends_as_the_same_events_one_by_one(
    overflow: Overflow, left: list[str], dropped: int, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2, overflow=overflow)
        send_burst(bus, "/1", "/2", "/3", "/4", "/5")
        await wait_all_tasks_blocked()
        assert_balanced(subscription)
        assert subscription.statistics().dropped == dropped
        assert subscription.channel().statistics().current_buffer_used == 2
        assert subscription.channel().statistics().peak_buffer_used == 2
        subscription.close()
        assert paths([event async for event in subscription]) == left


async def test_latest_treats_a_burst_as_the_same_events_one_by_one(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=3, overflow=Overflow.LATEST)
        send_burst(bus, "/1", "/1", "/1", "/1", "/2", "/2", "/3")
        await wait_all_tasks_blocked()
        # The fourth leaves one /1 of four; then there is room, until the last leaves one /2 of two.
        assert_books(subscription, queued=3, superseded=4)
        assert drain(subscription.channel()) == ["/1", "/2", "/3"]


async def test_a_burst_that_overflows_closes_with_the_first_events_buffered(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2, overflow=Overflow.CLOSE)
        send_burst(bus, "/1", "/2", "/3", "/4", "/5")
        await wait_all_tasks_blocked()
        assert_balanced(subscription)
        statistics = subscription.statistics()
        assert statistics.queued == 2
        assert statistics.dropped >= 1
        assert bus.statistics().open_subscriptions == 0
        assert drain_until_overflow(subscription) == ["/1", "/2"]


def drain_until_overflow(subscription: Subscription) -> list[str]:
    found = []
    with pytest.raises(SubscriptionOverflowError):
        while True:
            found.append(subscription.channel().receive_nowait().path)
    return found


@pytest.mark.parametrize(
    ("overflow", "left", "dropped"),
    [
        (Overflow.BLOCK, ["/2", "/3", "/4", "/5"], 0),
        (Overflow.DROP_OLDEST, ["/4", "/5"], 2),
        (Overflow.DROP_INCOMING, ["/2", "/3"], 2),
        (Overflow.LATEST, ["/4", "/5"], 2),
    ],
)
async def test_a_waiting_reader_gets_the_first_event_of_a_burst_that_overflows(
    overflow: Overflow, left: list[str], dropped: int, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2, overflow=overflow)
        async with trio.open_nursery() as nursery:
            got = []

            @nursery.start_soon
            async def _() -> None:
                got.append((await subscription.channel().receive()).path)

            await wait_all_tasks_blocked()
            send_burst(bus, "/1", "/2", "/3", "/4", "/5")
        await wait_all_tasks_blocked()
        assert got == ["/1"]
        assert subscription.statistics().dropped == dropped
        assert_balanced(subscription)
        subscription.close()
        assert paths([event async for event in subscription]) == left


async def test_as_many_events_as_readers_wait_for_and_the_buffer_takes_are_not_lost(
    autojump_clock: MockClock,
) -> None:
    for overflow in Overflow:
        async with open_event_bus() as bus:
            subscription = await bus.subscribe("a", max_buffer_size=2, overflow=overflow)
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(subscription.channel().receive)
                await wait_all_tasks_blocked()
                send_burst(bus, "/1", "/2", "/3", "/4", "/5")
            assert_books(subscription, delivered=3, queued=2)
            assert drain(subscription.channel()) == ["/4", "/5"]


@pytest.mark.parametrize("overflow", LOSSY)
async def test_a_sender_never_waits_for_a_subscription_that_may_lose(
    overflow: Overflow, autojump_clock: MockClock
) -> None:
    async with open_event_bus(inbox_size=4) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1, overflow=overflow)
        for number in range(50):
            bus.send_nowait("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
        with trio.fail_after(0.5):
            for number in range(50):
                await bus.send("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        assert bus.statistics().accepted == 100
        assert subscription.channel().statistics().peak_buffer_used == 1
        assert_balanced(subscription)


async def test_subscriptions_of_different_policy_do_not_disturb_each_other(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscriptions = {
            overflow: await bus.subscribe("a", max_buffer_size=2, overflow=overflow)
            for overflow in Overflow
        }
        roomy = await bus.subscribe("a", max_buffer_size=100)
        await send(bus, "/1", "/2")
        with pytest.raises(trio.WouldBlock):
            bus.send_nowait("a", "k", "/refused")
        for subscription in subscriptions.values():
            assert_books(subscription, queued=2)
        assert subscriptions[Overflow.BLOCK].channel().receive_nowait().path == "/1"
        await send(bus, "/3")
        assert_books(subscriptions[Overflow.BLOCK], delivered=1, queued=2)
        for overflow in LOSSY:
            assert_books(subscriptions[overflow], queued=2, dropped=1)
        subscriptions[Overflow.BLOCK].channel().close()
        await send(bus, "/4")
        assert_books(subscriptions[Overflow.BLOCK], delivered=1, discarded=2)
        assert_books(subscriptions[Overflow.DROP_OLDEST], queued=2, dropped=2)
        assert_books(subscriptions[Overflow.DROP_INCOMING], queued=2, dropped=2)
        assert_books(subscriptions[Overflow.LATEST], queued=2, dropped=2)
        assert_books(subscriptions[Overflow.CLOSE], queued=2, dropped=1)
        assert drain(subscriptions[Overflow.DROP_OLDEST].channel()) == ["/3", "/4"]
        assert drain(subscriptions[Overflow.DROP_INCOMING].channel()) == ["/1", "/2"]
        assert drain(subscriptions[Overflow.LATEST].channel()) == ["/3", "/4"]
        assert drain_until_overflow(subscriptions[Overflow.CLOSE]) == ["/1", "/2"]
        assert drain(roomy.channel()) == ["/1", "/2", "/3", "/4"]


# ---------------------------------------------------------------------------------------------
# Any sequence of steps, against a model
# ---------------------------------------------------------------------------------------------


@attrs.define
class Model:
    """What DESIGN, section 5, says about one subscription, event by event."""

    size: int
    overflow: Overflow
    buffer: list[str] = attrs.field(factory=list)
    delivered: int = 0
    dropped: int = 0
    discarded: int = 0
    superseded: int = 0
    closed: bool = False
    overflowed: bool = False
    unwanted: bool = False

    def send(self, path: str) -> bool:
        """Whether the event was accepted."""
        if self.closed:
            return True
        if len(self.buffer) < self.size:
            self.buffer.append(path)
        elif self.overflow is Overflow.BLOCK:
            return False
        elif self.overflow is Overflow.LATEST:
            buffer = [*self.buffer, path]
            newest = [p for place, p in enumerate(buffer) if p not in buffer[place + 1 :]]
            self.buffer = newest[-self.size :]
            self.superseded += len(buffer) - len(newest)
            self.dropped += len(newest) - len(self.buffer)
        else:
            self.dropped += 1
            if self.overflow is Overflow.DROP_OLDEST:
                self.buffer = [*self.buffer[1:], path]
            elif self.overflow is Overflow.CLOSE:
                self.closed = self.overflowed = True
        return True

    def receive(self) -> str | type[Exception]:
        """The path of the event that is read, or what is raised."""
        if self.unwanted:
            return trio.ClosedResourceError
        if self.buffer:
            self.delivered += 1
            return self.buffer.pop(0)
        if self.overflowed:
            return SubscriptionOverflowError
        return trio.EndOfChannel if self.closed else trio.WouldBlock

    def close(self) -> None:
        """The subscription is closed."""
        self.closed = True

    def close_channel(self) -> None:
        """The reader wants no more."""
        if not self.unwanted:
            self.closed = self.unwanted = True
            self.discarded += len(self.buffer)
            self.buffer = []


SENDS = ["/1", "/2", "/3", "another path"]
STEPS = [*SENDS, "receive", "receive", "batch", "close", "close channel"]


@settings(max_examples=100, deadline=None)
@given(
    overflow=st.sampled_from(Overflow),
    size=st.integers(1, 3),
    steps=st.lists(st.sampled_from(STEPS), max_size=25),
)
@example(overflow=Overflow.BLOCK, size=1, steps=["/1", "close", "/2", "receive", "receive"])
@example(overflow=Overflow.CLOSE, size=1, steps=["/1", "/1", "close channel", "receive"])
@example(overflow=Overflow.LATEST, size=2, steps=["/1", "/2", "/1", "receive", "/1", "/2", "close"])
def test_any_sequence_of_steps_does_what_the_model_does(
    overflow: Overflow, size: int, steps: list[str]
) -> None:
    async def program() -> None:
        model = Model(size, overflow)
        async with open_event_bus() as bus:
            subscription = await bus.subscribe("a", max_buffer_size=size, overflow=overflow)
            channel = subscription.channel()
            for number, step in enumerate(steps):
                if step in SENDS:
                    path = step if step.startswith("/") else f"/another/{number}"
                    try:
                        bus.send_nowait("a", "k", path)
                    except trio.WouldBlock:
                        assert not model.send(path)
                    else:
                        assert model.send(path)
                elif step == "receive":
                    result: str | type[Exception]
                    try:
                        result = channel.receive_nowait().path
                    except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError) as error:
                        result = type(error)
                    except EventBusError as error:
                        result = type(error)
                    assert result == model.receive()
                elif step == "batch":
                    if not model.unwanted and model.buffer:
                        batch = await anext(channel.batches(max_size=2))
                        expected = [model.receive() for _ in range(min(2, len(model.buffer)))]
                        assert paths(batch) == expected
                elif step == "close":
                    subscription.close()
                    model.close()
                else:
                    channel.close()
                    model.close_channel()
                await wait_all_tasks_blocked()
                assert_books(
                    subscription,
                    delivered=model.delivered,
                    queued=len(model.buffer),
                    dropped=model.dropped,
                    discarded=model.discarded,
                    superseded=model.superseded,
                )
                assert channel.statistics().current_buffer_used == len(model.buffer)
                assert bus.statistics().open_subscriptions == (not model.closed)

    run_with_time_limit(program)


@settings(max_examples=60, deadline=None)
@given(
    overflow=st.sampled_from(Overflow),
    size=st.integers(1, 3),
    bursts=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), max_size=8),
)
def test_bursts_between_reads_are_balanced_and_read_in_order(
    overflow: Overflow, size: int, bursts: list[tuple[int, int]]
) -> None:
    async def program() -> None:
        async with open_event_bus() as bus:
            subscription = await bus.subscribe("a", max_buffer_size=size, overflow=overflow)
            channel = subscription.channel()
            model = Model(size, overflow)
            sent: list[str] = []
            received: list[str] = []
            for count, reads in bursts:
                for _ in range(count):
                    try:
                        bus.send_nowait("a", "k", f"/{len(sent)}")
                    except trio.WouldBlock:
                        assert overflow is Overflow.BLOCK
                        assert subscription.statistics().queued >= size
                    else:
                        model.send(f"/{len(sent)}")
                        sent.append(f"/{len(sent)}")
                    assert_balanced(subscription)
                await wait_all_tasks_blocked()
                assert_balanced(subscription)
                for _ in range(reads):
                    try:
                        received.append(channel.receive_nowait().path)
                    except (trio.WouldBlock, SubscriptionOverflowError):
                        break
                    if overflow is not Overflow.BLOCK:  # whose model does not hold events
                        assert received[-1] == model.receive()
                    assert_balanced(subscription)
            subscription.close()
            try:
                async for event in channel:
                    received.append(event.path)
            except SubscriptionOverflowError:
                assert overflow is Overflow.CLOSE
            books = subscription.statistics()
            assert books.queued == books.discarded == books.held == 0
            assert books.delivered == len(received)
            numbers = [int(path[1:]) for path in received]
            assert numbers == sorted(set(numbers))
            if overflow is Overflow.BLOCK:
                assert received == sent
                assert books.dropped == 0
            elif overflow is Overflow.CLOSE:
                assert received == sent[: len(received)]
                assert (books.dropped > 0) == model.overflowed
            else:
                assert books.matched == len(sent)
                assert books.dropped == model.dropped

    run_with_time_limit(program)


async def test_events_behind_the_overflow_are_dropped_and_counted(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.CLOSE)
        other = await bus.subscribe("b")
        await wait_all_tasks_blocked()
        bus.send_nowait("a", "k", "/0")
        bus.send_nowait("a", "k", "/1")
        other.close()  # makes the router hand over what it has before the rest
        bus.send_nowait("a", "k", "/2")
        await wait_all_tasks_blocked()
        statistics = subscription.statistics()
        assert (statistics.matched, statistics.queued, statistics.dropped) == (3, 1, 2)
