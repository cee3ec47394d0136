"""The operations of `EventBus` as functions, for the bus around the caller.

The bus around the caller is that of the innermost `open_event_bus`. A task inherits it from the
task that started it.
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
    """Send an event to every subscription that matches it, on the bus around the caller.

    Once this returns, every matching subscription either gets the event or counts it as lost. It
    waits while a matching subscription with `Overflow.BLOCK` is full, and while the inbox is full.

    A cancellation point always; a schedule point if it waits, and at least every
    `checkpoint_every` calls. Cancel-safe: if cancelled, nothing was sent.

    Args:
      system: The part of the application that the event is about, such as `"orders.eu"`.
      kind: What happened, such as `"order.created"`.
      path: The thing that it happened to, such as `"/orders/123"`.
      data: Any object; subscribers get this very object.

    Raises:
      NoBusError: If there is no bus around the caller.
      TypeError: If `system`, `kind` or `path` is not a `str`.
      EventBusError: As `EventBus.send`.
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
    """Subscribe to events by pattern, on the bus around the caller.

    The subscription receives every matching event sent after this returns.

    A checkpoint, always. Cancel-safe: if cancelled, there is no subscription.

    Args:
      system: A pattern for the system of events, such as `"orders.**"`.
      kind: A pattern for the kind of events; None matches every kind.
      path: A path, or a pattern for it; None matches every path.
      data: The type of the events' data, for type checkers only.
      max_buffer_size: How many events may wait to be read before the buffer is full.
      overflow: What happens to an event when the buffer is full.
      history: A history, whose events come first.

    Raises:
      NoBusError: If there is no bus around the caller.
      TypeError: As `EventBus.subscribe`.
      ValueError: As `EventBus.subscribe`.
      EventBusError: As `EventBus.subscribe`.
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
    """Call an async function with each event that matches, on the bus around the caller.

    The bus supervises it: `on_error` decides what happens if it raises. Leaving the block of the
    bus waits until it has finished.

    A checkpoint, always. Cancel-safe: if cancelled, there is no subscription.

    Args:
      handler: An async function of one event.
      system: A pattern for the system of events; required.
      kind: A pattern for the kind of events; None matches every kind.
      path: A path, or a pattern for it; None matches every path.
      data: The type of the events' data, for type checkers only.
      concurrency: How many calls may run at the same time.
      ordered: Whether events of one system and path are handled one at a time, in order.
      on_error: What happens when the handler raises: `Propagate`, `Log`, `CloseSubscription` or
        `Retry`.
      max_buffer_size: How many events may wait to be handled before the buffer is full.
      overflow: What happens to an event when the buffer is full.
      history: A history, whose events come first.

    Raises:
      NoBusError: If there is no bus around the caller.
      TypeError: As `EventBus.on`.
      ValueError: As `EventBus.on`.
      EventBusError: As `EventBus.on`.
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
    """Answer requests: call an async function with each, and reply with its result.

    The bus around the caller calls it. The requester gets its return value as the data of the
    reply. `raise Reject(data)` rejects a request.

    A checkpoint, always. Cancel-safe: if cancelled, there is no subscription.

    Args:
      responder: An async function of one event.
      system: A pattern for the system of requests.
      kind: A pattern for the kind of requests; None matches every kind.
      path: A path, or a pattern for it; None matches every path.
      data: The type of the requests' data, for type checkers only.
      concurrency: How many calls may run at the same time.
      ordered: Whether requests of one system and path are answered one at a time, in order.
      on_error: What happens when the responder raises, besides the failed reply.
      max_buffer_size: How many requests may wait to be answered before the buffer is full.
      overflow: What happens to a request when the buffer is full.

    Raises:
      NoBusError: If there is no bus around the caller.
      TypeError: As `EventBus.serve`.
      ValueError: As `EventBus.serve`.
      EventBusError: As `EventBus.serve`.
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
    """Reply to a request by hand, once, on the bus around the caller.

    A cancellation point always; a schedule point if it waits, and at least every
    `checkpoint_every` calls. Cancel-safe: if cancelled, nothing was sent, and the request can still
    be replied to.

    Args:
      request: The very event that a subscription received.
      data: The data of the reply.
      accepted: Whether the kind of the reply ends in `accepted` or in `rejected`.

    Raises:
      NoBusError: If there is no bus around the caller.
      TypeError: As `EventBus.reply`.
      EventBusError: As `EventBus.reply`.
    """
    await _bus().reply(request, data, accepted=accepted)


async def include(handlers: HandlerSet) -> tuple[Subscription, ...]:
    """Register all handlers of a set, or none of them, on the bus around the caller.

    A checkpoint, always. Cancel-safe: if cancelled, there is no subscription.

    Args:
      handlers: Handlers that were declared before there was a bus.

    Returns:
      Their subscriptions, in the order in which the handlers were declared.

    Raises:
      NoBusError: If there is no bus around the caller.
      TypeError: As `EventBus.include`.
      EventBusError: As `EventBus.include`.
    """
    return await _bus().include(handlers)


def start_soon(
    async_fn: Callable[[Unpack[ArgsT]], Awaitable[object]],
    *args: *ArgsT,
    name: object = None,
) -> None:
    """Start a task that belongs to the bus around the caller, such as a consumer.

    Leaving the block of the bus waits until it has read what was sent, and ends its loop. Not a
    checkpoint.

    Args:
      async_fn: An async function.
      args: Its arguments.
      name: The name of the task, for debugging and for the log; by default, that of the function.

    Raises:
      NoBusError: If there is no bus around the caller.
      TypeError: As `EventBus.start_soon`.
      EventBusError: As `EventBus.start_soon`.
    """
    _bus().start_soon(async_fn, *args, name=name)


async def start(
    async_fn: Callable[..., Awaitable[object]], *args: object, name: object = None
) -> Any:
    """Start a task that belongs to the bus around the caller, and wait until it has started.

    The function gets a keyword argument `task_status`, and calls `task_status.started(value)` when
    it is ready.

    A checkpoint, always. Cancel-safe: if cancelled, the task is cancelled as well.

    Args:
      async_fn: An async function.
      args: Its arguments.
      name: As in `start_soon`.

    Returns:
      The value that `started` was called with.

    Raises:
      NoBusError: If there is no bus around the caller.
      TypeError: As `EventBus.start`.
      RuntimeError: As `EventBus.start`.
      EventBusError: As `EventBus.start`.
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
    """Expect events while a block runs, on the bus around the caller.

    An event that is triggered inside the block is never missed. The block gets an `EventWaiter`.

    Entering is a checkpoint, always; leaving is not. Cancel-safe: if cancelled, the waiter is
    closed.

    Args:
      system: A pattern for the system of events.
      kind: A pattern for the kind of events; None matches every kind.
      path: A path, or a pattern for it; None matches every path.
      max_buffer_size: How many events may be unread.
      history: A history, whose events come first.

    Raises:
      NoBusError: If there is no bus around the caller.
      TypeError: As `EventBus.expect`.
      ValueError: As `EventBus.expect`.
      EventBusError: As `EventBus.expect`.
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
    """Wait for the next event that matches, on the bus around the caller, and return it.

    A checkpoint, always. Cancel-safe: if cancelled, the waiter is closed.

    Args:
      system: A pattern for the system of events.
      kind: A pattern for the kind of events; None matches every kind.
      path: A path, or a pattern for it; None matches every path.
      where: A plain function of an event. Events for which it returns a false value are skipped.
      history: A history: if it has kept such an event, this doesn't wait.

    Raises:
      NoBusError: If there is no bus around the caller.
      TypeError: As `EventBus.wait_for`.
      ValueError: As `EventBus.wait_for`.
      EventBusError: As `EventBus.wait_for`.
    """
    return await _bus().wait_for(system, kind, path=path, where=where, history=history)


async def request(
    system: str, kind: str, path: str, data: object = None, *, reply_kind: str = REPLY_KIND
) -> Event:
    """Send a request, on the bus around the caller, and wait for the reply.

    `reply.accepted` says whether it was accepted or rejected.

    A checkpoint, always. Cancel-safe: if cancelled, it no longer waits for the reply, but the
    request may have been sent.

    Args:
      system: The part of the application that the request is about.
      kind: What is requested, such as `"payment.collect"`.
      path: The thing that it is about, such as `"/orders/123"`.
      data: Any object; the responder gets this very object.
      reply_kind: A pattern for the kind of replies that are sent by hand.

    Returns:
      The reply, an event.

    Raises:
      NoBusError: If there is no bus around the caller.
      NoSubscribersError: If no subscription would receive the request.
      RequestFailedError: If the responder failed, or can't answer any more.
      TypeError: As `EventBus.request`.
      EventBusError: As `EventBus.request`.
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
    """Keep the latest events of each path for later subscribers, on the bus around the caller.

    A checkpoint, always. Cancel-safe: if cancelled, there is no history.

    Args:
      system: A pattern for the system of events.
      kind: A pattern for the kind of events; None matches every kind.
      path: A path, or a pattern for it; None matches every path.
      per_path: How many events to keep of each system, kind and path; None for no such limit.
      max_events: How many events to keep altogether.

    Raises:
      NoBusError: If there is no bus around the caller.
      TypeError: As `EventBus.open_history`.
      ValueError: As `EventBus.open_history`.
      EventBusError: As `EventBus.open_history`.
    """
    return await _bus().open_history(
        system, kind, path=path, per_path=per_path, max_events=max_events
    )


def is_wanted(system: str, kind: str, path: str) -> bool:
    """Whether anything would receive or keep such an event now. Not a checkpoint.

    It asks the bus around the caller. Use it to avoid preparing `data` that nothing needs.

    Args:
      system: As in `send`.
      kind: As in `send`.
      path: As in `send`.

    Raises:
      NoBusError: If there is no bus around the caller.
      TypeError: As `send`.
      InvalidEventError: As `EventBus.send`.
    """
    return _bus().is_wanted(system, kind, path)


@final
class use(AbstractContextManager[EventBus, None]):  # noqa: N801  # it is used like a function
    """Make a bus the one around the block, and around tasks that are started in it.

    In the block of `with events.use(bus.for_actor("plugin")):`, for example, `send` and the other
    functions of this module act as the plugin. Entering and leaving are not checkpoints.

    Args:
      bus: An open bus.

    Raises:
      TypeError: If it isn't an `EventBus`.
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
