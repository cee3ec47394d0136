"""Handlers: what is one, when and how it is called, and what it may do itself."""

from __future__ import annotations

import functools
import gc
import random
import re
import weakref
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any
from unittest.mock import AsyncMock

import attrs
import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    BusClosedError,
    CloseSubscription,
    DeadlockError,
    Deny,
    Event,
    EventBus,
    HandlerSet,
    InvalidPatternError,
    Log,
    NoBusError,
    Overflow,
    PolicyDeniedError,
    Retry,
    RulePolicy,
    Subscription,
    SubscriptionLimitError,
    open_event_bus,
)

from ..observing import assert_books, paths, tasks_living
from .handling import Recorder, Workers

SEEN: list[str] = []
"""What the handlers that have no other place to note it were called with."""


async def note(event: Event) -> None:
    SEEN.append(event.path)


async def note_twice(event: Event, *, prefix: str = "") -> None:
    SEEN.extend([prefix + event.path] * 2)


def plain(event: Event) -> None:
    SEEN.append(event.path)


async def generator(event: Event) -> AsyncIterator[Event]:  # noqa: ASYNC900  # that is the mistake
    yield event


@attrs.define(eq=False)
class Notebook:
    async def __call__(self, event: Event, *, prefix: str = "") -> None:
        SEEN.append(prefix + event.path)

    async def write(self, event: Event) -> None:
        SEEN.append(event.path)

    def read(self, event: Event) -> None:
        SEEN.append(event.path)


class Unprintable(Notebook):
    def __repr__(self) -> str:
        raise RuntimeError("it has no text")


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    SEEN.clear()


# ---------------------------------------------------------------------------------------------
# Registration
# ---------------------------------------------------------------------------------------------

HANDLERS: dict[str, tuple[Any, list[str]]] = {
    "a function": (note, ["/x"]),
    "a method": (Notebook().write, ["/x"]),
    "an object": (Notebook(), ["/x"]),
    "a partial function": (functools.partial(note_twice, prefix="!"), ["!/x", "!/x"]),
    "a partial object": (functools.partial(Notebook(), prefix="!"), ["!/x"]),
    "an object without a repr": (Unprintable(), ["/x"]),
}


@pytest.mark.parametrize("name", HANDLERS)
async def test_every_async_callable_is_a_handler(name: str) -> None:
    handler, expected = HANDLERS[name]
    async with open_event_bus() as bus:
        await bus.on(handler, "a")
        await bus.send("a", "k", "/x")
    assert expected == SEEN


async def test_an_async_mock_is_a_handler() -> None:
    mock = AsyncMock()
    async with open_event_bus() as bus:
        await bus.on(mock, "a")
        await bus.send("a", "k", "/x")
    mock.assert_awaited_once_with(Event("a", "k", "/x"))


@attrs.define(eq=False, repr=False)
class Detached:
    """A handler that fails, and sooner or later has no `repr`."""

    detached: bool

    async def __call__(self, event: Event) -> None:
        raise ValueError(event.path)

    def __repr__(self) -> str:
        if self.detached:
            raise RuntimeError("not bound to a session")
        return "<Row 1>"


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_handler_whose_repr_raises_is_supervised_like_others(
    detached: bool, wrapped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    row = Detached(detached)
    async with open_event_bus() as bus:
        handlers = HandlerSet()
        handlers.on("a", on_error=Log())(functools.partial(row) if wrapped else row)
        [subscription] = await bus.include(handlers)
        row.detached = True
        for i in range(2):
            await bus.send("a", "k", f"/{i}")
    assert_books(subscription, delivered=2, failures=2)
    assert ("<Row 1>" in caplog.text) is ("<Row 1>" in repr(handlers)) is (not detached)


NO_HANDLERS: dict[str, Any] = {
    "a plain function": plain,
    "a lambda": lambda event: note(event),  # noqa: PLW0108  # that is the mistake
    "a plain method": Notebook().read,
    "a class": Notebook,
    "a partial plain function": functools.partial(plain),
    "an async generator": generator,
    "nothing": None,
    "a text": "note",
}

BAD_TERMS: list[tuple[dict[str, Any], type[Exception], str | None]] = [
    ({"system": "a..b"}, InvalidPatternError, None),
    ({"system": ""}, InvalidPatternError, None),
    ({"system": 1}, TypeError, None),
    ({"kind": "k*"}, InvalidPatternError, None),
    ({"path": "/a//b*"}, InvalidPatternError, None),
    ({"concurrency": 0}, ValueError, "concurrency must be at least 1, not 0"),
    ({"concurrency": -1}, ValueError, "concurrency must be at least 1, not -1"),
    ({"concurrency": 1.0}, TypeError, "concurrency must be an int, not 1.0"),
    ({"concurrency": True}, TypeError, "concurrency must be an int, not True"),
    ({"max_buffer_size": 0}, ValueError, "max_buffer_size must be at least 1, not 0"),
    ({"overflow": "block"}, TypeError, "overflow must be an Overflow"),
    ({"on_error": Log}, TypeError, "on_error must be .*, with parentheses"),
    ({"on_error": Retry}, TypeError, "on_error must be .*, with parentheses"),
    ({"on_error": None}, TypeError, "on_error must be .*, not None$"),
    ({"on_error": ValueError()}, TypeError, r"on_error must be .*, not ValueError\(\)$"),
    ({"on_error": "log"}, TypeError, "on_error must be .*, not 'log'$"),
]


@pytest.mark.parametrize("name", NO_HANDLERS)
async def test_a_function_that_is_not_async_is_refused_before_anything_happens(name: str) -> None:
    async with open_event_bus() as bus:
        before = tasks_living()
        with pytest.raises(TypeError, match="a handler must be an async function, not") as caught:
            await bus.on(NO_HANDLERS[name], "a")
        assert repr(NO_HANDLERS[name]) in str(caught.value)
        assert bus.statistics().open_subscriptions == 0
        assert tasks_living() == before


@pytest.mark.parametrize("name", NO_HANDLERS)
def test_a_function_that_is_not_async_is_refused_when_it_is_declared(name: str) -> None:
    handlers = HandlerSet()
    with pytest.raises(TypeError, match="a handler must be an async function, not"):
        handlers.on("a")(NO_HANDLERS[name])
    assert handlers.registrations == []


@pytest.mark.parametrize(("terms", "error", "match"), BAD_TERMS)
async def test_bad_terms_are_refused_and_nothing_has_happened(
    terms: dict[str, Any], error: type[Exception], match: str | None
) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(error, match=match):
            await bus.on(note, **{"system": "a", **terms})
        assert bus.statistics().open_subscriptions == 0


@pytest.mark.parametrize(("terms", "error", "match"), BAD_TERMS)
def test_bad_terms_are_refused_when_they_are_declared(
    terms: dict[str, Any], error: type[Exception], match: str | None
) -> None:
    handlers = HandlerSet()
    with pytest.raises(error, match=match):
        handlers.on(**{"system": "a", **terms})(note)  # type: ignore[no-untyped-call]  # which overload?
    assert handlers.registrations == []


async def test_registering_is_a_checkpoint_and_a_cancelled_one_leaves_nothing() -> None:
    handlers = HandlerSet()
    handlers.on("a")(note)
    async with open_event_bus() as bus:
        before = tasks_living()
        for register in (
            functools.partial(bus.on, note, "a"),
            functools.partial(bus.include, handlers),
        ):
            with assert_checkpoints():
                await register()
            with trio.CancelScope() as scope:
                scope.cancel()
                await register()
            assert scope.cancelled_caught
        assert bus.statistics().open_subscriptions == 2
        assert tasks_living() == before + 4


async def test_registering_is_refused_as_subscribing_is() -> None:
    policy = RulePolicy([Deny("events.subscribe", "secret")])
    async with open_event_bus(policy=policy, max_subscriptions=1) as bus:
        with pytest.raises(PolicyDeniedError):
            await bus.on(note, "secret")
        with pytest.raises(PolicyDeniedError):
            await bus.on(note, "a")  # nothing allows it
    async with open_event_bus(max_subscriptions=1) as bus:
        first = await bus.on(note, "a")
        with pytest.raises(SubscriptionLimitError):
            await bus.on(note, "a")
        first.close()
        await bus.on(note, "a")
    for _ in range(2):  # and it's persistent
        with pytest.raises(BusClosedError):
            await bus.on(note, "a")
        with pytest.raises(BusClosedError):
            await bus.include(one_handler())


def test_a_bus_of_another_run_is_refused() -> None:
    async def with_bus() -> None:
        async with open_event_bus() as bus:
            await trio.to_thread.run_sync(trio.run, elsewhere, bus)

    async def elsewhere(bus: EventBus) -> None:
        with pytest.raises(NoBusError, match="must be called in the trio run of the bus"):
            await bus.on(note, "a")
        with pytest.raises(NoBusError, match="must be called in the trio run of the bus"):
            await bus.include(one_handler())

    trio.run(with_bus)


async def test_the_subscription_is_what_was_asked_for() -> None:
    async with open_event_bus() as bus:
        subscription = await bus.on(
            note, "a.**", "k", path="/x", max_buffer_size=7, overflow=Overflow.DROP_OLDEST
        )
        assert isinstance(subscription, Subscription)
        assert (subscription.system, subscription.kind, subscription.path) == ("a.**", "k", "/x")
        assert subscription.overflow is Overflow.DROP_OLDEST
        assert subscription.channel().statistics().max_buffer_size == 7
        await bus.send("a.b", "k", "/x")
        await bus.send("a.b", "l", "/x")
        await bus.send("a.b", "k", "/y")
        await bus.send("b", "k", "/x")
    assert SEEN == ["/x"]


# ---------------------------------------------------------------------------------------------
# Sets of handlers
# ---------------------------------------------------------------------------------------------


def one_handler() -> HandlerSet:
    handlers = HandlerSet()
    handlers.on("a")(note)
    return handlers


async def test_a_declared_function_stays_what_it_is() -> None:
    handlers = HandlerSet()
    assert handlers.on("a")(note) is note
    assert await note(Event("a", "k", "/x")) is None  # type: ignore[func-returns-value]  # that is the point
    assert SEEN == ["/x"]


async def test_a_set_is_put_to_work_in_the_order_of_its_declarations() -> None:
    handlers = HandlerSet()

    @handlers.on("orders.**", "order.created", path="/1")
    async def created(event: Event) -> None:
        SEEN.append(f"created {event.path}")

    @handlers.on("orders.**", concurrency=2, on_error=Log(), max_buffer_size=3)
    @handlers.on("users", overflow=Overflow.DROP_INCOMING)
    async def anything(event: Event) -> None:
        SEEN.append(f"{event.system} {event.path}")

    async with open_event_bus() as bus:
        subscriptions = await bus.include(handlers)
        assert [(s.system, s.kind, s.path) for s in subscriptions] == [
            ("orders.**", "order.created", "/1"),
            ("users", None, None),
            ("orders.**", None, None),
        ]
        assert subscriptions[1].overflow is Overflow.DROP_INCOMING
        assert subscriptions[2].channel().statistics().max_buffer_size == 3
        await bus.send("orders.eu", "order.created", "/1")
        await wait_all_tasks_blocked()
        await bus.send("users", "k", "/2")
    assert sorted(SEEN) == ["created /1", "orders.eu /1", "users /2"]


async def test_a_set_may_be_included_twice_and_in_two_buses() -> None:
    handlers = one_handler()
    async with open_event_bus() as outer, open_event_bus() as inner:
        assert len(await outer.include(handlers)) == 1
        assert len(await outer.include(handlers)) == 1
        await inner.include(handlers)
        await outer.send("a", "k", "/outer")
        await inner.send("a", "k", "/inner")
    assert sorted(SEEN) == ["/inner", "/outer", "/outer"]


async def test_what_is_declared_later_is_not_in_the_bus_yet() -> None:
    handlers = one_handler()
    async with open_event_bus() as bus:
        await bus.include(handlers)
        handlers.on("b")(note)
        assert bus.statistics().open_subscriptions == 1
        await bus.include(handlers)
        assert bus.statistics().open_subscriptions == 3


async def test_an_empty_set_is_a_set() -> None:
    async with open_event_bus() as bus:
        assert await bus.include(HandlerSet()) == ()
        with pytest.raises(TypeError, match="must be a HandlerSet, not"):
            await bus.include([note])  # type: ignore[arg-type]  # that is the point


async def test_a_set_says_what_is_in_it() -> None:
    handlers = HandlerSet()
    assert repr(handlers) == "<HandlerSet of no handlers>"
    handlers.on("a")(note)
    handlers.on("a")(Recorder())
    assert re.fullmatch(r"<HandlerSet of note, Recorder\(.*\)>", repr(handlers))


@pytest.mark.parametrize("stopped_by", ["limit", "policy"])
async def test_all_of_a_set_are_put_to_work_or_none(stopped_by: str) -> None:
    handlers = HandlerSet()
    for system in ("a", "b", "secret"):
        handlers.on(system, concurrency=2)(note)

    @attrs.frozen
    class NoSecrets:
        def allows(self, actor: str, action: events.Action, system: str) -> bool:
            return system != "secret"

    limited = open_event_bus(max_subscriptions=2)
    opened = limited if stopped_by == "limit" else open_event_bus(policy=NoSecrets())
    async with opened as bus:
        before = tasks_living()
        for _ in range(2):  # and nothing of the first attempt is in the way of the second
            with pytest.raises((SubscriptionLimitError, PolicyDeniedError)):
                await bus.include(handlers)
            assert bus.statistics().open_subscriptions == 0
            await bus.send("a", "k", "/x")
            await wait_all_tasks_blocked()
            assert tasks_living() == before
            assert bus.statistics().unmatched == bus.statistics().accepted
    assert SEEN == []


# ---------------------------------------------------------------------------------------------
# Calls
# ---------------------------------------------------------------------------------------------


async def test_a_handler_gets_the_very_events_one_after_the_other_in_order() -> None:
    got: list[Event] = []
    busy = False

    async def handler(event: Event) -> None:
        nonlocal busy
        assert not busy
        busy = True
        await trio.lowlevel.checkpoint()
        got.append(event)
        busy = False

    async with open_event_bus() as bus:
        other = await bus.subscribe("a")
        await bus.on(handler, "a")
        for i in range(100):
            await bus.send("a", "k", f"/{i}")
    assert paths(got) == [f"/{i}" for i in range(100)]
    assert all(event is theirs for event, theirs in zip(got, [e async for e in other], strict=True))


async def test_a_handler_sees_the_context_variables_of_the_task_that_registered_it() -> None:
    who = ContextVar("who", default="nobody")
    seen: list[tuple[str, str]] = []

    async def handler(event: Event) -> None:
        seen.append((event.path, who.get()))

    async def register(bus: EventBus, name: str) -> None:
        who.set(name)
        await bus.on(handler, name)
        handlers = HandlerSet()
        handlers.on(name, concurrency=3)(handler)
        await bus.include(handlers)
        who.set("somebody else")

    async with open_event_bus() as bus:
        async with trio.open_nursery() as nursery:
            for name in ("alice", "bob"):
                nursery.start_soon(register, bus, name)
        who.set("sender")
        for name in ("alice", "bob"):
            await bus.send(name, "k", f"/{name}")
    assert sorted(seen) == [("/alice", "alice")] * 2 + [("/bob", "bob")] * 2


async def test_a_task_of_a_handler_keeps_its_context_variables_between_calls() -> None:
    who = ContextVar("who", default="nobody")

    async def handler(event: Event) -> None:
        SEEN.append(who.get())
        who.set(event.path)

    async with open_event_bus() as bus:
        await bus.on(handler, "a")
        for path in ("/1", "/2", "/3"):
            await bus.send("a", "k", path)
    assert SEEN == ["nobody", "/1", "/2"]
    assert who.get() == "nobody"


@pytest.mark.parametrize("concurrency", [1, 2, 5])
async def test_n_calls_run_at_once_and_no_more(concurrency: int) -> None:
    workers = Workers()
    names = [f"/{i}" for i in range(2 * concurrency + 1)]
    async with open_event_bus() as bus:
        subscription = await bus.on(workers, "a", concurrency=concurrency)
        for name in names:
            await bus.send("a", "k", name)
        await wait_all_tasks_blocked()
        assert workers.begun == names[:concurrency]
        assert subscription.statistics().handling == concurrency
        # Whichever ends makes room for exactly one more.
        workers.release(names[concurrency - 1])
        await wait_all_tasks_blocked()
        assert workers.begun == names[: concurrency + 1]
        workers.release(*names)
    assert workers.begun == names
    assert sorted(workers.finished) == sorted(names)
    assert workers.most == concurrency


@pytest.mark.parametrize("concurrency", [1, 2, 3, 8])
async def test_calls_begin_in_the_order_of_events_however_long_each_takes(
    concurrency: int, autojump_clock: MockClock
) -> None:
    draw = random.Random(concurrency)
    begun: list[str] = []
    running = most = 0

    async def handler(event: Event) -> None:
        nonlocal running, most
        begun.append(event.path)
        running += 1
        most = max(most, running)
        for _ in range(draw.randrange(4)):
            await trio.sleep(draw.choice([0, 0, 1, 5]))
        running -= 1

    async with open_event_bus(checkpoint_every=1, drain_timeout=1000) as bus:
        await bus.on(handler, "a", concurrency=concurrency, max_buffer_size=3)
        for i in range(100):
            await bus.send("a", "k", f"/{i}")
            if draw.randrange(10) == 0:
                await trio.sleep(20)  # so that all are idle now and then
    assert begun == [f"/{i}" for i in range(100)]
    assert most == concurrency


async def test_a_full_buffer_makes_the_sender_wait_for_the_handler() -> None:
    workers = Workers()
    async with open_event_bus() as bus:
        subscription = await bus.on(workers, "a", max_buffer_size=2)
        for i in range(3):
            await bus.send("a", "k", f"/{i}")
            await wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            bus.send_nowait("a", "k", "/3")
        workers.release("/0")
        await wait_all_tasks_blocked()
        bus.send_nowait("a", "k", "/4")
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=2, queued=2, handling=1)
        workers.release("/1", "/2", "/4")
    assert workers.finished == ["/0", "/1", "/2", "/4"]


async def test_events_that_a_busy_handler_lets_drop_are_counted() -> None:
    workers = Workers()
    async with open_event_bus() as bus:
        subscription = await bus.on(workers, "a", max_buffer_size=2, overflow=Overflow.DROP_OLDEST)
        for i in range(6):
            await bus.send("a", "k", f"/{i}")
            await wait_all_tasks_blocked()
        assert_books(subscription, delivered=1, queued=2, dropped=3, handling=1)
        workers.release("/0", "/4", "/5")
    assert workers.finished == ["/0", "/4", "/5"]
    assert_books(subscription, delivered=3, dropped=3)


async def test_the_statistics_count_running_and_failed_calls() -> None:
    workers = Workers()

    async def handler(event: Event) -> None:
        await workers(event)
        if event.path == "/bad":
            raise ValueError

    async with open_event_bus() as bus:
        subscription = await bus.on(handler, "a", concurrency=2, on_error=Log())
        assert_books(subscription)
        for path in ("/bad", "/good", "/next"):
            await bus.send("a", "k", path)
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=2, queued=1, handling=2)
        workers.release("/bad")
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=3, handling=2, failures=1)
        workers.release("/good", "/next")
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=3, failures=1)


async def test_the_bus_holds_handlers_strongly() -> None:
    seen: list[str] = []

    @attrs.define(eq=False)
    class Owner:
        async def handle(self, event: Event) -> None:
            seen.append(event.path)

    owner = Owner()
    gone = weakref.ref(owner)
    async with open_event_bus() as bus:
        await bus.on(owner.handle, "a")  # and nobody keeps the subscription
        del owner
        gc.collect()
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        assert seen == ["/x"]
        assert gone() is not None


async def test_tasks_say_what_they_are_for() -> None:
    names: list[str] = []

    async def charge(event: Event) -> None:
        names.append(trio.lowlevel.current_task().name)

    async with open_event_bus() as bus:
        await bus.on(charge, "a.*")
        await bus.send("a.b", "k", "/x")
        await wait_all_tasks_blocked()
        nursery = trio.lowlevel.current_task().child_nurseries[-1]
        living = [task.name for task in nursery.child_tasks]
    assert names == [f"trio_events handler {charge.__qualname__}"]
    assert sorted(living) == sorted(
        [*names, "trio_events requests", "trio_events router", "trio_events subscription 'a.*'"]
    )


async def test_a_handler_that_never_waits_still_yields_to_other_tasks() -> None:
    turns, done = 0, trio.Event()

    async def handler(event: Event) -> None:
        if event.path == "/199":
            done.set()

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with open_event_bus(checkpoint_every=4) as bus, trio.open_nursery() as nursery:
        await bus.on(handler, "a")
        for i in range(200):
            bus.send_nowait("a", "k", f"/{i}")
        nursery.start_soon(other)
        await done.wait()
        nursery.cancel_scope.cancel()
    assert turns >= 200 / 4


# ---------------------------------------------------------------------------------------------
# The end of the subscription
# ---------------------------------------------------------------------------------------------


async def test_closing_the_subscription_lets_the_handler_finish_what_was_accepted() -> None:
    workers = Workers()
    async with open_event_bus() as bus:
        before = tasks_living()
        subscription = await bus.on(workers, "a", concurrency=2)
        for i in range(4):
            await bus.send("a", "k", f"/{i}")
        await wait_all_tasks_blocked()
        subscription.close()
        subscription.close()
        await bus.send("a", "k", "/late")
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=2, queued=2, handling=2)
        workers.release("/0", "/1", "/2", "/3")
        await wait_all_tasks_blocked()
        assert workers.begun == sorted(workers.finished) == ["/0", "/1", "/2", "/3"]
        assert_books(subscription, delivered=4)
        assert tasks_living() == before


async def test_closing_the_channel_discards_what_no_call_has_begun_with() -> None:
    workers = Workers()
    async with open_event_bus() as bus:
        before = tasks_living()
        subscription = await bus.on(workers, "a", concurrency=2)
        for i in range(4):
            await bus.send("a", "k", f"/{i}")
        await wait_all_tasks_blocked()
        subscription.channel().close()
        subscription.channel().close()
        await wait_all_tasks_blocked()
        assert workers.cancelled == []  # calls that are running finish
        assert_books(subscription, delivered=2, discarded=2, handling=2)
        workers.release("/0", "/1")
        await wait_all_tasks_blocked()
        assert sorted(workers.finished) == ["/0", "/1"]
        assert_books(subscription, delivered=2, discarded=2)
        assert tasks_living() == before


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_closing_while_the_handler_is_idle_ends_its_tasks(concurrency: int) -> None:
    async with open_event_bus() as bus:
        before = tasks_living()
        by_subscription = await bus.on(note, "a", concurrency=concurrency)
        by_channel = await bus.on(note, "a", concurrency=concurrency)
        await bus.on(note, "b")
        await wait_all_tasks_blocked()
        by_subscription.close()
        by_channel.channel().close()
        await wait_all_tasks_blocked()
        assert tasks_living() == before + 2  # of the third
        assert bus.statistics().open_subscriptions == 1


async def test_a_handler_may_close_its_own_subscription() -> None:
    async with open_event_bus() as bus:

        async def handler(event: Event) -> None:
            SEEN.append(event.path)
            subscription.close()

        subscription = await bus.on(handler, "a")
        for path in ("/0", "/1"):
            bus.send_nowait("a", "k", path)
        await wait_all_tasks_blocked()
        assert SEEN == ["/0", "/1"]
        await bus.send("a", "k", "/late")
    assert SEEN == ["/0", "/1"]


async def test_a_handler_may_close_its_own_channel() -> None:
    async with open_event_bus() as bus:

        async def handler(event: Event) -> None:
            SEEN.append(event.path)
            await subscription.channel().aclose()
            SEEN.append("and goes on")

        subscription = await bus.on(handler, "a")
        for path in ("/0", "/1"):
            bus.send_nowait("a", "k", path)
        await wait_all_tasks_blocked()
        assert SEEN == ["/0", "and goes on"]
        assert_books(subscription, delivered=1, discarded=1)


async def test_a_handler_may_close_the_bus() -> None:
    async with open_event_bus() as bus:

        async def handler(event: Event) -> None:
            SEEN.append(event.path)
            bus.close()
            if event.path == "/0":
                await bus.send("a", "k", "/from the handler")

        subscription = await bus.on(handler, "a")
        for path in ("/0", "/1"):
            bus.send_nowait("a", "k", path)
        await wait_all_tasks_blocked()
        assert SEEN == ["/0", "/1", "/from the handler"]
        with pytest.raises(BusClosedError):
            await bus.send("a", "k", "/late")
        assert_books(subscription, delivered=3)


# ---------------------------------------------------------------------------------------------
# What a handler does itself
# ---------------------------------------------------------------------------------------------


async def test_a_handler_may_send_and_others_get_it() -> None:
    async with open_event_bus() as bus:

        async def forward(event: Event) -> None:
            await bus.send("b", "k", f"{event.path}!")

        await bus.on(forward, "a")
        await bus.on(note, "b")
        reader = await bus.subscribe("b")
        for i in range(3):
            await bus.send("a", "k", f"/{i}")
    assert SEEN == ["/0!", "/1!", "/2!"]
    assert paths([event async for event in reader]) == SEEN


async def test_a_handler_may_send_to_itself() -> None:
    async with open_event_bus() as bus:

        async def countdown(event: Event) -> None:
            SEEN.append(event.path)
            if event.path != "/0":
                await bus.send("a", "k", f"/{int(event.path[1:]) - 1}")

        await bus.on(countdown, "a", max_buffer_size=1)
        await bus.send("a", "k", "/5")
    assert SEEN == ["/5", "/4", "/3", "/2", "/1", "/0"]


async def test_a_handler_may_subscribe_register_and_expect(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:

        async def handler(event: Event) -> None:
            subscription = await bus.subscribe("b")
            await bus.on(note, "b")
            async with bus.expect("b") as waiter:
                await bus.send("b", "k", "/own")
                assert (await waiter.event()).path == "/own"
            assert (await subscription.channel().receive()).path == "/own"
            SEEN.append("done")

        await bus.on(handler, "a")
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        assert sorted(SEEN) == ["/own", "done"]
        assert bus.statistics().open_subscriptions == 3


async def test_a_handler_may_request_from_another(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:

        async def charge(event: Event) -> None:
            await bus.send("payments", "charge.accepted", event.path, 42)

        async def order(event: Event) -> None:
            reply = await bus.request("payments", "charge", event.path)
            SEEN.append(f"{reply.path} {reply.data} {reply.accepted}")

        await bus.on(charge, "payments", "charge")
        await bus.on(order, "orders", concurrency=2)
        await bus.send("orders", "created", "/1")
        await bus.send("orders", "created", "/2")
    assert sorted(SEEN) == ["/1 42 True", "/2 42 True"]


async def test_a_handler_that_waits_for_itself_gets_a_deadlock_error(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:

        async def handler(event: Event) -> None:
            if event.path == "/x":
                await bus.send("a", "k", "/fits")
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(DeadlockError, match="its only reader is the sender itself"):
                    await bus.send("a", "k", "/does not")
            SEEN.append(event.path)

        await bus.on(handler, "a", max_buffer_size=1)
        await bus.send("a", "k", "/x")
    assert SEEN == ["/x", "/fits"]


async def test_a_deadlock_error_is_a_failure_like_others(autojump_clock: MockClock) -> None:
    with pytest.raises(DeadlockError):
        async with open_event_bus() as bus:

            async def handler(event: Event) -> None:
                while True:
                    await bus.send("a", "k", "/more")

            await bus.on(handler, "a", max_buffer_size=1)
            await bus.send("a", "k", "/x")
            await trio.sleep_forever()


async def test_two_handlers_that_wait_for_each_other_get_a_deadlock_error(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(DeadlockError):
        async with open_event_bus() as bus:

            async def flood(event: Event) -> None:
                while True:
                    await bus.send("b" if event.system == "a" else "a", "k", "/more")

            await bus.on(flood, "a", max_buffer_size=1)
            await bus.on(flood, "b", max_buffer_size=1)
            await bus.send("a", "k", "/x")
            await bus.send("b", "k", "/x")
            await trio.sleep_forever()


async def test_another_call_that_can_make_room_means_no_deadlock_error(
    autojump_clock: MockClock,
) -> None:
    # Also in the first moment, when one task alone has read.
    async with open_event_bus() as bus:

        async def handler(event: Event) -> None:
            SEEN.append(event.path)
            if event.path == "/0":
                await bus.send("a", "k", "/2")

        await bus.on(handler, "a", concurrency=2, max_buffer_size=1)
        bus.send_nowait("a", "k", "/0")
        bus.send_nowait("a", "k", "/1")
        await wait_all_tasks_blocked()
    assert SEEN == ["/0", "/1", "/2"]


async def test_a_channel_may_be_read_beside_its_handler(autojump_clock: MockClock) -> None:
    workers = Workers()
    async with open_event_bus() as bus:
        subscription = await bus.on(workers, "a")
        await wait_all_tasks_blocked()  # the handler waits longest
        for i in range(4):
            await bus.send("a", "k", f"/{i}")
        await wait_all_tasks_blocked()
        assert (await subscription.channel().receive()).path == "/1"
        workers.release("/0")
        await wait_all_tasks_blocked()
        assert subscription.channel().receive_nowait().path == "/3"
        assert_books(subscription, delivered=4, handling=1)
        workers.release("/2")
    assert workers.finished == ["/0", "/2"]


# ---------------------------------------------------------------------------------------------
# The bus around the caller
# ---------------------------------------------------------------------------------------------


async def test_the_ambient_functions_use_the_bus_around_the_caller() -> None:
    async with open_event_bus() as bus:
        subscription = await events.on(
            note,
            "a",
            "k",
            path="/x",
            concurrency=2,
            on_error=CloseSubscription(),
            max_buffer_size=3,
            overflow=Overflow.DROP_OLDEST,
        )
        assert (subscription.system, subscription.kind, subscription.path) == ("a", "k", "/x")
        assert subscription.overflow is Overflow.DROP_OLDEST
        assert subscription.channel().statistics().max_buffer_size == 3
        [other] = await events.include(one_handler())
        assert bus.statistics().open_subscriptions == 2
        await bus.send("a", "k", "/x")
        await bus.send("a", "k", "/y")
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=1)
        assert_books(other, delivered=2)
        with pytest.raises(ValueError, match="concurrency must be at least 1"):
            await events.on(note, "a", concurrency=0)


async def test_a_handler_has_the_bus_through_which_it_was_registered_around_it() -> None:
    async def handler(event: Event) -> None:
        await events.send("b", "k", event.path)

    async with open_event_bus() as outer:
        await outer.on(handler, "a")
        reader = await outer.subscribe("b")
        async with open_event_bus():
            await outer.send("a", "k", "/x")
            assert (await reader.channel().receive()).path == "/x"


async def test_outside_any_bus_there_is_a_clear_error() -> None:
    with pytest.raises(NoBusError, match="there is no event bus here"):
        await events.on(note, "a")
    with pytest.raises(NoBusError, match="there is no event bus here"):
        await events.include(HandlerSet())
