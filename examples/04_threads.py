"""Events from other threads: `send` from one that can wait, `send_soon` from one that can't."""

from __future__ import annotations

import threading

import trio

import trio_events as events


def measure(bus: events.EventBus) -> None:
    """Run in a thread that trio started: it waits when a subscriber is full, and loses nothing."""
    for celsius in (20.5, 21.0, 21.5, 22.0):
        trio.from_thread.run(bus.send, "sensors.attic", "temperature.measured", "/attic", celsius)


def ring(bus: events.EventBus) -> None:
    """Run in any thread at all, or in a callback: it never waits.

    What there is no room for is refused: counted in the bus's statistics, and logged.
    """
    for who in ("Ada", "Grace"):
        bus.send_soon("sensors.door", "bell.rung", "/door", who)


async def show(subscription: events.Subscription) -> None:
    async for event in subscription:
        print(f"{event.path}: {event.kind}, {event.data}")


async def main() -> None:
    async with trio.open_nursery() as nursery, events.open_event_bus() as bus:
        readings = await bus.subscribe("sensors.*", max_buffer_size=2)
        nursery.start_soon(show, readings)

        await trio.to_thread.run_sync(measure, bus)

        doorbell = threading.Thread(target=ring, args=[bus])  # trio doesn't know this one
        doorbell.start()
        # Joining in a thread keeps trio running. When it returns, trio has received the events.
        await trio.to_thread.run_sync(doorbell.join)
    print(f"{bus.statistics().accepted} accepted, {bus.statistics().refused} refused")


if __name__ == "__main__":
    trio.run(main)
