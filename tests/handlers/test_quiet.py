"""When all is quiet: `wait_idle`, `Subscription.drain`, and the end of a bus with consumers."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    BusClosedError,
    DeadlockError,
    Event,
    EventBus,
    Overflow,
    Subscription,
    open_event_bus,
)

from ..observing import Cancellation, assert_balanced, at_every_checkpoint, drain, tasks_living
from .accounts import Accounts
from .handling import Recorder, Workers
from .test_consumers import Failure, read


async def stage(
    source: Subscription, target: str | None = None, *, seconds: float = 0, got: list[str]
) -> None:
    """Read, work, and send what was read on."""
    async for event in source:
        await trio.sleep(seconds)
        got.append(event.path)
        if target is not None:
            await events.send(target, "k", event.path)


async def send_all(bus: EventBus, system: str, count: int) -> list[str]:
    for number in range(count):
        await bus.send(system, "k", f"/{number}")
    return [f"/{number}" for number in range(count)]


# ---------------------------------------------------------------------------------------------
# The end of a bus with consumers
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "in reverse"])
@pytest.mark.parametrize("slow", ["a", "b", "c"])
async def test_a_pipeline_of_consumers_finishes_whatever_the_order(
    reverse: bool, slow: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    got: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    async with open_event_bus(drain_timeout=math.inf) as bus:
        stages: list[tuple[str, str | None]] = [("a", "b"), ("b", "c"), ("c", None)]
        for system, target in reversed(stages) if reverse else stages:
            source = await bus.subscribe(system, max_buffer_size=2)
            pause = 0.25 if system == slow else 0
            bus.start_soon(partial(stage, source, target, seconds=pause, got=got[system]))
        expected = await send_all(bus, "a", 10)
    assert got == {"a": expected, "b": expected, "c": expected}
    assert trio.current_time() == 2.5
    assert caplog.messages == []


@pytest.mark.parametrize("first", ["handler", "consumer"])
async def test_handlers_and_consumers_may_follow_each_other(
    first: str, autojump_clock: MockClock
) -> None:
    got: list[str] = []
    seen: list[str] = []
    async with open_event_bus(drain_timeout=math.inf) as bus:

        async def forward(event: Event) -> None:
            await trio.sleep(1)
            seen.append(event.path)
            await bus.send("b" if first == "handler" else "c", "k", event.path)

        if first == "handler":
            await bus.on(forward, "a")
            bus.start_soon(partial(stage, await bus.subscribe("b"), seconds=2, got=got))
        else:
            bus.start_soon(partial(stage, await bus.subscribe("a"), "b", seconds=2, got=got))
            await bus.on(forward, "b")
        expected = await send_all(bus, "a", 4)
    assert got == seen == expected
    assert trio.current_time() == 9


async def test_what_one_consumer_sends_at_the_end_of_an_event_is_read_by_itself(
    autojump_clock: MockClock,
) -> None:
    got: list[str] = []

    async def count_down() -> None:
        async for event in await events.subscribe("a", data=int):
            got.append(event.path)
            if event.data:
                await trio.sleep(1)
                await events.send("a", "k", event.path, event.data - 1)

    async with open_event_bus() as bus:
        bus.start_soon(count_down)
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/x", 3)
    assert got == ["/x"] * 4
    assert trio.current_time() == 3


@pytest.mark.parametrize("how", ["leave", "close", "BusClosedError"])
async def test_every_way_to_close_lets_consumers_finish(
    how: str, autojump_clock: MockClock
) -> None:
    got: list[str] = []
    expected: list[str] = []

    async def program() -> None:
        async with open_event_bus() as bus:
            bus.start_soon(partial(stage, await bus.subscribe("a"), seconds=1, got=got))
            expected.extend(await send_all(bus, "a", 3))
            if how != "leave":
                bus.close()
            if how == "BusClosedError":
                await bus.send("a", "k", "/late")

    if how == "BusClosedError":
        with pytest.raises(BusClosedError):
            await program()
    else:
        await program()
    assert got == expected
    assert trio.current_time() == 3


async def test_a_consumer_that_fails_after_the_block_was_refused_leaves_beside_its_error(
    autojump_clock: MockClock,
) -> None:
    async def fail_later() -> None:
        await trio.sleep(1)
        raise Failure

    with pytest.RaisesGroup(Failure, BusClosedError):
        async with open_event_bus() as bus:
            bus.start_soon(fail_later)
            bus.close()
            await bus.send("a", "k", "/late")
    assert trio.current_time() == 1


async def test_tasks_of_a_consumer_belong_to_it(autojump_clock: MockClock) -> None:
    got: list[str] = []
    before = tasks_living()

    async def crew(source: Subscription) -> None:
        async with trio.open_nursery() as outer:
            outer.start_soon(partial(stage, source, "b", seconds=3, got=[]))
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(partial(stage, source, "b", seconds=3, got=[]))

    async with open_event_bus(drain_timeout=math.inf) as bus:
        bus.start_soon(crew, await bus.subscribe("a"))
        bus.start_soon(read, await bus.subscribe("b"), got)
        expected = await send_all(bus, "a", 6)
    assert sorted(got) == expected
    assert trio.current_time() == 6
    assert tasks_living() == before


async def test_a_consumer_that_does_something_else_than_wait_for_its_tasks_is_working(
    autojump_clock: MockClock,
) -> None:
    got: list[str] = []

    async def crew() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, await events.subscribe("a"), got)
            await trio.sleep(5)
            await events.send("a", "k", "/late")

    async with open_event_bus() as bus:
        bus.start_soon(crew)
        await wait_all_tasks_blocked()
    assert got == ["/late"]
    assert trio.current_time() == 5


async def test_a_consumer_that_ends_while_its_tasks_read_is_not_waited_for_longer(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def readers(got: list[str]) -> AsyncGenerator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, await events.subscribe("a"), got)
            yield

    async def crew(got: list[str]) -> None:
        async with readers(got):
            await trio.sleep(2)

    got: list[str] = []
    async with open_event_bus(drain_timeout=math.inf) as bus:
        bus.start_soon(crew, got)
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/x")
    assert got == ["/x"]
    assert trio.current_time() == 2


async def test_an_idle_bus_closes_at_once(autojump_clock: MockClock) -> None:
    got: list[str] = []
    async with open_event_bus(drain_timeout=math.inf) as bus:
        for _ in range(3):
            bus.start_soon(read, await bus.subscribe("a"), got)
        await bus.on(Recorder(), "a", concurrency=3)
    assert trio.current_time() == 0


async def test_what_a_consumer_does_after_its_loop_has_the_rest_of_the_time(
    autojump_clock: MockClock,
) -> None:
    done: list[str] = []

    async def consume(source: Subscription) -> None:
        async for event in source:
            await trio.sleep(2)
            done.append(event.path)
        await trio.sleep(3)
        with pytest.raises(BusClosedError):
            await events.send("a", "k", "/x")
        done.append("the end")

    async with open_event_bus(drain_timeout=6) as bus:
        bus.start_soon(consume, await bus.subscribe("a"))
        await bus.send("a", "k", "/x")
    assert done == ["/x", "the end"]
    assert trio.current_time() == 5


async def test_a_consumer_that_reads_one_subscription_after_the_other_reads_both(
    autojump_clock: MockClock,
) -> None:
    got: list[str] = []

    async def consume(*sources: Subscription) -> None:
        for source in sources:
            await read(source, got)

    async with open_event_bus(drain_timeout=math.inf) as bus:
        bus.start_soon(consume, await bus.subscribe("a"), await bus.subscribe("b"))
        await bus.send("b", "k", "/b")
        await bus.send("a", "k", "/a")
    assert got == ["/a", "/b"]


async def test_a_reader_of_another_bus_is_working(autojump_clock: MockClock) -> None:
    async with open_event_bus() as other, open_event_bus(drain_timeout=3) as bus:
        bus.start_soon(read, await other.subscribe("a"), [])
        await wait_all_tasks_blocked()
    assert trio.current_time() == 3


async def test_a_call_of_a_handler_is_under_way_even_while_it_waits_to_read(
    autojump_clock: MockClock,
) -> None:
    recorder = Recorder()

    async def handle(event: Event) -> None:
        with trio.move_on_after(2):
            await other.receive()
        await events.send("b", "k", event.path)

    async with open_event_bus() as bus:
        other = await bus.subscribe("never")
        await bus.on(handle, "a")
        await bus.on(recorder, "b")
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
    assert recorder.seen == ["/x"]
    assert trio.current_time() == 2


async def test_a_consumer_that_has_just_been_started_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    recorder = Recorder()

    async def send_on(path: str) -> None:
        await events.send("b", "k", path)

    async def start_others(source: Subscription) -> None:
        async for event in source:
            events.start_soon(send_on, event.path)

    async with open_event_bus() as bus:
        await bus.on(recorder, "b")
        bus.start_soon(start_others, await bus.subscribe("a"))
        await wait_all_tasks_blocked()
        await send_all(bus, "a", 3)
    assert sorted(recorder.seen) == ["/0", "/1", "/2"]


async def test_outsiders_are_refused_while_consumers_finish(autojump_clock: MockClock) -> None:
    workers = Workers()

    async def consume(source: Subscription) -> None:
        async for event in source:
            await workers(event)

    async with open_event_bus() as bus:
        bus.start_soon(consume, await bus.subscribe("a"))
        await bus.send("a", "k", "/x")
        bus.close()
        for _ in range(2):
            with pytest.raises(BusClosedError):
                await bus.send("a", "k", "/late")
        workers.release("/x")
    assert workers.finished == ["/x"]


async def test_tasks_that_consumers_start_elsewhere_are_outside(
    autojump_clock: MockClock,
) -> None:
    refused = False
    async with trio.open_nursery() as nursery, open_event_bus() as bus:

        async def later() -> None:
            nonlocal refused
            await trio.sleep(1)
            with pytest.raises(BusClosedError):
                await bus.send("a", "k", "/late")
            refused = True

        async def consume() -> None:
            nursery.start_soon(later)
            await trio.sleep(2)

        bus.start_soon(consume)
    assert refused


# ---------------------------------------------------------------------------------------------
# Requests while the bus closes
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True], ids=["room", "a sender waits"])
async def test_a_consumer_outside_may_answer_the_requests_of_those_that_finish(
    full: bool, autojump_clock: MockClock
) -> None:
    answers: list[bool | None] = []
    refused: list[str] = []
    async with trio.open_nursery() as nursery, open_event_bus() as bus:
        questions = await bus.subscribe("service", "question")
        log = await bus.subscribe("service", "question.*", max_buffer_size=1)
        if full:
            await bus.send("service", "question.old", "/old")

        async def answer() -> None:
            async for event in questions:
                await trio.sleep(1)
                await bus.send("service", "question.accepted", event.path)
                with pytest.raises(BusClosedError):
                    await bus.send("service", "question.accepted", "/another")
                with pytest.raises(BusClosedError):
                    await bus.send("service", "remark", event.path)
                refused.append(event.path)

        async def ask(event: Event) -> None:
            if not full:
                await trio.sleep(1)
            answers.append((await bus.request("service", "question", event.path)).accepted)

        nursery.start_soon(answer)
        await bus.on(ask, "a")
        await bus.send("a", "k", "/x")
        if full:
            await trio.sleep(2)
            assert bus.statistics().tasks_waiting_send == 1
        bus.close()
        await trio.sleep(1)
        if full:
            assert (await log.receive()).path == "/old"
    assert answers == [True]
    assert refused == ["/x"]


async def test_an_outsider_cannot_answer_an_outsider_while_the_bus_closes(
    autojump_clock: MockClock,
) -> None:
    workers = Workers()
    async with trio.open_nursery() as nursery, open_event_bus() as bus:
        questions = await bus.subscribe("service", "question")

        async def ask() -> None:
            with pytest.raises(BusClosedError):
                await bus.request("service", "question", "/x")

        await bus.on(workers, "a")
        await bus.send("a", "k", "/busy")
        nursery.start_soon(ask)
        assert (await questions.receive()).path == "/x"
        bus.close()
        with pytest.raises(BusClosedError):
            await bus.send("service", "question.accepted", "/x")
        workers.release("/busy")


# ---------------------------------------------------------------------------------------------
# When the time is over
# ---------------------------------------------------------------------------------------------


async def test_after_the_timeout_consumers_are_cancelled_and_what_is_left_is_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    before = tasks_living()
    got: list[str] = []

    async def work(source: Subscription) -> None:
        async for event in source:
            await trio.sleep(4)
            got.append(event.path)

    async with open_event_bus(drain_timeout=10) as bus:
        source = await bus.subscribe("a")
        idle = await bus.subscribe("b")
        bus.start_soon(work, source)
        bus.start_soon(read, idle, [])
        await send_all(bus, "a", 5)
        await bus.send("b", "k", "/b")
    assert trio.current_time() == 10
    assert got == ["/0", "/1"]
    cancelled, left = sorted(caplog.messages)[::-1]
    assert cancelled.startswith(f"{work.__qualname__} (started at {__file__}:")
    assert cancelled.endswith(") was cancelled while it was working: drain_timeout (10 s) expired")
    assert left.startswith(f"subscription 'a' (subscribed at {__file__}:")
    assert left.endswith("): drain_timeout (10 s) expired; unread events: 2")
    assert source.statistics().queued == 2
    assert drain(source.channel()) == ["/3", "/4"]
    assert tasks_living() == before


async def test_a_consumer_that_never_comes_back_is_cancelled_at_the_timeout(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def consume() -> None:
        await trio.sleep_forever()

    async with open_event_bus() as bus:
        bus.start_soon(consume, name="the hanging one")
    assert trio.current_time() == 10
    [message] = caplog.messages
    assert message.startswith(f"the hanging one (started at {__file__}:")


async def test_without_time_a_consumer_that_was_just_started_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_event_bus(drain_timeout=0) as bus:
        source = await bus.subscribe("a")
        bus.start_soon(partial(stage, source, seconds=1, got=[]), name="stage")
        for _ in range(3):
            bus.send_nowait("a", "k", "/x")
    unread = source.statistics().queued
    assert any(message.endswith(f"unread events: {unread}") for message in caplog.messages)
    assert unread + any(message.startswith("stage") for message in caplog.messages) == 3


async def test_the_events_of_a_closed_subscription_that_were_left_are_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus(drain_timeout=1) as bus:
        source = await bus.subscribe("a")
        bus.start_soon(partial(stage, source, seconds=100, got=[]))
        await send_all(bus, "a", 3)
        source.close()
    assert [m for m in caplog.messages if m.endswith("unread events: 2")]


async def test_what_others_read_is_not_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus(drain_timeout=1) as bus:
        mine = await bus.subscribe("a")
        await send_all(bus, "a", 3)
        assert (await mine.receive()).path == "/0"
        bus.start_soon(trio.sleep_forever)
        async with bus.expect("a"):
            pass
    assert drain(mine.channel()) == ["/1", "/2"]
    [message] = caplog.messages
    assert "sleep_forever" in message


async def test_what_is_only_expected_is_not_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus(drain_timeout=1) as bus, bus.expect("a"):
        await bus.send("a", "k", "/x")
        bus.start_soon(trio.sleep_forever)
        bus.close()
        await trio.sleep(2)
    [message] = caplog.messages
    assert "sleep_forever" in message


async def test_a_consumer_that_was_waiting_to_read_at_the_timeout_is_not_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus(drain_timeout=1) as bus:
        bus.start_soon(read, await bus.subscribe("a"), [])
        await bus.on(Workers(), "b")
        await bus.send("b", "k", "/x")
    [message] = caplog.messages
    assert "calls of Workers" in message


async def test_a_consumer_that_finishes_in_spite_of_the_timeout_is_not_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    finished = False

    async def consume() -> None:
        nonlocal finished
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        finished = True

    async with open_event_bus(drain_timeout=1) as bus:
        bus.start_soon(consume)
    assert finished
    assert trio.current_time() == 5
    assert caplog.messages == []


@pytest.mark.parametrize(
    "where", ["consumer", "tasks of a consumer", "handler", "tasks of a handler"]
)
@pytest.mark.parametrize("end", ["timeout", "exception", "cancellation"])
async def test_an_error_of_a_cancelled_task_is_not_an_error_of_the_bus(
    where: str, end: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    said = 0

    async def work(_: object = None) -> None:
        nonlocal said
        try:
            await trio.sleep_forever()
        finally:
            for _ in range(2):
                said += 1
                bus.send_nowait("never", "k", "/last words")
                await trio.lowlevel.cancel_shielded_checkpoint()

    async def crew(_: object = None) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            nursery.start_soon(trio.sleep_forever)

    what = crew if where.startswith("tasks") else work
    with trio.move_on_after(1 if end == "cancellation" else math.inf) as scope:
        try:
            async with open_event_bus(drain_timeout=2) as bus:
                if where.endswith("handler"):
                    await bus.on(what, "b")
                    await bus.send("b", "k", "/x")
                else:
                    bus.start_soon(what)
                await wait_all_tasks_blocked()
                if end == "exception":
                    raise Failure
        except Failure:
            assert end == "exception"
    assert scope.cancelled_caught == (end == "cancellation")
    assert said
    if end != "cancellation" or where.endswith("handler"):
        [message] = caplog.messages
        assert "cancelled" in message


@pytest.mark.parametrize("where", ["block", "consumer", "handler"])
async def test_an_exception_cancels_consumers_and_what_is_left_is_named(
    where: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: object = None) -> None:
        raise Failure

    with pytest.raises(Failure):
        async with open_event_bus() as bus:
            bus.start_soon(partial(stage, await bus.subscribe("a"), seconds=5, got=[]), name="slow")
            bus.start_soon(read, await bus.subscribe("b"), [], name="idle")
            await send_all(bus, "a", 3)
            await trio.sleep(1)
            match where:
                case "consumer":
                    bus.start_soon(fail)
                    await trio.sleep_forever()
                case "handler":
                    await bus.on(fail, "c")
                    await bus.send("c", "k", "/x")
                    await trio.sleep_forever()
                case _:
                    await fail()
    assert trio.current_time() == 1
    left, cancelled = sorted(caplog.messages, reverse=True)
    assert cancelled.startswith("slow (started at ")
    assert cancelled.endswith("cancelled while it was working: an exception ended the bus")
    assert left.endswith("an exception ended the bus; unread events: 2")


async def test_a_cancelled_bus_names_the_events_that_consumers_left(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.move_on_after(1):
        async with open_event_bus() as bus:
            bus.start_soon(partial(stage, await bus.subscribe("a"), seconds=5, got=[]))
            await send_all(bus, "a", 3)
            await trio.sleep_forever()
    [message] = caplog.messages
    assert message.endswith("unread events: 2")


# ---------------------------------------------------------------------------------------------
# wait_idle
# ---------------------------------------------------------------------------------------------


async def test_wait_idle_waits_until_all_has_been_handled(autojump_clock: MockClock) -> None:
    got: list[str] = []
    workers = Recorder()

    async def handle(event: Event) -> None:
        await trio.sleep(1)
        await workers(event)
        await events.send("b", "k", event.path)

    async with open_event_bus() as bus:
        await bus.on(handle, "a", concurrency=2)
        bus.start_soon(partial(stage, await bus.subscribe("b"), seconds=1, got=got))
        for round_ in range(1, 3):
            await send_all(bus, "a", 4)
            await bus.wait_idle()
            assert len(workers.seen) == len(got) == 4 * round_
        now = trio.current_time()
        await bus.wait_idle()
        assert trio.current_time() == now
        await bus.send("a", "k", "/on it goes")
    assert got[-1] == "/on it goes"


async def test_several_tasks_may_wait_until_the_bus_is_idle(autojump_clock: MockClock) -> None:
    idle: list[float] = []
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.on(Workers(), "never")

        async def wait(seconds: float) -> None:
            await trio.sleep(seconds)
            await bus.wait_idle()
            idle.append(trio.current_time())

        bus.start_soon(partial(stage, await bus.subscribe("a"), seconds=3, got=[]))
        await send_all(bus, "a", 2)
        for seconds in (0, 1, 7):
            nursery.start_soon(wait, seconds)
    assert idle == [6, 6, 7]


async def test_every_task_that_waits_for_quiet_returns_even_if_the_first_sends_an_event(
    autojump_clock: MockClock,
) -> None:
    idle: list[float] = []
    async with open_event_bus() as bus, trio.open_nursery() as nursery:

        async def wait() -> None:
            await bus.wait_idle()
            if not idle:
                bus.send_nowait("a", "k", "/x")
            idle.append(trio.current_time())

        bus.start_soon(partial(stage, await bus.subscribe("a"), seconds=3, got=[]))
        await wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(wait)
    assert idle == [0, 3, 3]


async def test_wait_idle_is_a_checkpoint_and_leaves_nothing_when_cancelled(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(drain_timeout=1) as bus:
        with trio.testing.assert_checkpoints():
            await bus.wait_idle()
        await bus.on(Workers(), "a")
        await bus.send("a", "k", "/x")
        for _ in range(2):
            with trio.move_on_after(1) as scope:
                await bus.wait_idle()
            assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await bus.wait_idle()
        assert scope.cancelled_caught


async def test_wait_idle_waits_for_what_is_not_routed_yet(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    async with open_event_bus() as bus:
        await bus.on(recorder, "a")
        await wait_all_tasks_blocked()
        bus.send_nowait("a", "k", "/x")
        await bus.wait_idle()
        assert recorder.seen == ["/x"]
        bus.send_soon("a", "k", "/y")
        await trio.lowlevel.checkpoint()
        await bus.wait_idle()
        assert recorder.seen == ["/x", "/y"]


async def test_wait_idle_on_a_closed_bus_waits_for_its_end(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        bus.start_soon(partial(stage, await bus.subscribe("a"), seconds=2, got=[]))
        await send_all(bus, "a", 2)
        bus.close()
        await bus.wait_idle()
        assert trio.current_time() == 4
    await bus.wait_idle()
    assert trio.current_time() == 4


@pytest.mark.parametrize("where", ["handler", "consumer", "task of a consumer"])
async def test_wait_idle_of_those_that_it_would_wait_for_is_a_deadlock_error_at_once(
    where: str, autojump_clock: MockClock
) -> None:
    caught: list[DeadlockError] = []

    async def wait(_: object = None) -> None:
        with pytest.raises(DeadlockError, match="wait_idle") as error:
            await events._ambient._bus().wait_idle()
        caught.append(error.value)

    async def in_a_task() -> None:
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of its own
            nursery.start_soon(wait)

    async with open_event_bus() as bus:
        match where:
            case "handler":
                await bus.on(wait, "a")
                await bus.send("a", "k", "/x")
            case "consumer":
                bus.start_soon(wait)
            case _:
                bus.start_soon(in_a_task)
    assert len(caught) == 1
    assert trio.current_time() == 0


async def test_a_task_that_an_owned_one_is_given_by_start_is_followed(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as outside, open_event_bus(drain_timeout=math.inf) as bus:

        async def move(
            seconds: float, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
        ) -> None:
            task_status.started()
            await trio.sleep(seconds)

        async def give_away() -> None:
            await outside.start(move, 100)

        async def take_in(nurseries: list[trio.Nursery]) -> None:
            async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # others use it
                nurseries.append(nursery)
                nursery.start_soon(trio.sleep, 3)

        nurseries: list[trio.Nursery] = []
        bus.start_soon(take_in, nurseries)
        await trio.sleep(1)
        bus.start_soon(give_away)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.wait_idle)
            await trio.sleep(1)
            await nurseries[0].start(move, 5)
        assert trio.current_time() == 7


# ---------------------------------------------------------------------------------------------
# Subscription.drain
# ---------------------------------------------------------------------------------------------


async def test_drain_waits_until_the_handler_has_finished_what_was_accepted(
    autojump_clock: MockClock,
) -> None:
    recorder = Recorder()

    async def handle(event: Event) -> None:
        await trio.sleep(1)
        await recorder(event)

    async with open_event_bus() as bus:
        subscription = await bus.on(handle, "a", max_buffer_size=2)
        busy = await bus.on(Workers(), "b")
        await bus.send("b", "k", "/busy")
        await send_all(bus, "a", 4)
        await subscription.drain()
        assert recorder.seen == ["/0", "/1", "/2", "/3"]
        assert trio.current_time() == 4
        await bus.send("a", "k", "/late")
        await subscription.drain()  # and it's persistent
        assert trio.current_time() == 4
        assert subscription.statistics().matched == 4
        busy.channel().close()
        bus.close()
        await subscription.drain()


async def test_consumers_that_drain_what_the_other_one_reads_do_not_wait_for_each_other(
    autojump_clock: MockClock,
) -> None:
    drained: list[str] = []
    async with open_event_bus(drain_timeout=100) as bus:
        sources = {system: await bus.subscribe(system) for system in "ab"}

        async def work(mine: str, other: str) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(stage, sources[mine], got=[]))
                await trio.sleep(1)
                await sources[other].drain()
                drained.append(other)

        for system in "ab":
            await bus.send(system, "k", "/1")
        bus.start_soon(work, "a", "b")
        bus.start_soon(work, "b", "a")
        await trio.sleep(2)
        assert sorted(drained) == ["a", "b"]
    assert trio.current_time() == 2


@pytest.mark.parametrize("checkpoint_every", [1, 64])
async def test_drain_waits_for_a_consumer_whose_reading_task_began_and_ended_meanwhile(
    checkpoint_every: int, autojump_clock: MockClock
) -> None:
    finished: list[float] = []
    async with open_event_bus(checkpoint_every=checkpoint_every) as bus:
        source = await bus.subscribe("a")
        await bus.send("a", "k", "/1")

        async def work() -> None:
            async def read_later() -> None:
                await trio.sleep(1)
                async for _ in source:
                    pass

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_later)
                await trio.sleep(5)
            finished.append(trio.current_time())

        bus.start_soon(work)
        await wait_all_tasks_blocked()
        await source.drain()
        assert finished == [5]


async def test_drain_waits_until_consumers_of_the_bus_have_finished(
    autojump_clock: MockClock,
) -> None:
    got: list[str] = []
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2)
        for _ in range(2):
            bus.start_soon(partial(stage, subscription, seconds=3, got=got))
        await send_all(bus, "a", 5)
        await subscription.drain()
        assert sorted(got) == [f"/{number}" for number in range(5)]
        assert trio.current_time() == 9
        await bus.send("a", "k", "/late")
    assert len(got) == 5


@pytest.mark.parametrize("reader", ["consumer", "task of the consumer"])
async def test_drain_waits_for_the_tasks_of_a_consumer_even_if_the_one_that_read_has_ended(
    reader: str, autojump_clock: MockClock
) -> None:
    done: list[str] = []

    async def work(event: Event) -> None:
        await trio.sleep(5)
        done.append(event.path)

    async def hand_out(subscription: Subscription, workers: trio.Nursery) -> None:
        async for event in subscription:
            workers.start_soon(work, event)

    async def consume(subscription: Subscription) -> None:
        async with trio.open_nursery() as nursery:
            if reader == "consumer":
                await hand_out(subscription, nursery)
            else:
                nursery.start_soon(hand_out, subscription, nursery)
        done.append("consumer")

    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        bus.start_soon(consume, subscription)
        await bus.send("a", "k", "/x")
        await trio.sleep(1)
        await subscription.drain()
        assert done == ["/x", "consumer"]
        assert trio.current_time() == 5


async def test_a_consumer_may_begin_to_read_what_another_of_its_tasks_drains(
    autojump_clock: MockClock,
) -> None:
    got: list[str] = []

    async def consume(subscription: Subscription) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscription.drain)
            await wait_all_tasks_blocked()
            await stage(subscription, seconds=1, got=got)

    async with open_event_bus(drain_timeout=math.inf) as bus:
        subscription = await bus.subscribe("a")
        await send_all(bus, "a", 2)
        bus.start_soon(consume, subscription)
    assert got == ["/0", "/1"]


async def test_drain_waits_until_readers_outside_have_read_everything(
    autojump_clock: MockClock,
) -> None:
    got: list[str] = []
    async with trio.open_nursery() as nursery, open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        await send_all(bus, "a", 3)
        await trio.sleep(1)
        nursery.start_soon(partial(stage, subscription, seconds=2, got=got))
        await subscription.drain()
        assert trio.current_time() == 5  # when it has read the third
        assert got == ["/0", "/1"]
    assert got == ["/0", "/1", "/2"]


async def test_drain_stops_matching_at_once_and_releases_senders(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/0")
        await wait_all_tasks_blocked()
        nursery.start_soon(bus.send, "a", "k", "/waits")
        await wait_all_tasks_blocked()
        nursery.start_soon(subscription.drain)
        await wait_all_tasks_blocked()
        assert bus.statistics().tasks_waiting_send == 0
        assert drain(subscription.channel()) == ["/0"]


@pytest.mark.parametrize("overflow", Overflow)
async def test_an_empty_subscription_is_drained_at_once(overflow: Overflow) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", overflow=overflow)
        with trio.testing.assert_checkpoints():
            await subscription.drain()
        with pytest.raises(trio.EndOfChannel):
            subscription.receive_nowait()


async def test_a_cancelled_drain_has_closed_and_lost_nothing(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        await send_all(bus, "a", 3)
        with trio.move_on_after(1) as scope:
            await subscription.drain()
        assert scope.cancelled_caught
        await bus.send("a", "k", "/late")
        assert drain(subscription.channel()) == ["/0", "/1", "/2"]
        assert_balanced(subscription)


async def test_a_channel_that_is_closed_meanwhile_ends_the_drain(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a")
        await send_all(bus, "a", 3)
        nursery.start_soon(subscription.drain)
        await trio.sleep(1)
        subscription.channel().close()


@pytest.mark.parametrize(
    "where", ["handler", "task of a handler", "consumer", "sibling", "only reader"]
)
async def test_drain_by_those_that_it_would_wait_for_is_a_deadlock_error_at_once(
    where: str, autojump_clock: MockClock
) -> None:
    caught: list[str] = []

    async def refused(subscription: Subscription) -> None:
        with pytest.raises(DeadlockError, match=r"drain\(\) would wait forever") as error:
            await subscription.drain()
        caught.append(str(error.value))

    async def handle(event: Event) -> None:
        [subscription] = bus.subscriptions()
        if where == "handler":
            await refused(subscription)
        else:
            async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of its own
                nursery.start_soon(refused, subscription)

    async def consume(subscription: Subscription) -> None:
        await subscription.receive()
        await refused(subscription)

    async def siblings(subscription: Subscription) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, subscription, [])
            await wait_all_tasks_blocked()
            await refused(subscription)
            subscription.close()

    async with open_event_bus() as bus:
        if where in ("handler", "task of a handler"):
            subscription = await bus.on(handle, "a")
        else:
            subscription = await bus.subscribe("a")
        await bus.send("a", "k", "/x")
        match where:
            case "consumer":
                bus.start_soon(consume, subscription)
            case "sibling":
                bus.start_soon(siblings, subscription)
            case "only reader":
                await subscription.receive()
                await refused(subscription)
        await trio.sleep(1)
        assert len(caught) == 1
        if where != "sibling":
            assert subscription in bus.subscriptions()


async def test_others_may_drain_a_subscription(autojump_clock: MockClock) -> None:
    got: list[str] = []
    done: list[str] = []

    async def control(event: Event) -> None:
        await subscription.drain()
        done.append(event.path)

    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        await bus.on(control, "control")
        bus.start_soon(partial(stage, subscription, seconds=1, got=got))
        await send_all(bus, "a", 3)
        await bus.send("control", "stop", "/a")
        await trio.sleep(0.5)
        assert (await subscription.receive()).path == "/1"  # one that has read, beside another
        await subscription.drain()
    assert (got, done) == (["/0", "/2"], ["/a"])


# ---------------------------------------------------------------------------------------------
# Cancelled at every checkpoint
# ---------------------------------------------------------------------------------------------


async def test_wait_idle_cancelled_at_any_checkpoint_leaves_everything_as_it_was(
    autojump_clock: MockClock,
) -> None:
    async def scene(cancellation: Cancellation[None]) -> None:
        recorder = Recorder()
        async with open_event_bus() as bus:
            await bus.on(recorder, "a")
            bus.start_soon(partial(stage, await bus.subscribe("a"), seconds=1, got=[]))
            await send_all(bus, "a", 2)
            await cancellation.run(bus.wait_idle)
            await bus.send("a", "k", "/more")
            await bus.wait_idle()
            assert recorder.seen == ["/0", "/1", "/more"]

    assert await at_every_checkpoint(scene) >= 2


@pytest.mark.parametrize("owned", [False, True], ids=["handler", "consumer"])
async def test_drain_cancelled_at_any_checkpoint_has_closed_and_loses_nothing(
    owned: bool, autojump_clock: MockClock
) -> None:
    async def scene(cancellation: Cancellation[None]) -> None:
        recorder = Recorder()
        got: list[str] = []
        async with open_event_bus() as bus:
            if owned:
                subscription = await bus.subscribe("a")
                bus.start_soon(partial(stage, subscription, seconds=1, got=got))
            else:
                subscription = await bus.on(recorder, "a")
            await send_all(bus, "a", 3)
            await cancellation.run(subscription.drain)
            await subscription.drain()
            assert (got if owned else recorder.seen) == ["/0", "/1", "/2"]
            assert subscription not in bus.subscriptions()

    assert await at_every_checkpoint(scene) >= 1


async def test_start_cancelled_at_any_checkpoint_leaves_no_task_or_a_whole_one(
    autojump_clock: MockClock,
) -> None:
    async def scene(cancellation: Cancellation[Subscription]) -> None:
        got: list[str] = []

        async def consume(*, task_status: trio.TaskStatus[Subscription]) -> None:
            async with await events.subscribe("a") as source:
                await trio.lowlevel.checkpoint()
                task_status.started(source)
                await read(source, got)

        async with open_event_bus() as bus:
            await cancellation.run(partial(bus.start, consume))
            await wait_all_tasks_blocked()
            assert len(bus.subscriptions()) == (not cancellation.cancelled)
            await bus.send("a", "k", "/x")
        assert got == ([] if cancellation.cancelled else ["/x"])

    assert await at_every_checkpoint(scene) >= 1


@pytest.mark.parametrize("raises", [False, True])
async def test_a_bus_with_consumers_cancelled_at_any_checkpoint_leaves_no_task(
    raises: bool, autojump_clock: MockClock
) -> None:
    before = tasks_living()

    async def scene(cancellation: Cancellation[None]) -> None:
        accounts: list[Accounts] = []

        async def keep(_: Event) -> None:
            await trio.sleep(1)

        async def forward(event: Event) -> None:
            await trio.sleep(1)
            await events.send("b", "k", event.path)

        async def operation() -> None:
            async with open_event_bus(inbox_size=2, checkpoint_every=1) as bus:
                accounts.append(Accounts(bus))
                await accounts[0].handle("b", keep, size=1)
                await accounts[0].consume("a", forward, size=1, crew=2)
                await send_all(bus, "a", 4)
                if raises:
                    raise Failure

        try:
            await cancellation.run(operation)
        except Failure:
            assert raises
        assert tasks_living() == before
        for each in accounts:
            each.check(
                complete=not (raises or cancellation.cancelled),
                consumers_are_named=not cancellation.cancelled,
            )

    assert await at_every_checkpoint(scene) >= 6
