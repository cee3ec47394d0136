"""A shop and a mailer, each a process of its own, joined by a log.

Run `python examples/two_processes.py`, or with the URL of a log: `sqlite:///events.db`, or
`redis://127.0.0.1` if a server runs there. The shop sends orders, and waits for the mails.
"""

from __future__ import annotations

import sys
import tempfile

import trio

import trio_events as events
from trio_events.bridge import open_bridge

ORDERS = 3


async def shop(log: str) -> None:
    """Take some orders, and see that the customers get mail."""
    async with events.open_event_bus() as bus:
        bridge = await open_bridge(bus, log, name="shop")
        await bridge.export("orders.**")
        await bridge.follow("mails")
        async with events.expect("mails", "mail.sent") as mails:
            for number in range(1, ORDERS + 1):
                order = {"customer": f"customer{number}@example.org"}
                await events.send("orders.eu", "order.created", f"/orders/{number}", order)
            sent = mails.events()
            for _ in range(ORDERS):
                mail = await anext(sent)
                print(f"shop: the customer of {mail.path} knows", flush=True)


async def mailer(log: str) -> None:
    """Write to the customer of each order, and say so."""

    async def write(event: events.Event[dict[str, str]]) -> None:
        print(f"mailer: {event.path} goes to {event.data['customer']}", flush=True)
        await events.send("mails", "mail.sent", event.path)

    async with events.open_event_bus() as bus:
        bridge = await open_bridge(bus, log, name="mailer")
        await bridge.export("mails")
        # Several mailers would share the work; one that dies leaves its orders to the others.
        await bridge.on(write, "orders.**", "order.created", group="mailer", after=0)
        await trio.sleep_forever()


async def main(log: str) -> None:
    """Start both; when the shop is done, the mailer goes home."""
    async with trio.open_nursery() as nursery:

        async def run(role: str) -> None:
            await trio.run_process([sys.executable, __file__, role, log])

        nursery.start_soon(run, "mailer")
        await run("shop")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["shop", url]:
            trio.run(shop, url)
        case ["mailer", url]:
            trio.run(mailer, url)
        case [url]:
            trio.run(main, url)
        case _:
            with tempfile.TemporaryDirectory() as folder:
                trio.run(main, f"sqlite:///{folder}/events.db")
