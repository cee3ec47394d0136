"""Instruments: what they are told, when and where, and that watching changes nothing."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events
from trio_events import (
    BusClosedError,
    DeadlockError,
    Event,
    EventBus,
    Instrument,
    Log,
    NoBusError,
    NoSubscribersError,
    Overflow,
    PolicyDeniedError,
    RulePolicy,
    Subscription,
    open_event_bus,
)
from trio_events._core.door import Door
from trio_events._core.notices import Notices
from trio_events._instruments import HOOKS, Instruments

from ..observing import Cancellation, assert_books, at_every_checkpoint, drain, paths
from ..watching import Call, Watcher


def watcher() -> tuple[Watcher, list[Call]]:
    calls: list[Call] = []
    return Watcher(calls.append), calls


def names(calls: list[Call]) -> list[str]:
    return [call[0] for call in calls]


def outcomes(calls: list[Call], hook: str) -> list[str]:
    """The paths that a hook was called with, and how it went."""
    found = []
    for call in calls:
        if call[0] == hook:
            error = call[-1]
            found.append(f"{call[1].path} {'ok' if error is None else type(error).__name__}")
    return found


# ------------------------------------------------------------------------------------------ sends


async def send(bus: EventBus, path: str) -> None:
    await bus.send("a", "k", path)


async def send_nowait(bus: EventBus, path: str) -> None:
    bus.send_nowait("a", "k", path)


async def send_soon(bus: EventBus, path: str) -> None:
    bus.send_soon("a", "k", path)
    await wait_all_tasks_blocked()


WAYS = [send, send_nowait, send_soon]
Way = Callable[[EventBus, str], Awaitable[None]]


@pytest.mark.parametrize("way", WAYS)
async def test_a_send_is_reported_before_and_after(way: Way, autojump_clock: MockClock) -> None:
    instrument, calls = watcher()
    async with open_event_bus(instruments=[instrument]) as bus:
        subscription = await bus.subscribe("a")
        await way(bus, "/1")
        await wait_all_tasks_blocked()
        event = await subscription.receive()
        assert names(calls) == [
            "subscription_opened",
            "before_send",
            "after_send",
            "events_routed",
            "event_received",
        ]
        before, after, routed, received = calls[1:]
        assert before == ("before_send", event)
        assert before[1] is after[1] is routed[1][0] is received[1] is event
        assert after[2] is None
        assert routed[2] == (subscription,)
        assert received[2] is subscription


@pytest.mark.parametrize("way", WAYS)
async def test_a_send_to_a_closed_bus_is_reported_with_its_error(
    way: Way, autojump_clock: MockClock
) -> None:
    instrument, calls = watcher()
    async with open_event_bus(instruments=[instrument]) as bus:
        bus.close()
        with pytest.raises(BusClosedError):
            await way(bus, "/1")
    assert names(calls)[:1] == ["bus_closed"]
    told = [] if way is send_soon else ["/1 BusClosedError"]  # that one raises before it sends
    assert outcomes(calls, "after_send") == told


async def test_a_send_that_would_block_is_reported(autojump_clock: MockClock) -> None:
    instrument, calls = watcher()
    async with open_event_bus(instruments=[instrument]) as bus:
        await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            bus.send_nowait("a", "k", "/2")
        await send_soon(bus, "/3")
        assert bus.statistics().refused == 1
        assert outcomes(calls, "after_send") == ["/1 ok", "/2 WouldBlock", "/3 WouldBlock"]
        assert names(calls).count("before_send") == 3
        assert paths(e for call in calls if call[0] == "events_routed" for e in call[1]) == ["/1"]


async def test_a_send_that_waits_is_reported_when_the_wait_is_over(
    autojump_clock: MockClock,
) -> None:
    instrument, calls = watcher()
    async with open_event_bus(instruments=[instrument]) as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        nursery.start_soon(bus.send, "a", "k", "/2")
        await trio.sleep(0.5)
        assert names(calls).count("before_send") == 2
        assert outcomes(calls, "after_send") == ["/1 ok"]
        (waiting,) = subscription.waiting_senders()
        assert waiting.event.path == "/2"
        assert waiting.since == trio.current_time() - 0.5
        assert waiting.task in nursery.child_tasks
        assert (await subscription.receive()).path == "/1"
        await wait_all_tasks_blocked()
        assert outcomes(calls, "after_send") == ["/1 ok", "/2 ok"]
        assert subscription.waiting_senders() == ()


async def test_a_waiting_send_that_is_refused_gets_the_error_of_its_caller(
    autojump_clock: MockClock,
) -> None:
    instrument, calls = watcher()
    async with open_event_bus(instruments=[instrument]) as bus, trio.open_nursery() as nursery:

        async def closed() -> None:
            with pytest.raises(BusClosedError):
                await bus.send("a", "k", "/2")

        await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        nursery.start_soon(closed)
        await wait_all_tasks_blocked()
        bus.close()
    assert outcomes(calls, "after_send") == ["/1 ok", "/2 BusClosedError"]


async def test_a_deadlock_is_reported_once(autojump_clock: MockClock) -> None:
    instrument, calls = watcher()
    async with open_event_bus(instruments=[instrument]) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/1")
        await subscription.receive()
        await bus.send("a", "k", "/2")
        await wait_all_tasks_blocked()
        with pytest.raises(DeadlockError):
            await bus.send("a", "k", "/3")
    assert outcomes(calls, "after_send") == ["/1 ok", "/2 ok", "/3 DeadlockError"]
    assert names(calls).count("before_send") == 3
    assert [call[1:] for call in calls if call[0] == "senders_stalled"] == [(subscription, 1.0)]


async def test_a_send_is_reported_at_every_checkpoint(autojump_clock: MockClock) -> None:
    async def scene(cancellation: Cancellation[None]) -> None:
        instrument, calls = watcher()
        async with open_event_bus(instruments=[instrument], checkpoint_every=1) as bus:
            await bus.subscribe("a", max_buffer_size=1)
            await bus.send("a", "k", "/1")
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancellation.run, lambda: bus.send("a", "k", "/2"))
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        before = [call for call in calls if call[0] == "before_send"]
        after = outcomes(calls, "after_send")
        assert len(before) == len(after)
        # Cancelled in the checkpoint that comes first, it had not begun.
        assert after == ["/1 ok", "/2 Cancelled"][: 1 if cancellation.checkpoint < 2 else None]

    assert await at_every_checkpoint(scene) == 2


@pytest.mark.parametrize("by_hand", [False, True])
async def test_requests_and_replies_are_reported_as_sends(
    by_hand: bool, autojump_clock: MockClock
) -> None:
    instrument, calls = watcher()

    async def answer(event: Event) -> str:
        return event.path

    async with open_event_bus(instruments=[instrument]) as bus, trio.open_nursery() as nursery:
        if by_hand:

            async def by_hand_too(event: Event) -> None:
                await bus.reply(event, event.path)

            await bus.on(by_hand_too, "a", "ask")
        else:
            await bus.serve(answer, "a", "ask")
        full = await bus.subscribe("a", max_buffer_size=1)
        nursery.start_soon(bus.request, "a", "ask", "/1")
        await wait_all_tasks_blocked()
        assert outcomes(calls, "after_send") == ["/1 ok"]  # the reply waits for room
        assert names(calls).count("before_send") == 2
        await full.receive()
        await wait_all_tasks_blocked()
        assert outcomes(calls, "after_send") == ["/1 ok", "/1 ok"]
        assert [c[1].kind for c in calls if c[0] == "after_send"] == ["ask", "accepted"]
        with trio.move_on_after(0.5):
            await bus.request("a", "ask", "/2")
        assert outcomes(calls, "after_send")[2:] == ["/2 Cancelled"]


async def test_a_request_that_no_subscription_gets_is_not_reported(
    autojump_clock: MockClock,
) -> None:
    instrument, calls = watcher()
    async with open_event_bus(instruments=[instrument]) as bus:
        with pytest.raises(NoSubscribersError):
            await bus.request("a", "ask", "/1")
    assert names(calls) == ["bus_closed"]


async def test_a_refused_send_is_an_access_that_was_denied(autojump_clock: MockClock) -> None:
    instrument, calls = watcher()
    async with open_event_bus(policy=RulePolicy([]), instruments=[instrument]) as bus:
        with pytest.raises(PolicyDeniedError):
            await bus.for_actor("eve").send("a", "k", "/1")
        with pytest.raises(PolicyDeniedError):
            await bus.subscribe("a.*")
        with pytest.raises(PolicyDeniedError):
            await bus.wait_for("b")
    assert calls == [
        ("access_denied", "eve", trio_events.Action.SEND, "a"),
        ("access_denied", "anybody", trio_events.Action.SUBSCRIBE, "a.*"),
        ("access_denied", "anybody", trio_events.Action.SUBSCRIBE, "b"),
        ("bus_closed",),
    ]


async def test_context_variables_of_the_sender_are_there_from_a_thread_too(
    autojump_clock: MockClock,
) -> None:
    variable = ContextVar("variable", default="none")
    seen: list[tuple[str, str]] = []

    class Seeing(Instrument):
        def before_send(self, event: Event) -> None:
            seen.append((event.path, variable.get()))

    async with open_event_bus(instruments=[Seeing()]) as bus:

        def in_thread() -> None:
            variable.set("thread")
            bus.send_soon("a", "k", "/thread")

        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        variable.set("task")
        await bus.send("a", "k", "/task")
        bus.send_soon("a", "k", "/soon")
        await wait_all_tasks_blocked()
    assert sorted(seen) == [("/soon", "task"), ("/task", "task"), ("/thread", "thread")]


# ---------------------------------------------------------------------------------------- routing


async def test_consecutive_events_of_one_system_and_kind_are_reported_together(
    autojump_clock: MockClock,
) -> None:
    instrument, calls = watcher()
    async with open_event_bus(instruments=[instrument]) as bus:
        everything, some = await bus.subscribe("**"), await bus.subscribe("a", "x")
        for kind in "xxyyxy":
            bus.send_nowait("a", kind, f"/{kind}")
        bus.send_nowait("b", "x", "/b")
        await wait_all_tasks_blocked()
    told = [
        (e[0].system, e[0].kind, len(e), s)
        for name, *rest in calls
        if name == "events_routed"
        for e, s in [rest]
    ]
    assert told == [
        ("a", "x", 2, (everything, some)),
        ("a", "y", 2, (everything,)),
        ("a", "x", 1, (everything, some)),
        ("a", "y", 1, (everything,)),
        ("b", "x", 1, (everything,)),
    ]


async def test_with_paths_each_event_is_reported_alone_and_unmatched_ones_too(
    autojump_clock: MockClock,
) -> None:
    instrument, calls = watcher()
    async with open_event_bus(instruments=[instrument]) as bus:
        one, two = await bus.subscribe("a", path="/1"), await bus.subscribe("a", path="/*")
        for path in ["/1", "/2", "/3/4"]:
            bus.send_nowait("a", "k", path)
        bus.send_nowait("b", "k", "/1")
        await wait_all_tasks_blocked()
    told = [(paths(call[1]), set(call[2])) for call in calls if call[0] == "events_routed"]
    assert told == [(["/1"], {one, two}), (["/2"], {two}), (["/3/4"], set()), (["/1"], set())]


async def test_a_history_is_not_a_subscription_but_what_it_keeps_is_not_unmatched(
    autojump_clock: MockClock,
) -> None:
    instrument, calls = watcher()
    async with open_event_bus(instruments=[instrument]) as bus:
        history = await bus.open_history("a")
        subscription = await bus.subscribe("a", "x")
        calls.clear()
        for kind in "xyy":
            await bus.send("a", kind, "/1")
        await wait_all_tasks_blocked()
        await bus.send("b", "k", "/1")
        await bus.send("b", "k", "/2")
        await wait_all_tasks_blocked()
        assert len(history.events()) == 2
        history.close()
    told = [(paths(c[1]), *c[2:]) for c in calls if c[0].startswith("events_")]
    assert told == [
        (["/1"], (subscription,)),
        (["/1", "/1"], ()),
        (["/1", "/2"], ()),
        (["/1", "/2"],),
    ]
    assert not [name for name in names(calls) if name == "subscription_opened"]


@pytest.mark.parametrize("at_once", [False, True])
async def test_what_answers_a_request_is_not_unmatched(
    at_once: bool, autojump_clock: MockClock
) -> None:
    instrument, calls = watcher()

    async def answer(event: Event) -> None:
        if at_once:
            bus.send_nowait("b", "k", "/before")
        bus.send_nowait("a", "accepted", event.path)
        if at_once:
            bus.send_nowait("a", "accepted", event.path)

    async with open_event_bus(instruments=[instrument]) as bus:
        await bus.on(answer, "a", "ask")
        await bus.request("a", "ask", "/1")
        await wait_all_tasks_blocked()
    told = [[(e.system, e.kind, e.path) for e in c[1]] for c in calls if c[0] == "events_unmatched"]
    late = [("a", "accepted", "/1")]  # the second reply, which nothing waits for
    assert told == ([[("b", "k", "/before")], late] if at_once else [])


async def test_a_subscription_that_was_closed_meanwhile_is_the_same_object(
    autojump_clock: MockClock,
) -> None:
    instrument, calls = watcher()
    async with open_event_bus(instruments=[instrument]) as bus:
        subscription = await bus.subscribe("a")
        bus.send_nowait("a", "k", "/1")
        subscription.close()
        await wait_all_tasks_blocked()
        assert [event.path async for event in subscription] == ["/1"]
    told = {call[0]: call[-1] for call in calls}
    assert told["subscription_closed"] is subscription
    assert told["events_routed"] == (subscription,)
    assert told["event_received"] is subscription


async def test_an_object_without_references_is_made_again(autojump_clock: MockClock) -> None:
    seen: list[str] = []

    class Seeing(Instrument):
        def event_received(self, event: Event, subscription: Subscription) -> None:
            seen.append(subscription.system)
            assert subscription.channel() is not None

    async with open_event_bus(instruments=[Seeing()]) as bus:
        subscription = await bus.subscribe("a")
        channel, reference = subscription.channel(), weakref.ref(subscription)
        for _ in range(2):
            await bus.send("a", "k", "/1")
        subscription.close()
        del subscription
        gc.collect()
        assert reference() is None
        assert [event.path async for event in channel] == ["/1", "/1"]
    assert seen == ["a", "a"]


# ---------------------------------------------------------------------------------------- reading


async def read_all(subscription: Subscription, way: str) -> list[str]:
    channel = subscription.channel()
    match way:
        case "receive":
            return [(await channel.receive()).path for _ in range(4)]
        case "receive_nowait":
            return drain(channel)
        case "iteration":
            return [event.path async for event in channel]
        case "batches":
            return [path async for batch in channel.batches() for path in paths(batch)]
        case _:
            return [path async for batch in channel.batches(max_size=3) for path in paths(batch)]


@pytest.mark.parametrize(
    "way", ["receive", "receive_nowait", "iteration", "batches", "small batches"]
)
@pytest.mark.parametrize("waits", [False, True])
async def test_each_event_that_is_read_is_reported_once_in_the_task_of_the_reader(
    way: str, waits: bool, autojump_clock: MockClock
) -> None:
    told: list[str] = []
    tasks = set()

    class Seeing(Instrument):
        def event_received(self, event: Event, subscription: Subscription) -> None:
            told.append(event.path)
            tasks.add(trio.lowlevel.current_task())

    async with open_event_bus(instruments=[Seeing()]) as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a")
        expected = [f"/{number}" for number in range(4)]
        if waits and way != "receive_nowait":

            async def send_later() -> None:
                for path in expected:
                    await bus.send("a", "k", path)
                    await wait_all_tasks_blocked()
                subscription.close()

            nursery.start_soon(send_later)
        else:
            for path in expected:
                await bus.send("a", "k", path)
            await wait_all_tasks_blocked()
            subscription.close()
        assert await read_all(subscription, way) == told == expected
        assert tasks == {trio.lowlevel.current_task()}


@pytest.mark.parametrize("way", ["one by one", "in order"])
async def test_each_event_that_a_handler_takes_is_reported_before_its_call(
    way: str, autojump_clock: MockClock
) -> None:
    instrument, calls = watcher()
    handled = []

    async def handler(event: Event) -> None:
        await trio.sleep(1)
        handled.append(event.path)

    async with open_event_bus(instruments=[instrument]) as bus:
        calls_at_once = 1 if way == "one by one" else 2
        await bus.on(handler, "a", concurrency=calls_at_once, ordered=way == "in order")
        for path in ["/1", "/1", "/2", "/1"]:
            await bus.send("a", "k", path)
    assert sorted(handled) == ["/1", "/1", "/1", "/2"]
    told = [(call[0], call[1]) for call in calls if call[0] in ("event_received", "before_handler")]
    assert len(told) == 8
    received, called = told[::2], told[1::2]
    assert {name for name, _ in received} == {"event_received"}
    assert {name for name, _ in called} == {"before_handler"}
    assert all(event is other for (_, event), (_, other) in zip(received, called, strict=True))


async def test_waiters_of_expect_and_wait_for_are_reported(autojump_clock: MockClock) -> None:
    instrument, calls = watcher()
    async with open_event_bus(instruments=[instrument]) as bus, trio.open_nursery() as nursery:
        nursery.start_soon(bus.wait_for, "a")
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        (opened,) = (call[1] for call in calls if call[0] == "subscription_opened")
        (closed,) = (call[1] for call in calls if call[0] == "subscription_closed")
        assert opened is closed
        assert ("/1", opened) in [(c[1].path, c[2]) for c in calls if c[0] == "event_received"]
        async with bus.expect("b"):
            calls.clear()
            other, others = watcher()
            bus.add_instrument(other)
        assert names(others) == ["subscription_opened", "subscription_closed"]
        assert others[0][1] is others[1][1] is calls[-1][1]


async def test_the_end_of_the_bus_closes_each_subscription_once(autojump_clock: MockClock) -> None:
    instrument, calls = watcher()
    async with open_event_bus(instruments=[instrument]) as bus, trio.open_nursery() as nursery:
        first, second = await bus.subscribe("a"), await bus.subscribe("a")
        await bus.open_history("a")
        second.close()
        third = await bus.subscribe("a")
        await bus.send("a", "k", "/1")

        async def expect() -> None:
            with pytest.raises(BusClosedError):
                await bus.wait_for("b")

        nursery.start_soon(expect)
        await wait_all_tasks_blocked()
        waiter = [call[1] for call in calls if call[0] == "subscription_opened"][-1]
        calls.clear()
        bus.close()
        assert calls == [
            *[("subscription_closed", each) for each in (first, third, waiter)],
            ("bus_closed",),
        ]
        calls.clear()
        assert drain(first.channel()) == drain(third.channel()) == ["/1"]
        assert [call[2] for call in calls] == [first, third]  # still the same objects


# --------------------------------------------------------------------------------------- handlers


async def test_a_call_of_a_handler_is_reported_before_and_after(autojump_clock: MockClock) -> None:
    instrument, calls = watcher()

    async def handler(event: Event) -> None:
        calls.append(("call", event))
        if event.path == "/bad":
            raise ValueError(event.path)

    async with open_event_bus(instruments=[instrument]) as bus:
        subscription = await bus.on(handler, "a", on_error=Log())
        assert calls == [("subscription_opened", subscription)]
        assert subscription.handler is handler
        calls.clear()
        for path in "/good", "/bad":
            await bus.send("a", "k", path)
            await wait_all_tasks_blocked()
    handling = ["event_received", "before_handler", "call", "after_handler"]
    sending = ["before_send", "after_send", "events_routed"]
    end = ["draining_began", "subscription_closed", "bus_closed"]
    assert names(calls) == [*sending, *handling, *sending, *handling, "event_failed", *end]
    assert outcomes(calls, "after_handler") == ["/good ok", "/bad ValueError"]
    (letter,) = (call[1] for call in calls if call[0] == "event_failed")
    assert letter.event.path == "/bad"
    assert letter.subscription is subscription
    assert str(letter.error) == "/bad"


async def test_a_cancelled_call_is_reported(autojump_clock: MockClock) -> None:
    instrument, calls = watcher()
    async with open_event_bus(instruments=[instrument], drain_timeout=1) as bus:

        async def handler(event: Event) -> None:
            await trio.sleep_forever()

        await bus.on(handler, "a")
        await bus.send("a", "k", "/1")
    assert outcomes(calls, "after_handler") == ["/1 Cancelled"]


async def test_context_variables_of_a_call_reach_its_tasks_and_no_other_call(
    autojump_clock: MockClock,
) -> None:
    variable = ContextVar("variable", default="none")
    seen: list[tuple[str, str]] = []

    class Marking(Instrument):
        def before_handler(self, event: Event, subscription: Subscription) -> None:
            seen.append(("before", variable.get()))
            self.token = variable.set(event.path)

        def after_handler(
            self, event: Event, subscription: Subscription, error: BaseException | None
        ) -> None:
            variable.reset(self.token)

    async def handler(event: Event) -> None:
        async with trio.open_nursery() as nursery:

            async def child() -> None:
                seen.append(("child", variable.get()))

            nursery.start_soon(child)
        seen.append(("handler", variable.get()))

    async with open_event_bus(instruments=[Marking()]) as bus:
        await bus.on(handler, "a")
        for path in "/1", "/2":
            await bus.send("a", "k", path)
    assert seen == [
        ("before", "none"),
        ("child", "/1"),
        ("handler", "/1"),
        ("before", "none"),
        ("child", "/2"),
        ("handler", "/2"),
    ]


# ------------------------------------------------------------------------------- losses and stalls


async def test_an_episode_of_loss_is_reported_as_it_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("trio_events").disabled = True  # whether or not it is
    try:
        instrument, calls = watcher()
        async with open_event_bus(instruments=[instrument]) as bus:
            subscription = await bus.subscribe(
                "a", max_buffer_size=2, overflow=Overflow.DROP_OLDEST
            )
            for number in range(5):
                await bus.send("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
            drain(subscription.channel())
            await trio.sleep(2)
        told = [call for call in calls if call[0].startswith("loss")]
        assert told == [("loss_began", subscription), ("loss_ended", subscription, 3)]
    finally:
        logging.getLogger("trio_events").disabled = False


# --------------------------------------------------------------------------- coming, going, failing


@pytest.mark.parametrize("late", [False, True])
async def test_open_subscriptions_are_reported_first(late: bool, autojump_clock: MockClock) -> None:
    instrument, calls = watcher()
    async with open_event_bus(instruments=[] if late else [instrument]) as bus:
        subscriptions = [await bus.subscribe("a"), await bus.subscribe("b")]
        if late:
            bus.add_instrument(instrument)
        bus.add_instrument(instrument)  # a second time: nothing happens
        assert calls == [("subscription_opened", each) for each in subscriptions]


async def test_an_instrument_that_is_removed_gets_no_more_calls(
    autojump_clock: MockClock,
) -> None:
    instrument, calls = watcher()
    other, others = watcher()
    async with open_event_bus(instruments=[instrument, other]) as bus, trio.open_nursery() as n:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        n.start_soon(bus.send, "a", "k", "/2")
        await wait_all_tasks_blocked()
        bus.remove_instrument(instrument)
        calls.clear()
        with pytest.raises(KeyError):
            bus.remove_instrument(instrument)
        assert drain(subscription.channel()) == ["/1"]
        await wait_all_tasks_blocked()
        assert drain(subscription.channel()) == ["/2"]
    assert calls == []
    assert outcomes(others, "after_send") == ["/1 ok", "/2 ok"]


async def test_a_send_that_began_without_the_instrument_ends_without_it(
    autojump_clock: MockClock,
) -> None:
    instrument, calls = watcher()
    other, others = watcher()
    async with open_event_bus(instruments=[other]) as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        nursery.start_soon(bus.send, "a", "k", "/2")
        await wait_all_tasks_blocked()
        bus.add_instrument(instrument)
        await subscription.receive()
        await wait_all_tasks_blocked()
        assert outcomes(calls, "after_send") == []
        assert outcomes(others, "after_send") == ["/1 ok", "/2 ok"]
        assert [call[1].path for call in calls if call[0] == "event_received"] == ["/1"]


@pytest.mark.parametrize("change", ["add", "remove"])
async def test_backpressure_is_the_same_when_an_instrument_comes_or_goes(
    change: str, autojump_clock: MockClock
) -> None:
    instrument, _ = watcher()
    began = [] if change == "add" else [instrument]
    async with open_event_bus(instruments=began) as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=2)

        async def send_all() -> None:
            for number in range(8):
                await bus.send("a", "k", f"/{number}")

        nursery.start_soon(send_all)
        await wait_all_tasks_blocked()
        waiting = subscription.statistics().tasks_waiting_send
        (bus.add_instrument if change == "add" else bus.remove_instrument)(instrument)
        got = []
        for _ in range(8):
            await wait_all_tasks_blocked()
            got.append((await subscription.receive()).path)
            books = subscription.statistics()
            assert books.queued <= 8
        assert waiting == 0 or got == [f"/{number}" for number in range(8)]
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=8)
        assert got == [f"/{number}" for number in range(8)]


@pytest.mark.parametrize("routed", [False, True])
async def test_an_instrument_may_come_when_a_subscription_is_closed_but_not_read(
    routed: bool, autojump_clock: MockClock
) -> None:
    instrument, calls = watcher()
    go = trio.Event()

    async def handler(event: Event) -> None:
        await go.wait()

    async with open_event_bus() as bus:
        handling, reading = await bus.on(handler, "a"), await bus.subscribe("a")
        for number in range(3):
            await bus.send("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        for subscription in (handling, reading):
            subscription.close()
        if routed:
            await wait_all_tasks_blocked()
        bus.add_instrument(instrument)
        go.set()
        assert len([event async for event in reading]) == 3
        await wait_all_tasks_blocked()
    for subscription, hook, expected in (
        (reading, "event_received", ["/0", "/1", "/2"]),
        (handling, "event_received", ["/1", "/2"]),
        (handling, "before_handler", ["/1", "/2"]),
    ):
        about = [call[1] for call in calls if call[0] == hook and call[2] is subscription]
        assert paths(about) == expected


async def test_an_instrument_may_come_while_the_bus_drains(autojump_clock: MockClock) -> None:
    instrument, calls = watcher()
    go = trio.Event()
    handled = []

    async def handler(event: Event) -> None:
        await go.wait()
        handled.append(event.path)

    async with trio.open_nursery() as nursery, open_event_bus() as bus:
        await bus.on(handler, "a")
        for number in range(3):
            await bus.send("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        bus.close()
        bus.add_instrument(instrument)

        async def later() -> None:
            await wait_all_tasks_blocked()
            go.set()

        nursery.start_soon(later)
    assert handled == ["/0", "/1", "/2"]
    assert outcomes(calls, "after_handler") == ["/1 ok", "/2 ok"]
    assert names(calls)[-2:] == ["subscription_closed", "bus_closed"]


async def everything(bus: EventBus, nursery: trio.Nursery) -> None:
    """All that hooks are about."""

    async def fail(event: Event) -> None:
        raise ValueError

    losing = await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.DROP_INCOMING)
    blocking = await bus.subscribe("b", max_buffer_size=1)
    await bus.on(fail, "c", on_error=Log())
    with pytest.raises(PolicyDeniedError):
        await bus.send("secret", "k", "/")
    for system in "aaaccbd":
        await bus.send(system, "k", f"/{system}")
    await wait_all_tasks_blocked()
    nursery.start_soon(bus.send, "b", "k", "/2")
    await trio.sleep(1.5)
    assert drain(losing.channel()) == ["/a"]
    assert (await blocking.receive()).path == "/b"
    await trio.sleep(2)
    assert (await blocking.receive()).path == "/2"
    assert losing.statistics().dropped == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("hook", HOOKS)
async def test_an_instrument_that_raises_is_logged_and_removed_and_the_bus_goes_on(
    hook: str,
    error: type[BaseException],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[Call] = []

    def note(call: Call) -> None:
        calls.append(call)
        if call[0] == hook:
            raise error("oh")

    instrument = Watcher(note)
    other, others = watcher()
    policy = RulePolicy(
        [
            trio_events.Allow(action, system)
            for action in ("events.send", "events.subscribe")
            for system in ("(a|b|c|d)",)
        ]
    )
    async with (
        open_event_bus(policy=policy, instruments=[instrument, other]) as bus,
        trio.open_nursery() as nursery,
    ):
        await everything(bus, nursery)
    assert calls[-1][0] == hook
    assert names(calls).count(hook) == 1
    (record,) = (r for r in caplog.records if "instrument was removed" in r.getMessage())
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(f"Watcher.{hook} raised")
    assert record.exc_info is not None
    assert record.exc_info[0] is error
    assert set(names(others)) == set(HOOKS)


async def test_an_instrument_that_raises_while_it_is_added_is_removed_and_the_bus_goes_on(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Call] = []

    def note(call: Call) -> None:
        calls.append(call)
        raise ValueError("oh")

    async with open_event_bus() as bus:
        one, two = await bus.subscribe("a"), await bus.subscribe("b")
        bus.add_instrument(Watcher(note))
        assert calls == [("subscription_opened", one)]
        assert len(caplog.records) == 1
        await bus.send("b", "k", "/b")
        assert (await two.receive()).path == "/b"
    assert len(calls) == 1


def test_what_is_not_overridden_is_not_called() -> None:
    class Half(Instrument):
        def before_send(self, event: Event) -> None: ...

    instruments = Instruments(Notices(), Door(None))
    instruments.add(Half())
    assert [hook for hook in HOOKS if instruments.wants(hook)] == ["before_send"]
    assert instruments.watched_sends
    assert not instruments.watched_reads
    assert not instruments.watched_routes
    assert not instruments.watched_calls


def test_the_methods_of_an_instrument_itself_do_nothing() -> None:
    instrument: Any = Instrument()
    for hook in HOOKS:
        method = getattr(instrument, hook)
        arguments = method.__code__.co_argcount - 1
        assert method(*[None] * arguments) is None


# -------------------------------------------------------------------------- what they must not do


FORBIDDEN: dict[str, Callable[[EventBus, Subscription], object]] = {
    "send_nowait": lambda bus, _: bus.send_nowait("a", "k", "/x"),
    "send_soon": lambda bus, _: bus.send_soon("a", "k", "/x"),
    "send": lambda bus, _: bus.send("a", "k", "/x").send(None),
    "close": lambda bus, _: bus.close(),
    "subscribe": lambda bus, _: bus.subscribe("a").send(None),
    "is_wanted": lambda bus, _: bus.is_wanted("a", "k", "/x"),
    "add_instrument": lambda bus, _: bus.add_instrument(Instrument()),
    "remove_instrument": lambda bus, _: bus.remove_instrument(Instrument()),
    "sub.close": lambda _, subscription: subscription.close(),
    "sub.add": lambda _, subscription: subscription.add("b"),
    "channel.close": lambda _, subscription: subscription.channel().close(),
    "receive_nowait": lambda _, subscription: subscription.receive_nowait(),
}


@pytest.mark.parametrize("operation", FORBIDDEN)
async def test_an_instrument_must_not_use_the_bus_that_it_watches(
    operation: str, autojump_clock: MockClock
) -> None:
    raised: list[Exception] = []

    class Meddling(Instrument):
        def __init__(self) -> None:
            self.meddled = False

        def before_send(self, event: Event) -> None:
            assert bus.statistics().open_subscriptions == 2  # to look is allowed
            with pytest.raises(RuntimeError, match="must not use the bus") as caught:
                FORBIDDEN[operation](bus, victim)
            raised.append(caught.value)

    async with open_event_bus() as bus:
        victim, witness = await bus.subscribe("v"), await bus.subscribe("a")
        await bus.send("v", "k", "/v")
        meddling = Meddling()
        bus.add_instrument(meddling)
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        assert not isinstance(raised[0], NoBusError)
        assert paths([await witness.receive()]) == ["/1"]
        assert_books(victim, queued=1)
        assert meddling in bus._core.instruments
        assert bus.statistics().accepted == 2


async def test_another_thread_may_send_while_a_method_runs(autojump_clock: MockClock) -> None:
    class Waiting(Instrument):
        def before_send(self, event: Event) -> None:
            if event.path == "/1":
                thread = threading.Thread(target=bus.send_soon, args=("a", "k", "/2"))
                thread.start()
                thread.join()

    async with open_event_bus(instruments=[Waiting()]) as bus:
        witness = await bus.subscribe("a")
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        assert drain(witness.channel()) == ["/1", "/2"]


@pytest.mark.parametrize("collects", [False, True])
async def test_the_collector_does_not_run_in_a_method(
    collects: bool, autojump_clock: MockClock
) -> None:
    states = []

    class Asking(Instrument):
        def before_send(self, event: Event) -> None:
            states.append(gc.isenabled())

    async with open_event_bus(instruments=[Asking()]) as bus:
        before = gc.isenabled()
        (gc.enable if collects else gc.disable)()
        try:
            await bus.send("a", "k", "/1")
            assert gc.isenabled() is collects
        finally:
            (gc.enable if before else gc.disable)()
    assert states == [False]


@pytest.mark.parametrize("thing", [None, "x", Instrument, object()])
async def test_an_object_that_is_not_an_instrument_is_refused(
    thing: Any, autojump_clock: MockClock
) -> None:
    with pytest.raises(TypeError, match="must be an Instrument"):
        open_event_bus(instruments=[thing])
    async with open_event_bus() as bus:
        with pytest.raises(TypeError, match="must be an Instrument"):
            bus.add_instrument(thing)


def test_an_instrument_is_added_in_the_thread_of_the_bus() -> None:
    async def main() -> None:
        async with open_event_bus() as bus:
            with pytest.raises(NoBusError):
                await trio.to_thread.run_sync(bus.add_instrument, Instrument())
            with pytest.raises(NoBusError):
                await trio.to_thread.run_sync(bus.remove_instrument, Instrument())

    trio.run(main)
