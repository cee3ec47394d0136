"""What runs on trio: the bus itself, memory channels by hand, pyee's emitter for trio."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from trio_events import EventBus, Policy, Subscription, open_event_bus

from ..measuring import (
    BUFFER,
    PAYLOAD,
    TIME_LIMIT,
    Load,
    Publish,
    Subscribe,
    start_clock,
    stop_clock,
)

BURST = 128  # events that are published without a pause, where that is what is measured


async def contest(load: Load, publish: Publish, subscribe: Subscribe) -> float:
    """Run the tasks of a load; returns the seconds a delivery took."""
    ready = trio.Semaphore(0)
    counts: list[int] = []

    async def subscriber() -> None:
        counts.append(await subscribe(ready.release))

    with trio.fail_after(TIME_LIMIT):
        async with trio.open_nursery() as nursery:
            for _ in range(load.subscribers):
                nursery.start_soon(subscriber)
            for _ in range(load.subscribers):
                await ready.acquire()
            started = start_clock()
            for _ in range(load.publishers):
                nursery.start_soon(publish, load.each)
        took = stop_clock(started)
    return load.per_delivery(took, counts)


# The bus


async def read(subscription: Subscription, events: int) -> int:
    """Read so many events, one by one."""
    count = 0
    async for _ in subscription:
        count += 1
        if count == events:
            break
    return count


async def read_batches(subscription: Subscription, events: int) -> int:
    """Read so many events, in batches."""
    count = 0
    async for batch in subscription.channel().batches():
        for _ in batch:  # one by one: others, too, look at every event
            count += 1
        if count == events:
            break
    return count


async def send_each(bus: EventBus, events: int) -> None:
    """Send so many events, one by one."""
    for _ in range(events):
        await bus.send("orders.eu", "order.created", "/orders/123", PAYLOAD)


async def send_bursts(bus: EventBus, events: int) -> None:
    """Send so many events without waiting, but for a pause after each burst."""
    for number in range(events):
        try:
            bus.send_nowait("orders.eu", "order.created", "/orders/123", PAYLOAD)
        except trio.WouldBlock:
            await bus.send("orders.eu", "order.created", "/orders/123", PAYLOAD)
        if number % BURST == BURST - 1:
            await trio.lowlevel.checkpoint()


def bus(
    load: Load,
    *,
    max_buffer_size: int = BUFFER,
    policy: Policy | None = None,
    receive: Callable[[Subscription, int], Awaitable[int]] = read,
    send: Callable[[EventBus, int], Awaitable[None]] = send_each,
) -> float:
    """Every subscriber has a subscription; all read one by one."""

    async def main() -> float:
        async with open_event_bus(policy=policy) as bus:

            async def subscribe(ready: Callable[[], None]) -> int:
                async with await bus.subscribe(
                    "orders.*", max_buffer_size=max_buffer_size
                ) as subscription:
                    ready()
                    return await receive(subscription, load.events)

            return await contest(load, partial(send, bus), subscribe)

    return trio.run(main)


bus_batches = partial(bus, receive=read_batches)
bus_bursts = partial(bus, receive=read_batches, send=send_bursts)


# Memory channels by hand


async def receive(channel: trio.MemoryReceiveChannel[object], events: int) -> int:
    """Receive so many messages from a memory channel."""
    count = 0
    async for _ in channel:
        count += 1
        if count == events:
            break
    return count


def channels(
    load: Load,
    *,
    max_buffer_size: int = BUFFER,
    payload: object = PAYLOAD,
    receive: Callable[[trio.MemoryReceiveChannel[object], int], Awaitable[int]] = receive,
) -> float:
    """Every subscriber has a memory channel, and publishers send to each of them."""

    async def main() -> float:
        send_channels: list[trio.MemorySendChannel[object]] = []

        async def publish(events: int) -> None:
            for _ in range(events):
                for channel in send_channels:
                    await channel.send(payload)

        async def subscribe(ready: Callable[[], None]) -> int:
            send_channel, receive_channel = trio.open_memory_channel[object](max_buffer_size)
            send_channels.append(send_channel)
            ready()
            return await receive(receive_channel, load.events)

        return await contest(load, publish, subscribe)

    return trio.run(main)


def channels_bursts(load: Load) -> float:
    """The same without waiting, but for a pause after each burst."""

    async def main() -> float:
        send_channels: list[trio.MemorySendChannel[object]] = []

        async def publish(events: int) -> None:
            for number in range(events):
                for channel in send_channels:
                    try:
                        channel.send_nowait(PAYLOAD)
                    except trio.WouldBlock:
                        await channel.send(PAYLOAD)
                if number % BURST == BURST - 1:
                    await trio.lowlevel.checkpoint()

        async def subscribe(ready: Callable[[], None]) -> int:
            send_channel, receive_channel = trio.open_memory_channel[object](BUFFER)
            send_channels.append(send_channel)
            ready()
            return await receive(receive_channel, load.events)

        return await contest(load, publish, subscribe)

    return trio.run(main)


# Libraries


def pyee(load: Load) -> float:
    """A handler for each subscriber, which pyee runs in a new task for each event."""
    from pyee.trio import TrioEventEmitter

    load = load.shrunk(4)
    # Each event is a task for each subscriber: no more of them at once than others buffer events.
    pause_every = math.ceil(BUFFER / load.subscribers)

    async def main() -> float:
        async with TrioEventEmitter() as emitter:

            async def publish(events: int) -> None:
                for number in range(events):
                    emitter.emit("orders", PAYLOAD)
                    if number % pause_every == 0:
                        await trio.lowlevel.checkpoint()

            async def subscribe(ready: Callable[[], None]) -> int:
                count = 0
                done = trio.Event()

                async def handler(_: object) -> None:
                    nonlocal count
                    count += 1
                    if count == load.events:
                        done.set()

                emitter.on("orders", handler)
                ready()
                await done.wait()
                return count

            return await contest(load, publish, subscribe)

    return trio.run(main)
