"""What applications hold: the subscription and the reading end of its channel."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Generic, cast, final

import attrs
import trio

from ._actor import SubscriptionActor
from ._event import DataT_co, Event
from ._no_public_constructor import NoPublicConstructor
from ._overflow import Overflow, check_count
from ._pace import Pace


@final
@attrs.frozen
class SubscriptionStatistics:
    """The books of a subscription. matched = delivered + queued + dropped + discarded."""

    matched: int
    """Events that match the subscription and that the router has handed to it."""

    delivered: int
    """Events that a reader got."""

    queued: int
    """Events that wait to be read: in the buffer, or held."""

    held: int
    """Events that did not fit into the buffer, in the hands of the subscription's actor."""

    dropped: int
    """Events lost because the buffer was full, or because their data was not what it must be."""

    discarded: int
    """Events that were unread when the reader closed the channel, or came later."""

    tasks_waiting_send: int
    """Tasks that wait in `send` for this subscription to have room."""

    handling: int
    """Calls of the subscription's handler that are running."""

    failures: int
    """Calls of the subscription's handler that have failed."""


@final
@attrs.frozen
class EventChannelStatistics:
    """The state of a channel, in the words of trio's memory channels."""

    current_buffer_used: int
    """Events in the buffer."""

    max_buffer_size: int
    """Events that the buffer can take."""

    peak_buffer_used: int
    """The most events that have been in the buffer at once."""

    tasks_waiting_receive: int
    """Tasks that wait in `receive` or for a batch."""


@final
@attrs.define(eq=False, repr=False)
class EventChannel(trio.abc.ReceiveChannel[Event[DataT_co]], metaclass=NoPublicConstructor):
    """The reading end of a subscription.

    Several tasks may read at once: they compete event by event, the longest waiter first.
    `async for event in channel` ends when the subscription has ended and all has been read.
    """

    _made_by = "Subscription.channel"

    _actor: SubscriptionActor

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> Event[DataT_co]:
        """Wait for the next event.

        A cancellation point always; a schedule point if it waits, and at least every
        `checkpoint_every` calls. Cancel-safe: if cancelled, no event was taken.

        Raises:
          trio.EndOfChannel: If the subscription has ended and everything was read.
          trio.ClosedResourceError: If this channel was closed, before or meanwhile.
          SubscriptionOverflowError: As EndOfChannel, if it was an overflow that ended it.
          EventDataError: As EndOfChannel, if it was the data of an event that ended it.
        """
        self._actor.note_reader()
        await next(self._actor.pace.steps)()
        return await self._actor.receive()

    @trio.lowlevel.enable_ki_protection
    def receive_nowait(self) -> Event[DataT_co]:
        """Take the next event. Not a checkpoint.

        Raises:
          trio.WouldBlock: If there is no event in the buffer.
          trio.EndOfChannel: As `receive`.
          trio.ClosedResourceError: As `receive`.
          SubscriptionOverflowError: As `receive`.
          EventDataError: As `receive`.
        """
        self._actor.note_reader()
        return self._actor.take()

    def batches(self, *, max_size: int | None = None) -> EventBatches[DataT_co]:
        """Iterate over lists of events: each time, all that wait. The fast way to read.

        One checkpoint a list, and never an empty list. Cancel-safe: if cancelled, no event was
        taken. Ends, or raises, as `receive` does.

        Args:
          max_size: The most events in a list; None is no limit.

        Raises:
          TypeError: If `max_size` is not an int.
          ValueError: If `max_size` is less than 1.
        """
        if max_size is not None:
            check_count("max_size", max_size)
        return cast("EventBatches[DataT_co]", EventBatches._create(self._actor, max_size))

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Want nothing more. Not a checkpoint. Idempotent.

        The subscription ends; what was not read is discarded and counted as such. Tasks that
        wait in `receive` get `trio.ClosedResourceError`.
        """
        self._actor.discard()

    async def aclose(self) -> None:
        """`close`, and a checkpoint. The channel is closed also if this is cancelled."""
        self.close()
        await trio.lowlevel.checkpoint()

    def statistics(self) -> EventChannelStatistics:
        """The state of the channel now. Not a checkpoint."""
        buffer = self._actor.buffer
        return EventChannelStatistics(
            current_buffer_used=buffer.buffered,
            max_buffer_size=buffer.max_buffer_size,
            peak_buffer_used=buffer.peak,
            tasks_waiting_receive=len(self._actor.readers),
        )

    def __aiter__(self) -> EventIterator[DataT_co]:  # type: ignore[override]  # trio promises itself here; an iterator a loop is what it means
        iterator = EventIterator._create(self._actor, self._actor.pace)
        return cast("EventIterator[DataT_co]", iterator)

    def __repr__(self) -> str:
        return f"<EventChannel of {self._actor!r}>"


@final
@attrs.define(eq=False, repr=False)
class EventIterator(Generic[DataT_co], metaclass=NoPublicConstructor):
    """An asynchronous iterator over events, for one task. See `EventChannel`."""

    _made_by = "async for over an EventChannel"

    _actor: SubscriptionActor
    _pace: Pace
    # The buffer's list that is being read; not before the reader is noted, which is done once a
    # loop because it would cost a tenth of the delivery of each event.
    _front: list[Event[Any]] | None = None

    def __aiter__(self) -> EventIterator[DataT_co]:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> Event[DataT_co]:
        front = self._front
        if front is None:
            self._actor.note_reader()
            front = self._front = self._actor.buffer.front
        await next(self._pace.steps)()
        # What `take` comes to when there is nothing else to do: a fifth less for each event.
        if front and not self._actor.pressed:
            return front.pop()
        try:
            return await self._actor.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


@final
@attrs.define(eq=False, repr=False)
class EventBatches(Generic[DataT_co], metaclass=NoPublicConstructor):
    """An asynchronous iterator over lists of events. See `EventChannel.batches`."""

    _made_by = "EventChannel.batches"

    _actor: SubscriptionActor
    _max_size: int | None

    def __aiter__(self) -> EventBatches[DataT_co]:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> list[Event[DataT_co]]:
        actor = self._actor
        if not actor.buffer.is_empty:
            await trio.lowlevel.checkpoint()
        try:
            return await actor.receive_list(self._max_size)
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


@final
@attrs.define(eq=False, repr=False)
class Subscription(Generic[DataT_co], metaclass=NoPublicConstructor):
    """A subscription in force, from `subscribe` until it is closed.

    Iterating over it is iterating over its channel. As an asynchronous context manager it closes
    itself at the end of the block.
    """

    _made_by = "EventBus.subscribe"

    _actor: SubscriptionActor
    _channel: EventChannel[DataT_co]

    @property
    def system(self) -> str:
        """The system pattern, in canonical form."""
        return str(self._actor.system)

    @property
    def kind(self) -> str | None:
        """The kind pattern, in canonical form; None is every kind."""
        return None if self._actor.kind is None else str(self._actor.kind)

    @property
    def path(self) -> str | None:
        """The path, or the pattern of paths in canonical form; None is every path."""
        return None if self._actor.path is None else str(self._actor.path)

    @property
    def overflow(self) -> Overflow:
        """What happens when the buffer is full."""
        return self._actor.buffer.overflow

    def channel(self) -> EventChannel[DataT_co]:
        """The channel that the events are read from; the same one each time."""
        return self._channel

    def close(self) -> None:
        """Stop matching, now. Not a checkpoint. Idempotent.

        No event that is accepted from now on is received. What was accepted before stays
        readable, then the channel ends. Senders that wait for this subscription go on.
        """
        self._actor.close()

    def statistics(self) -> SubscriptionStatistics:
        """The books now. Not a checkpoint."""
        buffer = self._actor.buffer
        return SubscriptionStatistics(
            matched=buffer.matched,
            delivered=buffer.delivered,
            queued=buffer.queued,
            held=len(buffer.held),
            dropped=buffer.dropped,
            discarded=buffer.discarded,
            tasks_waiting_send=len(self._actor.senders),
            handling=self._actor.handling,
            failures=self._actor.failures,
        )

    async def __aenter__(self) -> Subscription[DataT_co]:
        return self  # noqa: ASYNC910  # nothing to wait for

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> EventIterator[DataT_co]:
        return aiter(self._channel)

    def __repr__(self) -> str:
        return f"<Subscription {self._actor!r}>"
