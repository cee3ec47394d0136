"""Waiting for events without a consumer that runs all the time."""

from __future__ import annotations

from typing import final

import attrs
import trio

from ._errors import BusClosedError
from ._event import Event
from ._no_public_constructor import NoPublicConstructor
from ._subscription import EventChannel, EventIterator


@final
@attrs.define(eq=False, repr=False)
class EventWaiter(metaclass=NoPublicConstructor):
    """What is expected, from the moment that the block of `EventBus.expect` was entered.

    It is a subscription without a task, which never makes a sender wait: up to 256 events may be
    unread, and one more ends it (see `Overflow.CLOSE`).
    """

    _made_by = "EventBus.expect"

    _channel: EventChannel
    _first: Event | None = None
    # Whoever has it waits for the first event; the others then find it.
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
            self._first = self._first or await first_event(self._channel)
        return self._first

    def events(self) -> EventIterator:
        """Iterate over the events that match, but for the one that `event` returned.

        Ends, or raises, as `EventChannel.receive` does. Not a checkpoint, each iteration is one
        as `receive` is.
        """
        return aiter(self._channel)

    def __repr__(self) -> str:
        return f"<EventWaiter on {self._channel!r}>"


async def first_event(channel: EventChannel) -> Event:
    """Wait for the first event.

    A cancellation point always. Cancel-safe: if cancelled, the event is not lost.

    Raises:
      BusClosedError: If the bus was closed before there was one.
    """
    try:
        return await channel.receive()
    except trio.EndOfChannel:
        raise BusClosedError("the bus was closed before there was such an event") from None
