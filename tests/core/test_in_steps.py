"""Code that runs in the middle of a step of the bus: what it does takes effect at its end."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    BusClosedError,
    Event,
    EventBus,
    Overflow,
    Subscription,
    SubscriptionOverflowError,
    open_event_bus,
)
from trio_events._core.notices import reserve_stack
from trio_events._core.pace import Pace
from trio_events._core.readers import KnownReaders
from trio_events._core.router import Router
from trio_events._names.interest import Interest

from ..observing import wake


@attrs.define(eq=False)
class Interloper(trio.abc.Instrument):
    """Acts when the bus schedules a task, which it does in the middle of a step."""

    task: trio.lowlevel.Task
    act: Callable[[], object]
    acted: bool = False

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        if task is self.task and not self.acted:
            self.acted = True
            self.act()


ACTS: dict[str, Callable[[EventBus, Subscription], object]] = {
    "the subscription": lambda bus, subscription: subscription.close(),
    "the channel": lambda bus, subscription: subscription.channel().close(),
    "the bus": lambda bus, subscription: bus.close(),
}


@pytest.mark.parametrize("act", ACTS)
async def test_what_is_closed_in_the_middle_of_a_step_ends_after_it(
    act: str, autojump_clock: MockClock
) -> None:
    received: list[str] = []
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a")
        other = await bus.subscribe("a")

        task: trio.lowlevel.Task | None = None

        async def read() -> None:
            nonlocal task
            task = trio.lowlevel.current_task()
            async for event in subscription:
                received.append(event.path)

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert task is not None
        interloper = Interloper(task, lambda: ACTS[act](bus, other))
        trio.lowlevel.add_instrument(interloper)
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(interloper)
        assert interloper.acted
        assert received == ["/1"]
        assert other not in bus.subscriptions()
        if act == "the channel":
            assert other.statistics().discarded == 1
        else:
            assert (await other.receive()).path == "/1"
        subscription.close()


async def test_what_asks_in_the_middle_of_routing_gets_an_answer(
    autojump_clock: MockClock,
) -> None:
    answers: list[bool] = []
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a")

        task: trio.lowlevel.Task | None = None

        async def read() -> None:
            nonlocal task
            task = trio.lowlevel.current_task()
            await subscription.receive()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert task is not None

        def ask() -> None:
            with bus.subscriptions()[0].channel() as channel:
                answers.append(bus.is_wanted("a", "k", "/x"))
            answers.append(channel.statistics().max_buffer_size == 256)

        with trio.CancelScope():
            interloper = Interloper(task, ask)
            trio.lowlevel.add_instrument(interloper)
            waiter = await bus.subscribe("b")
            bus.send_nowait("a", "k", "/1")
            waiter.close()
            await wait_all_tasks_blocked()
            trio.lowlevel.remove_instrument(interloper)
        assert answers == [True, True]
        assert bus.subscriptions() == ()


def test_a_step_needs_room_on_the_stack() -> None:
    reserve_stack()
    with pytest.raises(RecursionError, match="too close"):
        reserve_stack(more=1_000_000)


async def test_a_task_that_has_ended_is_not_a_reader_any_more() -> None:
    readers = KnownReaders()
    tasks: list[trio.lowlevel.Task] = []

    async def end() -> None:
        tasks.append(trio.lowlevel.current_task())
        readers.note_current()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        await wait_all_tasks_blocked()
        readers.note_current()
    assert list(readers) == [trio.lowlevel.current_task()]
    assert len(tasks) == 1  # and it is still there


async def test_sends_that_gave_up_are_forgotten_while_the_subscription_stays_full(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        nursery.start_soon(bus.send, "a", "k", "/2")
        await wait_all_tasks_blocked()
        for _ in range(30):
            with trio.move_on_after(0.01):
                await bus.send("a", "k", "/gives up")
        nursery.start_soon(bus.send, "a", "k", "/3")
        await wait_all_tasks_blocked()
        assert subscription.statistics().tasks_waiting_send == 2
        assert [(await subscription.receive()).path for _ in range(3)] == ["/1", "/2", "/3"]


async def test_a_handler_that_fails_while_the_bus_closes_is_not_hidden_by_the_error_of_that(
    autojump_clock: MockClock,
) -> None:
    async def fail(_: Event) -> None:
        await trio.sleep(1)
        raise KeyError

    with pytest.RaisesGroup(KeyError, BusClosedError):
        async with open_event_bus() as bus:
            await bus.on(fail, "a")
            await bus.send("a", "k", "/1")
            bus.close()
            await bus.send("a", "k", "/2")


async def test_a_handler_whose_parameters_are_not_known_is_accepted(
    autojump_clock: MockClock,
) -> None:
    called: list[str] = []

    class Odd:
        @property
        def __signature__(self) -> object:
            raise ValueError("there is none")

        async def __call__(self, event: Event) -> None:
            called.append(event.path)

    async with open_event_bus() as bus:
        await bus.on(Odd(), "a")
        await bus.send("a", "k", "/1")
    assert called == ["/1"]


async def test_a_pattern_that_is_added_in_the_middle_of_routing_counts_from_then_on(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a")
        other = await bus.subscribe("c")
        task: trio.lowlevel.Task | None = None

        async def read() -> None:
            nonlocal task
            task = trio.lowlevel.current_task()
            await subscription.receive()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert task is not None
        interloper = Interloper(task, lambda: other.add("b"))
        trio.lowlevel.add_instrument(interloper)
        await bus.send("a", "k", "/1")
        await bus.send("b", "k", "/too early")
        await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(interloper)
        assert interloper.acted
        await bus.send("b", "k", "/2")
        assert (await other.receive()).path == "/2"


async def test_after_an_overflow_a_reader_that_waits_gets_nothing_later(
    autojump_clock: MockClock,
) -> None:
    router = Router.of(8, Pace(1))
    actor = router.make_subscription(Interest.of("a"), "test", 1, Overflow.CLOSE)
    router.open(actor)
    wake(router)
    first, lost, later = (Event("a", "k", f"/{number}") for number in range(3))
    actor.deliver([first, lost])
    assert await actor.receive() is first
    outcomes: list[object] = []

    async def read() -> None:
        try:
            outcomes.append(await actor.receive())
        except SubscriptionOverflowError as error:
            outcomes.append(type(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        actor.deliver([later])  # it was accepted before the end, in the same turn of the router
        wake(router)
    assert outcomes == [SubscriptionOverflowError]
    assert actor.buffer.dropped == 2
