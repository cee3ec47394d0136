"""A shop with a few problems, in front of the live map.

Run `python examples/08_map.py [SECONDS]`, and open the address that it prints. Look for:

- The report needs half a second for each parcel and must not miss any, so it holds up shipping.
- The mail server can't keep up either, but may lose mails: the oldest go.
- Nobody listens to the heartbeat, and a forgotten subscription to the stock is never read.
- Shipping fails now and then. Click on an event: what led to it, and what did it lead to?
"""

from __future__ import annotations

import random
import sys

import trio

import trio_events as events
from trio_events import Log, Overflow
from trio_events.devtools import serve_map

dice = random.Random(7)
handlers = events.HandlerSet()


async def work(mean: float) -> None:
    await trio.sleep(dice.expovariate(1 / mean))


@handlers.on("orders", "order.placed", concurrency=4, on_error=Log())
async def charge(event: events.Event) -> None:
    await work(0.02)
    verdict = "declined" if dice.random() < 0.05 else "received"
    await events.send("payments", f"payment.{verdict}", event.path, event.data)


@handlers.on("orders", "order.placed", on_error=Log())
async def reserve(event: events.Event) -> None:
    await work(0.01)
    await events.send("stock", "item.reserved", event.path, event.data)


@handlers.on("payments", "payment.received", concurrency=2, on_error=Log())
async def ship(event: events.Event) -> None:
    await work(0.03)
    if dice.random() < 0.02:
        raise ValueError(f"no such address: {event.path}")
    await events.send("shipping", "parcel.sent", event.path, "by bicycle")


@handlers.on("(payments|shipping)", "*.(declined|sent|received)", concurrency=3, on_error=Log())
async def write_mail(event: events.Event) -> None:
    await work(0.01)
    await events.send("mail", "mail.queued", event.path, event.kind)


@handlers.on("mail", max_buffer_size=32, overflow=Overflow.DROP_OLDEST, on_error=Log())
async def deliver_mail(event: events.Event) -> None:
    await work(0.2)


async def browse(number: int) -> None:
    while True:
        await work(0.9)
        path = f"/orders/{dice.randrange(100_000)}"
        await events.send("web", "page.viewed", path, {"session": number})
        if dice.random() < 0.4:
            order = {"item": dice.choice(["tea", "cup", "pot"]), "count": dice.randint(1, 5)}
            await events.send("orders", "order.placed", path, order)


async def measure() -> None:
    while True:
        await trio.sleep(0.02)
        await events.send("sensors.hall", "temperature", "/hall/3", round(dice.gauss(21, 1), 1))


async def regulate(readings: events.Subscription) -> None:
    async for reading in readings:
        if isinstance(reading.data, float) and reading.data > 22.5:
            await events.send("sensors.hall", "fan.switched", reading.path, "on")


async def report(parcels: events.Subscription) -> None:
    async for _ in parcels:
        await trio.sleep(0.5)  # far too slow, and it must not miss any


async def audit(everything: events.Subscription) -> None:
    async for _batch in everything.batches():
        await trio.sleep(0.05)


async def beat() -> None:
    while True:
        await trio.sleep(1)
        await events.send("health", "alive", "/shop")


async def main(seconds: float) -> None:
    with trio.move_on_after(seconds):
        async with events.open_event_bus() as bus, trio.open_nursery() as nursery:
            print("The map:", await nursery.start(serve_map, bus), flush=True)
            await bus.include(handlers)
            parcels = await bus.subscribe("shipping", "parcel.sent", max_buffer_size=8)
            nursery.start_soon(report, parcels)
            nursery.start_soon(regulate, await bus.subscribe("sensors.*", "temperature"))
            nursery.start_soon(audit, await bus.subscribe("**", path="/orders/*"))
            await bus.subscribe("stock", max_buffer_size=100_000)  # and nobody reads it
            for number in range(12):
                nursery.start_soon(browse, number)
            nursery.start_soon(measure)
            nursery.start_soon(beat)


if __name__ == "__main__":
    try:
        trio.run(main, float(sys.argv[1]) if len(sys.argv) > 1 else float("inf"))
    except* KeyboardInterrupt:
        pass
