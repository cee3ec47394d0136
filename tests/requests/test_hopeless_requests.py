"""Requests that wait: when they are logged, when they fail, when they wait for themselves."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    CloseSubscription,
    DeadlockError,
    ErrorKind,
    Event,
    EventBus,
    Log,
    Overflow,
    Pattern,
    Reject,
    RequestFailedError,
    Retry,
    Subscription,
    open_event_bus,
)

Warnings = Callable[[], list[str]]


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Warnings:
    """What was logged about requests since the last call."""

    def messages() -> list[str]:
        found = [r.getMessage() for r in caplog.records if "no reply for" in r.getMessage()]
        caplog.clear()
        return found

    return messages


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "trio_events")


async def wait_forever(event: Event) -> None:
    await trio.sleep_forever()


async def fail(event: Event) -> None:
    raise ValueError(event.path)


async def do_nothing(event: Event) -> None:
    pass


class Asking:
    """A handler that asks somebody else, and notes what becomes of that."""

    def __init__(self, bus: EventBus, system: str, *, times: float = math.inf) -> None:
        self.bus = bus
        self.system = system
        self.times = times
        self.errors: list[Exception] = []
        self.replies = 0

    async def __call__(self, event: Event) -> None:
        if self.times:
            self.times -= 1
            try:
                await self.bus.request(self.system, "k", event.path)
            except Exception as error:
                self.errors.append(error)
                raise
            self.replies += 1


# ---------------------------------------------------------------------------------- what is logged


@pytest.mark.parametrize("start", [0, 0.1, 0.3, 5.7])  # some durations are rounded down
async def test_a_request_that_waits_is_logged_after_1_2_4_seconds_and_so_on(
    start: float, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await trio.sleep(start)
    async with open_event_bus(slow_handler_after=math.inf) as bus:
        await bus.on(wait_forever, "a")
        times: list[float] = []
        start = trio.current_time()

        class Noting(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                times.append(trio.current_time() - start)

        noting = Noting()
        logging.getLogger("trio_events").addHandler(noting)
        try:
            with trio.move_on_after(200):
                await bus.request("a", "k", "/1")
        finally:
            logging.getLogger("trio_events").removeHandler(noting)
        assert times == pytest.approx([1, 2, 4, 8, 16, 32, 64, 124, 184])
        bus._nursery.cancel_scope.cancel()


async def test_the_log_says_where_the_request_went_and_what_keeps_it(
    autojump_clock: MockClock, warnings: Warnings
) -> None:
    async with open_event_bus(drain_timeout=0) as bus:
        handled = await bus.serve(wait_forever, "a")
        reader = await bus.subscribe("a")
        await bus.send("a", "k", "/busy")
        with trio.move_on_after(1.5):
            await bus.request("a", "k", "/1")
        [warning] = warnings()
    assert warning.startswith("no reply for 1 s to the request system='a' kind='k' path='/1': ")
    assert (
        f"(subscribed at {handled.origin}): not handled yet, wait_forever is busy with" in warning
    )
    assert "path='/busy'" in warning
    assert f"(subscribed at {reader.origin}): no handler, only its readers can reply" in warning


async def test_the_log_names_some_of_many_calls_and_what_was_handled_without_a_reply(
    autojump_clock: MockClock, warnings: Warnings
) -> None:
    async def handler(event: Event) -> None:
        if event.path != "/1":
            await trio.sleep_forever()

    async with open_event_bus(drain_timeout=0) as bus:
        await bus.on(handler, "a", concurrency=6)
        await bus.on(do_nothing, "a")
        for number in range(2, 7):
            await bus.send("a", "k", f"/{number}")
        with trio.move_on_after(1.5):
            await bus.request("a", "k", "/1")
        with trio.move_on_after(1.5):
            await bus.request("a", "k", "/7")
        first, second = warnings()
    assert "handled without a reply" in first
    assert first.count("path='/") == 4  # that of the request, and of three calls
    assert ", 2 more" in first
    assert "do_nothing is idle" in first
    assert "being handled" in second


async def test_requests_of_one_kind_are_logged_together(
    autojump_clock: MockClock, warnings: Warnings
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.subscribe("a")
        for number in range(10):
            nursery.start_soon(bus.request, "a", "k", f"/{number}")
        nursery.start_soon(bus.request, "a", "l", "/x")
        await trio.sleep(1.5)
        of_k, of_l = sorted(warnings())
        assert "kind='k'" in of_k
        assert "and 9 others" in of_k
        assert "kind='l'" in of_l
        assert "others" not in of_l
        nursery.cancel_scope.cancel()


async def test_requests_are_looked_at_once_a_second_at_most(
    autojump_clock: MockClock, warnings: Warnings
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.subscribe("a")
        for number in range(20):
            nursery.start_soon(bus.request, "a", f"k{number}", "/x")
            await trio.sleep(0.1)
        await trio.sleep(10)
        assert len(warnings()) == 20 * 4  # each was logged four times, and none was left out
        nursery.cancel_scope.cancel()


async def test_a_request_that_waits_to_be_sent_is_logged_as_a_sender(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus() as bus:
        await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/0")
        with trio.move_on_after(1.5):
            await bus.request("a", "k", "/1")
    [record] = caplog.records
    assert "senders waiting for room: 1" in record.getMessage()


async def test_a_reply_in_time_is_not_logged_and_the_watch_rests(
    autojump_clock: MockClock, warnings: Warnings
) -> None:
    async with open_event_bus() as bus:
        await bus.serve(do_nothing, "a")
        for number in range(3):
            await bus.request("a", "k", f"/{number}")
            await trio.sleep(10)
        assert warnings() == []


async def test_a_request_that_is_not_routed_yet_is_described_as_that() -> None:
    async with open_event_bus() as bus:
        requests = bus._router.core.requests
        event = Event("a", "k", "/1")
        pending = requests.begin(event, Pattern.parse("accepted"), "accepted")
        assert "not been routed yet" in pending.whereabouts()
        assert pending.enders() == ()
        requests.end(pending)
        assert pending.whereabouts()


# ------------------------------------------------------------------------ nothing is left to answer


async def assert_abandoned(bus: EventBus, after: float = 1) -> None:
    start = trio.current_time()
    with pytest.raises(RequestFailedError, match="can't be answered any more") as caught:
        await bus.request("a", "k", "/1")
    assert trio.current_time() - start == after
    assert caught.value.details == {"system": "a", "kind": "k", "path": "/1"}
    await wait_all_tasks_blocked()
    assert bus.statistics().open_waiters == 0


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("on_error", [Log(), CloseSubscription(), Retry(2, then=Log())], ids=repr)
async def test_a_handler_that_fails_fails_the_request_at_the_look(
    on_error: Log, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        await bus.on(fail, "a", on_error=on_error)
        await bus.on(fail, "a", on_error=Log())
        await assert_abandoned(bus)


@pytest.mark.usefixtures("quiet")
async def test_a_failure_later_than_the_first_look_counts_at_the_next(
    autojump_clock: MockClock,
) -> None:
    async def fail_later(event: Event) -> None:
        await trio.sleep(2.5)
        raise ValueError

    async with open_event_bus() as bus:
        await bus.on(fail_later, "a", on_error=Log())
        await assert_abandoned(bus, after=4)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("overflow", [Overflow.BLOCK, Overflow.DROP_OLDEST])
async def test_a_request_that_no_handler_will_get_fails_at_the_look(
    overflow: Overflow, autojump_clock: MockClock
) -> None:
    async def leave() -> None:
        await wait_all_tasks_blocked()
        if overflow is Overflow.BLOCK:
            subscription.channel().close()
        else:
            await bus.send("a", "k", "/2")

    async with open_event_bus(drain_timeout=0) as bus, trio.open_nursery() as nursery:
        subscription = await bus.on(wait_forever, "a", max_buffer_size=1, overflow=overflow)
        await bus.send("a", "k", "/0")
        await wait_all_tasks_blocked()
        nursery.start_soon(leave)
        await assert_abandoned(bus)


@pytest.mark.usefixtures("quiet")
async def test_a_reader_that_closes_its_channel_unread_fails_the_request(
    autojump_clock: MockClock,
) -> None:
    async def leave(subscription: Subscription) -> None:
        await wait_all_tasks_blocked()
        subscription.channel().close()

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        nursery.start_soon(leave, await bus.subscribe("a"))
        await assert_abandoned(bus)


@pytest.mark.usefixtures("quiet")
async def test_whom_a_request_missed_while_it_waited_for_room_does_not_count(
    autojump_clock: MockClock,
) -> None:
    """The only subscription is closed while the request waits for it: it is sent to nobody."""

    async def close() -> None:
        await wait_all_tasks_blocked()
        full.close()

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        full = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/0")
        nursery.start_soon(close)
        await assert_abandoned(bus)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("handler", [do_nothing, None], ids=["handler", "reader"])
async def test_what_got_a_request_and_was_done_with_it_may_have_passed_it_on(
    handler: Any, autojump_clock: MockClock
) -> None:
    async def answer_late(request: Event | None) -> None:
        await trio.sleep(100)
        if request is None:
            await bus.send("a", "accepted", "/1")
        else:
            await bus.reply(request)

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        if handler is None:
            subscription = await bus.subscribe("a", "k")

            async def read() -> None:
                request = await subscription.receive()
                subscription.channel().close()
                await answer_late(request)

            nursery.start_soon(read)
        else:
            await bus.on(handler, "a", "k")
            nursery.start_soon(answer_late, None)
        assert (await bus.request("a", "k", "/1")).accepted


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("time_limit", [math.inf, 60])
async def test_a_task_that_a_handler_passes_a_request_to_is_not_known_until_it_returns(
    time_limit: float, autojump_clock: MockClock
) -> None:
    async def reply_late(request: Event) -> None:
        await trio.sleep(3)
        await bus.reply(request, "late")

    async def handler(request: Event) -> None:
        nursery.start_soon(reply_late, request)
        with trio.fail_after(time_limit):
            await bus.request("questions", "k", "/1")

    async with trio.open_nursery() as nursery, open_event_bus() as bus:
        questions = await bus.subscribe("questions")
        with pytest.raises(trio.WouldBlock):
            questions.receive_nowait()  # the requester is their only reader
        await bus.on(handler, "a", "k", on_error=Log())
        if time_limit == math.inf:
            with pytest.raises(DeadlockError):
                await bus.request("a", "k", "/1")
            assert trio.current_time() == 1
            await trio.sleep(5)  # the other task may reply all the same
        else:
            assert (await bus.request("a", "k", "/1")).data == "late"
            assert trio.current_time() == 3
        await bus.reply(await questions.receive())


@pytest.mark.usefixtures("quiet")
async def test_one_that_could_still_answer_is_enough(autojump_clock: MockClock) -> None:
    async def answer(event: Event) -> None:
        await trio.sleep(10)
        raise Reject

    async with open_event_bus() as bus:
        await bus.on(fail, "a", "k", on_error=Log())
        await bus.serve(answer, "a", "k")
        assert not (await bus.request("a", "k", "/1")).accepted


@pytest.mark.usefixtures("quiet")
async def test_a_reply_by_hand_before_the_look_counts(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.on(fail, "a", "k", on_error=Log())

        async def answer() -> None:
            await trio.sleep(0.9)
            await bus.send("a", "accepted", "/1")

        nursery.start_soon(answer)
        assert (await bus.request("a", "k", "/1")).accepted


# ------------------------------------------------------------------------------ waiting for oneself


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("ordered", [False, True])
async def test_a_handler_that_requests_from_itself_gets_a_deadlock_error(
    concurrency: int, ordered: bool, autojump_clock: MockClock
) -> None:
    async with open_event_bus(drain_timeout=0) as bus:
        handler = Asking(bus, "a")
        await bus.on(handler, "a", "k", concurrency=concurrency, ordered=ordered, on_error=Log())
        start = trio.current_time()
        await bus.send("a", "k", "/1")
        await trio.sleep(1.5)
        assert trio.current_time() - start == 1.5
        error = handler.errors[0]
        assert isinstance(error, DeadlockError)
        assert error.kind is ErrorKind.CONFLICT
        assert error.details == {"system": "a", "kind": "k"}
        assert "would wait forever" in str(error)
        assert "path='/1'" in str(error)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("length", [2, 3, 7])
async def test_a_ring_of_handlers_that_wait_for_each_other_gets_a_deadlock_error(
    length: int, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        ring = [Asking(bus, f"s{(n + 1) % length}", times=1) for n in range(length)]
        for number, handler in enumerate(ring):
            await bus.serve(handler, f"s{number}", "k")
        start = trio.current_time()
        with pytest.raises(RequestFailedError):
            await bus.request("s0", "k", "/1")
        assert trio.current_time() - start == 1
        await wait_all_tasks_blocked()
        [error] = [error for handler in ring for error in handler.errors]
        assert isinstance(error, DeadlockError)  # the others could go on then
        assert sum(handler.replies for handler in ring) == length - 1


@pytest.mark.usefixtures("quiet")
async def test_a_ring_over_a_full_subscription_gets_a_deadlock_error(
    autojump_clock: MockClock,
) -> None:
    """One asks the other, which waits for room in what only the first one reads."""

    async def feed(event: Event) -> None:
        await bus.send("results", "k", "/2")

    async def main() -> None:
        async with await bus.subscribe("results", max_buffer_size=1) as results:
            for path in ("/0", "/1"):
                await bus.send("results", "k", path)
                await wait_all_tasks_blocked()
                if path == "/0":
                    results.receive_nowait()
            await bus.request("work", "k", "/1")

    async with open_event_bus() as bus:
        await bus.serve(feed, "work", "k")
        start = trio.current_time()
        with pytest.raises((DeadlockError, RequestFailedError)):
            await main()
        assert trio.current_time() - start <= 2


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("length", [1, 2, 3])
async def test_a_ring_of_consumers_that_wait_for_each_other_gets_a_deadlock_error(
    length: int, autojump_clock: MockClock
) -> None:
    errors: list[Exception] = []
    replies = 0

    async def consume(number: int, requests: Subscription) -> None:
        nonlocal replies
        async for request in requests:
            if request.path == "/ask" or not errors:
                try:
                    await bus.request(f"s{(number + 1) % length}", "k", "/1")
                    replies += 1
                except DeadlockError as error:
                    errors.append(error)
            if request.path != "/ask":
                await bus.reply(request)

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        for number in range(length):
            requests = await bus.subscribe(f"s{number}", "k")
            nursery.start_soon(consume, number, requests)
        await bus.send("s0", "k", "/ask")
        await trio.sleep(5)
        assert len(errors) == 1
        assert replies == length - 1
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("quiet")
async def test_a_callback_that_reads_means_no_deadlock_error(autojump_clock: MockClock) -> None:
    """It is no task, and could take up the request at any time."""
    async with open_event_bus(drain_timeout=0) as bus:
        asking = Asking(bus, "a", times=1)
        await bus.on(asking, "a", "k", on_error=Log())
        requests = await bus.subscribe("a", "k")
        token = trio.lowlevel.current_trio_token()

        def read() -> None:
            with pytest.raises(trio.WouldBlock):
                requests.receive_nowait()

        token.run_sync_soon(read)
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/1")
        await trio.sleep(20)
        assert asking.errors == []


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("deadline", [5, 10_000])
async def test_a_deadline_that_is_near_means_no_deadlock_error(
    deadline: float, autojump_clock: MockClock
) -> None:
    async with open_event_bus(drain_timeout=0) as bus:
        asking = Asking(bus, "a")
        timed_out = 0

        async def handler(event: Event) -> None:
            nonlocal timed_out
            with trio.move_on_after(deadline) as scope:
                await asking(event)
            timed_out += scope.cancelled_caught

        await bus.on(handler, "a", "k", on_error=Log())
        await bus.send("a", "k", "/1")
        await trio.sleep(7)
        assert timed_out == (deadline == 5)
        assert bool(asking.errors) is (deadline == 10_000)


@pytest.mark.usefixtures("quiet")
async def test_a_task_that_does_something_else_means_no_deadlock_error(
    autojump_clock: MockClock,
) -> None:
    """The second call is asleep, and then takes up what the first one asks for."""

    async def handler(event: Event) -> None:
        if event.path == "/slow":
            await trio.sleep(30)
        elif event.path == "/ask":
            await bus.request("a", "k", "/answer")

    async with open_event_bus() as bus:
        await bus.serve(handler, "a", "k", concurrency=2)
        await bus.send("a", "k", "/slow")
        await wait_all_tasks_blocked()
        assert (await bus.request("a", "k", "/ask")).accepted


@pytest.mark.usefixtures("quiet")
async def test_a_handler_that_pauses_before_it_tries_again_means_no_deadlock_error(
    autojump_clock: MockClock,
) -> None:
    calls = 0

    async def handler(event: Event) -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ValueError

    async with open_event_bus() as bus:
        await bus.serve(handler, "a", "k", on_error=Retry(3, backoff=20, jitter=0))
        assert (await bus.request("a", "k", "/1")).accepted


@pytest.mark.usefixtures("quiet")
async def test_a_reader_means_no_deadlock_error(autojump_clock: MockClock) -> None:
    async with open_event_bus(drain_timeout=0) as bus:
        asking = Asking(bus, "a", times=1)
        await bus.on(asking, "a", "k", on_error=Log())
        requests = await bus.subscribe("a", "k")
        await bus.send("a", "k", "/1")
        await trio.sleep(20)
        assert asking.errors == []
        requests.receive_nowait()
        await bus.reply(requests.receive_nowait())
        await wait_all_tasks_blocked()
        assert asking.replies == 1


@pytest.mark.usefixtures("quiet")
async def test_a_look_that_is_too_early_is_repeated_after_a_second(
    autojump_clock: MockClock,
) -> None:
    """A sender that waits was looked at half a second before the request is."""
    async with open_event_bus(drain_timeout=0) as bus, trio.open_nursery() as nursery:
        await bus.subscribe("full", max_buffer_size=1)
        await bus.send("full", "k", "/0")
        nursery.start_soon(bus.send, "full", "k", "/1")
        await trio.sleep(0.5)
        handler = Asking(bus, "a", times=1)
        await bus.on(handler, "a", "k", on_error=Log())
        start = trio.current_time()
        await bus.send("a", "k", "/1")
        await trio.sleep(3)
        [error] = handler.errors
        assert isinstance(error, DeadlockError)
        assert trio.current_time() - start == 3
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------------ at any moment


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("start", [0.1, 1 / 3, 1e6 + 0.1, 1e9 + 0.7, 1e15])
def test_virtual_time_goes_on_from_any_start_while_a_request_waits(start: float) -> None:
    async def main() -> None:
        async with open_event_bus() as bus:
            await bus.subscribe("a")
            with trio.move_on_after(200) as scope:
                await bus.request("a", "k", "/1")
            assert scope.cancelled_caught

    clock = MockClock(autojump_threshold=0)
    clock.jump(start)
    trio.run(main, clock=clock)


@pytest.mark.usefixtures("quiet")
async def test_a_reply_in_the_very_moment_of_the_look_counts(autojump_clock: MockClock) -> None:
    """The request has its reply, and nothing is left that could answer it."""
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.on(fail, "a", "k", on_error=Log())
        got: list[Event] = []

        async def ask() -> None:
            got.append(await bus.request("a", "k", "/1"))

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        bus.send_nowait("a", "accepted", "/1")
        bus._router.route_inbox()
        [pending] = bus._router.core.requests._pending
        assert pending.holders == {}
        bus._router.core.requests._fail_abandoned(trio.current_time() + 1)
        await wait_all_tasks_blocked()
        assert [event.kind for event in got] == ["accepted"]


async def test_a_reply_that_comes_while_the_request_waits_to_be_sent_counts(
    autojump_clock: MockClock,
) -> None:
    got: list[Event] = []

    async def ask() -> None:
        got.append(await bus.request("a", "k", "/1"))

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        full = await bus.subscribe("a", "k", max_buffer_size=1)
        await bus.send("a", "k", "/0")
        await wait_all_tasks_blocked()
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await bus.send("a", "accepted", "/1")
        await wait_all_tasks_blocked()
        assert got == []  # it is still to be sent
        full.receive_nowait()
        await wait_all_tasks_blocked()
        assert [event.kind for event in got] == ["accepted"]
        assert full.receive_nowait().path == "/1"
