"""Statistics never look idle while an event is under way, after any step of any task."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import Event, EventBus, Overflow, Subscription, open_event_bus

from .. import schedules
from ..observing import assert_balanced, drain
from ..schedules import Orders, Schedule


@pytest.fixture(autouse=True)
def explorable(caplog: pytest.LogCaptureFixture) -> None:
    if reason := schedules.reason_not_to_explore():
        pytest.skip(f"NO SCHEDULE WAS EXPLORED: {reason}; adapt tests/schedules.py")
    caplog.set_level(logging.CRITICAL, "trio_events")


@attrs.define(eq=False)
class Eye(trio.abc.Instrument):
    """Compares the statistics with what the tasks have got, after each of their steps."""

    bus: EventBus
    subscription: Subscription
    got: list[str] = attrs.field(factory=list)
    finished: list[str] = attrs.field(factory=list)
    complaints: list[AssertionError] = attrs.field(factory=list)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        try:
            self.check()
        except AssertionError as error:
            self.complaints.append(error)

    def check(self) -> None:
        bus, books = self.bus.statistics(), self.subscription.statistics()
        assert_balanced(self.subscription)
        assert bus.accepted == bus.current_inbox_used + books.matched
        if self.subscription.handler is None:
            assert books.delivered == len(self.got)
        else:
            under_way = bus.current_inbox_used + books.queued + books.handling
            assert under_way == bus.accepted - len(self.finished) - books.dropped - books.discarded


Read = Callable[[Eye], Awaitable[None]]


async def by_receive(eye: Eye) -> None:
    while True:
        eye.got.append((await eye.subscription.channel().receive()).path)


async def by_iteration(eye: Eye) -> None:
    async for event in eye.subscription:
        eye.got.append(event.path)


async def by_batches(eye: Eye) -> None:
    async for events in eye.subscription.batches():
        eye.got += [event.path for event in events]


async def by_small_batches(eye: Eye) -> None:
    async for events in eye.subscription.batches(max_size=2):
        eye.got += [event.path for event in events]


@pytest.mark.parametrize(
    "read", [by_receive, by_iteration, by_batches, by_small_batches], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize("overflow", [Overflow.BLOCK, Overflow.DROP_OLDEST])
def test_an_event_on_its_way_to_a_reader_counts_as_queued(
    read: Read, readers: int, overflow: Overflow
) -> None:
    async def program(schedule: Schedule) -> None:
        async with open_event_bus(checkpoint_every=2) as bus:
            subscription = await bus.subscribe("a", max_buffer_size=2, overflow=overflow)
            eye = Eye(bus, subscription)

            async def read_to_the_end() -> None:
                try:
                    await read(eye)
                except trio.EndOfChannel:
                    pass

            async def send() -> None:
                for number in range(2):
                    await bus.send("a", "k", f"/{number}")

            async with trio.open_nursery() as nursery:
                trio.lowlevel.add_instrument(eye)
                async with schedule.explored():
                    for _ in range(readers):
                        nursery.start_soon(read_to_the_end)
                    for _ in range(2):
                        nursery.start_soon(send)
                subscription.close()
            trio.lowlevel.remove_instrument(eye)
            if eye.complaints:
                raise eye.complaints[0]

    schedules.explore(program, orders=Orders.BOTH_WAYS, detours=2)


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("turns", [0, 2])
def test_an_event_on_its_way_to_a_handler_counts_as_handling(concurrency: int, turns: int) -> None:
    async def program(schedule: Schedule) -> None:
        async with open_event_bus(checkpoint_every=2) as bus:

            async def handle(event: Event) -> None:
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                eye.finished.append(event.path)

            subscription = await bus.on(handle, "a", max_buffer_size=2, concurrency=concurrency)
            eye = Eye(bus, subscription)

            async def send() -> None:
                for number in range(2):
                    await bus.send("a", "k", f"/{number}")

            await wait_all_tasks_blocked()
            trio.lowlevel.add_instrument(eye)
            async with schedule.explored(), trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(send)
            trio.lowlevel.remove_instrument(eye)
            assert len(eye.finished) == 4
            if eye.complaints:
                raise eye.complaints[0]

    schedules.explore(program, orders=Orders.BOTH_WAYS, detours=2)


async def test_a_reader_that_was_cancelled_after_it_was_given_an_event_leaves_the_books_right(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        got: list[str] = []
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                got.append((await subscription.channel().receive()).path)
                await trio.sleep_forever()

            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            await bus.send("a", "k", "/x")
            bus._router.route_inbox()
            assert subscription.statistics().queued == 1
            nursery.cancel_scope.cancel()
        assert len(got) + subscription.statistics().queued == 1
        assert_balanced(subscription)


# ------------------------------------------------------------------------------ the channel's own


@pytest.mark.parametrize("end", ["nothing", "subscription", "bus"])
@pytest.mark.parametrize("size", [1, 2, 5])
async def test_a_channel_never_shows_more_than_fits_whatever_is_held(
    size: int, end: str, autojump_clock: MockClock
) -> None:
    async with open_event_bus(inbox_size=20) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=size)
        for number in range(20):
            bus.send_nowait("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        if end == "subscription":
            subscription.close()
        elif end == "bus":
            bus.close()
        await wait_all_tasks_blocked()
        read = []
        for left in itertools.count(20, -1):
            shown = subscription.channel().statistics()
            assert shown.current_buffer_used <= shown.peak_buffer_used <= shown.max_buffer_size
            assert shown.max_buffer_size == size
            books = subscription.statistics()
            assert books.queued == left
            assert books.held == left - shown.current_buffer_used
            if not left:
                break
            read.append(subscription.receive_nowait().path)
            if left % 3 == 0:
                await wait_all_tasks_blocked()
        assert read == [f"/{number}" for number in range(20)]
        assert drain(subscription.channel()) == []


@pytest.mark.parametrize("overflow", Overflow)
async def test_the_peak_is_never_more_than_fits(
    overflow: Overflow, autojump_clock: MockClock
) -> None:
    async with open_event_bus(inbox_size=50) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=3, overflow=overflow)
        for number in range(30):
            try:
                bus.send_nowait("a", "k", f"/{number}")
            except trio.WouldBlock:
                pass
            if number % 7 == 0:
                await wait_all_tasks_blocked()
        subscription.close()
        await wait_all_tasks_blocked()
        assert subscription.channel().statistics().peak_buffer_used <= 3
        subscription.receive_nowait()
        assert subscription.channel().statistics().peak_buffer_used <= 3
