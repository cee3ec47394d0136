"""Waiting for single events; requests and replies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Literal, TypeAlias, final

import attrs
import trio

from ._core.notices import reserve_stack
from ._core.pending import Answer, PendingRequest, names_of
from ._core.router import Router
from ._core.senders import Sender
from ._errors import BusClosedError, InvalidEventError, NoSubscribersError, RequestFailedError
from ._event import Event, quick_event
from ._history import History, source_of
from ._names.interest import Interest
from ._names.pattern import Pattern
from ._names.permits import Permits
from ._no_public_constructor import NoPublicConstructor
from ._origin import caller
from ._subscription import EventChannel, EventIterator

REPLY_KIND: Final = "**.(accept|accepted|reject|rejected|failed)"
"""The kinds of replies: those of Wippy's await service, and of a responder that failed."""

_USUAL_REPLIES: Final = Pattern.parse(REPLY_KIND)


@final
@attrs.define(eq=False, repr=False)
class EventWaiter(metaclass=NoPublicConstructor):
    """The expected events, from the moment at which the block of `EventBus.expect` was entered.

    It never makes a sender wait: up to `max_buffer_size` events may be unread, not counting those
    of a history, and one more ends it (see `Overflow.CLOSE`).
    """

    _made_by = "EventBus.expect"
    _channel: EventChannel
    _first: Event | None = None
    # The task that holds it waits for the first event; the others find that event later.
    _turn: trio.Lock = attrs.field(factory=trio.Lock)

    async def event(self) -> Event:
        """Wait for the first event that matches, and return the same one each time.

        If `events` has already yielded events, this is the first one after them.

        A checkpoint, always. Several tasks may call this at once. Cancel-safe: if cancelled, the
        event is not lost.

        Raises:
          BusClosedError: If the bus was closed before there was one.
          trio.ClosedResourceError: If the block was left before there was one.
        """
        async with self._turn:
            self._first = self._first or await _first_event(self._channel)
        return self._first

    def events(self) -> EventIterator:
        """Iterate over the events that match, except for the one that `event` returned.

        The iteration ends, or raises, as `EventChannel.receive` does. This isn't a checkpoint; each
        iteration is one, as `receive` is.
        """
        return aiter(self._channel)

    def __repr__(self) -> str:
        return f"<EventWaiter on {self._channel!r}>"


def expecting(
    router: Router,
    permits: Permits,
    interest: Interest,
    max_buffer_size: int,
    history: History | None,
) -> EventChannel:
    """A channel of the events that match and are accepted from now on. Not a checkpoint.

    The kept events of a history come first. The caller has to close the channel.
    """
    router.core.door.check_run()
    router.core.door.check_open()
    permits.check_subscribe(str(interest.system))
    router.core.door.check_open()  # the policy may have closed it
    source = source_of(history, router.core)
    if source is not None:
        max_buffer_size += source.max_events
    reserve_stack(more=10)  # so that there is room to close it
    with router.core.notices:
        waiter = router.open_waiter(interest, caller(), max_buffer_size, source)
        channel: EventChannel = EventChannel._create(waiter)
        return channel


@final
@attrs.define(eq=False)
class Expecting(AbstractAsyncContextManager[EventWaiter, None]):
    """What `EventBus.expect` returns. It isn't a generator, because Ctrl-C could interrupt one."""

    _router: Router
    _permits: Permits
    _interest: Interest
    _max_buffer_size: int
    _history: History | None
    _channel: EventChannel = attrs.field(init=False)

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> EventWaiter:
        self._channel = expecting(
            self._router, self._permits, self._interest, self._max_buffer_size, self._history
        )
        try:
            await trio.lowlevel.checkpoint()
        except BaseException:
            self._channel.close()
            raise
        self._router.core.pace.restart()
        waiter: EventWaiter = EventWaiter._create(self._channel)
        return waiter

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._channel.close()


async def _first_event(channel: EventChannel) -> Event:
    """Wait for the first event.

    A cancellation point always. Cancel-safe: if cancelled, the event is not lost.

    Raises:
      BusClosedError: If the bus was closed before there was one.
    """
    try:
        return await channel.receive()
    except trio.EndOfChannel:
        raise _closed_error(channel) from None


def _closed_error(channel: EventChannel) -> BusClosedError:
    return channel._actor.core.door.closed_error("; no matching event arrived before")


async def first_event(waiter: EventWaiter, where: Callable[[Event[Any]], object] | None) -> Event:
    """Wait for the first event, or the first for which `where` returns a true value.

    A checkpoint, always.

    Raises:
      BusClosedError: If the bus was closed before there was one.
    """
    if where is None:
        return await waiter.event()
    channel = waiter._channel
    async for events in channel.batches():  # so that many that don't match can come at once
        for event in events:
            if where(event):
                return event
    raise _closed_error(channel)


@final
class Reject(Exception):  # noqa: N818  # not an error, but a decision of the responder
    """Raise this in a responder to reject the request. See `EventBus.serve`.

    Args:
      data: The data of the reply.
    """

    def __init__(self, data: object = None) -> None:
        super().__init__(data)
        self.data = data


@trio.lowlevel.enable_ki_protection
async def request(router: Router, permits: Permits, event: Event, reply_kind: str) -> Event:
    """See `EventBus.request`."""
    core = router.core
    kinds = _USUAL_REPLIES if reply_kind is REPLY_KIND else Pattern.parse(reply_kind)
    core.door.check_run()
    core.door.check_open()
    if permits.policy is not None:
        permits.check_subscribe(event.system)
        core.door.check_open()  # the policy may have closed it
    if core.inbox.messages:
        router.route_inbox()  # so that earlier events don't count as replies
    with core.notices:
        pending = core.requests.begin(event, kinds, str(kinds))
    try:
        # Permissions are checked first, so that an actor without them doesn't learn whether there
        # are subscribers.
        permits.check_send(event.system)
        await next(core.pace.steps)()
        if not router.has_subscriber(event.system, event.kind, event.path):
            # Let tasks run that are about to subscribe.
            await trio.lowlevel.checkpoint()
            core.pace.restart()
            core.door.check_open()
            if not router.has_subscriber(event.system, event.kind, event.path):
                raise NoSubscribersError(
                    f"no subscriber for kind {event.kind!r} in system {event.system!r} at path "
                    f"{event.path!r}",
                    system=event.system,
                    kind=event.kind,
                    path=event.path,
                )
        if core.instruments.watched_sends:
            await _send_watched(router, event, pending)
        elif (sender := _offer(router, event, pending)) is not None:
            await _wait_for_room(router, event, sender)
        reply = await pending.wait()
        core.pace.restart()
    finally:
        core.requests.end(pending)
    if _last_segment(reply.kind) == "failed" and (
        pending.was_made_for_it or kinds is _USUAL_REPLIES
    ):
        raise RequestFailedError(
            f"the request {names_of(event)} failed: {reply.data}",
            system=event.system,
            kind=event.kind,
            path=event.path,
            reply=reply.data,
        )
    return reply


def _offer(router: Router, event: Event, pending: PendingRequest) -> Sender | None:
    """Send a request, or a reply to it; return the waiting sender if it has to wait."""
    underway = router.core.requests.underway
    underway[id(event)] = pending
    try:
        return router.offer(event, wait=True)
    except BaseException:
        del underway[id(event)]
        raise


async def _wait_for_room(router: Router, event: Event, sender: Sender) -> None:
    """Wait until it has been sent. A checkpoint, always."""
    try:
        await sender.wait()
    except BaseException:
        del router.core.requests.underway[id(event)]
        raise
    router.core.pace.restart()


async def _send_watched(  # noqa: ASYNC910  # there may be room
    router: Router, event: Event, pending: PendingRequest
) -> None:
    """Send an event, and call instruments before and after. A checkpoint if it waits."""
    with router.core.instruments.around("before_send", "after_send", event):
        if (sender := _offer(router, event, pending)) is not None:
            await _wait_for_room(router, event, sender)


def adopt(router: Router, event: Event) -> None:
    """Note that an event which a bridge has brought is a request. Not a checkpoint."""
    router.core.requests.adopt(event, _USUAL_REPLIES)


def _last_segment(kind: str) -> str:
    return kind.rpartition(".")[2]


def is_reply(kind: str) -> bool:
    """Whether an event of this kind may be a reply that `reply` has sent."""
    return _last_segment(kind) in {"accepted", "rejected", "failed"}


Outcome: TypeAlias = Literal["accepted", "rejected", "failed"]
"""The outcome of a request: the last segment of the kind of its reply."""


def unanswered(router: Router, request: Event) -> PendingRequest:
    """The pending request of an event, if it has no reply yet.

    Raises:
      NoBusError: If the caller is not in the trio run of the bus.
      InvalidEventError: If it isn't a request, or has a reply.
    """
    router.core.door.check_run()
    pending = router.core.requests.known.get(id(request))
    if pending is None:
        raise InvalidEventError(
            f"the event {names_of(request)} isn't a request: pass the very event that a "
            "subscription to this bus has received",
            field="request",
            value=request.path,
        )
    if pending.answer is not Answer.MISSING:
        raise InvalidEventError(
            f"the request {names_of(request)} already has a reply",
            field="request",
            value=request.path,
        )
    return pending


@trio.lowlevel.enable_ki_protection
async def reply(
    router: Router,
    permits: Permits,
    request: Event,
    pending: PendingRequest,
    outcome: Outcome,
    data: object,
) -> None:
    """Send the reply to a request. See `EventBus.reply`."""
    namespace, dot, _ = request.kind.rpartition(".")
    system, kind = router.checked_names(request.system, f"{namespace}{dot}{outcome}")
    event = quick_event(system, kind, request.path, data)
    pending.answer = Answer.BEING_SENT
    try:
        permits.check_send(system)
        await next(router.core.pace.steps)()
        if router.core.instruments.watched_sends:
            await _send_watched(router, event, pending)
        elif (sender := _offer(router, event, pending)) is not None:
            await _wait_for_room(router, event, sender)
    except BaseException:
        if pending.answer is Answer.BEING_SENT:
            pending.answer = Answer.MISSING
        raise
    pending.answer = Answer.SENT
