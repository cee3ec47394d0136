"""Short programs whose CPU instructions are counted: `python -m benchmarks.programs NAME COUNT`.

Each does one thing `count` times. They use nothing of the bus but its public names, so that
another commit can run them, and import nothing but trio.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

import attrs
import trio
from trio._core import _run
from trio.testing import wait_all_tasks_blocked

from trio_events import Event, EventBus, Subscription, open_event_bus

NAMES: Final = "orders.eu", "order.created", "/orders/123"
PAYLOAD: Final = {"total": 42}

Read: TypeAlias = Callable[[Subscription, int], Awaitable[int]]


async def read(subscription: Subscription, count: int) -> int:
    """Read one by one."""
    seen = 0
    async for _ in subscription:
        seen += 1
        if seen == count:
            break
    return seen


async def read_batches(subscription: Subscription, count: int) -> int:
    """Read lists, and look at every event in them."""
    seen = 0
    async for batch in subscription.channel().batches():
        for _ in batch:
            seen += 1
        if seen == count:
            break
    return seen


async def receive(subscription: Subscription, count: int) -> int:
    """Read by one call an event."""
    channel = subscription.channel()
    for _ in range(count):
        await channel.receive()
    return count


async def send(bus: EventBus, count: int) -> None:
    """Send the same names again and again."""
    for _ in range(count):
        await bus.send(*NAMES, PAYLOAD)


async def send_alternating(bus: EventBus, count: int) -> None:
    """Send two kinds in turn."""
    for number in range(count):
        kind = "order.created" if number % 2 else "order.paid"
        await bus.send("orders.eu", kind, "/orders/123", PAYLOAD)


async def fan_out(
    count: int,
    *,
    subscribers: int = 1,
    size: int = 256,
    read: Read = read,
    send: Callable[[EventBus, int], Awaitable[None]] = send,
) -> None:
    """One task sends, and each subscriber reads everything; `count` is that of deliveries."""
    events = count // subscribers
    async with open_event_bus() as bus, trio.open_nursery() as nursery:

        async def check(subscription: Subscription) -> None:
            assert await read(subscription, events) == events

        for _ in range(subscribers):
            subscription = await bus.subscribe("orders.*", max_buffer_size=size)
            nursery.start_soon(check, subscription)
        await wait_all_tasks_blocked()
        await send(bus, events)


async def idle(count: int) -> None:
    """Every event finds a bus where all tasks sleep."""
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("orders.*")
        arrived = trio.lowlevel.ParkingLot()

        async def reader() -> None:
            async for _ in subscription:
                arrived.unpark()

        nursery.start_soon(reader)
        await wait_all_tasks_blocked()
        for _ in range(count):
            await bus.send(*NAMES, PAYLOAD)
            await arrived.park()
        bus.close()


async def subscribe_and_close(count: int) -> None:
    """A short life."""
    async with open_event_bus() as bus:
        for _ in range(count):
            (await bus.subscribe("orders.*")).close()


async def handle(count: int) -> None:
    """A handler is called with every event."""
    calls = 0

    async def handler(_: Event) -> None:
        nonlocal calls
        calls += 1

    async with open_event_bus() as bus:
        await bus.on(handler, "orders.*")
        await send(bus, count)
    assert calls == count


async def watched(count: int, *, by_the_map: bool = False) -> None:
    """One reader, and an instrument: one that counts all it is told, or the map's observer."""
    # Here, so that commits without instruments run all other programs.
    from trio_events import Instrument
    from trio_events.devtools import Observer

    class Counting(Instrument):
        count = 0

        def before_send(self, event: Event) -> None:
            self.count += 1

        def events_routed(self, events: Sequence[Event], subscriptions: object) -> None:
            self.count += len(events)

        def event_received(self, event: Event, subscription: Subscription) -> None:
            self.count += 1

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("orders.*")
        if by_the_map:
            Observer(bus)
        else:
            bus.add_instrument(Counting())
        nursery.start_soon(read, subscription, count)
        await send(bus, count)


async def send_nowait(count: int) -> None:
    """Nobody subscribes; the router gets a turn every 64 events."""
    async with open_event_bus() as bus:
        for number in range(count):
            bus.send_nowait(*NAMES, PAYLOAD)
            if number % 64 == 63:
                await trio.lowlevel.checkpoint()


async def ask(count: int) -> None:
    """Requests, each of which a handler replies to."""

    async def handler(event: Event) -> None:
        await bus.send("orders.eu", "order.accepted", event.path)

    async with open_event_bus() as bus:
        await bus.on(handler, "orders.*", "order.place")
        for _ in range(count):
            await bus.request("orders.eu", "order.place", "/orders/123")


async def ask_a_responder(count: int) -> None:
    """Requests that a responder answers."""

    async def responder(request: Event) -> object:
        return request.data

    async with open_event_bus() as bus:
        await bus.serve(responder, "orders.*", "order.place")
        for _ in range(count):
            await bus.request("orders.eu", "order.place", "/orders/123", PAYLOAD)


@attrs.frozen
class Program:
    """What is run, and how often for a difference that is worth something."""

    main: Callable[[int], Awaitable[None]]
    unit: str
    few: int
    many: int


def _fan_outs() -> dict[str, Program]:
    return {
        f"1→{subscribers}, {way}": Program(
            partial(fan_out, subscribers=subscribers, read=how), "delivery", few, many
        )
        for way, how in (("async for", read), ("batches()", read_batches))
        for subscribers, few, many in (
            (1, 2_000, 6_000),
            (10, 5_000, 15_000),
            (100, 30_000, 90_000),
        )
    }


PROGRAMS: Final[dict[str, Program]] = {
    **_fan_outs(),
    "1→1, receive()": Program(partial(fan_out, read=receive), "event", 2_000, 6_000),
    "1→1, alternating kinds": Program(
        partial(fan_out, send=send_alternating), "event", 2_000, 6_000
    ),
    "1→1, a buffer of 8, always full": Program(partial(fan_out, size=8), "event", 1_000, 3_000),
    "through an idle bus": Program(idle, "event", 500, 1_500),
    "send_nowait, nobody subscribes": Program(send_nowait, "event", 5_120, 15_360),
    "a call of a handler": Program(handle, "event", 2_000, 6_000),
    "1→1, watched by an instrument that counts": Program(watched, "event", 1_000, 3_000),
    "1→1, watched by the map": Program(partial(watched, by_the_map=True), "event", 1_000, 3_000),
    "a request and its reply": Program(ask, "request", 200, 600),
    "a request and its reply, by serve": Program(ask_a_responder, "request", 200, 600),
    "subscribe and close": Program(subscribe_and_close, "subscription", 200, 600),
}


def main() -> None:
    """Run one of the programs."""
    name, count = sys.argv[1:]
    logging.getLogger("trio_events").addHandler(logging.NullHandler())
    # Trio shuffles the tasks that can run. With another seed each time, counts would differ.
    _run._r.seed(0)
    gc.freeze()
    trio.run(PROGRAMS[name].main, int(count))


if __name__ == "__main__":
    main()
