"""What runs on asyncio: queues by hand, and the libraries that give each subscriber a queue."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

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


async def contest(load: Load, publish: Publish, subscribe: Subscribe) -> float:
    """Run the tasks of a load; returns the seconds a delivery took."""
    ready = asyncio.Semaphore(0)

    async def subscriber() -> int:
        return await subscribe(ready.release)

    async def publisher() -> None:
        await publish(load.each)

    async with asyncio.timeout(TIME_LIMIT):
        async with asyncio.TaskGroup() as group:
            subscribers = [group.create_task(subscriber()) for _ in range(load.subscribers)]
            for _ in subscribers:
                await ready.acquire()
            started = start_clock()
            for _ in range(load.publishers):
                group.create_task(publisher())
        took = stop_clock(started)
    return load.per_delivery(took, [task.result() for task in subscribers])


def queues(load: Load) -> float:
    """Every subscriber has an asyncio.Queue, and publishers put into each of them."""

    async def main() -> float:
        all_queues: list[asyncio.Queue[object]] = []

        async def publish(events: int) -> None:
            for _ in range(events):
                for queue in all_queues:
                    await queue.put(PAYLOAD)

        async def subscribe(ready: Callable[[], None]) -> int:
            queue = asyncio.Queue[object](BUFFER)
            all_queues.append(queue)
            ready()
            count = 0
            while count < load.events:
                await queue.get()
                count += 1
            return count

        return await contest(load, publish, subscribe)

    return asyncio.run(main())


def aiopubsub(load: Load) -> float:
    """Unbounded. A subscriber with a wildcard key, which is what the bus is given, too."""
    from aiopubsub import Hub, Key, Publisher, Subscriber

    async def main() -> float:
        hub = Hub()
        numbers = itertools.count()

        async def publish(events: int) -> None:
            publisher, key = Publisher(hub, "orders"), Key("eu")
            for number in range(events):
                publisher.publish(key, PAYLOAD)
                if number % BUFFER == BUFFER - 1:
                    await asyncio.sleep(0)

        async def subscribe(ready: Callable[[], None]) -> int:
            subscriber = Subscriber(hub, str(next(numbers)))
            subscriber.async_subscribe(Key("orders", "*"))
            ready()
            count = 0
            while count < load.events:
                await subscriber.consume()
                count += 1
            return count

        return await contest(load, publish, subscribe)

    return asyncio.run(main())


def asphalt(load: Load) -> float:
    """Unbounded. A signal, and a stream of its events for each subscriber."""
    from asphalt.core import Event, Signal

    class Created(Event):  # type: ignore[misc]  # a peer is not there when types are checked
        def __init__(self, source: object, topic: str, data: object) -> None:
            super().__init__(source, topic)
            self.data = data

    class Orders:
        created = Signal(Created)

    async def main() -> float:
        orders = Orders()

        async def publish(events: int) -> None:
            for number in range(events):
                orders.created.dispatch(PAYLOAD)
                if number % BUFFER == BUFFER - 1:
                    await asyncio.sleep(0)

        async def subscribe(ready: Callable[[], None]) -> int:
            stream = orders.created.stream_events(max_queue_size=0)
            ready()
            count = 0
            async for _ in stream:
                count += 1
                if count == load.events:
                    break
            await stream.aclose()
            return count

        return await contest(load, publish, subscribe)

    return asyncio.run(main())


def broadcaster(load: Load) -> float:
    """Unbounded. Its own memory backend."""
    from broadcaster import Broadcast

    async def main() -> float:
        async with Broadcast("memory://") as broadcast:

            async def publish(events: int) -> None:
                for number in range(events):
                    await broadcast.publish("orders", PAYLOAD)
                    if number % BUFFER == BUFFER - 1:
                        await asyncio.sleep(0)

            async def subscribe(ready: Callable[[], None]) -> int:
                count = 0
                async with broadcast.subscribe("orders") as subscriber:
                    ready()
                    async for _ in subscriber:
                        count += 1
                        if count == load.events:
                            break
                return count

            return await contest(load, publish, subscribe)

    return asyncio.run(main())


def bubus(load: Load) -> float:
    """A handler for each subscriber that puts the event into a queue.

    It takes no more than 50 events that are not done yet, so publishers wait after every 40 or so.
    """
    from bubus import BaseEvent, EventBus

    # Milliseconds a delivery: so that a round takes about as long as with the others.
    load = load.shrunk(250)
    burst = 40 // load.publishers

    class Created(BaseEvent):  # type: ignore[misc]  # a peer is not there when types are checked
        data: dict[str, int]

    async def main() -> float:
        bus = EventBus()
        numbers = itertools.count()

        async def publish(events: int) -> None:
            for number in range(events):
                event = bus.dispatch(Created(data=PAYLOAD))
                if number % burst == burst - 1 or number == events - 1:
                    await event  # they are done in order, so this is all of them

        async def subscribe(ready: Callable[[], None]) -> int:
            queue = asyncio.Queue[object]()

            def handler(event: object) -> None:
                queue.put_nowait(event)

            handler.__name__ = f"handler_{next(numbers)}"  # it warns of names that it knows
            bus.on(Created, handler)
            ready()
            count = 0
            while count < load.events:
                await queue.get()
                count += 1
            return count

        try:
            return await contest(load, publish, subscribe)
        finally:
            await bus.stop(clear=True)

    return asyncio.run(main())


def frequenz_channels(load: Load) -> float:
    """It drops the oldest when a receiver is full, so receivers have room for everything."""
    from frequenz.channels import Broadcast

    async def main() -> float:
        channel = Broadcast(name="orders")

        async def publish(events: int) -> None:
            sender = channel.new_sender()
            for number in range(events):
                await sender.send(PAYLOAD)
                if number % BUFFER == BUFFER - 1:
                    await asyncio.sleep(0)

        async def subscribe(ready: Callable[[], None]) -> int:
            receiver = channel.new_receiver(limit=load.events)
            ready()
            count = 0
            async for _ in receiver:
                count += 1
                if count == load.events:
                    break
            return count

        return await contest(load, publish, subscribe)

    return asyncio.run(main())
