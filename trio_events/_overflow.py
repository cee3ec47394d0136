"""What one subscription has matched and nobody has read yet, and what happens when it is full."""

from __future__ import annotations

import enum
from typing import Any, assert_never, final

import attrs
import trio

from ._event import Event


class Overflow(enum.Enum):
    """What happens to an event that a subscription matches while its buffer is full."""

    BLOCK = "block"
    """Nothing is lost: senders of events that the subscription matches wait."""

    DROP_OLDEST = "drop_oldest"
    """The oldest event in the buffer makes room. Senders never wait."""

    DROP_INCOMING = "drop_incoming"
    """The subscription does not get this event. Senders never wait."""

    CLOSE = "close"
    """The subscription ends. What is buffered stays readable. Senders never wait."""


def check_count(name: str, value: object) -> None:
    """Refuse what is not a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


@final
@attrs.define(eq=False)
class Buffer:
    """The bounded buffer of one subscription, and its books.

    A memory channel carries lists of events; the bound counts events. (One list for all that the
    router has at a time is what makes fan-out cheap.) `held` is what did not fit.

    The law: matched = delivered + queued + dropped + discarded. What has left the buffer and was
    neither dropped nor discarded was delivered, so `delivered` needs no counter of its own.
    """

    max_buffer_size: int
    overflow: Overflow
    matched: int = attrs.field(default=0, init=False)
    dropped: int = attrs.field(default=0, init=False)
    discarded: int = attrs.field(default=0, init=False)
    peak: int = attrs.field(default=0, init=False)  # of `buffered`
    overflowed: bool = attrs.field(default=False, init=False)  # and the policy is CLOSE
    discarding: bool = attrs.field(default=False, init=False)  # the reader wants no more
    held: list[Event] = attrs.field(factory=list, init=False)
    # The list that is being read, in reverse: the next event is its last. Always the same object.
    front: list[Event[Any]] = attrs.field(factory=list, init=False)
    _stored: int = attrs.field(default=0, init=False)  # events in the memory channel
    _tx: trio.MemorySendChannel[list[Event]] = attrs.field(init=False)
    _rx: trio.MemoryReceiveChannel[list[Event]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        # No list is empty, so the lists are never more than the events; one more for `end`.
        self._tx, self._rx = trio.open_memory_channel(self.max_buffer_size + 1)

    @property
    def buffered(self) -> int:
        """How many events are in the buffer, of `max_buffer_size` at most."""
        return self._stored + len(self.front)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be read."""
        return not (self._stored or self.front or self.held)

    @property
    def queued(self) -> int:
        """How many events wait to be read, the held ones included."""
        return self.buffered + len(self.held)

    @property
    def room(self) -> int:
        """How many more events fit; below zero by the number of those that are held."""
        return self.max_buffer_size - self._stored - len(self.front) - len(self.held)

    @property
    def half_empty(self) -> bool:
        """Whether the buffer is at most half full, which is where an episode of loss ends."""
        return 2 * self.buffered <= self.max_buffer_size

    @property
    def delivered(self) -> int:
        """How many events readers got."""
        return self.matched - self.queued - self.dropped - self.discarded

    def put(self, events: list[Event]) -> None:
        """Take in a list of events, which from now on is ours. Nothing waits."""
        if self.discarding:
            self.discarded += len(events)
        elif self.overflowed:
            self.dropped += len(events)
        elif self.room < len(events):
            self._put_what_fits(events)
        else:
            self._append(events)

    def take(self) -> Event:
        """The next event.

        Raises:
          trio.WouldBlock: If there is none at the moment.
          trio.EndOfChannel: If there will be none any more.
          trio.ClosedResourceError: After `discard`.
        """
        front = self.front
        if not front:
            front += self._receive()
            front.reverse()
        return front.pop()

    def take_list(self, max_size: int | None) -> list[Event]:
        """The next events, at least one; at most `max_size` if it is not None. Raises as `take`."""
        events = self.front[::-1] or self._receive()
        self.front.clear()
        while self._stored and (max_size is None or len(events) < max_size):
            events += self._receive()
        if max_size is not None and len(events) > max_size:
            self.front += events[: max_size - 1 : -1]
            del events[max_size:]
        return events

    def fit_held(self) -> None:
        """Put as many of the held events into the channel as there is room for."""
        fitting = self.held[: self.max_buffer_size - self.buffered]
        if fitting:
            del self.held[: len(fitting)]
            self._append(fitting)

    def end(self) -> None:
        """Nothing more will be put in; what is here stays readable, then the channel ends."""
        if self.held:
            held, self.held = self.held, []
            self._append(held)  # beyond the bound, but nothing follows
        self._tx.close()

    def discard(self) -> None:
        """Nothing more will be read: what is here, and what comes, is discarded."""
        self.discarding = True
        self.discarded += self.queued
        self._stored = 0
        self.held.clear()
        self.front.clear()
        self._rx.close()

    def _append(self, events: list[Event]) -> None:
        self._tx.send_nowait(events)
        self._stored += len(events)
        self.peak = max(self.peak, self.buffered)

    def _receive(self) -> list[Event]:
        events = self._rx.receive_nowait()
        self._stored -= len(events)
        return events

    def _put_what_fits(self, events: list[Event]) -> None:
        room = max(self.room, 0)
        match self.overflow:
            case Overflow.BLOCK:
                fitting, rest = events[:room], events[room:]
                self.held += rest
            case Overflow.DROP_OLDEST:
                fitting = events[-self.max_buffer_size :]
                evicted = self.buffered + len(fitting) - self.max_buffer_size
                self.dropped += len(events) - len(fitting) + evicted
                for _ in range(evicted):
                    self.take()
            case Overflow.DROP_INCOMING | Overflow.CLOSE:
                fitting = events[:room]
                self.dropped += len(events) - len(fitting)
                self.overflowed = self.overflow is Overflow.CLOSE
            case _ as never:
                assert_never(never)
        if fitting:
            self._append(fitting)
