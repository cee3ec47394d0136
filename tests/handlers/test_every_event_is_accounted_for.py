"""At the end, every event that was accepted has been handled, or is in the count that is logged."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    BusClosedError,
    Event,
    EventBus,
    HandlerSet,
    Log,
    NoSubscribersError,
    Overflow,
    Subscription,
    open_event_bus,
)

from .. import schedules
from ..observing import assert_balanced
from ..schedules import Orders, Schedule
from .handling import Recorder


@attrs.define(eq=False)
class Left(logging.Handler):
    """What was logged about work that was left."""

    calls: int = 0
    events: int = 0
    records: int = 0

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def __enter__(self) -> Left:
        logging.getLogger("trio_events").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("trio_events").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r"cancelled: (\d+), events discarded: (\d+)", record.getMessage())
        if found is not None:
            self.records += 1
            self.calls += int(found[1])
            self.events += int(found[2])


@pytest.fixture
def explorable(caplog: pytest.LogCaptureFixture) -> None:
    if reason := schedules.reason_not_to_explore():
        pytest.skip(f"NO SCHEDULE WAS EXPLORED: {reason}; adapt tests/schedules.py")


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("fan_out", [1, 2])
@pytest.mark.usefixtures("explorable")
def test_a_handler_that_feeds_itself_beyond_the_drain_timeout_loses_nothing_in_silence(
    concurrency: int, fan_out: int
) -> None:
    async def program(schedule: Schedule) -> None:
        begun: list[str] = []
        ended: list[str] = []
        with Left() as left:
            async with open_event_bus(drain_timeout=1) as bus:

                async def feed(event: Event) -> None:
                    begun.append(event.path)
                    for _ in range(fan_out):
                        await bus.send("a", "k", "/more")
                    await trio.sleep(0.25)
                    ended.append(event.path)

                subscription = await bus.on(feed, "a", concurrency=concurrency, max_buffer_size=100)
                await bus.send("a", "k", "/first")
                await trio.sleep(0.5)
                bus.close()
                await trio.sleep(0.9)
                async with schedule.explored():
                    await trio.sleep(0.2)
        books = subscription.statistics()
        assert_balanced(subscription)
        assert books.matched == bus.statistics().accepted
        assert books.queued == books.handling == 0
        assert len(begun) == books.delivered
        assert len(ended) + left.calls == len(begun)
        assert left.events == books.discarded
        assert left.records == 1

    schedules.explore(program, orders=Orders.BOTH_WAYS, detours=3, cap=200)


@pytest.mark.usefixtures("explorable")
def test_a_bus_closed_by_another_task_while_the_block_sends_handles_all_that_it_accepted() -> None:
    outcomes = set()

    async def program(schedule: Schedule) -> None:
        handled: list[str] = []
        accepted = 0
        with Left() as left:
            try:
                async with open_event_bus() as bus, trio.open_nursery() as nursery:

                    async def handle(event: Event) -> None:
                        await trio.sleep(0.1)
                        handled.append(event.path)

                    async def close() -> None:
                        for _ in range(schedule.choose(3)):
                            await trio.lowlevel.checkpoint()
                        bus.close()

                    await bus.on(handle, "a", max_buffer_size=3)
                    nursery.start_soon(close)
                    for number in range(25):
                        await bus.send("a", "k", f"/{number}")
                        accepted += 1
                        await trio.lowlevel.checkpoint()
            except* BusClosedError:
                pass
            else:
                raise AssertionError("the block goes on sending")
        assert handled == [f"/{number}" for number in range(accepted)]
        assert left.records == 0
        outcomes.add(accepted)

    for _ in range(1):
        schedules.explore(program)
    assert len(outcomes) > 1


async def test_the_error_of_a_closed_bus_that_a_block_raises_itself_lets_handlers_finish(
    autojump_clock: MockClock,
) -> None:
    handled: list[str] = []

    async def handle(event: Event) -> None:
        await trio.sleep(1)
        handled.append(event.path)

    with pytest.raises(BusClosedError) as caught:
        async with open_event_bus() as bus:
            await bus.on(handle, "a")
            for number in range(5):
                await bus.send("a", "k", f"/{number}")
            bus.close()
            await bus.send("a", "k", "/late")
    assert handled == [f"/{number}" for number in range(5)]
    assert caught.value.__context__ is None
    assert trio.current_time() == 5


async def test_the_error_of_a_closed_bus_leaves_as_itself_if_the_handlers_are_cancelled(
    autojump_clock: MockClock,
) -> None:
    async def handle(event: Event) -> None:
        await trio.sleep(5)

    with pytest.raises(BusClosedError) as caught, trio.move_on_after(2) as scope:
        async with open_event_bus() as bus:
            await bus.on(handle, "a")
            await bus.send("a", "k", "/1")
            bus.close()
            await bus.send("a", "k", "/late")
    assert caught.value.__context__ is None
    assert scope.cancel_called
    assert trio.current_time() == 2


async def test_the_error_of_a_closed_bus_and_that_of_a_handler_leave_as_a_group(
    autojump_clock: MockClock,
) -> None:
    async def handle(event: Event) -> None:
        await trio.sleep(1)
        raise KeyError(event.path)

    with pytest.RaisesGroup(KeyError, BusClosedError):
        async with open_event_bus() as bus:
            await bus.on(handle, "a")
            await bus.send("a", "k", "/1")
            bus.close()
            await bus.send("a", "k", "/late")


async def test_the_error_of_another_closed_bus_cancels_the_handlers(
    autojump_clock: MockClock,
) -> None:
    handled: list[str] = []

    async def handle(event: Event) -> None:
        await trio.sleep(1)
        handled.append(event.path)

    async with open_event_bus() as other:
        other.close()
        with pytest.raises(BusClosedError):
            async with open_event_bus() as bus:
                await bus.on(handle, "a")
                await bus.send("a", "k", "/x")
                bus.close()
                await other.send("a", "k", "/x")
    assert handled == []


async def test_another_error_beside_that_of_the_closed_bus_cancels_the_handlers(
    autojump_clock: MockClock,
) -> None:
    handled: list[str] = []

    async def handle(event: Event) -> None:
        await trio.sleep(1)
        handled.append(event.path)

    async def fail() -> None:
        raise KeyError

    with pytest.raises(BaseExceptionGroup):  # noqa: ASYNC401  # of one or two, as it happens
        async with open_event_bus() as bus:
            await bus.on(handle, "a")
            await bus.send("a", "k", "/x")
            bus.close()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                nursery.start_soon(bus.send, "a", "k", "/late")
    assert handled == []


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("routed", [True, False])
async def test_leaving_by_an_exception_logs_once_what_handlers_left(
    concurrency: int, routed: bool, autojump_clock: MockClock
) -> None:
    begun: list[str] = []

    async def handle(event: Event) -> None:
        begun.append(event.path)
        await trio.sleep_forever()

    with Left() as left, pytest.raises(KeyError):
        async with open_event_bus() as bus:
            subscription = await bus.on(handle, "a", concurrency=concurrency)
            idle = await bus.on(Recorder(), "b")
            for number in range(10):
                await bus.send("a", "k", f"/{number}")
            if routed:
                await wait_all_tasks_blocked()
            raise KeyError
    assert left.records == 1
    assert left.calls == len(begun)
    assert left.calls + left.events == 10
    assert_balanced(subscription)
    assert subscription.statistics().discarded == left.events
    assert idle.statistics().matched == 0


async def test_leaving_by_an_exception_logs_nothing_where_nothing_was_left(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyError):
        async with open_event_bus() as bus:
            recorder = Recorder()
            await bus.on(recorder, "a", concurrency=2)
            await bus.send("a", "k", "/x")
            await wait_all_tasks_blocked()
            raise KeyError
    assert recorder.seen == ["/x"]
    assert not caplog.messages


async def test_a_handler_that_ends_the_bus_logs_what_the_others_left(
    autojump_clock: MockClock,
) -> None:
    async def hang(_: Event) -> None:
        await trio.sleep_forever()

    async def fail(_: Event) -> None:
        raise KeyError

    with Left() as left, pytest.raises(KeyError):
        async with open_event_bus() as bus:
            await bus.on(hang, "a")
            await bus.on(fail, "b")
            for _ in range(3):
                await bus.send("a", "k", "/x")
            await wait_all_tasks_blocked()
            await bus.send("b", "k", "/x")
            await trio.sleep_forever()
    assert (left.calls, left.events, left.records) == (1, 2, 1)


# ------------------------------------------------------------------------------------- a closed bus


USES: dict[str, Callable[[EventBus, Subscription], object]] = {
    "include nothing": lambda bus, _: bus.include(HandlerSet()),
    "send": lambda bus, _: bus.send("a", "k", "/x"),
    "subscribe": lambda bus, _: bus.subscribe("a"),
    "on": lambda bus, _: bus.on(Recorder(), "a"),
    "wait_for": lambda bus, _: bus.wait_for("a"),
    "request": lambda bus, _: bus.request("a", "k", "/x"),
    "send_nowait": lambda bus, _: bus.send_nowait("a", "k", "/x"),
    "send_soon": lambda bus, _: bus.send_soon("a", "k", "/x"),
    "add": lambda _, subscription: subscription.add("b"),
    "remove": lambda _, subscription: subscription.remove("a"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("how", ["closed", "left", "draining"])
async def test_a_closed_bus_refuses_every_use_with_its_own_error(
    use: str, how: str, autojump_clock: MockClock
) -> None:
    async def hang(_: Event) -> None:
        await trio.sleep(1)

    async def refused() -> None:
        with pytest.raises(BusClosedError, match="closed"):
            coroutine = USES[use](bus, subscription)
            assert not isinstance(coroutine, NoSubscribersError)
            await coroutine  # type: ignore[misc]  # those that aren't have raised

    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        if how == "draining":
            await bus.on(hang, "h")
            await bus.send("h", "k", "/x")
        if how != "left":
            bus.close()
            await refused()
    await refused()


@pytest.mark.parametrize("seconds", [0.5, 1, 1.5, 2])
@pytest.mark.parametrize("handlers", [False, True])
async def test_a_sender_that_is_looked_at_when_the_bus_closes_gets_the_error_of_a_closed_bus(
    seconds: float, handlers: bool, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        if handlers:
            await bus.on(Recorder(), "h")
        await bus.send("a", "k", "/fills it")
        await wait_all_tasks_blocked()

        async def wait() -> None:
            with pytest.raises(BusClosedError):
                await bus.send("a", "k", "/waits")

        for _ in range(3):
            nursery.start_soon(wait)
        await trio.sleep(seconds)
        bus.close()
        subscription.close()


async def test_a_log_handler_that_closes_the_bus_at_a_look_ends_the_wait_with_its_error(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/first")
        await subscription.receive()
        await bus.send("a", "k", "/fills it")
        await wait_all_tasks_blocked()

        class Closing(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                bus.close()

        handler = Closing()
        logging.getLogger("trio_events").addHandler(handler)
        try:
            with pytest.raises((BusClosedError, Exception)) as caught:
                await bus.send("a", "k", "/waits")
        finally:
            logging.getLogger("trio_events").removeHandler(handler)
        assert "closed" in str(caught.value) or "forever" in str(caught.value)
        assert bus.statistics().tasks_waiting_send == 0


# ---------------------------------------------------------------------------- numbers of seconds


@pytest.mark.parametrize("number", [10**400, float("nan"), -1, -0.1, float("-inf")], ids=str)
async def test_a_drain_timeout_that_is_not_a_duration_is_refused_at_once(number: float) -> None:
    with pytest.raises(ValueError, match="drain_timeout"):
        open_event_bus(drain_timeout=number)


@pytest.mark.parametrize("number", [None, "1", True, 1j, [1]], ids=str)
async def test_a_drain_timeout_that_is_not_a_number_is_refused_at_once(number: float) -> None:
    with pytest.raises(TypeError, match="drain_timeout"):
        open_event_bus(drain_timeout=number)


@pytest.mark.parametrize("number", [0, 0.0, 1e-9, 10**300, 1e308, float("inf")], ids=str)
async def test_any_other_drain_timeout_works(number: float, autojump_clock: MockClock) -> None:
    recorder = Recorder()
    with Left() as left:
        async with open_event_bus(drain_timeout=number) as bus:
            await bus.on(recorder, "a")
            await bus.send("a", "k", "/x")
    assert len(recorder.seen) + left.events + left.calls == 1
    assert recorder.seen or not number


async def test_every_overflow_of_a_handler_balances_at_the_end(autojump_clock: MockClock) -> None:
    for overflow in Overflow:
        with Left() as left:
            async with open_event_bus(drain_timeout=1) as bus:

                async def slow(_: Event) -> None:
                    await trio.sleep(0.4)

                subscription = await bus.on(
                    slow, "a", overflow=overflow, max_buffer_size=2, on_error=Log()
                )
                for number in range(9):
                    try:
                        bus.send_nowait("a", "k", f"/{number}")
                    except trio.WouldBlock:
                        break
                    await wait_all_tasks_blocked()
        assert_balanced(subscription)
        assert subscription.statistics().queued == 0
        assert left.events == subscription.statistics().discarded
