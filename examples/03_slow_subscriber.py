"""A slow subscriber: what each overflow policy does when its buffer is full.

Somebody sends six events to a subscriber with a buffer for three, who reads nothing until the
sender has finished or is stuck. What is lost is counted, and logged as a warning.
"""

from __future__ import annotations

import logging

import trio
from trio.testing import wait_all_tasks_blocked

import trio_events as events


async def send_six(bus: events.EventBus) -> None:
    for number in range(1, 7):
        await bus.send("numbers", "number.drawn", f"/{number}")
    bus.close()


async def read(subscription: events.Subscription) -> None:
    try:
        async for event in subscription:
            print(f"  read {event.path}")
    except events.SubscriptionOverflowError:
        print("  ended by the overflow")


async def main() -> None:
    for policy in events.Overflow:
        print(policy.name)
        # The inbox of the bus is a buffer, too. With its usual size it would take all six.
        async with events.open_event_bus(inbox_size=1) as bus, trio.open_nursery() as nursery:
            slow = await bus.subscribe("numbers", max_buffer_size=3, overflow=policy)
            nursery.start_soon(send_six, bus)
            await wait_all_tasks_blocked()
            print(f"  senders waiting: {slow.statistics().tasks_waiting_send}")
            await read(slow)
            books = slow.statistics()
            print(f"  {books.matched} matched = {books.delivered} read + {books.dropped} dropped")


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s")
    trio.run(main)
