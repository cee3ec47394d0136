"""Small programs that close while something is under way, each in many orders of its tasks."""

from __future__ import annotations

import logging

import pytest
import trio

import trio_events as events
from trio_events import BusClosedError, Event, EventBus, open_event_bus

from .. import schedules
from ..observing import tasks_living
from ..schedules import Orders, Schedule
from .accounts import Accounts


@pytest.fixture(autouse=True)
def explorable(caplog: pytest.LogCaptureFixture) -> None:
    if reason := schedules.reason_not_to_explore():
        pytest.skip(f"NO SCHEDULE WAS EXPLORED: {reason}; adapt tests/schedules.py")
    caplog.set_level(logging.CRITICAL, "trio_events")


async def pass_on(event: Event) -> None:
    await trio.lowlevel.checkpoint()
    await events.send("b", "k", event.path)


async def keep(_: Event) -> None:
    await trio.lowlevel.checkpoint()


async def send(bus: EventBus, system: str, count: int, sent: list[str]) -> None:
    """Send events until the bus is closed."""
    try:
        for number in range(count):
            await bus.send(system, "k", f"/{number}")
            sent.append(f"/{number}")
    except BusClosedError:
        pass


async def close(bus: EventBus) -> None:
    bus.close()


@pytest.mark.parametrize("second", ["consumer", "handler"])
@pytest.mark.parametrize("first", ["consumer", "handler"])
def test_close_racing_a_send_of_an_owned_stage_loses_nothing(first: str, second: str) -> None:
    outcomes: set[int] = set()

    async def program(schedule: Schedule) -> None:
        before = tasks_living()
        sent: list[str] = []
        with trio.fail_after(60):
            async with open_event_bus(drain_timeout=30) as bus:
                accounts = Accounts(bus)
                kinds = {"consumer": accounts.consume, "handler": accounts.handle}
                await kinds[second]("b", keep, size=1)
                source = await kinds[first]("a", pass_on, size=1)
                async with schedule.explored(), trio.open_nursery() as nursery:
                    nursery.start_soon(send, bus, "a", 3, sent)
                    nursery.start_soon(close, bus)
        accounts.check(complete=True)
        assert [event.path for event in source.done] == sent
        assert all(len(account.done) == len(sent) for account in accounts.accounts)
        assert trio.current_time() == 0
        assert tasks_living() == before
        outcomes.add(len(sent))

    schedules.explore(program, orders=Orders.BOTH_WAYS, detours=3, cap=250)
    assert len(outcomes) > 1


def test_the_last_consumer_ending_while_its_upstream_sends_hangs_nothing() -> None:
    async def program(schedule: Schedule) -> None:
        taken: list[str] = []

        async def take_one() -> None:
            async with await events.subscribe("b", max_buffer_size=1) as source:
                taken.append((await source.receive()).path)

        with trio.fail_after(60):
            async with open_event_bus(drain_timeout=30) as bus:
                accounts = Accounts(bus)
                bus.start_soon(take_one)
                await accounts.consume("a", pass_on, size=1)
                async with schedule.explored():
                    for number in range(4):
                        await bus.send("a", "k", f"/{number}")
                    bus.close()
        accounts.check(complete=True)
        assert taken == ["/0"]
        assert trio.current_time() == 0

    schedules.explore(program, orders=Orders.BOTH_WAYS, detours=3, cap=250)


@pytest.mark.parametrize("kind", ["consumer", "handler"])
@pytest.mark.parametrize("crew", [1, 2])
def test_drain_racing_sends_returns_when_all_that_was_matched_is_done(kind: str, crew: int) -> None:
    outcomes: set[int] = set()

    async def program(schedule: Schedule) -> None:
        sent: list[str] = []
        with trio.fail_after(60):
            async with open_event_bus() as bus:
                accounts = Accounts(bus)
                make = accounts.consume if kind == "consumer" else accounts.handle
                account = await make("a", keep, size=1, crew=crew)

                async def drain() -> None:
                    await account.subscription.drain()
                    matched = account.subscription.statistics().matched
                    assert len(account.done) == matched
                    outcomes.add(matched)

                async with schedule.explored(), trio.open_nursery() as nursery:
                    nursery.start_soon(send, bus, "a", 3, sent)
                    nursery.start_soon(drain)
        assert len(sent) == 3
        accounts.check(complete=True)

    schedules.explore(program, orders=Orders.BOTH_WAYS, detours=3, cap=250)
    assert len(outcomes) > 1


def test_drain_returns_when_a_reader_outside_has_an_event_that_was_on_its_way() -> None:
    async def program(schedule: Schedule) -> None:
        got: list[str] = []
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            subscription = await bus.subscribe("a")

            async def read() -> None:
                async for event in subscription:
                    got.append(event.path)

            nursery.start_soon(read)
            async with schedule.explored():
                bus.send_nowait("a", "k", "/x")
                await subscription.drain()
                assert got == ["/x"]

    assert schedules.explore(program).complete


def test_wait_idle_returns_when_all_was_quiet_though_others_go_on_sending() -> None:
    async def program(schedule: Schedule) -> None:
        handled: list[str] = []
        handling = trio.Event()

        async def handle(event: Event) -> None:
            nonlocal handling
            handled.append(event.path)
            handling.set()
            handling = trio.Event()

        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            await bus.on(handle, "a")

            async def go_on() -> None:
                for number in range(10):
                    await handling.wait()
                    bus.send_nowait("a", "k", f"/{number}")

            nursery.start_soon(go_on)
            async with schedule.explored():
                bus.send_nowait("a", "k", "/first")
                await bus.wait_idle()
                assert handled == ["/first"]

    schedules.explore(program, orders=Orders.BOTH_WAYS, detours=3, cap=250)


def test_a_wait_for_quiet_that_is_cancelled_does_not_delay_the_end_of_the_bus() -> None:
    async def program(schedule: Schedule) -> None:
        async def one_second(event: Event) -> None:
            await trio.sleep(1)

        async def wait_idle() -> None:
            with scope:
                await bus.wait_idle()

        scope = trio.CancelScope()
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            await bus.on(one_second, "a")
            await bus.send("a", "k", "/x")
            nursery.start_soon(wait_idle)
            async with schedule.explored():
                scope.cancel()
                bus.close()
        assert trio.current_time() == 1

    assert schedules.explore(program).complete


def test_closing_while_senders_wait_and_messages_are_not_routed_lets_each_sender_go_once() -> None:
    async def program(schedule: Schedule) -> None:
        sent: list[str] = []

        async def expect() -> None:
            try:
                async with bus.expect("q"):
                    await trio.lowlevel.checkpoint()
            except BusClosedError:
                pass

        with trio.fail_after(60):
            async with open_event_bus(inbox_size=1) as bus:
                accounts = Accounts(bus)
                account = await accounts.handle("a", keep)
                async with schedule.explored(), trio.open_nursery() as nursery:
                    nursery.start_soon(close, bus)  # the last in the first schedule
                    for _ in range(2):
                        nursery.start_soon(send, bus, "a", 1, sent)
                    nursery.start_soon(expect)
        accounts.check(complete=True)
        assert len(account.done) == len(sent)

    schedules.explore(program, cap=400)


def test_add_and_remove_racing_sends_and_wait_idle_leave_nothing_unhandled() -> None:
    outcomes: set[int] = set()

    async def program(schedule: Schedule) -> None:
        with trio.fail_after(60):
            async with open_event_bus() as bus:
                accounts = Accounts(bus)
                account = await accounts.consume("a", keep, size=1)
                subscription = account.subscription

                async def change() -> None:
                    subscription.add("c")
                    await trio.lowlevel.checkpoint()
                    subscription.remove("a")

                async with schedule.explored(), trio.open_nursery() as nursery:
                    nursery.start_soon(send, bus, "a", 2, [])
                    nursery.start_soon(send, bus, "c", 2, [])
                    nursery.start_soon(change)
                await bus.wait_idle()
                assert len(account.done) == subscription.statistics().matched
                outcomes.add(len(account.done))
        accounts.check(complete=True)

    schedules.explore(program, orders=Orders.BOTH_WAYS, detours=3, cap=250)
    assert len(outcomes) > 1


def test_whatever_happens_when_the_bus_has_just_become_quiet_nothing_is_lost() -> None:
    async def program(schedule: Schedule) -> None:
        with trio.fail_after(60):
            async with open_event_bus() as bus:
                accounts = Accounts(bus)

                async def farewell() -> None:
                    """Read, but not for longer than that, and say goodbye."""
                    async with await events.subscribe("never") as source:
                        with trio.move_on_after(1):
                            await source.receive()
                    await events.send("b", "k", "/goodbye")

                async def one_second(event: Event) -> None:
                    await trio.sleep(1)

                last = await accounts.consume("b", keep)
                await accounts.handle("a", one_second)
                bus.start_soon(farewell)
                await bus.send("a", "k", "/x")
                async with schedule.explored():
                    bus.close()
                    await trio.sleep(2)
        accounts.check(complete=True)
        assert len(last.done) == 1

    schedules.explore(program, orders=Orders.BOTH_WAYS, detours=4, cap=400)


@pytest.mark.parametrize("crew", [1, 2])
def test_a_pipeline_that_is_cut_at_the_timeout_names_what_it_left(crew: int) -> None:
    async def program(schedule: Schedule) -> None:
        async def slow(event: Event) -> None:
            await trio.sleep(0.25)
            await pass_on(event)

        with trio.fail_after(60):
            async with open_event_bus(drain_timeout=1) as bus:
                accounts = Accounts(bus)
                await accounts.handle("b", slow, size=1, crew=crew)
                source = await accounts.consume("a", slow, size=10, crew=crew)
                for number in range(10):
                    bus.send_nowait("a", "k", f"/{number}")
                bus.close()
                await trio.sleep(0.9)
                async with schedule.explored():
                    await trio.sleep(0.2)
        accounts.check()
        assert source.subscription.statistics().matched == 10
        assert trio.current_time() == 1.1

    schedules.explore(program, orders=Orders.BOTH_WAYS, detours=3, cap=250)
