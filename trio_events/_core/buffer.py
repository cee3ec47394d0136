"""The buffer of a subscription: its unread events, and what happens when it is full."""

from __future__ import annotations

import enum
import itertools
from collections import OrderedDict, deque
from typing import Any, Final, TypeAlias, assert_never, final

import attrs
import trio

from .._event import Event


class Overflow(enum.Enum):
    """What happens to an event that a subscription matches while its buffer is full."""

    BLOCK = "block"
    """Nothing is lost: senders of matching events wait."""

    DROP_OLDEST = "drop_oldest"
    """The oldest event in the buffer is dropped. Senders never wait."""

    DROP_INCOMING = "drop_incoming"
    """The new event is dropped, for this subscription only. Senders never wait."""

    CLOSE = "close"
    """The subscription ends. Buffered events stay readable. Senders never wait."""

    LATEST = "latest"
    """While the buffer is full, only the newest unread event of each system, kind and path is kept.

    Replaced events are counted as superseded, not as dropped. If there are more paths than the
    buffer has room for, the oldest event is dropped. Senders never wait.
    """


def check_count(name: str, value: object) -> None:
    """Require a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


_NOTHING: Final[deque[Event]] = deque(maxlen=0)
"""The held events of a buffer that has always had room. An empty deque takes 0.7 KiB."""

Key: TypeAlias = tuple[str, str]
"""A system and a path."""


def key_of(event: Event) -> Key:
    """The key of the events that must be handled in order with this one."""
    return event.system, event.path


@final
class Aside:
    """Events that wait for their turn, by system and path."""

    def __init__(self) -> None:
        self._events: OrderedDict[int, Event] = OrderedDict()  # by number, the oldest first
        self._numbers: dict[Key, deque[int]] = {}
        self._next = itertools.count()

    def __len__(self) -> int:
        return len(self._events)

    def __contains__(self, key: Key) -> bool:
        return key in self._numbers

    def first_of_each(self) -> list[Event]:
        """The oldest event of each system and path."""
        return [self._events[numbers[0]] for numbers in self._numbers.values()]

    def add(self, event: Event) -> None:
        """Add an event, which is newer than the others."""
        number = next(self._next)
        self._events[number] = event
        self._numbers.setdefault(key_of(event), deque()).append(number)

    def take(self, key: Key) -> Event | None:
        """The oldest event of a system and path, or None if there is none."""
        numbers = self._numbers.get(key)
        if numbers is None:
            return None
        event = self._events.pop(numbers.popleft())
        if not numbers:
            del self._numbers[key]
        return event

    def take_oldest(self) -> Event:
        """The oldest event of all, which is also the oldest of its system and path."""
        event = next(iter(self._events.values()))
        self.take(key_of(event))
        return event


_Newest: TypeAlias = OrderedDict[tuple[str, str, str], Event]
"""Events by system, kind and path, in the order in which they were sent."""

_NO_NEWEST: Final = _Newest()


def _path_of(event: Event) -> tuple[str, str, str]:
    """The key by which newer events replace this one."""
    return event.system, event.kind, event.path


class End(enum.Enum):
    """The reason why a buffer ends, or will end when everything has been read."""

    OVERFLOW = "it was full, and its policy is Overflow.CLOSE"
    DISCARDED = "its reader wants no more"


@final
@attrs.define(eq=False)
class Buffer:
    """The bounded buffer of one subscription, and its counters.

    A memory channel carries lists of events; the bound counts events. (Fan-out is cheap because the
    router delivers everything that it has in one list.) `held` are the events that didn't fit.

    The law: matched = delivered + queued + dropped + discarded + superseded. An event that has left
    the buffer, and was not lost in one of these ways, was delivered. So `delivered` needs no
    counter of its own.
    """

    max_buffer_size: int
    overflow: Overflow
    matched: int = attrs.field(default=0, init=False)
    dropped: int = attrs.field(default=0, init=False)
    discarded: int = attrs.field(default=0, init=False)
    superseded: int = attrs.field(default=0, init=False)
    on_the_way: int = attrs.field(default=0, init=False)  # to readers that were waiting
    peak: int = attrs.field(default=0, init=False)  # of `buffered`
    end_reason: End | None = attrs.field(default=None, init=False)
    held: deque[Event] = attrs.field(default=_NOTHING, init=False)
    front: list[Event[Any]] = attrs.field(factory=list, init=False)
    """The list that is being read, in reverse order: the next event is the last one. It is always
    the same object, and a reader may pop from it if that has no side effects."""

    capacity: int = attrs.field(init=False)
    """The most events in the channel and `front`: `max_buffer_size`, less those set aside."""

    aside: Aside | None = attrs.field(default=None, init=False)
    """Events that were set aside until their turn comes; None if there never were any."""

    # With `Overflow.LATEST`, the events that were unread when it was last full, without those that
    # newer ones have replaced. They are read before those in the memory channel; while there are
    # any, `front` is empty.
    _newest: _Newest = attrs.field(default=_NO_NEWEST, init=False)
    _stored: int = attrs.field(default=0, init=False)  # events in `_newest` and the memory channel
    _complete: bool = attrs.field(default=False, init=False)  # nothing more will be put in
    _tx: trio.MemorySendChannel[list[Event]] = attrs.field(init=False)
    _rx: trio.MemoryReceiveChannel[list[Event]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        # No list is empty, so there are never more lists than events.
        self._tx, self._rx = trio.open_memory_channel(self.max_buffer_size)
        self.capacity = self.max_buffer_size

    @property
    def buffered(self) -> int:
        """The number of events in the buffer or set aside; at most `max_buffer_size`."""
        return self._stored + len(self.front) + self.max_buffer_size - self.capacity

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to read. Nothing is held then, unless all room is set aside."""
        return not (self.front or self._stored)

    @property
    def is_dry(self) -> bool:
        """Whether there is nothing to read now, but there may be later."""
        ended = self._complete and not self.held
        return self.is_empty and not ended and self.end_reason is not End.DISCARDED

    @property
    def unread(self) -> int:
        """The number of events that can be read, including the held ones."""
        return self.buffered + len(self.held)

    @property
    def all_aside(self) -> Aside | None:
        """The events that are set aside, if these take all the room; otherwise None."""
        return None if self.capacity else self.aside

    @property
    def room(self) -> int:
        """How many more events fit; negative if events are held."""
        return self.max_buffer_size - self.unread

    @property
    def is_overfull(self) -> bool:
        """Whether so many events are held that taking one from `front` has no side effects."""
        readable = self._stored + len(self.front)
        return len(self.held) >= self.max_buffer_size and 2 * (readable - 1) > self.capacity

    @property
    def wants_held(self) -> bool:
        """Whether to put held events in now: many at once, and before the buffer is empty."""
        # Not `half_empty`: events that are set aside can't be read, and must not delay others.
        return bool(self.held) and 2 * (self._stored + len(self.front)) <= self.capacity

    @property
    def half_empty(self) -> bool:
        """Whether the buffer is at most half full, so that an episode of loss can end."""
        return 2 * self.buffered <= self.max_buffer_size

    @property
    def delivered(self) -> int:
        """The number of events that readers received."""
        gone = self.dropped + self.discarded + self.superseded
        return self.matched - self.unread - self.on_the_way - gone

    def put(self, events: list[Event]) -> bool:
        """Take in a list of events if there is room for them and at least one more.

        Returns:
          Whether the list was taken in. If so, it belongs to the buffer.
        """
        # Without calling `room` and `_append`, which would double the time that this takes.
        size = len(events)
        buffered = self._stored + len(self.front) + size
        if buffered >= self.capacity or self.held or self.end_reason is not None:
            return False
        self._tx.send_nowait(events)
        self._stored += size
        self.peak = max(self.peak, buffered)
        return True

    def put_what_fits(self, events: list[Event]) -> list[Event]:
        """Take in a list of events, and treat those that don't fit as `overflow` says.

        Returns:
          The events that were removed or not taken in. They have been counted.
        """
        if self.end_reason is not None:
            if self.end_reason is End.DISCARDED:
                self.discarded += len(events)
            else:
                self.dropped += len(events)
            return events
        room = max(self.room, 0)
        gone: list[Event] = []
        match self.overflow:
            case Overflow.BLOCK:
                if self.held:  # these come first, even if there is room
                    room = 0
                fitting = events[:room]
                if self.held is _NOTHING:
                    self.held = deque()
                self.held.extend(events[room:])
            case Overflow.DROP_OLDEST:
                fitting = events[-self.max_buffer_size :]
                gone = events[: len(events) - len(fitting)]
                for _ in range(self.buffered + len(fitting) - self.max_buffer_size):
                    gone.append(self._take_oldest())
            case Overflow.DROP_INCOMING | Overflow.CLOSE:
                fitting, gone = events[:room], events[room:]
                if gone and self.overflow is Overflow.CLOSE:
                    self.end_reason = End.OVERFLOW
            case Overflow.LATEST:
                return self._put_latest(events)
            case _ as never:
                assert_never(never)
        self.dropped += len(gone)
        if fitting:
            self._append(fitting)
        return gone

    def _put_latest(self, events: list[Event]) -> list[Event]:
        """Take in events one at a time for `Overflow.LATEST`; returns the removed ones."""
        fitting, others = events[: self.room], events[self.room :]
        if fitting:
            self._append(fitting)
        gone: list[Event] = []
        for event in others:
            if self.room:
                self._append([event])
            else:
                gone += self._keep_newest(event)
        return gone

    def _keep_newest(self, event: Event) -> list[Event]:
        """Take in an event although the buffer is full; returns the events removed for it."""
        # An event enters `_newest` only once, so this takes constant time on average.
        if self._newest is _NO_NEWEST:
            self._newest = _Newest()
        newest = self._newest
        later = self.front[::-1]
        self.front.clear()
        while self._stored > len(newest):
            events = self._rx.receive_nowait()
            self._stored -= len(events)
            later += events
        gone: list[Event] = []
        older: list[Event] = []
        while self.aside:
            older.append(self._take_oldest())
        for each in reversed(older):
            if (key := _path_of(each)) in newest:
                gone.append(each)
            else:
                newest[key] = each
                newest.move_to_end(key, last=False)
        for each in (*later, event):
            if (key := _path_of(each)) in newest:
                gone.append(newest.pop(key))
            newest[key] = each
        self.superseded += len(gone)
        if len(newest) > self.max_buffer_size:
            gone.append(newest.popitem(last=False)[1])
            self.dropped += 1
        self._stored = len(newest)
        return gone

    def take(self) -> Event:
        """The next event.

        Raises:
          trio.WouldBlock: If there is none at the moment.
          trio.EndOfChannel: If there will be no more.
          trio.ClosedResourceError: After `discard`.
        """
        front = self.front
        if not front:
            self._fill_front()
        return front.pop()

    def take_list(self, max_size: int | None) -> list[Event]:
        """The next events, at least one; at most `max_size` if it is not None. Raises as `take`."""
        front = self.front
        if max_size is None and not front:  # nearly always; no list is reversed
            events = self._receive()
            while self._stored:
                events += self._receive()
            return events
        if not front:
            self._fill_front()
        events = front[: -1 - max_size : -1] if max_size is not None else front[::-1]
        del front[len(front) - len(events) :]
        while self._stored and (max_size is None or len(events) < max_size):
            events += self._receive()
        if max_size is not None and len(events) > max_size:
            front += events[: max_size - 1 : -1]
            del events[max_size:]
        return events

    def set_aside(self, event: Event) -> None:
        """Put back an event that was just taken. It stays queued, until its turn comes."""
        if self.aside is None:
            self.aside = Aside()
        self.aside.add(event)
        self.capacity -= 1

    def take_aside(self, key: Key) -> Event | None:
        """The next event of a system and path that was set aside, or None if there is none."""
        event = None if self.aside is None else self.aside.take(key)
        self.capacity += event is not None
        return event

    def _take_oldest(self) -> Event:
        if not self.aside:
            return self.take()
        self.capacity += 1
        return self.aside.take_oldest()

    def fit_held(self) -> None:
        """Move as many held events into the channel as there is room for."""
        held = self.held
        fitting = [
            held.popleft() for _ in range(min(len(held), self.max_buffer_size - self.buffered))
        ]
        if fitting:
            self._append(fitting)
            if self._complete and not held:
                self._tx.close()

    def end(self) -> None:
        """Take in no more events. Those in the buffer stay readable, then the channel ends."""
        self._complete = True
        if not self.held:
            self._tx.close()

    def discard(self) -> list[Event]:
        """Discard the events in the buffer, and all that come later.

        Returns:
          The events that were in the buffer.
        """
        self.end_reason = End.DISCARDED
        gone = [*self.front, *self.held]
        while self._stored:
            gone += self._receive()
        while self.aside:
            gone.append(self._take_oldest())
        self.discarded += len(gone)
        self.front.clear()
        self.held.clear()
        self._rx.close()
        return gone

    def _fill_front(self) -> None:
        events = self._receive()
        events.reverse()  # before it becomes visible
        self.front += events

    def _append(self, events: list[Event]) -> None:
        self._tx.send_nowait(events)
        self._stored += len(events)
        self.peak = max(self.peak, self.buffered)

    def _receive(self) -> list[Event]:
        # One at a time from `_newest`, because newer events may still replace the others.
        newest = self._newest
        events = [newest.popitem(last=False)[1]] if newest else self._rx.receive_nowait()
        self._stored -= len(events)
        return events
