"""The bus's own events: what they say, their place in the order, and their bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events
from trio_events import (
    AccessDenied,
    BusEnding,
    CloseSubscription,
    DeadlockError,
    DeadlockRefused,
    Event,
    EventBus,
    EventUnmatched,
    HandlerSet,
    HandlerSlow,
    HandlingFailed,
    Instrument,
    InvalidEventError,
    Log,
    LossOver,
    LossStarted,
    Overflow,
    PolicyDeniedError,
    RequestsWaiting,
    Retry,
    RulePolicy,
    SendersWaiting,
    SendRefused,
    Subscription,
    SubscriptionClosed,
    SubscriptionOpened,
    open_event_bus,
)

from ..observing import assert_books, drain, paths

NEWEST = Overflow.DROP_OLDEST
KEPT = Overflow.DROP_INCOMING


async def spy_on(bus: EventBus, kind: str | None = None, system: str = "$bus") -> Subscription:
    return await bus.subscribe(system, kind, overflow=NEWEST, max_buffer_size=1000)


@asynccontextmanager
async def spied(kind: str | None = None, **options: Any) -> AsyncIterator[tuple[EventBus, Any]]:
    """A bus, and a subscription to what it says."""
    async with open_event_bus(**options) as bus:
        yield bus, await spy_on(bus, kind)


async def read(spy: Subscription) -> list[Event[Any]]:
    """All that it has been told."""
    await wait_all_tasks_blocked()
    found = []
    while True:
        try:
            found.append(spy.receive_nowait())
        except trio.WouldBlock:
            return found


def kinds(events: list[Event[Any]]) -> list[str]:
    return [event.kind for event in events]


# --------------------------------------------------------------------------------- what they say


async def fail(event: Event) -> None:
    raise ValueError("no such address")


async def test_opening_and_closing(autojump_clock: MockClock) -> None:
    async with spied("subscription.*") as (bus, spy):
        subscription = await bus.subscribe(
            "orders.*", "order.*", path="/eu/*", overflow=KEPT, max_buffer_size=2
        )
        handled = await bus.on(fail, "x")
        async with bus.expect("y"):
            pass
        for number in range(3):
            await bus.send("orders.eu", "order.paid", f"/eu/{number}")
        await wait_all_tasks_blocked()
        assert (await subscription.receive()).path == "/eu/0"
        subscription.close()
        opened, of_handler, waiting, waited, closed = await read(spy)
        first = SubscriptionOpened(
            number=2,
            system="orders.*",
            kind="order.*",
            path="/eu/*",
            overflow="drop_incoming",
            max_buffer_size=2,
            origin=subscription.origin,
            handler=None,
        )
        assert opened == Event("$bus", "subscription.opened", "/subscriptions/2", first)
        assert (of_handler.data.number, of_handler.data.handler) == (3, "fail")
        assert of_handler.data.origin == handled.origin
        assert (waiting.kind, waiting.path) == ("subscription.opened", "/subscriptions/4")
        assert (waited.kind, waited.path) == ("subscription.closed", "/subscriptions/4")
        books = {"matched": 3, "delivered": 1, "queued": 1, "dropped": 1, "discarded": 0}
        books["superseded"] = 0
        assert isinstance(closed.data, SubscriptionClosed)
        assert attrs.asdict(closed.data) == {**attrs.asdict(first), **books}
        assert (closed.kind, closed.path) == ("subscription.closed", "/subscriptions/2")


async def test_losses(autojump_clock: MockClock) -> None:
    async with spied("loss.*") as (bus, spy):
        losing = await bus.subscribe("a", max_buffer_size=2, overflow=KEPT)
        for number in range(5):
            await bus.send("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        drain(losing.channel())
        await trio.sleep(2)
        assert await read(spy) == [
            Event("$bus", "loss.began", "/subscriptions/2", LossStarted(2, losing.origin, 3)),
            Event("$bus", "loss.ended", "/subscriptions/2", LossOver(2, losing.origin, 3)),
        ]


async def test_senders_that_wait_and_a_deadlock(autojump_clock: MockClock) -> None:
    async with spied("(senders|deadlock).*") as (bus, spy):
        full = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/1")
        await full.receive()
        await bus.send("a", "k", "/2")
        await wait_all_tasks_blocked()
        with pytest.raises(DeadlockError):
            await bus.send("a", "k", "/3")
        stalled, refused = await read(spy)
        assert stalled.kind == "senders.stalled"
        assert stalled.data == SendersWaiting(2, full.origin, 1, 1.0)
        assert (refused.kind, refused.path) == ("deadlock.refused", "/")
        assert isinstance(refused.data, DeadlockRefused)
        assert refused.data.system == "a"
        assert full.origin in refused.data.subscription


async def test_requests_that_wait_and_handlers_that_last(autojump_clock: MockClock) -> None:
    async def handler(event: Event) -> None:
        await trio.sleep(9)
        await bus.reply(event)

    async with open_event_bus(slow_handler_after=4) as bus:
        spy = await spy_on(bus, "(request|handler).*")
        sub = await bus.on(handler, "a", "ask")
        async with trio.open_nursery() as nursery:
            for path in ("/1", "/2"):
                nursery.start_soon(bus.request, "a", "ask", path)
                await wait_all_tasks_blocked()
        told = await read(spy)
    stalled = [event for event in told if event.kind == "request.stalled"]
    assert {event.path for event in stalled} == {"/"}
    data = stalled[0].data
    assert isinstance(data, RequestsWaiting)
    assert (data.system, data.kind, data.path) == ("a", "ask", "/1")
    assert (data.waiting, data.seconds) == (2, 1.0)
    assert sub.origin in data.whereabouts
    assert [event.data.seconds for event in stalled[:3]] == [1.0, 2.0, 4.0]
    slow = [event for event in told if event.kind == "handler.slow"]
    assert {event.path for event in slow} == {"/subscriptions/2"}
    assert slow[0].data == HandlerSlow(
        2, sub.origin, slow[0].data.handler, "a", "ask", "/1", slow[0].data.seconds
    )
    assert slow[0].data.handler.endswith("handler")
    assert 4 <= slow[0].data.seconds < 6


async def test_a_request_that_waits_for_itself(autojump_clock: MockClock) -> None:
    async def ask_itself(event: Event) -> None:
        with pytest.raises(DeadlockError):
            await bus.request("a", "ask", "/again")

    async with spied("deadlock.*") as (bus, spy):
        sub = await bus.serve(ask_itself, "a")
        await bus.request("a", "ask", "/1")
        (refused,) = await read(spy)
    assert refused.data.system == "a"
    assert sub.origin in refused.data.subscription


async def test_what_only_a_history_keeps_or_a_request_awaits_is_not_unmatched(
    autojump_clock: MockClock,
) -> None:
    async def answer(event: Event) -> str:
        return event.path

    async with spied("event.unmatched") as (bus, spy):
        await bus.open_history("a")
        await bus.serve(answer, "b", "ask")
        await bus.send("a", "k", "/1")
        await bus.request("b", "ask", "/2")
        assert await read(spy) == []


async def test_a_history_keeps_them(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("$bus", per_path=None)
        (await bus.subscribe("a")).close()
        await wait_all_tasks_blocked()
        assert kinds(history.events()) == ["subscription.opened", "subscription.closed"]
        late = await bus.subscribe("$bus", overflow=KEPT, history=history)
        assert kinds(await read(late)) == ["subscription.opened", "subscription.closed"]
        late.close()
        history.close()
        await bus.subscribe("b")
        await wait_all_tasks_blocked()
        assert len(history.events()) == 2
        assert bus._core.instruments.in_step is None


async def test_without_a_spy_a_deadlock_is_refused_all_the_same(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        full = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/1")
        await full.receive()
        await bus.send("a", "k", "/2")
        await wait_all_tasks_blocked()
        with pytest.raises(DeadlockError):
            await bus.send("a", "k", "/3")
        assert bus.statistics().accepted == 2


async def test_failing_handlers(autojump_clock: MockClock) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError

    async def odd(event: Event) -> None:
        raise Odd

    async with spied("*.failed") as (bus, spy):
        sub = await bus.on(fail, "a", on_error=Log())
        await bus.on(odd, "b", on_error=CloseSubscription())
        await bus.send("a", "k", "/1")
        await bus.send("b", "k", "/2")
        told = await read(spy)
        data = HandlingFailed(
            number=2,
            origin=sub.origin,
            handler="fail",
            system="a",
            kind="k",
            path="/1",
            error="ValueError",
            message="no such address",
            treatment="Log",
        )
        mine = [event for event in told if event.path == "/subscriptions/2"]
        assert [(event.kind, event.data) for event in mine] == [
            ("handler.failed", data),
            ("event.failed", data),
        ]
        other = next(event.data for event in told if event.path == "/subscriptions/3")
        assert isinstance(other, HandlingFailed)
        assert (other.message, other.treatment) == ("?", "CloseSubscription")


async def test_refusals(autojump_clock: MockClock) -> None:
    policy = RulePolicy(
        [
            trio_events.Allow("events.subscribe", "($bus|a)"),
            trio_events.Allow("events.send", "a"),
        ]
    )
    async with spied(policy=policy) as (bus, spy):
        eve = bus.for_actor("eve")
        for _ in range(5):
            with pytest.raises(PolicyDeniedError):
                await eve.send("secret", "k", "/1")
        eve.send_soon("secret", "k", "/2")
        await wait_all_tasks_blocked()
        told = await read(spy)
        denied = [event for event in told if event.kind == "access.denied"]
        assert [event.data for event in denied] == [
            AccessDenied("eve", "events.send", "secret", times) for times in (1, 2, 4)
        ]
        assert {event.path for event in denied} == {"/actors/eve"}
        (refused,) = (event for event in told if event.kind == "send.refused")
        assert (refused.path, refused.data) == ("/", SendRefused("PolicyDeniedError", 1))


async def test_unmatched_events_are_reported(autojump_clock: MockClock) -> None:
    async with spied() as (bus, spy):
        for number in range(9):
            await bus.send("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
        await bus.send("b", "k", "/b")
        assert await read(spy) == [
            Event("$bus", "event.unmatched", "/", EventUnmatched(system, "k", path, times))
            for system, path, times in [
                ("a", "/0", 1),
                ("a", "/1", 2),
                ("a", "/3", 4),
                ("a", "/7", 8),
                ("b", "/b", 1),
            ]
        ]
        assert bus.statistics().unmatched == 10  # its own events are not among them


async def test_attempts_of_a_handler(autojump_clock: MockClock) -> None:
    async with spied("*.failed") as (bus, spy):
        await bus.on(fail, "a", on_error=Retry(2, then=Log()))
        await bus.send("a", "k", "/1")
        await trio.sleep(1)
        told = [(event.kind, event.data.treatment) for event in await read(spy)]
    assert told == [("handler.failed", "Retry"), ("handler.failed", "Log"), ("event.failed", "Log")]


async def test_the_end_of_a_bus_reports_all_subscriptions_but_those_to_it(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        first = await spy_on(bus, "subscription.closed")
        for system in "ab":
            await bus.subscribe(system)
        second = await spy_on(bus, "subscription.closed")
        await bus.open_history("$bus")
    for spy in (first, second):
        assert [event.path async for event in spy] == ["/subscriptions/2", "/subscriptions/3"]
    assert bus.statistics().current_inbox_used == 0


async def test_the_end_of_a_bus(autojump_clock: MockClock) -> None:
    async def handler(event: Event) -> None:
        await trio.sleep(1)

    async with spied("bus.*") as (bus, spy):
        await bus.on(handler, "a")
        await bus.subscribe("b")
        for _ in range(3):
            await bus.send("a", "k", "/1")
            await bus.send("b", "k", "/1")
        await wait_all_tasks_blocked()
    assert [event async for event in spy] == [
        Event("$bus", "bus.draining", "/", BusEnding(handlers=1, unread=5)),
        Event("$bus", "bus.closing", "/", BusEnding(handlers=1, unread=3)),
    ]


# ---------------------------------------------------------------------------------- their place


async def test_an_opening_has_its_place_in_the_order(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        spy = await spy_on(bus, system="($bus|a)")
        for number in range(4):
            bus.send_nowait("a", "k", f"/{number}")
        newcomer = await bus.subscribe("a")
        for number in range(4, 6):
            bus.send_nowait("a", "k", f"/{number}")
        seen = [e.path if e.system == "a" else e.kind for e in await read(spy)]
        before, after = seen[:4], seen[5:]
        assert seen[4] == "subscription.opened"
        assert drain(newcomer.channel()) == after == ["/4", "/5"]
        assert before == ["/0", "/1", "/2", "/3"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.sampled_from("ab")),
            st.tuples(st.just("open"), st.sampled_from(["a", "b", "*"])),
            st.tuples(st.just("close"), st.integers(0, 5)),
            st.tuples(st.just("turn"), st.none()),
        ),
        max_size=25,
    )
)
def test_a_spy_can_tell_who_was_subscribed_when(program: list[tuple[str, Any]]) -> None:
    routed: list[tuple[str, set[int]]] = []

    class Witness(Instrument):
        def events_routed(self, events: Any, subscriptions: Any) -> None:
            numbers = {subscription._actor.number for subscription in subscriptions} - {1}
            routed.extend((event.path, numbers) for event in events)

    async def main() -> None:
        async with open_event_bus(instruments=[Witness()]) as bus:
            spy = await spy_on(bus, system="($bus|a|b)")
            opened: list[Subscription] = []
            for number, (act, detail) in enumerate(program):
                if act == "send":
                    bus.send_nowait(detail, "k", f"/{number}")
                elif act == "open":
                    opened.append(await bus.subscribe(detail))
                elif act == "turn":
                    await wait_all_tasks_blocked()
                elif detail < len(opened):
                    opened[detail].close()
            told = await read(spy)
        assert bus.statistics().advisories_lost == 0
        subscribed: dict[int, str] = {}
        rebuilt = []
        for event in told:
            if event.kind == "subscription.opened":
                subscribed[event.data.number] = event.data.system
            elif event.kind == "subscription.closed":
                del subscribed[event.data.number]
            elif event.kind == "k":
                got = {n for n, s in subscribed.items() if s in ("*", event.system)}
                rebuilt.append((event.path, got))
        assert rebuilt == routed

    trio.run(main)


# ------------------------------------------------------------------------------- who may, and how


async def test_no_wildcard_matches_them_and_no_task_can_send_them(
    autojump_clock: MockClock,
) -> None:
    async with spied("subscription.*") as (bus, spy):
        everything = await bus.subscribe("**")
        await bus.subscribe("a")
        assert drain(everything.channel()) == []
        with pytest.raises(InvalidEventError):
            await bus.send("$bus", "subscription.opened", "/")
        assert kinds(await read(spy)) == ["subscription.opened"] * 2


async def test_the_policy_is_asked_about_the_system(autojump_clock: MockClock) -> None:
    policy = RulePolicy([trio_events.Allow("events.subscribe", "*")])
    async with open_event_bus(policy=policy) as bus:
        with pytest.raises(PolicyDeniedError):
            await spy_on(bus)


@pytest.mark.parametrize("pattern", ["$bus", "($bus|a)", "$bus.**"])
async def test_to_wait_for_them_is_refused_before_anything_has_happened(
    pattern: str, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(ValueError, match="another overflow="):
            await bus.subscribe(pattern)
        with pytest.raises(ValueError, match="another overflow="):
            await bus.on(fail, pattern)
        with pytest.raises(ValueError, match="another overflow="):
            HandlerSet().on(pattern)
        subscription = await bus.subscribe("a")
        with pytest.raises(ValueError, match="another overflow="):
            subscription.add(pattern)
        assert bus.subscriptions() == (subscription,)
        await bus.subscribe("$bus.x")  # that is another system


async def test_a_subscription_may_begin_and_cease_to_spy(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        spy = await bus.subscribe("a", overflow=NEWEST)
        await bus.subscribe("x")
        spy.add("$bus")
        await bus.subscribe("y")
        spy.remove("$bus")
        await bus.subscribe("z")
        assert [event.data.system for event in await read(spy)] == ["y"]
        assert bus._core.instruments.in_step is None


async def test_to_wait_for_one_of_them_works(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, bus.expect("$bus", "subscription.opened") as waiter:
        await bus.subscribe("a")
        data = (await waiter.event()).data
        assert isinstance(data, SubscriptionOpened)
        assert data.system == "a"


# --------------------------------------------------------------------------------------- bounds


async def test_nothing_is_reported_about_subscriptions_to_them(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(event: Event) -> None:
        raise ValueError

    async with spied() as (bus, spy):
        other = await bus.subscribe("$bus", overflow=KEPT, max_buffer_size=1)
        await bus.on(failing, "($bus|q)", overflow=NEWEST, on_error=Log())
        for _ in range(50):
            (await bus.subscribe("a")).close()
        other.close()
        told = await read(spy)
        assert len(told) == 100
        assert all(event.data.system == "a" for event in told)
        assert [m for m in caplog.messages if "is full" in m]  # the log still says it
        assert [m for m in caplog.messages if "failed for" in m]


async def test_without_a_listener_none_is_made(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        spy = await spy_on(bus)
        spy.close()
        await bus.subscribe("a")
        await bus.on(fail, "b", on_error=Log())
        await bus.send("b", "k", "/1")
        await wait_all_tasks_blocked()
        assert bus.statistics().accepted == 1


async def test_a_flood_of_refusals_is_bounded(autojump_clock: MockClock) -> None:
    policy = RulePolicy([trio_events.Allow("events.subscribe", "$bus")])
    async with spied(policy=policy, inbox_size=8) as (bus, spy):
        for _ in range(1000):
            with pytest.raises(PolicyDeniedError):
                bus.send_nowait("a", "k", "/1")
        assert [event.data.times for event in await read(spy)] == [1, 2, 4, 8, 16, 32, 64, 128]
        assert bus.statistics().advisories_lost == 2  # the 256th refusal, and the 512th


async def test_of_very_many_denied_systems_only_the_latest_are_counted(
    autojump_clock: MockClock,
) -> None:
    policy = RulePolicy([trio_events.Allow("events.subscribe", "$bus")])
    async with spied(policy=policy) as (bus, spy):
        for number in [*range(5000), 0, 4999]:
            with pytest.raises(PolicyDeniedError):
                bus.send_nowait(f"s{number}", "k", "/1")
            if number % 100 == 0:
                await wait_all_tasks_blocked()
        told = await read(spy)
        assert len(bus._advisories._denied) == 4096
        assert [(event.data.system, event.data.times) for event in told][-2:] == [
            ("s0", 1),
            ("s4999", 2),
        ]


async def test_senders_are_not_held_up_by_them(autojump_clock: MockClock) -> None:
    async with open_event_bus(inbox_size=8) as bus:
        tiny = await bus.subscribe("$bus", overflow=KEPT, max_buffer_size=1)
        seen = await bus.subscribe("a")
        for number in range(30):
            (await bus.subscribe("b")).close()
            bus.send_nowait("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
        assert paths(await read(seen)) == [f"/{number}" for number in range(30)]
        assert tiny.statistics().queued == 1
        assert_books(tiny, queued=1, dropped=tiny.statistics().dropped)
