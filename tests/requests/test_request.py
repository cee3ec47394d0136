"""Requests: one event out, the reply to it back. First as the original's await service has it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    Action,
    Allow,
    BusClosedError,
    DeadlockError,
    ErrorKind,
    Event,
    EventBus,
    EventBusError,
    InvalidEventError,
    InvalidPatternError,
    NoBusError,
    NoSubscribersError,
    Overflow,
    PolicyDeniedError,
    RulePolicy,
    Subscription,
    open_event_bus,
)

from ..observing import (
    Cancellation,
    assert_books,
    at_every_checkpoint,
    drain,
    paths,
    tidy,
)
from ..steps import count_lines


async def serve(
    bus: EventBus,
    kind: str,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Reply to each request at its path, with its data doubled."""
    async with await bus.subscribe("orders", "order.place") as requests:
        task_status.started()
        async for request in requests:
            await bus.send("orders", kind, request.path, ("reply to", request.data))


@asynccontextmanager
async def shop(kind: str = "order.accepted") -> AsyncIterator[EventBus]:
    """A bus with somebody who replies to each request."""
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await nursery.start(serve, bus, kind)
        yield bus
        nursery.cancel_scope.cancel()


# ------------------------------------------------------ what the await service of the original does


@pytest.mark.parametrize(
    ("kind", "accepted"),
    [
        ("accept", True),
        ("accepted", True),
        ("reject", False),
        ("rejected", False),
        ("order.accept", True),
        ("order.accepted", True),
        ("order.reject", False),
        ("order.rejected", False),
        ("a.b.c.accept", True),
    ],
)
async def test_a_reply_accepts_or_rejects(
    kind: str, accepted: bool, autojump_clock: MockClock
) -> None:
    async with shop(kind) as bus:
        reply = await bus.request("orders", "order.place", "/orders/1", "tea")
        assert reply == Event("orders", kind, "/orders/1", ("reply to", "tea"))
        assert reply.accepted is accepted


@pytest.mark.parametrize(
    "kind", ["acceptable", "accepted.later", "not_accepted", "Accepted", "accept.no", "order"]
)
async def test_an_event_of_another_kind_is_not_a_reply(
    kind: str, autojump_clock: MockClock
) -> None:
    assert not Event("orders", kind, "/x").accepted
    async with shop(kind) as bus:
        with trio.move_on_after(1) as scope:
            await bus.request("orders", "order.place", "/orders/1")
        assert scope.cancelled_caught


async def test_a_request_without_a_reply_times_out_as_trio_says(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        deaf = await bus.subscribe("orders")
        start = trio.current_time()
        async with tidy(bus):
            with pytest.raises(trio.TooSlowError):
                with trio.fail_after(5):
                    await bus.request("orders", "order.place", "/orders/1")
        assert trio.current_time() - start == 5
        assert drain(deaf.channel()) == ["/orders/1"]


async def test_concurrent_requests_each_get_the_reply_at_their_path(
    autojump_clock: MockClock,
) -> None:
    replies: dict[str, Event] = {}

    async def request(bus: EventBus, path: str) -> None:
        replies[path] = await bus.request("orders", "order.place", path, f"data of {path}")

    async with open_event_bus() as bus:
        subscription = await bus.subscribe("orders", "order.place")
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(request, bus, f"/orders/{number}")
            await wait_all_tasks_blocked()
            assert bus.statistics().open_waiters == 50
            pending = [subscription.channel().receive_nowait() for _ in range(50)]
            for event in reversed(pending):  # not in their order
                await bus.send("orders", "accepted", event.path, event.data)
        assert sorted(replies) == sorted(f"/orders/{number}" for number in range(50))
        assert all(reply.path == path for path, reply in replies.items())
        assert all(reply.data == f"data of {path}" for path, reply in replies.items())
        assert bus.statistics().open_waiters == 0


async def test_requests_that_wait_for_one_path_get_the_same_reply(
    autojump_clock: MockClock,
) -> None:
    replies = []

    async def request(bus: EventBus) -> None:
        replies.append(await bus.request("orders", "order.place", "/orders/1"))

    async with open_event_bus() as bus:
        requests = await bus.subscribe("orders", "order.place")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(request, bus)
            await wait_all_tasks_blocked()
            assert drain(requests.channel()) == ["/orders/1"] * 3
            await bus.send("orders", "order.accepted", "/orders/1")
        assert len(replies) == 3
        assert replies[0] is replies[1] is replies[2]


async def test_a_reply_at_another_path_or_of_another_system_answers_another_request(
    autojump_clock: MockClock,
) -> None:
    replies = []

    async def request(bus: EventBus) -> None:
        replies.append(await bus.request("orders", "order.place", "/orders/1"))

    async with open_event_bus() as bus:
        await bus.subscribe("orders", "order.place")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request, bus)
            await wait_all_tasks_blocked()
            for system, path in (
                ("orders", "/orders/2"),
                ("orders", "/orders/1/"),
                ("orders", "orders/1"),
                ("orders", "/orders/1/lines"),
                ("orders.eu", "/orders/1"),
                ("users", "/orders/1"),
            ):
                await bus.send(system, "order.accepted", path)
            await wait_all_tasks_blocked()
            assert replies == []
            await bus.send("orders", "order.accepted", "/orders/1")
        assert paths(replies) == ["/orders/1"]


async def test_what_is_prepared_first_and_sent_later_misses_no_reply(
    autojump_clock: MockClock,
) -> None:
    async with shop() as bus, bus.expect("orders", "**.accepted", path="/orders/1") as waiter:
        await bus.send("orders", "order.place", "/orders/1", "tea")
        await wait_all_tasks_blocked()  # the reply has come long before it is waited for
        assert (await waiter.event()).data == ("reply to", "tea")


async def test_a_reply_that_comes_before_the_requester_has_its_turn_is_not_missed(
    autojump_clock: MockClock,
) -> None:
    """A policy is called while the request is being sent: no reply could be faster."""

    class Replying:
        def allows(self, actor: str, action: Action, system: str) -> bool:
            if action is Action.SEND and actor == "requester":
                bus.send_nowait("orders", "order.accepted", "/orders/1", "fast")
            return True

    async with open_event_bus(policy=Replying()) as bus:
        await bus.subscribe("orders", "order.place")
        reply = await bus.for_actor("requester").request("orders", "order.place", "/orders/1")
        assert reply.data == "fast"


async def test_a_reply_to_an_earlier_request_is_not_taken_for_a_new_one(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        await bus.subscribe("orders", "order.place")
        with trio.move_on_after(1):
            await bus.request("orders", "order.place", "/orders/1")
        bus.send_nowait("orders", "order.accepted", "/orders/1", "late")
        with trio.move_on_after(1) as scope:
            await bus.request("orders", "order.place", "/orders/1")
        assert scope.cancelled_caught


@pytest.mark.parametrize("end", ["reply", "cancelled", "bus closed"])
async def test_the_path_is_released_at_the_end(end: str, autojump_clock: MockClock) -> None:
    async def request(bus: EventBus) -> None:
        try:
            await bus.request("orders", "order.place", "/orders/1")
        except BusClosedError:
            assert end == "bus closed"

    async with open_event_bus() as bus:
        await bus.subscribe("orders", "order.place")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request, bus)
            await wait_all_tasks_blocked()
            assert bus.is_wanted("orders", "order.accepted", "/orders/1")
            assert not bus.is_wanted("orders", "order.accepted", "/orders/2")
            assert not bus.is_wanted("orders", "order.placed", "/orders/1")
            assert bus.statistics().open_waiters == 1
            match end:
                case "reply":
                    await bus.send("orders", "order.accepted", "/orders/1")
                case "cancelled":
                    nursery.cancel_scope.cancel()
                case _:
                    bus.close()
        await wait_all_tasks_blocked()
        assert bus.statistics().open_waiters == 0
        assert not bus.is_wanted("orders", "order.accepted", "/orders/1")
        assert not bus._router.core.requests.waiting


# ------------------------------------------------------------------------------------ cancellation


@pytest.mark.parametrize("every", [1, 32])
async def test_a_request_cancelled_at_any_checkpoint_leaves_no_waiter(
    every: int, autojump_clock: MockClock
) -> None:
    async with open_event_bus(checkpoint_every=every) as bus:
        requests = await bus.subscribe("orders", "order.place")

        async def scene(cancellation: Cancellation[Event]) -> None:
            async def reply() -> None:
                await wait_all_tasks_blocked()
                for path in drain(requests.channel()):
                    await bus.send("orders", "order.accepted", path)

            async with tidy(bus), trio.open_nursery() as nursery:
                nursery.start_soon(reply)
                await cancellation.run(partial(bus.request, "orders", "order.place", "/orders/1"))
            assert cancellation.cancelled is (cancellation.result is None)

        assert await at_every_checkpoint(scene) >= 1


async def test_a_request_cancelled_while_it_waits_to_be_sent_was_not_sent(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        requests = await bus.subscribe("orders", "order.place", max_buffer_size=1)
        await bus.send("orders", "order.place", "/orders/0")
        async with tidy(bus):
            with trio.move_on_after(1) as scope:
                await bus.request("orders", "order.place", "/orders/1")
            assert scope.cancelled_caught
        assert drain(requests.channel()) == ["/orders/0"]
        assert bus.statistics().accepted == 1


async def test_a_reply_in_the_same_instant_as_the_cancellation_leaves_no_waiter(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        await bus.subscribe("orders", "order.place")
        for turns in range(6):
            async with tidy(bus), trio.open_nursery() as nursery:
                nursery.start_soon(bus.request, "orders", "order.place", "/orders/1")
                await wait_all_tasks_blocked()
                bus.send_nowait("orders", "order.accepted", "/orders/1")
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------------------- nobody is there


async def assert_nobody(bus: EventBus, path: str = "/orders/1") -> None:
    accepted = bus.statistics().accepted
    with pytest.raises(NoSubscribersError) as caught:
        await bus.request("orders", "order.place", path)
    error = caught.value
    assert error.kind is ErrorKind.UNAVAILABLE
    assert error.retryable
    assert error.details == {"system": "orders", "kind": "order.place", "path": path}
    for text in ("'orders'", "'order.place'", repr(path)):
        assert text in str(error)
    assert bus.statistics().accepted == accepted
    assert bus.statistics().open_waiters == 0


async def test_a_request_that_no_subscription_matches_fails_at_once(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        await bus.subscribe("orders", "order.cancel")
        await bus.subscribe("users")
        async with tidy(bus):
            start = trio.current_time()
            for _ in range(2):  # and it's persistent
                await assert_nobody(bus)
            assert trio.current_time() == start
        assert bus.statistics().routes_remembered == 0


@pytest.mark.parametrize("path", ["/orders/2", "/orders", "/orders/*/*", "/users/**"])
async def test_a_subscription_to_other_paths_is_not_a_subscriber(
    path: str, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        await bus.subscribe("orders", path=path)
        await assert_nobody(bus)
        await wait_all_tasks_blocked()
        await assert_nobody(bus)


@pytest.mark.parametrize("path", [None, "/orders/1", "/orders/*", "/**"])
@pytest.mark.parametrize("registered", [False, True])
async def test_right_after_the_only_subscriber_has_closed_there_is_none(
    path: str | None, registered: bool, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        for end in (Subscription.close, lambda s: s.channel().close()):
            subscription = await bus.subscribe("orders", path=path)
            if registered:
                await wait_all_tasks_blocked()
            end(subscription)
            await assert_nobody(bus)
            await wait_all_tasks_blocked()
            await assert_nobody(bus)


@pytest.mark.parametrize("path", [None, "/orders/1", "/orders/*", "/**"])
async def test_a_task_that_subscribes_in_the_same_instant_gets_the_request(
    path: str | None, autojump_clock: MockClock
) -> None:
    """In any order: if the subscription is in force, the request finds it."""
    for _ in range(10):  # trio shuffles who runs first
        log: list[str] = []

        async with open_event_bus() as bus:

            async def subscribe(bus: EventBus = bus, log: list[str] = log) -> None:
                await bus.subscribe("orders", path=path)
                log.append("subscribed")

            async def request(bus: EventBus = bus, log: list[str] = log) -> None:
                with trio.move_on_after(1):
                    try:
                        await bus.request("orders", "order.place", "/orders/1")
                    except NoSubscribersError:
                        log.append("nobody")
                        return
                log.append("sent")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(subscribe)
                nursery.start_soon(request)
            assert log in (["subscribed", "sent"], ["nobody", "subscribed"])


@pytest.mark.parametrize("path", [None, "/orders/1", "/orders/*"])
async def test_a_subscription_that_the_router_has_not_seen_yet_counts(
    path: str | None, autojump_clock: MockClock
) -> None:
    async with open_event_bus(checkpoint_every=1000) as bus:
        subscription = await bus.subscribe("orders", "order.*", path=path)
        assert bus.is_wanted("orders", "order.place", "/orders/1")
        assert not bus.is_wanted("users", "order.place", "/orders/1")
        assert not bus.is_wanted("orders", "order", "/orders/1")
        assert bus.is_wanted("orders", "order.x", "/users/1") is (path is None)
        subscription.close()
        assert not bus.is_wanted("orders", "order.place", "/orders/1")


async def test_a_subscription_that_has_ended_by_overflow_is_not_a_subscriber(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        await bus.subscribe("orders", max_buffer_size=1, overflow=Overflow.CLOSE)
        bus.send_nowait("orders", "order.place", "/1")
        bus.send_nowait("orders", "order.place", "/2")
        await wait_all_tasks_blocked()
        await assert_nobody(bus)


async def test_a_task_that_waits_for_the_request_gets_it(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:

        async def serve_once() -> None:
            request = await bus.wait_for("orders", "order.place")
            await bus.send("orders", "accepted", request.path)

        nursery.start_soon(serve_once)
        await wait_all_tasks_blocked()
        assert (await bus.request("orders", "order.place", "/orders/1")).accepted
        await assert_nobody(bus)


# -------------------------------------------------------------------------------- kinds of a reply


async def test_the_kind_of_replies_can_be_said(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        requests = await bus.subscribe("orders", "order.place")

        async def reply() -> None:
            request = await requests.channel().receive()
            for kind in ("order.accepted", "order.done", "done", "order.done.twice"):
                await bus.send("orders", kind, request.path, kind)

        for reply_kind, expected in (
            ("order.done", "order.done"),
            ("done", "done"),
            ("order.*.*", "order.done.twice"),
            ("(done|rejected)", "done"),
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reply)
                answer = await bus.request(
                    "orders", "order.place", "/orders/1", reply_kind=reply_kind
                )
            assert answer.kind == expected


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("order.place", {"reply_kind": "**"}),
        ("order.place", {"reply_kind": "order.*"}),
        ("order.accept", {}),
    ],
)
async def test_a_request_is_not_its_own_reply(
    kind: str, options: dict[str, str], autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        requests = await bus.subscribe("orders", kind)

        async def reply() -> None:
            request = await requests.channel().receive()
            await bus.send("orders", "order.rejected", request.path)

        nursery.start_soon(reply)
        with trio.fail_after(5):
            answer = await bus.request("orders", kind, "/orders/1", **options)
        assert answer.kind == "order.rejected"


# --------------------------------------------------------------------------------- exact paths only


@pytest.mark.parametrize(
    "path", ["*", "**", "/**", "/orders/*", "(a|b)", "/(1|2)", "(", ")(", "a*", "|", "/a//*/"]
)
async def test_a_path_that_looks_like_a_pattern_is_taken_literally(
    path: str, autojump_clock: MockClock
) -> None:
    replies = []

    async def request(bus: EventBus) -> None:
        replies.append(await bus.request("orders", "order.place", path))

    async with open_event_bus() as bus:
        requests = await bus.subscribe("orders", "order.place")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request, bus)
            await wait_all_tasks_blocked()
            assert drain(requests.channel()) == [path]
            for other in ("/orders/1", "/orders", "a", "b", "/1", "/2", "/a//x/", "/"):
                await bus.send("orders", "order.accepted", other)
            await wait_all_tasks_blocked()
            assert replies == []
            await bus.send("orders", "order.accepted", path)
        assert paths(replies) == [path]


# ------------------------------------------------------------------------------------ backpressure


async def test_requests_wait_for_room_and_then_for_the_reply(autojump_clock: MockClock) -> None:
    replies: list[str] = []

    async def request(bus: EventBus, path: str) -> None:
        replies.append((await bus.request("orders", "order.place", path)).path)

    async with open_event_bus() as bus:
        requests = await bus.subscribe("orders", "order.place", max_buffer_size=2)
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(request, bus, f"/{number}")
                await wait_all_tasks_blocked()
            assert_books(requests, queued=2, tasks_waiting_send=4)
            assert bus.statistics().open_waiters == 6
            for _ in range(6):
                event = await requests.channel().receive()
                await bus.send("orders", "order.rejected", event.path)
        assert sorted(replies) == [f"/{number}" for number in range(6)]
        assert bus.statistics().open_waiters == 0


async def test_a_request_for_room_that_only_the_requester_could_make_is_refused(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        requests = await bus.subscribe("orders", "order.place", max_buffer_size=1)
        for path in ("/1", "/2"):
            await bus.send("orders", "order.place", path)
            if path == "/1":
                await requests.channel().receive()
        await wait_all_tasks_blocked()
        async with tidy(bus):
            with pytest.raises(DeadlockError):
                await bus.request("orders", "order.place", "/3")


async def test_a_requester_never_makes_those_who_reply_wait(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.subscribe("orders", "order.place", max_buffer_size=1)
        await bus.send("orders", "order.place", "/0")
        nursery.start_soon(bus.request, "orders", "order.place", "/1")  # waits to be sent
        await wait_all_tasks_blocked()
        with trio.fail_after(1):
            for _ in range(1_000):
                await bus.send("orders", "order.accepted", "/1")
        assert bus.statistics().tasks_waiting_send == 1
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------- closed, or refused


@pytest.mark.parametrize("sent", [True, False])
async def test_closing_the_bus_ends_the_request_with_an_error(
    sent: bool, autojump_clock: MockClock
) -> None:
    async def request(bus: EventBus) -> None:
        with pytest.raises(BusClosedError):
            await bus.request("orders", "order.place", "/1")

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.subscribe("orders", "order.place", max_buffer_size=1)
        if not sent:
            await bus.send("orders", "order.place", "/0")
        nursery.start_soon(request, bus)
        await wait_all_tasks_blocked()
        assert bus.statistics().tasks_waiting_send == (0 if sent else 1)
        bus.close()


async def test_the_reply_that_was_accepted_before_the_bus_was_closed_still_comes(
    autojump_clock: MockClock,
) -> None:
    replies = []

    async def request(bus: EventBus) -> None:
        replies.append(await bus.request("orders", "order.place", "/1"))

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.subscribe("orders", "order.place")
        nursery.start_soon(request, bus)
        await wait_all_tasks_blocked()
        bus.send_nowait("orders", "order.accepted", "/1")
        bus.close()
        await wait_all_tasks_blocked()
        assert paths(replies) == ["/1"]


async def test_a_closed_bus_says_that_it_is_closed_not_that_it_has_no_subscribers(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        await bus.subscribe("orders")
        bus.close()
        for _ in range(2):  # and it's persistent
            with pytest.raises(BusClosedError):
                await bus.request("orders", "order.place", "/1")


@pytest.mark.parametrize("refused", Action)
async def test_a_request_needs_the_permission_to_send_and_that_to_subscribe(
    refused: Action, autojump_clock: MockClock
) -> None:
    """Of a reader who may do both, and a stranger who may do only one of them."""
    policy = RulePolicy(
        [Allow(action, "**", actor="reader") for action in Action]
        + [Allow(action, "**", actor="stranger") for action in Action if action is not refused]
    )
    async with open_event_bus(policy=policy) as bus:
        witness = await bus.for_actor("reader").subscribe("a")
        async with tidy(bus):
            with pytest.raises(PolicyDeniedError) as caught:
                await bus.for_actor("stranger").request("a", "k", "/1")
            assert caught.value.details["action"] is refused
            assert caught.value.details["system"] == "a"
        assert_books(witness)


@pytest.mark.parametrize("refused", Action)
async def test_an_actor_that_may_not_ask_does_not_learn_whether_there_are_subscribers(
    refused: Action, autojump_clock: MockClock
) -> None:
    policy = RulePolicy([Allow(action, "**") for action in Action if action is not refused])
    async with open_event_bus(policy=policy) as bus:
        with pytest.raises(PolicyDeniedError):
            await bus.request("a", "k", "/1")


@pytest.mark.parametrize(
    ("arguments", "reply_kind", "error"),
    [
        (("", "k", "/x"), "r", InvalidEventError),
        (("a.*", "k", "/x"), "r", InvalidEventError),
        (("(a|b)", "k", "/x"), "r", InvalidEventError),
        (("$a", "k", "/x"), "r", InvalidEventError),
        (("a", "", "/x"), "r", InvalidEventError),
        (("a", "k..l", "/x"), "r", InvalidEventError),
        (("a", "k", ""), "r", InvalidEventError),
        (("a", "k", "/x"), "", InvalidPatternError),
        (("a", "k", "/x"), "r*", InvalidPatternError),
        ((1, "k", "/x"), "r", TypeError),
        (("a", None, "/x"), "r", TypeError),
        (("a", "k", 1), "r", TypeError),
        (("a", "k", "/x"), 1, TypeError),
        (("a", "k", "/x"), None, TypeError),
    ],
)
async def test_bad_input_is_refused_before_anything_happened(
    arguments: tuple[str, str, str],
    reply_kind: str,
    error: type[Exception],
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        witness = await bus.subscribe("**")
        await wait_all_tasks_blocked()
        before = bus.statistics()
        with pytest.raises(error), assert_no_checkpoints():
            await bus.request(*arguments, reply_kind=reply_kind)
        assert bus.statistics() == before
        assert_books(witness)


async def test_the_ambient_form_uses_the_bus_around_the_caller(autojump_clock: MockClock) -> None:
    async with shop():
        reply = await events.request("orders", "order.place", "/orders/1", "tea")
        assert reply.data == ("reply to", "tea")
        with trio.move_on_after(1) as scope:
            await events.request("orders", "order.place", "/orders/1", reply_kind="done")
        assert scope.cancelled_caught


async def test_without_a_bus_the_ambient_form_says_so() -> None:
    with pytest.raises(NoBusError):
        await events.request("orders", "order.place", "/orders/1")


def test_the_replies_of_the_original_are_the_default() -> None:
    default = inspect.signature(EventBus.request).parameters["reply_kind"].default
    assert default == "**.(accept|accepted|reject|rejected|failed)"


def test_having_no_subscriber_is_an_error_of_the_bus() -> None:
    assert issubclass(NoSubscribersError, EventBusError)


# ------------------------------------------------------------------------------------ ten thousand


async def test_ten_thousand_requests_at_once_need_no_route_and_all_get_their_replies(
    autojump_clock: MockClock,
) -> None:
    replies: list[str] = []

    async def request(bus: EventBus, path: str) -> None:
        replies.append((await bus.request("orders", "order.place", path)).path)

    async with open_event_bus() as bus:
        requests = await bus.subscribe("orders", "order.place", max_buffer_size=20_000)
        async with trio.open_nursery() as nursery:
            for number in range(10_000):
                nursery.start_soon(request, bus, f"/{number}")
            await wait_all_tasks_blocked()
            assert bus.statistics().open_waiters == 10_000
            assert len(bus._router.table) == 1  # the subscription
            for path in drain(requests.channel()):
                await bus.send("orders", "order.accepted", path)
        assert len(set(replies)) == 10_000
        await wait_all_tasks_blocked()
        assert bus.statistics().open_waiters == 0
        assert len(bus._router.table) == 1


@pytest.mark.parametrize("shared", [False, True], ids=["a path each", "one path"])
async def test_a_request_costs_the_same_while_10_others_are_pending_and_1000(
    shared: bool, autojump_clock: MockClock
) -> None:
    async def costs(number: int) -> list[int]:
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            requests = await bus.subscribe("orders", "order.place", max_buffer_size=20_000)
            path = "/all" if shared else "/%s"

            async def ask(which: object) -> None:
                nursery.start_soon(
                    bus.request, "orders", "order.place", path.replace("%s", str(which))
                )
                await wait_all_tasks_blocked()

            def route() -> None:
                bus._router.route_inbox()

            for n in range(number):
                nursery.start_soon(bus.request, "orders", "order.place", path.replace("%s", str(n)))
            await ask("last")
            *_, last = [requests.receive_nowait() for _ in range(number + 1)]
            bus.send_nowait("orders", "order.accepted", "/nobody")  # so that its route is known
            bus.send_nowait("orders", "order.placed", last.path)
            route()
            bus.send_nowait("orders", "order.placed", last.path)
            cost = [count_lines(route, at_most=1_000)]
            await bus.reply(last)
            cost.append(count_lines(route, at_most=1_000))
            await wait_all_tasks_blocked()
            assert bus.statistics().open_waiters == number
            nursery.cancel_scope.cancel()
        return cost

    for many, few in zip(await costs(1_000), await costs(10), strict=True):
        assert many <= few + 10
