"""Processes for the tests of faults: `python program.py ROLE LOG FILE ...`. They get killed.

A process says what it has done by appending a line to FILE, which survives it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import trio

import trio_events as events
from trio_events.bridge import open_bridge


def note(file: str, text: str) -> None:
    """Append a line, in one piece, whatever happens to the process afterwards."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


async def write(log: str, file: str, first: str) -> None:
    """Export numbered events for ever, and note what is flushed."""
    async with events.open_event_bus() as bus:
        bridge = await open_bridge(bus, log, name="writer")
        await bridge.export("numbers")
        for number in range(int(first), 1_000_000):
            await events.send("numbers", "number", f"/{number}")
            if number % 20 == 0:
                await bridge.flush()
                note(file, str(number))


async def work(log: str, file: str, lease: str, concurrency: str, mode: str) -> None:
    """Handle jobs, and note which; some of them are deadly, or answered."""

    async def handle(event: events.Event) -> None:
        assert event.source is not None
        note(file, f"begin {event.path} {event.source.attempt} {os.getpid()}")
        if event.path == "/deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        await trio.sleep(0.005)
        if mode == "answer":
            await events.send("answers", "answer", event.path)
        note(file, f"end {event.path} {event.source.attempt} {os.getpid()}")

    async def bury(letter: events.DeadLetter) -> None:
        await trio.lowlevel.checkpoint()
        note(file, f"bury {letter.event.path} {type(letter.error).__name__}")

    async with events.open_event_bus() as bus:
        bus._on_dead_letter = bury
        bridge = await open_bridge(bus, log, name="worker")
        await bridge.export("answers")
        await bridge.on(
            handle,
            "jobs",
            group="g",
            lease=float(lease),
            concurrency=int(concurrency),
            max_attempts=3,
            after=0,
        )
        note(file, f"ready {os.getpid()}")
        await trio.sleep_forever()


if __name__ == "__main__":
    role: Any = {"write": write, "work": work}[sys.argv[1]]
    trio.run(role, *sys.argv[2:])
