"""Every way of ending, while senders wait, while events are held, while readers wait, and twice."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import final

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    BusClosedError,
    EventBus,
    EventChannel,
    Overflow,
    Subscription,
    open_event_bus,
    send,
)

from ..observing import assert_balanced, assert_books, drain, paths, tasks_living


class Leaving(Exception):
    """How the block of a bus is left by an exception."""


@final
@attrs.define
class Stage:
    """One bus with one subscription, a nursery around it, and what tasks in there saw."""

    outside: trio.Nursery
    around: trio.CancelScope
    bus: EventBus
    subscription: Subscription
    seen: dict[str, object] = attrs.field(factory=dict)
    order: list[str] = attrs.field(factory=list)

    @property
    def channel(self) -> EventChannel:
        return self.subscription.channel()

    def start_sender(self, path: str) -> None:
        """Start a task outside the bus that sends one event and notes how that ended."""
        self.outside.start_soon(self._note, path, self.bus.send, "a", "k", path)

    def start_reader(self, name: str, how: str) -> None:
        """Start a task outside the bus that reads to the end and notes how that ended."""
        self.outside.start_soon(self._note, name, getattr(self, f"_{how}"))

    async def _note(
        self, name: str, act: Callable[..., Awaitable[object]], *arguments: object
    ) -> None:
        try:
            self.seen[name] = await act(*arguments)
        except Exception as error:
            self.seen[name] = type(error)
        self.order.append(name)

    async def _receive(self) -> str:
        return (await self.channel.receive()).path

    async def _iterate(self) -> list[str]:
        return paths([event async for event in self.subscription])

    async def _batches(self) -> list[str]:
        return [path async for batch in self.channel.batches() for path in paths(batch)]


Ending = Callable[[Stage], Awaitable[None]]


async def close_subscription(stage: Stage) -> None:
    stage.subscription.close()


async def close_channel(stage: Stage) -> None:
    stage.channel.close()


async def aclose_channel(stage: Stage) -> None:
    await stage.channel.aclose()


async def close_bus(stage: Stage) -> None:
    stage.bus.close()


async def leave_normally(stage: Stage) -> None:
    pass


async def leave_by_exception(stage: Stage) -> None:
    raise Leaving


async def leave_by_cancellation(stage: Stage) -> None:
    stage.around.cancel()
    await trio.sleep_forever()


CLOSING = [close_subscription, close_channel, aclose_channel, close_bus]
LEAVING = [leave_normally, leave_by_exception, leave_by_cancellation]
BY_READER = [close_channel, aclose_channel]
OF_BUS = [close_bus, *LEAVING]
KEEPING = [close_subscription, close_bus, leave_normally]
"""Endings after which what was accepted must be readable."""

every_ending = pytest.mark.parametrize("ending", [*CLOSING, *LEAVING])
twice = pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])


async def play(
    prepare: Callable[[Stage], Awaitable[None]],
    ending: Ending,
    check: Callable[[Stage], Awaitable[None]],
    *,
    times: int = 1,
    settle: bool = True,
    max_buffer_size: int = 2,
) -> None:
    """Prepare a stage, end it in one way, let everything settle, and look."""
    async with trio.open_nursery() as outside:
        around = trio.CancelScope()
        left = False
        try:
            with around:
                async with open_event_bus(inbox_size=8) as bus:
                    subscription = await bus.subscribe("a", max_buffer_size=max_buffer_size)
                    await wait_all_tasks_blocked()
                    stage = Stage(outside, around, bus, subscription)
                    await prepare(stage)
                    if settle:
                        await wait_all_tasks_blocked()
                    for _ in range(times):
                        await ending(stage)
                    if ending in CLOSING:
                        await wait_all_tasks_blocked()
                        await check(stage)
        except Leaving:
            left = True
        assert left == (ending is leave_by_exception)
        assert around.cancelled_caught == (ending is leave_by_cancellation)
        if ending in LEAVING:
            if times == 2:  # after the fact, everything else may still be closed
                stage.bus.close()
                stage.subscription.close()
            await wait_all_tasks_blocked()
            await check(stage)
        outside.cancel_scope.cancel()


async def assert_ended(stage: Stage, ending: Ending, readable: list[str]) -> None:
    """The channel has these events, then its end, which stays."""
    if ending in BY_READER:
        readable = []
        end: type[Exception] = trio.ClosedResourceError
    else:
        end = trio.EndOfChannel
    if ending in (leave_by_exception, leave_by_cancellation):
        drain(stage.channel)  # it cancels everything: what is left is not promised
    else:
        assert drain_or_closed(stage.channel) == readable
    for _ in range(2):  # and it's persistent
        with pytest.raises(end):
            await stage.channel.receive()
        with pytest.raises(end):
            stage.channel.receive_nowait()
        for iterator in (aiter(stage.channel), aiter(stage.channel.batches())):
            with pytest.raises(
                StopAsyncIteration if end is trio.EndOfChannel else trio.ClosedResourceError
            ):
                await anext(iterator)
    books = stage.subscription.statistics()
    assert (books.queued, books.held, books.tasks_waiting_send) == (0, 0, 0)
    assert_balanced(stage.subscription)


def drain_or_closed(channel: EventChannel) -> list[str]:
    try:
        return drain(channel)
    except trio.ClosedResourceError:
        return []


# ---------------------------------------------------------------------------------------------
# The matrix
# ---------------------------------------------------------------------------------------------


@every_ending
@twice
async def test_ending_when_nothing_goes_on(
    ending: Ending, times: int, autojump_clock: MockClock
) -> None:
    async def prepare(stage: Stage) -> None:
        pass

    async def check(stage: Stage) -> None:
        await assert_ended(stage, ending, [])
        assert_books(stage.subscription)
        assert stage.bus.statistics().open_subscriptions == 0

    await play(prepare, ending, check, times=times)


@every_ending
@twice
async def test_ending_while_events_are_buffered(
    ending: Ending, times: int, autojump_clock: MockClock
) -> None:
    async def prepare(stage: Stage) -> None:
        await send("a", "k", "/1")
        await send("a", "k", "/2")

    async def check(stage: Stage) -> None:
        await assert_ended(stage, ending, ["/1", "/2"])
        if ending in KEEPING:
            assert_books(stage.subscription, delivered=2)
        elif ending in BY_READER:
            assert_books(stage.subscription, discarded=2)

    await play(prepare, ending, check, times=times)


@every_ending
@twice
async def test_ending_while_events_are_held(
    ending: Ending, times: int, autojump_clock: MockClock
) -> None:
    async def prepare(stage: Stage) -> None:
        for number in range(5):
            stage.bus.send_nowait("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        assert_books(stage.subscription, queued=5, held=3)

    async def check(stage: Stage) -> None:
        await assert_ended(stage, ending, [f"/{number}" for number in range(5)])
        if ending in KEEPING:
            assert_books(stage.subscription, delivered=5)
        elif ending in BY_READER:
            assert_books(stage.subscription, discarded=5)

    await play(prepare, ending, check, times=times)


@every_ending
@twice
async def test_ending_while_accepted_events_are_not_routed_yet(
    ending: Ending, times: int, autojump_clock: MockClock
) -> None:
    async def prepare(stage: Stage) -> None:
        for number in range(5):
            stage.bus.send_nowait("a", "k", f"/{number}")
        assert stage.bus.statistics().current_inbox_used == 5

    async def check(stage: Stage) -> None:
        await assert_ended(stage, ending, [f"/{number}" for number in range(5)])
        assert stage.bus.statistics().accepted == 5
        if ending in KEEPING:
            assert_books(stage.subscription, delivered=5)
            assert stage.bus.statistics().current_inbox_used == 0

    await play(prepare, ending, check, times=times, settle=False)


@every_ending
@twice
async def test_ending_while_senders_wait(
    ending: Ending, times: int, autojump_clock: MockClock
) -> None:
    async def prepare(stage: Stage) -> None:
        for number in range(2):
            stage.bus.send_nowait("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        for number in range(3):
            stage.start_sender(f"/waiting {number}")
            await wait_all_tasks_blocked()
        assert stage.seen == {}
        assert stage.bus.statistics().tasks_waiting_send == 3

    async def check(stage: Stage) -> None:
        if ending in OF_BUS:
            assert stage.seen == {f"/waiting {number}": BusClosedError for number in range(3)}
            assert stage.bus.statistics().accepted == 2
        else:
            assert stage.seen == {f"/waiting {number}": None for number in range(3)}
            assert stage.bus.statistics().accepted == 5
            assert stage.bus.statistics().unmatched == 3
        assert stage.bus.statistics().tasks_waiting_send == 0
        await assert_ended(stage, ending, ["/0", "/1"])
        if ending in KEEPING:
            assert_books(stage.subscription, delivered=2)
        elif ending in BY_READER:
            assert_books(stage.subscription, discarded=2)

    await play(prepare, ending, check, times=times)


@every_ending
@pytest.mark.parametrize("how", ["receive", "iterate", "batches"])
@twice
async def test_ending_while_readers_wait(
    ending: Ending, how: str, times: int, autojump_clock: MockClock
) -> None:
    async def prepare(stage: Stage) -> None:
        for number in range(3):
            stage.start_reader(f"reader {number}", how)
        await wait_all_tasks_blocked()
        assert stage.seen == {}
        assert stage.channel.statistics().tasks_waiting_receive == 3

    async def check(stage: Stage) -> None:
        end: object
        if ending in BY_READER:
            end = trio.ClosedResourceError
        else:
            end = trio.EndOfChannel if how == "receive" else []
        assert stage.seen == {f"reader {number}": end for number in range(3)}
        assert stage.channel.statistics().tasks_waiting_receive == 0
        await assert_ended(stage, ending, [])

    await play(prepare, ending, check, times=times)


@every_ending
async def test_ending_while_readers_wait_and_their_events_are_not_routed_yet(
    ending: Ending, autojump_clock: MockClock
) -> None:
    async def prepare(stage: Stage) -> None:
        stage.start_reader("reader", "iterate")
        await wait_all_tasks_blocked()
        for number in range(4):
            stage.bus.send_nowait("a", "k", f"/{number}")

    async def check(stage: Stage) -> None:
        if ending in KEEPING:
            assert stage.seen == {"reader": [f"/{number}" for number in range(4)]}
            assert_books(stage.subscription, delivered=4)
        elif ending in BY_READER:
            assert stage.seen == {"reader": trio.ClosedResourceError}
        else:
            assert list(stage.seen) == ["reader"]
        await assert_ended(stage, ending, [])

    await play(prepare, ending, check, settle=False)


# ---------------------------------------------------------------------------------------------
# Closing a subscription
# ---------------------------------------------------------------------------------------------


async def test_close_releases_the_senders_in_order_and_others_get_their_events(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        stuck = await bus.subscribe("a", max_buffer_size=1)
        other = await bus.subscribe("**")
        await bus.send("a", "k", "/0")
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for number in range(1, 6):
                nursery.start_soon(bus.send, "a", "k", f"/{number}")
                await wait_all_tasks_blocked()
            stuck.close()
        await wait_all_tasks_blocked()
        assert drain(other.channel()) == [f"/{number}" for number in range(6)]
        assert drain(stuck.channel()) == ["/0"]


async def test_close_does_not_release_a_sender_that_another_subscription_holds_up(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        one = await bus.subscribe("a", max_buffer_size=1)
        two = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/0")
        await wait_all_tasks_blocked()
        nursery.start_soon(bus.send, "a", "k", "/1")
        await wait_all_tasks_blocked()
        one.close()
        await wait_all_tasks_blocked()
        assert bus.statistics().tasks_waiting_send == 1
        assert two.statistics().tasks_waiting_send == 1
        assert drain(one.channel()) == ["/0"]
        two.close()
        await wait_all_tasks_blocked()
        assert bus.statistics().tasks_waiting_send == 0


async def test_close_stops_matching_at_once_for_the_senders_too(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/0")
        await wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            bus.send_nowait("a", "k", "/1")
        subscription.close()
        bus.send_nowait("a", "k", "/2")
        assert paths([event async for event in subscription]) == ["/0"]


async def test_closing_one_subscription_leaves_the_others(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        one, two = await bus.subscribe("a"), await bus.subscribe("a")
        one.close()
        await bus.send("a", "k", "/1")
        assert (await two.channel().receive()).path == "/1"
        assert bus.statistics().open_subscriptions == 1


async def test_the_reader_may_close_after_the_subscription_was_closed(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        await bus.send("a", "k", "/1")
        await bus.send("a", "k", "/2")
        subscription.close()
        assert (await subscription.channel().receive()).path == "/1"
        subscription.channel().close()
        for _ in range(2):
            with pytest.raises(trio.ClosedResourceError):
                await subscription.channel().receive()
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=1, discarded=1)


async def test_the_subscription_may_be_closed_after_its_channel(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        subscription.channel().close()
        subscription.close()
        await wait_all_tasks_blocked()
        with pytest.raises(trio.ClosedResourceError):
            subscription.channel().receive_nowait()
        assert_books(subscription, discarded=1)


@pytest.mark.parametrize("overflow", Overflow)
async def test_events_that_were_accepted_before_the_reader_closed_stay_in_the_books(
    overflow: Overflow, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2, overflow=overflow)
        await wait_all_tasks_blocked()
        for number in range(2):
            bus.send_nowait("a", "k", f"/{number}")
        subscription.channel().close()
        bus.send_nowait("a", "k", "/after")
        await wait_all_tasks_blocked()
        assert_balanced(subscription)
        books = subscription.statistics()
        assert (books.delivered, books.queued, books.dropped) == (0, 0, 0)
        assert books.matched + bus.statistics().unmatched == 3


async def test_all_that_comes_after_the_reader_closed_is_counted(autojump_clock: MockClock) -> None:
    async with open_event_bus(inbox_size=8) as bus:
        subscription = await bus.subscribe("a")
        bus.send_nowait("a", "k", "/1")
        await wait_all_tasks_blocked()
        bus.send_nowait("a", "k", "/2")
        bus.send_nowait("b", "k", "/other")
        await bus.subscribe("c")  # what was sent before it is handed out before it
        bus.send_nowait("a", "k", "/3")
        subscription.channel().close()
        await wait_all_tasks_blocked()
        assert_books(subscription, discarded=3)


async def test_aclose_is_a_checkpoint_and_closes_even_when_cancelled(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        with trio.CancelScope() as scope:
            scope.cancel()
            await subscription.channel().aclose()
        assert scope.cancelled_caught
        with pytest.raises(trio.ClosedResourceError):
            subscription.channel().receive_nowait()
        assert bus.statistics().open_subscriptions == 0


async def test_a_channel_as_context_manager_closes_at_the_end(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        async with subscription.channel() as channel:
            await bus.send("a", "k", "/1")
            assert (await channel.receive()).path == "/1"
        with pytest.raises(trio.ClosedResourceError):
            channel.receive_nowait()
        assert bus.statistics().open_subscriptions == 0


@pytest.mark.parametrize("close_the_channel", [False, True], ids=["subscription", "channel"])
async def test_a_reader_may_close_while_it_iterates(
    close_the_channel: bool, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        for number in range(4):
            await bus.send("a", "k", f"/{number}")
        seen = []

        async def read() -> None:
            async for event in subscription:
                seen.append(event.path)
                if event.path == "/1":
                    (subscription.channel() if close_the_channel else subscription).close()

        if close_the_channel:
            with pytest.raises(trio.ClosedResourceError):
                await read()
            assert seen == ["/0", "/1"]
            assert subscription.statistics().delivered == 2
        else:
            await read()
            assert seen == [f"/{number}" for number in range(4)]


# ---------------------------------------------------------------------------------------------
# Closing a bus, and leaving its block
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", OF_BUS)
async def test_a_closed_bus_refuses_to_send_and_to_subscribe(
    ending: Ending, autojump_clock: MockClock
) -> None:
    async def prepare(stage: Stage) -> None:
        pass

    async def check(stage: Stage) -> None:
        for bus in (stage.bus, stage.bus.for_actor("billing")):
            for _ in range(2):  # and it's persistent
                with pytest.raises(BusClosedError, match="closed"):
                    await bus.send("a", "k", "/x")
                with pytest.raises(BusClosedError, match="closed"):
                    bus.send_nowait("a", "k", "/x")
                with pytest.raises(BusClosedError, match="closed"):
                    await bus.subscribe("a")
        assert stage.bus.statistics().accepted == 0
        assert stage.bus.statistics().open_subscriptions == 0

    await play(prepare, ending, check)


async def test_leaving_normally_does_not_wait_for_a_busy_reader(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as outside:
        finish = trio.Event()
        read: list[str] = []

        async def reader(subscription: Subscription) -> None:
            async for event in subscription:
                read.append(event.path)
                await finish.wait()

        async with open_event_bus() as bus:
            subscription = await bus.subscribe("a", max_buffer_size=1)
            outside.start_soon(reader, subscription)
            await wait_all_tasks_blocked()
            for number in range(5):
                bus.send_nowait("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        assert read == ["/0"]
        assert bus.statistics().open_subscriptions == 0
        finish.set()
        await wait_all_tasks_blocked()
        assert read == [f"/{number}" for number in range(5)]


async def test_leaving_takes_all_tasks_of_the_bus_along(autojump_clock: MockClock) -> None:
    before = tasks_living()
    async with open_event_bus() as bus:
        for overflow in Overflow:
            subscription = await bus.subscribe("a", max_buffer_size=2, overflow=overflow)
        for number in range(5):
            bus.send_nowait("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        assert tasks_living() > before
    assert tasks_living() == before
    subscription.close()
    assert tasks_living() == before


async def test_a_bus_closed_inside_can_be_left_in_every_way(autojump_clock: MockClock) -> None:
    for ending in LEAVING:

        async def prepare(stage: Stage) -> None:
            stage.bus.send_nowait("a", "k", "/1")
            stage.bus.close()
            await wait_all_tasks_blocked()
            assert drain(stage.channel) == ["/1"]

        await play(prepare, ending, functools.partial(assert_ended, ending=ending, readable=[]))


async def test_closing_the_bus_ends_readers_in_the_same_block(autojump_clock: MockClock) -> None:
    read: list[str] = []

    async def reader(subscription: Subscription) -> None:
        async for event in subscription:
            read.append(event.path)

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        nursery.start_soon(reader, await bus.subscribe("a", max_buffer_size=1))
        for number in range(5):
            bus.send_nowait("a", "k", f"/{number}")
        bus.close()
    assert read == [f"/{number}" for number in range(5)]


async def test_the_exception_of_the_block_leaves_as_itself(autojump_clock: MockClock) -> None:
    class Several(ExceptionGroup[Exception]):  # noqa: ASYNC126  # so that a split would show
        """A group that an application defines."""

    for mine in (KeyError("mine"), SystemExit(3), Several("mine", [KeyError("one")])):
        caught: BaseException | None = None
        try:
            async with open_event_bus() as bus:
                await bus.subscribe("a")
                raise mine
        except BaseException as error:  # noqa: ASYNC103  # it is looked at below
            caught = error
        assert caught is mine


async def test_the_exception_of_the_block_keeps_its_cause_and_context(
    autojump_clock: MockClock,
) -> None:
    cause = ValueError("the reason")
    caught: KeyError | None = None
    try:
        async with open_event_bus():
            raise KeyError("mine") from cause
    except KeyError as error:
        caught = error
    assert caught is not None
    assert caught.__cause__ is cause
    try:
        async with open_event_bus():
            raise KeyError("mine")
    except KeyError as error:
        caught = error
    assert caught.__cause__ is None
    assert caught.__context__ is None


async def test_two_exceptions_leave_as_a_group(autojump_clock: MockClock) -> None:
    async def fail(error: Exception) -> None:
        raise error

    errors = [KeyError("one"), ValueError("two")]
    caught: ExceptionGroup[Exception] | None = None
    try:
        async with open_event_bus(), trio.open_nursery() as nursery:
            for error in errors:
                nursery.start_soon(fail, error)
    except ExceptionGroup as group:
        caught = group
    assert caught is not None
    assert sorted(caught.exceptions, key=repr) == sorted(errors, key=repr)


async def test_an_exception_of_the_block_during_a_cancellation_still_leaves_as_itself(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(KeyError, match="mine"), trio.CancelScope() as scope:
        async with open_event_bus() as bus:
            await bus.subscribe("a")
            scope.cancel()
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("mine")


async def test_leaving_normally_in_a_cancelled_scope_does_not_hang(
    autojump_clock: MockClock,
) -> None:
    with trio.CancelScope() as scope:
        async with open_event_bus() as bus:
            subscription = await bus.subscribe("a", max_buffer_size=1)
            for number in range(3):
                bus.send_nowait("a", "k", f"/{number}")
            scope.cancel()
    with pytest.raises(BusClosedError):
        await bus.send("a", "k", "/x")
    drain(subscription.channel())
    with pytest.raises(trio.EndOfChannel):
        await subscription.channel().receive()
    assert_balanced(subscription)


async def test_a_cancelled_of_the_block_leaves_as_itself(autojump_clock: MockClock) -> None:
    left: BaseException | None = None
    with trio.move_on_after(1):
        try:
            async with open_event_bus() as bus:
                await bus.subscribe("a")
                await trio.sleep_forever()
        except BaseException as error:
            left = error
            raise
    assert type(left) is trio.Cancelled


async def test_a_sender_inside_the_block_is_cancelled_with_it(autojump_clock: MockClock) -> None:
    with trio.CancelScope() as scope:
        async with open_event_bus() as bus:
            subscription = await bus.subscribe("a", max_buffer_size=1)
            await bus.send("a", "k", "/0")
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bus.send, "a", "k", "/1")
                await wait_all_tasks_blocked()
                scope.cancel()
    assert scope.cancelled_caught
    assert bus.statistics().accepted == 1
    assert_balanced(subscription)


async def test_an_event_bus_can_be_opened_again_and_again(autojump_clock: MockClock) -> None:
    for number in range(3):
        async with open_event_bus() as bus:
            subscription = await bus.subscribe("a")
            await bus.send("a", "k", f"/{number}")
            assert (await subscription.channel().receive()).path == f"/{number}"
            assert bus.statistics().accepted == 1


async def test_a_crash_inside_the_supervisor_leaves_as_itself_and_closes_the_bus(
    autojump_clock: MockClock,
) -> None:
    class CrashError(Exception):
        """What no task of the bus should ever raise."""

    async def crash() -> None:
        raise CrashError

    with pytest.raises(CrashError):
        async with open_event_bus() as bus:
            subscription = await bus.subscribe("a")
            await bus.send("a", "k", "/x")
            bus._nursery.start_soon(crash)
            await trio.sleep_forever()
    assert [event.path async for event in subscription] == ["/x"]
    with pytest.raises(BusClosedError):
        bus.send_nowait("a", "k", "/x")


def test_a_crash_inside_the_supervisor_is_not_hidden_by_cancelled_tasks_of_the_block() -> None:
    async def crash() -> None:
        raise KeyError("the crash")

    async def main() -> None:
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)
            bus._nursery.start_soon(crash)

    # As it was: a group of two Cancelled leaves trio.run, and the crash is gone.
    with pytest.raises(KeyError, match="the crash"):
        trio.run(main)
