"""What is logged about lost events, how often, and which line of the application it names."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events
from trio_events import Event, EventBus, HandlerSet, Overflow, Subscription, open_event_bus

from ..observing import drain


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="trio_events")
    return caplog


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_INCOMING])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("pause", [0.0, 0.01, 0.3, 0.9])
async def test_a_reader_that_keeps_up_badly_is_one_episode(
    overflow: Overflow,
    size: int,
    pause: float,
    autojump_clock: MockClock,
    log: pytest.LogCaptureFixture,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=size, overflow=overflow)
        for _ in range(20):
            for _ in range(size + 1):
                await bus.send("a", "k", "/x")
            await wait_all_tasks_blocked()
            drain(subscription.channel())
            await trio.sleep(pause)
        warnings = [r for r in log.records if r.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert len(log.records) == 1
        await trio.sleep(3)
        drain(subscription.channel())
        assert [r.levelno for r in log.records] == [logging.WARNING, logging.INFO]
        assert log.messages[-1].endswith(": 20")


@pytest.mark.parametrize(
    ("overflow", "text"),
    [
        (Overflow.DROP_OLDEST, "drops the oldest events (drop_oldest)"),
        (Overflow.DROP_INCOMING, "drops new events (drop_incoming)"),
        (Overflow.CLOSE, "drops new events (close)"),
        (Overflow.LATEST, "drops the oldest events (latest)"),
    ],
)
async def test_the_log_says_which_events_are_lost(
    overflow: Overflow, text: str, autojump_clock: MockClock, log: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus() as bus:
        await bus.subscribe("a", max_buffer_size=1, overflow=overflow)
        for number in range(3):
            await bus.send("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        assert text in log.messages[0]
        assert "unread events: 1" in log.messages[0]


async def test_what_is_superseded_is_not_logged(
    autojump_clock: MockClock, log: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2, overflow=Overflow.LATEST)
        for number in range(20):
            await bus.send("a", "k", f"/{number % 2}")
        await wait_all_tasks_blocked()
        assert subscription.statistics().superseded == 18
    assert not log.messages


# ------------------------------------------------------------------------------------- who it was


async def first(_: Event) -> None:
    raise ValueError


async def second(_: Event) -> None:
    raise ValueError


def line_of(function: Callable[..., object]) -> str:
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


async def test_each_handler_of_a_set_is_named_by_the_line_that_defines_it(
    autojump_clock: MockClock, log: pytest.LogCaptureFixture
) -> None:
    handlers = HandlerSet()
    for handler in (first, second, first):
        handlers.on("a", on_error=events.Log())(handler)
    async with open_event_bus() as bus:
        subscriptions = await bus.include(handlers)
        assert [s.origin for s in subscriptions] == [line_of(f) for f in (first, second, first)]
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        named = [re.findall(r"subscribed at (.*?)\)", message)[0] for message in log.messages]
    assert sorted(named) == sorted(s.origin for s in subscriptions)


Subscribe = Callable[[EventBus], Awaitable[Subscription]]


async def by_the_bus(bus: EventBus) -> Subscription:
    return await bus.subscribe("a")


async def by_the_ambient_bus(bus: EventBus) -> Subscription:
    return await events.subscribe("a")


async def by_an_async_with(bus: EventBus) -> Subscription:
    async with await bus.subscribe("a") as subscription:
        return subscription


@pytest.mark.parametrize(
    "subscribe", [by_the_bus, by_the_ambient_bus, by_an_async_with], ids=lambda f: f.__name__
)
async def test_the_origin_is_the_line_that_subscribed(subscribe: Subscribe) -> None:
    async with open_event_bus() as bus:
        subscription = await subscribe(bus)
        file, _, line = subscription.origin.rpartition(":")
        assert file == __file__
        assert int(line) == int(line_of(subscribe).rpartition(":")[2]) + 1
        assert subscription.handler is None


class Service:
    async def handle(self, _: Event) -> None:
        """Be a method."""

    async def __call__(self, _: Event) -> None:
        """Be an object that is called."""


async def test_the_origin_of_a_handler_is_where_it_is_defined() -> None:
    service = Service()
    async with open_event_bus() as bus:
        for handler, where in (
            (first, first),
            (service.handle, Service.handle),
            (service, Service.__call__),
        ):
            subscription = await bus.on(handler, "a")
            assert subscription.origin == line_of(where)
            assert subscription.handler == handler
