"""A pipeline of three stages, one of them slow, ended by a signal with nothing lost.

The stages belong to the bus: when it is closed, they finish what is on its way. So that the example
ends by itself, the camera sends the signal.
"""

from __future__ import annotations

import signal
from collections import Counter

import trio

import trio_events as events

done: Counter[str] = Counter()


async def take_photos() -> None:
    for number in range(1, 101):
        await events.send("photos.raw", "photo.taken", f"/photos/{number}")
        done["taken"] += 1  # not reached if send is cancelled: then nothing was sent
    signal.raise_signal(signal.SIGTERM)
    await trio.sleep_forever()  # the camera stays on


async def develop(photos: events.Subscription) -> None:
    async for photo in photos:
        await events.send("photos.developed", "photo.developed", photo.path)
        done["developed"] += 1


async def shrink(photos: events.Subscription) -> None:
    async for photo in photos:
        await trio.sleep(0.002)  # this is the slow stage: the others wait for it
        await events.send("photos.small", "photo.shrunk", photo.path)
        done["shrunk"] += 1


async def publish(photos: events.Subscription) -> None:
    async for _photo in photos:
        done["published"] += 1
    print("nothing is on its way any more")


async def main() -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with events.open_event_bus() as bus, trio.open_nursery() as cameras:
            bus.start_soon(publish, await bus.subscribe("photos.small", max_buffer_size=4))
            bus.start_soon(shrink, await bus.subscribe("photos.developed", max_buffer_size=4))
            bus.start_soon(develop, await bus.subscribe("photos.raw", max_buffer_size=4))
            cameras.start_soon(take_photos)
            print(f"stopped by {signal.Signals(await anext(signals)).name}")
            cameras.cancel_scope.cancel()
    print(", ".join(f"{count} {what}" for what, count in done.items()))


if __name__ == "__main__":
    trio.run(main)
