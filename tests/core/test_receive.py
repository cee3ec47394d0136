"""Reading a channel: one event, all at once, by iteration, in lists, by several tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import (
    MockClock,
    Sequencer,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from trio_events import Event, EventBus, EventChannel, Subscription, open_event_bus

from ..observing import assert_balanced, assert_books, counted_turns, drain, paths
from ..time_limit import run_with_time_limit


async def send_burst(bus: EventBus, count: int, *, start: int = 0) -> None:
    """Send events that the router takes in one go, and let it."""
    for number in range(start, start + count):
        bus.send_nowait("a", "k", f"/{number}")
    await wait_all_tasks_blocked()


def numbered(start: int, stop: int) -> list[str]:
    """The paths of a burst."""
    return [f"/{number}" for number in range(start, stop)]


# ---------------------------------------------------------------------------------------------
# receive and receive_nowait
# ---------------------------------------------------------------------------------------------


async def test_receive_takes_the_oldest_event(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        await send_burst(bus, 3)
        channel = subscription.channel()
        assert [(await channel.receive()).path for _ in range(3)] == numbered(0, 3)
        assert_books(subscription, delivered=3)


async def test_receive_waits_for_an_event(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a")
        received: list[str] = []

        @nursery.start_soon
        async def _() -> None:
            received.append((await subscription.channel().receive()).path)

        await wait_all_tasks_blocked()
        assert subscription.channel().statistics().tasks_waiting_receive == 1
        assert received == []
        await send_burst(bus, 1)
        assert received == ["/0"]
        assert subscription.channel().statistics().tasks_waiting_receive == 0


async def test_receive_nowait_raises_would_block_instead_of_waiting(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        channel = (await bus.subscribe("a")).channel()
        for _ in range(2):  # and it's persistent
            with pytest.raises(trio.WouldBlock):
                channel.receive_nowait()
        await send_burst(bus, 2)
        with assert_no_checkpoints():
            assert channel.receive_nowait().path == "/0"
            assert channel.receive_nowait().path == "/1"
            with pytest.raises(trio.WouldBlock):
                channel.receive_nowait()


async def test_the_statistics_of_a_channel_follow_what_it_does(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        channel = (await bus.subscribe("a", max_buffer_size=5)).channel()

        def seen() -> tuple[int, int, int, int]:
            now = channel.statistics()
            return (
                now.current_buffer_used,
                now.max_buffer_size,
                now.peak_buffer_used,
                now.tasks_waiting_receive,
            )

        assert seen() == (0, 5, 0, 0)
        await send_burst(bus, 3)
        assert seen() == (3, 5, 3, 0)
        channel.receive_nowait()
        channel.receive_nowait()
        assert seen() == (1, 5, 3, 0)
        await send_burst(bus, 1)
        assert seen() == (2, 5, 3, 0)
        await send_burst(bus, 2)
        assert seen() == (4, 5, 4, 0)
        drain(channel)
        assert seen() == (0, 5, 4, 0)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(channel.receive)
            await wait_all_tasks_blocked()
            assert seen() == (0, 5, 4, 2)
            await send_burst(bus, 1)
            assert seen() == (0, 5, 4, 1)
            nursery.cancel_scope.cancel()
        assert seen() == (0, 5, 4, 0)


async def test_the_buffer_in_the_statistics_of_a_channel_leaves_out_what_is_held(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2)
        await send_burst(bus, 5)
        assert_books(subscription, queued=5, held=3)
        statistics = subscription.channel().statistics()
        assert (statistics.current_buffer_used, statistics.peak_buffer_used) == (2, 2)


# ---------------------------------------------------------------------------------------------
# Iteration
# ---------------------------------------------------------------------------------------------


async def test_iteration_yields_every_event_and_ends_with_the_subscription(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a")
        received: list[str] = []

        @nursery.start_soon
        async def _() -> None:
            async for event in subscription.channel():
                received.append(event.path)
            received.append("end")

        await send_burst(bus, 3)
        assert received == numbered(0, 3)
        await send_burst(bus, 2, start=3)
        subscription.close()
        await wait_all_tasks_blocked()
        assert received == [*numbered(0, 5), "end"]


async def test_an_iterator_that_is_left_takes_nothing_along(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        await send_burst(bus, 4)
        async for event in subscription.channel():
            assert event.path == "/0"
            break
        assert_books(subscription, delivered=1, queued=3)
        assert drain(subscription.channel()) == numbered(1, 4)


async def test_an_iterator_that_has_ended_stays_ended(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        subscription.close()
        for iterator in (aiter(subscription), aiter(subscription.channel().batches())):
            for _ in range(2):
                with pytest.raises(StopAsyncIteration):
                    await anext(iterator)


# ---------------------------------------------------------------------------------------------
# Batches
# ---------------------------------------------------------------------------------------------


async def test_a_batch_is_all_that_waits(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        batches = subscription.channel().batches()
        await send_burst(bus, 3)
        await send_burst(bus, 2, start=3)
        assert paths(await anext(batches)) == numbered(0, 5)
        assert_books(subscription, delivered=5)


async def test_a_batch_is_a_list_of_its_own(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        one, two = await bus.subscribe("a"), await bus.subscribe("a")
        await send_burst(bus, 3)
        batch = await anext(one.channel().batches())
        assert type(batch) is list
        batch.clear()
        assert paths(await anext(two.channel().batches())) == numbered(0, 3)
        assert_books(one, delivered=3)


async def test_a_batch_has_at_most_max_size_events(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        await send_burst(bus, 7)
        batches = subscription.channel().batches(max_size=3)
        assert paths(await anext(batches)) == numbered(0, 3)
        assert paths(await anext(batches)) == numbered(3, 6)
        assert paths(await anext(batches)) == numbered(6, 7)
        with trio.move_on_after(1) as scope:
            await anext(batches)
        assert scope.cancelled_caught


async def test_a_batch_reader_that_waits_gets_a_burst_and_no_empty_list(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a")
        received: list[list[str]] = []

        @nursery.start_soon
        async def _() -> None:
            async for batch in subscription.channel().batches():
                received.append(paths(batch))

        await wait_all_tasks_blocked()
        assert subscription.channel().statistics().tasks_waiting_receive == 1
        await send_burst(bus, 4)
        assert [path for batch in received for path in batch] == numbered(0, 4)
        subscription.close()
        await wait_all_tasks_blocked()
        assert [] not in received


async def test_batches_can_be_mixed_with_receive(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        channel = (await bus.subscribe("a")).channel()
        await send_burst(bus, 6)
        batches = channel.batches(max_size=2)
        assert channel.receive_nowait().path == "/0"
        assert paths(await anext(batches)) == numbered(1, 3)
        assert (await channel.receive()).path == "/3"
        assert paths(await anext(batches)) == numbered(4, 6)


async def test_a_loop_and_batches_may_read_one_channel_in_turn(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        for number in range(8):
            bus.send_nowait("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        loop, batches = aiter(subscription), subscription.channel().batches(max_size=2)
        read = [(await anext(loop)).path]
        for _ in range(2):
            read += paths(await anext(batches))
            read.append((await anext(loop)).path)
        assert read == [f"/{number}" for number in range(7)]


async def test_a_batch_that_is_waited_for_after_the_close_is_the_end(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        await wait_all_tasks_blocked()
        subscription.close()  # the router does not know yet
        assert [batch async for batch in subscription.channel().batches()] == []


async def test_batches_is_a_plain_iterator_that_may_be_dropped_unfinished(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        channel = (await bus.subscribe("a")).channel()
        await send_burst(bus, 2)
        batches = channel.batches(max_size=1)
        assert aiter(batches) is batches
        assert not hasattr(batches, "asend")
        async for batch in batches:
            assert paths(batch) == ["/0"]
            break
        async for batch in batches:
            assert paths(batch) == ["/1"]
            break


@pytest.mark.parametrize("size", [0, -1])
async def test_a_batch_size_below_one_is_refused(size: int, autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        channel = (await bus.subscribe("a")).channel()
        with pytest.raises(ValueError, match=str(size)):
            channel.batches(max_size=size)


@pytest.mark.parametrize("size", [1.5, "3"])
async def test_a_batch_size_that_is_not_an_int_is_refused(
    size: object, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        channel = (await bus.subscribe("a")).channel()
        with pytest.raises(TypeError, match="max_size"):
            channel.batches(max_size=size)  # type: ignore[arg-type]  # the point


async def test_a_batch_is_one_checkpoint_however_long_it_is(autojump_clock: MockClock) -> None:
    async with open_event_bus(checkpoint_every=1000) as bus:
        channel = (await bus.subscribe("a")).channel()
        await send_burst(bus, 20)
        batches = channel.batches(max_size=4)
        for _ in range(5):
            with assert_checkpoints(), counted_turns() as turns:
                await anext(batches)
            assert turns.count == 1


@settings(max_examples=60, deadline=None)
@given(
    bursts=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    max_buffer_size=st.integers(1, 5),
    max_size=st.none() | st.integers(1, 4),
)
def test_batches_lose_nothing_and_keep_the_order(
    bursts: list[int], max_buffer_size: int, max_size: int | None
) -> None:
    async def program() -> None:
        received: list[list[str]] = []

        async def read(channel: EventChannel) -> None:
            async for batch in channel.batches(max_size=max_size):
                received.append(paths(batch))

        async with trio.open_nursery() as nursery, open_event_bus() as bus:
            subscription = await bus.subscribe("a", max_buffer_size=max_buffer_size)
            nursery.start_soon(read, subscription.channel())
            sent = 0
            for burst in bursts:
                await send_burst(bus, burst, start=sent)
                sent += burst
                assert_books(subscription, delivered=sent)
        assert [path for batch in received for path in batch] == numbered(0, sent)
        assert all(1 <= len(batch) <= (max_size or sent) for batch in received)

    run_with_time_limit(program)


# ---------------------------------------------------------------------------------------------
# Several readers
# ---------------------------------------------------------------------------------------------


async def read_one(channel: EventChannel) -> Event:
    return await channel.receive()


async def read_next(channel: EventChannel) -> Event:
    return await anext(aiter(channel))


async def read_batch(channel: EventChannel) -> Event:
    [event] = await anext(channel.batches(max_size=1))
    return event


READERS = [read_one, read_next, read_batch]
Reader = Callable[[EventChannel], Awaitable[Event]]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("in_one_burst", [True, False], ids=["burst", "one by one"])
async def test_waiting_readers_are_served_in_the_order_of_their_arrival(
    read: Reader, in_one_burst: bool, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        channel = (await bus.subscribe("a")).channel()
        got: dict[int, str] = {}

        async def reader(number: int) -> None:
            got[number] = (await read(channel)).path

        for number in range(5):
            nursery.start_soon(reader, number)
            await wait_all_tasks_blocked()
        assert channel.statistics().tasks_waiting_receive == 5
        if in_one_burst:
            await send_burst(bus, 5)
        else:
            for number in range(5):
                await send_burst(bus, 1, start=number)
                assert len(got) == number + 1
        assert got == {number: f"/{number}" for number in range(5)}


async def test_a_reader_of_any_kind_waits_in_the_same_queue(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        channel = (await bus.subscribe("a")).channel()
        got: list[tuple[str, str]] = []

        async def reader(read: Reader) -> None:
            got.append((read.__name__, (await read(channel)).path))

        for read in (read_batch, read_one, read_next):
            nursery.start_soon(reader, read)
            await wait_all_tasks_blocked()
        await send_burst(bus, 3)
        assert sorted(got) == [("read_batch", "/0"), ("read_next", "/2"), ("read_one", "/1")]


async def test_a_reader_that_has_read_goes_to_the_end_of_the_queue(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        channel = (await bus.subscribe("a")).channel()
        got: list[tuple[str, str]] = []

        async def reader(name: str) -> None:
            async for event in channel:
                got.append((name, event.path))

        for name in "xyz":
            nursery.start_soon(reader, name)
            await wait_all_tasks_blocked()
        for number in range(6):
            await send_burst(bus, 1, start=number)
        assert got == [("x", "/0"), ("y", "/1"), ("z", "/2"), ("x", "/3"), ("y", "/4"), ("z", "/5")]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("read", READERS)
async def test_no_event_waits_behind_a_busy_reader_while_another_is_idle(
    read: Reader, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        channel = (await bus.subscribe("a")).channel()
        idle_got: list[str] = []

        async def busy() -> None:
            await read(channel)
            await trio.sleep_forever()

        async def idle() -> None:
            while True:
                idle_got.append((await read(channel)).path)

        nursery.start_soon(busy)
        await wait_all_tasks_blocked()
        nursery.start_soon(idle)
        await wait_all_tasks_blocked()
        await send_burst(bus, 8)
        assert idle_got == numbered(1, 8)
        assert channel.statistics().current_buffer_used == 0
        nursery.cancel_scope.cancel()


async def test_what_a_busy_reader_leaves_is_there_for_one_that_comes_later(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        await send_burst(bus, 5)
        sequencer = Sequencer()

        async def first() -> None:
            async with sequencer(0):
                assert (await subscription.channel().receive()).path == "/0"
            async with sequencer(2):
                assert (await subscription.channel().receive()).path == "/2"

        async def second() -> None:
            async with sequencer(1):
                assert (await subscription.channel().receive()).path == "/1"
            async with sequencer(3):
                assert (await subscription.channel().receive()).path == "/3"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            nursery.start_soon(second)
        assert_books(subscription, delivered=4, queued=1)


async def test_an_event_that_was_handed_to_a_waiting_reader_cannot_be_taken_by_another(
    autojump_clock: MockClock,
) -> None:
    for _ in range(20):  # trio shuffles who runs first
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            subscription = await bus.subscribe("a")
            channel = subscription.channel()
            got: list[str] = []

            @nursery.start_soon
            async def _(channel: EventChannel = channel, got: list[str] = got) -> None:
                got.append((await channel.receive()).path)

            await wait_all_tasks_blocked()
            bus.send_nowait("a", "k", "/0")
            stolen: list[str] = []
            while not got:
                stolen += drain(channel)
                assert_balanced(subscription)
                await trio.lowlevel.checkpoint()
            assert (got, stolen) == (["/0"], [])
            assert_books(subscription, delivered=1)


@settings(max_examples=60, deadline=None)
@given(
    bursts=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    readers=st.lists(st.sampled_from(["receive", "for", "batches"]), min_size=1, max_size=4),
    max_buffer_size=st.integers(1, 4),
)
def test_competing_readers_get_every_event_exactly_once_and_each_in_order(
    bursts: list[int], readers: list[str], max_buffer_size: int
) -> None:
    async def program() -> None:
        received: list[list[str]] = [[] for _ in readers]

        async def read(how: str, subscription: Subscription, into: list[str]) -> None:
            channel = subscription.channel()
            if how == "receive":
                try:
                    while True:
                        into.append((await channel.receive()).path)
                except trio.EndOfChannel:
                    pass
            elif how == "for":
                async for event in channel:
                    into.append(event.path)
            else:
                async for batch in channel.batches(max_size=2):
                    into += paths(batch)

        async with trio.open_nursery() as nursery, open_event_bus() as bus:
            subscription = await bus.subscribe("a", max_buffer_size=max_buffer_size)
            for how, into in zip(readers, received, strict=True):
                nursery.start_soon(read, how, subscription, into)
            sent = 0
            for burst in bursts:
                await send_burst(bus, burst, start=sent)
                sent += burst
                assert_books(subscription, delivered=sent)
        numbers = [[int(path[1:]) for path in into] for into in received]
        assert sorted(number for into in numbers for number in into) == list(range(sent))
        assert all(into == sorted(into) for into in numbers)

    run_with_time_limit(program)


async def test_receive_nowait_works_in_a_callback(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        received: list[Event] = []
        trio.lowlevel.current_trio_token().run_sync_soon(
            lambda: received.append(subscription.channel().receive_nowait())
        )
        await wait_all_tasks_blocked()
        assert [event.path for event in received] == ["/x"]


async def test_an_iterator_is_its_own_iterator(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        await bus.send("a", "k", "/x")
        iterator = aiter(subscription)
        async for event in iterator:
            assert event.path == "/x"
            break
        assert aiter(iterator) is iterator


def test_what_was_not_read_can_be_read_after_the_run() -> None:
    async def main() -> Subscription:
        async with open_event_bus() as bus:
            subscription = await bus.subscribe("a")
            await bus.send("a", "k", "/x")
            return subscription

    channel = trio.run(main).channel()
    assert channel.receive_nowait().path == "/x"
    with pytest.raises(trio.EndOfChannel):
        channel.receive_nowait()
