"""Log handlers run between complete states, may use the bus, and cannot break it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    BusClosedError,
    CloseSubscription,
    Event,
    EventBus,
    Log,
    Overflow,
    Retry,
    Subscription,
    open_event_bus,
)

from ..observing import assert_balanced, drain


@contextmanager
def on_log(act: Callable[[logging.LogRecord], object]) -> Iterator[None]:
    """Call something for each record of the package's logger, and nothing else."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            act(record)

    log, handler = logging.getLogger("trio_events"), Handler()
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


@attrs.define(eq=False)
class Scene:
    """A bus with one subscription that notices are about, and one that sees everything."""

    bus: EventBus
    nursery: trio.Nursery
    subscription: Subscription | None = None

    async def subscribe(self, overflow: Overflow) -> Subscription:
        self.subscription = await self.bus.subscribe("a", max_buffer_size=2, overflow=overflow)
        return self.subscription

    async def send(self, count: int) -> None:
        for number in range(count):
            try:
                self.bus.send_nowait("a", "k", f"/{number}")
            except (trio.WouldBlock, BusClosedError):
                pass
            await wait_all_tasks_blocked()


async def fail(event: Event) -> None:
    raise ValueError(event.path)


async def refused_send_soon(scene: Scene) -> None:
    await scene.subscribe(Overflow.BLOCK)
    await scene.send(2)
    scene.bus.send_soon("a", "k", "/x")
    await trio.sleep(0.1)


async def loss_begins(scene: Scene) -> None:
    await scene.subscribe(Overflow.DROP_OLDEST)
    await scene.send(4)


async def loss_of_the_incoming_begins(scene: Scene) -> None:
    await scene.subscribe(Overflow.DROP_INCOMING)
    await scene.send(4)


async def overflow_closes(scene: Scene) -> None:
    await scene.subscribe(Overflow.CLOSE)
    await scene.send(4)


async def loss_ends(scene: Scene) -> None:
    subscription = await scene.subscribe(Overflow.DROP_INCOMING)
    await scene.send(4)
    await trio.sleep(2)
    drain_if_open(subscription)
    await wait_all_tasks_blocked()


async def loss_ends_by_closing_the_channel(scene: Scene) -> None:
    subscription = await scene.subscribe(Overflow.DROP_INCOMING)
    await scene.send(4)
    subscription.channel().close()


async def loss_during_the_end(scene: Scene) -> None:
    await scene.subscribe(Overflow.DROP_OLDEST)
    for number in range(4):
        scene.bus.send_nowait("a", "k", f"/{number}")
    scene.bus.close()


async def senders_stall(scene: Scene) -> None:
    await scene.subscribe(Overflow.BLOCK)
    await scene.send(2)

    async def wait() -> None:
        with trio.move_on_after(10):
            try:
                await scene.bus.send("a", "k", "/waits")
            except BusClosedError:
                pass

    scene.nursery.start_soon(wait)
    await trio.sleep(5)


async def a_handler_fails(scene: Scene) -> None:
    scene.subscription = await scene.bus.on(fail, "a", on_error=Log())
    await scene.send(3)


async def a_handler_fails_and_its_subscription_closes(scene: Scene) -> None:
    scene.subscription = await scene.bus.on(fail, "a", on_error=CloseSubscription())
    await scene.send(3)


async def a_handler_ends_by_overflow(scene: Scene) -> None:
    async def sleep(_: Event) -> None:
        await trio.sleep(1)

    scene.subscription = await scene.bus.on(
        sleep, "a", on_error=Log(), overflow=Overflow.CLOSE, max_buffer_size=1
    )
    for number in range(4):
        scene.bus.send_nowait("a", "k", f"/{number}")
    await trio.sleep(5)


async def work_is_left(scene: Scene) -> None:
    async def sleep(_: Event) -> None:
        await trio.sleep_forever()

    scene.subscription = await scene.bus.on(sleep, "a")
    await scene.send(3)
    scene.bus.close()
    await trio.sleep(60)


NOTICES: Final[tuple[Callable[[Scene], Awaitable[None]], ...]] = (
    refused_send_soon,
    loss_begins,
    loss_of_the_incoming_begins,
    overflow_closes,
    loss_ends,
    loss_ends_by_closing_the_channel,
    loss_during_the_end,
    senders_stall,
    a_handler_fails,
    a_handler_fails_and_its_subscription_closes,
    a_handler_ends_by_overflow,
    work_is_left,
)


def drain_if_open(subscription: Subscription) -> None:
    try:
        drain(subscription.channel())
    except trio.ClosedResourceError:
        pass


def raise_an_error(scene: Scene) -> None:
    raise ZeroDivisionError


def send(scene: Scene) -> None:
    scene.bus.send_nowait("b", "k", "/from the log")


def send_into_it(scene: Scene) -> None:
    if scene.bus.statistics().accepted < 50:
        scene.bus.send_nowait("a", "k", "/from the log")


def send_soon(scene: Scene) -> None:
    if scene.bus.statistics().accepted < 50:
        scene.bus.send_soon("b", "k", "/from the log")


def close_the_bus(scene: Scene) -> None:
    scene.bus.close()


def close_the_subscription(scene: Scene) -> None:
    if scene.subscription:
        scene.subscription.close()


def close_the_channel(scene: Scene) -> None:
    if scene.subscription:
        scene.subscription.channel().close()


def read(scene: Scene) -> None:
    if scene.subscription and not scene.subscription.handler:
        drain_if_open(scene.subscription)


def subscribe(scene: Scene) -> None:
    if len(scene.nursery.child_tasks) < 20:
        scene.nursery.start_soon(subscribe_if_open, scene.bus)


async def subscribe_if_open(bus: EventBus) -> None:
    try:
        await bus.subscribe("new")
    except BusClosedError:
        pass


def add(scene: Scene) -> None:
    if scene.subscription and "added" not in repr(scene.subscription):
        scene.subscription.add("added")


ACTS = (
    raise_an_error,
    send,
    send_into_it,
    send_soon,
    close_the_bus,
    close_the_subscription,
    close_the_channel,
    read,
    subscribe,
    add,
)


@pytest.mark.parametrize("notice", NOTICES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("act", ACTS, ids=lambda f: f.__name__)
async def test_a_log_handler_may_do_anything_from_any_notice(
    notice: Callable[[Scene], Awaitable[None]],
    act: Callable[[Scene], object],
    autojump_clock: MockClock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    called = 0
    async with open_event_bus(drain_timeout=20) as bus, trio.open_nursery() as nursery:
        scene = Scene(bus, nursery)
        witness = await bus.subscribe("**", max_buffer_size=1000)

        def on_record(record: logging.LogRecord) -> None:
            nonlocal called
            called += 1
            assert witness.statistics().queued <= 1000
            try:
                act(scene)
            except (BusClosedError, trio.WouldBlock, trio.ClosedResourceError):
                pass  # refused, as it should be

        with on_log(on_record):
            await notice(scene)
            await wait_all_tasks_blocked()
            assert scene.subscription is not None
            assert_balanced(scene.subscription)
            assert_balanced(witness)
            assert witness.statistics().matched == bus.statistics().accepted
            if act is not close_the_bus and notice not in {loss_during_the_end, work_is_left}:
                fresh = await bus.subscribe("fresh")
                await bus.send("fresh", "k", "/x")
                assert (await fresh.receive()).path == "/x"
            nursery.cancel_scope.cancel()
            bus.close()
            await trio.lowlevel.cancel_shielded_checkpoint()
    assert called
    assert ("ZeroDivisionError" in capsys.readouterr().err) == (act is raise_an_error)
    with pytest.raises(BusClosedError):
        bus.send_nowait("a", "k", "/late")


async def test_what_a_log_handler_raises_is_shown_for_each_notice(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    def raise_error(record: logging.LogRecord) -> None:
        raise ZeroDivisionError(record.getMessage())

    with on_log(raise_error):
        async with open_event_bus() as bus:
            await bus.on(fail, "a", on_error=Retry(2, backoff=0, then=CloseSubscription()))
            for number in range(2):
                await bus.send("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
    assert capsys.readouterr().err.count("ZeroDivisionError: ") == 2
