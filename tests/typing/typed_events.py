"""What type checkers say about typed events. Never run, only checked, by mypy and by pyright.

Where a line is wrong on purpose, both of them must say so.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, assert_type

import attrs
import trio

import trio_events as events
from trio_events import (
    Event,
    EventBatches,
    EventBus,
    EventChannel,
    EventIterator,
    EventWaiter,
    HandlerSet,
    History,
    Log,
    Overflow,
    Reject,
    Retry,
    Subscription,
)


@attrs.frozen
class Order:
    number: int


@attrs.frozen
class Express(Order):
    hours: int


async def without_data_the_data_may_be_anything(bus: EventBus) -> None:
    subscription = await bus.subscribe("orders")
    assert_type(subscription, Subscription[object])
    assert_type(await subscription.channel().receive(), Event[object])
    async for event in subscription:
        assert_type(event, Event[object])
        assert_type(event.data, object)
        print(event.data.number)  # type: ignore[attr-defined]  # not before it is looked at
        if isinstance(event.data, Order):
            assert_type(event.data, Order)


async def data_narrows_whatever_the_channel_yields(bus: EventBus) -> None:
    subscription = await bus.subscribe("orders", data=Order)
    assert_type(subscription, Subscription[Order])
    channel = subscription.channel()
    assert_type(channel, EventChannel[Order])
    assert_type(await channel.receive(), Event[Order])
    assert_type(channel.receive_nowait(), Event[Order])
    assert_type(channel.receive_nowait().data, Order)
    assert_type(channel.receive_nowait().data.number, int)
    assert_type(channel.receive_nowait().path, str)
    assert_type(channel.batches(), EventBatches[Order])
    assert_type(aiter(channel), EventIterator[Order])
    assert_type(aiter(subscription), EventIterator[Order])
    async for event in subscription:
        assert_type(event, Event[Order])
    async for event in channel:
        assert_type(event, Event[Order])
    async for batch in channel.batches(max_size=10):
        assert_type(batch, list[Event[Order]])


async def with_all_options(bus: EventBus) -> None:
    async with await bus.subscribe(
        "orders",
        "order.*",
        path="/orders/*",
        data=Order,
        max_buffer_size=10,
        overflow=Overflow.CLOSE,
    ) as subscription:
        assert_type(subscription, Subscription[Order])
    assert_type(
        await events.subscribe("orders", data=Order),
        Subscription[Order],
    )
    assert_type(await events.subscribe("orders", path="/x"), Subscription[object])
    assert_type(await bus.subscribe("orders", data=int), Subscription[int])


async def what_is_checked_must_be_said(bus: EventBus) -> None:
    await bus.subscribe("orders", data=1)  # type: ignore[call-overload]  # no type


async def what_a_history_keeps_may_have_any_data(bus: EventBus) -> None:
    async with await bus.open_history("orders", per_path=None) as history:
        assert_type(history, History)
    assert_type(history.events(), list[Event[object]])
    assert_type(history.last("orders", "order.created", "/orders/1"), Event[object] | None)
    assert_type(await bus.subscribe("orders", history=history), Subscription[object])
    assert_type(await events.subscribe("orders", data=Order, history=history), Subscription[Order])


DataT = TypeVar("DataT")


@attrs.frozen
class Topic(Generic[DataT]):
    """As in docs/how-to/recipes.md."""

    system: str
    kind: str
    data: type[DataT]

    async def send(self, path: str, data: DataT) -> None:
        await events.send(self.system, self.kind, path, data)

    async def subscribe(self, **options: Any) -> Subscription[DataT]:
        return await events.subscribe(self.system, self.kind, data=self.data, **options)


async def a_topic_finds_the_wrong_payload_where_it_is_sent() -> None:
    topic = Topic("orders", "order.created", Order)
    await topic.send("/orders/1", Order(1))
    await topic.send("/orders/1", 42)  # type: ignore[arg-type]  # no order
    assert_type(await topic.subscribe(path="/orders/1"), Subscription[Order])


async def expected_events_may_have_any_data(bus: EventBus) -> None:
    async with bus.expect("orders", "order.*", path="/orders/1") as waiter:
        assert_type(waiter, EventWaiter)
        assert_type(await waiter.event(), Event[object])
        async for event in waiter.events():
            assert_type(event, Event[object])
    async with events.expect("orders") as waiter:
        assert_type(waiter, EventWaiter)
    assert_type(await bus.wait_for("orders"), Event[object])
    assert_type(await events.wait_for("orders"), Event[object])
    reply = await bus.request("orders", "order.place", "/orders/1", Order(1))
    assert_type(reply, Event[object])
    assert_type(reply.accepted, bool)
    assert_type(await events.request("orders", "place", "/1", reply_kind="done"), Event[object])


def an_event_has_the_type_of_its_data() -> None:
    event = Event("orders", "order.created", "/orders/1", Order(1))
    assert_type(event, Event[Order])
    assert_type(event.data, Order)


async def what_is_more_special_will_do(bus: EventBus) -> None:
    async def ship(orders: Subscription[Order]) -> None:
        async for order in orders:
            assert_type(order.data.number, int)

    def show(event: Event) -> None:
        assert_type(event.data, object)

    async def read(channel: trio.abc.ReceiveChannel[Event[Order]]) -> None:
        assert_type((await channel.receive()).data, Order)

    express = await bus.subscribe("orders", data=Express)
    await ship(express)
    show(express.channel().receive_nowait())
    await read((await bus.subscribe("orders", data=Order)).channel())
    anything = await bus.subscribe("orders")
    await ship(anything)  # type: ignore[arg-type]  # it may have other data


async def a_handler_may_say_what_data_it_expects(bus: EventBus) -> None:
    handlers = HandlerSet()

    @handlers.on("orders")
    async def typed(event: Event[Order]) -> None:
        assert_type(event.data, Order)

    @handlers.on("orders")
    async def untyped(event: Event) -> str:
        assert_type(event.data, object)
        return "done"

    # A declared handler stays what it is.
    same: Callable[[Event[Order]], Awaitable[None]] = typed
    assert_type(await untyped(Event("a", "k", "/x", 1)), str)
    assert_type(await bus.on(same, "orders"), Subscription[object])
    assert_type(await bus.include(handlers), tuple[Subscription[object], ...])


async def wants_orders(event: Event[Order]) -> int:
    return event.data.number


async def wants_numbers(event: Event[int]) -> None:
    print(event.data)


async def wants_anything(event: Event) -> None:
    print(event.data)


def is_not_async(event: Event) -> None:
    print(event.data)


async def wants_more(event: Event, more: int) -> None:
    print(event.data, more)


async def data_says_which_handlers_will_do(bus: EventBus) -> None:
    assert_type(await bus.on(wants_orders, "orders", data=Order), Subscription[Order])
    assert_type(await bus.on(wants_orders, "orders", data=Express), Subscription[Express])
    assert_type(await bus.on(wants_anything, "orders", data=Order), Subscription[Order])
    assert_type(await bus.on(wants_orders, "orders", concurrency=2), Subscription[object])
    assert_type(await events.on(wants_orders, "orders", data=Order), Subscription[Order])
    assert_type(await bus.serve(wants_orders, "orders", data=Order), Subscription[Order])
    assert_type(await bus.serve(wants_orders, "orders", ordered=True), Subscription[object])
    assert_type(await events.serve(wants_orders, "orders", data=Order), Subscription[Order])
    await bus.on(wants_numbers, "orders", data=Order)  # type: ignore[arg-type]  # wrong data
    await bus.serve(wants_numbers, "orders", data=Order)  # type: ignore[arg-type]  # wrong data
    await events.on(wants_numbers, "orders", data=Order)  # type: ignore[arg-type]  # wrong data
    await events.serve(wants_numbers, "orders", data=Order)  # type: ignore[arg-type]  # wrong data
    await bus.on(is_not_async, "orders")  # type: ignore[arg-type]
    await bus.serve(is_not_async, "orders", data=Order)  # type: ignore[arg-type]
    await bus.on(wants_more, "orders")  # type: ignore[arg-type]
    await bus.serve(wants_more, "orders")  # type: ignore[arg-type]


def declared_handlers_fit_their_data() -> None:
    handlers = HandlerSet()
    same = handlers.on("orders", data=Order)(wants_orders)
    assert_type(same, Callable[[Event[Order]], Awaitable[int]])
    handlers.serve("orders", data=Express)(wants_orders)
    handlers.serve("orders", data=Order)(wants_anything)
    handlers.on("orders", data=Order)(wants_numbers)  # type: ignore[arg-type]  # wrong data
    handlers.serve("orders", data=Order)(wants_numbers)  # type: ignore[arg-type]  # wrong data
    handlers.on("orders")(is_not_async)  # type: ignore[type-var]
    handlers.serve("orders")(wants_more)  # type: ignore[type-var]

    @handlers.serve("orders", data=Order)
    async def responder(request: Event[Order]) -> str:
        raise Reject(request.data.number)

    declared: Callable[[Event[Order]], Awaitable[str]] = responder
    print(declared)


async def requests_can_be_replied_to(bus: EventBus, request: Event[Order]) -> None:
    await bus.reply(request, request.data, accepted=False)
    await events.reply(request)
    await bus.reply("orders")  # type: ignore[arg-type]  # not a request
    await bus.wait_for("orders", where=lambda event: event.path == "/x")


def policies_are_checked() -> None:
    Retry(5, backoff=1, only=(OSError, ValueError), then=Log())
    Retry(then=Retry())  # type: ignore[arg-type]  # not again
    Retry(only=KeyboardInterrupt)  # type: ignore[arg-type]  # that is no Exception


def without_parameters_these_are_of_object(
    event: Event, subscription: Subscription, channel: EventChannel
) -> None:
    assert_type(event, Event[object])
    assert_type(subscription, Subscription[object])
    assert_type(channel, EventChannel[object])


def anything_goes(event: Event[Any]) -> None:
    assert_type(event.data, Any)


async def a_consumer_gets_the_arguments_that_it_takes(bus: EventBus) -> None:
    async def consume(subscription: Subscription[Order], name: str) -> None:
        pass

    orders = await bus.subscribe("orders", data=Order)
    bus.start_soon(consume, orders, "billing")
    bus.start_soon(consume, orders, "billing", name="billing")
    events.start_soon(consume, orders, "billing")
    bus.start_soon(consume, orders)  # type: ignore[arg-type]  # one too few
    bus.start_soon(consume, orders, 1)  # type: ignore[arg-type]  # no name
    events.start_soon(consume, await bus.subscribe("orders"), "x")  # type: ignore[arg-type]  # of anything
    assert_type(await bus.start(consume, orders, "billing"), Any)
