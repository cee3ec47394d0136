"""The bus around the caller: `send` and `subscribe` without a bus in hand."""

from __future__ import annotations

from ._bus import EventBus, current_bus
from ._errors import NoBusError
from ._overflow import Overflow
from ._subscription import Subscription


async def send(system: str, kind: str, path: str, data: object = None) -> None:
    """`EventBus.send` on the bus of the innermost `open_event_bus` around the caller.

    Tasks inherit that bus from the task that started them.

    Raises:
      NoBusError: If there is none.
    """
    await _bus().send(system, kind, path, data)


async def subscribe(
    system: str,
    kind: str | None = None,
    *,
    max_buffer_size: int = 256,
    overflow: Overflow = Overflow.BLOCK,
) -> Subscription:
    """`EventBus.subscribe` on the bus of the innermost `open_event_bus` around the caller.

    Tasks inherit that bus from the task that started them.

    Raises:
      NoBusError: If there is none.
    """
    return await _bus().subscribe(system, kind, max_buffer_size=max_buffer_size, overflow=overflow)


def _bus() -> EventBus:
    bus = current_bus.get(None)
    if bus is None or not bus.is_here():  # a thread may have inherited the context
        raise NoBusError(
            "there is no event bus here: call this inside `async with open_event_bus():`, "
            "or in a task started there"
        )
    return bus
