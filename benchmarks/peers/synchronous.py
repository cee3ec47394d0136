"""Callback dispatchers: no queue and no task, publishing calls every subscriber's function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..measuring import PAYLOAD, Load, start_clock, stop_clock

Handler: TypeAlias = Callable[..., None]
Count: TypeAlias = Callable[[], int]


def counting() -> tuple[Handler, Count]:
    """A subscriber: a plain function of a message, which they are best at, and its count."""
    count = 0

    def handle(message: object) -> None:
        nonlocal count
        count += 1

    return handle, lambda: count


def counting_from_sender() -> tuple[Handler, Count]:
    """The same for those who also say who sent the message."""
    count = 0

    def handle(sender: object, message: object) -> None:
        nonlocal count
        count += 1

    return handle, lambda: count


def contest(load: Load, publish: Callable[[int], None], counts: Sequence[Count]) -> float:
    """Publish everything; returns the seconds a delivery took."""
    started = start_clock()
    publish(load.events)
    took = stop_clock(started)
    return load.per_delivery(took, [count() for count in counts])


def blinker(load: Load) -> float:
    """A signal."""
    from blinker import Signal

    signal = Signal()
    handlers, counts = zip(*[counting_from_sender() for _ in range(load.subscribers)], strict=True)
    for handler in handlers:
        signal.connect(handler, weak=False)

    def publish(events: int) -> None:
        for _ in range(events):
            signal.send("orders", message=PAYLOAD)

    return contest(load, publish, counts)


def psygnal(load: Load) -> float:
    """A signal of a class."""
    from psygnal import Signal

    class Orders:
        created = Signal(object)

    orders = Orders()
    handlers, counts = zip(*[counting() for _ in range(load.subscribers)], strict=True)
    for handler in handlers:
        orders.created.connect(handler)

    def publish(events: int) -> None:
        emit = orders.created.emit
        for _ in range(events):
            emit(PAYLOAD)

    return contest(load, publish, counts)


def pyee(load: Load) -> float:
    """The plain emitter."""
    from pyee.base import EventEmitter

    emitter = EventEmitter()
    handlers, counts = zip(*[counting() for _ in range(load.subscribers)], strict=True)
    for handler in handlers:
        emitter.on("orders", handler)

    def publish(events: int) -> None:
        for _ in range(events):
            emitter.emit("orders", PAYLOAD)

    return contest(load, publish, counts)


def pypubsub(load: Load) -> float:
    """A topic. It holds handlers weakly, and its topics are global."""
    from pubsub import pub

    handlers, counts = zip(*[counting() for _ in range(load.subscribers)], strict=True)
    for handler in handlers:
        pub.subscribe(handler, "orders")

    def publish(events: int) -> None:
        for _ in range(events):
            pub.sendMessage("orders", message=PAYLOAD)

    try:
        return contest(load, publish, counts)
    finally:
        pub.unsubAll("orders")
