"""The example of the original, the `events` module of Wippy, line for line.

The comments that begin with `--` are the lines of the original, in Lua. Under each of them stands
the same in Python.
"""

from __future__ import annotations

import trio

# -- local events = require("events")
import trio_events as events


async def main() -> None:
    """Send the events of a small shop to four readers, and print what each of them got."""
    regional: list[events.Event] = []
    newcomers: list[events.Event] = []
    payments: list[events.Event] = []
    everything: list[events.Event] = []

    # Leaving the bus ends the channels, and thereby the readers, but does not wait for them: the
    # nursery does. That is why the nursery is outside, and the bus inside.
    async with trio.open_nursery() as readers, events.open_event_bus():
        # -- local sub, err = events.subscribe("orders.*")
        sub = await events.subscribe("orders.*")  # orders.eu, orders.us, but not orders itself
        readers.start_soon(read_step_by_step, sub, regional)

        # -- local sub = events.subscribe("users", "user.created")
        sub = await events.subscribe("users", "user.created")
        readers.start_soon(read, sub, newcomers)

        # -- local sub = events.subscribe("payments")
        payments_sub = await events.subscribe("payments")
        readers.start_soon(read, payments_sub, payments)

        # Not in the original: a fourth reader, who gets everything.
        sub = await events.subscribe("**")
        readers.start_soon(read, sub, everything)

        # -- events.send("orders", "order.created", "/orders/123", {order_id = "123", ...})
        order = {"order_id": "123", "total": 99.99}
        await events.send("orders", "order.created", "/orders/123", order)
        await events.send("orders.eu", "order.created", "/orders/124", {"total": 12.50})
        await events.send("orders.us", "order.created", "/orders/125", {"total": 7.25})

        # -- events.send("users", "user.registered", "/users/" .. user.id, {user_id = user.id, ...})
        user = {"user_id": 7, "email": "ada@example.org"}
        await events.send("users", "user.registered", f"/users/{user['user_id']}", user)
        await events.send("users", "user.created", f"/users/{user['user_id']}", user)

        # -- events.send("payments", "payment.completed", "/payments/" .. payment.id, {...})
        payment = {"order_id": "123", "amount": 99.99}
        await events.send("payments", "payment.completed", "/payments/9", payment)

        # -- events.send("system", "heartbeat", "/health")
        await events.send("system", "heartbeat", "/health")

        # -- sub:close()
        payments_sub.close()  # what was sent before is still read; what is sent now is not
        await events.send("payments", "payment.refunded", "/payments/9", payment)

        # -- local ok, err = events.send("orders", "order.created", "")
        try:
            await events.send("orders", "order.created", "")
        except events.EventBusError as err:  # -- errors.INVALID, not retryable
            print(f"Refused: {err}. Kind: {err.kind.name}. Retryable: {err.retryable}.\n")

    show('"orders.*"', regional)
    show('"users", "user.created"', newcomers)
    show('"payments", until it was closed', payments)
    show('"**"', everything)


async def read_step_by_step(sub: events.Subscription, got: list[events.Event]) -> None:
    """Read until the channel ends, one `receive` at a time, as in the original."""
    # -- local ch = sub:channel()
    ch = sub.channel()
    while True:
        # -- local evt, ok = ch:receive()
        # -- if not ok then break end
        try:
            evt = await ch.receive()
        except trio.EndOfChannel:
            break
        got.append(evt)


async def read(sub: events.Subscription, got: list[events.Event]) -> None:
    """The same in the words of Python."""
    async for evt in sub:
        got.append(evt)


def show(patterns: str, got: list[events.Event]) -> None:
    """Print what a reader got. Readers that print would do so in any order."""
    print(f"Events for {patterns}: {len(got)}")
    for evt in got:
        print(f"  {evt.system:<9}  {evt.kind:<17}  {evt.path:<11}  {evt.data}")
    print()


if __name__ == "__main__":
    trio.run(main)
