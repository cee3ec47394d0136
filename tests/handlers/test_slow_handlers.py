"""A call of a handler that lasts is logged after 10, 20, 40 … seconds."""

from __future__ import annotations

import logging
import math
import re
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_events import Event, EventBus, Retry, open_event_bus
from trio_events._core.notices import HandlerLasts

from .test_consumers import Failure


def reports(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    """The path of the event and the seconds of each report."""
    found = [
        re.search(r"has been running for (\d+) s, for .* path='(.*)'$", message)
        for message in caplog.messages
    ]
    return [(match[2], int(match[1])) for match in found if match is not None]


async def sleep(event: Event[float]) -> None:
    await trio.sleep(event.data)


async def send(bus: EventBus, path: str, seconds: float) -> None:
    await bus.send("a", "k", path, seconds)


async def test_a_call_that_lasts_is_logged_after_10_20_40_seconds(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.on(sleep, "a", "k")
        await send(bus, "/x", 100)
        for seconds, count in [(9, 0), (2, 1), (8, 1), (2, 2), (18, 2), (2, 3), (38, 3), (2, 4)]:
            await trio.sleep(seconds)
            assert len(reports(caplog)) == count
        await trio.sleep(100)
        assert reports(caplog) == [("/x", seconds) for seconds in (10, 20, 40, 80)]
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * 4
        assert caplog.messages[0] == (
            f"subscription 'a' kind='k' (subscribed at {subscription.origin}): sleep has been "
            "running for 10 s, for system='a' kind='k' path='/x'"
        )
        await send(bus, "/y", 15)
        await trio.sleep(20)
        assert reports(caplog)[4:] == [("/y", 10)]


async def test_calls_that_run_at_once_are_each_logged_in_their_time(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus() as bus:
        await bus.on(sleep, "a", concurrency=3)
        for path, seconds in [("/0", 25), ("/4.5", 21), ("/8.5", 5), ("/9.5", 9), ("/13.5", 12)]:
            await trio.sleep_until(float(path[1:]))
            await send(bus, path, seconds)
        await trio.sleep(100)
    # "/9.5" begins at 13.5 s, in the place of "/8.5", and "/13.5" after it, at 22.5 s.
    assert reports(caplog) == [("/0", 10), ("/4.5", 10), ("/0", 20), ("/4.5", 20), ("/13.5", 10)]


async def test_many_short_calls_are_not_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus(drain_timeout=math.inf) as bus:
        await bus.on(sleep, "a")
        for number in range(100):
            await send(bus, f"/{number}", 1)
    assert trio.current_time() == 100
    assert reports(caplog) == []


async def test_the_pauses_between_attempts_are_part_of_the_call(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = 0

    async def fail_once(_: Event) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise Failure

    async with open_event_bus() as bus:
        await bus.on(fail_once, "a", on_error=Retry(2, backoff=30, jitter=0))
        await send(bus, "/x", 0)
        await trio.sleep(50)
    assert attempts == 2
    assert reports(caplog) == [("/x", 10), ("/x", 20)]


async def test_a_call_that_hangs_while_the_bus_closes_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus(drain_timeout=25) as bus:
        await bus.on(sleep, "a")
        await send(bus, "/x", math.inf)
    assert reports(caplog) == [("/x", 10), ("/x", 20)]


@pytest.mark.parametrize("after", [0.25, 3, 1e-300])
async def test_the_first_report_comes_when_it_is_asked_for(
    after: float, autojump_clock: MockClock
) -> None:
    told: list[tuple[float, float]] = []

    def tell(notice: object) -> None:
        if isinstance(notice, HandlerLasts):
            told.append((trio.current_time(), notice.seconds))

    async with open_event_bus(slow_handler_after=after) as bus:
        bus._core.notices.listeners[:] = [tell]
        await bus.on(sleep, "a")
        await trio.sleep(1)
        await send(bus, "/x", 3.5)
        await trio.sleep(10)
    at, lasted = told[0]
    assert at == pytest.approx(1 + after)
    assert lasted == pytest.approx(after)
    if after == 0.25:
        assert [seconds for _, seconds in told] == [0.25, 0.5, 1, 2]
    assert len(told) < 100


async def test_with_infinity_nothing_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus(slow_handler_after=math.inf) as bus:
        await bus.on(sleep, "a")
        await send(bus, "/x", 1000)
        await trio.sleep(2000)
    assert caplog.messages == []


async def test_with_infinity_senders_that_wait_for_a_handler_are_logged_all_the_same(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus(slow_handler_after=math.inf, drain_timeout=100) as bus:
        await bus.on(sleep, "a", max_buffer_size=1)
        for number in range(3):
            await send(bus, f"/{number}", 20)
            await trio.sleep(1)
    assert len(caplog.messages) > 1
    assert all("senders waiting for room" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (-math.inf, ValueError),
        (math.nan, ValueError),
        (10**400, ValueError),
        ("10", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
    ids=repr,
)
def test_an_invalid_slow_handler_after_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^slow_handler_after must be "):
        open_event_bus(slow_handler_after=value)
