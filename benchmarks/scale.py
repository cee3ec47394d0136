"""A hundred processes over one log, simulated: where does it bend?

Every process is a bus of its own in this one, over a log in memory whose operations take as long
as those of a server: one after the other, some microseconds each. Time is trio's mock clock, so
the delays are those of the model, not of this machine.
"""

from __future__ import annotations

import logging
import statistics
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from trio.testing import MockClock

import trio_events as events
from trio_events.bridge import Entry, LogSession, MemoryLog, open_bridge

CALL = 30e-6
"""Seconds that the server is busy with one call."""

ENTRY = 1.5e-6
"""Seconds for each entry that is appended or read."""

TRIP = 200e-6
"""Seconds of a round trip besides."""

SECONDS = 2.0


@attrs.define(eq=False)
class Server:
    """A log in memory that takes its time."""

    inner: MemoryLog = attrs.field(factory=MemoryLog)
    label: str = "server"
    busy: float = 0
    free_at: float = 0

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Any]:
        async with self.inner.open() as session:
            yield Session(self, session)

    async def work(self, entries: int) -> None:
        """Wait for the server's turn, and while it works."""
        cost = CALL + ENTRY * entries
        self.busy += cost
        self.free_at = max(self.free_at, trio.current_time()) + cost
        await trio.sleep_until(self.free_at + TRIP)


@attrs.define(eq=False)
class Session:
    """What an export and a follower use of a session."""

    server: Server
    inner: LogSession

    async def append(self, writer: str, first: int, entries: Sequence[bytes], seen: int) -> int:
        await self.server.work(len(entries))
        return await self.inner.append(writer, first, entries, seen)

    async def read(self, after: int, max_events: int, wait: float) -> list[Entry]:
        entries = await self.inner.read(after, max_events, wait)
        await self.server.work(len(entries))
        return entries

    async def bounds(self) -> tuple[int, int]:
        return await self.inner.bounds()


async def simulate(processes: int, rate: int) -> tuple[float, float, float]:
    """Delays (median, 99th of 100) in ms, and how busy the server was, of so many events a second.

    The events come from ten of the processes, and all follow all.
    """
    server, delays = Server(), []

    async def run_process(number: int, *, task_status: trio.TaskStatus[None]) -> None:
        async with events.open_event_bus() as bus:
            subscription = await bus.subscribe("s", max_buffer_size=10_000)
            bridge = await open_bridge(bus, server)
            await bridge.export("s", max_buffer_size=10_000)
            await bridge.follow("s")
            task_status.started()

            async def read() -> None:
                async for event in subscription:
                    if event.source is not None:
                        delays.append(trio.current_time() - float(str(event.data)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                if number < 10:
                    pause = 10 / rate
                    await trio.sleep(pause * number / 10)
                    while trio.current_time() < start + SECONDS:
                        await bus.send("s", "k", "/x", trio.current_time())
                        await trio.sleep(pause)
                await trio.sleep_until(start + SECONDS + 5)
                nursery.cancel_scope.cancel()

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(processes):
            await nursery.start(run_process, number)
    percentiles = statistics.quantiles(delays, n=100)
    return percentiles[49] * 1000, percentiles[98] * 1000, server.busy / SECONDS


def main() -> None:
    """Print a table of Markdown."""
    logging.disable()
    print("| processes | events a second | server busy | delay, p50 | delay, p99 |")
    print("|---|---|---|---|---|")
    for processes in (10, 30, 100):
        for rate in map(int, sys.argv[1:] or ["100", "300", "1000"]):
            p50, p99, busy = trio.run(
                simulate, processes, rate, clock=MockClock(autojump_threshold=0)
            )
            print(
                f"| {processes} | {rate} | {busy:.0%} | {p50:.1f} ms | {p99:.1f} ms |", flush=True
            )


if __name__ == "__main__":
    main()
