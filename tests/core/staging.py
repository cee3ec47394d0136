"""A small bus on which one operation is played while something goes wrong, and what must hold then.

The operations are those that applications call. Each is a coroutine function of a `Stage`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, final

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    BusClosedError,
    EventBus,
    HandlerSet,
    History,
    Subscription,
    open_event_bus,
)
from trio_events._bus import current_bus

from ..observing import assert_balanced, drain, paths

CHECKPOINT_EVERY: Final = 4


@final
@attrs.define(eq=False)
class Stage:
    """A bus with a subscription of two events, and one that sees everything."""

    bus: EventBus
    nursery: trio.Nursery
    subscription: Subscription
    witness: Subscription
    accepted: list[str] = attrs.field(factory=list)
    """The paths of events whose send has returned."""

    got: list[str] = attrs.field(factory=list)
    """The paths that were read from the subscription."""

    handled: list[str] = attrs.field(factory=list)
    """The paths that the handler was called with."""

    opened: list[Subscription] = attrs.field(factory=list)
    """The subscriptions that the operation made."""

    histories: list[History] = attrs.field(factory=list)
    """The histories that the operation opened."""

    stray: list[BaseException] = attrs.field(factory=list)
    """What was raised in tasks beside the operation."""

    closed: bool = False
    """Whether the operation closes the bus, or the subscription."""

    async def send(self, system: str = "a") -> None:
        """Send an event, and remember if that succeeded."""
        path = f"/{len(self.accepted)}"
        await self.bus.send(system, "k", path)
        self.accepted.append(path)

    def send_nowait(self, system: str = "a") -> None:
        path = f"/{len(self.accepted)}"
        self.bus.send_nowait(system, "k", path)
        self.accepted.append(path)

    def beside(self, act: Callable[[], object]) -> None:
        """Do something in another task, when the operation has had a few turns."""

        async def later() -> None:
            try:
                for _ in range(20):
                    await trio.lowlevel.checkpoint()
                act()
            except (KeyboardInterrupt, RecursionError) as error:
                self.stray.append(error)
                act()  # nothing has happened yet

        self.nursery.start_soon(later)

    async def handle(self, event: events.Event) -> None:
        """Be a handler."""
        self.handled.append(event.path)

    async def check(self) -> None:
        """Check that nothing was lost or doubled, and that the bus works."""
        await wait_all_tasks_blocked()
        assert current_bus.get() is self.bus
        if self.closed:
            self.bus.close()
            await wait_all_tasks_blocked()
        for each in (self.subscription, self.witness, *self.opened):
            assert_balanced(each)
        for history in self.histories:
            books = history.statistics()
            gone = books.replaced + books.evicted + books.forgotten
            assert len(history.events()) == books.kept == books.matched - gone
        order = read_all(self.witness)
        assert order == self.accepted
        statistics = self.bus.statistics()
        assert statistics.tasks_waiting_send == 0
        assert statistics.open_waiters == 0
        if self.closed:
            assert self.got == order[: len(self.got)]
            return
        assert self.got + read_all(self.subscription) == order
        assert self.subscription.channel().statistics().tasks_waiting_receive == 0
        assert statistics.open_subscriptions == 2 + len(self.opened)
        fresh = await self.bus.subscribe("fresh", max_buffer_size=1)
        for _ in range(2 * CHECKPOINT_EVERY):  # a full round of checkpoints
            await self.bus.send("fresh", "k", "/x")
            assert (await fresh.channel().receive()).path == "/x"
        for each in self.opened:
            await self.bus.send("b", "k", "/b")
            await wait_all_tasks_blocked()
            assert "/b" in (self.handled if each.handler else drain(each.channel()))
        fresh.close()


def read_all(subscription: Subscription) -> list[str]:
    """The paths of what can be read, without requests, which may have been sent or not."""
    found: list[str] = []
    while True:
        try:
            event = subscription.channel().receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return found
        if event.kind != "asked":
            found.append(event.path)


Operation = Callable[[Stage], Awaitable[None]]


@asynccontextmanager
async def staged(operation: Operation) -> AsyncIterator[Stage]:
    """Open a bus, and prepare what the operation needs."""
    inbox_size = 1 if operation is send_that_waits_for_the_inbox else 256
    async with (
        open_event_bus(
            inbox_size=inbox_size, checkpoint_every=CHECKPOINT_EVERY, drain_timeout=0
        ) as bus,
        trio.open_nursery() as nursery,
    ):
        subscription = await bus.subscribe("a", max_buffer_size=2)
        witness = await bus.subscribe("(a|b)", max_buffer_size=1000)
        stage = Stage(bus, nursery, subscription, witness, closed=operation in CLOSING)
        if operation in FILLED:
            for _ in range(2):
                await stage.send()
        if operation is forget:
            await keep_in_a_history(stage)
        if operation is close_the_bus_while_a_sender_waits:
            nursery.start_soon(wait_in_send, stage)
        await wait_all_tasks_blocked()
        if operation in BESIDE:
            stage.beside(partial(BESIDE[operation], stage))
        yield stage
        nursery.cancel_scope.cancel()


async def send(stage: Stage) -> None:
    await stage.send()


async def send_from_the_ambient_bus(stage: Stage) -> None:
    await events.send("a", "k", "/0")
    stage.accepted.append("/0")


async def send_that_waits(stage: Stage) -> None:
    await stage.send()


async def send_that_waits_for_the_inbox(stage: Stage) -> None:
    stage.send_nowait()
    await stage.send()


async def send_nowait(stage: Stage) -> None:
    stage.send_nowait()


async def send_nowait_that_would_wait(stage: Stage) -> None:
    try:
        stage.send_nowait()
    except trio.WouldBlock:
        return
    raise AssertionError("it is full")


async def receive(stage: Stage) -> None:
    stage.got.append((await stage.subscription.channel().receive()).path)


async def receive_by_the_subscription(stage: Stage) -> None:
    stage.got.append((await stage.subscription.receive()).path)


async def receive_that_waits(stage: Stage) -> None:
    stage.got.append((await stage.subscription.channel().receive()).path)


async def receive_nowait(stage: Stage) -> None:
    stage.got.append(stage.subscription.channel().receive_nowait().path)


async def receive_nowait_by_the_subscription(stage: Stage) -> None:
    stage.got.append(stage.subscription.receive_nowait().path)


async def iterate(stage: Stage) -> None:
    async for event in stage.subscription:
        stage.got.append(event.path)
        if len(stage.got) == 2:
            break


async def iterate_and_wait(stage: Stage) -> None:
    async for event in stage.subscription:
        stage.got.append(event.path)
        break


async def read_a_batch(stage: Stage) -> None:
    stage.got.extend(paths(await anext(stage.subscription.batches())))


async def read_a_batch_of_one(stage: Stage) -> None:
    stage.got.extend(paths(await anext(stage.subscription.batches(max_size=1))))


async def read_a_batch_and_wait(stage: Stage) -> None:
    stage.got.extend(paths(await anext(stage.subscription.batches())))


async def read_a_batch_and_what_has_come_since(stage: Stage) -> None:
    stage.got.extend(paths(await anext(stage.subscription.batches())))


async def subscribe(stage: Stage) -> None:
    stage.opened.append(await stage.bus.subscribe("b"))


async def subscribe_with_a_history(stage: Stage) -> None:
    history = await stage.bus.open_history("b")
    stage.opened.append(await stage.bus.subscribe("b", history=history))


async def keep_in_a_history(stage: Stage) -> None:
    history = await stage.bus.open_history("c", max_events=1)
    stage.histories.append(history)
    async with history:
        for path in ("/1", "/2", "/2"):
            stage.bus.send_nowait("c", "k", path)
        assert (await stage.bus.wait_for("c", history=history)).path == "/2"


async def forget(stage: Stage) -> None:
    [history] = stage.histories
    history.forget("/2")


async def register_a_handler(stage: Stage) -> None:
    stage.opened.append(await stage.bus.on(stage.handle, "b", concurrency=2))


async def register_a_responder(stage: Stage) -> None:
    stage.opened.append(await stage.bus.serve(stage.handle, "b", concurrency=2, ordered=True))


async def include_a_set(stage: Stage) -> None:
    handlers = HandlerSet()
    handlers.on("b")(stage.handle)
    handlers.on("b")(stage.handle)
    stage.opened.extend(await stage.bus.include(handlers))


async def add_and_remove(stage: Stage) -> None:
    stage.subscription.add("b", "k", path="/b/*")
    stage.subscription.remove("b", "k", path="/b/*")


async def expect(stage: Stage) -> None:
    async with stage.bus.expect("c") as waiter:
        stage.bus.send_nowait("c", "k", "/c")
        assert (await waiter.event()).path == "/c"


async def wait_for(stage: Stage) -> None:
    assert (await stage.bus.wait_for("c")).path == "/c"


async def wait_for_with_a_function(stage: Stage) -> None:
    assert (await stage.bus.wait_for("c", where=lambda event: True)).path == "/c"


async def request(stage: Stage) -> None:
    assert (await stage.bus.request("a", "asked", "/request")).accepted


async def close_the_subscription(stage: Stage) -> None:
    stage.subscription.close()


async def close_the_subscription_by_with(stage: Stage) -> None:
    with stage.subscription:
        pass


async def close_the_channel(stage: Stage) -> None:
    stage.subscription.channel().close()


async def aclose_the_channel(stage: Stage) -> None:
    await stage.subscription.channel().aclose()


async def close_the_bus(stage: Stage) -> None:
    stage.bus.close()


async def close_the_bus_while_a_sender_waits(stage: Stage) -> None:
    stage.bus.close()


async def wait_in_send(stage: Stage) -> None:
    try:
        await stage.bus.send("a", "k", "/waits")
    except BusClosedError:
        pass
    else:
        stage.accepted.append("/waits")


async def consume(
    stage: Stage, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    task_status.started()
    await trio.sleep_forever()


async def start_a_consumer_soon(stage: Stage) -> None:
    stage.bus.start_soon(consume, stage)


async def start_a_consumer(stage: Stage) -> None:
    await stage.bus.start(consume, stage)


async def wait_until_idle(stage: Stage) -> None:
    await stage.bus.wait_idle()


async def drain_the_subscription(stage: Stage) -> None:
    with trio.move_on_after(0):
        await stage.subscription.drain()


async def ask_what_there_is(stage: Stage) -> None:
    stage.bus.for_actor("somebody")
    assert stage.bus.is_wanted("a", "k", "/x")
    stage.bus.statistics()
    assert stage.bus.subscriptions() == (stage.subscription, stage.witness)
    stage.subscription.statistics()
    stage.subscription.channel().statistics()
    repr((stage.bus, stage.subscription))


async def use_another_bus(stage: Stage) -> None:
    with events.use(stage.bus.for_actor("somebody")):
        pass


def read(stage: Stage) -> None:
    stage.got.append(stage.subscription.channel().receive_nowait().path)


@trio.lowlevel.enable_ki_protection
def send_and_send_again_when_that_is_routed(stage: Stage) -> None:
    for _ in range(2):
        stage.send_nowait()
        stage.bus._router.route_inbox()


def send_what_is_waited_for(stage: Stage) -> None:
    stage.bus.send_nowait("c", "k", "/c")


def answer(stage: Stage) -> None:
    stage.bus.send_nowait("a", "k.accepted", "/request")
    stage.accepted.append("/request")


BESIDE: Final[dict[Operation, Callable[[Stage], object]]] = {
    send_that_waits: read,
    receive_that_waits: Stage.send_nowait,
    iterate_and_wait: Stage.send_nowait,
    read_a_batch_and_wait: Stage.send_nowait,
    read_a_batch_and_what_has_come_since: send_and_send_again_when_that_is_routed,
    wait_for: send_what_is_waited_for,
    wait_for_with_a_function: send_what_is_waited_for,
    request: answer,
}
"""What another task does meanwhile."""

CLOSING: Final[tuple[Operation, ...]] = (
    add_and_remove,  # which may leave it with more than "a"
    drain_the_subscription,
    close_the_subscription,
    close_the_subscription_by_with,
    close_the_channel,
    aclose_the_channel,
    close_the_bus,
    close_the_bus_while_a_sender_waits,
)
"""The operations after which the subscription need not have all events."""

FILLED: Final[tuple[Operation, ...]] = (
    send_that_waits,
    send_nowait_that_would_wait,
    receive,
    receive_by_the_subscription,
    receive_nowait,
    receive_nowait_by_the_subscription,
    iterate,
    read_a_batch,
    read_a_batch_of_one,
    drain_the_subscription,
    close_the_subscription,
    close_the_subscription_by_with,
    close_the_channel,
    aclose_the_channel,
    close_the_bus,
    close_the_bus_while_a_sender_waits,
)
"""The operations that find two events in the subscription, which is full then."""

OPERATIONS: Final[tuple[Operation, ...]] = (
    send,
    send_from_the_ambient_bus,
    send_that_waits_for_the_inbox,
    send_nowait,
    receive_that_waits,
    iterate_and_wait,
    read_a_batch_and_wait,
    read_a_batch_and_what_has_come_since,
    subscribe,
    subscribe_with_a_history,
    keep_in_a_history,
    forget,
    register_a_handler,
    register_a_responder,
    include_a_set,
    add_and_remove,
    expect,
    wait_for,
    wait_for_with_a_function,
    request,
    start_a_consumer_soon,
    start_a_consumer,
    wait_until_idle,
    ask_what_there_is,
    use_another_bus,
    *FILLED,
)
