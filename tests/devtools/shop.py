"""A small bus with everything that the map shows: a stall, a loss, an unmatched kind, failures."""

from __future__ import annotations

import trio

import trio_events as events
from trio_events import Event, EventBus, Log, Overflow, Subscription


async def charge(event: Event) -> None:
    async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of a handler is wanted
        nursery.start_soon(events.send, "payments", "payment.received", event.path, "42 EUR")


async def ship(event: Event) -> None:
    if event.path == "/orders/13":
        raise ValueError("no such address")
    await events.send("shipping", "parcel.sent", event.path)


async def report(parcels: Subscription) -> None:
    async for _ in parcels:
        await trio.sleep_forever()


async def customer(bus: EventBus, paths: list[str]) -> None:
    for path in paths:
        await bus.send("orders", "order.placed", path, {"item": "tea"})
        await bus.send("web", "page.viewed", path)


async def do_business(bus: EventBus, nursery: trio.Nursery) -> None:
    """Let everything happen."""
    await bus.on(charge, "orders", "order.placed")
    await bus.on(ship, "payments", on_error=Log())
    parcels = await bus.subscribe("shipping", "parcel.sent", max_buffer_size=2)
    nursery.start_soon(report, parcels)
    await bus.subscribe("orders", max_buffer_size=3, overflow=Overflow.DROP_OLDEST)
    await bus.subscribe("**", path="/orders/1")
    nursery.start_soon(customer, bus, [f"/orders/{number}" for number in (1, 13, 2, 3, 4, 5)])
