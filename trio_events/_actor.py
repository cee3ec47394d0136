"""The actor of a subscription: everything about it that is not for applications."""

from __future__ import annotations

import inspect
import logging
import math
import traceback
import weakref
from collections import OrderedDict
from typing import Any, Final, Protocol, TypeAlias, final

import attrs
import trio

from ._errors import EventDataError, SubscriptionOverflowError
from ._event import Event
from ._names.pattern import Pattern
from ._overflow import Buffer, Overflow
from ._pace import Pace
from ._waiting import Waiter, first

_log: Final = logging.getLogger("trio_events")

_FIRST_STALL_WARNING: Final = 1.0  # seconds that a sender has waited; then twice as long ...
_STALL_WARNING_EVERY: Final = 60.0  # ... but no more than this much longer


@final
@attrs.frozen(eq=False)
class Attempt:
    """What a waiting sender is about."""

    event: Event
    since: float
    """When it began to wait, on trio's clock."""

    deadline: float
    """When its wait ends at the latest, on trio's clock."""

    passed: set[SubscriptionActor] = attrs.field(factory=set, init=False)
    """The subscriptions where it has had its turn, and only another one stood in its way."""


Sender: TypeAlias = Waiter[Attempt, Exception | None]
"""A sender that waits for None when its event went in, or else for an error to raise."""

Reader: TypeAlias = Waiter[int | None, list[Event]]
"""A reader that waits for at most so many events, or for an empty list when there are no more."""


class Gate(Protocol):
    """What a subscription tells the one who keeps the senders."""

    def on_full(self, subscription: SubscriptionActor) -> None:
        """There is no room: senders of matching events have to wait from now on."""

    def on_room(self, subscription: SubscriptionActor) -> None:
        """There was no room, and now there is."""

    def on_close(self, subscription: SubscriptionActor) -> None:
        """No event that is accepted from now on is wanted."""

    def on_stall(self, subscription: SubscriptionActor) -> None:
        """Senders have been waiting for long."""

    def check_here(self) -> None:
        """Refuse what comes from another thread."""

    def close(self) -> None:
        """The supervisor is ending, and everything with it."""


@final
@attrs.define(eq=False)
class SubscriptionActor:
    """The state of one subscription, and the task that does for it what can wait.

    The router hands over lists of events with `deliver`, and never waits. Readers `take` events.
    The task moves events that did not fit from `buffer.held` into the buffer when there is room,
    and looks after senders that wait for long. Closing the subscription cancels the task. If the
    task ends in another way, the supervisor is ending.
    """

    system: Pattern
    kind: Pattern | None
    origin: str
    """The file and line that subscribed."""

    buffer: Buffer
    pace: Pace
    _gate: Gate
    path: str | Pattern | None = None
    """The one path that is wanted, or a pattern for it. The router looks at it, not we."""

    _data_type: type | None = None  # what the data must be, if that is to be checked
    closed: bool = attrs.field(default=False, init=False)
    readers: OrderedDict[Reader, None] = attrs.field(factory=OrderedDict, init=False)
    senders: OrderedDict[Sender, None] = attrs.field(factory=OrderedDict, init=False)
    handling: int = attrs.field(default=0, init=False)
    """Handlers that are running."""

    failures: int = attrs.field(default=0, init=False)
    """Times that a handler has failed."""

    coming: int = attrs.field(default=0, init=False)
    """Events that were let in for the room that there was, and are still to be delivered."""

    pressed: bool = attrs.field(default=False, init=False)
    """Whether taking an event has consequences for others than the reader: senders have to wait
    for us, events are held, or events are being dropped."""

    # The first event whose data was not what it must be.
    _misfit: Event | None = attrs.field(default=None, init=False)
    # How many events had been dropped when the present episode of loss began.
    _dropped_before: int | None = attrs.field(default=None, init=False)
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _sleeper: trio.lowlevel.Task | None = attrs.field(default=None, init=False)  # our task, if so
    # When to look whether the first sender has been waiting for longer than `_patience`.
    _next_look: float = attrs.field(default=math.inf, init=False)
    _patience: float = attrs.field(default=_FIRST_STALL_WARNING, init=False)
    _first_ticket: int | None = attrs.field(default=None, init=False)  # whom the patience is with
    # The tasks that have ever read from here, and the one that did so last.
    _readers: tuple[weakref.ref[trio.lowlevel.Task], ...] = attrs.field(default=(), init=False)
    _last_reader: weakref.ref[trio.lowlevel.Task] | None = attrs.field(default=None, init=False)
    _unknown_reader: bool = attrs.field(default=False, init=False)

    # The task

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Do what can wait, until the subscription is closed."""
        # Not in pieces, nor with a parking lot: an idle subscription takes 1 KiB less like this.
        try:
            with self._scope:
                while True:
                    self.hand_over()
                    self._sleeper = trio.lowlevel.current_task()
                    if self._next_look == math.inf:
                        await trio.lowlevel.wait_task_rescheduled(self._stop_sleeping)
                    else:
                        with trio.move_on_at(self._next_look):
                            await trio.lowlevel.wait_task_rescheduled(self._stop_sleeping)
                        self._look_after_senders()
        finally:
            if not self.closed:
                self._gate.close()

    def _stop_sleeping(self, _: object) -> trio.lowlevel.Abort:
        self._sleeper = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _rouse(self) -> None:
        """Have the task do what there is to do, if it sleeps."""
        if self._sleeper is not None:
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    def hand_over(self) -> None:
        """Put as many of the held events as fit into the buffer."""
        self.buffer.fit_held()

    def _look_after_senders(self) -> None:
        now = trio.current_time()
        if now < self._next_look:
            return
        self._gate.on_stall(self)
        if not self.senders:
            self._next_look, self._first_ticket = math.inf, None
            return
        sender = first(self.senders)
        if sender.ticket != self._first_ticket:
            self._first_ticket, self._patience = sender.ticket, _FIRST_STALL_WARNING
        waited = now - sender.request.since
        if waited >= self._patience:
            _report(
                logging.WARNING,
                "%s is full: senders waiting for room: %d, the first for %.0f s",
                self.description(),
                len(self.senders),
                waited,
            )
            self._patience = min(2 * self._patience, self._patience + _STALL_WARNING_EVERY)
        self._next_look = now - waited + self._patience

    # For the router

    def matches(self, event: Event) -> bool:
        """Whether we want the event. The router knows without asking, once it has registered us."""
        path = self.path
        return (
            self.system.matches(event.system)
            and (self.kind is None or self.kind.matches(event.kind))
            and (
                path in (None, event.path)
                or (isinstance(path, Pattern) and path.matches(event.path))
            )
        )

    def deliver(self, events: list[Event]) -> None:
        """Take in events that match, in order. The list is ours from now on."""
        self.coming = 0
        buffer = self.buffer
        if buffer.held:
            buffer.fit_held()  # the task may not have had its turn yet, and these come first
        buffer.matched += len(events)
        if self._data_type is not None:
            events = self._fitting(events, self._data_type)
        if self.readers:
            events = self._serve(events)
        if events:
            dropped = buffer.dropped
            buffer.put(events)
            if buffer.dropped > dropped:
                self._lose(dropped)
        elif not self.pressed:
            return
        if self.pressed or buffer.room <= 0:
            self._after_change()

    def finish(self) -> None:
        """Nothing more will be delivered: what is here stays readable, then the channel ends."""
        self.buffer.end()
        self._end_loss()
        self._dismiss_readers()

    def watch_senders(self, since: float) -> None:
        """See to it that the task looks after a sender that waits since then."""
        if since + _FIRST_STALL_WARNING < self._next_look:
            self._next_look = since + _FIRST_STALL_WARNING
            self._rouse()

    @property
    def only_reader(self) -> trio.lowlevel.Task | None:
        """The one living task that has ever read from here, or None if that is not certain."""
        if self._unknown_reader:
            return None
        self._readers = tuple(reader for reader in self._readers if _is_living(reader()))
        return self._readers[0]() if len(self._readers) == 1 else None

    # For readers

    def note_reader(self) -> None:
        """Remember the running task as one that reads from here."""
        try:
            self._note(trio.lowlevel.current_task())
        except RuntimeError:  # a callback, or no trio at all: nobody whom we could recognise
            self._unknown_reader = True

    def _note(self, task: trio.lowlevel.Task) -> None:
        if self._last_reader is None or self._last_reader() is not task:
            self._last_reader = weakref.ref(task)
            if self._last_reader not in self._readers:
                living = (reader for reader in self._readers if _is_living(reader()))
                self._readers = (*living, self._last_reader)

    def take(self) -> Event[Any]:
        """The next event.

        Raises:
          trio.WouldBlock: If there is none at the moment.
          trio.EndOfChannel: If there will be none any more.
          SubscriptionOverflowError: The same, and an overflow is the reason.
          EventDataError: The same, and an event's data is the reason.
          trio.ClosedResourceError: After `discard`.
        """
        if self.pressed and not self.buffer.buffered:
            self.hand_over()  # rather than wait for the task, for a quarter of the throughput
        try:
            event = self.buffer.take()
        except trio.EndOfChannel:
            raise self._end() from None
        if self.pressed:
            self._after_change()
        return event

    def take_list(self, max_size: int | None) -> list[Event[Any]]:
        """The next events, at least one and at most `max_size`. Raises as `take`."""
        if self.pressed and not self.buffer.buffered:
            self.hand_over()
        try:
            events = self.buffer.take_list(max_size)
        except trio.EndOfChannel:
            raise self._end() from None
        if self.pressed:
            self._after_change()
        return events

    def _end(self) -> Exception:
        if self._misfit is None and not self.buffer.overflowed:
            return trio.EndOfChannel()
        patterns = {"system": str(self.system), "kind": self.kind and str(self.kind)}
        size = self.buffer.max_buffer_size
        if self._misfit is None:
            return SubscriptionOverflowError(
                f"{self.description()} ended because its buffer of {size} events was full",
                **patterns,
                max_buffer_size=size,
            )
        assert self._data_type is not None
        return EventDataError(
            f"{self.description()} ended because of the data of an event: it must be "
            f"{self._data_type.__qualname__}, not {type(self._misfit.data).__qualname__}",
            **patterns,
            event=self._misfit,
        )

    async def receive(self) -> Event[Any]:
        """Take the next event, or wait for it. Raises as `take`, but for WouldBlock.

        A checkpoint if it waits. Cancel-safe: if cancelled, no event was taken.
        """
        while True:
            if self.closed or not self.buffer.is_empty:  # nearly every wait: an exception less
                try:
                    return self.take()  # noqa: ASYNC910  # the caller has had a checkpoint
                except trio.WouldBlock:
                    pass
            reader: Reader = Waiter(1)
            events = await reader.wait(self.readers)
            self.pace.restart()
            if events:  # there are none if the channel has ended
                return events[0]

    async def receive_list(self, max_size: int | None) -> list[Event[Any]]:
        """The same for at least one and at most `max_size` events; and notes the reader."""
        while True:
            if self.closed or not self.buffer.is_empty:
                self.note_reader()
                try:
                    return self.take_list(max_size)  # noqa: ASYNC910  # as above
                except trio.WouldBlock:
                    pass
            reader: Reader = Waiter(max_size)
            self._note(reader.task)
            events = await reader.wait(self.readers)
            if events:
                return events

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Want no event that is accepted from now on."""
        if not self.closed:
            self._gate.check_here()
            self.closed = True
            self._gate.on_close(self)
            self._scope.cancel()

    @trio.lowlevel.enable_ki_protection
    def discard(self) -> None:
        """Want nothing more, not even what is here."""
        if not self.buffer.discarding:
            self._gate.check_here()
            self.buffer.discard()
            self.close()
            self._end_loss()
            self._dismiss_readers()

    # For people

    def __repr__(self) -> str:
        """The patterns, the fill, and what is unusual."""
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
        """Which subscription this is, and who made it."""
        return f"subscription {self._patterns()} (subscribed at {self.origin})"

    def _patterns(self) -> str:
        kind = "" if self.kind is None else f" kind={str(self.kind)!r}"
        path = "" if self.path is None else f" path={str(self.path)!r}"
        return f"{str(self.system)!r}{kind}{path}"

    # What follows from a change

    def _serve(self, events: list[Event]) -> list[Event]:
        """Give the events to the readers that wait, longest waiter first; returns the rest."""
        # Nobody waits while something is in the buffer, so the order of events is kept.
        while events and self.readers:
            share = -(-len(events) // len(self.readers))  # nobody is to be idle
            reader, _ = self.readers.popitem(last=False)
            size = share if reader.request is None else min(share, reader.request)
            if size == len(events):
                reader.answer(events)
                return []
            reader.answer(events[:size])
            events = events[size:]
        return events

    def _dismiss_readers(self) -> None:
        while self.readers:
            first(self.readers).wake([])

    def _after_change(self) -> None:
        """Have those act who wait for room, or need not wait for it any longer.

        To be called when we are pressed, or full.
        """
        if self._dropped_before is not None and self.buffer.half_empty:
            self._end_loss()
        if self.closed or self.buffer.overflow is not Overflow.BLOCK:
            return
        if self.buffer.room <= 0:
            if not self.pressed:
                self.pressed = True
                self._gate.on_full(self)
            if self.buffer.held:
                self._rouse()
        else:
            self.hand_over()  # all of it: whatever is held, there is room for more
            self._gate.on_room(self)
            self.pressed = bool(self.senders)

    def _lose(self, dropped_before: int) -> None:
        """Say so, once an episode; and with `Overflow.CLOSE` that is the end."""
        if self._dropped_before is None:
            self._dropped_before = dropped_before
            self.pressed = True
            _report(
                logging.WARNING,
                "%s is full: unread events: %d, further ones are lost (%s)",
                self.description(),
                self.buffer.buffered,
                self.buffer.overflow.value,
            )
        if self.buffer.overflowed:
            self.close()

    def _fitting(self, events: list[Event], data_type: type) -> list[Event]:
        """The events before the first one whose data is of another type. That one ends it all."""
        for fitting, event in enumerate(events):
            if self._misfit is not None or not isinstance(event.data, data_type):
                self._misfit = self._misfit or event
                self.buffer.dropped += len(events) - fitting
                self.close()
                return events[:fitting]
        return events

    def _end_loss(self) -> None:
        if self._dropped_before is not None:
            lost = self.buffer.dropped - self._dropped_before
            self._dropped_before = None
            self.pressed = False
            _report(logging.INFO, "%s: events lost since it was full: %d", self.description(), lost)


def _report(level: int, message: str, *facts: object) -> None:
    """Log something. Should a log handler raise, that must not get in the way of the events."""
    try:
        _log.log(level, message, *facts)
    except Exception:  # noqa: BLE001  # shown as the logging module shows what it catches itself
        traceback.print_exc()


def _is_living(task: trio.lowlevel.Task | None) -> bool:
    return task is not None and inspect.getcoroutinestate(task.coro) != inspect.CORO_CLOSED
