"""An order flow: requests and replies, a payment handler that fails, and an end in good order.

For each order the shop asks the stock for the item, and then the cashier for the money. The
cashier talks to a bank that is not always there: then its handler fails, is restarted after a
pause, and gets the same request again. When the shop closes, there are orders left; they are
finished first.
"""

from __future__ import annotations

import logging
from collections import Counter

import attrs
import trio
import trio.testing

import trio_events as events

handlers = events.HandlerSet()
stock = Counter(tea=2, cake=1)
books: list[str] = []


@attrs.frozen
class Order:
    """Who wants what, and pays how much for it."""

    customer: str
    item: str
    price: int


class BankError(Exception):
    """The bank does not answer."""


@attrs.define
class Bank:
    """Does not answer so many times as it is told."""

    failures: int = 0

    async def transfer(self, price: int) -> None:
        """Move the money, which takes a second."""
        await trio.sleep(1)
        if self.failures:
            self.failures -= 1
            raise BankError(f"no answer about {price} euros")


bank = Bank()


@handlers.on("orders", "order.placed")
async def check_out(placed: events.Event[Order]) -> None:
    """Lead an order through the shop."""
    order, path = placed.data, placed.path
    say(f"shop:    {order.customer} orders {order.item}")
    # A reply is found by its path, so any number of orders could be on their way at once.
    reply = await events.request("stock", "item.reserve", path, order)
    if not reply.accepted:
        say(f"shop:    {order.item} is {reply.data}")
        await events.send("orders", "order.rejected", path, order)
        return
    try:
        with trio.fail_after(60):
            await events.request("payments", "payment.request", path, order)
    except trio.TooSlowError:
        say(f"shop:    no money from {order.customer}")
        await events.send("orders", "order.rejected", path, order)
    else:
        say(f"shop:    {order.item} for {order.customer}")
        await events.send("orders", "order.completed", path, order)


@handlers.on("stock", "item.reserve")
async def reserve(request: events.Event[Order]) -> None:
    """Say yes if there is one left."""
    if stock[request.data.item]:
        stock[request.data.item] -= 1
        await events.send("stock", "item.accepted", request.path)
    else:
        await events.send("stock", "item.rejected", request.path, "sold out")


@handlers.on("payments", "payment.request", on_error=events.Restart(max_restarts=3, backoff=2))
async def collect(request: events.Event[Order]) -> None:
    """Move the money. If the bank fails, so do we: then we are called again, after a pause."""
    say(f"cashier: {request.data.price} euros from {request.data.customer}")
    try:
        await bank.transfer(request.data.price)
    except BankError as error:
        say(f"cashier: {error}")
        raise
    await events.send("payments", "payment.accepted", request.path)


@handlers.on("orders", "order.(completed|rejected)", path="/orders/*")
async def keep_the_books(event: events.Event[Order]) -> None:  # noqa: ASYNC124  # handlers are
    """Write down how orders end."""
    books.append(f"{event.path}: {event.kind}, {event.data.item} for {event.data.customer}")


def say(text: str) -> None:
    """Print what happens, and when."""
    print(f"{trio.current_time():4.0f} s  {text}")


async def main() -> None:
    """Serve four customers, of whom one comes too late for the cake."""
    async with events.open_event_bus(drain_timeout=60):
        await events.include(handlers)

        # In force before the order is placed, so that its end cannot be missed.
        async with events.expect("orders", "order.completed", path="/orders/1") as completed:
            await events.send("orders", "order.placed", "/orders/1", Order("Ada", "tea", 3))
            await completed.event()

        bank.failures = 2  # from now on: the cashier tries again after 2 s, then after 4 s
        say("shop:    about to close")
        await events.send("orders", "order.placed", "/orders/2", Order("Bob", "cake", 5))
        await events.send("orders", "order.placed", "/orders/3", Order("Cleo", "cake", 5))
        await events.send("orders", "order.placed", "/orders/4", Order("Dan", "tea", 3))
        # Leaving the bus waits for the handlers, which may still use it: nobody else may.
    say("shop:    closed")
    print("\nThe books:", *books, sep="\n  ")


if __name__ == "__main__":
    # What the bus logs about a handler that fails, we print ourselves.
    logging.getLogger("trio_events").setLevel(logging.CRITICAL)
    # This clock jumps to the next thing that happens, so that nobody has to wait for the bank.
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
