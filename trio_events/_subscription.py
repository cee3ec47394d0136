"""A subscription: the actor that owns it, the handle, and the reading end of its channel."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Protocol, TypeAlias, final

import attrs
import trio

from ._event import Event
from ._no_public_constructor import NoPublicConstructor
from ._overflow import Buffer, Overflow
from ._pattern import Pattern
from ._waiting import Waiter, first

Pace: TypeAlias = Iterator[Callable[[], Awaitable[None]]]
"""For each operation the checkpoint that it begins with. All operations on a bus share one."""

Sender: TypeAlias = Waiter[Event, Exception | None]
"""A sender that waits with its event, for None when it went in, or else for the error."""

Reader: TypeAlias = Waiter[int | None, list[Event]]
"""A reader that waits for at most so many events, or for an empty list when there are no more."""


@final
@attrs.frozen
class SubscriptionStatistics:
    """The books of a subscription. matched = delivered + queued + dropped + discarded."""

    matched: int
    """Events that the bus accepted and that match the subscription."""

    delivered: int
    """Events that a reader got."""

    queued: int
    """Events that wait to be read: in the buffer, or held."""

    held: int
    """Events that did not fit into the buffer, in the hands of the subscription's actor."""

    dropped: int
    """Events lost because the buffer was full."""

    discarded: int
    """Events that were unread when the reader closed the channel, or came later."""

    tasks_waiting_send: int
    """Tasks that wait in `send` for this subscription to have room."""


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


def check_count(name: str, value: object) -> None:
    """Refuse what is not a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


class Gate(Protocol):
    """What a subscription tells the one who feeds it."""

    def on_full(self, subscription: SubscriptionActor) -> None:
        """There is no room: senders of matching events have to wait from now on."""

    def on_room(self, subscription: SubscriptionActor) -> None:
        """There was no room, and now there is."""

    def on_close(self, subscription: SubscriptionActor) -> None:
        """No event that is accepted from now on is wanted."""


@final
@attrs.define(eq=False)
class SubscriptionActor:
    """Everything about one subscription; also the task that does what can wait.

    The router hands over lists of events with `deliver` and never waits. Readers take events out.
    The task moves events that did not fit from `buffer.held` into the buffer when there is room;
    closing the subscription cancels it, and if it ends in another way, that closes the
    subscription.
    """

    system: Pattern
    kind: Pattern | None
    buffer: Buffer
    _gate: Gate
    # Events that the gate let in for the room that there was, and that are still to come.
    coming: int = attrs.field(default=0, init=False)
    closed: bool = attrs.field(default=False, init=False)
    readers: OrderedDict[Reader, None] = attrs.field(factory=OrderedDict, init=False)
    senders: OrderedDict[Sender, None] = attrs.field(factory=OrderedDict, init=False)
    # Whether taking an event has consequences: senders have to wait for us, or events are held.
    _pressed: bool = attrs.field(default=False, init=False)
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _asleep: trio.lowlevel.ParkingLot = attrs.field(
        factory=trio.lowlevel.ParkingLot, init=False
    )

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Hand over held events whenever there is room, until the subscription is closed."""
        try:
            with self._scope:
                while True:
                    self.hand_over()
                    await self._asleep.park()
        finally:
            self.close()

    def deliver(self, events: list[Event]) -> None:
        """Take in events that match, in order. The list is ours from now on."""
        self.coming = 0
        self.buffer.matched += len(events)
        events = self._serve(events)
        if events:
            self.buffer.put(events)
        if self.buffer.overflowed:
            self.close()
        self._after_change()

    def hand_over(self) -> None:
        """Move held events to waiting readers, and as many as there is room for to the buffer."""
        self.buffer.held = self._serve(self.buffer.held)
        self.buffer.hand_over()
        self._after_change()

    def finish(self) -> None:
        """Nothing more will be delivered: what is here stays readable, then the channel ends."""
        self.buffer.held = self._serve(self.buffer.held)
        self.buffer.end()
        self._dismiss_readers()

    def take(self) -> Event:
        """The next event; raises as `Buffer.take`."""
        event = self.buffer.take()
        if self._pressed:
            self._after_change()
        return event

    def take_list(self, max_size: int | None) -> list[Event]:
        """The next events; raises as `Buffer.take`."""
        events = self.buffer.take_list(max_size)
        if self._pressed:
            self._after_change()
        return events

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Want no event that is accepted from now on."""
        if not self.closed:
            self.closed = True
            self._gate.on_close(self)
            self._scope.cancel()

    @trio.lowlevel.enable_ki_protection
    def discard(self) -> None:
        """Want nothing more, not even what is here."""
        if not self.buffer.discarding:
            self.buffer.discard()
            self.close()
            self._dismiss_readers()

    def describe(self) -> str:
        """The patterns and the fill, and what is unusual."""
        buffer = self.buffer
        return " ".join(
            [
                repr(str(self.system)),
                *([f"kind={str(self.kind)!r}"] if self.kind else []),
                f"{buffer.buffered}/{buffer.max_buffer_size} buffered",
                *([f"{len(buffer.held)} held"] if buffer.held else []),
                *([f"{buffer.dropped} dropped"] if buffer.dropped else []),
                *(["closed"] if self.closed else []),
            ]
        )

    def _serve(self, events: list[Event]) -> list[Event]:
        """Give the events to the readers that wait, longest waiter first; returns the rest."""
        # Nobody waits while something is in the buffer, so the order of events is kept.
        while events and self.readers:
            reader = first(self.readers)
            size = len(events) if reader.request is None else reader.request
            reader.wake(events[:size])
            events = events[size:]
        return events

    def _dismiss_readers(self) -> None:
        while self.readers:
            first(self.readers).wake([])

    def _after_change(self) -> None:
        """Have those act who wait for room, or who must not wait for it any longer."""
        if self.closed or self.buffer.overflow is not Overflow.BLOCK:
            return
        if self.buffer.held and self.buffer.buffered < self.buffer.max_buffer_size:
            self._asleep.unpark()
        if self.buffer.room <= 0:
            self._pressed = True
            self._gate.on_full(self)
        elif self._pressed:
            self._gate.on_room(self)
            self._pressed = bool(self.senders)


@final
@attrs.define(eq=False, repr=False)
class EventChannel(trio.abc.ReceiveChannel[Event], metaclass=NoPublicConstructor):
    """The reading end of a subscription.

    Several tasks may read at once: they compete event by event, the longest waiter first.
    `async for event in channel` ends when the subscription has ended and all has been read.
    """

    _actor: SubscriptionActor
    _pace: Pace

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> Event:
        """Wait for the next event.

        A cancellation point always; a schedule point if it waits, and at least every
        `checkpoint_every` calls. Cancel-safe: if cancelled, no event was taken.

        Raises:
          trio.EndOfChannel: If the subscription has ended and everything was read.
          trio.ClosedResourceError: If this channel was closed, before or meanwhile.
          SubscriptionOverflowError: As EndOfChannel, if it was an overflow that ended it.
        """
        await next(self._pace)()
        while True:
            try:
                return self._actor.take()
            except trio.WouldBlock:
                pass
            events = await Reader(1).wait(self._actor.readers)
            if events:
                return events[0]

    @trio.lowlevel.enable_ki_protection
    def receive_nowait(self) -> Event:
        """Take the next event. Not a checkpoint.

        Raises:
          trio.WouldBlock: If there is no event in the buffer.
          trio.EndOfChannel: As `receive`.
          trio.ClosedResourceError: As `receive`.
          SubscriptionOverflowError: As `receive`.
        """
        return self._actor.take()

    def batches(self, *, max_size: int | None = None) -> EventBatches:
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
        return EventBatches._create(self._actor, max_size)

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

    def __repr__(self) -> str:
        return f"<EventChannel of {self._actor.describe()}>"


@final
@attrs.define(eq=False)
class EventBatches(metaclass=NoPublicConstructor):
    """An asynchronous iterator of lists of events. See `EventChannel.batches`."""

    _actor: SubscriptionActor
    _max_size: int | None

    def __aiter__(self) -> EventBatches:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> list[Event]:
        if self._actor.buffer.buffered:
            await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._actor.take_list(self._max_size)
            except trio.WouldBlock:
                pass
            except trio.EndOfChannel:
                raise StopAsyncIteration from None
            events = await Reader(self._max_size).wait(self._actor.readers)
            if events:
                return events


@final
@attrs.define(eq=False, repr=False)
class Subscription(metaclass=NoPublicConstructor):
    """A subscription in force, from `subscribe` until it is closed.

    Iterating over it is iterating over its channel. As an asynchronous context manager it closes
    itself at the end of the block.
    """

    _actor: SubscriptionActor
    _channel: EventChannel

    @property
    def system(self) -> str:
        """The system pattern, in canonical form."""
        return str(self._actor.system)

    @property
    def kind(self) -> str | None:
        """The kind pattern, in canonical form; None is every kind."""
        return None if self._actor.kind is None else str(self._actor.kind)

    @property
    def overflow(self) -> Overflow:
        """What happens when the buffer is full."""
        return self._actor.buffer.overflow

    def channel(self) -> EventChannel:
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
        )

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> EventChannel:
        return self._channel

    def __repr__(self) -> str:
        return f"<Subscription {self._actor.describe()}>"
