"""The bus around the caller: what `EventBus` does, without a bus in hand.

Each function uses the bus of the innermost `open_event_bus` around the caller. Tasks inherit it
from the task that started them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, Unpack, final, overload

import trio

from ._bus import DataT, EventBus, current_bus
from ._core.buffer import Overflow
from ._errors import NoBusError
from ._event import Event
from ._handlers.registration import Handler, HandlerSet
from ._handlers.staff import ArgsT
from ._handlers.supervision import Log, OnError, Propagate
from ._history import History
from ._names.pattern import ExactPath
from ._requests import REPLY_KIND, EventWaiter
from ._subscription import Subscription


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
    path: str | ExactPath | None = None,
    max_buffer_size: int = 256,
    overflow: Overflow = Overflow.BLOCK,
    history: History | None = None,
) -> Subscription: ...


@overload
async def subscribe(
    system: str,
    kind: str | None = None,
    *,
    path: str | ExactPath | None = None,
    data: type[DataT],
    max_buffer_size: int = 256,
    overflow: Overflow = Overflow.BLOCK,
    history: History | None = None,
) -> Subscription[DataT]: ...


async def subscribe(
    system: str,
    kind: str | None = None,
    *,
    path: str | ExactPath | None = None,
    data: type[DataT] | None = None,
    max_buffer_size: int = 256,
    overflow: Overflow = Overflow.BLOCK,
    history: History | None = None,
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
        max_buffer_size=max_buffer_size,
        overflow=overflow,
        history=history,
    )


@overload
def on(
    handler: Handler,
    system: str | None = None,
    kind: str | None = None,
    *,
    path: str | ExactPath | None = None,
    concurrency: int = 1,
    ordered: bool = False,
    on_error: OnError = Propagate(),  # noqa: B008  # a frozen value
    max_buffer_size: int = 256,
    overflow: Overflow = Overflow.BLOCK,
    history: History | None = None,
) -> Coroutine[Any, Any, Subscription]: ...


@overload
def on(
    handler: Callable[[Event[DataT]], Awaitable[object]],
    system: str | None = None,
    kind: str | None = None,
    *,
    path: str | ExactPath | None = None,
    data: type[DataT],
    concurrency: int = 1,
    ordered: bool = False,
    on_error: OnError = Propagate(),  # noqa: B008  # a frozen value
    max_buffer_size: int = 256,
    overflow: Overflow = Overflow.BLOCK,
    history: History | None = None,
) -> Coroutine[Any, Any, Subscription[DataT]]: ...


def on(
    handler: Handler,
    system: str | None = None,
    kind: str | None = None,
    *,
    path: str | ExactPath | None = None,
    data: type[Any] | None = None,
    concurrency: int = 1,
    ordered: bool = False,
    on_error: OnError = Propagate(),  # noqa: B008  # a frozen value
    max_buffer_size: int = 256,
    overflow: Overflow = Overflow.BLOCK,
    history: History | None = None,
) -> Coroutine[Any, Any, Subscription[Any]]:
    """`EventBus.on` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    return _bus().on(
        handler,
        system,
        kind,
        path=path,
        concurrency=concurrency,
        ordered=ordered,
        on_error=on_error,
        max_buffer_size=max_buffer_size,
        overflow=overflow,
        history=history,
    )


@overload
def serve(
    responder: Handler,
    system: str,
    kind: str | None = None,
    *,
    path: str | ExactPath | None = None,
    concurrency: int = 1,
    ordered: bool = False,
    on_error: OnError = Log(),  # noqa: B008  # a frozen value
    max_buffer_size: int = 256,
    overflow: Overflow = Overflow.BLOCK,
) -> Coroutine[Any, Any, Subscription]: ...


@overload
def serve(
    responder: Callable[[Event[DataT]], Awaitable[object]],
    system: str,
    kind: str | None = None,
    *,
    path: str | ExactPath | None = None,
    data: type[DataT],
    concurrency: int = 1,
    ordered: bool = False,
    on_error: OnError = Log(),  # noqa: B008  # a frozen value
    max_buffer_size: int = 256,
    overflow: Overflow = Overflow.BLOCK,
) -> Coroutine[Any, Any, Subscription[DataT]]: ...


def serve(
    responder: Handler,
    system: str,
    kind: str | None = None,
    *,
    path: str | ExactPath | None = None,
    data: type[Any] | None = None,
    concurrency: int = 1,
    ordered: bool = False,
    on_error: OnError = Log(),  # noqa: B008  # a frozen value
    max_buffer_size: int = 256,
    overflow: Overflow = Overflow.BLOCK,
) -> Coroutine[Any, Any, Subscription[Any]]:
    """`EventBus.serve` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    return _bus().serve(
        responder,
        system,
        kind,
        path=path,
        concurrency=concurrency,
        ordered=ordered,
        on_error=on_error,
        max_buffer_size=max_buffer_size,
        overflow=overflow,
    )


async def reply(request: Event[Any], data: object = None, *, accepted: bool = True) -> None:
    """`EventBus.reply` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    await _bus().reply(request, data, accepted=accepted)


async def include(handlers: HandlerSet) -> tuple[Subscription, ...]:
    """`EventBus.include` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    return await _bus().include(handlers)


def start_soon(
    async_fn: Callable[[Unpack[ArgsT]], Awaitable[object]],
    *args: *ArgsT,
    name: object = None,
) -> None:
    """`EventBus.start_soon` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    _bus().start_soon(async_fn, *args, name=name)


async def start(
    async_fn: Callable[..., Awaitable[object]], *args: object, name: object = None
) -> Any:
    """`EventBus.start` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    return await _bus().start(async_fn, *args, name=name)


def expect(
    system: str,
    kind: str | None = None,
    *,
    path: str | ExactPath | None = None,
    max_buffer_size: int = 256,
    history: History | None = None,
) -> AbstractAsyncContextManager[EventWaiter]:
    """`EventBus.expect` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    return _bus().expect(system, kind, path=path, max_buffer_size=max_buffer_size, history=history)


async def wait_for(
    system: str,
    kind: str | None = None,
    *,
    path: str | ExactPath | None = None,
    where: Callable[[Event[Any]], object] | None = None,
    history: History | None = None,
) -> Event:
    """`EventBus.wait_for` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    return await _bus().wait_for(system, kind, path=path, where=where, history=history)


async def request(
    system: str, kind: str, path: str, data: object = None, *, reply_kind: str = REPLY_KIND
) -> Event:
    """`EventBus.request` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    return await _bus().request(system, kind, path, data, reply_kind=reply_kind)


async def open_history(
    system: str,
    kind: str | None = None,
    *,
    path: str | ExactPath | None = None,
    per_path: int | None = 1,
    max_events: int = 1024,
) -> History:
    """`EventBus.open_history` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    return await _bus().open_history(
        system, kind, path=path, per_path=per_path, max_events=max_events
    )


def is_wanted(system: str, kind: str, path: str) -> bool:
    """`EventBus.is_wanted` on the bus around the caller.

    Raises:
      NoBusError: If there is none.
    """
    return _bus().is_wanted(system, kind, path)


@final
class use(AbstractContextManager[EventBus, None]):  # noqa: N801  # it is used as a function is
    """Make a bus the one around the block, and around tasks that are started in it.

    For example `with events.use(bus.for_actor("plugin")):`, in whose block the functions of this
    module act in the name of the plugin. Entering and leaving are no checkpoints.

    Args:
      bus: An open bus.

    Raises:
      TypeError: If it is not an `EventBus`.
    """

    def __init__(self, bus: EventBus) -> None:
        if not isinstance(bus, EventBus):
            raise TypeError(f"bus must be an EventBus, not {bus!r}")
        self._bus = bus

    @trio.lowlevel.enable_ki_protection
    def __enter__(self) -> EventBus:
        self._token = current_bus.set(self._bus)
        return self._bus

    @trio.lowlevel.enable_ki_protection
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        current_bus.reset(self._token)


def _bus() -> EventBus:
    bus = current_bus.get(None)
    if bus is None or not bus.is_here():  # a thread may have inherited the context
        raise NoBusError(
            "there is no event bus here: call this inside `async with open_event_bus():`, "
            "or in a task started there"
        )
    return bus
