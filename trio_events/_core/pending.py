"""Pending requests: which event answers which request, and which tasks could still answer."""

from __future__ import annotations

import enum
import math
import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Protocol, TypeAlias, TypeVar, final

import attrs
import trio

from .._errors import DeadlockError, RequestFailedError
from .._event import Event
from .._instruments import Instruments
from .._names.pattern import Pattern
from .._names.routing import Route
from .deadlock import following_look, gives_up, next_look
from .door import Door
from .notices import Notices, RequestsStalled


class Worker(Protocol):
    """Calls the handler of a subscription."""

    def takers(self, event: Event) -> Iterable[trio.lowlevel.Task]:
        """The tasks that could handle an event that has not been handled yet."""

    def activity(self) -> str:
        """A description of what it is doing."""


class Holder(Hashable, Protocol):
    """A subscription that received a request."""

    @property
    def worker(self) -> Worker | None:
        """The object that calls its handler, if it has one."""

    @property
    def handle(self) -> object:
        """The object by which applications use it."""

    def description(self) -> str:
        """Its patterns, and the line that subscribed."""

    def takers(self, event: Event) -> list[trio.lowlevel.Task]:
        """The tasks that could take an unread event, or none if they aren't known."""


class Addressee(Hashable, Protocol):
    """A recipient of events."""

    @property
    def holder(self) -> Holder | None:
        """The subscription that gets requests; None if this recipient can't answer any."""


AddresseeT = TypeVar("AddresseeT", bound=Addressee)


class Held(enum.Enum):
    """The progress of a subscription with a request."""

    UNREAD = "not handled yet"
    PASSED_ON = "handled without a reply"


Progress: TypeAlias = Held | trio.lowlevel.Task
"""The progress of a subscription with a request. If it is a task, that task is handling it."""


class Answer(enum.Enum):
    """The state of the reply to a request, whether or not a task is still waiting for it."""

    MISSING = enum.auto()
    BEING_SENT = enum.auto()
    SENT = enum.auto()


@final
class PendingRequest:
    """A request, for as long as its event exists.

    The task that waits creates it. In plain slots, because each request makes one.
    """

    __slots__ = (
        "_asleep",
        "_error",
        "answer",
        "deadline",
        "event",
        "holders",
        "kinds",
        "kinds_text",
        "next_look",
        "reference",
        "reply",
        "since",
        "task",
        "was_made_for_it",
    )

    def __init__(self, event: Event, kinds: Pattern, kinds_text: str, now: float) -> None:
        self.event: Event | None = event
        """The event, while the request is waiting. It must not be kept alive for longer."""

        self.kinds = kinds
        """A pattern for the kind of replies sent by hand."""

        self.kinds_text = kinds_text
        self.since = now
        self.next_look = now + next_look(0)
        self.deadline: float | None = None
        """The deadline of the task. None until the task has noted it."""

        self.holders: dict[Holder, Progress] | None = None
        """The subscriptions that received the event and could still reply. None until routed."""

        self.answer = Answer.MISSING
        self.reply: Event | None = None
        self.was_made_for_it = False
        """Whether the reply was made for this request, rather than found by its path."""

        self.task = trio.lowlevel.current_task()
        self.reference: weakref.ref[Event] | None = None
        self._error: Exception | None = None
        self._asleep = False

    @property
    def is_over(self) -> bool:
        """Whether the wait is over."""
        return self.reply is not None or self._error is not None

    async def wait(self) -> Event:
        """Wait for the reply.

        A checkpoint, always. Cancel-safe: if cancelled, the wait is over.

        Raises:
          BusClosedError: If the bus is closed first.
          RequestFailedError: If no subscription that received the request can still answer it.
          DeadlockError: If the reply could only come from tasks that are waiting for this one.
        """
        if self.is_over:
            await trio.lowlevel.checkpoint()
        while not self.is_over:
            self._asleep = True
            await trio.lowlevel.wait_task_rescheduled(self._abort)
            if not self.is_over:
                self.deadline = trio.current_effective_deadline()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback refers to this frame
        assert self.reply is not None
        return self.reply  # noqa: ASYNC910  # it has waited, or had its checkpoint

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        # As in `Reader`: if it isn't asleep any more, the task has been rescheduled.
        asleep, self._asleep = self._asleep, False
        return trio.lowlevel.Abort.SUCCEEDED if asleep else trio.lowlevel.Abort.FAILED

    @property
    def is_asleep(self) -> bool:
        """Whether the task is waiting for the reply, and not for room to send the request."""
        return self._asleep

    def rouse(self) -> None:
        """Wake the task, to note its deadline or to find that the wait is over."""
        if self._asleep:
            self._asleep = False
            trio.lowlevel.reschedule(self.task)

    def fail(self, error: Exception) -> None:
        """End the wait with an error, unless it is already over."""
        if not self.is_over:
            self._error = error
            self.rouse()

    def gives_up(self, now: float) -> bool:
        """Whether the wait ends by itself soon enough, or may do so."""
        return self.deadline is None or gives_up(self.deadline, self.since, now)

    def whereabouts(self) -> str:
        """Describe the subscriptions that received it, and what they are doing."""
        if self.holders is None:
            return "it has not been routed yet"
        places = []
        for holder, progress in self.holders.items():
            if isinstance(progress, trio.lowlevel.Task):
                state = "being handled"
            elif holder.worker is None:
                state = "no handler, only its readers can reply"
            else:
                state = progress.value
            activity = "" if holder.worker is None else f", {holder.worker.activity()}"
            places.append(f"{holder.description()}: {state}{activity}")
        if self.answer is not Answer.MISSING:
            places.append("a reply is being sent")
        return "; ".join(places) or "no subscription has it any more"

    def note_progress(self, holder: Holder, progress: Progress) -> None:
        """Note the progress of a subscription that received the request."""
        if self.holders is not None and holder in self.holders:
            self.holders[holder] = progress

    def enders(self) -> tuple[trio.lowlevel.Task, ...]:
        """The tasks that could reply, or none if they aren't known."""
        tasks: list[trio.lowlevel.Task] = []
        event = self.event
        assert event is not None
        for holder, progress in (self.holders or {}).items():
            if isinstance(progress, trio.lowlevel.Task):
                able = [progress]
            elif holder.worker is None or progress is Held.UNREAD:
                able = holder.takers(event)
            else:
                able = []
            if not able:
                return ()
            tasks += able
        return tuple(tasks)


_Key: TypeAlias = tuple[str, str]
"""A system and a path."""


@final
@attrs.define(eq=False)
class PendingRequests:
    """The requests of a bus.

    The router passes it the events at the systems and paths of requests. The cost doesn't depend on
    the number of waiting requests: a request, and a reply that was made for one, are found by the
    identity of the event, and a reply sent by hand by its system and path.
    """

    _clock: Callable[[], float]
    _notices: Notices
    _door: Door
    _instruments: Instruments
    waiting: dict[_Key, dict[str, dict[PendingRequest, None]]] = attrs.field(
        factory=dict, init=False
    )
    """The waiting requests, by system and path, then by the text of their reply pattern."""

    underway: dict[int, PendingRequest] = attrs.field(factory=dict, init=False)
    """By the identity of an event that isn't routed yet: the request that it makes or answers."""

    known: dict[int, PendingRequest] = attrs.field(factory=dict, init=False)
    """All requests, by the identity of their events, as long as these exist."""

    _pending: dict[PendingRequest, None] = attrs.field(factory=dict, init=False)  # by age
    _watcher: trio.lowlevel.Task | None = attrs.field(default=None, init=False)  # while it sleeps
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    def __len__(self) -> int:
        """The number of waiting requests."""
        return len(self._pending)

    # For requesters

    def begin(self, event: Event, kinds: Pattern, kinds_text: str) -> PendingRequest:
        """Begin to wait for a reply. The caller must call `end`. Not a checkpoint."""
        request = self._know(event, kinds, kinds_text)
        self._pending[request] = None
        of_path = self.waiting.setdefault((event.system, event.path), {})
        of_path.setdefault(kinds_text, {})[request] = None
        if self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            trio.lowlevel.reschedule(watcher)
        return request

    def adopt(self, event: Event, kinds: Pattern) -> None:
        """Note a request from another process, so that it can be answered. Not a checkpoint."""
        request = self._know(event, kinds, "")
        request.event = None
        del request.task

    def _know(self, event: Event, kinds: Pattern, kinds_text: str) -> PendingRequest:
        """Make a request that is found by its event, as long as that exists."""
        request = PendingRequest(event, kinds, kinds_text, self._clock())
        number = id(event)
        known = self.known  # the callback must not keep more alive than that
        request.reference = weakref.ref(event, lambda _: known.pop(number, None))
        known[number] = request
        return request

    def end(self, request: PendingRequest) -> None:
        """End the wait. Not a checkpoint."""
        event = request.event
        assert event is not None
        self._stop_waiting(request, event)
        request.event = request.holders = request.reply = None
        del self._pending[request], request.task

    def _stop_waiting(self, request: PendingRequest, event: Event) -> None:
        key, kinds = (event.system, event.path), request.kinds_text
        of_path = self.waiting.get(key, {})
        if of_path.get(kinds, {}).pop(request, request) is None:
            if not of_path[kinds]:
                del of_path[kinds]
            if not of_path:
                del self.waiting[key]

    # For the router

    def see(self, event: Event, route: Route[AddresseeT]) -> bool:
        """Note where a request is routed to, or end the waits that an event answers.

        Returns:
          Whether it answers a request.
        """
        request = self.underway.pop(id(event), None)
        if request is not None:
            if request.event is event:
                holders = (recipient.holder for recipient in route.recipients(event.path))
                request.holders = dict.fromkeys(filter(None, holders), Held.UNREAD)
                return False
            request.was_made_for_it = self._answer(request, event)
            return request.was_made_for_it
        of_path = self.waiting.get((event.system, event.path))
        if of_path is None:
            return False
        found = [
            request
            for requests in of_path.values()
            if next(iter(requests)).kinds._matches_checked(event.kind)
            for request in requests
            if request.event is not None and request.event.kind != event.kind
        ]
        answered = [self._answer(request, event) for request in found]
        return any(answered)

    def _answer(self, request: PendingRequest, reply: Event) -> bool:
        if request.event is None or request.is_over:  # the wait is over, or about to be
            return False
        self._stop_waiting(request, request.event)
        request.answer = Answer.SENT
        request.reply = reply
        request.rouse()
        return True

    def expects(self, system: str, kind: str, path: str) -> bool:
        """Whether such an event would answer a request."""
        return any(
            next(iter(requests)).kinds._matches_checked(kind)
            for requests in self.waiting.get((system, path), {}).values()
        )

    def admits(self, event: Event) -> bool:
        """Whether an event may be sent because it answers a task that may still use the bus."""
        request = self.underway.get(id(event))
        if request is not None:
            return (
                request.event is not event
                and request.event is not None
                and self._door.admits(request.task)
            )
        return any(
            self._door.admits(request.task)
            for requests in self.waiting.get((event.system, event.path), {}).values()
            if next(iter(requests)).kinds._matches_checked(event.kind)
            for request in requests
        )

    # For subscriptions

    def hand_on(self, events: Iterable[Event], holder: Holder | None) -> None:
        """Note that a subscription gets these from a history: it may reply to the requests."""
        if self._pending and holder is not None:
            for event in events:
                request = self.known.get(id(event))
                if request is not None and request.holders is not None:
                    request.holders.setdefault(holder, Held.UNREAD)

    def let_go(self, events: Iterable[Event], holder: Holder) -> None:
        """Note that a subscription won't reply to any requests among these."""
        if self._pending:
            for event in events:
                request = self.known.get(id(event))
                if request is not None and request.holders is not None:
                    request.holders.pop(holder, None)

    # For the supervisor

    @trio.lowlevel.enable_ki_protection
    async def run(  # noqa: ASYNC910  # the bus may be closed before it begins
        self, end_hopeless: Callable[[float], bool]
    ) -> None:
        """Look after long requests, until the bus is closed.

        Args:
          end_hopeless: Ends the waits that nothing else will end; returns False if it is too early.
        """
        not_before, again = -math.inf, math.inf  # because each time it looks at all of them
        with self._scope:
            while True:
                if not self._pending:
                    self._watcher = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._stop_watching)
                    continue  # there may be none any more
                due = min(request.next_look for request in self._pending)
                if (now := self._clock()) < (time := max(min(due, again), not_before)):
                    await trio.sleep_until(time)
                    continue  # those that were due may have been answered
                await self._ask_for_deadlines()
                not_before = now + 1
                with self._notices:
                    self._report(now)
                    self._fail_abandoned(now)
                    again = math.inf if end_hopeless(now) else not_before

    def _stop_watching(self, _: object) -> trio.lowlevel.Abort:
        watcher, self._watcher = self._watcher, None
        return trio.lowlevel.Abort.FAILED if watcher is None else trio.lowlevel.Abort.SUCCEEDED

    async def _ask_for_deadlines(self) -> None:  # noqa: ASYNC910  # most often, all are known
        """Have waiting tasks note their deadlines, which would cost too much for every request."""
        asked = [request for request in self._pending if request.is_asleep]
        asked = [request for request in asked if request.deadline is None]
        for request in asked:
            request.rouse()
        while any(  # noqa: ASYNC110  # all it takes is that each of them runs once
            request.deadline is None and request in self._pending for request in asked
        ):
            await trio.lowlevel.checkpoint()

    def _report(self, now: float) -> None:
        """Report the requests that are due, grouped by system and kind."""
        due: dict[tuple[str, str], list[PendingRequest]] = {}
        for request in self._pending:
            if request.next_look <= now and request.is_asleep and request.event is not None:
                due.setdefault((request.event.system, request.event.kind), []).append(request)
        for requests in due.values():
            first = requests[0]
            assert first.event is not None
            waiting, waited, whereabouts = len(requests), now - first.since, first.whereabouts()
            notice = RequestsStalled(names_of(first.event), waiting, waited, whereabouts)
            self._notices.add(notice)
            self._instruments.tell("requests_stalled", first.event, waiting, waited, whereabouts)
        for request in self._pending:
            if request.next_look <= now:
                request.next_look = following_look(request.since, request.next_look, now)

    def _fail_abandoned(self, now: float) -> None:
        """End the requests that no subscription can answer any more."""
        for request in self._pending:
            event = request.event
            if event is None or request.holders != {} or now < request.since + next_look(0):
                continue
            if request.answer is not Answer.MISSING:  # it may have to wait for room
                continue
            request.fail(
                RequestFailedError(
                    f"the request {names_of(event)} can't be answered any more: every "
                    "subscription that received it has ended, or is done with it without a reply",
                    system=event.system,
                    kind=event.kind,
                    path=event.path,
                )
            )

    def waits(self, now: float) -> dict[trio.lowlevel.Task, PendingRequest]:
        """The tasks that are waiting for a reply and have no deadline that ends the wait."""
        return {r.task: r for r in self._pending if r.is_asleep and not r.gives_up(now)}

    def close(self) -> None:
        """End all waits, because the bus is closed."""
        for request in self._pending:
            request.fail(self._door.closed_error("; no reply arrived before"))
        self._scope.cancel()


def deadlock_error(request: PendingRequest) -> DeadlockError:
    """The error of a request that waits for itself."""
    event = request.event
    assert event is not None
    return DeadlockError(
        f"the request {names_of(event)} would wait forever: {request.whereabouts()}; all of these "
        "are waiting, directly or indirectly, for the task that made the request",
        system=event.system,
        kind=event.kind,
    )


def names_of(event: Event) -> str:
    """The names of an event, for messages."""
    return f"system={event.system!r} kind={event.kind!r} path={event.path!r}"
