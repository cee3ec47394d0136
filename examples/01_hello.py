"""Hello: subscribe with a pattern, send an event, read it."""

from __future__ import annotations

import trio

import trio_events as events


async def main() -> None:
    async with events.open_event_bus():
        subscription = await events.subscribe("greetings.*")
        await events.send("greetings.english", "greeting.said", "/world", "Hello, world!")

        event = await subscription.channel().receive()
        print(event.data)
        print(f"system {event.system}, kind {event.kind}, path {event.path}")


if __name__ == "__main__":
    trio.run(main)
