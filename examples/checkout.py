"""An order flow: services that answer, a payment that is tried again, and an end in good order.

For each order the shop asks the stock for the item, and then the cashier for the money. The
cashier talks to a bank that doesn't always answer: then it tries again after a pause. A payment
that fails for good is a dead letter, which is kept for a human to look at. When the shop closes,
there are orders left; they are finished first.
"""

from __future__ import annotations

import logging
from collections import Counter

import attrs
import trio
import trio.testing

import trio_events as events

handlers = events.HandlerSet()
stock = Counter(tea=1, cake=2)
books: list[str] = []
unpaid: list[str] = []


@attrs.frozen
class Order:
    """What a customer wants, and its price."""

    customer: str
    item: str
    price: int


class BankError(Exception):
    """The bank does not answer."""


@attrs.define
class Bank:
    """Fails a number of times for some customers."""

    failures: Counter[str]

    async def transfer(self, order: Order) -> str:
        """Move the money, which takes a second, and return a receipt."""
        await trio.sleep(1)
        if self.failures[order.customer]:
            self.failures[order.customer] -= 1
            raise BankError(f"no answer about {order.price} euros")
        return f"receipt for {order.price} euros"


bank = Bank(Counter(Bob=2, Dan=99))


@handlers.serve("stock", "item.reserve", data=Order)
async def reserve(request: events.Event[Order]) -> None:  # noqa: ASYNC124  # responders are
    """Accept if there is one left."""
    if not stock[request.data.item]:
        raise events.Reject("sold out")
    stock[request.data.item] -= 1


RETRY = events.Retry(3, backoff=2, jitter=0, only=BankError, then=events.Log())


@handlers.serve("payments", "payment.collect", data=Order, on_error=RETRY)
async def collect(request: events.Event[Order]) -> str:
    """Move the money. What the bank raises leaves: then this is called again, after a pause."""
    order = request.data
    say(f"cashier: {order.price} euros from {order.customer}")
    return await bank.transfer(order)


@handlers.on("orders", "order.placed", data=Order)
async def check_out(placed: events.Event[Order]) -> None:
    """Lead an order through the shop."""
    order, path = placed.data, placed.path
    say(f"shop:    {order.customer} orders {order.item}")
    reply = await events.request("stock", "item.reserve", path, order)
    if not reply.accepted:
        say(f"shop:    {order.item} is {reply.data}")
        await events.send("orders", "order.rejected", path, order)
        return
    try:
        with trio.fail_after(60):
            reply = await events.request("payments", "payment.collect", path, order)
    except (trio.TooSlowError, events.RequestFailedError):
        stock[order.item] += 1
        say(f"shop:    no money from {order.customer}")
        await events.send("orders", "order.rejected", path, order)
    else:
        say(f"shop:    {order.item} for {order.customer}, {reply.data}")
        await events.send("orders", "order.completed", path, order)


@handlers.on("orders", "order.(completed|rejected)", path="/orders/*", data=Order)
async def keep_the_books(event: events.Event[Order]) -> None:  # noqa: ASYNC124  # handlers are
    """Write down how orders end."""
    books.append(f"{event.path}: {event.kind}, {event.data.item} for {event.data.customer}")


async def keep(letter: events.DeadLetter) -> None:
    """Keep what could not be handled. The handler waits until it is safe."""
    await trio.sleep(0.5)
    unpaid.append(f"{letter.event.path}: {letter.error}")


def say(text: str) -> None:
    """Print what happens, and when."""
    print(f"{trio.current_time():4.1f} s  {text}")


async def main() -> None:
    """Serve four customers; one comes too late for the tea, and one never pays."""
    async with events.open_event_bus(drain_timeout=60, on_dead_letter=keep):
        await events.include(handlers)

        # In force before the order is placed, so that its end cannot be missed.
        async with events.expect("orders", "order.completed", path="/orders/1") as completed:
            await events.send("orders", "order.placed", "/orders/1", Order("Ada", "tea", 3))
            await completed.event()

        say("shop:    about to close")
        await events.send("orders", "order.placed", "/orders/2", Order("Bob", "cake", 5))
        await events.send("orders", "order.placed", "/orders/3", Order("Cleo", "tea", 3))
        await events.send("orders", "order.placed", "/orders/4", Order("Dan", "cake", 5))
        # Leaving the bus waits for the handlers, which may still use it, unlike everything else.
    say("shop:    closed")
    print("\nThe books:", *books, sep="\n  ")
    print("\nUnpaid:", *unpaid, sep="\n  ")


if __name__ == "__main__":
    # The bus logs each attempt that fails, with a traceback; this prints its own lines instead.
    logging.getLogger("trio_events").setLevel(logging.CRITICAL)
    # This clock jumps to the next thing that happens, so that you don't wait for the bank.
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
