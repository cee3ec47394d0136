"""Waiting sends: which task waits where, first come, first served."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Sequence, Set
from operator import attrgetter
from typing import Protocol, final

import attrs
import trio

from .._errors import DeadlockError
from .._event import Event
from .._instruments import Instruments
from .._names.interest import Interest
from .._names.routing import RoutingTable
from .deadlock import following_look, gives_up, hopeless_waits, next_look
from .door import Door
from .inbox import Inbox, Recipient
from .pending import PendingRequest, PendingRequests, deadlock_error


@final
@attrs.define(eq=False)
class Sender:
    """A send that is waiting for room."""

    event: Event
    ticket: int
    """Its place in the order of arrival, which it keeps when it moves to another queue."""

    since: float
    """When it began to wait, on trio's clock."""

    next_look: float = attrs.field(init=False)
    """When the wait is to be reported next, on trio's clock."""

    queue: Queue | None = attrs.field(default=None, init=False)
    """The queue in which it is waiting; None when it no longer is."""

    passed: Set[Queue] = attrs.field(default=frozenset(), init=False)
    """The queues in which it has had its turn, and was stopped only by another queue."""

    task: trio.lowlevel.Task = attrs.field(factory=trio.lowlevel.current_task, init=False)
    _deadline: float = attrs.field(factory=trio.current_effective_deadline, init=False)
    _error: Exception | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.next_look = self.since + next_look(0)

    def note_look(self, now: float) -> None:
        """Note that the wait has been reported."""
        self.next_look = following_look(self.since, self.next_look, now)

    def gives_up(self, now: float) -> bool:
        """Whether the wait ends by itself soon enough."""
        return gives_up(self._deadline, self.since, now)

    async def wait(self) -> None:
        """Wait until the event has been accepted, or raise.

        A checkpoint, always. Cancel-safe: if cancelled, the event wasn't accepted.

        Raises:
          BusClosedError: If the bus is closed meanwhile. The event wasn't accepted.
          DeadlockError: If the wait could never end. The event wasn't accepted.
        """
        try:
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        finally:
            del self.event, self.task  # the queue may keep this for a while
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback refers to this frame

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        # As in `Reader`: if it has left, the task has been rescheduled.
        return trio.lowlevel.Abort.SUCCEEDED if self._leave() else trio.lowlevel.Abort.FAILED

    def _leave(self) -> bool:
        queue, self.queue = self.queue, None
        if queue is not None:
            queue.length -= 1
        return queue is not None

    def move(self, queue: Queue) -> None:
        """Move to another queue."""
        self._leave()
        queue.add(self)

    def wake(self, error: Exception | None) -> None:
        """Wake the task: the event has been accepted, or there is an error to raise."""
        self._leave()
        self._error = error
        trio.lowlevel.reschedule(self.task)


class Owner(Protocol):
    """A subscription for which senders wait."""

    interest: Interest
    """The patterns that it was opened with."""

    def description(self) -> str:
        """Its patterns, and the line that subscribed."""

    def room_makers(self) -> Sequence[trio.lowlevel.Task]:
        """The tasks that could make room, or none if they aren't known."""

    def set_alarm(self, time: float) -> None:
        """Have its task look after the senders at this time, or earlier."""


@final
@attrs.define(eq=False)
class Queue:
    """The sends that are waiting for room in one place: the inbox, or a subscription."""

    owner: Owner | None
    """The subscription that they are waiting for, or None for the inbox."""

    length: int = attrs.field(default=0, init=False)
    """The number of waiting sends."""

    coming: int = attrs.field(default=0, init=False)
    """Events that were let in because there was room, and have not been delivered yet."""

    next_look: float = attrs.field(default=-math.inf, init=False)
    """When it may be checked again; at most once a second."""

    # By ticket. Senders that have left stay in it until they are first, or there are too many.
    _heap: list[tuple[int, Sender]] = attrs.field(factory=list, init=False)

    def add(self, sender: Sender) -> None:
        """Let a sender wait here, behind those that arrived before it."""
        if len(self._heap) > 2 * self.length + 8:
            self._heap = [(other.ticket, other) for other in self]
        sender.queue = self
        self.length += 1
        if self.owner is not None:
            self.owner.set_alarm(max(sender.next_look, self.next_look))
        heapq.heappush(self._heap, (sender.ticket, sender))

    def first(self) -> Sender | None:
        """The sender that arrived first, or None if none is waiting."""
        heap = self._heap
        while heap and heap[0][1].queue is not self:
            heapq.heappop(heap)
        return heap[0][1] if heap else None

    def in_any_order(self) -> Iterator[Sender]:
        """The waiting senders. One that left and came back may appear twice."""
        return (sender for _, sender in self._heap if sender.queue is self)

    def __iter__(self) -> Iterator[Sender]:
        """The waiting senders, in the order of arrival."""
        waiting = dict.fromkeys(self.in_any_order())
        return iter(sorted(waiting, key=attrgetter("ticket")))


@final
@attrs.define(eq=False)
class Senders:
    """The gate in front of the inbox.

    A sender waits in one queue at a time. If another queue stops it when its turn comes, it moves
    to that queue, at the place that its order of arrival gives it.
    """

    _inbox: Inbox
    _table: RoutingTable[Recipient]
    _clock: Callable[[], float]
    _requests: PendingRequests
    _instruments: Instruments
    full: dict[Recipient, Queue] = attrs.field(factory=dict, init=False)
    """The recipients that stop senders: those without room, and those for which a sender is already
    waiting, so that no newcomer goes first."""

    for_inbox: Queue = attrs.field(factory=lambda: Queue(None), init=False)
    """The senders that are waiting for room in the inbox."""

    _tickets: Iterator[int] = attrs.field(factory=itertools.count, init=False)
    _next_verdict: float = attrs.field(default=-math.inf, init=False)

    def __len__(self) -> int:
        return self.for_inbox.length + sum(queue.length for queue in self.full.values())

    def obstacle(self, event: Event, sender: Sender | None = None) -> Queue | None:
        """The queue in which the sender of this event has to wait, or None."""
        if self._inbox.used >= self._inbox.size:
            return self.for_inbox
        if self.full:
            # Peek, so that a cancelled send leaves no cached route behind.
            for recipient in self._table.peek(event.system, event.kind).recipients(event.path):
                queue = self.full.get(recipient)
                if queue is None or (recipient.local_only and event.source is not None):
                    continue
                if not _has_passed(sender, queue):
                    return queue
        return None

    def line_up(self, event: Event, queue: Queue) -> Sender:
        """Add a sender to a queue. Its task must call `wait` at once."""
        sender = Sender(event, next(self._tickets), self._clock())
        queue.add(sender)
        return sender

    def make_room(self, recipient: Recipient, room: int) -> bool:
        """Let in as many of the senders waiting for a recipient as it has room for.

        Returns:
          Whether it still stops senders, because some are waiting for it.
        """
        queue = self.full.pop(recipient)
        queue.coming += self.let_in(queue, room - queue.coming)
        if queue.length:
            self.full[recipient] = queue
        return queue.length > 0

    def release(self, recipient: Recipient) -> None:
        """Let in all senders that are waiting for a recipient, which no longer stops any."""
        queue = self.full.pop(recipient, None)
        if queue is not None:
            self.let_in(queue, queue.length)

    def let_in(self, queue: Queue, room: int) -> int:
        """Let in at most `room` senders, first come, first served; returns how many.

        A sender that another queue stops waits there instead.
        """
        let_in = 0
        while let_in < room and (sender := queue.first()) is not None:
            obstacle = self.obstacle(sender.event, sender)
            if obstacle is None:
                self._admit(sender)
                let_in += 1
            elif obstacle is queue:
                break
            else:
                if queue is not self.for_inbox:
                    sender.passed |= {queue}
                sender.move(obstacle)
        return let_in

    def reconsider(self, recipient: Recipient) -> None:
        """Let in the senders that no longer have to wait for a recipient: it matches less now."""
        for sender in self.full.get(recipient, ()):
            event = sender.event
            if recipient in self._table.peek(event.system, event.kind).recipients(event.path):
                continue  # it keeps its place, even if another recipient stops it, too
            obstacle = self.obstacle(event, sender)
            if obstacle is None:
                self._admit(sender)
            else:
                sender.move(obstacle)

    def _admit(self, sender: Sender) -> None:
        self._inbox.post(sender.event)
        sender.wake(None)

    def dismiss(self, door: Door) -> None:
        """Dismiss senders that the door no longer admits, unless they send an awaited reply."""
        for sender in [s for queue in (self.for_inbox, *self.full.values()) for s in queue]:
            if not door.admits(sender.task) and not self._requests.admits(sender.event):
                sender.wake(door.closed_error("; the event that was waiting for room was not sent"))

    def end_hopeless(self, now: float) -> bool:
        """End the sends and requests that have waited for a second and would wait forever.

        Returns:
          False if it is too early: this looks at all waits, so it runs at most once a second.
        """
        if now < self._next_verdict:
            return False
        self._next_verdict = now + 1
        places = {queue: queue.owner for queue in self.full.values() if queue.owner is not None}
        senders = {
            s.task: s for queue in places for s in queue.in_any_order() if not s.gives_up(now)
        }
        requests = self._requests.waits(now)
        waiting: dict[trio.lowlevel.Task, Sender | PendingRequest] = {**senders, **requests}
        enders: dict[Queue | PendingRequest, Sequence[trio.lowlevel.Task]] = {
            queue: owner.room_makers() for queue, owner in places.items()
        }
        enders.update((request, request.enders()) for request in requests.values())
        verdict = hopeless_waits(
            {task: place for task, wait in waiting.items() if (place := _place_of(wait))},
            enders,
            [
                wait.task
                for wait in sorted(waiting.values(), key=_seniority)
                if now >= wait.since + next_look(0)
            ],
        )
        for wait in map(waiting.__getitem__, verdict):
            if isinstance(wait, PendingRequest):
                assert wait.event is not None
                self._instruments.tell("deadlock_refused", wait.event, wait.whereabouts())
                wait.fail(deadlock_error(wait))
            else:
                assert wait.queue is not None
                assert wait.queue.owner is not None
                owner = wait.queue.owner
                of_its_own = list(enders[wait.queue]) == [wait.task]
                self._instruments.tell("deadlock_refused", wait.event, owner.description())
                wait.wake(_deadlock_error(wait.event, owner, of_its_own=of_its_own))
        return True


def _place_of(wait: Sender | PendingRequest) -> Queue | PendingRequest | None:
    return wait if isinstance(wait, PendingRequest) else wait.queue


def _seniority(wait: Sender | PendingRequest) -> tuple[float, int]:
    return wait.since, -1 if isinstance(wait, PendingRequest) else wait.ticket


def _deadlock_error(event: Event, owner: Owner, *, of_its_own: bool) -> DeadlockError:
    interest = owner.interest
    readers = "its only reader is the sender itself" if of_its_own else "all its readers wait too"
    return DeadlockError(
        f"sending to {event.system!r} would wait forever: {owner.description()} is full, and "
        f"{readers}",
        system=str(interest.system),
        kind=None if interest.kind is None else str(interest.kind),
    )


def _has_passed(sender: Sender | None, queue: Queue) -> bool:
    """Whether a sender doesn't have to wait again for a subscription that is full again.

    That is so if it has had its turn there, and no sender that arrived earlier is waiting there
    now. Otherwise two subscriptions that are always full could send it back and forth forever. What
    doesn't fit is held.
    """
    if sender is None or queue not in sender.passed:
        return False
    first = queue.first()
    return first is None or first.ticket > sender.ticket
