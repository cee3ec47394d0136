"""Every row of the table that translates the original to this package (DESIGN, section 1)."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events

from .observing import paths


class DenyAll:
    """A policy that allows nobody anything."""

    def allows(self, actor: str, action: events.Action, system: str) -> bool:
        return False


async def test_the_module_is_the_bus_inside_open_event_bus(autojump_clock: MockClock) -> None:
    async with events.open_event_bus():
        sub = await events.subscribe("orders.*")
        await events.send("orders.eu", "order.created", "/orders/123")
        assert (await sub.channel().receive()).system == "orders.eu"


async def test_subscribe_to_a_system_pattern(autojump_clock: MockClock) -> None:
    async with events.open_event_bus():
        sub = await events.subscribe("orders.*")
        for system in ("orders", "orders.eu", "orders.eu.new", "users.eu", "orders.us"):
            await events.send(system, "order.created", f"/{system}")
        await wait_all_tasks_blocked()
        sub.close()
        assert paths([evt async for evt in sub]) == ["/orders.eu", "/orders.us"]


async def test_subscribe_errors_are_raised(autojump_clock: MockClock) -> None:
    async with events.open_event_bus():
        with pytest.raises(events.InvalidPatternError):
            await events.subscribe("orders.")


async def test_subscribe_to_a_system_and_a_kind(autojump_clock: MockClock) -> None:
    async with events.open_event_bus():
        sub = await events.subscribe("users", "user.created")
        await events.send("users", "user.deleted", "/users/1")
        await events.send("users", "user.created", "/users/2")
        await events.send("groups", "user.created", "/users/3")
        await wait_all_tasks_blocked()
        sub.close()
        assert paths([evt async for evt in sub]) == ["/users/2"]


async def test_the_channel_is_read_event_by_event(autojump_clock: MockClock) -> None:
    async with events.open_event_bus():
        sub = await events.subscribe("orders")
        ch = sub.channel()
        await events.send("orders", "order.created", "/orders/1")
        await events.send("orders", "order.created", "/orders/2")
        assert (await ch.receive()).path == "/orders/1"
        assert (await ch.receive()).path == "/orders/2"


async def test_the_channel_is_read_by_iteration(autojump_clock: MockClock) -> None:
    async with events.open_event_bus():
        sub = await events.subscribe("orders")
        for number in range(3):
            await events.send("orders", "order.created", f"/orders/{number}")
        found = []
        async for evt in sub.channel():
            found.append(evt.path)
            if len(found) == 3:
                break
        assert found == ["/orders/0", "/orders/1", "/orders/2"]


async def test_a_closed_and_empty_channel_raises_end_of_channel(autojump_clock: MockClock) -> None:
    async with events.open_event_bus():
        sub = await events.subscribe("orders")
        ch = sub.channel()
        await events.send("orders", "order.created", "/orders/1")
        await wait_all_tasks_blocked()
        sub.close()
        assert (await ch.receive()).path == "/orders/1"
        with pytest.raises(trio.EndOfChannel):
            await ch.receive()


async def test_iteration_ends_when_the_channel_is_closed_and_empty(
    autojump_clock: MockClock,
) -> None:
    async with events.open_event_bus():
        sub = await events.subscribe("orders")
        await events.send("orders", "order.created", "/orders/1")
        await wait_all_tasks_blocked()
        sub.close()
        assert paths([evt async for evt in sub.channel()]) == ["/orders/1"]


async def test_an_event_has_the_four_fields(autojump_clock: MockClock) -> None:
    async with events.open_event_bus():
        sub = await events.subscribe("orders")
        order = {"id": 123, "total": 99.5}
        await events.send("orders", "order.created", "/orders/123", order)
        evt = await sub.channel().receive()
        assert (evt.system, evt.kind, evt.path) == ("orders", "order.created", "/orders/123")
        assert evt.data is order


async def test_data_is_optional(autojump_clock: MockClock) -> None:
    async with events.open_event_bus():
        sub = await events.subscribe("orders")
        await events.send("orders", "order.cancelled", "/orders/123")
        assert (await sub.channel().receive()).data is None


async def test_a_subscription_may_be_closed_again(autojump_clock: MockClock) -> None:
    async with events.open_event_bus():
        sub = await events.subscribe("orders")
        sub.close()
        sub.close()
        with pytest.raises(trio.EndOfChannel):
            await sub.channel().receive()


async def test_a_policy_may_refuse_to_subscribe_and_to_send(autojump_clock: MockClock) -> None:
    assert (events.Action.SUBSCRIBE, events.Action.SEND) == ("events.subscribe", "events.send")
    async with events.open_event_bus(policy=DenyAll()):
        with pytest.raises(events.PolicyDeniedError) as caught:
            await events.subscribe("orders.*")
        assert caught.value.kind is events.ErrorKind.INVALID
        assert caught.value.retryable is False
        with pytest.raises(events.PolicyDeniedError) as caught:
            await events.send("orders", "order.created", "/orders/123")
        assert caught.value.kind is events.ErrorKind.INVALID
        assert caught.value.retryable is False


@pytest.mark.parametrize(
    ("system", "kind", "path"),
    [
        ("", "order.created", "/orders/1"),
        ("orders", "", "/orders/1"),
        ("orders", "order.created", ""),
    ],
    ids=["system", "kind", "path"],
)
async def test_an_empty_name_is_invalid_and_not_retryable(
    system: str, kind: str, path: str, autojump_clock: MockClock
) -> None:
    async with events.open_event_bus():
        with pytest.raises(events.EventBusError) as caught:
            await events.send(system, kind, path)
        assert caught.value.kind is events.ErrorKind.INVALID
        assert caught.value.retryable is False
