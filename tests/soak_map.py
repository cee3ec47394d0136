"""Leave the live map open for as long as you like: python tests/soak_map.py --seconds 3600

A program sends 1,000 events a second while a page looks at its map. Subscriptions come and go, a
reader is too slow, handlers fail, requests are answered, and there are always names that the map
has not seen before. The memory of the process must not grow by more than 5 MiB once it has warmed
up; if it does, this says so and exits with 1. For Linux.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import os
import statistics
import sys
from pathlib import Path
from typing import Final

import trio

from trio_events import Event, EventBus, Log, Overflow, open_event_bus
from trio_events.devtools import serve_map
from trio_events.devtools._client import ask, fetch

NEWEST: Final = Overflow.DROP_OLDEST
RATE: Final = 1000
"""Events a second."""

SAMPLES: Final = 40
WARM_FROM: Final = 0.25
"""The part of the run after which the memory is judged. By then, all that the map remembers is
full, if the run takes half a minute."""


async def fail_at_times(event: Event[int]) -> None:
    if event.data % 50 == 0:
        raise ValueError(event.data)


async def answer(event: Event) -> object:
    return event.data


async def send_all(bus: EventBus) -> None:
    """Send at the rate, in twenty bursts a second."""
    began = trio.current_time()
    for number in itertools.count():
        if number % (RATE // 20) == 0:
            await trio.sleep_until(began + number / RATE)
        match number % 10:
            case 0:
                await bus.send(f"fresh.{number}", "seen.once", f"/{number}", number)
            case 1:
                await bus.request("questions", "ask", f"/{number}", number)
            case _:
                await bus.send("orders", f"order.{number % 7}", f"/orders/{number}", number)


async def come_and_go(bus: EventBus) -> None:
    """Open a subscription, read a little, and close it."""
    while True:
        async with await bus.subscribe("orders", data=int, overflow=NEWEST) as subscription:
            async for event in subscription:
                if event.data % 3 == 0:
                    break
        await trio.sleep(0.01)


async def read_slowly(bus: EventBus) -> None:
    """Lose most events."""
    slow = await bus.subscribe("orders", max_buffer_size=8, overflow=NEWEST)
    async for _ in slow:
        await trio.sleep(0.05)


async def look(url: str) -> None:
    """Do what a page does, and click on an event now and then."""
    async with ask(url, "stream") as answer:
        while (state := await answer.state()) is not None:
            if state["events"]:
                await fetch(url, f"tree?number={state['events'][-1]['number']}")


def resident() -> float:
    """The memory that the process occupies, in MiB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def soak(seconds: float) -> float:
    """Let it run; returns the growth in MiB, from the end of the warm-up to the end."""
    samples: list[float] = []
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        url = await nursery.start(serve_map, bus)
        await bus.on(fail_at_times, "orders", "order.1", data=int, on_error=Log())
        await bus.serve(answer, "questions")
        for task in (send_all, come_and_go, read_slowly):
            nursery.start_soon(task, bus)
        nursery.start_soon(look, url)
        began = trio.current_time()
        for number in range(SAMPLES):
            await trio.sleep_until(began + (number + 1) * seconds / SAMPLES)
            samples.append(resident())
        accepted = bus.statistics().accepted
        nursery.cancel_scope.cancel()
    warm = samples[int(WARM_FROM * SAMPLES) :]
    growth = statistics.mean(warm[-3:]) - statistics.mean(warm[:3])
    print(f"{accepted:,} events in {seconds:.0f} s: {warm[0]:.1f} MiB, {growth:+.1f} MiB")
    return growth


def main() -> None:
    parser = argparse.ArgumentParser(description="Leave the live map open.")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--max-growth", type=float, default=5, help="in MiB")
    arguments = parser.parse_args()
    logging.getLogger("trio_events").setLevel(logging.CRITICAL)  # there will be losses and failures
    growth = trio.run(soak, arguments.seconds)
    if growth > arguments.max_growth:
        sys.exit(f"WRONG: the memory has grown by {growth:.1f} MiB")


if __name__ == "__main__":
    main()
