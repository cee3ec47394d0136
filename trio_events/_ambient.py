"""The bus around the caller: what `EventBus` does, without a bus in hand.

Each function uses the bus of the innermost `open_event_bus` around the caller. Tasks inherit it
from the task that started them.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import overload

from ._bus import REPLY_KIND, DataT, EventBus, current_bus
from ._errors import NoBusError
from ._event import Event
from ._handlers import Handler, HandlerSet
from ._overflow import Overflow
from ._subscription import Subscription
from ._supervision import OnError, Propagate
from ._waiter import EventWaiter


async def send(system: str, kind: str, path: str, data: object = None) -> None:
    """`EventBus.send` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    await _bus().send(system, kind, path, data)


@overload
async def subscribe(
    system: str,
    kind: str | None = None,
    *,
    path: str | None = None,
    max_buffer_size: int = 256,
    overflow: Overflow = Overflow.BLOCK,
) -> Subscription: ...


@overload
async def subscribe(
    system: str,
    kind: str | None = None,
    *,
    path: str | None = None,
    data: type[DataT],
    check_data: bool = False,
    max_buffer_size: int = 256,
    overflow: Overflow = Overflow.BLOCK,
) -> Subscription[DataT]: ...


async def subscribe(
    system: str,
    kind: str | None = None,
    *,
    path: str | None = None,
    data: type[DataT] | None = None,
    check_data: bool = False,
    max_buffer_size: int = 256,
    overflow: Overflow = Overflow.BLOCK,
) -> Subscription[DataT] | Subscription:
    """`EventBus.subscribe` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    return await _bus().subscribe(
        system,
        kind,
        path=path,
        data=data,  # type: ignore[arg-type]  # None is as good as nothing
        check_data=check_data,
        max_buffer_size=max_buffer_size,
        overflow=overflow,
    )


async def on(
    handler: Handler,
    system: str,
    kind: str | None = None,
    *,
    path: str | None = None,
    concurrency: int = 1,
    on_error: OnError = Propagate(),  # noqa: B008  # a frozen value
    max_buffer_size: int = 256,
    overflow: Overflow = Overflow.BLOCK,
) -> Subscription:
    """`EventBus.on` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    return await _bus().on(
        handler,
        system,
        kind,
        path=path,
        concurrency=concurrency,
        on_error=on_error,
        max_buffer_size=max_buffer_size,
        overflow=overflow,
    )


async def include(handlers: HandlerSet) -> tuple[Subscription, ...]:
    """`EventBus.include` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    return await _bus().include(handlers)


def expect(
    system: str, kind: str | None = None, *, path: str | None = None
) -> AbstractAsyncContextManager[EventWaiter]:
    """`EventBus.expect` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    return _bus().expect(system, kind, path=path)


async def wait_for(system: str, kind: str | None = None, *, path: str | None = None) -> Event:
    """`EventBus.wait_for` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    return await _bus().wait_for(system, kind, path=path)


async def request(
    system: str, kind: str, path: str, data: object = None, *, reply_kind: str = REPLY_KIND
) -> Event:
    """`EventBus.request` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    return await _bus().request(system, kind, path, data, reply_kind=reply_kind)


def _bus() -> EventBus:
    bus = current_bus.get(None)
    if bus is None or not bus.is_here():  # a thread may have inherited the context
        raise NoBusError(
            "there is no event bus here: call this inside `async with open_event_bus():`, "
            "or in a task started there"
        )
    return bus
