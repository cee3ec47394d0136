"""Subscriptions that say what the data of their events is. For type checkers: see `typing/`."""

from __future__ import annotations

from typing import Any, Protocol, TypedDict

import attrs
import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

import trio_events as events
from trio_events import ErrorKind, Event, EventDataError, Overflow, open_event_bus

from ..observing import assert_books, drain, paths


@attrs.frozen
class Order:
    number: int


class Express(Order):
    pass


class Fields(TypedDict):
    number: int


class HasNumber(Protocol):
    number: int


async def test_unless_asked_for_the_data_is_not_checked(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("orders", data=Order)
        unchecked = await bus.subscribe("orders", data=Order, check_data=False)
        for data in (Order(1), None, "order"):
            await bus.send("orders", "k", "/x", data)
        await wait_all_tasks_blocked()
        assert [subscription.channel().receive_nowait().data for _ in range(3)] == [
            Order(1),
            None,
            "order",
        ]
        assert_books(unchecked, queued=3)


async def test_data_of_the_type_or_a_subclass_passes_the_check(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("orders", data=Order, check_data=True)
        orders = [Order(1), Express(2)]
        for order in orders:
            await bus.send("orders", "k", "/x", order)
        for order in orders:
            assert (await subscription.channel().receive()).data is order
        assert bus.statistics().open_subscriptions == 1


@pytest.mark.parametrize("misfit", [None, 7, {"number": 1}, Order])
@pytest.mark.parametrize("settle", [True, False])
async def test_data_of_another_type_ends_the_subscription_after_what_came_before(
    misfit: object, settle: bool, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("orders.*", "(k|l)", data=Order, check_data=True)
        bystander = await bus.subscribe("orders.*")
        bus.send_nowait("orders.eu", "k", "/1", Order(1))
        bus.send_nowait("orders.eu", "k", "/2", Order(2))
        bus.send_nowait("orders.eu", "k", "/misfit", misfit)  # the sender notices nothing
        if settle:
            await wait_all_tasks_blocked()
            assert bus.statistics().open_subscriptions == 1
        bus.send_nowait("orders.eu", "k", "/3", Order(3))
        await wait_all_tasks_blocked()
        channel = subscription.channel()
        dropped = 1 if settle else 2  # all that matched before the end are in the books
        assert_books(subscription, queued=2, dropped=dropped)
        assert [(await channel.receive()).path for _ in range(2)] == ["/1", "/2"]
        for _ in range(2):  # and it's persistent
            with pytest.raises(EventDataError) as caught:
                await channel.receive()
            with pytest.raises(EventDataError):
                channel.receive_nowait()
            with pytest.raises(EventDataError):
                await anext(aiter(subscription))
            with pytest.raises(EventDataError):
                await anext(channel.batches())
        error = caught.value
        assert isinstance(error, TypeError)
        assert error.kind is ErrorKind.INVALID
        assert not error.retryable
        assert error.details == {
            "system": "orders.*",
            "kind": "(k|l)",
            "event": Event("orders.eu", "k", "/misfit", misfit),
        }
        assert f"must be Order, not {type(misfit).__qualname__}" in str(error)
        assert "'orders.*' kind='(k|l)'" in str(error)
        assert_books(subscription, delivered=2, dropped=dropped)
        assert drain(bystander.channel()) == ["/1", "/2", "/misfit", "/3"]
        assert_books(bystander, delivered=4)
        await bus.subscribe("orders.eu", data=Order, check_data=True)  # to go on


async def test_a_reader_that_waits_gets_the_error_at_once(autojump_clock: MockClock) -> None:
    outcomes: list[str] = []

    async with open_event_bus() as bus:
        subscription = await bus.subscribe("orders", data=Order, check_data=True)

        async def read() -> None:
            try:
                outcomes.extend(paths([event async for event in subscription]))
            except EventDataError:
                outcomes.append("error")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            await bus.send("orders", "k", "/x", "misfit")
            await wait_all_tasks_blocked()
            assert outcomes == ["error", "error"]
        assert bus.statistics().open_subscriptions == 0
        assert_books(subscription, dropped=1)


async def test_senders_that_wait_for_a_subscription_go_on_when_its_data_ends_it(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", data=int, check_data=True, max_buffer_size=2)
        bus.send_nowait("a", "k", "/1", 1)
        bus.send_nowait("a", "k", "/2", 2)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for data in ("misfit", 4, 5):
                nursery.start_soon(bus.send, "a", "k", "/x", data)
                await wait_all_tasks_blocked()
            assert_books(subscription, queued=2, tasks_waiting_send=3)
            assert subscription.channel().receive_nowait().data == 1
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=1, queued=1, dropped=1)


@pytest.mark.parametrize("overflow", Overflow)
async def test_the_books_add_up_whatever_the_overflow_policy(
    overflow: Overflow, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe(
            "a", data=int, check_data=True, max_buffer_size=2, overflow=overflow
        )
        for data in (1, 2, "misfit", 4):
            bus.send_nowait("a", "k", "/x", data)
        bus.close()
        await wait_all_tasks_blocked()
        assert_books(subscription, queued=2, dropped=2)
        with pytest.raises(EventDataError):
            async for event in subscription:
                assert event.data in {1, 2}


async def test_who_has_closed_the_channel_hears_of_no_error(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", data=int, check_data=True)
        bus.send_nowait("a", "k", "/x", "misfit")
        subscription.channel().close()
        await wait_all_tasks_blocked()
        with pytest.raises(trio.ClosedResourceError):
            await subscription.channel().receive()
        assert subscription.statistics().matched == 1


async def test_only_the_paths_that_are_wanted_are_checked(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", path="/x", data=int, check_data=True)
        await bus.send("a", "k", "/y", "no int")
        await bus.send("a", "k", "/x", 1)
        assert (await subscription.channel().receive()).data == 1


async def test_the_ambient_form_checks_as_well(autojump_clock: MockClock) -> None:
    async with open_event_bus():
        subscription = await events.subscribe("a", data=int, check_data=True)
        await events.send("a", "k", "/x", "misfit")
        with pytest.raises(EventDataError):
            await subscription.channel().receive()


NO_CLASSES: dict[str, Any] = {
    "nothing": None,
    "a value": 1,
    "a name": "int",
    "parametrized": list[int],
    "a union": int | str,
}


@pytest.mark.parametrize(
    "data",
    [
        *(pytest.param(data, id=name) for name, data in NO_CLASSES.items()),
        pytest.param(Fields, id="typed dictionary"),
        pytest.param(HasNumber, id="protocol"),
    ],
)
async def test_what_is_no_class_to_be_checked_is_refused_before_anything_happened(
    data: Any, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        await wait_all_tasks_blocked()
        before = bus.statistics()
        with pytest.raises(TypeError), assert_no_checkpoints():
            await bus.subscribe("a", data=data, check_data=True)
        assert bus.statistics() == before
        if data is not None:  # for type checkers only, so it may be whatever they like
            await bus.subscribe("a", data=data)
