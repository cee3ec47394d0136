"""Very many subscriptions in a process of their own: `python -m benchmarks.memory idle|many`."""

from __future__ import annotations

import sys
from time import process_time

import psutil
import trio
from trio.testing import wait_all_tasks_blocked

from trio_events import EventBus, Subscription, open_event_bus

IDLE = 10_000
MANY = 100_000


def memory_used() -> int:
    """The bytes that this process has in physical memory."""
    return int(psutil.Process().memory_info().rss)


async def subscribe(bus: EventBus, number: int) -> list[Subscription]:
    """So many subscriptions, no two to the same system."""
    return [await bus.subscribe(f"orders.shop{each}") for each in range(number)]


async def idle() -> float:
    """Bytes for each subscription: its task, channel, patterns, place in the routing table."""
    async with open_event_bus(max_subscriptions=2 * IDLE) as bus:
        # The first ones take room that was free, or room that is then free for others.
        kept = await subscribe(bus, 100)
        await wait_all_tasks_blocked()
        before = memory_used()
        kept += await subscribe(bus, IDLE)
        await wait_all_tasks_blocked()
        return (memory_used() - before) / IDLE


async def many() -> float:
    """Seconds to close a bus with very many subscriptions; and those that we look at work."""
    async with open_event_bus(max_subscriptions=MANY + 1) as bus:
        subscriptions = await subscribe(bus, MANY)
        for number, subscription in [*enumerate(subscriptions)][::10]:
            await bus.send(f"orders.shop{number}", "order.created", "/orders/123", number)
            event = await subscription.channel().receive()
            assert event.data == number
        assert bus.statistics().open_subscriptions == MANY
        started = process_time()
        bus.close()
        took = process_time() - started
        assert bus.statistics().open_subscriptions == 0
    return took


if __name__ == "__main__":
    print(trio.run({"idle": idle, "many": many}[sys.argv[1]]))
