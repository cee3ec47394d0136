"""A graceful shutdown: stop the producers, close the bus, let the consumers read to the end.

Ctrl-C and SIGTERM both begin it. So that the example ends by itself, the last customer sends the
signal.
"""

from __future__ import annotations

import signal
from collections import Counter

import trio

import trio_events as events


async def shop(counts: Counter[str]) -> None:
    for number in range(1, 101):
        await events.send("orders", "order.created", f"/orders/{number}")
        counts["sent"] += 1  # not reached if send is cancelled; the event was not sent
    signal.raise_signal(signal.SIGTERM)
    await trio.sleep_forever()  # the shop stays open


async def work(name: str, subscription: events.Subscription, counts: Counter[str]) -> None:
    async for _order in subscription:
        await trio.sleep(0.001)  # this is the work
        counts[name] += 1


async def main() -> None:
    counts: Counter[str] = Counter()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        # From the inside out: first the producers end, then the bus, and last the consumers.
        async with trio.open_nursery() as consumers:
            async with events.open_event_bus():
                for name in ("packing", "billing"):
                    subscription = await events.subscribe("orders")
                    consumers.start_soon(work, name, subscription, counts)
                async with trio.open_nursery() as producers:
                    producers.start_soon(shop, counts)
                    print(f"stopped by {signal.Signals(await anext(signals)).name}")
                    producers.cancel_scope.cancel()
            print("the bus is closed")
    for name in ("sent", "packing", "billing"):
        print(f"{name:8} {counts[name]}")


if __name__ == "__main__":
    trio.run(main)
