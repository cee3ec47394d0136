"""Responders, and replies that belong to their request."""

from __future__ import annotations

import copy
import functools
import gc
import logging
import pickle
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    Action,
    Allow,
    BusClosedError,
    CloseSubscription,
    DeadLetter,
    Deny,
    ErrorKind,
    Event,
    EventBus,
    HandlerSet,
    InvalidEventError,
    Log,
    NoBusError,
    PolicyDeniedError,
    Propagate,
    Reject,
    RequestFailedError,
    Retry,
    RulePolicy,
    open_event_bus,
)

from ..observing import Cancellation, assert_books, at_every_checkpoint, drain, tidy


class Failure(Exception):
    """How responders fail."""


async def double(request: Event[Any]) -> object:
    """Reply with the data, doubled; reject what is negative; fail without any."""
    if request.data < 0:
        raise Reject(f"{request.data} is negative")
    return request.data * 2


async def fail(request: Event) -> object:
    raise Failure("out of order")


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "trio_events")


# --------------------------------------------------------------------------------- what is replied


async def test_what_a_responder_returns_is_the_data_of_the_reply(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        witness = await bus.subscribe("stock", path="/1")
        await bus.serve(double, "stock", "item.count")
        reply = await bus.request("stock", "item.count", "/1", 21)
        assert reply == Event("stock", "item.accepted", "/1", 42)
        assert reply.accepted
        request, seen = [witness.receive_nowait() for _ in range(2)]
        assert request.kind == "item.count"
        assert seen is reply  # it is an event as any other


async def test_a_responder_rejects_by_raising(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.serve(double, "stock", "count")
        reply = await bus.request("stock", "count", "/1", -1)
        assert reply == Event("stock", "rejected", "/1", "-1 is negative")
        assert not reply.accepted
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=1)  # and that is no failure


async def test_a_rejection_may_come_out_of_nurseries(autojump_clock: MockClock) -> None:
    async def reject(data: str) -> None:
        raise Reject(data)

    async def responder(request: Event) -> None:
        async with trio.open_nursery() as nursery, trio.open_nursery() as inner:
            nursery.start_soon(trio.sleep, 1)
            inner.start_soon(reject, "no")

    async with open_event_bus() as bus:
        await bus.serve(responder, "a")
        assert (await bus.request("a", "k", "/1")).data == "no"


@pytest.mark.usefixtures("quiet")
async def test_a_rejection_beside_a_failure_is_a_failure(autojump_clock: MockClock) -> None:
    async def responder(request: Event) -> None:
        raise ExceptionGroup("both", [Reject("no"), Failure()])

    async with open_event_bus() as bus:
        await bus.serve(responder, "a")
        with pytest.raises(RequestFailedError, match="both"):
            await bus.request("a", "k", "/1")


def test_a_rejection_says_what_it_says() -> None:
    assert Reject("sold out").data == "sold out"
    assert str(Reject("sold out")) == "sold out"
    assert Reject().data is None


@pytest.mark.usefixtures("quiet")
async def test_a_responder_that_fails_fails_the_request(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        witness = await bus.subscribe("a.b", "*.failed")
        subscription = await bus.serve(fail, "a.*", "k.l")
        with pytest.raises(RequestFailedError) as caught:
            await bus.request("a.b", "k.l", "/1")
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=1, failures=1)
        reply = witness.receive_nowait()
    error = caught.value
    assert (error.kind, error.retryable) == (ErrorKind.UNAVAILABLE, True)
    assert (reply.kind, reply.path) == ("k.failed", "/1")
    assert isinstance(reply.data, str)
    assert reply.data.endswith("Failure: out of order")
    assert error.details == {"system": "a.b", "kind": "k.l", "path": "/1", "reply": reply.data}
    for text in ("'a.b'", "'k.l'", "'/1'", "Failure: out of order"):
        assert text in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.details) == (str(error), error.details)


async def test_an_exception_whose_text_can_not_be_had_fails_the_request_too(
    autojump_clock: MockClock, quiet: None
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    async def responder(request: Event) -> None:
        raise Mute

    async with open_event_bus() as bus:
        await bus.serve(responder, "a")
        with pytest.raises(RequestFailedError, match="Mute"):
            await bus.request("a", "k", "/1")


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("on_error", [CloseSubscription(), Retry(2, then=Log())], ids=repr)
async def test_on_error_decides_about_the_responder(
    on_error: CloseSubscription | Retry, autojump_clock: MockClock
) -> None:
    letters: list[DeadLetter] = []
    async with open_event_bus(on_dead_letter=letters.append) as bus:
        subscription = await bus.serve(fail, "a", "k", on_error=on_error)
        with pytest.raises(RequestFailedError):
            await bus.request("a", "k", "/1")
        await wait_all_tasks_blocked()
        calls = 2 if isinstance(on_error, Retry) else 1
        assert_books(subscription, delivered=1, failures=calls)
        assert (subscription in bus.subscriptions()) is isinstance(on_error, Retry)
    assert [letter.event.path for letter in letters] == ["/1"]


async def test_a_failure_that_propagates_ends_the_bus(autojump_clock: MockClock) -> None:
    with pytest.raises(Failure):
        async with open_event_bus() as bus:
            await bus.serve(fail, "a", on_error=Propagate())
            await bus.request("a", "k", "/1")


async def test_a_failure_that_propagates_leaves_as_itself_however_long_the_hook_takes(
    autojump_clock: MockClock,
) -> None:
    async def hook(letter: DeadLetter) -> None:
        await trio.sleep(10)

    with pytest.raises(Failure):
        async with open_event_bus(on_dead_letter=hook) as bus:
            await bus.serve(fail, "a", on_error=Propagate())
            await bus.request("a", "ask", "/x")
    assert trio.current_time() == 10


@pytest.mark.usefixtures("quiet")
async def test_a_request_is_not_answered_before_the_last_attempt(
    autojump_clock: MockClock,
) -> None:
    calls: list[float] = []

    async def responder(request: Event) -> str:
        calls.append(trio.current_time())
        if len(calls) < 3:
            raise Failure
        return "at last"

    async with open_event_bus() as bus:
        start = trio.current_time()
        await bus.serve(responder, "a", on_error=Retry(3, backoff=1, jitter=0))
        assert (await bus.request("a", "k", "/1")).data == "at last"
        assert [time - start for time in calls] == [0, 1, 3]


@pytest.mark.usefixtures("quiet")
async def test_a_responder_that_returns_an_event_fails(autojump_clock: MockClock) -> None:
    async def responder(request: Event) -> Event:
        return Event("a", "k.accepted", "/1")

    async with open_event_bus() as bus:
        await bus.serve(responder, "a")
        with pytest.raises(RequestFailedError, match="TypeError: a responder returns the data"):
            await bus.request("a", "k", "/1")


# ------------------------------------------------------------------------------ what is registered


async def test_a_responder_may_be_declared(autojump_clock: MockClock) -> None:
    handlers = HandlerSet()
    count = handlers.serve("a", "count")(double)
    assert count is double
    async with open_event_bus() as bus:
        [subscription] = await bus.include(handlers)
        assert subscription.handler is double
        assert (await bus.request("a", "count", "/1", 4)).data == 8
    with pytest.raises(TypeError, match=r"write @handlers\.serve\("):
        handlers.serve(double)  # type: ignore[call-overload]  # that is the mistake


async def test_the_module_functions_use_the_bus_around_the_caller(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus():
        await events.serve(double, "a", "k")
        assert (await events.request("a", "k", "/1", 2)).data == 4
        by_hand = await events.subscribe("b")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(events.request, "b", "k", "/1")
            await events.reply(await by_hand.receive())
    for call in (partial(events.serve, double, "a"), partial(events.reply, Event("a", "k", "/"))):
        with pytest.raises(NoBusError):
            await call()


@pytest.mark.parametrize("responder", [lambda _: 1, 42, None, print])
async def test_a_responder_must_be_async(responder: Any) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(TypeError, match="a responder must be an async function"):
            await bus.serve(responder, "a")
        with pytest.raises(TypeError, match="a responder must be an async function"):
            HandlerSet().serve("a")(responder)
        assert not bus.subscriptions()


async def test_a_responder_with_the_wrong_parameters_is_refused() -> None:
    class Service:
        async def answer(self, request: Event) -> None: ...

    async with open_event_bus() as bus:
        with pytest.raises(TypeError, match=r"a responder is called.*bus\.serve\(obj\.method"):
            await bus.serve(Service.answer, "a")  # type: ignore[arg-type]  # that is the mistake
        assert not bus.subscriptions()


async def test_every_async_callable_is_a_responder(autojump_clock: MockClock) -> None:
    class Service:
        async def answer(self, request: Event) -> str:
            return "method"

        async def __call__(self, request: Event) -> str:
            return "object"

    async def with_more(prefix: str, request: Event) -> str:
        return prefix

    async with open_event_bus() as bus:
        await bus.serve(Service().answer, "method")
        await bus.serve(Service(), "object")
        await bus.serve(functools.partial(with_more, "partial"), "partial")
        for name in ("method", "object", "partial"):
            assert (await bus.request(name, "k", "/1")).data == name


@pytest.mark.parametrize("ordered", [0, None, "yes"])
async def test_ordered_must_be_a_bool(ordered: Any) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(TypeError, match="ordered must be a bool"):
            await bus.serve(double, "a", ordered=ordered)


# -------------------------------------------------------------------- which events it is called for


async def test_an_event_that_was_sent_has_no_reply(autojump_clock: MockClock) -> None:
    seen: list[str] = []

    async def responder(request: Event) -> str:
        seen.append(request.path)
        return "unheard"

    async with open_event_bus() as bus:
        subscription = await bus.serve(responder, "a")
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        assert seen == ["/1"]
        assert bus.statistics().accepted == 1
        assert_books(subscription, delivered=1)


@pytest.mark.usefixtures("quiet")
async def test_a_failure_for_an_event_that_was_sent_is_not_a_reply_either(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.serve(fail, "a")
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        assert bus.statistics().accepted == 1
        assert_books(subscription, delivered=1, failures=1)


async def test_a_responder_for_every_kind_is_not_called_for_its_own_replies(
    autojump_clock: MockClock,
) -> None:
    kinds: list[str] = []

    async def responder(request: Event) -> None:
        kinds.append(request.kind)

    async with open_event_bus() as bus:
        subscription = await bus.serve(responder, "**")
        for kind in ("k", "a.b", "a.accepted"):  # even a request may have such a kind
            await bus.request("s", kind, "/1")
        await wait_all_tasks_blocked()
        assert kinds == ["k", "a.b", "a.accepted"]
        assert_books(subscription, delivered=6)


async def test_the_first_of_several_replies_counts(autojump_clock: MockClock) -> None:
    async def slow(request: Event) -> str:
        await trio.sleep(1)
        return "slow"

    async def fast(request: Event) -> str:
        return "fast"

    async with open_event_bus() as bus:
        witness = await bus.subscribe("a", "accepted")
        await bus.serve(slow, "a", "k")
        await bus.serve(fast, "a", "k")
        assert (await bus.request("a", "k", "/1")).data == "fast"
        await trio.sleep(2)
        assert len(drain(witness.channel())) == 1


async def test_a_responder_may_reply_early(autojump_clock: MockClock) -> None:
    async def responder(request: Event) -> str:
        await bus.reply(request, "early")
        await trio.sleep(1)
        return "late"

    async with open_event_bus() as bus:
        subscription = await bus.serve(responder, "a")
        start = trio.current_time()
        assert (await bus.request("a", "k", "/1")).data == "early"
        assert trio.current_time() == start
        await trio.sleep(2)
        assert bus.statistics().accepted == 2
        assert_books(subscription, delivered=2)  # the reply is an event of the same system


# ------------------------------------------------------------------------------ replies by identity


async def asked(bus: EventBus, path: str, got: dict[object, object], name: object) -> None:
    got[name] = (await bus.request("a", "k", path, name)).data


async def test_two_requests_for_one_path_each_get_their_own_reply(
    autojump_clock: MockClock,
) -> None:
    got: dict[object, object] = {}
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        requests = await bus.subscribe("a", "k")
        for name in range(3):
            nursery.start_soon(asked, bus, "/same", got, name)
        await wait_all_tasks_blocked()
        taken = [requests.receive_nowait() for _ in range(3)]
        for request in (taken[1], taken[2], taken[0]):
            await bus.reply(request, f"for {request.data}")
            await wait_all_tasks_blocked()
            assert got[request.data] == f"for {request.data}"
    assert got == {name: f"for {name}" for name in range(3)}


async def test_a_reply_that_comes_after_a_time_out_answers_no_other_request(
    autojump_clock: MockClock,
) -> None:
    got: dict[object, object] = {}
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        requests = await bus.subscribe("a", "k")
        witness = await bus.subscribe("a", "accepted")
        with trio.move_on_after(1):
            await bus.request("a", "k", "/same", "first")
        nursery.start_soon(asked, bus, "/same", got, "second")
        await wait_all_tasks_blocked()
        first, second = requests.receive_nowait(), requests.receive_nowait()
        await bus.reply(first, "late")
        await wait_all_tasks_blocked()
        assert got == {}
        assert witness.receive_nowait().data == "late"  # it is sent all the same
        await bus.reply(second, "in time")
        await wait_all_tasks_blocked()
        assert got == {"second": "in time"}
        with pytest.raises(InvalidEventError, match="already has a reply"):
            await bus.reply(first, "again")


async def test_what_is_sent_by_hand_answers_by_path_and_takes_nothing_of_others(
    autojump_clock: MockClock,
) -> None:
    got: dict[object, object] = {}
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        requests = await bus.subscribe("a", "k")
        for name in ("served", "by hand"):
            nursery.start_soon(asked, bus, "/same", got, name)
            await wait_all_tasks_blocked()
        served = requests.receive_nowait()
        await bus.reply(served, "mine")
        await wait_all_tasks_blocked()
        assert got == {"served": "mine"}
        await bus.send("a", "accepted", "/same", "for all of this path")
        await wait_all_tasks_blocked()
        assert got == {"served": "mine", "by hand": "for all of this path"}


async def test_a_reply_answers_whatever_kind_was_asked_for(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        await bus.serve(double, "a", "k.l")
        reply = await bus.request("a", "k.l", "/1", 2, reply_kind="priced")
        assert reply.kind == "k.accepted"


@pytest.mark.parametrize("reply_kind", [None, "k.failed", "**.(done|failed)"])
async def test_failed_by_hand_is_a_failure_unless_it_was_asked_for(
    reply_kind: str | None, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.subscribe("a", "k")
        options = {} if reply_kind is None else {"reply_kind": reply_kind}

        async def reply() -> None:
            await wait_all_tasks_blocked()
            await bus.send("a", "k.failed", "/1", "broken")

        nursery.start_soon(reply)
        if reply_kind is None:
            with pytest.raises(RequestFailedError, match="broken"):
                await bus.request("a", "k", "/1")
        else:
            assert (await bus.request("a", "k", "/1", **options)).data == "broken"


async def test_a_request_never_answers_another_one(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        requests = await bus.subscribe("a")
        answered: list[str] = []

        async def ask(kind: str) -> None:
            reply = await bus.request("a", kind, "/1", reply_kind="**")
            answered.append(f"{kind} by {reply.kind}")

        for kind in ("k", "l.accepted", "m"):
            nursery.start_soon(ask, kind)
            await wait_all_tasks_blocked()
        assert answered == []
        for _ in range(3):
            await bus.reply(requests.receive_nowait(), accepted=False)
        await wait_all_tasks_blocked()
        assert sorted(answered) == ["k by rejected", "l.accepted by l.rejected", "m by rejected"]


async def test_a_request_that_was_given_up_before_it_was_routed_answers_nothing_either(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(checkpoint_every=1000) as bus, trio.open_nursery() as nursery:
        requests = await bus.subscribe("a")
        nursery.start_soon(partial(bus.request, "a", "k", "/1", reply_kind="**"))
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:

                async def ask() -> None:
                    await bus.request("a", "l", "/1")

                inner.start_soon(ask)
                # The router has its turn after the request, which is cancelled in this very one.
                while bus.statistics().accepted == 1:  # noqa: ASYNC110  # no event tells
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        await wait_all_tasks_blocked()
        assert bus.statistics().open_waiters == 1
        assert len(drain(requests.channel())) == 2
        assert not bus._router.core.requests.underway
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------------------- reply by hand


async def pending(bus: EventBus, nursery: trio.Nursery, path: str = "/1") -> Event:
    """A request that has arrived at its subscription."""
    async with await bus.subscribe("a", "k", path=path) as requests:
        nursery.start_soon(bus.request, "a", "k", path)
        return await requests.receive()


@pytest.mark.parametrize("accepted", [True, False])
async def test_a_reply_may_come_from_anywhere(accepted: bool, autojump_clock: MockClock) -> None:
    got: list[Event] = []

    async def ask() -> None:
        got.append(await bus.request("a", "k.l.m", "/1"))

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        requests = await bus.subscribe("a", "k.l.m")
        nursery.start_soon(ask)
        request = await requests.receive()
        requests.channel().close()
        await bus.for_actor("somebody").reply(request, "data", accepted=accepted)
    kind = "k.l.accepted" if accepted else "k.l.rejected"
    assert got == [Event("a", kind, "/1", "data")]


async def test_a_request_has_one_reply(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        request = await pending(bus, nursery)
        await bus.reply(request)
        before = bus.statistics().accepted
        for _ in range(2):
            with pytest.raises(InvalidEventError, match="already has a reply") as caught:
                await bus.reply(request)
            await wait_all_tasks_blocked()
        assert "'/1'" in str(caught.value)
        assert bus.statistics().accepted == before


async def test_a_request_that_was_answered_by_hand_has_a_reply(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        request = await pending(bus, nursery)
        await bus.send("a", "accepted", "/1")
        await wait_all_tasks_blocked()
        with pytest.raises(InvalidEventError, match="already has a reply"):
            await bus.reply(request)


async def test_an_event_that_is_not_a_request_has_no_reply(autojump_clock: MockClock) -> None:
    async with open_event_bus() as other, open_event_bus() as bus, trio.open_nursery() as nursery:
        request = await pending(bus, nursery)
        async with await bus.subscribe("b") as sent:
            await bus.send("b", "k", "/1")
            an_event = await sent.receive()
        before = bus.statistics().accepted
        for not_a_request in (an_event, copy.copy(request), Event("a", "k", "/1")):
            with pytest.raises(InvalidEventError, match="isn't a request"):
                await bus.reply(not_a_request)
        with pytest.raises(InvalidEventError, match="isn't a request"):
            await other.reply(request)
        for nothing in (None, "a", 42):
            with pytest.raises(TypeError, match="request must be an Event"):
                await bus.reply(nothing)  # type: ignore[arg-type]  # that is the mistake
        await wait_all_tasks_blocked()
        assert bus.statistics().accepted == before
        await bus.reply(request)


async def test_a_reply_that_would_have_too_long_a_kind_is_refused_and_another_may_come(
    autojump_clock: MockClock,
) -> None:
    kind = "k" * 506 + ".k"
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        requests = await bus.subscribe("a")
        nursery.start_soon(bus.request, "a", kind, "/1")
        request = await requests.receive()
        for _ in range(2):
            with pytest.raises(InvalidEventError, match="at most 512"):
                await bus.reply(request)
        await bus.send("a", "accepted", "/1")


@pytest.mark.parametrize("every", [1, 32])
async def test_a_reply_cancelled_at_any_checkpoint_was_sent_or_can_be_sent_again(
    every: int, autojump_clock: MockClock
) -> None:
    async def scene(cancellation: Cancellation[None]) -> None:
        got: dict[object, object] = {}
        async with open_event_bus(checkpoint_every=every) as bus:
            requests = await bus.subscribe("a", "k")
            full = await bus.subscribe("a", "accepted", max_buffer_size=1)
            await bus.send("a", "accepted", "/0")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(asked, bus, "/1", got, "name")
                request = await requests.receive()

                async def make_room() -> None:
                    await wait_all_tasks_blocked()
                    full.receive_nowait()

                nursery.start_soon(make_room)
                await cancellation.run(partial(bus.reply, request, "first"))
                if cancellation.cancelled:
                    await bus.reply(request, "second")
            expected = "second" if cancellation.cancelled else "first"
            assert got == {"name": expected}
            assert full.receive_nowait().data == expected
            assert not bus._router.core.requests.underway

    assert await at_every_checkpoint(scene) >= 1


async def test_a_reply_that_waits_for_room_is_the_only_one(autojump_clock: MockClock) -> None:
    got: dict[object, object] = {}
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        requests = await bus.subscribe("a", "k")
        full = await bus.subscribe("a", "accepted", max_buffer_size=1)
        await bus.send("a", "accepted", "/0")
        nursery.start_soon(asked, bus, "/1", got, "name")
        request = await requests.receive()
        nursery.start_soon(bus.reply, request, "first")
        await wait_all_tasks_blocked()
        with pytest.raises(InvalidEventError, match="already has a reply"):
            await bus.reply(request, "second")
        full.receive_nowait()
        await wait_all_tasks_blocked()
        assert got == {"name": "first"}


async def test_a_request_that_was_answered_by_hand_while_its_reply_waits_keeps_that(
    autojump_clock: MockClock,
) -> None:
    got: dict[object, object] = {}
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        requests = await bus.subscribe("a", "k")
        full = await bus.subscribe("a", "accepted", max_buffer_size=1)
        await bus.send("a", "accepted", "/0")
        nursery.start_soon(asked, bus, "/1", got, "name")
        request = await requests.receive()
        async with trio.open_nursery() as inner:
            inner.start_soon(bus.reply, request, "made for it")
            await wait_all_tasks_blocked()
            await bus.send("a", "x.accepted", "/1", "by hand")
            await wait_all_tasks_blocked()
            assert got == {"name": "by hand"}
            inner.cancel_scope.cancel()
        with pytest.raises(InvalidEventError, match="already has a reply"):
            await bus.reply(request)
        assert drain(full.channel()) == ["/0"]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("seconds", [2, 60])
async def test_a_request_fails_if_its_reply_could_not_be_sent_and_a_later_result_was_dropped(
    seconds: float, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        full = await bus.subscribe("a", "accepted", max_buffer_size=1)
        await bus.send("a", "accepted", "/0")

        async def reply_by_hand(request: Event[Any]) -> None:
            with trio.move_on_after(seconds):
                await bus.reply(request, "by hand")

        async def respond(request: Event[Any]) -> object:
            nursery.start_soon(reply_by_hand, request)
            await wait_all_tasks_blocked()
            return await double(request)

        async def make_room() -> None:
            await trio.sleep(30)
            full.receive_nowait()

        await bus.serve(respond, "a", "k")
        nursery.start_soon(make_room)
        if seconds == 2:
            with pytest.raises(RequestFailedError, match="can't be answered any more"):
                await bus.request("a", "k", "/1", 21)
            assert 2 <= trio.current_time() <= 4
        else:
            assert (await bus.request("a", "k", "/1", 21)).data == "by hand"
            assert trio.current_time() == 30
        nursery.cancel_scope.cancel()


# -------------------------------------------------------------------------------------- permission


POLICY = RulePolicy(
    [
        *[Allow(action, "**") for action in Action],
        Deny(Action.SEND, "a", actor="mute"),
    ]
)


async def test_a_reply_is_a_send_and_checked_as_one(autojump_clock: MockClock) -> None:
    async with open_event_bus(policy=POLICY) as bus, trio.open_nursery() as nursery:
        request = await pending(bus, nursery)
        with pytest.raises(PolicyDeniedError) as caught:
            await bus.for_actor("mute").reply(request)
        assert caught.value.details == {"actor": "mute", "action": Action.SEND, "system": "a"}
        await bus.reply(request)  # it has no reply yet


async def test_a_responder_that_may_not_reply_is_not_called_again_and_its_request_fails(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    async def responder(request: Event) -> None:
        nonlocal calls
        calls += 1

    async with open_event_bus(policy=POLICY) as bus:
        subscription = await bus.for_actor("mute").serve(
            responder, "a", "k", on_error=Retry(3, then=Log())
        )
        start = trio.current_time()
        with pytest.raises(RequestFailedError, match="can't be answered any more"):
            await bus.request("a", "k", "/1")
        assert trio.current_time() - start == 1
        assert calls == 1
        assert_books(subscription, delivered=1, failures=1)
    assert "'mute' may not send to 'a'" in caplog.text
    assert "the reply could not be sent" in caplog.text


# ------------------------------------------------------------------------------------- the bus ends


async def test_handlers_that_ask_each_other_finish_while_the_bus_is_closing(
    autojump_clock: MockClock,
) -> None:
    got: list[object] = []

    async def slow_double(request: Event[Any]) -> object:
        await trio.sleep(1)
        return request.data * 2

    async def ask(event: Event[Any]) -> None:
        got.append((await bus.request("stock", "count", "/same", event.data)).data)

    async with open_event_bus() as bus:
        await bus.on(ask, "orders", concurrency=3)
        await bus.serve(slow_double, "stock", "count")
        for number in range(3):
            await bus.send("orders", "placed", f"/{number}", number)
    assert sorted(map(str, got)) == ["0", "2", "4"]


@pytest.mark.parametrize("by_hand", [False, True])
async def test_any_task_may_answer_a_request_of_a_handler_while_the_bus_is_closing(
    by_hand: bool, autojump_clock: MockClock
) -> None:
    got: list[object] = []

    async def ask(event: Event) -> None:
        got.append((await bus.request("b", "k", "/1")).data)

    async def answer() -> None:
        request = await requests.receive()
        await trio.sleep(1)  # the bus is closing meanwhile
        with pytest.raises(BusClosedError):
            await bus.send("b", "k", "/1")
        with pytest.raises(BusClosedError):
            await bus.send("b", "accepted", "/2")
        if by_hand:
            await bus.send("b", "accepted", "/1", "from outside")
        else:
            await bus.reply(request, "from outside")

    async with trio.open_nursery() as nursery, open_event_bus() as bus:
        requests = await bus.subscribe("b", "k")
        await bus.on(ask, "a")
        nursery.start_soon(answer)
        await bus.send("a", "k", "/x")
    assert got == ["from outside"]


async def test_a_reply_from_outside_may_wait_for_room_while_the_bus_is_closing(
    autojump_clock: MockClock,
) -> None:
    got: list[object] = []

    async def ask(event: Event) -> None:
        got.append((await bus.request("b", "k", "/1")).data)

    async def make_room() -> None:
        await trio.sleep(2)
        full.receive_nowait()

    async with trio.open_nursery() as nursery, open_event_bus() as bus:
        requests = await bus.subscribe("b", "k")
        full = await bus.subscribe("b", "accepted", max_buffer_size=1)
        await bus.send("b", "accepted", "/0")
        await bus.on(ask, "a")
        await bus.send("a", "k", "/x")
        request = await requests.receive()
        nursery.start_soon(bus.reply, request, "in line")  # noqa: ASYNC111  # the bus waits for it
        await wait_all_tasks_blocked()
        nursery.start_soon(make_room)
    assert got == ["in line"]


async def test_no_task_answers_an_outsider_while_the_bus_is_closing(
    autojump_clock: MockClock,
) -> None:
    async def ask() -> None:
        with pytest.raises(BusClosedError, match="no reply arrived before"):
            await bus.request("b", "k", "/1")

    async def busy(event: Event) -> None:
        await trio.sleep(5)

    async with trio.open_nursery() as nursery, open_event_bus() as bus:
        requests = await bus.subscribe("b", "k")
        await bus.on(busy, "a")
        nursery.start_soon(ask)
        request = await requests.receive()
        await bus.send("a", "k", "/x")
        bus.close()
        with pytest.raises(BusClosedError):
            await bus.reply(request)
        with pytest.raises(BusClosedError):
            await bus.send("b", "accepted", "/1")


async def test_a_closed_bus_takes_no_reply(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        requests = await bus.subscribe("a")
        with trio.move_on_after(1):
            await bus.request("a", "k", "/1")
        request = requests.receive_nowait()
        bus.close()
        for _ in range(2):
            with pytest.raises(BusClosedError):
                await bus.reply(request)


@pytest.mark.parametrize("sign", [1, -1], ids=["accepted", "rejected"])
async def test_an_answered_request_leaves_nothing_behind(
    sign: int, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        await bus.serve(double, "a", "k")
        requests = bus._router.core.requests
        gc.collect()
        gc.disable()  # there are no reference cycles
        try:
            async with tidy(bus):
                for number in range(1, 11):
                    await bus.request("a", "k", "/1", sign * number)
            assert len(requests) == len(requests.known) == 0
        finally:
            gc.enable()
        assert not requests.waiting
        assert not requests.underway


def test_a_request_or_a_reply_that_is_made_in_another_run_is_refused() -> None:
    async def a_bus() -> EventBus:
        async with open_event_bus() as bus:
            return bus

    bus = trio.run(a_bus)

    async def main() -> None:
        with pytest.raises(NoBusError):
            await bus.request("a", "k", "/1")
        with pytest.raises(NoBusError):
            await bus.reply(Event("a", "k", "/1"))

    trio.run(main)
