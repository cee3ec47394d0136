"""The actor of a subscription: its internal state and behaviour."""

from __future__ import annotations

import itertools
import math
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Container, MutableMapping
from typing import Any, ClassVar, Final, Protocol, assert_never, final
from weakref import WeakKeyDictionary

import attrs
import trio

from .._errors import SubscriptionOverflowError
from .._event import Event
from .._instruments import Instruments
from .._names.interest import Interest
from .buffer import Buffer, End, Key, Overflow, key_of
from .door import Door
from .inbox import Inbox, Unsubscribe
from .notices import LossBegan, LossEnded, Notices, SendersStalled, reserve_stack
from .pace import Pace
from .pending import PendingRequests
from .pending import Worker as TakesEvents
from .readers import KnownReaders, Reader
from .senders import Queue, Sender, Senders

QUIET: Final = 1.0
"""Seconds without a loss after which an episode of loss can end."""


class Worker(TakesEvents, Protocol):
    """Calls the handler of a subscription."""

    handling: int
    """Running calls."""

    failures: int
    """Failed calls."""

    @property
    def handler(self) -> Callable[[Event[Any]], Awaitable[object]]:
        """The handler."""

    @property
    def name(self) -> str:
        """The name of the handler."""

    @property
    def treatment(self) -> str:
        """The consequence of an event that it could not handle."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""

    def look_after_calls(self, now: float) -> None:
        """Report long calls."""

    def heed_instruments(self) -> None:
        """Find out whether instruments watch the calls."""


@final
@attrs.frozen(eq=False)
class Core:
    """The objects that all actors of a bus share."""

    inbox: Inbox
    door: Door
    senders: Senders
    notices: Notices
    pace: Pace
    clock: Callable[[], float]
    requests: PendingRequests
    instruments: Instruments
    make_handle: Callable[[Any], Any]
    """Makes the object by which applications use an actor."""

    unfinished: WeakKeyDictionary[SubscriptionActor, None] = attrs.field(
        factory=WeakKeyDictionary, init=False
    )
    """The subscriptions that were closed, and may have unread events."""

    def unfinished_now(self) -> list[SubscriptionActor]:
        """These, safe from code that closes one meanwhile."""
        actors = (reference() for reference in self.unfinished.keyrefs())  # a list, made at once
        return [actor for actor in actors if actor is not None]


@final
@attrs.define(eq=False)
class Loss:
    """An episode in which a subscription drops events."""

    dropped_before: int
    latest: float
    """When the latest event was dropped, on trio's clock."""


@attrs.define(eq=False)
class SubscriptionActor:
    """The state of one subscription, and the task that does its deferred work.

    The router passes lists of events to `deliver`, and never waits. Readers `take` events. The task
    moves events that did not fit from `buffer.held` into the buffer when there is room, and looks
    after sends that wait for long. Closing the subscription cancels the task. If the task ends in
    another way, the supervisor is ending.
    """

    local_only: ClassVar[bool] = False
    fixed: ClassVar[bool] = False
    """Whether its patterns can't be changed."""

    interest: Interest
    """The patterns that it was opened with."""

    origin: str
    """The file and line that subscribed, or that define the handler."""

    buffer: Buffer
    core: Core
    open_among: MutableMapping[SubscriptionActor, Any]
    """The open actors of its kind. It removes itself."""

    closed: bool = attrs.field(default=False, init=False)
    discarded_at: str = attrs.field(default="", init=False)
    """The line that closed the channel."""

    readers: OrderedDict[Reader, None] | None = attrs.field(default=None, init=False)
    """The tasks that are waiting for events. If there are any, nothing is buffered."""

    known_readers: KnownReaders = attrs.field(factory=KnownReaders, init=False)
    worker: Worker | None = attrs.field(default=None, init=False)
    must_settle: bool = attrs.field(default=False, init=False)
    """Whether `settle` must be called after an event is taken: the subscription stops senders,
    holds events, or is losing some."""

    is_quick: bool = attrs.field(default=True, init=False)
    """Whether taking an event has no side effects: neither `settle` nor a call of an instrument."""

    _interests: dict[Interest, None] | None = attrs.field(default=None, init=False)  # once changed
    _queue: Queue | None = attrs.field(default=None, init=False)  # senders, once it has been full
    _loss: Loss | None = attrs.field(default=None, init=False)
    _number: int = attrs.field(default=0, init=False)  # once it has one
    _handle: weakref.ref[Any] | None = attrs.field(default=None, init=False)  # once it is closed
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _sleeper: trio.lowlevel.Task | None = attrs.field(default=None, init=False)  # its task, if so
    _alarm: float = attrs.field(default=math.inf, init=False)  # when the task is to wake

    @property
    def holder(self) -> SubscriptionActor:
        """Itself, because it can answer requests."""
        return self

    @property
    def tasks_waiting_send(self) -> int:
        """The number of senders that are waiting for room here."""
        return 0 if self._queue is None else self._queue.length

    def waiting_senders(self) -> list[Sender]:
        """The senders that are waiting for room here, in the order of arrival."""
        return [] if self._queue is None else list(self._queue)

    @property
    def number(self) -> int:
        """Its number, unique on its bus."""
        if not self._number:
            self._number = next(self.core.instruments.numbers)
        return self._number

    @property
    def handle(self) -> Any:
        """The object by which applications use it; the same one as long as it is referenced."""
        handle = self.open_among.get(self) or (self._handle and self._handle())
        if handle is None:
            handle = self.core.make_handle(self)
            if self.closed:
                self._handle = weakref.ref(handle)
            else:
                self.open_among[self] = handle
        return handle

    def tell(self, fact: str, *more: object) -> None:
        """Report something about this subscription to the instruments."""
        if self.core.instruments.active:
            self.core.instruments.tell(fact, self.handle, *more)

    @property
    def interests(self) -> Collection[Interest]:
        """Its current patterns, in the order in which they were added."""
        return (self.interest,) if self._interests is None else self._interests.keys()

    def change_interests(self) -> dict[Interest, None]:
        """Its current patterns, to be changed together with the routing table."""
        if self._interests is None:
            self._interests = {self.interest: None}
        return self._interests

    def room_makers(self) -> list[trio.lowlevel.Task]:
        """The tasks that could make room, or none if they aren't known."""
        aside = self.buffer.all_aside
        if self.worker is None or aside is None:
            return [] if self.known_readers.unknown else list(self.known_readers)
        # An idle task of the handler can't take any of these.
        able = [list(self.worker.takers(event)) for event in aside.first_of_each()]
        return list(itertools.chain(*able)) if all(able) else []

    def takers(self, event: Event) -> list[trio.lowlevel.Task]:
        """The tasks that could take an unread event, or none if they aren't known."""
        aside = self.buffer.all_aside
        if self.worker is None or (aside is not None and key_of(event) not in aside):
            return self.room_makers()
        return list(self.worker.takers(event))

    # The task

    @trio.lowlevel.enable_ki_protection
    async def run(  # noqa: ASYNC910  # it may have been closed before it began
        self, close_bus: Callable[[], None]
    ) -> None:
        """Do deferred work, until the subscription is closed.

        Args:
          close_bus: Called if the task is cancelled in another way, because the supervisor ends.
        """
        # In one piece, and without a parking lot: an idle subscription takes 1 KiB less like this.
        try:
            with self._scope:
                while not self.closed:  # a destructor may close it while the scope is entered
                    self.buffer.fit_held()
                    self._sleeper = trio.lowlevel.current_task()
                    if self._alarm == math.inf:
                        await trio.lowlevel.wait_task_rescheduled(self._stop_sleeping)
                    else:
                        with trio.move_on_at(self._alarm):
                            await trio.lowlevel.wait_task_rescheduled(self._stop_sleeping)
                        self._look_after_waits()
        finally:
            if not self.closed:
                close_bus()

    def _stop_sleeping(self, _: object) -> trio.lowlevel.Abort:
        # It isn't asleep if the garbage collector has woken it between trio's decision to cancel it
        # and this line.
        slept, self._sleeper = self._sleeper, None
        return trio.lowlevel.Abort.FAILED if slept is None else trio.lowlevel.Abort.SUCCEEDED

    def _rouse(self) -> None:
        """Wake the task if it is asleep."""
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            trio.lowlevel.reschedule(sleeper)

    def set_alarm(self, time: float) -> None:
        """Have the task check long waits and calls at this time, or earlier."""
        if time < self._alarm:
            self._alarm = time
            self._rouse()

    def _look_after_waits(self) -> None:
        now = self.core.clock()
        if now < self._alarm:
            return
        self._alarm = math.inf
        with self.core.notices:
            self._end_loss_if_over(now)
            self._look_after_senders(now)
            if self.worker is not None:
                self.worker.look_after_calls(now)

    def _look_after_senders(self, now: float) -> None:
        queue = self._queue
        if queue is None or (sender := queue.first()) is None:
            return
        if now >= max(sender.next_look, queue.next_look):
            waited = now - sender.since
            self.core.notices.add(SendersStalled(self, queue.length, waited))
            self.tell("senders_stalled", waited)
            sender.note_look(now)
            queue.next_look = now + 1
        if not self.core.senders.end_hopeless(now):
            self.set_alarm(now + 1)
        self._watch_senders(queue)

    def _watch_senders(self, queue: Queue) -> None:
        if (sender := queue.first()) is not None:
            self.set_alarm(max(sender.next_look, queue.next_look))

    # For the router

    def deliver(self, events: list[Event]) -> None:
        """Take in events that match, in order. The list belongs to the subscription."""
        buffer = self.buffer
        buffer.matched += len(events)
        if self._queue is not None:
            self._queue.coming = 0
        if self.readers and buffer.end_reason is None:  # after a loss, nothing later is read
            events = self._serve(events)
        if events and not buffer.put(events):
            self._put_what_fits(events)
        if self.must_settle:
            self.settle()

    def _serve(self, events: list[Event]) -> list[Event]:
        """Give events to waiting readers, longest waiter first; returns the rest."""
        # No reader waits while the buffer has events, so the order of events is kept.
        readers, total, given = self.readers, len(events), 0
        while given < total and readers:
            share = -(-(total - given) // len(readers))  # no reader should be idle
            reader, _ = readers.popitem(last=False)
            size = share if reader.max_size is None else min(share, reader.max_size)
            reader.answer(events if size == total else events[given : given + size])
            given += size
        self.buffer.on_the_way += given
        return events[given:]

    def _put_what_fits(self, events: list[Event]) -> None:
        buffer = self.buffer
        dropped = buffer.dropped
        if gone := buffer.put_what_fits(events):
            self._let_go(gone)
        if buffer.dropped > dropped:
            self._lose(dropped)
        elif buffer.overflow is Overflow.BLOCK and buffer.room <= 0:
            self.must_settle, self.is_quick = True, False
            if not self.closed:
                if self._queue is None:
                    self._queue = Queue(self)
                self.core.senders.full[self] = self._queue

    def finish(self) -> None:
        """Finish: no more events will be delivered. Unread ones stay, then the channel ends."""
        self.buffer.end()
        if self.buffer.unread:
            self.core.unfinished[self] = None
        self._end_loss()
        self._dismiss_readers()

    def end(self) -> None:
        """Finish at the end of the bus. Many end at once, so the task is only woken."""
        self.finish()
        self._rouse()

    # For readers

    def take(self) -> Event[Any]:
        """The next event.

        Raises:
          trio.WouldBlock: If there is none at the moment.
          trio.EndOfChannel: If there will be no more.
          SubscriptionOverflowError: If there will be no more because of an overflow.
          trio.ClosedResourceError: After `discard`.
        """
        front = self.buffer.front
        if (
            self.is_quick or (self.buffer.is_overfull and not self.core.instruments.watched_reads)
        ) and front:  # last, because a destructor may empty it while a property is asked
            return front.pop()
        if front and not self.must_settle:  # only instruments need to be called
            event = front.pop()
        else:
            try:
                with self.core.notices:
                    event = self.buffer.take()
                    if self.must_settle:
                        self.settle()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                raise self._end() from None
        if self.core.instruments.watched_reads:
            self._tell_received(event)
        return event

    def take_list(self, max_size: int | None) -> list[Event[Any]]:
        """The next events, at least one and at most `max_size`. Raises as `take`."""
        try:
            with self.core.notices:
                events = self.buffer.take_list(max_size)
                if self.must_settle:
                    self.settle()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise self._end() from None
        if self.core.instruments.watched_reads:
            self._tell_received(*events, is_list=True)
        return events

    def _tell_received(self, *events: Event[Any], is_list: bool = False) -> None:
        instruments, handle = self.core.instruments, self.handle
        instruments.is_of_list = is_list
        for event in events:
            for told in instruments.told["event_received"]:
                told(event, handle)

    def _end(self) -> Exception:
        match self.buffer.end_reason:
            case None:
                return trio.EndOfChannel(f"{self.description()} has ended and everything was read")
            case End.DISCARDED:
                return trio.ClosedResourceError(
                    f"the channel of {self.description()} was closed by its reader, at "
                    f"{self.discarded_at}"
                )
            case End.OVERFLOW:
                interest, size = self.interest, self.buffer.max_buffer_size
                return SubscriptionOverflowError(
                    f"{self.description()} ended because its buffer of {size} events was full",
                    system=str(interest.system),
                    kind=None if interest.kind is None else str(interest.kind),
                    max_buffer_size=size,
                )
            case _ as never:
                assert_never(never)

    def take_free(self, busy: Container[Key]) -> Event[Any]:
        """The next event of a system and path that isn't busy; others are set aside.

        Raises as `take`.
        """
        try:
            with self.core.notices:
                while key_of(event := self.buffer.take()) in busy:
                    self.buffer.set_aside(event)
                if self.must_settle:
                    self.settle()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise self._end() from None
        if self.core.instruments.watched_reads:
            self._tell_received(event)
        return event

    def take_aside(self, key: Key) -> Event[Any] | None:
        """The next event of a system and path that was set aside, or None if there is none."""
        with self.core.notices:
            event = self.buffer.take_aside(key)
            if self.must_settle:
                self.settle()
            if not self.buffer.is_empty:  # a held event may have taken its place
                self._dismiss_readers()
        if event is not None and self.core.instruments.watched_reads:
            self._tell_received(event)
        return event

    async def wait_for_events(self) -> None:
        """Wait until `take` doesn't raise WouldBlock. A checkpoint if it waits."""
        await self._wait(0)

    async def receive(self) -> Event[Any]:
        """Take the next event, or wait for it. Raises as `take`, except for WouldBlock.

        A checkpoint if it waits. Cancel-safe: if cancelled, no event was taken.
        """
        while True:
            if self.closed or not self.buffer.is_empty:  # this usually saves an exception
                try:
                    return self.take()  # noqa: ASYNC910  # the caller has had a checkpoint
                except trio.WouldBlock:
                    pass
            if events := await self._wait(1):
                if self.core.instruments.watched_reads:
                    self._tell_received(*events)
                return events[0]

    async def receive_list(self, max_size: int | None) -> list[Event[Any]]:
        """Like `receive`, for at least one and at most `max_size` events."""
        while True:
            if self.closed or not self.buffer.is_empty:
                try:
                    return self.take_list(max_size)  # noqa: ASYNC910  # as above
                except trio.WouldBlock:
                    pass
            if events := await self._wait(max_size):
                if self.core.instruments.watched_reads:
                    self._tell_received(*events, is_list=True)
                # Take what has arrived since, rather than in another iteration.
                if max_size is None and not self.readers and not self.buffer.is_empty:
                    events += self.take_list(None)
                return events

    async def _wait(self, max_size: int | None) -> list[Event[Any]]:
        """Wait for events. The list is empty if there is no need to wait any longer.

        A checkpoint if it waits. Cancel-safe: if cancelled, there was no answer.
        """
        reserve_stack(more=1)  # so that the caller can take more in another step
        readers = self.readers
        if readers is None:
            readers = self.readers = OrderedDict()
        reader = Reader(max_size, readers)
        readers[reader] = None
        if not self.buffer.is_dry and readers.pop(reader, reader) is None:
            # A destructor has closed the bus since the buffer was last checked.
            return []  # noqa: ASYNC910  # pragma: no cover  # no test can do that
        reader.task.custom_sleep_data = self  # what it is waiting for
        await trio.lowlevel.wait_task_rescheduled(reader.abort)
        self.buffer.on_the_way -= len(reader.events)
        self.core.pace.restart()
        return reader.events

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Match no event that is accepted from now on."""
        if not self.closed:
            with self.core.notices:
                self.closed = True
                self.core.unfinished[self] = None
                self.core.inbox.post(Unsubscribe(self, tuple(self.interests), final=True))
                self.core.senders.release(self)
                self._scope.cancel()
                self.leave()
                self.core.instruments.on_interests(self)

    def leave(self) -> None:
        """Remove it from the open ones, because it was closed. Only within a step."""
        handle = self.open_among.pop(self, None)
        if handle is not None:
            self._handle = weakref.ref(handle)
        self.tell("subscription_closed")

    @trio.lowlevel.enable_ki_protection
    def discard(self, where: str) -> None:
        """Close the channel, and discard all unread events."""
        if not self.discarded_at:
            with self.core.notices:
                self.discarded_at = where
                self._let_go(self.buffer.discard())
                self.close()
                self._end_loss()
                self._dismiss_readers()

    def _let_go(self, events: list[Event]) -> None:
        """Release events that will not be read."""
        self.core.requests.let_go(events, self)
        self.core.notices.keep(events)

    # For people

    def __repr__(self) -> str:
        """The patterns, the number of buffered events, and anything unusual."""
        buffer = self.buffer
        facts = [f"{buffer.buffered}/{buffer.max_buffer_size} buffered"]
        if buffer.held:
            facts.append(f"{len(buffer.held)} held")
        if buffer.dropped:
            facts.append(f"{buffer.dropped} dropped")
        if self.closed:
            facts.append("closed")
        return f"{self._patterns()} {', '.join(facts)}"

    def description(self) -> str:
        """The patterns, and the line that subscribed."""
        return f"subscription {self._patterns()} (subscribed at {self.origin})"

    def _patterns(self) -> str:
        return ", ".join(map(str, self.interests)) or "to nothing"

    # After a change

    def settle(self) -> None:
        """Put held events in, and let in senders that no longer have to wait. Within a step."""
        buffer, senders = self.buffer, self.core.senders
        if self._loss is not None:
            self._end_loss_if_over(self.core.clock())
        if buffer.wants_held:
            buffer.fit_held()
        if self in senders.full and buffer.room > 0 and senders.make_room(self, buffer.room):
            self._watch_senders(senders.full[self])
        self.must_settle = self in senders.full or bool(buffer.held) or self._loss is not None
        self.is_quick = not self.must_settle and not self.core.instruments.watched_reads

    def _dismiss_readers(self) -> None:
        while self.readers:
            reader, _ = self.readers.popitem(last=False)
            reader.answer([])

    def _lose(self, dropped_before: int) -> None:
        """Report a loss once per episode, and close if `overflow` is `Overflow.CLOSE`."""
        now = self.core.clock()
        if self._loss is None:
            self._loss = Loss(dropped_before, now)
            self.must_settle, self.is_quick = True, False
            buffer = self.buffer
            self.core.notices.add(LossBegan(self, buffer.unread, buffer.overflow.value))
            self.tell("loss_began")
            self.set_alarm(now + QUIET)
        self._loss.latest = now
        if self.buffer.end_reason is End.OVERFLOW:
            self.close()

    def _end_loss_if_over(self, now: float) -> None:
        if self._loss is None:
            return
        if now < self._loss.latest + QUIET:
            self.set_alarm(self._loss.latest + QUIET)
        elif self.buffer.half_empty:
            self._end_loss()

    def _end_loss(self) -> None:
        if self._loss is not None:
            lost = self.buffer.dropped - self._loss.dropped_before
            self._loss = None
            self.core.notices.add(LossEnded(self, lost))
            self.tell("loss_ended", lost)
