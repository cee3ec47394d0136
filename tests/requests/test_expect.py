"""Expecting events: in force before the block is entered, and gone when it is left."""

from __future__ import annotations

import inspect
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import (
    MockClock,
    Sequencer,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

import trio_events as events
from trio_events import (
    Action,
    Allow,
    BusClosedError,
    Event,
    EventBus,
    EventWaiter,
    InvalidPatternError,
    NoBusError,
    PolicyDeniedError,
    RulePolicy,
    SubscriptionLimitError,
    SubscriptionOverflowError,
    open_event_bus,
)

from ..observing import (
    Cancellation,
    assert_books,
    at_every_checkpoint,
    counted_turns,
    paths,
    tidy,
)


async def collect(waiter: EventWaiter, found: list[str]) -> None:
    async for event in waiter.events():
        found.append(event.path)


# ------------------------------------------------------------------------------- what is expected


async def test_an_event_that_is_sent_first_in_the_block_is_not_missed(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, bus.expect("a") as waiter:
        bus.send_nowait("a", "k", "/1")
        assert (await waiter.event()).path == "/1"


async def test_an_event_accepted_before_the_block_is_not_expected(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        bus.send_nowait("a", "k", "/before")
        async with bus.expect("a") as waiter:
            bus.send_nowait("a", "k", "/inside")
            assert (await waiter.event()).path == "/inside"


async def test_only_what_matches_system_kind_and_path_is_expected(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, bus.expect("a.*", "(k|l)", path="/x/*") as waiter:
        await bus.send("a", "k", "/x/1")
        await bus.send("a.b", "m", "/x/2")
        await bus.send("a.b", "k", "/y/3")
        await bus.send("a.b", "k", "/x")
        await bus.send("a.b", "l", "/x/4", "data")
        assert await waiter.event() == Event("a.b", "l", "/x/4", "data")


async def test_each_of_many_waiters_for_one_path_gets_the_same_event(
    autojump_clock: MockClock,
) -> None:
    got = []

    async def wait(bus: EventBus) -> None:
        async with bus.expect("a", "k", path="/x") as waiter:
            got.append(await waiter.event())

    async with open_event_bus() as bus:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(wait, bus)
            await wait_all_tasks_blocked()
            assert bus.statistics().open_waiters == 20
            data = object()
            await bus.send("a", "k", "/x", data)
        assert len(got) == 20
        assert all(event is got[0] and event.data is data for event in got)
        assert bus.statistics().open_waiters == 0


async def test_the_event_is_the_same_each_time(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, bus.expect("a") as waiter:
        await bus.send("a", "k", "/1")
        await bus.send("a", "k", "/2")
        first = await waiter.event()
        assert first.path == "/1"
        assert await waiter.event() is first
        await bus.send("a", "k", "/3")
        assert await waiter.event() is first


async def test_several_tasks_wait_for_the_same_event(autojump_clock: MockClock) -> None:
    got = []

    async def wait(waiter: EventWaiter) -> None:
        got.append(await waiter.event())

    async with open_event_bus() as bus, bus.expect("a") as waiter:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(wait, waiter)
            await wait_all_tasks_blocked()
            await bus.send("a", "k", "/1")
            await bus.send("a", "k", "/2")
        assert paths(got) == ["/1"] * 5
        assert len({id(event) for event in got}) == 1


async def test_when_one_of_several_tasks_gives_up_the_others_still_get_the_event(
    autojump_clock: MockClock,
) -> None:
    got = []

    async def wait(waiter: EventWaiter, seconds: float) -> None:
        with trio.move_on_after(seconds):
            got.append(await waiter.event())

    async with open_event_bus() as bus, bus.expect("a") as waiter:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, waiter, 1)  # one of these does the waiting
            nursery.start_soon(wait, waiter, 1)
            await wait_all_tasks_blocked()
            nursery.start_soon(wait, waiter, 10)
            await trio.sleep(2)
            await bus.send("a", "k", "/1")
        assert paths(got) == ["/1"]


async def test_further_events_follow_the_first(autojump_clock: MockClock) -> None:
    found: list[str] = []
    async with open_event_bus() as bus, bus.expect("a") as waiter, trio.open_nursery() as nursery:
        for number in range(3):
            await bus.send("a", "k", f"/{number}")
        assert (await waiter.event()).path == "/0"
        nursery.start_soon(collect, waiter, found)
        await bus.send("a", "k", "/3")
        await wait_all_tasks_blocked()
        assert found == ["/1", "/2", "/3"]
        assert (await waiter.event()).path == "/0"
        nursery.cancel_scope.cancel()


async def test_without_asking_for_the_first_all_of_them_are_iterated_over(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, bus.expect("a") as waiter:
        await bus.send("a", "k", "/0")
        await bus.send("a", "k", "/1")
        bus.close()
        assert paths([event async for event in waiter.events()]) == ["/0", "/1"]


async def test_the_first_event_is_one_that_was_not_iterated_over(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, bus.expect("a") as waiter:
        for number in range(3):
            await bus.send("a", "k", f"/{number}")
        assert (await anext(waiter.events())).path == "/0"
        assert (await waiter.event()).path == "/1"
        assert (await anext(waiter.events())).path == "/2"
        assert (await waiter.event()).path == "/1"


async def test_expecting_is_never_in_the_way_of_a_sender(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, bus.expect("a"), bus.expect("a", path="/x"):
        subscription = await bus.subscribe("a", max_buffer_size=2_000)
        with trio.fail_after(1):
            for _ in range(1_000):
                await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        assert_books(subscription, queued=1_000)
        assert bus.statistics().tasks_waiting_send == 0


async def test_256_events_may_be_unread_and_one_more_ends_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[str] = []
    async with open_event_bus() as bus:
        async with bus.expect("a") as waiter, bus.expect("a") as other:
            for number in range(256):
                await bus.send("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
            assert bus.statistics().open_waiters == 2
            assert not caplog.records
            assert (await other.event()).path == "/0"
            await bus.send("a", "k", "/256")
            await wait_all_tasks_blocked()
            assert bus.statistics().open_waiters == 1
            assert [record.levelno for record in caplog.records] == [logging.WARNING]
            assert (await waiter.event()).path == "/0"
            for _ in range(2):  # and it's persistent
                with pytest.raises(SubscriptionOverflowError):
                    await collect(waiter, found)
            assert found == [f"/{number}" for number in range(1, 256)]
            assert (await waiter.event()).path == "/0"
        assert bus.statistics().open_waiters == 0


async def test_a_warning_about_unread_events_names_the_line_that_expects(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus() as bus:
        frame = inspect.currentframe()
        assert frame is not None
        line = frame.f_lineno + 1
        async with bus.expect("a", "k", path="/x"):
            for _ in range(257):
                await bus.send("a", "k", "/x")
            await wait_all_tasks_blocked()
        [record] = caplog.records
        assert f"{Path(__file__).name}:{line}" in record.getMessage()
        for pattern in ("'a'", "kind='k'", "path='/x'"):
            assert pattern in record.getMessage()


async def test_waiters_do_not_count_as_subscriptions(autojump_clock: MockClock) -> None:
    async with open_event_bus(max_subscriptions=1) as bus:
        async with bus.expect("a"), bus.expect("a", path="/x"), bus.expect("b"):
            subscription = await bus.subscribe("a")
            with pytest.raises(SubscriptionLimitError):
                await bus.subscribe("a")
            async with bus.expect("c"):
                statistics = bus.statistics()
                assert statistics.open_subscriptions == 1
                assert statistics.open_waiters == 4
        assert bus.statistics().open_waiters == 0
        subscription.close()
        assert bus.statistics().open_subscriptions == 0


async def test_an_expected_event_is_not_unmatched(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, bus.expect("a", path="/x"):
        await bus.send("a", "k", "/x")
        await bus.send("a", "k", "/y")
        await wait_all_tasks_blocked()
        assert bus.statistics().accepted == 2
        assert bus.statistics().unmatched == 1


async def test_a_waiter_shows_what_it_waits_for(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, bus.expect("a.*", "k", path="/x/*") as waiter:
        await bus.send("a.b", "k", "/x/1")
        await wait_all_tasks_blocked()
        assert repr(waiter) == (
            "<EventWaiter on <EventChannel of 'a.*' kind='k' path='/x/*' 1/256 buffered>>"
        )


def test_only_a_bus_makes_waiters() -> None:
    with pytest.raises(TypeError):
        EventWaiter(None)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------- turns and cancelling


async def test_entering_is_one_checkpoint_and_leaving_is_none(autojump_clock: MockClock) -> None:
    async with open_event_bus(checkpoint_every=1000) as bus:
        for _ in range(3):
            expected = bus.expect("a")
            with assert_checkpoints(), counted_turns() as turns:
                await expected.__aenter__()
            assert turns.count == 1
            with assert_no_checkpoints():
                await expected.__aexit__(None, None, None)


async def test_the_event_is_a_checkpoint_always(autojump_clock: MockClock) -> None:
    async with open_event_bus(checkpoint_every=1000) as bus, bus.expect("a") as waiter:
        await bus.send("a", "k", "/1")
        for _ in range(3):
            with assert_checkpoints():
                await waiter.event()


async def test_a_cancelled_entry_expects_nothing(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        await bus.subscribe("z")

        async def scene(cancellation: Cancellation[None]) -> None:
            async def expect() -> None:
                async with bus.expect("a", "k", path="/x"):
                    pass

            async with tidy(bus):
                await cancellation.run(expect)

        assert await at_every_checkpoint(scene) == 1


async def test_waiting_cancelled_at_any_checkpoint_loses_no_event(
    autojump_clock: MockClock,
) -> None:
    for sent_before in (False, True):

        async def scene(cancellation: Cancellation[Event], early: bool = sent_before) -> None:
            async with open_event_bus() as bus, bus.expect("a") as waiter:
                async with trio.open_nursery() as nursery:
                    if early:
                        await bus.send("a", "k", "/1")
                    else:
                        nursery.start_soon(send_soon, bus, "/1")
                    await cancellation.run(waiter.event)
                assert (await waiter.event()).path == "/1"

        assert await at_every_checkpoint(scene) >= 1


async def send_soon(bus: EventBus, path: str) -> None:
    await wait_all_tasks_blocked()
    await bus.send("a", "k", path)


@pytest.mark.parametrize("path", [None, "/x", "/*"])
async def test_wait_for_cancelled_at_any_checkpoint_leaves_nothing(
    path: str | None, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        witness = await bus.subscribe("z")

        async def scene(cancellation: Cancellation[Event]) -> None:
            async with tidy(bus), trio.open_nursery() as nursery:
                nursery.start_soon(send_soon, bus, "/x")
                await cancellation.run(partial(bus.wait_for, "a", "k", path=path))
                assert cancellation.cancelled is (cancellation.result is None)

        assert await at_every_checkpoint(scene) >= 2
        assert_books(witness)


@pytest.mark.parametrize("path", [None, "/x", "/*"])
async def test_a_block_that_is_left_early_leaves_nothing(
    path: str | None, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        await bus.subscribe("z")
        async with tidy(bus):
            async with bus.expect("a", "k", path=path):
                pass
            with pytest.raises(KeyError, match="mine"):
                async with bus.expect("a", "k", path=path) as waiter:
                    await bus.send("a", "k", "/x")
                    raise KeyError("mine")
            with trio.move_on_after(1) as scope:
                async with bus.expect("a", "k", path=path) as waiter:
                    await waiter.event()
            assert scope.cancelled_caught
        with pytest.raises(trio.ClosedResourceError):
            await waiter.event()


async def test_what_was_waited_for_is_still_there_after_the_block(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        async with bus.expect("a") as waiter:
            await bus.send("a", "k", "/1")
            await bus.send("a", "k", "/2")
            await waiter.event()
        assert (await waiter.event()).path == "/1"
        with pytest.raises(trio.ClosedResourceError):
            await anext(waiter.events())


async def test_leaving_the_block_ends_the_tasks_that_still_wait(autojump_clock: MockClock) -> None:
    async def wait(waiter: EventWaiter) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await waiter.event()

    async with open_event_bus() as bus:
        expected = bus.expect("a")
        waiter = await expected.__aenter__()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, waiter)
            nursery.start_soon(wait, waiter)
            await wait_all_tasks_blocked()
            await expected.__aexit__(None, None, None)


# -------------------------------------------------------------------------------- the bus is closed


async def test_closing_the_bus_ends_the_wait_with_an_error(autojump_clock: MockClock) -> None:
    seq = Sequencer()

    async def wait(bus: EventBus) -> None:
        async with bus.expect("a") as waiter:
            async with seq(0):
                pass
            for _ in range(2):  # and it's persistent
                with pytest.raises(BusClosedError):
                    await waiter.event()
            assert [event async for event in waiter.events()] == []

    async with open_event_bus() as bus:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, bus)
            async with seq(1):
                await wait_all_tasks_blocked()
                bus.close()
        assert bus.statistics().open_waiters == 0


async def test_what_was_accepted_before_the_bus_was_closed_is_still_found(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, bus.expect("a", path="/1") as waiter:
        bus.send_nowait("a", "k", "/1")
        bus.close()
        assert (await waiter.event()).path == "/1"
        assert [event async for event in waiter.events()] == []


async def test_on_a_closed_bus_nothing_can_be_expected(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        bus.close()
        with pytest.raises(BusClosedError):
            async with bus.expect("a"):
                pytest.fail("it was entered")
        with pytest.raises(BusClosedError):
            await bus.wait_for("a")


async def test_wait_for_ends_with_an_error_when_the_bus_is_closed(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:

        async def close() -> None:
            await wait_all_tasks_blocked()
            bus.close()

        nursery.start_soon(close)
        with pytest.raises(BusClosedError):
            await bus.wait_for("a", "k", path="/x")


# ---------------------------------------------------------------------------------------- wait_for


async def test_wait_for_returns_the_next_event_that_matches(autojump_clock: MockClock) -> None:
    got = []

    async def wait(bus: EventBus) -> None:
        for _ in range(2):
            got.append(await bus.wait_for("a", "k", path="/(x|y)"))

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.send("a", "k", "/x", "too early")
        nursery.start_soon(wait, bus)
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/z")
        await bus.send("b", "k", "/x")
        await bus.send("a", "k", "/y", "first")
        await bus.send("a", "k", "/y", "while nobody waits")
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/x", "second")
        await wait_all_tasks_blocked()
        assert [event.data for event in got] == ["first", "second"]


async def test_wait_for_times_out_as_trio_says(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        start = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(5):
                await bus.wait_for("a")
        assert trio.current_time() - start == 5
        assert bus.statistics().open_waiters == 0


# --------------------------------------------------------------------------- a size, and a function


async def test_the_size_of_a_waiter_can_be_said(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        async with bus.expect("a", max_buffer_size=1000) as waiter:
            for number in range(1000):
                await bus.send("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
            assert [(await anext(waiter.events())).path for _ in range(3)] == ["/0", "/1", "/2"]
        async with bus.expect("a", max_buffer_size=2) as waiter:
            for number in range(3):
                await bus.send("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
            got = waiter.events()
            assert [(await anext(got)).path for _ in range(2)] == ["/0", "/1"]
            with pytest.raises(SubscriptionOverflowError):
                await anext(got)
        for size, error in ((0, ValueError), (True, TypeError), (1.0, TypeError)):
            with pytest.raises(error, match="max_buffer_size must be"):
                bus.expect("a", max_buffer_size=size)  # type: ignore[arg-type]  # a mistake


async def test_wait_for_returns_the_first_event_for_which_a_function_is_true(
    autojump_clock: MockClock,
) -> None:
    asked: list[str] = []

    def where(event: Event[Any]) -> object:
        asked.append(event.path)
        return event.data  # anything that is true will do

    async with open_event_bus() as bus, trio.open_nursery() as nursery:

        async def send() -> None:
            for number, data in enumerate((None, 0, "", [1], True)):
                await bus.send("a", "k", f"/{number}", data)
                await trio.sleep(1)

        nursery.start_soon(send)
        assert (await bus.wait_for("a", where=where)).path == "/3"
        assert asked == ["/0", "/1", "/2", "/3"]
        assert (await events.wait_for("a", where=lambda event: True)).path == "/4"
    assert bus.statistics().open_waiters == 0


async def test_many_events_that_do_not_match_may_come_at_once(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:

        async def send() -> None:
            for number in range(5_000):
                await bus.send("a", "k", f"/{number}")

        nursery.start_soon(send)
        event = await bus.wait_for("a", where=lambda event: event.path == "/4999")
        assert event.path == "/4999"


@pytest.mark.parametrize("every", [1, 64])
async def test_what_the_function_raises_leaves_wait_for(
    every: int, autojump_clock: MockClock
) -> None:
    def where(event: Event) -> bool:
        bus.send_nowait("a", "l", "/by the function")  # it runs between two steps
        raise ZeroDivisionError

    async with open_event_bus(checkpoint_every=every) as bus, trio.open_nursery() as nursery:
        nursery.start_soon(bus.send, "a", "k", "/x")
        with pytest.raises(ZeroDivisionError):
            await bus.wait_for("a", "k", where=where)
        await wait_all_tasks_blocked()
        assert bus.statistics().open_waiters == 0
        assert bus.statistics().accepted == 2


async def test_closing_the_bus_ends_a_wait_with_a_function(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(BusClosedError, match="no matching event arrived before"):
                await bus.wait_for("a", where=lambda event: False)

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/x")
        bus.close()


async def a_coroutine(event: Event) -> bool:
    return True


@pytest.mark.parametrize("where", [a_coroutine, 42, "path"])
async def test_a_function_that_is_not_plain_is_refused(
    where: Any, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(TypeError, match="where must be a plain function"):
            await bus.wait_for("a", where=where)
        assert bus.statistics().open_waiters == 0


# -------------------------------------------------------------------------- what cannot be expected


@pytest.mark.parametrize(
    ("arguments", "path", "error"),
    [
        (("",), None, InvalidPatternError),
        (("a..b",), None, InvalidPatternError),
        (("a", "k*"), None, InvalidPatternError),
        (("a", "k"), "", InvalidPatternError),
        (("a", "k"), "/x*", InvalidPatternError),
        ((1,), None, TypeError),
        (("a", 1), None, TypeError),
        (("a", "k"), 1, TypeError),
        (("a", "k"), b"/x", TypeError),
    ],
)
async def test_bad_input_is_refused_before_anything_happened(
    arguments: tuple[str, ...], path: str, error: type[Exception], autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        await wait_all_tasks_blocked()
        before = bus.statistics()
        with pytest.raises(error), assert_no_checkpoints():
            async with bus.expect(*arguments, path=path):
                pytest.fail("it was entered")
        with pytest.raises(error), assert_no_checkpoints():
            await bus.wait_for(*arguments, path=path)
        assert bus.statistics() == before


async def test_the_policy_says_what_may_be_expected(autojump_clock: MockClock) -> None:
    policy = RulePolicy([Allow(Action.SUBSCRIBE, "a.*"), Allow(Action.SEND, "**")])
    async with open_event_bus(policy=policy) as bus:
        await wait_all_tasks_blocked()
        before = bus.statistics()
        for system in ("b", "a.**", "**"):
            with pytest.raises(PolicyDeniedError) as caught:
                async with bus.expect(system):
                    pytest.fail("it was entered")
            assert caught.value.details["action"] is Action.SUBSCRIBE
            assert caught.value.details["system"] == system
            with pytest.raises(PolicyDeniedError):
                await bus.wait_for(system, path="/x")
        assert bus.statistics() == before
        async with bus.expect("a.*") as waiter:
            await bus.send("a.b", "k", "/x")
            assert (await waiter.event()).path == "/x"


def test_nothing_can_be_expected_outside_the_run_of_the_bus() -> None:
    escaped = []

    async def open_one() -> None:
        async with open_event_bus() as bus:
            escaped.append(bus)

    async def expect() -> None:
        [bus] = escaped
        with pytest.raises(NoBusError):
            async with bus.expect("a"):
                pytest.fail("it was entered")
        with pytest.raises(NoBusError):
            await bus.wait_for("a")

    trio.run(open_one)
    trio.run(expect)


# -------------------------------------------------------------------------------------- without bus


async def test_the_ambient_forms_use_the_bus_around_the_caller(autojump_clock: MockClock) -> None:
    async with open_event_bus() as outer, open_event_bus():
        async with events.expect("a", "k", path="/x") as waiter:
            await outer.send("a", "k", "/x", "outer")
            await events.send("a", "k", "/x", "inner")
            assert (await waiter.event()).data == "inner"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_soon, outer, "/outer")

            async def send_inner() -> None:
                await trio.sleep(1)
                await events.send("a", "k", "/inner")

            nursery.start_soon(send_inner)
            assert (await events.wait_for("a", "k")).path == "/inner"


async def test_without_a_bus_the_ambient_forms_say_so() -> None:
    with pytest.raises(NoBusError):
        events.expect("a")
    with pytest.raises(NoBusError):
        await events.wait_for("a")


@pytest.mark.parametrize("name", ["expect", "wait_for", "request"])
def test_the_ambient_forms_and_the_methods_have_the_same_signature(name: str) -> None:
    method = dict(inspect.signature(getattr(EventBus, name)).parameters)
    del method["self"]
    assert list(method.values()) == list(
        inspect.signature(getattr(events, name)).parameters.values()
    )
