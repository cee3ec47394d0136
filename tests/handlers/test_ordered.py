"""`ordered=True`: events of one system and path one after the other, others meanwhile."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from functools import partial

import attrs
import hypothesis.strategies as st
import pytest
import trio
from hypothesis import given, settings
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    Action,
    DeadlockError,
    Event,
    EventBus,
    Log,
    Overflow,
    Propagate,
    RequestFailedError,
    Retry,
    Subscription,
    SubscriptionOverflowError,
    open_event_bus,
)
from trio_events._core.buffer import Buffer

from ..observing import assert_balanced, assert_books
from ..time_limit import TIME_LIMIT
from .handling import Recorder


@attrs.define(eq=False)
class Gates:
    """A handler whose calls end when their event's data is released. Notes the data."""

    begun: list[object] = attrs.field(factory=list)
    done: list[object] = attrs.field(factory=list)
    _gates: defaultdict[object, trio.Event] = attrs.field(factory=lambda: defaultdict(trio.Event))

    async def __call__(self, event: Event) -> None:
        self.begun.append(event.data)
        await self._gates[event.data].wait()
        self.done.append(event.data)

    async def release(self, *data: object) -> None:
        for each in data:
            self._gates[each].set()
        await wait_all_tasks_blocked()


async def send(bus: EventBus, *data: str) -> None:
    """Send events whose path is the first letter of their data."""
    for each in data:
        await bus.send("s", "k", each[0], each)
    await wait_all_tasks_blocked()


async def test_a_path_is_handled_in_order_and_holds_up_no_other(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        gates = Gates()
        subscription = await bus.on(gates, "s", concurrency=2, ordered=True)
        await send(bus, "a1", "a2", "a3", "b1", "a4", "b2", "c1")
        assert gates.begun == ["a1", "b1"]
        assert_books(subscription, delivered=2, queued=5, handling=2)
        await gates.release("b1")
        assert gates.begun == ["a1", "b1", "b2"]
        await gates.release("b2")
        assert gates.begun == ["a1", "b1", "b2", "c1"]  # and a2 still waits for a1
        assert_books(subscription, delivered=4, queued=3, handling=2)
        await gates.release("a1", "c1")
        assert gates.begun[4:] == ["a2"]  # the other task has nothing that it may do
        assert_books(subscription, delivered=5, queued=2, handling=1)
        await gates.release("a2", "a3", "a4")
        assert gates.done[-3:] == ["a2", "a3", "a4"]
        assert_books(subscription, delivered=7)
        await send(bus, "a5", "b3")  # the paths are free again
        assert gates.begun[-2:] == ["a5", "b3"]
        await gates.release("a5", "b3")


async def test_a_busy_path_holds_up_no_event_that_did_not_fit(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        gates = Gates()
        subscription = await bus.on(gates, "s", concurrency=2, ordered=True, max_buffer_size=8)
        await send(bus, "a0", "b0")  # both tasks are busy
        data = ["a1", "a2", "a3", "a4", "a5", "a6", "b1", "b2", "b3"]
        for each in data:  # the router has no turn meanwhile, so the last one doesn't fit
            bus.send_nowait("s", "k", each[0], each)
        await wait_all_tasks_blocked()
        assert subscription.statistics().held == 1
        for each in ("b0", "b1", "b2"):
            await gates.release(each)
        assert gates.begun == ["a0", "b0", "b1", "b2", "b3"]
        await gates.release("a0", *data)
        assert gates.done[-6:] == ["a1", "a2", "a3", "a4", "a5", "a6"]
        assert_books(subscription, delivered=11)


async def test_paths_of_several_systems_are_not_the_same(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        gates = Gates()
        await bus.on(gates, "**", concurrency=3, ordered=True)
        for system, kind, data in (("s", "k", 1), ("t", "k", 2), ("s", "l", 3)):
            await bus.send(system, kind, "/x", data)
        await wait_all_tasks_blocked()
        assert gates.begun == [1, 2]
        await gates.release(1)
        assert gates.begun == [1, 2, 3]
        await gates.release(2, 3)


@pytest.mark.parametrize("ordered", [True, False])
async def test_without_concurrency_it_has_no_effect(
    ordered: bool, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        gates = Gates()
        await bus.on(gates, "s", ordered=ordered)
        await send(bus, "a1", "b1", "a2")
        assert gates.begun == ["a1"]
        await gates.release("a1", "b1", "a2")
        assert gates.done == ["a1", "b1", "a2"]


async def test_what_is_set_aside_takes_room_and_makes_senders_wait(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        gates = Gates()
        subscription = await bus.on(gates, "s", concurrency=3, ordered=True, max_buffer_size=3)
        await send(bus, "a1", "a2", "a3", "a4")
        assert_books(subscription, delivered=1, queued=3, handling=1)
        channel = subscription.channel().statistics()
        assert (channel.current_buffer_used, channel.peak_buffer_used) == (3, 3)
        with pytest.raises(trio.WouldBlock):
            bus.send_nowait("s", "k", "b", "b1")
        for data in ("b1", "a5"):
            nursery.start_soon(send, bus, data)
            await wait_all_tasks_blocked()
        assert_books(subscription, delivered=1, queued=3, tasks_waiting_send=2, handling=1)
        await gates.release("a1")
        assert gates.begun == ["a1", "a2", "b1"]
        assert_books(subscription, delivered=3, queued=3, handling=2)
        await gates.release("a2", "a3", "a4", "a5", "b1")
        assert_books(subscription, delivered=6)


async def test_what_was_held_goes_on_when_a_path_makes_room(autojump_clock: MockClock) -> None:
    """The router had taken more than fits. Idle tasks take it up when one of a busy path ends."""
    async with open_event_bus(inbox_size=10) as bus:
        gates = Gates()
        subscription = await bus.on(gates, "s", concurrency=2, ordered=True, max_buffer_size=2)
        await send(bus, "a1", "a2")
        for data in ("a3", "b1", "b2"):  # the router takes them in one go
            bus.send_nowait("s", "k", data[0], data)
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=1, queued=4, held=2, handling=1)
        await gates.release("a1")
        assert gates.begun == ["a1", "a2", "b1"]
        subscription.close()
        await gates.release("b1", "b2")
        await gates.release("a2", "a3")
        assert gates.done == ["a1", "b1", "b2", "a2", "a3"]
        assert_books(subscription, delivered=5)


async def test_a_closed_subscription_hands_out_what_is_held_when_there_is_room(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=10) as bus:
        gates = Gates()
        subscription = await bus.on(gates, "s", concurrency=2, ordered=True, max_buffer_size=1)
        await send(bus, "a1", "a2")
        for data in ("b1", "c1"):
            with pytest.raises(trio.WouldBlock):
                bus.send_nowait("s", "k", data[0], data)
        await gates.release("a1")
        for data in ("a3", "b1", "c1"):
            bus.send_nowait("s", "k", data[0], data)
        subscription.close()
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=2, queued=3, held=2, handling=1)
        await gates.release("a2", "a3", "b1", "c1")
        assert_books(subscription, delivered=5)


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_INCOMING])
async def test_a_full_subscription_drops_what_its_policy_says(
    overflow: Overflow, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        gates = Gates()
        subscription = await bus.on(
            gates, "s", concurrency=2, ordered=True, max_buffer_size=2, overflow=overflow
        )
        await send(bus, "a1")
        for data in ("a2", "a3", "a4"):
            await send(bus, data)
        assert_books(subscription, delivered=1, queued=2, dropped=1, handling=1)
        await send(bus, "b1")
        begun = gates.begun == ["a1", "b1"]
        assert begun is (overflow is Overflow.DROP_OLDEST)
        await gates.release("a1", "a2", "a3", "a4", "b1")
        if begun:  # b1 has pushed a3 out
            assert gates.done in (["b1", "a1", "a4"], ["a1", "b1", "a4"], ["a1", "a4", "b1"])
            assert_books(subscription, delivered=3, dropped=2)
        else:
            assert gates.done == ["a1", "a2", "a3"]
            assert_books(subscription, delivered=3, dropped=2)


@pytest.mark.parametrize("on_error", [Propagate(), Log()], ids=repr)
async def test_what_is_set_aside_is_handled_after_an_overflow_has_ended_the_subscription(
    on_error: Propagate | Log, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    gates = Gates()

    async def overflow() -> None:
        async with open_event_bus() as bus:
            subscription = await bus.on(
                gates,
                "s",
                concurrency=3,
                ordered=True,
                max_buffer_size=3,
                overflow=Overflow.CLOSE,
                on_error=on_error,
            )
            for data in ("a1", "b1", "a2", "a3", "b2", "dropped"):
                await send(bus, data)
            assert_books(subscription, delivered=2, queued=3, dropped=1, handling=2)
            await gates.release("b1", "b2")
            assert_books(subscription, delivered=3, queued=2, dropped=1, handling=1)
            await gates.release("a1", "a2", "a3")
            assert_books(subscription, delivered=5, dropped=1)

    if isinstance(on_error, Propagate):
        with pytest.raises(SubscriptionOverflowError):
            await overflow()
    else:
        await overflow()
        assert "ended because its buffer of 3 events was full" in caplog.text
    assert gates.done == ["b1", "b2", "a1", "a2", "a3"]


async def test_what_is_set_aside_is_superseded_by_newer_events_of_its_path(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        gates = Gates()
        subscription = await bus.on(
            gates, "s", concurrency=2, ordered=True, max_buffer_size=3, overflow=Overflow.LATEST
        )
        for each in ("a1", "a2", "a3", "b1", "c1"):
            await send(bus, each)
        assert gates.begun == ["a1", "b1"]
        assert_books(subscription, delivered=2, queued=3, handling=2)
        await send(bus, "a4")
        assert_books(subscription, delivered=2, queued=2, handling=2, superseded=2)
        await gates.release("b1")
        assert gates.begun[2:] == ["c1"]
        await gates.release("c1")
        assert len(gates.begun) == 3  # a4 waits for a1
        await gates.release("a1")
        assert gates.begun[3:] == ["a4"]
        await gates.release("a4")
        assert_books(subscription, delivered=4, superseded=2)


async def test_what_is_set_aside_is_the_oldest_if_there_are_more_paths_than_room(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        gates = Gates()
        subscription = await bus.on(
            gates, "s", concurrency=2, ordered=True, max_buffer_size=2, overflow=Overflow.LATEST
        )
        for each in ("a1", "a2", "b1", "c1", "d1"):
            await send(bus, each)
        assert_books(subscription, delivered=2, queued=2, handling=2, dropped=1)
        for each in ("a1", "b1", "c1", "d1"):
            await gates.release(each)
        assert gates.done == ["a1", "b1", "c1", "d1"]


async def test_closing_the_channel_discards_what_is_set_aside(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        gates = Gates()
        subscription = await bus.on(gates, "s", concurrency=2, ordered=True)
        await send(bus, "a1", "a2", "a3", "b1", "b2")
        subscription.channel().close()
        assert_books(subscription, delivered=2, discarded=3, handling=2)
        await gates.release("a1", "b1")
        assert sorted(map(str, gates.done)) == ["a1", "b1"]


async def test_closing_the_subscription_lets_it_finish_what_is_set_aside(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        gates = Gates()
        subscription = await bus.on(gates, "s", concurrency=3, ordered=True)
        await send(bus, "a1", "a2", "a3", "b1")
        subscription.close()
        await gates.release("b1")
        await gates.release("a1", "a2", "a3")
        assert gates.done == ["b1", "a1", "a2", "a3"]
        assert_books(subscription, delivered=4)


async def test_leaving_the_bus_finishes_what_is_set_aside(autojump_clock: MockClock) -> None:
    recorder = Recorder()

    async def slow(event: Event) -> None:
        await trio.sleep(1)
        await recorder(event)

    async with open_event_bus() as bus:
        start = trio.current_time()
        await bus.on(slow, "s", concurrency=5, ordered=True)
        for data in ("a1", "a2", "a3", "b1", "c1"):
            await bus.send("s", "k", data[0], data)
    assert trio.current_time() - start == 3
    assert Counter(recorder.seen) == {"a": 3, "b": 1, "c": 1}


async def test_after_the_drain_timeout_what_is_set_aside_is_counted_and_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def stubborn(event: Event) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(2)

    async with open_event_bus(drain_timeout=1) as bus:
        subscription = await bus.on(stubborn, "s", concurrency=2, ordered=True)
        await send(bus, "a1", "a2", "a3")
    assert_books(subscription, delivered=1, discarded=2)
    assert "events discarded: 2" in caplog.text


@pytest.mark.parametrize("concurrency", [3, 5])
async def test_a_call_that_waits_for_its_own_path_gets_a_deadlock_error(
    concurrency: int, autojump_clock: MockClock
) -> None:
    """All room is set aside, so idle tasks and calls with other paths can't make any."""
    errors: list[tuple[float, str]] = []

    async def feed(event: Event) -> None:
        if event.data == "other":
            await trio.sleep_forever()
        for _ in range(3):
            try:
                await bus.send("s", "k", event.path)
            except DeadlockError as error:
                errors.append((trio.current_time(), str(error)))
                subscription.channel().close()

    async with open_event_bus(drain_timeout=0) as bus:
        subscription = await bus.on(
            feed, "s", concurrency=concurrency, ordered=True, max_buffer_size=2
        )
        await bus.send("s", "k", "/other", "other")
        await bus.send("s", "k", "/own")
        await trio.sleep(1.5)
        [(time, message)] = errors
        assert time == 1
        assert message.endswith("is full, and its only reader is the sender itself")
        bus._nursery.cancel_scope.cancel()


async def test_calls_that_wait_for_each_others_paths_get_deadlock_errors(
    autojump_clock: MockClock,
) -> None:
    both = trio.Event()
    errors: list[str] = []

    async def feed(event: Event) -> None:
        if event.data != "first":
            return
        await both.wait()
        await bus.send("s", "k", event.path)
        await wait_all_tasks_blocked()
        try:
            await bus.send("s", "k", "/b" if event.path == "/a" else "/a")
        except DeadlockError as error:
            errors.append(str(error))

    async with open_event_bus() as bus:
        subscription = await bus.on(feed, "s", concurrency=3, ordered=True, max_buffer_size=2)
        for path in ("/a", "/b"):
            await bus.send("s", "k", path, "first")
        await wait_all_tasks_blocked()
        both.set()
    assert trio.current_time() == 1
    [message] = errors  # the other one could go on then
    assert message.endswith("is full, and all its readers wait too")
    assert_books(subscription, delivered=5)


async def test_a_call_of_another_path_that_has_more_to_come_means_no_deadlock_error(
    autojump_clock: MockClock,
) -> None:
    """It can make room, even in the moment between two of its events."""
    gates = Gates()

    async def feed(event: Event) -> None:
        if event.data == "b1":
            await send(bus, "b2")
            await send(bus, "b3")
        await gates(event)

    async with open_event_bus(checkpoint_every=1) as bus:
        subscription = await bus.on(feed, "s", concurrency=3, ordered=True, max_buffer_size=2)
        await send(bus, "a1", "a2", "b1")
        await trio.sleep(10)
        assert_books(subscription, delivered=2, queued=2, tasks_waiting_send=1, handling=2)
        gates._gates["a1"].set()
        for number in range(10):
            bus._core.senders.end_hopeless(trio.current_time() + number)
            await trio.lowlevel.checkpoint()
        assert_books(subscription, delivered=3, queued=2, handling=2)
        await gates.release("a2", "b1", "b2", "b3")
    assert gates.done == ["a1", "a2", "b1", "b2", "b3"]


async def test_a_request_behind_what_is_set_aside_gets_a_deadlock_error_if_it_waits_for_itself(
    autojump_clock: MockClock,
) -> None:
    errors: list[float] = []
    earlier = ["/own"]

    class Sending:
        """A policy that sends an event just before a request."""

        def allows(self, actor: str, action: Action, system: str) -> bool:
            if system == "s" and action is Action.SEND and subscription.statistics().handling:
                while earlier:
                    bus.send_nowait("s", "k", earlier.pop())
            return True

    async def handler(event: Event) -> None:
        if event.data == "asks":
            try:
                await bus.request("s", "k", "/held")
            except DeadlockError:
                errors.append(trio.current_time())

    async with open_event_bus(policy=Sending()) as bus:
        subscription = await bus.on(handler, "s", concurrency=3, ordered=True, max_buffer_size=1)
        await bus.send("s", "k", "/own", "asks")
        await trio.sleep(0.5)
        assert_books(subscription, delivered=1, queued=2, held=1, handling=1)
    assert errors == [1]
    assert_books(subscription, delivered=3)


async def test_responders_that_get_their_own_replies_do_not_wait_forever(
    autojump_clock: MockClock,
) -> None:
    outcomes: list[bool] = []

    async def respond(event: Event) -> object:
        await trio.sleep(0.1)
        return event.data

    async def ask(number: int) -> None:
        try:
            outcomes.append((await bus.request("s", "ask", "/1", number)).data == number)
        except RequestFailedError:
            outcomes.append(False)

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.serve(respond, "s", concurrency=3, ordered=True, max_buffer_size=2)
        for number in range(6):
            nursery.start_soon(ask, number)
    assert len(outcomes) == 6


async def test_a_pause_before_another_attempt_holds_the_path(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "trio_events")
    seen: list[object] = []

    async def handler(event: Event) -> None:
        seen.append(event.data)
        if seen.count(event.data) == 1 and event.path == "a":
            raise ValueError

    async with open_event_bus() as bus:
        await bus.on(handler, "s", concurrency=2, ordered=True, on_error=Retry(2, backoff=1))
        await send(bus, "a1", "a2", "b1")
        assert seen == ["a1", "b1"]
    assert seen == ["a1", "b1", "a1", "a2", "a2"]


async def test_a_failure_frees_the_path(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "trio_events")
    seen: list[object] = []

    async def handler(event: Event) -> None:
        seen.append(event.data)
        await trio.sleep(1)
        raise ValueError

    async with open_event_bus() as bus:
        await bus.on(handler, "s", concurrency=2, ordered=True, on_error=Log())
        await send(bus, "a1", "a2", "a3")
    assert seen == ["a1", "a2", "a3"]


async def test_others_have_their_turn_although_a_path_never_waits(
    autojump_clock: MockClock,
) -> None:
    turns = seen = 0
    begin = trio.Event()

    async def count_turns() -> None:
        nonlocal turns
        await begin.wait()
        while seen < 1000:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def quick(event: Event) -> None:
        nonlocal seen
        if not begin.is_set():
            await begin.wait()
        seen += 1

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.on(quick, "s", concurrency=2, ordered=True, max_buffer_size=2000)
        await send(bus, *["a"] * 1000)
        nursery.start_soon(count_turns)
        await wait_all_tasks_blocked()
        begin.set()
    assert turns >= 1000 // 64 - 1


def test_the_oldest_of_all_that_is_set_aside_makes_room() -> None:
    buffer = Buffer(3, Overflow.DROP_OLDEST)
    events = [Event("s", "k", path, n) for n, path in enumerate("aba")]
    assert buffer.take_aside(("s", "a")) is None
    for event in events:
        buffer.put_what_fits([event])
        buffer.set_aside(buffer.take())
    assert buffer.buffered == buffer.unread == 3
    assert buffer.is_empty
    late = Event("s", "k", "c", 3)
    assert buffer.put_what_fits([late]) == [events[0]]
    assert buffer.take_aside(("s", "a")) is events[2]
    assert buffer.take_aside(("s", "a")) is None
    assert buffer.discard() == [late, events[1]]
    assert buffer.room == 3


# ------------------------------------------------------------------------------------ any program


@attrs.frozen
class Program:
    """Senders of events at few paths, to one ordered handler, and when it ends."""

    senders: list[list[str]]
    durations: list[float]
    size: int
    overflow: Overflow
    concurrency: int
    inbox_size: int
    checkpoint_every: int
    close_after: float | None
    by_channel: bool

    async def run(self) -> None:
        busy: set[str] = set()
        begun: list[Event] = []
        running = 0

        async def handler(event: Event) -> None:
            nonlocal running
            assert event.path not in busy
            busy.add(event.path)
            running += 1
            assert running <= self.concurrency
            statistics = subscription.statistics()
            assert statistics.queued - statistics.held <= self.size
            assert_balanced(subscription)
            begun.append(event)
            await trio.sleep(self.durations[len(begun) % len(self.durations)])
            busy.remove(event.path)
            running -= 1

        async def send(number: int, paths: str) -> None:
            for n, path in enumerate(paths):
                await bus.send("s", "k", path, (number, n))

        async def close(subscription: Subscription) -> None:
            if self.close_after is not None:
                await trio.sleep(self.close_after)
                (subscription.channel() if self.by_channel else subscription).close()

        with trio.fail_after(TIME_LIMIT):
            async with open_event_bus(
                inbox_size=self.inbox_size,
                checkpoint_every=self.checkpoint_every,
                drain_timeout=1000,
            ) as bus:
                witness = await bus.subscribe("s", max_buffer_size=1000)
                subscription = await bus.on(
                    handler,
                    "s",
                    concurrency=self.concurrency,
                    ordered=True,
                    max_buffer_size=self.size,
                    overflow=self.overflow,
                )
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(close, subscription)
                    for number, paths in enumerate(self.senders):
                        nursery.start_soon(send, number, "".join(paths))
            order = [event async for event in witness]
        books = subscription.statistics()
        assert_balanced(subscription)
        assert books.delivered == len(begun)
        assert books.queued == books.handling == books.failures == 0
        if not (self.by_channel and self.close_after is not None):
            assert books.discarded == 0
        for path in "abc":
            handled = [event for event in begun if event.path == path]
            matched = [event for event in order if event.path == path]
            if self.overflow is Overflow.BLOCK:  # the first ones, in order
                assert books.dropped == books.superseded == 0
                assert handled == matched[: len(handled)]
            else:  # some, in order, and the newest unless there were too many paths
                places = [matched.index(event) for event in handled]
                assert places == sorted(set(places))
                if self.close_after is None and not books.dropped:
                    assert handled[-1:] == matched[-1:]


@given(
    program=st.builds(
        Program,
        senders=st.lists(st.lists(st.sampled_from("aabc"), max_size=12), min_size=1, max_size=3),
        durations=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=4),
        size=st.integers(1, 4),
        overflow=st.sampled_from([Overflow.BLOCK, Overflow.LATEST]),
        concurrency=st.integers(2, 4),
        inbox_size=st.integers(1, 5),
        checkpoint_every=st.sampled_from([1, 2, 1000]),
        close_after=st.none() | st.sampled_from([0.0, 0.5, 2.0]),
        by_channel=st.booleans(),
    ),
    scheduler=st.random_module(),
)
@settings(max_examples=150, deadline=None)
def test_any_program_handles_each_path_in_order(program: Program, scheduler: object) -> None:
    trio.run(program.run, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("concurrency", [2, 3])
async def test_a_cancelled_bus_counts_what_is_set_aside(
    concurrency: int, autojump_clock: MockClock
) -> None:
    with trio.move_on_after(1):
        async with open_event_bus() as bus:
            gates = Gates()
            subscription = await bus.on(partial(gates), "s", concurrency=concurrency, ordered=True)
            await send(bus, "a1", "a2", "b1", "a3")
            await trio.sleep_forever()
    assert_books(subscription, delivered=2, discarded=2)
