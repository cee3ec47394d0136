"""Subscriptions and their channels, as applications use them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Generic, cast, final

import attrs
import trio

from ._closing import ClosingAnywhere
from ._core.actor import SubscriptionActor
from ._core.buffer import Overflow, check_count
from ._core.pace import Pace
from ._core.router import Router
from ._event import DataT_co, Event
from ._handlers.staff import Staff
from ._names.interest import Interest
from ._names.pattern import ExactPath
from ._names.permits import Permits
from ._no_public_constructor import NoPublicConstructor
from ._origin import caller
from ._terms import check_overflow


@final
@attrs.frozen
class SubscriptionStatistics:
    """The counters of a subscription.

    matched = delivered + queued + dropped + discarded + superseded.
    """

    matched: int
    """Events that match the subscription and that the router has delivered to it."""

    delivered: int
    """Events that a reader received, or that the handler was called with."""

    queued: int
    """Unread events: in the buffer, held, or on their way to a waiting reader."""

    held: int
    """Events that did not fit into the buffer, kept by the subscription's actor."""

    dropped: int
    """Events lost because the buffer was full."""

    discarded: int
    """Events that were unread when the reader closed the channel, or that arrived later."""

    superseded: int
    """Events replaced by newer ones while the buffer was full, with `Overflow.LATEST`."""

    tasks_waiting_send: int
    """Tasks waiting in `send` for room in this subscription."""

    handling: int
    """Calls of the subscription's handler that are running, or about to begin."""

    failures: int
    """Calls of the subscription's handler that have failed."""


@final
@attrs.frozen(eq=False)
class WaitingSender:
    """A send that is waiting for room in a subscription."""

    event: Event
    """The event to be sent."""

    task: trio.lowlevel.Task
    """The task that is waiting."""

    since: float
    """When it began to wait, on trio's clock, in seconds."""


@final
@attrs.frozen
class EventChannelStatistics:
    """The state of a channel, with the field names of trio's memory channels."""

    current_buffer_used: int
    """Events in the buffer."""

    max_buffer_size: int
    """The number of events at which the buffer is full."""

    peak_buffer_used: int
    """The most events that have been in the buffer at once."""

    tasks_waiting_receive: int
    """Tasks waiting in `receive` or for a batch."""


@final
@attrs.define(eq=False, repr=False)
class EventChannel(trio.abc.ReceiveChannel[Event[DataT_co]], metaclass=NoPublicConstructor):
    """The reading end of a subscription.

    Several tasks may read at once. Each event goes to one of them: the one that has waited longest.
    `async for event in channel` ends when the subscription has ended and everything was read.
    """

    _made_by: ClassVar = "Subscription.channel"
    _actor: SubscriptionActor

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> Event[DataT_co]:
        """Wait for the next event.

        A cancellation point always; a schedule point if it waits, and at least every
        `checkpoint_every` calls. Cancel-safe: if cancelled, no event was taken.

        Raises:
          trio.EndOfChannel: If the subscription has ended and everything was read.
          trio.ClosedResourceError: If this channel was closed before the call, or is closed
            meanwhile.
          SubscriptionOverflowError: Instead of EndOfChannel, if an overflow ended the subscription.
          NoBusError: If this is called from another thread. Nothing was taken.
        """
        actor = self._actor
        actor.core.door.check_here()
        actor.known_readers.note_current()
        await next(actor.core.pace.steps)()
        front = actor.buffer.front  # as in `EventIterator`
        return front.pop() if front and actor.is_quick else await actor.receive()

    @trio.lowlevel.enable_ki_protection
    def receive_nowait(self) -> Event[DataT_co]:
        """Take the next event. Not a checkpoint.

        Raises:
          trio.WouldBlock: If there is no event in the buffer.
          trio.EndOfChannel: As `receive`.
          trio.ClosedResourceError: As `receive`.
          SubscriptionOverflowError: As `receive`.
          NoBusError: As `receive`.
        """
        self._actor.core.door.check_here()
        self._actor.known_readers.note_current()
        return self._actor.take()

    def batches(self, *, max_size: int | None = None) -> EventBatches[DataT_co]:
        """Iterate over lists of all unread events: the fastest way to read.

        One checkpoint per list, and never an empty list. Cancel-safe: if cancelled, no event was
        taken. It ends, or raises, as `receive` does.

        Args:
          max_size: The most events in a list; None means no limit.

        Raises:
          TypeError: If `max_size` isn't an int.
          ValueError: If `max_size` is less than 1.
        """
        if max_size is not None:
            check_count("max_size", max_size)
        return cast("EventBatches[DataT_co]", EventBatches._create(self._actor, max_size))

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """End the subscription and discard unread events. Not a checkpoint. Idempotent.

        They are counted as discarded. Tasks that are waiting in `receive` get
        `trio.ClosedResourceError`. If a destructor calls this while the bus is in the middle of a
        step, it takes effect at the end of that step.

        Raises:
          NoBusError: If this is called from another thread.
        """
        actor = self._actor
        if not actor.discarded_at:
            actor.core.door.check_here()
            actor.core.notices.after_step(partial(actor.discard, caller()))

    async def aclose(self) -> None:
        """`close`, and a checkpoint. The channel is closed even if this is cancelled."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __enter__(self) -> EventChannel[DataT_co]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def statistics(self) -> EventChannelStatistics:
        """The state of the channel now. Not a checkpoint."""
        buffer = self._actor.buffer
        return EventChannelStatistics(
            current_buffer_used=buffer.buffered,
            max_buffer_size=buffer.max_buffer_size,
            peak_buffer_used=buffer.peak,
            tasks_waiting_receive=len(self._actor.readers or ()),
        )

    def __aiter__(self) -> EventIterator[DataT_co]:  # type: ignore[override]  # trio declares that this returns the channel; here, each loop has an iterator
        iterator = EventIterator._create(self._actor, self._actor.core.pace)
        return cast("EventIterator[DataT_co]", iterator)

    def __repr__(self) -> str:
        return f"<EventChannel of {self._actor!r}>"


@final
@attrs.define(eq=False, repr=False)
class EventIterator(Generic[DataT_co], metaclass=NoPublicConstructor):
    """An asynchronous iterator over events, for one task. See `EventChannel`."""

    _made_by: ClassVar = "`async for` over an EventChannel"
    _actor: SubscriptionActor
    _pace: Pace
    # The buffer's list that is being read. It is None until the reader has been noted and its
    # thread checked. That is done once per loop: for each event it would be 10 % of the delivery.
    _front: list[Event[Any]] | None = None

    def __aiter__(self) -> EventIterator[DataT_co]:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> Event[DataT_co]:
        actor, front = self._actor, self._front
        if front is None:
            actor.core.door.check_here()
            actor.known_readers.note_current()
            front = self._front = actor.buffer.front
        await next(self._pace.steps)()
        try:
            # What `take` amounts to when there is nothing else to do; 20 % faster for each event.
            # No call comes between the check and `pop`, where a destructor could close the channel.
            return front.pop() if front and actor.is_quick else await actor.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


@final
@attrs.define(eq=False, repr=False)
class EventBatches(Generic[DataT_co], metaclass=NoPublicConstructor):
    """An asynchronous iterator over lists of events. See `EventChannel.batches`."""

    _made_by: ClassVar = "EventChannel.batches"
    _actor: SubscriptionActor
    _max_size: int | None

    def __aiter__(self) -> EventBatches[DataT_co]:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> list[Event[DataT_co]]:
        actor = self._actor
        actor.core.door.check_here()
        actor.known_readers.note_current()
        if actor.closed or not actor.buffer.is_empty:  # otherwise it waits, or has just ended
            await trio.lowlevel.checkpoint()
        try:
            return await actor.receive_list(self._max_size)
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


@final
@attrs.define(eq=False, repr=False)
class Subscription(ClosingAnywhere, Generic[DataT_co], metaclass=NoPublicConstructor):
    """An open subscription, from `subscribe` until it is closed.

    Iterating over a subscription iterates over its channel. As a context manager, with `with` or
    `async with`, it closes itself at the end of the block.
    """

    _made_by: ClassVar = "EventBus.subscribe"
    _actor: SubscriptionActor
    _channel: EventChannel[DataT_co]
    _router: Router
    _permits: Permits
    _staff: Staff

    @property
    def system(self) -> str:
        """The system pattern that it was opened with, in canonical form."""
        return str(self._actor.interest.system)

    @property
    def kind(self) -> str | None:
        """The kind pattern that it was opened with, in canonical form; None matches every kind."""
        return None if self._actor.interest.kind is None else str(self._actor.interest.kind)

    @property
    def path(self) -> str | None:
        """The path, or pattern for it, that it was opened with; None matches every path."""
        return None if self._actor.interest.path is None else str(self._actor.interest.path)

    @property
    def overflow(self) -> Overflow:
        """What happens when the buffer is full."""
        return self._actor.buffer.overflow

    @property
    def origin(self) -> str:
        """The line that subscribed, as `"file:line"`; for a handler, where it is defined."""
        return self._actor.origin

    @property
    def handler(self) -> Callable[[Event[Any]], Awaitable[object]] | None:
        """The handler that is called with the events, or None."""
        return None if self._actor.worker is None else self._actor.worker.handler

    def channel(self) -> EventChannel[DataT_co]:
        """The channel from which the events are read; the same one each time."""
        return self._channel

    async def receive(self) -> Event[DataT_co]:
        """The same as `channel().receive()`: see `EventChannel.receive`."""
        return await self._channel.receive()

    def receive_nowait(self) -> Event[DataT_co]:
        """The same as `channel().receive_nowait()`: see `EventChannel.receive_nowait`."""
        return self._channel.receive_nowait()

    def batches(self, *, max_size: int | None = None) -> EventBatches[DataT_co]:
        """The same as `channel().batches()`: see `EventChannel.batches`."""
        return self._channel.batches(max_size=max_size)

    @trio.lowlevel.enable_ki_protection
    def add(
        self, system: str, kind: str | None = None, *, path: str | ExactPath | None = None
    ) -> None:
        """Match these events as well, from now on. Not a checkpoint.

        An event that several of its patterns match is received once. Events sent after this returns
        are received; events accepted before are not. Adding the same patterns again has no effect.

        Args:
          system: As in `EventBus.subscribe`.
          kind: As in `EventBus.subscribe`.
          path: As in `EventBus.subscribe`.

        Raises:
          TypeError: If an argument has the wrong type.
          InvalidPatternError: If a pattern isn't valid.
          ValueError: If this adds the bus's own events, and `overflow` is `Overflow.BLOCK`.
          NoBusError: If the caller isn't in the trio run of the bus.
          PolicyDeniedError: If the policy doesn't allow subscribing to this system.
          BusClosedError: If the bus was closed.
          trio.ClosedResourceError: If the subscription was closed.
          ValueError: If it belongs to a bridge, whose patterns can't be changed.
        """
        interest = Interest.of(system, kind, path)
        check_overflow(interest, self.overflow)
        door = self._router.core.door
        door.check_here()
        door.check_open()
        self._permits.check_subscribe(str(interest.system))
        door.check_open()  # the policy may have closed it
        self._check_open()
        if interest not in self._actor.interests:
            self._router.add_interest(self._actor, interest)

    @trio.lowlevel.enable_ki_protection
    def remove(
        self, system: str, kind: str | None = None, *, path: str | ExactPath | None = None
    ) -> None:
        """Stop matching what was added with the same arguments. Not a checkpoint.

        These may be the arguments of `subscribe` itself. Events accepted after this returns are no
        longer received because of them; events accepted before stay readable. A subscription that
        matches nothing stays open.

        Args:
          system: As in `add`.
          kind: As in `add`.
          path: As in `add`.

        Raises:
          TypeError: If an argument has the wrong type.
          InvalidPatternError: If a pattern isn't valid.
          ValueError: If the subscription doesn't have these patterns, or belongs to a bridge.
          NoBusError: If the caller isn't in the trio run of the bus.
          BusClosedError: If the bus was closed.
          trio.ClosedResourceError: If the subscription was closed.
        """
        interest = Interest.of(system, kind, path)
        self._router.core.door.check_here()
        self._router.core.door.check_open()
        self._check_open()
        if interest not in self._actor.interests:
            raise ValueError(f"{interest} has not been added to {self!r}")
        self._router.remove_interest(self._actor, interest)

    def _check_open(self) -> None:
        if self._actor.closed:
            raise trio.ClosedResourceError(f"{self._actor.description()} was closed")
        if self._actor.fixed:
            raise ValueError(f"the patterns of {self._actor.description()} can't be changed")

    def close(self) -> None:
        """Stop matching at once. Not a checkpoint. Idempotent.

        Events accepted from now on are not received. Events accepted before stay readable, then
        the channel ends. Senders that are waiting for this subscription stop waiting for it. If a
        destructor calls this while the bus is in the middle of a step, it takes effect at the end
        of that step.

        Raises:
          NoBusError: If this is called from another thread.
        """
        actor = self._actor
        if not actor.closed:
            actor.core.door.check_here()
            actor.core.notices.after_step(actor.close)

    @trio.lowlevel.enable_ki_protection
    async def drain(self) -> None:
        """Close, and wait until what was accepted has been read and the handler has finished.

        If a consumer started with `EventBus.start_soon` has read from the subscription, this also
        waits until the consumer has ended, or is waiting to read again, from any subscription.

        A checkpoint, always. Cancel-safe: if cancelled, the subscription is closed, what was
        accepted stays readable, and the handler goes on. Idempotent: calling it again waits again.
        Several tasks may call this at once.

        Raises:
          DeadlockError: If this would wait for its own caller, because the caller is the handler, a
            consumer of the bus that has read from the subscription, or the only task that has. The
            subscription stays open.
          NoBusError: If the caller isn't in the trio run of the bus.
        """
        self._router.core.door.check_run()
        await self._staff.drain(self._actor)

    def waiting_senders(self) -> tuple[WaitingSender, ...]:
        """The sends that are waiting for room, in the order of arrival. Not a checkpoint."""
        return tuple(
            WaitingSender(sender.event, sender.task, sender.since)
            for sender in self._actor.waiting_senders()
        )

    def statistics(self) -> SubscriptionStatistics:
        """The counters now. Not a checkpoint."""
        buffer, worker = self._actor.buffer, self._actor.worker
        on_the_way = buffer.on_the_way
        return SubscriptionStatistics(
            matched=buffer.matched,
            delivered=buffer.delivered + (0 if worker is None else on_the_way),
            queued=buffer.unread + (on_the_way if worker is None else 0),
            held=len(buffer.held),
            dropped=buffer.dropped,
            discarded=buffer.discarded,
            superseded=buffer.superseded,
            tasks_waiting_send=self._actor.tasks_waiting_send,
            handling=0 if worker is None else worker.handling + on_the_way,
            failures=0 if worker is None else worker.failures,
        )

    def __aiter__(self) -> EventIterator[DataT_co]:
        return aiter(self._channel)

    def __repr__(self) -> str:
        return f"<Subscription {self._actor!r}>"


def make_subscription(
    actor: SubscriptionActor, router: Router, permits: Permits, staff: Staff
) -> Subscription[Any]:
    """Make the object by which applications use a subscription."""
    channel: EventChannel[Any] = EventChannel._create(actor)
    subscription: Subscription[Any] = Subscription._create(actor, channel, router, permits, staff)
    return subscription
