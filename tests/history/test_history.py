"""Histories: what they keep, and what subscriptions get from them."""

from __future__ import annotations

import gc
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    Action,
    Allow,
    BusClosedError,
    Deny,
    Event,
    EventBus,
    History,
    InvalidEventError,
    InvalidPatternError,
    Log,
    NoBusError,
    NoSubscribersError,
    Overflow,
    PolicyDeniedError,
    RequestFailedError,
    RulePolicy,
    open_event_bus,
)

from ..core.test_destructors import Dying
from ..observing import Cancellation, assert_books, at_every_checkpoint, drain, paths, tidy
from ..watching import Call, Watcher


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="trio_events")
    return caplog


async def send(bus: EventBus, *paths: str) -> None:
    """Send events, and let them be routed. Their data are their numbers."""
    for path in paths:
        await bus.send("a", "k", path, bus.statistics().accepted)
    await wait_all_tasks_blocked()


def kept(history: History) -> list[str]:
    """The paths of what is kept. The law holds."""
    books = history.statistics()
    found = paths(history.events())
    assert books.kept == len(found) <= books.max_events
    assert books.matched == books.kept + books.replaced + books.evicted + books.forgotten
    return found


def counters(history: History, *names: str) -> list[int]:
    """Some of the counters."""
    return [getattr(history.statistics(), name) for name in names]


# ---------------------------------------------------------------------------------------------
# What is kept
# ---------------------------------------------------------------------------------------------


async def test_the_last_event_of_each_path_is_kept(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a")
        assert kept(history) == []
        await send(bus, "/1", "/2", "/1", "/3", "/1")
        assert kept(history) == ["/2", "/3", "/1"]
        assert counters(history, "matched", "replaced", "evicted") == [5, 2, 0]
        last = history.last("a", "k", "/1")
        assert last is not None
        assert last.data == 4
        assert history.last("a", "other", "/1") is history.last("a", "k", "/9") is None


async def test_systems_and_kinds_are_kept_apart(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("**")
        for number, names in enumerate((("a", "k"), ("b", "k"), ("a", "l"), ("a", "k"))):
            await bus.send(*names, "/1", number)
        await wait_all_tasks_blocked()
        assert [event.data for event in history.events()] == [1, 2, 3]


async def test_the_last_few_events_of_each_path_are_kept(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a", per_path=2)
        await send(bus, "/1", "/1", "/2", "/1")
        assert [event.data for event in history.events()] == [1, 2, 3]
        assert counters(history, "kept", "replaced") == [3, 1]


async def test_the_last_events_are_kept_whatever_their_paths(
    autojump_clock: MockClock, log: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a", per_path=None, max_events=3)
        await send(bus, "/1", "/1", "/1", "/2", "/1")
        assert [event.data for event in history.events()] == [2, 3, 4]
        assert counters(history, "replaced", "evicted") == [2, 0]
        last = history.last("a", "k", "/1")
        assert last is not None
        assert last.data == 4
        assert history.last("a", "k", "/9") is None
    assert not log.messages


async def test_only_what_the_patterns_match_is_kept(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a", "k", path="/x/*")
        for names in (("a", "k", "/x/1"), ("b", "k", "/x/1"), ("a", "l", "/x/1"), ("a", "k", "/")):
            await bus.send(*names)
        await wait_all_tasks_blocked()
        assert kept(history) == ["/x/1"]
        assert counters(history, "matched") == [1]


async def test_of_too_many_paths_the_one_that_was_sent_to_least_recently_loses(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a", per_path=2, max_events=3)
        await send(bus, "/1", "/1", "/2", "/3")
        assert [event.data for event in history.events()] == [1, 2, 3]
        await send(bus, "/1", "/4")
        assert kept(history) == ["/1", "/1", "/4"]
        assert counters(history, "replaced", "evicted") == [0, 3]


async def test_what_was_evicted_is_logged_once_an_episode(
    autojump_clock: MockClock, log: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a", max_events=4)
        await send(bus, *map(str, range(20)))
        [message] = log.messages
        assert message.startswith(f"history 'a' (opened at {history.origin}) is full and drops ")
        assert "events kept: 4" in message
        history.forget("19")
        history.forget("18")
        assert len(log.messages) == 1  # it is half empty, but a second hasn't passed
        await trio.sleep(1)
        history.forget("nothing")
        assert log.messages[1:] == [
            message.partition(" is full")[0] + " has stopped dropping events; dropped: 16"
        ]
        await send(bus, *map(str, range(20)))
        assert len(log.messages) == 3
        await trio.sleep(1)
        history.forget("19")  # more than half full
        assert len(log.messages) == 3
    assert len(log.messages) == 4
    assert log.messages[3].endswith(": 18")


async def test_closing_a_history_ends_an_episode(
    autojump_clock: MockClock, log: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a", max_events=1)
        await send(bus, "/1", "/2")
        history.close()
        await wait_all_tasks_blocked()
        assert [record.levelname for record in log.records] == ["WARNING", "INFO"]


# ---------------------------------------------------------------------------------------------
# Forgetting and closing
# ---------------------------------------------------------------------------------------------


async def test_forgetting_drops_what_is_kept_for_a_path_and_not_what_is_on_its_way(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("**", per_path=2)
        await send(bus, "/1", "/2", "/1")
        await bus.send("b", "l", "/1")
        await wait_all_tasks_blocked()
        bus.send_nowait("a", "k", "/1")
        assert history.forget("/1") == 3
        assert history.forget("/1") == history.forget("/9") == 0
        assert kept(history) == ["/2"]
        await wait_all_tasks_blocked()
        assert kept(history) == ["/2", "/1"]
        assert counters(history, "forgotten") == [3]


async def test_forgetting_with_every_event_on_its_own(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a", per_path=None)
        await send(bus, "/1", "/2", "/1")
        assert history.forget("/1") == 2
        assert kept(history) == ["/2"]


async def test_what_is_forgotten_after_subscribing_is_still_received(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a")
        await send(bus, "/1", "/2")
        subscription = await bus.subscribe("a", history=history)
        assert history.forget("/1") == 1
        assert drain(subscription.channel()) == ["/1", "/2"]


async def test_a_closed_history_keeps_what_was_accepted_before_and_stays_readable(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a")
        bus.send_nowait("a", "k", "/1")
        history.close()
        history.close()
        bus.send_nowait("a", "k", "/2")
        await wait_all_tasks_blocked()
        assert kept(history) == ["/1"]
        assert history.last("a", "k", "/1") is not None
        assert bus.statistics().open_histories == 0
        assert bus.statistics().unmatched == 1
        assert history.forget("/1") == 1
        with pytest.raises(
            trio.ClosedResourceError, match=r"history 'a' \(opened at .* was closed"
        ):
            await bus.subscribe("a", history=history)
        with pytest.raises(trio.ClosedResourceError, match="was closed"):
            await bus.wait_for("a", history=history)


async def test_a_history_is_readable_after_the_bus_was_closed(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a")
        bus.send_nowait("a", "k", "/1")
    assert kept(history) == ["/1"]
    assert repr(history) == "<History 'a' 1/1024 kept, closed>"
    assert bus.statistics().open_histories == 0
    history.close()
    assert history.forget("/1") == 1
    with pytest.raises(BusClosedError):
        await bus.subscribe("a", history=history)
    with pytest.raises(BusClosedError):
        await bus.open_history("a")


async def test_a_history_is_closed_by_with(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        with await bus.open_history("a") as one:
            async with await bus.open_history("a") as two:
                assert bus.statistics().open_histories == 2
            assert repr(one) == "<History 'a' 0/1024 kept>"
            assert repr(two) == "<History 'a' 0/1024 kept, closed>"
        assert bus.statistics().open_histories == 0


# ---------------------------------------------------------------------------------------------
# What a subscription gets
# ---------------------------------------------------------------------------------------------


async def test_a_subscription_begins_with_what_is_kept_and_matches(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a")
        await send(bus, "/1", "/2")
        bus.send_nowait("a", "k", "/3")
        subscription = await bus.subscribe("a", path="/(2|3)", history=history)
        assert_books(subscription, queued=2)
        bus.send_nowait("a", "k", "/2")
        await wait_all_tasks_blocked()
        assert drain(subscription.channel()) == ["/2", "/3", "/2"]
        assert kept(history) == ["/1", "/3", "/2"]


async def test_a_subscription_that_nothing_kept_matches_begins_empty(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("**")
        await send(bus, "/1")
        subscription = await bus.subscribe("b", history=history)
        assert_books(subscription)


async def test_subscribing_never_waits_for_room_but_senders_then_do(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        history = await bus.open_history("a")
        await send(bus, *map(str, range(20)))
        subscription = await bus.subscribe("a", history=history, max_buffer_size=10)
        assert_books(subscription, queued=20, held=10)
        with pytest.raises(trio.WouldBlock):
            bus.send_nowait("a", "k", "20")
        bus.send_nowait("b", "k", "/others don't wait")
        nursery.start_soon(bus.send, "a", "k", "20")
        await wait_all_tasks_blocked()
        assert bus.statistics().tasks_waiting_send == 1
        got = [(await subscription.receive()).path for _ in range(21)]
        assert got == [str(number) for number in range(21)]
        assert paths(history.events()) == got


@pytest.mark.parametrize("on", [False, True])
async def test_an_opening_is_reported_before_what_is_kept_overflows(
    on: bool, autojump_clock: MockClock
) -> None:
    calls: list[Call] = []

    async def ignore(event: Event) -> None:
        """Be a handler."""

    async with open_event_bus(instruments=[Watcher(calls.append)]) as bus:
        spy = await bus.subscribe("$bus", overflow=Overflow.DROP_OLDEST)
        history = await bus.open_history("a")
        await send(bus, "/1", "/2", "/3")
        calls.clear()
        subscribe = partial(bus.on, ignore, on_error=Log()) if on else bus.subscribe
        closed, losing = [
            await subscribe("a", history=history, max_buffer_size=2, overflow=overflow)
            for overflow in (Overflow.CLOSE, Overflow.DROP_OLDEST)
        ]
        await wait_all_tasks_blocked()
        hooks = ("subscription_opened", "loss_began", "subscription_closed")
        assert [call for call in calls if call[0] in hooks] == [
            ("subscription_opened", closed),
            ("loss_began", closed),
            ("subscription_closed", closed),
            ("subscription_opened", losing),
            ("loss_began", losing),
        ]
        spy.close()
        about: list[Event[Any]] = [event async for event in spy]
        assert [event.kind for event in about if event.kind != "loss.ended"] == [
            "subscription.opened",
            "loss.began",
            "subscription.closed",
            "subscription.opened",
            "loss.began",
        ]
        assert (about[0].data.handler is not None) == on


async def test_a_handler_is_called_with_what_is_kept(autojump_clock: MockClock) -> None:
    seen = []

    async def handle(event: Event) -> None:
        seen.append(event.path)

    async with open_event_bus() as bus:
        history = await bus.open_history("a")
        await send(bus, "/1", "/2")
        await bus.on(handle, "a", history=history)
        await bus.send("a", "k", "/3")
    assert seen == ["/1", "/2", "/3"]


async def test_what_is_kept_is_handled_before_the_bus_has_drained(
    autojump_clock: MockClock,
) -> None:
    seen = []

    async def slow(event: Event) -> None:
        await trio.sleep(1)
        seen.append(event.path)
        if event.path == "/1":  # the histories are open until all is handled
            await bus.send("b", "k", "/kept while it drains")

    async with open_event_bus() as bus:
        history = await bus.open_history("**")
        await send(bus, "/1", "/2")
        await bus.on(slow, "a", history=history, max_buffer_size=1)
    assert seen == ["/1", "/2"]
    assert kept(history) == ["/1", "/2", "/kept while it drains"]


async def test_waiting_for_what_has_happened_returns_at_once(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a")
        bus.send_nowait("a", "k", "/1")
        event = await bus.wait_for("a", path="/1", history=history)
        assert event.path == "/1"
        with trio.move_on_after(5):
            await bus.wait_for("a", path="/2", history=history)
        assert trio.current_time() == 5
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.send, "a", "k", "/2")
            assert (await bus.wait_for("a", path="/2", history=history)).path == "/2"


async def test_what_is_kept_needs_no_room_when_it_is_expected(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a")
        await send(bus, *map(str, range(300)))
        async with bus.expect("a", history=history) as waiter:
            await send(bus, *map(str, range(256)))
            assert (await waiter.event()).data == 0
            rest = [await anext(waiter.events()) for _ in range(555)]
        assert [event.data for event in rest] == list(range(1, 556))


async def test_the_ambient_functions_take_histories(autojump_clock: MockClock) -> None:
    seen = []

    async def handle(event: Event) -> None:
        seen.append(event.path)

    async with open_event_bus():
        history = await events.open_history("a", per_path=None, max_events=2)
        for path in ("/1", "/2", "/3"):
            await events.send("a", "k", path)
        subscription = await events.subscribe("a", history=history)
        assert drain(subscription.channel()) == ["/2", "/3"]
        await events.on(handle, "a", history=history)
        assert (await events.wait_for("a", history=history)).path == "/2"
        async with events.expect("a", history=history) as waiter:
            assert (await waiter.event()).path == "/2"
    assert seen == ["/2", "/3"]


# ---------------------------------------------------------------------------------------------
# It is no subscription
# ---------------------------------------------------------------------------------------------


async def test_a_history_is_not_a_subscription(autojump_clock: MockClock) -> None:
    async with open_event_bus(max_subscriptions=1) as bus:
        history = await bus.open_history("a", max_events=1)
        await bus.open_history("a")
        assert bus.subscriptions() == ()
        statistics = bus.statistics()
        assert (statistics.open_subscriptions, statistics.open_histories) == (0, 2)
        for number in range(1000):  # it is full, and nobody waits
            await bus.send("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        assert bus.statistics().unmatched == 0  # what is kept was wanted
        assert bus.is_wanted("a", "k", "/x")
        with pytest.raises(NoSubscribersError):
            await bus.request("a", "k", "/x")
        await bus.subscribe("a", history=history)


async def test_a_subscription_that_gets_a_request_from_a_history_may_answer_it(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        history = await bus.open_history("a")
        asked = await bus.subscribe("a")
        await bus.send("a", "k", "/no request")
        replies: list[Event] = []

        @nursery.start_soon
        async def _() -> None:
            replies.append(await bus.request("a", "ask", "/1"))

        await wait_all_tasks_blocked()
        late = await bus.subscribe("a", history=history)
        asked.channel().close()
        await late.receive()
        request = await late.receive()
        await trio.sleep(5)
        assert not replies
        await bus.reply(request, "late")
        await wait_all_tasks_blocked()
        assert [reply.data for reply in replies] == ["late"]


async def test_a_request_that_only_a_history_has_fails(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.open_history("a")
        asked = await bus.subscribe("a")

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(RequestFailedError):
                await bus.request("a", "ask", "/1")

        await wait_all_tasks_blocked()
        asked.channel().close()


async def test_opening_a_history_needs_the_permission_to_subscribe(
    autojump_clock: MockClock,
) -> None:
    rules = RulePolicy(
        [
            Allow(Action.SUBSCRIBE, "**"),
            Deny(Action.SUBSCRIBE, "secret", actor="plugin"),
        ]
    )
    async with open_event_bus(policy=rules) as bus:
        plugin = bus.for_actor("plugin")
        for pattern in ("secret", "**"):
            with pytest.raises(PolicyDeniedError):
                await plugin.open_history(pattern)
        history = await bus.open_history("secret")
        with pytest.raises(PolicyDeniedError):
            await plugin.subscribe("secret", history=history)
        with pytest.raises(PolicyDeniedError):
            await plugin.wait_for("secret", history=history)
        await plugin.open_history("public")
        assert bus.statistics().open_histories == 2


# ---------------------------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------------------------


Use = Callable[[EventBus, Any], Awaitable[object]]


async def handle(_: Event) -> None:
    """Be a handler."""


async def expect(bus: EventBus, history: Any) -> None:
    async with bus.expect("a", history=history):
        pass


USES: dict[str, Use] = {
    "subscribe": lambda bus, history: bus.subscribe("a", history=history),
    "on": lambda bus, history: bus.on(handle, "a", history=history),
    "expect": expect,
    "wait_for": lambda bus, history: bus.wait_for("a", history=history),
}


@pytest.mark.parametrize("use", USES)
async def test_a_history_that_does_not_keep_all_of_it_is_refused(
    use: str, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        for system, kind, path in (("b", None, None), ("a", "k", None), ("a", None, "/x/**")):
            history = await bus.open_history(system, kind, path=path)
            with pytest.raises(ValueError, match="the patterns of a history must cover"):
                await USES[use](bus, history)
        assert bus.statistics().open_subscriptions == bus.statistics().open_waiters == 0


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("history", ["a", True, open_event_bus, History])
async def test_an_object_that_is_not_a_history_is_refused(
    use: str, history: object, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(TypeError, match="history must be a History, not"):
            await USES[use](bus, history)
        assert bus.statistics().open_subscriptions == bus.statistics().open_waiters == 0


@pytest.mark.parametrize("use", USES)
async def test_the_history_of_another_bus_is_refused(use: str, autojump_clock: MockClock) -> None:
    async with open_event_bus() as other, open_event_bus() as bus:
        history = await other.open_history("a")
        with pytest.raises(ValueError, match="belongs to another bus"):
            await USES[use](bus, history)
        await other.for_actor("plugin").subscribe("a", history=history)  # that is the same bus
        assert bus.statistics().open_subscriptions == bus.statistics().open_waiters == 0


@pytest.mark.parametrize("use", USES)
async def test_a_closed_history_is_refused(use: str, autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a")
        history.close()
        with pytest.raises(trio.ClosedResourceError, match="was closed"):
            await USES[use](bus, history)
        assert bus.statistics().open_subscriptions == bus.statistics().open_waiters == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"system": "a*"}, InvalidPatternError),
        ({"system": 3}, TypeError),
        ({"kind": "a..b"}, InvalidPatternError),
        ({"path": ""}, InvalidPatternError),
        ({"per_path": 0}, ValueError),
        ({"per_path": -1}, ValueError),
        ({"per_path": 1.0}, TypeError),
        ({"per_path": True}, TypeError),
        ({"max_events": 0}, ValueError),
        ({"max_events": None}, TypeError),
    ],
    ids=str,
)
async def test_bad_arguments_are_refused_and_nothing_has_happened(
    arguments: dict[str, Any], error: type[Exception], autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(error):
            await bus.open_history(**{"system": "a"} | arguments)
        assert bus.statistics().open_histories == 0


async def test_asking_for_what_no_event_can_have_is_refused(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a")
        for names in (("a*", "k", "/"), ("a", "", "/"), ("a", "k", "")):
            with pytest.raises(InvalidEventError):
                history.last(*names)
        with pytest.raises(InvalidEventError):
            history.forget("")
        with pytest.raises(TypeError):
            history.forget(3)  # type: ignore[arg-type]
        assert history.last("$bus", "k", "/") is None


async def test_a_history_says_what_it_is_about(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("(b|a).**", "k", path="/x/*")
        assert (history.system, history.kind, history.path) == ("(a|b).**", "k", "/x/*")
        assert history.origin.startswith(f"{__file__}:")
        history = await bus.open_history("a")
        assert (history.system, history.kind, history.path) == ("a", None, None)
        with pytest.raises(TypeError, match="open_history"):
            History()  # type: ignore[call-arg]
        assert set(attrs.asdict(history.statistics()).values()) == {0, 1024}


async def test_another_thread_may_not_change_a_history() -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a")
        for act in (history.close, lambda: history.forget("/1")):
            with pytest.raises(NoBusError):
                await trio.to_thread.run_sync(act)
        with pytest.raises(NoBusError):
            await trio.to_thread.run_sync(trio.run, partial(bus.open_history, "a"))
        assert bus.statistics().open_histories == 1


# ---------------------------------------------------------------------------------------------
# Cancellation, destructors
# ---------------------------------------------------------------------------------------------


async def test_opening_a_history_leaves_nothing_when_cancelled(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:

        async def scene(cancellation: Cancellation[History]) -> None:
            async with tidy(bus):
                await cancellation.run(lambda: bus.open_history("a.**", path="/*"))
                if cancellation.result is not None:
                    cancellation.result.close()

        assert await at_every_checkpoint(scene) == 1


@pytest.mark.parametrize("use", ["subscribe", "on"])
async def test_subscribing_with_a_history_leaves_nothing_when_cancelled(
    use: str, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a")
        await send(bus, *map(str, range(5)))

        async def scene(cancellation: Cancellation[Any]) -> None:
            async with tidy(bus):
                await cancellation.run(lambda: USES[use](bus, history))  # type: ignore[arg-type,return-value]
                if cancellation.result is not None:
                    cancellation.result.channel().close()

        assert await at_every_checkpoint(scene) == 1
        assert len(kept(history)) == 5


ACTS: dict[str, Callable[[EventBus, History], object]] = {
    "forgets": lambda bus, history: history.forget("/1"),
    "forgets another": lambda bus, history: history.forget("/another"),
    "closes the history": lambda bus, history: history.close(),
    "closes the bus": lambda bus, history: bus.close(),
    "sends": lambda bus, history: bus.send_nowait("a", "k", "/from a destructor"),
    "asks": lambda bus, history: (
        history.events(),
        history.statistics(),
        bus.is_wanted("a", "k", "/"),
    ),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("max_events", [1, 100])
@pytest.mark.parametrize("per_path", [1, None])
async def test_the_destructor_of_data_that_is_let_go_may_use_the_bus(
    act: str, max_events: int, per_path: int | None, autojump_clock: MockClock
) -> None:
    errors: list[BaseException] = []
    async with open_event_bus() as bus:
        history = await bus.open_history("a", per_path=per_path, max_events=max_events)
        for path in ("/1", "/2", "/1", "/another", "/1"):
            data = Dying(lambda: ACTS[act](bus, history), errors)
            try:
                bus.send_nowait("a", "k", path, data)
            except BusClosedError:
                pass
            data = None  # type: ignore[assignment]  # only the history has it
            await wait_all_tasks_blocked()
            kept(history)
        for path in ("/1", "/2", "/another"):
            history.forget(path)
            await wait_all_tasks_blocked()
        kept(history)
        assert not errors


async def test_the_collector_may_forget_and_close_in_the_middle_of_a_step(
    autojump_clock: MockClock,
) -> None:
    removed: list[int] = []

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            removed.append(history.forget("/1"))

    async with open_event_bus() as bus:
        history = await bus.open_history("a")
        threshold = gc.get_threshold()
        gc.set_threshold(1)
        try:
            for _ in range(50):
                Cycle()
                await send(bus, "/1", "/2")
                kept(history)
        finally:
            gc.set_threshold(*threshold)
        gc.collect()
        kept(history)
        assert len(removed) == 50


async def test_what_is_done_twice_within_a_step_is_done_once(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a")
        await send(bus, "/1")
        with bus._core.notices:  # where destructors run
            for _ in range(2):
                history.close()
                assert history.forget("/1") == 0
            assert kept(history) == ["/1"]
        assert kept(history) == []
        assert bus.statistics().open_histories == 0
