"""Many subscribers: each receives what its two patterns match, whatever the others do."""

from __future__ import annotations

import trio

import trio_events as events

SUBSCRIBERS = {  # name: pattern for the system, pattern for the kind (None is every kind)
    "audit": ("**", None),
    "billing": ("orders.**", "order.paid"),
    "warehouse": ("orders.*", "order.(paid|cancelled)"),
    "Berlin office": ("*.eu.berlin", None),
    "support": ("**", "**.failed"),
}


async def collect(subscription: events.Subscription, paths: list[str]) -> None:
    async for event in subscription:
        paths.append(event.path)


async def main() -> None:
    received: dict[str, list[str]] = {name: [] for name in SUBSCRIBERS}

    # The nursery is around the bus: leaving the bus ends the channels, and then the nursery
    # waits until everything has been read.
    async with trio.open_nursery() as nursery, events.open_event_bus():
        for name, (system, kind) in SUBSCRIBERS.items():
            nursery.start_soon(collect, await events.subscribe(system, kind), received[name])

        await events.send("orders.us", "order.created", "/orders/1")
        await events.send("orders.us", "order.paid", "/orders/1/payment")
        await events.send("orders.eu.berlin", "order.paid", "/orders/2/payment")
        await events.send("orders.us", "order.cancelled", "/orders/1/cancellation")
        await events.send("mail.eu.berlin", "mail.delivery.failed", "/mail/7")

    for name, paths in received.items():
        print(f"{name:13} {' '.join(paths)}")


if __name__ == "__main__":
    trio.run(main)
