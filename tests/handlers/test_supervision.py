"""What becomes of a subscription, of the event, and of everybody else, when a handler fails."""

from __future__ import annotations

import functools
import gc
import logging
import math
import re
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    CloseSubscription,
    DeadLetter,
    Event,
    EventBus,
    Log,
    Overflow,
    Propagate,
    Retry,
    SubscriptionOverflowError,
    open_event_bus,
)
from trio_events._handlers.supervision import OnError, verdict_of

from ..observing import assert_balanced, assert_books, tasks_living
from .handling import GOING_ON, POLICIES, Recorder, Workers


class Failure(Exception):
    """How handlers fail."""


class Leaving(Exception):
    """How the block of a bus is left by an exception."""


async def fail(event: Event) -> None:
    raise Failure(event.path)


def failing(
    *bad: str, seen: list[str], times: float = math.inf
) -> Callable[[Event], Awaitable[None]]:
    """A handler that notes what it gets, and fails for some paths, always or so many times."""

    async def handler(event: Event) -> None:
        seen.append(event.path)
        if event.path in bad and seen.count(event.path) <= times:
            raise Failure(event.path)

    return handler


every_policy = pytest.mark.parametrize("policy", POLICIES, ids=repr)
every_policy_that_goes_on = pytest.mark.parametrize("policy", GOING_ON, ids=repr)
every_policy_that_gives_up = pytest.mark.parametrize(
    "policy", [Log(), CloseSubscription(), Retry(1, then=Log())], ids=repr
)


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    """What was logged as an error."""
    return lambda: [
        r for r in caplog.records if (r.name, r.levelno) == ("trio_events", logging.ERROR)
    ]


@pytest.fixture
def no_log() -> Iterator[None]:
    """Records would keep tracebacks, and tracebacks keep everything."""
    logger = logging.getLogger("trio_events")
    logger.disabled = True
    yield
    logger.disabled = False


# ---------------------------------------------------------------------------------------------
# Propagate
# ---------------------------------------------------------------------------------------------


async def body_waits(bus: EventBus) -> None:
    await trio.sleep_forever()


async def body_has_left(bus: EventBus) -> None:
    pass


async def body_waits_in_a_nursery(bus: EventBus) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await trio.sleep_forever()


async def body_waits_for_nurseries(bus: EventBus) -> None:
    async with trio.open_nursery() as outer, trio.open_nursery() as inner:
        for nursery in (outer, inner, inner):
            nursery.start_soon(body_waits_in_a_nursery, bus)


async def body_waits_in_a_scope(bus: EventBus) -> None:
    with trio.move_on_after(1000):
        await trio.sleep_forever()


async def body_waits_in_a_bus(bus: EventBus) -> None:
    async with open_event_bus() as inner:
        await inner.on(fail, "never")
        await trio.sleep_forever()


async def body_waits_to_send(bus: EventBus) -> None:
    await bus.subscribe("full", max_buffer_size=1)
    while True:
        await bus.send("full", "k", "/x")


BODIES = [
    body_waits,
    body_has_left,
    body_waits_in_a_nursery,
    body_waits_for_nurseries,
    body_waits_in_a_scope,
    body_waits_in_a_bus,
    body_waits_to_send,
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_propagated_exception_leaves_as_itself(
    body: Callable[[EventBus], Awaitable[None]], concurrency: int, autojump_clock: MockClock
) -> None:
    error = Failure()

    async def handler(event: Event) -> None:
        await trio.sleep(1)
        raise error

    before = tasks_living()
    with pytest.raises(Failure) as caught:
        async with open_event_bus() as bus:
            await bus.on(handler, "a", concurrency=concurrency)
            await bus.send("a", "k", "/x")
            await body(bus)
    assert caught.value is error
    assert error.__cause__ is error.__context__ is None
    assert tasks_living() == before


async def test_to_propagate_is_the_default(autojump_clock: MockClock) -> None:
    with pytest.raises(Failure):
        async with open_event_bus() as bus:
            await bus.on(fail, "a")
            await bus.send("a", "k", "/x")


async def test_a_propagated_exception_cancels_the_other_handlers(
    autojump_clock: MockClock,
) -> None:
    workers = Workers()
    with pytest.raises(Failure):
        async with open_event_bus() as bus:
            await bus.on(workers, "a", concurrency=2, on_error=Retry())
            subscription = await bus.on(failing("/bad", seen=[]), "b")
            for path in ("/0", "/1", "/2"):
                await bus.send("a", "k", path)
            await wait_all_tasks_blocked()
            await bus.send("b", "k", "/bad")
            await trio.sleep_forever()
    assert workers.begun == sorted(workers.cancelled) == ["/0", "/1"]
    assert_books(subscription, delivered=1, failures=1)


async def test_two_propagated_exceptions_at_once_leave_as_a_group() -> None:
    workers = Workers()

    async def handler(event: Event) -> None:
        await workers(event)
        raise Failure(event.system)

    with pytest.RaisesGroup(Failure, Failure) as caught:
        async with open_event_bus() as bus:
            for system in ("a", "b"):
                await bus.on(handler, system)
                await bus.send(system, "k", "/x")
            await wait_all_tasks_blocked()
            workers.release("/x")
    assert sorted(str(error) for error in caught.value.exceptions) == ["a", "b"]


async def test_an_exception_of_the_body_leaves_as_itself_whatever_handlers_do(
    autojump_clock: MockClock,
) -> None:
    before = tasks_living()
    with pytest.raises(Leaving):
        async with open_event_bus() as bus:
            await bus.subscribe("full", max_buffer_size=1)

            async def handler(event: Event) -> None:
                while True:
                    await bus.send("full", "k", "/x")

            await bus.on(handler, "a")
            await bus.send("a", "k", "/x")
            await wait_all_tasks_blocked()  # the handler waits for room
            raise Leaving
    assert tasks_living() == before


async def test_an_exception_group_leaves_as_the_group_that_it_is(
    autojump_clock: MockClock,
) -> None:
    async def handler(event: Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, event)
            nursery.start_soon(trio.sleep_forever)

    letters: list[DeadLetter] = []
    with pytest.RaisesGroup(Failure):
        async with open_event_bus(on_dead_letter=letters.append) as bus:
            subscription = await bus.on(handler, "a")
            await bus.send("a", "k", "/x")
            await trio.sleep_forever()
    assert subscription.statistics().failures == 1
    assert [letter.event.path for letter in letters] == ["/x"]


# ---------------------------------------------------------------------------------------------
# Log
# ---------------------------------------------------------------------------------------------


async def test_log_logs_the_traceback_and_goes_on(
    errors: Callable[[], list[logging.LogRecord]],
) -> None:
    seen: list[str] = []
    async with open_event_bus() as bus:
        subscription = await bus.on(failing("/1", seen=seen), "a.*", "k", on_error=Log())
        for i in range(3):
            await bus.send("a.b", "k", f"/{i}")
        await wait_all_tasks_blocked()
        assert seen == ["/0", "/1", "/2"]
        assert_books(subscription, delivered=3, failures=1)
    [record] = errors()
    assert re.fullmatch(
        rf"subscription 'a\.\*' kind='k' \(subscribed at {re.escape(__file__)}:\d+\): "
        r"failing\.<locals>\.handler failed for system='a\.b' kind='k' path='/1'",
        record.getMessage(),
    )
    assert record.exc_info is not None
    error = record.exc_info[1]
    assert isinstance(error, Failure)
    assert error.__traceback__ is not None


async def test_a_handler_without_a_name_is_logged_too(
    errors: Callable[[], list[logging.LogRecord]],
) -> None:
    handler = functools.partial(fail)
    async with open_event_bus() as bus:
        await bus.on(handler, "a", on_error=Log())
        await bus.send("a", "k", "/x")
    [record] = errors()
    assert repr(handler) in record.getMessage()


# ---------------------------------------------------------------------------------------------
# CloseSubscription
# ---------------------------------------------------------------------------------------------


async def test_close_subscription_discards_the_rest_and_lets_running_calls_finish(
    errors: Callable[[], list[logging.LogRecord]],
) -> None:
    workers = Workers()

    async def handler(event: Event) -> None:
        await workers(event)
        if event.path == "/bad":
            raise Failure

    async with open_event_bus() as bus:
        before = tasks_living()
        subscription = await bus.on(handler, "a", concurrency=3, on_error=CloseSubscription())
        for path in ("/0", "/bad", "/2", "/3", "/4"):
            await bus.send("a", "k", path)
        await wait_all_tasks_blocked()
        workers.release("/bad")
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=3, discarded=2, handling=2, failures=1)
        assert bus.statistics().open_subscriptions == 0
        await bus.send("a", "k", "/late")
        workers.release("/0", "/2")
        await wait_all_tasks_blocked()
        assert workers.begun == ["/0", "/bad", "/2"]
        assert sorted(workers.finished) == ["/0", "/2", "/bad"]
        assert_books(subscription, delivered=3, discarded=2, failures=1)
        assert tasks_living() == before
        assert bus.statistics().unmatched == 1
    [record] = errors()
    assert record.getMessage().endswith("path='/bad'; the subscription was closed")
    assert record.exc_info is not None


async def test_close_subscription_releases_the_senders_that_wait(
    autojump_clock: MockClock,
) -> None:
    workers = Workers()

    async def handler(event: Event) -> None:
        await workers(event)
        raise Failure

    async with open_event_bus() as bus:
        other = await bus.subscribe("a")
        subscription = await bus.on(handler, "a", max_buffer_size=1, on_error=CloseSubscription())
        for path in ("/0", "/1"):
            await bus.send("a", "k", path)
            await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.send, "a", "k", "/2")
            await wait_all_tasks_blocked()
            assert subscription.statistics().tasks_waiting_send == 1
            workers.release("/0")
    assert [event.path async for event in other] == ["/0", "/1", "/2"]
    assert_books(subscription, delivered=1, discarded=1, failures=1)


# ---------------------------------------------------------------------------------------------
# Retry
# ---------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Times:
    """A handler that always fails, or for so many times, and notes when it was called."""

    failures: float = math.inf
    calls: list[tuple[float, str]] = attrs.field(factory=list)
    _start: float = attrs.field(factory=trio.current_time)

    async def __call__(self, event: Event) -> None:
        self.calls.append((round(trio.current_time() - self._start, 6), event.path))
        if len(self.calls) <= self.failures:
            raise Failure(event.path)


async def test_an_event_is_retried_after_pauses_that_double_until_its_attempts_are_used_up(
    autojump_clock: MockClock, errors: Callable[[], list[logging.LogRecord]]
) -> None:
    handler = Times()
    with pytest.raises(Failure):
        async with open_event_bus() as bus:
            subscription = await bus.on(handler, "a", on_error=Retry(4, jitter=0))
            await bus.send("a", "k", "/x")
            await trio.sleep_forever()
    assert handler.calls == [(0, "/x"), (0.1, "/x"), (0.3, "/x"), (0.7, "/x")]
    assert_books(subscription, delivered=1, failures=4)
    assert [record.getMessage().partition("; ")[2] for record in errors()] == [
        "attempt 1 of 4, retrying in 0.1 s",
        "attempt 2 of 4, retrying in 0.2 s",
        "attempt 3 of 4, retrying in 0.4 s",
    ]
    assert all(record.exc_info is not None for record in errors())


async def test_a_retry_that_succeeds_is_the_end_of_it(autojump_clock: MockClock) -> None:
    handler = Times(failures=2)
    letters: list[DeadLetter] = []
    async with open_event_bus(on_dead_letter=letters.append) as bus:
        subscription = await bus.on(handler, "a", on_error=Retry(backoff=1, jitter=0))
        await bus.send("a", "k", "/0")
        await bus.send("a", "k", "/1")
        await trio.sleep(100)
        assert_books(subscription, delivered=2, failures=2)
    # What comes later waits for the retries.
    assert handler.calls == [(0, "/0"), (1, "/0"), (3, "/0"), (3, "/1")]
    assert letters == []


async def test_the_attempts_are_counted_for_each_event(autojump_clock: MockClock) -> None:
    """So a handler that always fails doesn't retry forever, however long the pauses are."""
    handler = Times()
    letters: list[DeadLetter] = []
    async with open_event_bus(on_dead_letter=letters.append) as bus:
        policy = Retry(2, backoff=20, jitter=0, then=Log())
        subscription = await bus.on(handler, "a", on_error=policy)
        for i in range(3):
            await bus.send("a", "k", f"/{i}")
        await trio.sleep(1000)
        assert_books(subscription, delivered=3, failures=6)
    assert [time for time, _ in handler.calls] == [0, 20, 20, 40, 40, 60]
    assert [letter.event.path for letter in letters] == ["/0", "/1", "/2"]


async def test_the_pauses_of_several_events_pass_at_the_same_time_if_there_are_several_calls(
    autojump_clock: MockClock,
) -> None:
    handler = Times(failures=2)
    async with open_event_bus() as bus:
        policy = Retry(2, backoff=1, jitter=0)
        await bus.on(handler, "a", on_error=policy, concurrency=2)
        await bus.send("a", "k", "/0")
        await bus.send("a", "k", "/1")
    assert [time for time, _ in handler.calls] == [0, 0, 1, 1]


async def test_pauses_do_not_grow_beyond_max_backoff(autojump_clock: MockClock) -> None:
    handler = Times()
    async with open_event_bus(drain_timeout=1000) as bus:
        policy = Retry(6, backoff=1, max_backoff=3, jitter=0, then=Log())
        await bus.on(handler, "a", on_error=policy)
        await bus.send("a", "k", "/x")
    assert [time for time, _ in handler.calls] == [0, 1, 3, 6, 9, 12]


def test_jitter_makes_a_pause_longer_or_shorter_by_that_share() -> None:
    pauses = [Retry(backoff=10, jitter=0.2).pause(1) for _ in range(200)]
    assert all(8 <= pause <= 12 for pause in pauses)
    assert min(pauses) < 9
    assert max(pauses) > 11


def test_any_number_of_attempts_may_be_allowed() -> None:
    policy = Retry(2000, backoff=0.1, jitter=0)
    assert policy.pause(1999) == 30  # a float has fewer powers of two
    assert Retry(2000, backoff=0, jitter=0).pause(1999) == 0


class Hopeless(Failure):
    """A failure for which another call is no help."""


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (Failure(), 3),
        (Hopeless(), 3),
        (ValueError(), 1),
        (ExceptionGroup("", [Failure(), Hopeless()]), 3),
        (ExceptionGroup("", [Failure(), ExceptionGroup("", [ValueError()])]), 1),
    ],
    ids=repr,
)
@pytest.mark.parametrize("only", [Failure, (OSError, Failure)], ids=repr)
@pytest.mark.usefixtures("no_log")
async def test_an_exception_that_does_not_match_only_is_not_retried(
    error: Exception, calls: int, only: Any, autojump_clock: MockClock
) -> None:
    letters: list[DeadLetter] = []
    called = 0

    async def handler(event: Event) -> None:
        nonlocal called
        called += 1
        raise error

    async with open_event_bus(on_dead_letter=letters.append) as bus:
        await bus.on(handler, "a", on_error=Retry(only=only, then=Log()))
        await bus.send("a", "k", "/x")
    assert called == calls
    assert len(letters) == 1


@pytest.mark.usefixtures("no_log")
async def test_then_decides_what_happens_after_the_last_attempt(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        going_on = await bus.on(fail, "a", on_error=Retry(2, then=Log()))
        closed = await bus.on(fail, "a", on_error=Retry(2, then=CloseSubscription()))
        for i in range(2):
            await bus.send("a", "k", f"/{i}")
        await trio.sleep(100)
        assert_books(going_on, delivered=2, failures=4)
        assert_books(closed, delivered=1, discarded=1, failures=2)
        assert bus.subscriptions() == (going_on,)


async def test_a_pause_ends_when_the_bus_is_cancelled(autojump_clock: MockClock) -> None:
    handler = Times()
    with pytest.raises(Leaving):
        async with open_event_bus() as bus:
            await bus.on(handler, "a", on_error=Retry(backoff=10))
            await bus.send("a", "k", "/x")
            await wait_all_tasks_blocked()
            raise Leaving
    assert len(handler.calls) == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"attempts": 0}, ValueError),
        ({"attempts": -1}, ValueError),
        ({"attempts": 1.0}, TypeError),
        ({"attempts": True}, TypeError),
        ({"backoff": -0.1}, ValueError),
        ({"backoff": True}, TypeError),
        ({"backoff": math.nan}, ValueError),
        ({"backoff": math.inf}, ValueError),
        ({"max_backoff": -1}, ValueError),
        ({"max_backoff": "5"}, TypeError),
        ({"max_backoff": math.nan}, ValueError),
        ({"max_backoff": math.inf}, ValueError),
        ({"max_backoff": 10**400}, ValueError),
        ({"jitter": -0.1}, ValueError),
        ({"jitter": 1.5}, ValueError),
        ({"jitter": math.nan}, ValueError),
        ({"jitter": False}, TypeError),
        ({"jitter": None}, TypeError),
        ({"only": KeyboardInterrupt}, TypeError),
        ({"only": BaseException}, TypeError),
        ({"only": (ValueError, trio.Cancelled)}, TypeError),
        ({"only": ()}, TypeError),
        ({"only": ValueError()}, TypeError),
        ({"only": "ValueError"}, TypeError),
        ({"then": Retry()}, TypeError),
        ({"then": Log}, TypeError),
        ({"then": None}, TypeError),
    ],
    ids=repr,
)
def test_bad_terms_of_a_retry_are_refused(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=rf"^{next(iter(arguments))} must be "):
        Retry(**arguments)


def test_a_class_in_place_of_its_object_is_refused_with_the_form_to_write() -> None:
    with pytest.raises(TypeError, match="with parentheses"):
        Retry(then=Log)  # type: ignore[arg-type]  # that is the mistake


def test_policies_are_values() -> None:
    assert Retry() == Retry(3, backoff=0.1, max_backoff=30, jitter=0.1, then=Propagate())
    assert len({Propagate(), Propagate(), Log(), CloseSubscription(), Retry(), Retry(3)}) == 4
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Retry().attempts = 4  # type: ignore[misc]  # that is the point


# ---------------------------------------------------------------------------------------------
# Notes
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [Propagate(), Retry(1)], ids=repr)
async def test_an_exception_that_leaves_says_where_it_comes_from(policy: OnError) -> None:
    with pytest.raises(Failure) as caught:
        async with open_event_bus() as bus:
            subscription = await bus.on(fail, "a.*", "k", on_error=policy)
            await bus.send("a.b", "k", "/x")
            await trio.sleep_forever()
    [note] = caught.value.__notes__
    assert "fail" in note
    assert "system='a.b' kind='k' path='/x'" in note
    assert "subscription 'a.*' kind='k'" in note
    assert f"subscribed at {subscription.origin}" in note
    assert f"registered at {__file__}:" in note


async def test_a_group_that_leaves_has_the_note_itself() -> None:
    async def handler(event: Event) -> None:
        raise ExceptionGroup("", [Failure()])

    with pytest.RaisesGroup(Failure) as caught:
        async with open_event_bus() as bus:
            await bus.on(handler, "a")
            await bus.send("a", "k", "/x")
            await trio.sleep_forever()
    assert len(caught.value.__notes__) == 1


async def test_an_exception_that_takes_no_notes_leaves_all_the_same() -> None:
    class Frozen(Exception):
        def add_note(self, note: str) -> None:
            raise ZeroDivisionError

    async def handler(event: Event) -> None:
        raise Frozen

    with pytest.raises(Frozen):
        async with open_event_bus() as bus:
            await bus.on(handler, "a")
            await bus.send("a", "k", "/x")
            await trio.sleep_forever()


@pytest.mark.usefixtures("no_log")
async def test_only_what_leaves_has_a_note(autojump_clock: MockClock) -> None:
    letters: list[DeadLetter] = []
    async with open_event_bus(on_dead_letter=letters.append) as bus:
        await bus.on(fail, "a", on_error=Log())
        await bus.send("a", "k", "/x")
    assert not hasattr(letters[0].error, "__notes__")


# ---------------------------------------------------------------------------------------------
# What is never swallowed
# ---------------------------------------------------------------------------------------------


@every_policy
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
async def test_a_base_exception_always_leaves_as_itself(
    policy: OnError, error: BaseException
) -> None:
    letters: list[DeadLetter] = []

    async def handler(event: Event) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        async with open_event_bus(on_dead_letter=letters.append) as bus:
            subscription = await bus.on(handler, "a", on_error=policy)
            await bus.send("a", "k", "/x")
            await trio.sleep_forever()
    assert caught.value is error
    assert letters == []  # nor was it the handling of the event that failed
    assert_books(subscription, delivered=1)


@every_policy_that_goes_on
async def test_a_base_exception_leaves_even_from_a_group(policy: OnError) -> None:
    interrupt, letters = KeyboardInterrupt(), list[DeadLetter]()

    async def handler(event: Event) -> None:
        raise BaseExceptionGroup("both", [Failure(), interrupt])

    with pytest.RaisesGroup(KeyboardInterrupt) as caught:
        async with open_event_bus(on_dead_letter=letters.append) as bus:
            subscription = await bus.on(handler, "a", on_error=policy)
            await bus.send("a", "k", "/x")
            await trio.sleep_forever()
    assert caught.value.exceptions == (interrupt,)
    assert subscription.statistics().failures == 1
    assert [letter.event.path for letter in letters] == ["/x"][: policy != Retry(jitter=0)]


async def clean_up_badly() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise Failure  # that is the mistake


async def handler_in_a_group(event: Event) -> None:
    """Raises, when it is cancelled, a group of `Cancelled` and a failure."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(clean_up_badly)


async def handler_that_waits(event: Event) -> None:
    await trio.sleep_forever()


async def handler_that_cleans_up_badly(event: Event) -> None:
    await clean_up_badly()


@every_policy_that_goes_on
@pytest.mark.parametrize(
    "handler", [handler_that_waits, handler_in_a_group, handler_that_cleans_up_badly]
)
async def test_a_cancelled_handler_is_not_called_again(
    policy: OnError,
    handler: Callable[[Event], Awaitable[None]],
    autojump_clock: MockClock,
) -> None:
    calls = 0

    async def counted(event: Event) -> None:
        nonlocal calls
        calls += 1
        await handler(event)

    before = tasks_living()
    with pytest.raises(Leaving):
        async with open_event_bus() as bus:
            subscription = await bus.on(counted, "a", on_error=policy)
            await bus.send("a", "k", "/0")
            await bus.send("a", "k", "/1")
            await wait_all_tasks_blocked()
            raise Leaving
    assert calls == 1
    assert subscription.statistics().failures == (handler is not handler_that_waits)
    assert tasks_living() == before


@every_policy
async def test_a_handler_that_is_cancelled_from_outside_lets_the_scope_have_it(
    policy: OnError, autojump_clock: MockClock
) -> None:
    before = tasks_living()
    with trio.move_on_after(5) as scope:
        async with open_event_bus() as bus:
            subscription = await bus.on(handler_that_waits, "a", on_error=policy)
            await bus.send("a", "k", "/x")
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert tasks_living() == before
    assert_books(subscription, delivered=1)


@every_policy
async def test_a_scope_that_a_handler_cancels_itself_is_not_a_failure(
    policy: OnError, autojump_clock: MockClock
) -> None:
    seen: list[str] = []

    async def handler(event: Event) -> None:
        with trio.move_on_after(1):
            await trio.sleep_forever()
        seen.append(event.path)

    async with open_event_bus() as bus:
        subscription = await bus.on(handler, "a", on_error=policy)
        await bus.send("a", "k", "/0")
        await bus.send("a", "k", "/1")
    assert seen == ["/0", "/1"]
    assert_books(subscription, delivered=2)


# ---------------------------------------------------------------------------------------------
# Everybody else
# ---------------------------------------------------------------------------------------------


@every_policy_that_goes_on
async def test_a_failing_handler_does_not_affect_other_subscriptions(
    policy: OnError, autojump_clock: MockClock
) -> None:
    names = [f"/{i}" for i in range(10)]
    recorder = Recorder()
    async with open_event_bus() as bus:
        reader = await bus.subscribe("a")
        await bus.on(failing("/3", seen=[], times=1), "a", on_error=policy)
        other = await bus.on(recorder, "a", concurrency=2)
        for name in names:
            await bus.send("a", "k", name)
        await wait_all_tasks_blocked()
        assert recorder.seen == names  # without waiting for a backoff
        assert_books(other, delivered=10)
    assert [event.path async for event in reader] == names


@every_policy_that_goes_on
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_subscription_is_registered_but_dead(
    policy: OnError, concurrency: int, autojump_clock: MockClock
) -> None:
    seen: list[str] = []
    async with open_event_bus() as bus:
        idle = tasks_living()
        subscription = await bus.on(
            failing("/0", "/1", seen=seen, times=1),
            "a",
            max_buffer_size=1,
            concurrency=concurrency,
            on_error=policy,
        )
        await bus.send("a", "k", "/0")
        await wait_all_tasks_blocked()
        # Whoever is registered can be sent any number of events: somebody takes them.
        for i in range(2, 20):
            await bus.send("a", "k", f"/{i}")
        await trio.sleep(100)
        if isinstance(policy, CloseSubscription):
            assert bus.statistics().open_subscriptions == 0
            assert tasks_living() == idle
        else:
            assert bus.statistics().open_subscriptions == 1
            assert "/19" in seen
            assert subscription.statistics().queued == 0


# ---------------------------------------------------------------------------------------------
# Dead letters
# ---------------------------------------------------------------------------------------------


@every_policy
async def test_each_event_that_failed_for_good_is_a_dead_letter_once(
    policy: OnError, autojump_clock: MockClock
) -> None:
    letters: list[DeadLetter] = []
    seen: list[str] = []
    try:
        async with open_event_bus(on_dead_letter=letters.append) as bus:
            reader = await bus.subscribe("a")
            subscription = await bus.on(failing("/1", "/3", seen=seen), "a", on_error=policy)
            for i in range(5):
                await bus.send("a", "k", f"/{i}")
            await trio.sleep(100)
    except Failure:
        assert isinstance(verdict_of(policy), Propagate)
    expected = ["/1", "/3"] if verdict_of(policy) == Log() else ["/1"]
    assert [letter.event.path for letter in letters] == expected
    assert [str(letter.error) for letter in letters] == expected
    events = [event async for event in reader]
    for letter in letters:
        assert letter.event in events
        assert isinstance(letter.error, Failure)
        assert letter.subscription is subscription
    assert seen.count("/1") == (3 if policy == Retry(jitter=0) else 1)


async def test_a_dead_letter_carries_the_last_error(autojump_clock: MockClock) -> None:
    letters: list[DeadLetter] = []
    count = 0

    async def handler(event: Event) -> None:
        nonlocal count
        count += 1
        raise Failure(str(count))

    with pytest.raises(Failure, match="3") as caught:
        async with open_event_bus(on_dead_letter=letters.append) as bus:
            await bus.on(handler, "a", on_error=Retry(3))
            await bus.send("a", "k", "/x")
    [letter] = letters
    assert letter.error is caught.value


async def test_a_dead_letter_of_a_group_has_only_its_exceptions(
    autojump_clock: MockClock,
) -> None:
    letters: list[DeadLetter] = []
    with trio.move_on_after(1):
        async with open_event_bus(on_dead_letter=letters.append) as bus:
            await bus.on(handler_in_a_group, "a", on_error=Log())
            await bus.send("a", "k", "/x")
            await trio.sleep_forever()
    [letter] = letters
    assert isinstance(letter.error, ExceptionGroup)
    assert [type(error) for error in letter.error.exceptions] == [Failure]


@every_policy_that_gives_up
async def test_what_the_hook_raises_leaves_through_the_supervisor(
    policy: OnError, autojump_clock: MockClock
) -> None:
    def hook(letter: DeadLetter) -> None:
        raise KeyError(letter.event.path)

    with pytest.raises(KeyError, match="/x"):
        async with open_event_bus(on_dead_letter=hook) as bus:
            await bus.on(fail, "a", on_error=policy)
            await bus.send("a", "k", "/x")
            await trio.sleep_forever()


@pytest.mark.parametrize("policy", [Propagate(), Retry(jitter=0)], ids=repr)
async def test_what_the_hook_raises_leaves_beside_an_exception_that_propagates(
    policy: OnError, autojump_clock: MockClock
) -> None:
    async def hook(letter: DeadLetter) -> None:
        raise KeyError(letter.event.path)

    with pytest.RaisesGroup(Failure, KeyError):
        async with open_event_bus(on_dead_letter=hook) as bus:
            await bus.on(fail, "a", on_error=policy)
            await bus.send("a", "k", "/x")
            await trio.sleep_forever()


@every_policy_that_gives_up
async def test_a_base_exception_in_a_group_leaves_even_if_the_hook_raises(
    policy: OnError, autojump_clock: MockClock
) -> None:
    async def handler(event: Event) -> None:
        raise BaseExceptionGroup("both", [Failure(), KeyboardInterrupt()])

    def hook(letter: DeadLetter) -> None:
        raise KeyError(letter.event.path)

    with pytest.RaisesGroup(pytest.RaisesGroup(KeyboardInterrupt), KeyError):
        async with open_event_bus(on_dead_letter=hook) as bus:
            await bus.on(handler, "a", on_error=policy)
            await bus.send("a", "k", "/x")
            await trio.sleep_forever()


async def test_an_exception_that_propagates_leaves_as_itself_if_the_hook_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    error = Failure()

    async def handler(event: Event) -> None:
        raise error

    async def hook(letter: DeadLetter) -> None:
        await trio.sleep_forever()

    with pytest.raises(Failure) as caught:
        async with open_event_bus(on_dead_letter=hook, drain_timeout=1) as bus:
            await bus.on(handler, "a")
            await bus.send("a", "k", "/x")
    assert caught.value is error
    assert error.__cause__ is error.__context__ is None


async def test_what_the_hook_raises_when_it_is_cancelled_leaves_as_itself(
    autojump_clock: MockClock,
) -> None:
    """The handler failed while it was cancelled."""

    async def hook(letter: DeadLetter) -> None:
        raise KeyError(letter.event.path)

    with pytest.raises(KeyError, match="/x"):
        async with open_event_bus(on_dead_letter=hook, drain_timeout=1) as bus:
            await bus.on(handler_in_a_group, "a", on_error=Log())
            await bus.send("a", "k", "/x")


async def test_the_hook_may_send_and_close(autojump_clock: MockClock) -> None:
    recorder = Recorder()

    def hook(letter: DeadLetter) -> None:
        bus.send_nowait("dead", "k", letter.event.path)
        if letter.event.path == "/1":
            letter.subscription.channel().close()

    async with open_event_bus(on_dead_letter=hook) as bus:
        await bus.on(recorder, "dead")
        subscription = await bus.on(fail, "a", on_error=Log())
        for i in range(3):
            await bus.send("a", "k", f"/{i}")
    assert recorder.seen == ["/0", "/1"]
    assert_books(subscription, delivered=2, discarded=1, failures=2)


@attrs.define(eq=False)
class AsyncHook:
    """A hook that takes a second for each dead letter."""

    begun: list[str] = attrs.field(factory=list)
    done: list[str] = attrs.field(factory=list)

    async def __call__(self, letter: DeadLetter) -> None:
        self.begun.append(letter.event.path)
        await trio.sleep(1)
        self.done.append(letter.event.path)


@pytest.mark.usefixtures("no_log")
async def test_a_hook_may_be_async_and_the_handler_waits_for_it(autojump_clock: MockClock) -> None:
    hook = AsyncHook()
    async with open_event_bus(on_dead_letter=hook) as bus:
        subscription = await bus.on(fail, "a", on_error=Log())
        for i in range(3):
            await bus.send("a", "k", f"/{i}")
        await trio.sleep(0.5)
        assert_books(subscription, delivered=1, queued=2, handling=1, failures=1)
    assert hook.begun == hook.done == ["/0", "/1", "/2"]  # the end waits for them, too


@pytest.mark.usefixtures("no_log")
async def test_a_plain_hook_that_returns_an_awaitable_is_awaited(
    autojump_clock: MockClock,
) -> None:
    hook = AsyncHook()

    def plain(letter: DeadLetter) -> object:
        return hook(letter)

    async with open_event_bus(on_dead_letter=plain) as bus:
        await bus.on(fail, "a", on_error=Log())
        await bus.send("a", "k", "/x")
    assert hook.done == ["/x"]


async def test_what_an_async_hook_raises_leaves_through_the_supervisor(
    autojump_clock: MockClock,
) -> None:
    async def hook(letter: DeadLetter) -> None:
        await trio.sleep(1)
        raise KeyError(letter.event.path)

    with pytest.raises(KeyError, match="/x"):
        async with open_event_bus(on_dead_letter=hook) as bus:
            await bus.on(fail, "a", on_error=Log())
            await bus.send("a", "k", "/x")
            await trio.sleep_forever()


@pytest.mark.parametrize("hook", [42, "log"])
async def test_a_hook_must_be_callable(hook: Any) -> None:
    with pytest.raises(TypeError, match="on_dead_letter must be a plain or async function"):
        async with open_event_bus(on_dead_letter=hook):
            raise AssertionError("not reached")


async def test_without_a_failure_there_is_no_dead_letter(autojump_clock: MockClock) -> None:
    letters: list[DeadLetter] = []
    workers = Workers()
    async with open_event_bus(on_dead_letter=letters.append, drain_timeout=1) as bus:
        await bus.on(workers, "a", on_error=Log())
        workers.release("/done")
        for path in ("/done", "/cancelled", "/discarded"):
            await bus.send("a", "k", path)
    assert (workers.finished, workers.cancelled) == (["/done"], ["/cancelled"])
    assert letters == []


# ---------------------------------------------------------------------------------------------
# Overflow
# ---------------------------------------------------------------------------------------------


async def overflow(bus: EventBus, workers: Workers, policy: OnError, concurrency: int) -> None:
    """Have a subscription end because its buffer of two events was full."""
    subscription = await bus.on(
        workers,
        "a",
        concurrency=concurrency,
        max_buffer_size=2,
        overflow=Overflow.CLOSE,
        on_error=policy,
    )
    for i in range(concurrency + 3):
        await bus.send("a", "k", f"/{i}")
        await wait_all_tasks_blocked()
    assert_books(subscription, delivered=concurrency, queued=2, dropped=1, handling=concurrency)
    assert bus.statistics().open_subscriptions == 0
    workers.release(*(f"/{i}" for i in range(concurrency + 2)))
    await wait_all_tasks_blocked()
    assert_balanced(subscription)


@pytest.mark.parametrize("policy", [Propagate(), Retry()], ids=repr)
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_an_overflow_propagates_after_what_was_buffered(
    policy: OnError, concurrency: int
) -> None:
    workers, before = Workers(), tasks_living()
    with pytest.raises(SubscriptionOverflowError):
        async with open_event_bus() as bus:
            await overflow(bus, workers, policy, concurrency)
            await trio.sleep_forever()
    assert len(workers.begun) == concurrency + 2
    assert tasks_living() == before


@pytest.mark.parametrize("ordered", [False, True])
async def test_an_overflow_leaves_as_itself_although_several_tasks_wait_for_events(
    ordered: bool,
) -> None:
    recorder = Recorder()
    with pytest.raises(SubscriptionOverflowError):
        async with open_event_bus() as bus:
            await bus.on(
                recorder,
                "a",
                concurrency=4,
                ordered=ordered,
                max_buffer_size=1,
                overflow=Overflow.CLOSE,
            )
            await wait_all_tasks_blocked()
            for i in range(6):
                bus.send_nowait("a", "k", f"/{i}")
            await trio.sleep_forever()
    assert recorder.seen[0] == "/0"


@pytest.mark.parametrize("policy", [Log(), CloseSubscription(), Retry(then=Log())], ids=repr)
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_an_overflow_is_logged_once_and_the_bus_goes_on(
    policy: OnError, concurrency: int, errors: Callable[[], list[logging.LogRecord]]
) -> None:
    workers, letters = Workers(), list[DeadLetter]()
    async with open_event_bus(on_dead_letter=letters.append) as bus:
        before = tasks_living()
        await overflow(bus, workers, policy, concurrency)
        assert tasks_living() == before
        assert len(workers.finished) == concurrency + 2
        recorder = Recorder()
        await bus.on(recorder, "a")
        await bus.send("a", "k", "/after")
    assert recorder.seen == ["/after"]
    [record] = errors()
    assert "ended because its buffer of 2 events was full" in record.getMessage()
    assert letters == []  # it was not the handling that failed


# ---------------------------------------------------------------------------------------------
# References
# ---------------------------------------------------------------------------------------------


class Data:
    """Something whose end can be watched."""


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_an_idle_handler_does_not_keep_the_last_event(concurrency: int) -> None:
    async with open_event_bus() as bus:
        await bus.on(Recorder(), "a", concurrency=concurrency)
        await wait_all_tasks_blocked()
        for path in ("/waited for", "/not waited for"):
            data = Data()
            gone = weakref.ref(data)
            bus.send_nowait("a", "k", path, data)
            bus.send_nowait("a", "k", path, data)
            del data
            await wait_all_tasks_blocked()
            assert gone() is None


@pytest.mark.parametrize(
    "policy", [Log(), CloseSubscription(), Retry(), Retry(1, then=Log())], ids=repr
)
@pytest.mark.usefixtures("no_log")
async def test_a_failure_that_is_dealt_with_leaves_nothing_behind(
    policy: OnError, autojump_clock: MockClock
) -> None:
    failures = 0

    async def fail_once(event: Event) -> None:
        nonlocal failures
        failures += 1
        if failures == 1:
            raise ExceptionGroup("", [Failure()])

    async with open_event_bus() as bus:
        await bus.on(fail_once, "a", on_error=policy)
        data = Data()
        gone = weakref.ref(data)
        gc.collect()
        gc.disable()
        try:
            await bus.send("a", "k", "/x", data)
            del data
            await trio.sleep(1)
            assert gone() is None
        finally:
            gc.enable()


@pytest.mark.parametrize("policy", [Propagate(), Retry(2)], ids=repr)
@pytest.mark.usefixtures("no_log")
async def test_an_exception_that_leaves_is_not_part_of_a_cycle(
    policy: OnError, autojump_clock: MockClock
) -> None:
    data = Data()
    gone = weakref.ref(data)
    gc.collect()
    gc.disable()
    try:
        try:
            async with open_event_bus() as bus:
                await bus.on(fail, "a", on_error=policy)
                await bus.send("a", "k", "/x", data)
                del data
        except Failure:
            pass
        assert gone() is None
    finally:
        gc.enable()
