"""The end of a bus with handlers: they finish what they have, within a time, and nobody else."""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    BusClosedError,
    CloseSubscription,
    DeadLetter,
    Event,
    EventBus,
    Log,
    Propagate,
    Retry,
    open_event_bus,
)
from trio_events._handlers.supervision import OnError

from ..observing import assert_books, drain, paths, tasks_living
from .handling import POLICIES, Recorder, Workers


class Leaving(Exception):
    """How the block of a bus is left by an exception."""


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as a warning."""
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


async def fill(bus: EventBus, system: str, count: int) -> None:
    for i in range(count):
        await bus.send(system, "k", f"/{i}")


# ---------------------------------------------------------------------------------------------
# Handlers finish
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("settle", [True, False], ids=["routed", "not routed yet"])
async def test_handlers_finish_all_that_was_accepted(
    concurrency: int, settle: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    async def handler(event: Event) -> None:
        await trio.sleep(1)
        seen.append(event.path)

    before = tasks_living()
    async with open_event_bus() as bus:
        subscription = await bus.on(handler, "a", concurrency=concurrency)
        await fill(bus, "a", 6)
        if settle:
            await wait_all_tasks_blocked()
        left = trio.current_time()
    assert trio.current_time() - left == 6 / concurrency
    assert sorted(seen) == [f"/{i}" for i in range(6)]
    assert_books(subscription, delivered=6)
    assert tasks_living() == before
    assert warnings(caplog) == []


async def test_idle_handlers_do_not_delay_the_end(autojump_clock: MockClock) -> None:
    async with open_event_bus(drain_timeout=math.inf) as bus:
        await bus.on(Recorder(), "a", concurrency=3)
        await bus.on(Recorder(), "b")
        await wait_all_tasks_blocked()
        left = trio.current_time()
    assert trio.current_time() == left
    async with open_event_bus(drain_timeout=math.inf) as bus:
        await bus.on(Recorder(), "a", concurrency=3)  # its tasks have not even begun
    assert trio.current_time() == left


async def test_handlers_whose_subscription_has_ended_are_waited_for(
    autojump_clock: MockClock,
) -> None:
    workers = Workers()
    async with open_event_bus(checkpoint_every=1, drain_timeout=math.inf) as bus:
        closed = await bus.on(workers, "a")
        discarded = await bus.on(workers, "b")
        await fill(bus, "a", 2)
        await bus.send("b", "k", "/b0")
        await bus.send("b", "k", "/b1")
        await wait_all_tasks_blocked()
        closed.close()
        discarded.channel().close()
        bus.close()
        await wait_all_tasks_blocked()
        assert workers.cancelled == []
        workers.release("/0", "/1", "/b0")
    assert sorted(workers.finished) == ["/0", "/1", "/b0"]
    assert_books(closed, delivered=2)
    assert_books(discarded, delivered=1, discarded=1)


async def test_the_last_handler_whose_subscription_has_ended_ends_the_draining(
    autojump_clock: MockClock,
) -> None:
    workers = Workers()
    async with open_event_bus(checkpoint_every=1, drain_timeout=math.inf) as bus:
        subscription = await bus.on(workers, "a")
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        subscription.close()
        bus.close()
        await wait_all_tasks_blocked()
        workers.release("/x")
    assert workers.finished == ["/x"]


async def test_handlers_may_send_and_other_handlers_and_subscriptions_get_it(
    autojump_clock: MockClock,
) -> None:
    done: list[str] = []
    async with open_event_bus(drain_timeout=math.inf) as bus:

        async def forward(event: Event) -> None:
            await trio.sleep(1)
            await bus.send("b", "k", event.path)

        async def finish(event: Event) -> None:
            await trio.sleep(1)  # it was idle when the event came, and may still take its time
            await bus.send("c", "k", event.path)
            done.append(event.path)

        await bus.on(forward, "a")
        await bus.on(finish, "b")
        reader = await bus.subscribe("c")
        await fill(bus, "a", 3)
    assert done == ["/0", "/1", "/2"]
    assert drain(reader.channel()) == done


async def test_an_event_that_is_on_its_way_to_an_idle_handler_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    seen: list[str] = []

    async def handler(event: Event) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(event.path)
        if event.path != "/9":
            await events.send("a", "k", f"/{len(seen)}")

    for concurrency in (1, 2):
        seen.clear()
        async with open_event_bus(drain_timeout=math.inf) as bus:
            await bus.on(handler, "a", concurrency=concurrency)
            await wait_all_tasks_blocked()
            await bus.send("a", "k", "/0")
        assert seen == [f"/{i}" for i in range(10)]


async def test_handlers_may_do_everything_while_the_bus_is_drained(
    autojump_clock: MockClock,
) -> None:
    workers, recorder = Workers(), Recorder()
    done = trio.Event()
    async with open_event_bus() as bus:

        async def handler(event: Event) -> None:
            await workers(event)
            assert (await bus.request("service", "question", "/q")).accepted
            reader = await bus.subscribe("b")
            await bus.on(recorder, "b")
            async with bus.expect("b") as waiter:
                bus.send_nowait("b", "k", "/b")
                assert (await waiter.event()).path == "/b"
            assert (await reader.channel().receive()).path == "/b"
            await events.send("b", "k", "/ambient")
            done.set()

        async def service(event: Event) -> None:
            await bus.send("service", "answer.accepted", event.path)

        await bus.on(handler, "a")
        await bus.on(service, "service", "question")
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        bus.close()
        workers.release("/x")
    assert done.is_set()
    assert recorder.seen == ["/b", "/ambient"]


async def test_failures_are_treated_while_the_bus_is_drained(autojump_clock: MockClock) -> None:
    calls: list[float] = []
    start = trio.current_time()

    async def handler(event: Event) -> None:
        calls.append(trio.current_time() - start)
        if len(calls) < 4:
            raise Leaving

    async with open_event_bus(drain_timeout=math.inf) as bus:
        await bus.on(handler, "a", on_error=Retry(4, backoff=1, jitter=0))
        await fill(bus, "a", 2)
    assert calls == [0, 1, 3, 7, 7]

    letters: list[DeadLetter] = []
    with pytest.raises(Leaving):
        async with open_event_bus(drain_timeout=math.inf, on_dead_letter=letters.append) as bus:
            calls.clear()
            await bus.on(handler, "a", on_error=Propagate())
            await bus.send("a", "k", "/x")
    assert [letter.event.path for letter in letters] == ["/x"]

    async with open_event_bus(drain_timeout=math.inf) as bus:
        calls.clear()
        subscription = await bus.on(handler, "a", on_error=CloseSubscription())
        await fill(bus, "a", 3)
    assert_books(subscription, delivered=1, discarded=2, failures=1)


async def test_plain_subscriptions_end_after_the_handlers_have_finished(
    autojump_clock: MockClock,
) -> None:
    workers = Workers()
    async with trio.open_nursery() as nursery:
        got: list[str] = []
        async with open_event_bus() as bus:
            reader = await bus.subscribe("**")

            async def read() -> None:
                async for event in reader:
                    got.append(event.path)
                got.append("the end")

            async def handler(event: Event) -> None:
                await workers(event)
                await bus.send("b", "k", "/last")

            nursery.start_soon(read)
            await bus.on(handler, "a")
            await bus.send("a", "k", "/x")
            await wait_all_tasks_blocked()
            bus.close()
            await wait_all_tasks_blocked()
            assert got == ["/x"]
            workers.release("/x")
        await wait_all_tasks_blocked()
        assert got == ["/x", "/last", "the end"]


async def test_an_event_that_another_reader_took_is_not_waited_for(
    autojump_clock: MockClock,
) -> None:
    workers = Workers()
    async with (
        trio.open_nursery() as nursery,
        open_event_bus(checkpoint_every=1, drain_timeout=math.inf) as bus,
    ):
        subscription = await bus.on(workers, "a", concurrency=2)

        async def read() -> None:
            assert subscription.receive_nowait().path == "/2"
            workers.release("/0", "/1")

        await fill(bus, "a", 3)
        await wait_all_tasks_blocked()
        bus.close()
        nursery.start_soon(read)
    assert sorted(workers.finished) == ["/0", "/1"]
    assert_books(subscription, delivered=3)


# ---------------------------------------------------------------------------------------------
# Nobody else does anything
# ---------------------------------------------------------------------------------------------


OPERATIONS: dict[str, Callable[[EventBus], Awaitable[object]]] = {
    "send": lambda bus: bus.send("a", "k", "/x"),
    "subscribe": lambda bus: bus.subscribe("a"),
    "on": lambda bus: bus.on(Recorder(), "a"),
    "wait_for": lambda bus: bus.wait_for("a"),
    "request": lambda bus: bus.request("a", "k", "/x"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_outsiders_are_refused_at_once(operation: str, autojump_clock: MockClock) -> None:
    workers = Workers()
    async with trio.open_nursery() as nursery, open_event_bus() as bus:
        await bus.on(workers, "a")
        await bus.send("a", "k", "/0")
        await wait_all_tasks_blocked()
        bus.close()
        now = trio.current_time()
        for _ in range(2):  # and it's persistent
            with pytest.raises(BusClosedError):
                await OPERATIONS[operation](bus)
            with pytest.raises(BusClosedError):
                bus.send_nowait("a", "k", "/x")

        async def elsewhere() -> None:
            with pytest.raises(BusClosedError):
                await OPERATIONS[operation](bus)
            workers.release("/0")

        nursery.start_soon(elsewhere)
        await wait_all_tasks_blocked()
        assert trio.current_time() == now
    assert workers.begun == ["/0"]


async def test_outsiders_that_wait_to_send_are_refused_and_insiders_go_on(
    autojump_clock: MockClock,
) -> None:
    workers = Workers()
    refused: list[str] = []
    async with trio.open_nursery() as nursery, open_event_bus(drain_timeout=100) as bus:
        reader = await bus.subscribe("full", max_buffer_size=1)
        await bus.send("full", "k", "/fills it")

        async def outsider(path: str) -> None:
            try:
                await bus.send("full", "k", path)
            except BusClosedError:
                refused.append(path)

        async def insider(event: Event) -> None:
            await bus.send("full", "k", "/insider")
            await workers(event)

        await bus.on(insider, "a")
        await wait_all_tasks_blocked()
        nursery.start_soon(outsider, "/before")
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        nursery.start_soon(outsider, "/after")
        await wait_all_tasks_blocked()
        assert bus.statistics().tasks_waiting_send == 3
        bus.close()
        await wait_all_tasks_blocked()
        assert sorted(refused) == ["/after", "/before"]
        assert bus.statistics().tasks_waiting_send == 1
        assert (await reader.channel().receive()).path == "/fills it"
        assert (await reader.channel().receive()).path == "/insider"
        workers.release("/x")
    assert workers.finished == ["/x"]


async def test_what_comes_from_callbacks_is_refused_and_counted(
    autojump_clock: MockClock,
) -> None:
    workers = Workers()
    async with open_event_bus() as bus:
        await bus.on(workers, "a")
        await bus.send("a", "k", "/0")
        await wait_all_tasks_blocked()
        bus.send_soon("a", "k", "/x")
        bus.close()
        with pytest.raises(BusClosedError):
            bus.send_soon("a", "k", "/y")
        await wait_all_tasks_blocked()
        assert bus.statistics().refused == 1
        workers.release("/0")
    assert workers.begun == ["/0"]


async def test_tasks_that_handlers_start_are_inside(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    async with open_event_bus() as bus:

        async def later(path: str) -> None:
            await trio.sleep(1)
            await bus.send("b", "k", path)

        async def handler(event: Event) -> None:
            async with trio.open_nursery() as outer, trio.open_nursery() as inner:
                outer.start_soon(later, "/outer")
                inner.start_soon(later, "/inner")

        await bus.on(handler, "a")
        await bus.on(recorder, "b")
        await bus.send("a", "k", "/x")
    assert sorted(recorder.seen) == ["/inner", "/outer"]


async def test_tasks_that_handlers_start_elsewhere_are_outside(
    autojump_clock: MockClock,
) -> None:
    refused = False
    async with trio.open_nursery() as nursery, open_event_bus() as bus:

        async def later() -> None:
            nonlocal refused
            await trio.sleep(1)
            try:
                await bus.send("a", "k", "/late")
            except BusClosedError:
                refused = True

        async def handler(event: Event) -> None:
            nursery.start_soon(later)
            await trio.sleep(2)

        await bus.on(handler, "a")
        await bus.send("a", "k", "/x")
    assert refused


async def test_threads_of_handlers_are_inside() -> None:
    recorder = Recorder()
    async with open_event_bus(drain_timeout=60) as bus:

        def in_thread(path: str) -> None:
            trio.from_thread.run(bus.send, "b", "k", path)
            trio.from_thread.run_sync(bus.send_nowait, "b", "k", f"{path}!")

        async def handler(event: Event) -> None:
            await trio.to_thread.run_sync(in_thread, event.path)

        await bus.on(handler, "a", concurrency=2)
        await bus.on(recorder, "b")
        await bus.send("a", "k", "/0")
        await bus.send("a", "k", "/1")
    assert sorted(recorder.seen) == ["/0", "/0!", "/1", "/1!"]


async def test_send_soon_is_refused_in_handlers_too() -> None:
    recorder = Recorder()
    async with open_event_bus() as bus:

        def send_soon(path: str) -> None:
            with pytest.raises(BusClosedError):
                bus.send_soon("b", "k", path)

        async def handler(event: Event) -> None:
            await wait_all_tasks_blocked()  # until the block has been left
            send_soon("/refused")
            await trio.to_thread.run_sync(send_soon, "/refused")
            bus.send_nowait("b", "k", "/sent")

        await bus.on(handler, "a")
        await bus.on(recorder, "b")
        await bus.send("a", "k", "/x")
    assert recorder.seen == ["/sent"]
    assert bus.statistics().refused == 0


async def test_threads_of_others_are_outside() -> None:
    workers = Workers()
    async with open_event_bus(drain_timeout=60) as bus:
        await bus.on(workers, "a")
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        bus.close()
        with pytest.raises(BusClosedError):
            await trio.to_thread.run_sync(
                functools.partial(trio.from_thread.run, bus.send, "a", "k", "/late")
            )
        workers.release("/x")


# ---------------------------------------------------------------------------------------------
# The time that there is
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.5, 3, 10.0])
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
async def test_after_the_timeout_handlers_are_cancelled_and_what_is_left_is_counted_and_logged(
    timeout: float,
    policy: OnError,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = tasks_living()
    workers = Workers()
    async with open_event_bus(drain_timeout=timeout, slow_handler_after=math.inf) as bus:
        subscription = await bus.on(workers, "a", "k", concurrency=2, on_error=policy)
        await bus.on(Recorder(), "a")
        await fill(bus, "a", 5)
        await wait_all_tasks_blocked()
        left = trio.current_time()
    assert trio.current_time() - left == timeout
    assert sorted(workers.cancelled) == ["/0", "/1"] == workers.begun
    assert_books(subscription, delivered=2, discarded=3)
    [warning] = warnings(caplog)
    assert re.fullmatch(
        rf"subscription 'a' kind='k' \(subscribed at .*handling.py:\d+\): drain_timeout "
        rf"\({timeout:g} s\) expired; calls of Workers\(.*\) cancelled: 2, events discarded: 3",
        warning,
    )
    assert tasks_living() == before


async def test_without_time_what_is_not_routed_yet_is_left(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    async with open_event_bus(drain_timeout=0) as bus:
        subscription = await bus.on(recorder, "a")
        await wait_all_tasks_blocked()
        await fill(bus, "a", 3)
    books = subscription.statistics()
    assert books.matched == 3 == books.delivered + books.discarded
    assert recorder.seen == [f"/{i}" for i in range(books.delivered)]
    assert len(warnings(caplog)) == (books.discarded > 0)


async def test_without_time_a_handler_that_is_done_leaves_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    async with open_event_bus(drain_timeout=0) as bus:
        await bus.on(recorder, "a")
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
    assert recorder.seen == ["/x"]
    assert warnings(caplog) == []


async def test_a_cancelled_call_is_logged_even_if_nothing_else_is_left(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus(drain_timeout=1) as bus:
        await bus.on(Workers(), "a")
        await bus.send("a", "k", "/x")
    [warning] = warnings(caplog)
    assert "cancelled: 1, events discarded: 0" in warning


async def test_the_time_may_be_unlimited(autojump_clock: MockClock) -> None:
    async with open_event_bus(drain_timeout=math.inf) as bus:

        async def handler(event: Event) -> None:
            await trio.sleep(1000)

        subscription = await bus.on(handler, "a")
        await bus.send("a", "k", "/x")
    assert_books(subscription, delivered=1)


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        (-1, ValueError),
        (-math.inf, ValueError),
        (math.nan, ValueError),
        ("1", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
async def test_an_invalid_duration_is_refused(timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^drain_timeout must be "):
        async with open_event_bus(drain_timeout=timeout):
            raise AssertionError("not reached")


@pytest.mark.parametrize("pause", [0, 1])
async def test_handlers_that_keep_each_other_busy_end_at_the_timeout(
    pause: int, autojump_clock: MockClock
) -> None:
    before = tasks_living()
    async with open_event_bus(drain_timeout=20) as bus:

        async def ping(event: Event) -> None:
            await trio.sleep(pause)
            if pause == 0:  # then somebody always has something to do, and no time would pass
                autojump_clock.jump(0.1)
            await bus.send("b" if event.system == "a" else "a", "k", "/x")

        await bus.on(ping, "a")
        await bus.on(ping, "b", on_error=Retry(jitter=0))
        await bus.send("a", "k", "/x")
        left = trio.current_time()
    assert trio.current_time() - left == pytest.approx(20, abs=1)
    assert tasks_living() == before


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
async def test_handlers_that_wait_to_send_at_the_timeout_are_cancelled(
    policy: OnError, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    before = tasks_living()
    async with open_event_bus(drain_timeout=0.5) as bus:
        await bus.subscribe("full", max_buffer_size=1)

        async def flood(event: Event) -> None:
            while True:
                await bus.send("full", "k", "/x")

        subscription = await bus.on(flood, "a", on_error=policy)
        await fill(bus, "a", 2)
        await wait_all_tasks_blocked()
    assert_books(subscription, delivered=1, discarded=1)
    [warning] = warnings(caplog)
    assert "cancelled: 1, events discarded: 1" in warning
    assert tasks_living() == before


async def test_handlers_that_hold_each_other_up_at_the_timeout_are_cancelled(
    autojump_clock: MockClock,
) -> None:
    before = tasks_living()
    async with open_event_bus(drain_timeout=1) as bus:
        subscriptions = []
        for system, other in (("a", "b"), ("b", "a")):

            async def flood(event: Event, other: str = other) -> None:
                while True:
                    async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # it has to be another task
                        nursery.start_soon(bus.send, other, "k", "/x")

            subscriptions.append(await bus.on(flood, system, max_buffer_size=1))
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
    for subscription in subscriptions:
        assert subscription.statistics().handling == 0
        assert subscription.statistics().queued == 0
    assert tasks_living() == before


async def test_what_cancelled_handlers_still_send_is_refused(autojump_clock: MockClock) -> None:
    refused = 0
    async with open_event_bus(drain_timeout=1) as bus:

        async def handler(event: Event) -> None:
            nonlocal refused
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    try:
                        await bus.send("a", "k", "/last words")
                    except BusClosedError:
                        refused += 1

        subscription = await bus.on(handler, "a")
        await bus.send("a", "k", "/x")
    assert refused == 1
    assert_books(subscription, delivered=1)


async def test_a_pause_before_a_restart_ends_at_the_timeout(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(event: Event) -> None:
        raise Leaving

    async with open_event_bus(drain_timeout=1) as bus:
        subscription = await bus.on(handler, "a", on_error=Retry(backoff=100, max_backoff=100))
        await fill(bus, "a", 2)
    assert_books(subscription, delivered=1, discarded=1, failures=1)
    [warning] = warnings(caplog)
    assert "cancelled: 1, events discarded: 1" in warning


# ---------------------------------------------------------------------------------------------
# Ways of ending
# ---------------------------------------------------------------------------------------------


async def test_close_from_inside_drains_while_the_block_goes_on(
    autojump_clock: MockClock,
) -> None:
    workers = Workers()
    async with open_event_bus(drain_timeout=5) as bus:
        reader = await bus.subscribe("a")
        subscription = await bus.on(workers, "a")
        await fill(bus, "a", 3)
        bus.close()
        bus.close()
        workers.release("/0", "/1")
        await trio.sleep(1)
        bus.close()
        assert workers.finished == ["/0", "/1"]
        await trio.sleep(10)  # the time is over
        assert workers.cancelled == ["/2"]
        assert_books(subscription, delivered=3)
        assert paths([event async for event in reader]) == ["/0", "/1", "/2"]
        assert repr(bus) == "<EventBus for 'anybody', closed, 3 events accepted>"


async def test_leaving_by_an_exception_does_not_drain(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    before = tasks_living()
    workers = Workers()
    with pytest.raises(Leaving):
        async with open_event_bus() as bus:
            await bus.on(workers, "a")
            await fill(bus, "a", 3)
            await wait_all_tasks_blocked()
            start = trio.current_time()
            raise Leaving
    assert trio.current_time() == start
    assert (workers.begun, workers.cancelled) == (["/0"], ["/0"])
    assert tasks_living() == before
    [warning] = warnings(caplog)  # what is lost is said
    assert "an exception ended the bus" in warning
    assert warning.endswith("cancelled: 1, events discarded: 2")


@pytest.mark.parametrize("when", ["in the block", "while it drains", "after close"])
async def test_leaving_by_cancellation_does_not_drain(when: str, autojump_clock: MockClock) -> None:
    before = tasks_living()
    workers = Workers()
    start = trio.current_time()
    with trio.move_on_after(1) as scope:
        async with open_event_bus(drain_timeout=math.inf) as bus:
            await bus.on(workers, "a")
            await fill(bus, "a", 3)
            await wait_all_tasks_blocked()
            if when == "after close":
                bus.close()
            if when != "while it drains":
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() - start == 1
    assert (workers.begun, workers.cancelled) == (["/0"], ["/0"])
    assert tasks_living() == before


async def test_an_exception_after_close_ends_the_draining(autojump_clock: MockClock) -> None:
    before = tasks_living()
    workers = Workers()
    with pytest.raises(Leaving):
        async with open_event_bus(drain_timeout=math.inf) as bus:
            await bus.on(workers, "a")
            await fill(bus, "a", 3)
            await wait_all_tasks_blocked()
            bus.close()
            raise Leaving
    assert workers.cancelled == ["/0"]
    assert tasks_living() == before


async def test_a_handler_that_closes_the_bus_is_waited_for(autojump_clock: MockClock) -> None:
    seen: list[str] = []
    async with open_event_bus() as bus:

        async def handler(event: Event) -> None:
            bus.close()
            await trio.sleep(1)
            await bus.subscribe("b")
            seen.append(event.path)

        await bus.on(handler, "a")
        await fill(bus, "a", 2)
        await trio.sleep(1.5)
        assert seen == ["/0"]
    assert seen == ["/0", "/1"]


async def test_nested_buses_drain_from_inside_out(autojump_clock: MockClock) -> None:
    order: list[str] = []
    before = tasks_living()
    async with open_event_bus(drain_timeout=math.inf) as outer:

        async def in_outer(event: Event) -> None:
            await trio.sleep(1)
            order.append(f"outer {event.path}")

        await outer.on(in_outer, "a")
        async with open_event_bus(drain_timeout=math.inf) as inner:

            async def in_inner(event: Event) -> None:
                await trio.sleep(2)
                await outer.send("a", "k", event.path)
                order.append(f"inner {event.path}")

            await inner.on(in_inner, "a")
            await inner.send("a", "k", "/x")
        order.append("inner left")
        await outer.send("a", "k", "/y")
    assert order == ["inner /x", "inner left", "outer /x", "outer /y"]
    assert tasks_living() == before


async def test_a_bus_in_a_handler_is_inside(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    async with open_event_bus(drain_timeout=math.inf) as outer:

        async def handler(event: Event) -> None:
            async def in_inner(event: Event) -> None:
                await trio.sleep(1)
                await outer.send("b", "k", event.path)

            async with open_event_bus(drain_timeout=math.inf) as inner:
                await inner.on(in_inner, "a")
                await inner.send("a", "k", event.path)

        await outer.on(handler, "a", on_error=Log())
        await outer.on(recorder, "b")
        await fill(outer, "a", 2)
    assert recorder.seen == ["/0", "/1"]


async def test_the_handlers_of_an_inner_bus_are_outside_of_the_outer_one(
    autojump_clock: MockClock,
) -> None:
    workers = Workers()
    refused = False
    async with open_event_bus() as outer, open_event_bus() as inner:

        async def handler(event: Event) -> None:
            nonlocal refused
            try:
                await outer.send("a", "k", "/late")
            except BusClosedError:
                refused = True

        await outer.on(workers, "a")
        await inner.on(handler, "b")
        await outer.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        outer.close()
        await inner.send("b", "k", "/x")
        await wait_all_tasks_blocked()
        workers.release("/x")
    assert refused
