"""The handle that applications hold."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, ClassVar, Final, TypeVar, Unpack, final, overload

import attrs
import trio

from ._advisories import Advisories
from ._core.actor import Core, SubscriptionActor
from ._core.buffer import Overflow, check_count
from ._core.notices import SendsRefused
from ._core.router import Router
from ._errors import SubscriptionLimitError
from ._event import Event, EventDraft, quick_event
from ._handlers.calling import DeadLetterHook, HandlerActor
from ._handlers.quiet import OwnedTask
from ._handlers.registration import (
    Handler,
    HandlerSet,
    Registration,
    check_call,
    is_async,
    name_of,
    place_of,
)
from ._handlers.staff import ArgsT, Staff
from ._handlers.supervision import Log, OnError, Propagate
from ._history import History, HistoryActor, check_history, source_of
from ._instruments import Instrument, check_instrument
from ._names.interest import Interest
from ._names.pattern import ExactPath, plain_name, plain_path
from ._names.permits import Permits
from ._no_public_constructor import NoPublicConstructor
from ._origin import caller
from ._requests import (
    REPLY_KIND,
    EventWaiter,
    Expecting,
    Outcome,
    first_event,
    reply,
    request,
    unanswered,
)
from ._subscription import Subscription, make_subscription
from ._terms import Terms

DataT = TypeVar("DataT")

ANYBODY: Final = "anybody"
"""The actor of a bus, unless `EventBus.for_actor` names another one."""

current_bus: ContextVar[EventBus] = ContextVar("trio_events.current_bus")
"""The bus of the innermost `open_event_bus` around the running task."""


@final
@attrs.frozen
class EventBusStatistics:
    """The state of a bus."""

    accepted: int
    """Events accepted since the bus was opened."""

    unmatched: int
    """Accepted events that no subscription and no history matched."""

    refused: int
    """Events passed to `send_soon` that the bus could not accept."""

    current_inbox_used: int
    """Accepted events that the router has not routed yet."""

    inbox_size: int
    """The number of events in the inbox at which senders begin to wait."""

    open_subscriptions: int
    """Open subscriptions."""

    open_histories: int
    """Open histories."""

    open_waiters: int
    """Open blocks of `expect`, and running calls of `wait_for` and `request`."""

    advisories_lost: int
    """The bus's own events that were lost because the inbox was full."""

    routes_remembered: int
    """Pairs of system and kind whose route is cached."""

    tasks_waiting_send: int
    """Tasks waiting in `send`."""


@final
@attrs.define
class _Refused:
    """The number of events that `send_soon` could not send, for all actors of a bus."""

    count: int = 0


@final
@attrs.define(eq=False, repr=False)
class EventBus(metaclass=NoPublicConstructor):
    """An open event bus, used in the name of one actor. Get one from `open_event_bus`."""

    _made_by: ClassVar = "open_event_bus"
    _router: Router
    _core: Core
    _nursery: trio.Nursery
    _staff: Staff
    _permits: Permits
    _token: trio.lowlevel.TrioToken
    _max_subscriptions: int
    _slow_handler_after: float
    _on_dead_letter: DeadLetterHook | None
    _advisories: Advisories
    _refused: _Refused = attrs.field(factory=_Refused, init=False)
    _writers: set[str] = attrs.field(factory=set, init=False)  # of bridges that append to logs

    @trio.lowlevel.enable_ki_protection
    async def send(self, system: str, kind: str, path: str, data: object = None) -> None:
        """Send an event to every subscription that matches it.

        Once this returns, every matching subscription either gets the event or counts it as lost.
        That doesn't mean that a subscriber has read it.

        A cancellation point always; a schedule point if it waits, and at least every
        `checkpoint_every` calls. It waits while a matching subscription with `Overflow.BLOCK` is
        full, and while the inbox is full. Waiting senders proceed first come, first served.
        Cancel-safe: if cancelled, nothing was sent.

        Args:
          system: The part of the application that the event is about, in dot-separated segments.
          kind: What happened, in dot-separated segments.
          path: The thing that it happened to, any text that isn't empty.
          data: The payload, any object. Subscribers get this very object.

        Raises:
          TypeError: If `system`, `kind` or `path` isn't a `str`.
          InvalidEventError: If one of them isn't valid.
          PolicyDeniedError: If the policy doesn't allow sending to this system.
          BusClosedError: If the bus was closed before the call, or is closed while it waits.
          NoBusError: If this is called from another thread. Nothing was sent.
          DeadlockError: If the send has waited for a second and would wait forever: every task
            that has read from the full subscription is itself waiting, directly or indirectly, for
            the sender. A send with a deadline doesn't raise this.
        """
        self._core.door.check_here()
        await next(self._core.pace.steps)()
        event = self._post(system, kind, path, data)
        if event is not None:
            if self._core.instruments.watched_sends:
                await self._send_watched(event)
            elif (sender := self._router.offer(event, wait=True)) is not None:
                await sender.wait()
                self._core.pace.restart()

    async def _send_watched(self, event: Event) -> None:  # noqa: ASYNC910  # as `send`
        with self._core.instruments.around("before_send", "after_send", event):
            core, messages = self._core, self._core.inbox.messages
            # As in `_post`, which instruments keep from doing it.
            if 0 < len(messages) < core.inbox.size and core.door.is_open and not core.senders.full:
                messages.append(event)
            elif (sender := self._router.offer(event, wait=True)) is not None:
                await sender.wait()
                core.pace.restart()

    @trio.lowlevel.enable_ki_protection
    def send_nowait(self, system: str, kind: str, path: str, data: object = None) -> None:
        """Like `send`, but raise `trio.WouldBlock` instead of waiting. Not a checkpoint.

        Raises:
          trio.WouldBlock: If `send` would wait. Nothing was sent.
          EventBusError: As `send`.
        """
        self._core.door.check_here()
        event = self._post(system, kind, path, data)
        if event is not None:
            if self._core.instruments.watched_sends:
                with self._core.instruments.around("before_send", "after_send", event):
                    self._router.offer(event)
            else:
                self._router.offer(event)

    def is_here(self) -> bool:
        """Whether the caller is in the trio run that this bus belongs to.

        False in another thread, where only `send_soon` may be called.
        """
        here = trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token()
        return here is self._token

    def is_wanted(self, system: str, kind: str, path: str) -> bool:
        """Whether anything would receive or keep such an event now. Not a checkpoint.

        Use it to avoid preparing `data` that nothing needs.

        Args:
          system: As in `send`.
          kind: As in `send`.
          path: As in `send`.

        Raises:
          TypeError: As `send`.
          InvalidEventError: As `send`.
          NoBusError: If this is called from another thread.
        """
        system, kind = plain_name(system, "system"), plain_name(kind, "kind")
        path = plain_path(path)
        self._core.door.check_here()
        return self._core.requests.expects(system, kind, path) or self._router.is_wanted(
            system, kind, path
        )

    def send_soon(self, system: str, kind: str, path: str, data: object = None) -> None:
        """Send an event from anywhere: another thread, a callback, a signal handler.

        Returns at once. Trio sends the event soon afterwards; calls from one thread keep their
        order. As nothing can wait there, an event is refused if a subscription would make `send`
        wait at that moment, or if `send` would raise. Refused events are counted in
        `statistics().refused` and logged; they never end the run. A full inbox is not a reason to
        refuse an event, because the router empties it first. If your thread can wait, use
        `trio.from_thread.run(bus.send, ...)` instead, which waits or raises.

        Not a checkpoint.

        Raises:
          TypeError: As `send`.
          InvalidEventError: As `send`.
          BusClosedError: If the bus is closed or closing, including in a handler that may still
            `send`.
        """
        system, kind = plain_name(system, "system"), plain_name(kind, "kind")
        path = plain_path(path)
        self._core.door.check_unlocked()
        if not self._core.door.is_open:
            raise self._core.door.closed_error()
        if self._core.instruments.watched_sends:  # called in the context variables of the sender
            run = copy_context().run
            self._token.run_sync_soon(run, self._send_or_refuse, system, kind, path, data)
        else:
            self._token.run_sync_soon(self._send_or_refuse, system, kind, path, data)

    @trio.lowlevel.enable_ki_protection
    def _send_or_refuse(self, system: str, kind: str, path: str, data: object) -> None:
        try:
            event = self._post(system, kind, path, data)
            if event is not None:
                if self._core.instruments.watched_sends:
                    with self._core.instruments.around("before_send", "after_send", event):
                        self._router.offer_now(event)
                else:
                    self._router.offer_now(event)
        except Exception as error:  # noqa: BLE001  # an error that leaves a callback ends the run
            refused = self._refused.count = self._refused.count + 1
            if refused & (refused - 1) == 0:  # the first, second, fourth, eighth …
                self._core.notices.add(SendsRefused(refused, error))
                self._core.instruments.tell("sends_refused", error, refused)

    @overload
    async def subscribe(
        self,
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
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        data: type[DataT],
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
        history: History | None = None,
    ) -> Subscription[DataT]: ...

    @trio.lowlevel.enable_ki_protection
    async def subscribe(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        data: type[DataT] | None = None,
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
        history: History | None = None,
    ) -> Subscription[DataT]:
        """Subscribe to the events whose system and kind match two patterns.

        The subscription receives every event accepted after this returns, until it or the bus is
        closed. To receive everything twice, subscribe twice.

        A checkpoint, always. Cancel-safe: if cancelled, there is no subscription.

        Args:
          system: A pattern for the system of events.
          kind: A pattern for the kind of events; None matches every kind.
          path: A path, or a pattern with `/` between the segments and the same wildcards; None
            matches every path. `ExactPath` takes any text literally.
          data: The type of the events' data, for type checkers only. It isn't checked at run time.
          max_buffer_size: How many events may wait to be read before the buffer is full.
          overflow: What happens to an event when the buffer is full.
          history: A history of this bus whose patterns cover these. The matching events that it has
            kept come first, in the order in which they were sent. Between them and the events
            that are sent later, none is missing or doubled. What doesn't fit is treated as
            `overflow` says; with `Overflow.BLOCK` it is held, and `subscribe` doesn't wait.

        Raises:
          TypeError: If an argument has the wrong type.
          ValueError: If `max_buffer_size` is less than 1, `overflow` is `Overflow.BLOCK` and the
            pattern matches the bus's own events, or `history` doesn't cover the patterns or belongs
            to another bus.
          trio.ClosedResourceError: If `history` was closed.
          InvalidPatternError: If a pattern isn't valid.
          NoBusError: If the caller isn't in the trio run of the bus.
          PolicyDeniedError: If the policy doesn't allow subscribing to this system.
          BusClosedError: If the bus was closed before the call, or is closed meanwhile.
          SubscriptionLimitError: If `max_subscriptions` subscriptions are already open.
        """
        terms = Terms.of(system, kind, path, max_buffer_size, overflow, history)
        origin = caller()
        await self._arrive()
        return self._subscribe(terms, origin)

    @overload
    def on(
        self,
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
        self,
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
        self,
        handler: Callable[[Event[Any]], Awaitable[object]],
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
        """Subscribe, and call an async function with each event.

        By default, the handler processes one event at a time, in order. It runs in a copy of the
        caller's context variables, in which this bus is the current one: a handler registered
        through `bus.for_actor("plugin")` acts as the plugin. After the bus is closed, it is still
        called with everything that was accepted, for up to `drain_timeout` seconds. The bus keeps
        a strong reference to it.

        A checkpoint, always. Cancel-safe: if cancelled, there is no subscription.

        Args:
          handler: The async function.
          system: As in `subscribe`; required.
          kind: As in `subscribe`.
          path: As in `subscribe`.
          data: The type of the events' data, for type checkers only. It isn't checked at run time.
          concurrency: How many calls may run at once. They begin in the order of events.
          ordered: Whether events of one system and path are handled one at a time, in order, even
            if several calls run at once. An event whose turn hasn't come yet is set aside, which
            delays no other path. It counts as queued, and takes room in the buffer. Without
            `concurrency` this has no effect: all events are handled in order.
          on_error: What to do when the handler raises an `Exception`: see `Propagate`, `Log`,
            `CloseSubscription` and `Retry`.
          max_buffer_size: As in `subscribe`.
          overflow: As in `subscribe`.
          history: As in `subscribe`.

        Raises:
          TypeError: If the handler isn't an async function that can be called with one argument,
            or another argument has the wrong type.
          ValueError: If a number is less than 1.
          EventBusError: As `subscribe`.
        """
        if system is None:
            raise TypeError(
                "`on` isn't a decorator: write `await bus.on(handler, system, ...)`, or declare "
                "the handler with `@handlers.on(system, ...)` on a HandlerSet"
            )
        terms = Terms.of(system, kind, path, max_buffer_size, overflow, history)
        return self._on(Registration(handler, terms, concurrency, ordered, on_error), caller())

    @overload
    def serve(
        self,
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
        self,
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
        self,
        responder: Callable[[Event[Any]], Awaitable[object]],
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

        The responder is registered like a handler of `on`. Its return value is the data of the
        reply. The reply has the system, path and kind of the request, except that the last segment
        of the kind is replaced by `accepted`. If the responder raises `Reject(data)`, that segment
        is `rejected`. After any other `Exception` that isn't retried, it is `failed`, the data is
        the type and the text of the exception, and the requester gets `RequestFailedError`; then
        `on_error` decides what happens here.

        A reply answers its request and no other. It is sent as `send` would, in the name of this
        bus's actor, unless the request already has a reply. For an event that was sent with `send`
        instead of `request`, the responder is called, and its result is dropped. It isn't called
        for replies.

        A checkpoint, always. Cancel-safe: if cancelled, there is no subscription.

        Args:
          responder: The async function.
          system: As in `subscribe`.
          kind: As in `subscribe`.
          path: As in `subscribe`.
          data: As in `on`.
          concurrency: As in `on`.
          ordered: As in `on`.
          on_error: As in `on`; `Log()` by default.
          max_buffer_size: As in `subscribe`.
          overflow: As in `subscribe`.

        Raises:
          TypeError: As `on`.
          ValueError: As `on`.
          EventBusError: As `subscribe`.
        """
        terms = Terms.of(system, kind, path, max_buffer_size, overflow)
        registration = Registration(responder, terms, concurrency, ordered, on_error, replies=True)
        return self._on(registration, caller())

    @trio.lowlevel.enable_ki_protection
    async def reply(
        self, request: Event[Any], data: object = None, *, accepted: bool = True
    ) -> None:
        """Reply to a request, from any task, once.

        The reply is an event as `serve` would send it, and answers this request and no other. It is
        sent even if nothing waits for it any more.

        A cancellation point always; a schedule point if it waits, and at least every
        `checkpoint_every` calls. Waits as `send` does. Cancel-safe: if cancelled, nothing was sent,
        and the request can still be replied to.

        Args:
          request: The request: the very event that a subscription received.
          data: The data of the reply.
          accepted: Whether the reply's kind ends in `accepted` or in `rejected`.

        Raises:
          TypeError: If `request` isn't an `Event`.
          InvalidEventError: If it isn't a request of this bus, or already has a reply. Nothing was
            sent.
          EventBusError: As `send`. While the bus is closing, any task may reply to requests that
            its handlers have made.
        """
        if not isinstance(request, Event):
            raise TypeError(f"request must be an Event, not {request!r}")
        outcome: Outcome = "accepted" if accepted else "rejected"
        pending = unanswered(self._router, request)
        await reply(self._router, self._permits, request, pending, outcome, data)

    @trio.lowlevel.enable_ki_protection
    async def _on(self, registration: Registration, origin: str) -> Subscription:
        await self._arrive()
        return self._start(registration, origin)

    @trio.lowlevel.enable_ki_protection
    async def include(self, handlers: HandlerSet) -> tuple[Subscription, ...]:
        """Register all handlers of a set, as `on` does for one, or none of them.

        A checkpoint, always. Cancel-safe: if cancelled, there is no subscription.

        Returns:
          Their subscriptions, in the order in which the handlers were declared.

        Raises:
          TypeError: If `handlers` isn't a `HandlerSet`.
          EventBusError: As `subscribe`.
        """
        if not isinstance(handlers, HandlerSet):
            raise TypeError(f"handlers must be a HandlerSet, not {handlers!r}")
        origin = caller()
        await self._arrive()
        self._core.door.check_open()
        subscriptions: list[Subscription] = []
        try:
            for registration in tuple(handlers.registrations):
                subscriptions.append(self._start(registration, origin))
        except BaseException:
            for subscription in subscriptions:
                subscription.channel().close()
            raise
        return tuple(subscriptions)

    @trio.lowlevel.enable_ki_protection
    def start_soon(
        self,
        async_fn: Callable[[Unpack[ArgsT]], Awaitable[object]],
        *args: *ArgsT,
        name: object = None,
    ) -> None:
        """Start a consumer: a task in the nursery of the bus. Not a checkpoint.

        When the bus is closed, consumers finish first: the bus waits until nothing is under way and
        every consumer is waiting to read from a subscription. Then the channels end, so the loops
        over them end too, and the consumers have the rest of `drain_timeout` to return. A consumer
        that waits for anything else counts as working: if it doesn't read again, or return, in
        time, it is cancelled and logged.

        The task has a copy of the caller's context variables, in which this bus is the current one:
        a consumer started through `bus.for_actor("plugin")` acts as the plugin. An exception leaves
        through the supervisor, as in any nursery.

        Args:
          async_fn: The async function.
          args: The arguments to call it with.
          name: The name of the task, for debugging and for the log; by default, that of the
            function.

        Raises:
          TypeError: If `async_fn` isn't an async function that can be called with these arguments.
          BusClosedError: If the bus was closed, and the caller doesn't belong to it.
          NoBusError: If the caller isn't in the trio run of the bus.
        """
        owned = self._own("start_soon", async_fn, args, name)
        name = async_fn if name is None else name
        self._nursery.start_soon(self._consume, owned, async_fn, args, name=name)

    @trio.lowlevel.enable_ki_protection
    async def start(
        self, async_fn: Callable[..., Awaitable[object]], *args: object, name: object = None
    ) -> Any:
        """Start a consumer as `start_soon` does, and wait until it has called `started`.

        The function gets a keyword argument `task_status`, and calls `task_status.started(value)`
        when it is ready. An exception before that is raised here.

        A checkpoint, always. Cancel-safe: if cancelled, the task is cancelled as well.

        Args:
          async_fn: As in `start_soon`.
          args: As in `start_soon`.
          name: As in `start_soon`.

        Returns:
          The value that `started` was called with.

        Raises:
          TypeError: As `start_soon`.
          BusClosedError: As `start_soon`, or if `drain_timeout` expires meanwhile.
          NoBusError: As `start_soon`.
          RuntimeError: If the function returned without calling `started`.
        """
        owned = self._own("start", async_fn, args, name, task_status=trio.TASK_STATUS_IGNORED)
        name = async_fn if name is None else name
        return await self._nursery.start(self._consume, owned, async_fn, args, name=name)

    def _own(
        self,
        method: str,
        async_fn: Callable[..., Awaitable[object]],
        args: tuple[object, ...],
        name: object,
        **status: object,
    ) -> OwnedTask:
        check_call(f"bus.{method}", async_fn, *args, **status)
        self._core.door.check_run()
        self._core.door.check_open()
        label = name_of(async_fn) if name is None else name
        repr(async_fn if name is None else name)  # trio may need it, when it is too late to raise
        owned = OwnedTask(f"{label} (started at {caller()})")
        self._staff.join(owned)
        return owned

    @trio.lowlevel.enable_ki_protection
    async def _consume(
        self,
        owned: OwnedTask,
        async_fn: Callable[..., Awaitable[object]],
        args: tuple[object, ...],
        **status: object,
    ) -> None:
        current_bus.set(self)  # in the context of the new task
        await self._staff.consume(owned, partial(async_fn, *args, **status))

    @trio.lowlevel.enable_ki_protection
    async def wait_idle(self) -> None:
        """Wait until nothing is under way, as at the end of the bus, but without closing it.

        When this returns, every event accepted before the call has been routed, handlers have
        finished their calls, and every consumer of the bus has read what there was and is waiting
        to read more. It doesn't wait for other readers, or for sends that are waiting.

        A checkpoint, always. Cancel-safe: if cancelled, nothing has changed. Several tasks may call
        this at once.

        Raises:
          DeadlockError: If this is called by a handler, or by a consumer of the bus, which would
            wait for itself.
          NoBusError: If the caller isn't in the trio run of the bus.
        """
        self._core.door.check_run()
        await self._staff.wait_idle()

    def expect(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        max_buffer_size: int = 256,
        history: History | None = None,
    ) -> AbstractAsyncContextManager[EventWaiter]:
        """Expect events during a block, without missing any.

        The block gets an `EventWaiter`. It takes effect before the first schedule point of
        entering, so an event triggered inside the block, or sent by another task meanwhile, is
        never missed. If several waiters expect an event, each of them gets it. Waiters make no
        sender wait, and don't count towards `max_subscriptions`.

        Entering is a checkpoint, always; leaving is not. Cancel-safe: if cancelled, the waiter is
        closed.

        Args:
          system: As in `subscribe`.
          kind: As in `subscribe`.
          path: As in `subscribe`. The cost of expecting one path doesn't depend on how many paths
            are expected.
          max_buffer_size: How many events may be unread. One more ends the waiter, as with
            `Overflow.CLOSE`.
          history: As in `subscribe`. The events that it has kept don't count towards
            `max_buffer_size`.

        Raises:
          TypeError: If an argument has the wrong type.
          ValueError: As `subscribe`.
          trio.ClosedResourceError: As `subscribe`.
          EventBusError: As `subscribe`, except for `SubscriptionLimitError`.
        """
        check_count("max_buffer_size", max_buffer_size)
        interest = Interest.of(system, kind, path)
        if history is not None:
            check_history(history, interest)
        return Expecting(self._router, self._permits, interest, max_buffer_size, history)

    @trio.lowlevel.enable_ki_protection
    async def wait_for(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        where: Callable[[Event[Any]], object] | None = None,
        history: History | None = None,
    ) -> Event:
        """Wait for the next event that matches, or return the first one that a history has kept.

        An event sent after the call is never missed: waiting begins before the first schedule
        point. If your own code triggers the event before that, use `expect` or `request`.

        A checkpoint, always. Cancel-safe: if cancelled, the waiter is closed.

        Args:
          system: As in `subscribe`.
          kind: As in `subscribe`.
          path: As in `subscribe`.
          where: A plain function of an event. Events for which it returns a false value are
            skipped. If it raises, `wait_for` raises the same exception.
          history: As in `subscribe`. If it has kept such an event, there is nothing to wait for.

        Raises:
          TypeError: If an argument has the wrong type.
          BusClosedError: If the bus was closed before the call, or is closed meanwhile.
          ValueError: As `subscribe`.
          trio.ClosedResourceError: As `subscribe`.
          SubscriptionOverflowError: If more than 256 events came at once, and `where` skipped them.
          EventBusError: As `expect`.
        """
        if where is not None and (not callable(where) or is_async(where)):
            raise TypeError(f"where must be a plain function, not {where!r}")
        async with self.expect(system, kind, path=path, history=history) as waiter:
            return await first_event(waiter, where)

    @trio.lowlevel.enable_ki_protection
    async def request(
        self,
        system: str,
        kind: str,
        path: str,
        data: object = None,
        *,
        reply_kind: str = REPLY_KIND,
    ) -> Event:
        """Send an event and wait for the reply to it.

        The reply is the one that a responder (see `serve`) or `reply` makes for this request. It
        may also be sent by hand, as the first event that is accepted after the call, has the same
        system and path, and has another kind than the request, one that matches `reply_kind`. The
        property `accepted` of the reply says whether the request was accepted.

        A request that waits for long is logged after 1, 2, 4 … seconds, with the subscriptions that
        received it. It fails then if nothing can answer it any more.

        A checkpoint, always. Waits as `send` does, then for the reply. Cancel-safe: if cancelled,
        it no longer waits for the reply, but the request may have been sent.

        Args:
          system: As in `send`.
          kind: As in `send`.
          path: As in `send`. A reply sent by hand answers every waiting request with its system and
            path.
          data: As in `send`.
          reply_kind: A pattern for the kind of replies sent by hand.

        Raises:
          NoSubscribersError: If no subscription would receive the request. Nothing was sent.
          RequestFailedError: If the responder failed, or every subscription that received the
            request has ended, or is done with it without a reply; or if the kind of a reply sent by
            hand ends in `failed` and you didn't pass a `reply_kind`.
          DeadlockError: If the request has waited for a second and would wait forever: the tasks
            that could reply are themselves waiting, directly or indirectly, for this one. A request
            with a deadline doesn't raise this.
          TypeError: As `send`.
          InvalidPatternError: If `reply_kind` isn't a pattern.
          EventBusError: As `send` and `subscribe`, except for `SubscriptionLimitError`.
        """
        system, kind = self._router.checked_names(system, kind)
        event = quick_event(system, kind, plain_path(path), data)
        return await request(self._router, self._permits, event, reply_kind)

    @trio.lowlevel.enable_ki_protection
    async def open_history(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        per_path: int | None = 1,
        max_events: int = 1024,
    ) -> History:
        """Keep the latest events of each path, for later subscriptions.

        The history keeps events accepted after this returns, until it or the bus is closed. It
        makes no sender wait, doesn't count towards `max_subscriptions`, and answers no requests.
        An event that only a history keeps doesn't count as `unmatched`.

        If there would be more than `max_events`, the oldest event of the path that was sent to
        least recently is removed. That is counted in `statistics().evicted`, and logged once per
        episode, which ends when at most half of `max_events` are kept and a second has passed.

        A checkpoint, always. Cancel-safe: if cancelled, there is no history.

        Args:
          system: As in `subscribe`.
          kind: As in `subscribe`.
          path: As in `subscribe`.
          per_path: How many events to keep of each system, kind and path: the newest ones. With
            None, the last `max_events` are kept, whatever their paths, and no loss is counted.
          max_events: The most events to keep.

        Raises:
          TypeError: If an argument has the wrong type.
          ValueError: If a number is less than 1.
          EventBusError: As `subscribe`, except for `SubscriptionLimitError`.
        """
        interest = Interest.of(system, kind, path)
        if per_path is not None:
            check_count("per_path", per_path)
        check_count("max_events", max_events)
        origin = caller()
        await self._arrive()
        self._core.door.check_open()
        self._permits.check_subscribe(str(interest.system))
        self._core.door.check_open()  # the policy may have closed it
        router = self._router
        with self._core.notices:
            actor = HistoryActor(
                interest, per_path, max_events, origin, self._core, router.histories
            )
            history: History = History._create(actor)
            router.open_history(actor, interest)
            return history

    def subscriptions(self) -> tuple[Subscription, ...]:
        """The open subscriptions, in the order of opening, including those of handlers.

        Not a checkpoint.
        """
        return tuple(self._router.subscriptions.values())

    @trio.lowlevel.enable_ki_protection
    def add_instrument(self, instrument: Instrument) -> None:
        """Add an instrument, to watch the bus from now on. Not a checkpoint. Idempotent.

        First, its `subscription_opened` is called for each open subscription. See `Instrument`.

        Raises:
          TypeError: If it isn't an `Instrument`.
          NoBusError: If this is called from another thread.
        """
        check_instrument(instrument)
        self._core.door.check_here()
        instruments = self._core.instruments
        if instrument in instruments:
            return
        instruments.add(instrument)
        for actor in (*self._router.subscriptions, *self._router.waiters):
            instruments.tell_one(instrument, "subscription_opened", actor.handle)

    @trio.lowlevel.enable_ki_protection
    def remove_instrument(self, instrument: Instrument) -> None:
        """Remove an instrument. Not a checkpoint.

        None of its methods is called again, not even `after_send` for a send that is waiting.

        Raises:
          KeyError: If it isn't watching this bus, for example because one of its methods raised.
          NoBusError: If this is called from another thread.
        """
        self._core.door.check_here()
        if instrument not in self._core.instruments:
            raise KeyError(instrument)
        self._core.instruments.remove(instrument)

    def for_actor(self, name: str) -> EventBus:
        """The same bus in the name of another actor. The policy decides by that name.

        Raises:
          TypeError: If `name` isn't a `str`.
          InvalidEventError: If `name` isn't a name in dot-separated segments.
        """
        bus = copy.copy(self)
        bus._permits = self._permits.for_actor(plain_name(name, "actor"))
        return bus

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Close the bus. Not a checkpoint. Idempotent.

        Everything that was accepted is routed, and every channel ends after the events that are in
        it. Waiting senders, and later sends and subscriptions, get `BusClosedError`.

        If there are handlers, or consumers started with `start_soon` or `start`, they finish their
        work first. Until then they, and the tasks that they start in their own nurseries, may still
        use the bus. Other tasks can't, except to answer their requests. When nothing is under way
        any more and every consumer is waiting to read, the channels end. After `drain_timeout`
        seconds, handlers and consumers are cancelled, and what is left is logged.

        If a destructor calls this while the bus is in the middle of a step, it takes effect at the
        end of that step.

        Raises:
          NoBusError: If this is called from another thread while the bus is open.
        """
        if not self._core.door.closed:
            self._core.door.check_here()
            reason = f"close() was called at {caller()}"
            self._core.notices.after_step(partial(self._staff.close, reason))

    def statistics(self) -> EventBusStatistics:
        """The state of the bus now. Not a checkpoint."""
        router = self._router
        return EventBusStatistics(
            accepted=router.accepted,
            unmatched=router.unmatched,
            refused=self._refused.count,
            current_inbox_used=self._core.inbox.used,
            inbox_size=self._core.inbox.size,
            open_subscriptions=len(router.subscriptions),
            open_histories=len(router.histories),
            open_waiters=len(router.waiters) + len(self._core.requests),
            advisories_lost=self._advisories.lost,
            routes_remembered=router.table.remembered,
            tasks_waiting_send=len(self._core.senders),
        )

    def __repr__(self) -> str:
        router = self._router
        state = "closed" if self._core.door.closed else f"{len(router.subscriptions)} subscriptions"
        return f"<EventBus for {self._permits.actor!r}, {state}, {router.accepted} events accepted>"

    def _post(self, system: str, kind: str, path: str, data: object) -> Event | None:
        """Accept an event if clearly nothing stops it; otherwise return it."""
        # In one piece, because every event passes here: a call takes 3 % of a delivery.
        router, core = self._router, self._core
        if system is not router.last_system or kind is not router.last_kind:
            system, kind = router.checked_names(system, kind)
        if type(path) is not str or not path:
            path = plain_path(path)
        if self._permits.policy is not None:
            self._permits.check_send(system)
        draft = EventDraft()
        draft.system = system
        draft.kind = kind
        draft.path = path
        draft.data = data
        draft.source = None
        draft.__class__ = Event  # type: ignore[assignment]  # see EventDraft
        event: Event = draft  # type: ignore[assignment]  # now it is one; `cast` takes 3 %
        inbox = core.inbox
        # No call may come between the checks and `append`, where a destructor could close the bus.
        if (
            len(inbox.messages) < inbox.direct_size
            and (messages := inbox.messages)
            and core.door.is_open
            and not core.senders.full
        ):
            messages.append(event)
            return None
        return event

    async def _arrive(self) -> None:
        """Require that the caller is in the trio run of the bus, and yield to other tasks."""
        self._core.door.check_run()
        await trio.lowlevel.checkpoint()
        self._core.pace.restart()

    def _check_subscribe(self, interest: Interest) -> None:
        """Require that one more subscription, to these events, is allowed now."""
        self._core.door.check_open()
        self._permits.check_subscribe(str(interest.system))
        self._core.door.check_open()  # the policy may have closed it
        if len(self._router.subscriptions) >= self._max_subscriptions:
            raise SubscriptionLimitError(
                f"there are already {self._max_subscriptions} open subscriptions; close some, "
                "or allow more with open_event_bus(max_subscriptions=...)",
                max_subscriptions=self._max_subscriptions,
            )

    def _subscribe(
        self,
        terms: Terms,
        origin: str,
        actor_type: type[SubscriptionActor] = SubscriptionActor,
        registration: Registration | None = None,
        registered_at: str = "",
    ) -> Subscription[Any]:
        router, interest, max_buffer_size = self._router, terms.interest, terms.max_buffer_size
        self._check_subscribe(interest)
        source = source_of(terms.history, self._core)
        with self._core.notices:
            actor = router.make_subscription(
                interest, origin, max_buffer_size, terms.overflow, actor_type
            )
            subscription = make_subscription(actor, router, self._permits, self._staff)
            router.open(actor, subscription, source)
            name = f"trio_events subscription {str(interest.system)!r}"
            self._nursery.start_soon(actor.run, router.close, name=name)
            if registration is not None:
                self._put_to_work(registration, registered_at, subscription)
            if self._core.instruments.active:
                actor.tell("subscription_opened")
            if source is not None:
                router.route_inbox()  # the kept events may make it lose some, or close
            return subscription

    def _start(
        self,
        registration: Registration,
        origin: str,
        actor_type: type[SubscriptionActor] = SubscriptionActor,
    ) -> Subscription:
        place = place_of(registration.handler) or origin
        return self._subscribe(registration.terms, place, actor_type, registration, origin)

    def _put_to_work(
        self, registration: Registration, registered_at: str, subscription: Subscription
    ) -> None:
        token = current_bus.set(self)  # handlers act in the name of the actor that registered them
        try:
            HandlerActor(
                subscription._actor,
                subscription,
                registration,
                registered_at,
                self._staff,
                self._on_dead_letter,
                self._slow_handler_after,
                partial(reply, self._router, self._permits) if registration.replies else None,
            ).start(self._nursery)
        finally:
            current_bus.reset(token)
