"""Waiting for events without a consumer that runs all the time; requests and replies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final, final

import attrs
import trio

from ._core.notices import reserve_stack
from ._core.router import Router
from ._errors import NoSubscribersError
from ._event import Event
from ._names.interest import Interest
from ._names.pattern import Pattern
from ._names.permits import Permits
from ._no_public_constructor import NoPublicConstructor
from ._origin import caller
from ._subscription import EventChannel, EventIterator

_MAX_UNREAD: Final = 256
"""Events that may be unread by a task that expects one."""

REPLY_KIND: Final = "**.(accept|accepted|reject|rejected)"
"""The kinds of a reply, as the original's await service has them."""

_REPLIES: Final = Pattern.parse(REPLY_KIND)


@final
@attrs.define(eq=False, repr=False)
class EventWaiter(metaclass=NoPublicConstructor):
    """The events that are expected, from the moment when `EventBus.expect` was entered.

    It is a subscription without a task, which never makes a sender wait: up to 256 events may be
    unread, and one more ends it (see `Overflow.CLOSE`).
    """

    _made_by = "EventBus.expect"
    _channel: EventChannel
    _first: Event | None = None
    # The task that has it waits for the first event; the others then find it.
    _turn: trio.Lock = attrs.field(factory=trio.Lock)

    async def event(self) -> Event:
        """Wait for the first event that matches; the same one each time.

        If `events` was faster, the first one that it has not taken.

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
        """Iterate over the events that match, but for the one that `event` returned.

        Ends, or raises, as `EventChannel.receive` does. Not a checkpoint, each iteration is one
        as `receive` is.
        """
        return aiter(self._channel)

    def __repr__(self) -> str:
        return f"<EventWaiter on {self._channel!r}>"


def expecting(router: Router, permits: Permits, interest: Interest) -> EventChannel:
    """A channel of the events that match and are accepted from now on. Not a checkpoint.

    Closing it is the caller's business.
    """
    router.core.door.check_run()
    router.core.door.check_open()
    permits.check_subscribe(interest.system)
    router.core.door.check_open()  # whatever the policy has done
    reserve_stack(more=10)  # so that there is room to close it
    with router.core.notices:
        waiter = router.open_waiter(interest, caller(), _MAX_UNREAD)
        channel: EventChannel = EventChannel._create(waiter)
        return channel


@final
@attrs.define(eq=False)
class Expecting(AbstractAsyncContextManager[EventWaiter, None]):
    """What `EventBus.expect` returns. Not a generator, whose surroundings Ctrl-C can interrupt."""

    _router: Router
    _permits: Permits
    _interest: Interest
    _channel: EventChannel = attrs.field(init=False)

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> EventWaiter:
        self._channel = expecting(self._router, self._permits, self._interest)
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
        door = channel._actor.core.door
        raise door.closed_error("; there was no such event before") from None


async def request(
    router: Router,
    permits: Permits,
    send: Callable[[str, str, str, object], Awaitable[None]],
    event: Event,
    reply_kind: str,
) -> Event:
    """See `EventBus.request`."""
    # The path is taken as it is, even if it looks like a pattern.
    replies = _REPLIES if reply_kind == REPLY_KIND else Pattern.parse(reply_kind)
    interest = Interest(Pattern.parse(event.system), replies, event.path)
    with expecting(router, permits, interest) as channel:
        # The permissions go first, so that an actor who may not ask doesn't learn whether anybody
        # listens.
        permits.check_send(event.system)
        # Then those have their turn who subscribe in this very moment.
        await trio.lowlevel.checkpoint()
        router.core.pace.restart()
        router.core.door.check_open()
        if not router.is_wanted(event.system, event.kind, event.path, besides=channel._actor):
            raise NoSubscribersError(
                f"no subscriber for kind {event.kind!r} in system {event.system!r} at path "
                f"{event.path!r}",
                system=event.system,
                kind=event.kind,
                path=event.path,
            )
        await send(event.system, event.kind, event.path, event.data)
        while (reply := await _first_event(channel)).kind == event.kind:
            pass  # that is a request, if not this one then another like it
        return reply
