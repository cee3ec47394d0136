"""Loss and stalls are loud: what is logged, how often, and whom it blames."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import Overflow, open_event_bus

from ..observing import paths

LOSSY = [Overflow.DROP_OLDEST, Overflow.DROP_INCOMING, Overflow.CLOSE]


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """What was logged at a level since the last call."""
    found = [
        r.getMessage() for r in caplog.records if (r.name, r.levelno) == ("trio_events", level)
    ]
    if level == logging.INFO:
        caplog.clear()
    return found


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="trio_events")
    return caplog


@contextmanager
def on_log(act: Callable[[logging.LogRecord], object]) -> Iterator[None]:
    """Call something for each record of the package's logger."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            act(record)

    log, handler = logging.getLogger("trio_events"), Handler()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@pytest.mark.parametrize("overflow", LOSSY)
async def test_the_first_drop_of_an_episode_warns_once(
    overflow: Overflow, log: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus() as bus:
        await bus.subscribe("a.*", "k.**", max_buffer_size=4, overflow=overflow)
        for i in range(20):
            await bus.send("a.b", "k", f"/{i}")
            await wait_all_tasks_blocked()
        [warning] = messages(log, logging.WARNING)
    lost = "the oldest" if overflow is Overflow.DROP_OLDEST else "new"
    assert re.fullmatch(
        rf"subscription 'a\.\*' kind='k\.\*\*' \(subscribed at {re.escape(__file__)}:\d+\) "
        rf"is full and drops {lost} events \({overflow.value}\); unread events: 4",
        warning,
    )


async def test_an_episode_ends_when_the_buffer_is_half_empty_and_a_second_has_passed(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=4, overflow=Overflow.DROP_OLDEST)

        async def send(count: int) -> None:
            for i in range(count):
                await bus.send("a", "k", f"/{i}")
            await wait_all_tasks_blocked()

        await send(7)
        assert len(messages(log, logging.WARNING)) == 1
        assert messages(log, logging.INFO) == []
        subscription.channel().receive_nowait()  # three of four: the episode goes on
        await send(2)
        assert messages(log, logging.WARNING) == []
        subscription.channel().receive_nowait()
        await trio.sleep(0.9)
        subscription.channel().receive_nowait()  # two of four, but it has just lost an event
        assert messages(log, logging.INFO) == []
        await trio.sleep(0.2)  # it ends
        [summary] = messages(log, logging.INFO)
        assert "has stopped dropping events; dropped: 4" in summary
        await send(3)
        assert len(messages(log, logging.WARNING)) == 1  # another one
        await trio.sleep(5)
        assert messages(log, logging.INFO) == []
        subscription.channel().receive_nowait()
        assert messages(log, logging.INFO) == []
        subscription.channel().receive_nowait()  # two of four: it ends at once
        [summary] = messages(log, logging.INFO)
        assert "has stopped dropping events; dropped: 1" in summary
        await send(3)
        assert len(messages(log, logging.WARNING)) == 1
        subscription.close()
        await wait_all_tasks_blocked()
        [summary] = messages(log, logging.INFO)
        assert "has stopped dropping events; dropped: 1" in summary


async def test_nothing_is_logged_where_nothing_is_lost(log: pytest.LogCaptureFixture) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=4, overflow=Overflow.DROP_OLDEST)
        for _ in range(4):
            await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        subscription.channel().close()
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
    assert log.records == []


@pytest.mark.parametrize("start", [0, 0.1, 0.3, 5.7])  # some durations are rounded down
async def test_a_sender_that_waits_is_reported_after_1_2_4_seconds_and_so_on(
    start: float, log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    await trio.sleep(start)
    times: list[float] = []

    class Clock(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            times.append(trio.current_time() - start)

    handler = Clock()
    logging.getLogger("trio_events").addHandler(handler)
    try:
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            await bus.subscribe("a.**", max_buffer_size=1)
            bus.send_nowait("a", "k", "/fills it")
            await wait_all_tasks_blocked()
            start = trio.current_time()
            nursery.start_soon(bus.send, "a", "k", "/waits")
            await trio.sleep(250)
            nursery.cancel_scope.cancel()
    finally:
        logging.getLogger("trio_events").removeHandler(handler)
    assert times == pytest.approx([1, 2, 4, 8, 16, 32, 64, 124, 184, 244])
    first, *_ = messages(log, logging.WARNING)
    assert re.fullmatch(
        rf"subscription 'a\.\*\*' \(subscribed at {re.escape(__file__)}:\d+\) "
        "is full: senders waiting for room: 1, the first for 1 s",
        first,
    )


async def test_short_waits_are_not_reported(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)

        async def slow_reader() -> None:
            async for _ in subscription:
                await trio.sleep(0.9)

        nursery.start_soon(slow_reader)
        for _ in range(100):
            await bus.send("a", "k", "/x")
            await wait_all_tasks_blocked()
        subscription.close()
        nursery.cancel_scope.cancel()
    assert log.records == []


async def test_a_long_wait_after_a_stall_is_reported_after_one_second_again(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        bus.send_nowait("a", "k", "/fills it")
        await wait_all_tasks_blocked()
        for _ in range(2):
            with trio.move_on_after(3):
                await bus.send("a", "k", "/waits")
            await trio.sleep(100)
        assert len(messages(log, logging.WARNING)) == 4
        assert subscription.statistics().tasks_waiting_send == 0


async def test_a_sender_that_begins_to_wait_after_a_long_stall_is_reported_after_one_second(
    autojump_clock: MockClock,
) -> None:
    times: list[float] = []
    with on_log(lambda _: times.append(trio.current_time() - start)):
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            start = trio.current_time()
            subscription = await bus.subscribe("a", max_buffer_size=1)
            bus.send_nowait("a", "k", "/fills it")
            await wait_all_tasks_blocked()
            nursery.start_soon(bus.send, "a", "k", "/waits for 70 s")
            await trio.sleep(70)
            subscription.channel().receive_nowait()
            await wait_all_tasks_blocked()
            nursery.start_soon(bus.send, "a", "k", "/waits for 20 s")
            await trio.sleep(20)
            nursery.cancel_scope.cancel()
    assert times == pytest.approx([1, 2, 4, 8, 16, 32, 64, 71, 72, 74, 78, 86])


async def test_a_log_handler_may_close_the_bus(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        with on_log(lambda _: bus.close()):
            await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.DROP_INCOMING)
            other = await bus.subscribe("a")
            for number in range(3):
                bus.send_nowait("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
    assert paths([event async for event in other]) == ["/0", "/1", "/2"]
    assert other.statistics().matched == 3


async def test_a_log_handler_that_raises_costs_other_subscriptions_no_event(
    autojump_clock: MockClock,
) -> None:
    def fail(record: logging.LogRecord) -> None:
        raise ValueError(record.getMessage())

    other = None
    with on_log(fail):
        try:
            async with open_event_bus() as bus:
                await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.DROP_INCOMING)
                other = await bus.subscribe("a")
                for number in range(3):
                    bus.send_nowait("a", "k", f"/{number}")
                await wait_all_tasks_blocked()
        except ValueError:
            pass
    assert other is not None
    assert other.statistics().matched == 3  # they were accepted: sends returned


async def test_an_episode_of_loss_ends_once_though_a_log_handler_reads(
    autojump_clock: MockClock,
) -> None:
    ends: list[str] = []
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=6, overflow=Overflow.DROP_INCOMING)

        def read(record: logging.LogRecord) -> None:
            if record.levelno == logging.INFO:
                ends.append(record.getMessage())
                if subscription.statistics().queued:
                    subscription.channel().receive_nowait()

        with on_log(read):
            for number in range(8):
                bus.send_nowait("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
            for _ in range(3):
                subscription.channel().receive_nowait()
            await trio.sleep(2)
    assert len(ends) == 1
