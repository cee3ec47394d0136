"""Requests that wait for their reply: which event answers which, and who could still answer."""

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
from .deadlock import gives_up, next_look
from .door import Door
from .notices import Notices, RequestsStalled
from .readers import KnownReaders


class Worker(Protocol):
    """What calls the handler of a subscription."""

    def takers(self, event: Event) -> Iterable[trio.lowlevel.Task]:
        """The tasks that could take up an event that was not handled yet."""

    def activity(self) -> str:
        """What it is doing, for people."""


class Holder(Hashable, Protocol):
    """A subscription that a request went to."""

    known_readers: KnownReaders
    """The tasks that have read from it, as far as that is known."""

    @property
    def worker(self) -> Worker | None:
        """What calls its handler, if it has one."""

    @property
    def handle(self) -> object:
        """What applications hold of it."""

    def description(self) -> str:
        """Its patterns, and the line that subscribed."""


class Addressee(Hashable, Protocol):
    """What events are routed to."""

    @property
    def holder(self) -> Holder | None:
        """The subscription that a request goes to; None if nothing there could answer one."""


AddresseeT = TypeVar("AddresseeT", bound=Addressee)


class Held(enum.Enum):
    """How far a subscription has come with a request."""

    UNREAD = "not handled yet"
    PASSED_ON = "handled without a reply"


Progress: TypeAlias = Held | trio.lowlevel.Task
"""How far a subscription has come with a request; a task is the one that handles it."""


class Answer(enum.Enum):
    """How far a request has come with its reply, whether or not something still waits for it."""

    MISSING = enum.auto()
    BEING_SENT = enum.auto()
    SENT = enum.auto()


@final
class PendingRequest:
    """A request from the moment when it is made, for as long as its event exists.

    Made by the task that waits. In plain slots: one is made for each request.
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
        """The event, while the request waits. It must not be kept alive for longer."""

        self.kinds = kinds
        """The kinds of events that answer it if they are sent by hand."""

        self.kinds_text = kinds_text
        self.since = now
        self.next_look = now + next_look(0)
        self.deadline: float | None = None
        """When the task gives up by itself. None until the task has been asked."""

        self.holders: dict[Holder, Progress] | None = None
        """The subscriptions that got the event and could still see to a reply. None until then."""

        self.answer = Answer.MISSING
        self.reply: Event | None = None
        self.was_made_for_it = False
        """Whether the reply was made for this very request, and not found by its path."""

        self.task = trio.lowlevel.current_task()
        self.reference: weakref.ref[Event] | None = None
        self._error: Exception | None = None
        self._asleep = False

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return self.reply is not None or self._error is not None

    async def wait(self) -> Event:
        """Wait for the reply.

        A checkpoint, always. Cancel-safe: if cancelled, nobody waits any more.

        Raises:
          BusClosedError: If the bus is closed first.
          RequestFailedError: If nothing that got the request could still answer it.
          DeadlockError: If the reply could only come from tasks that wait for this one.
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
        # As in `Reader`: if it doesn't sleep any more, the task goes on already.
        asleep, self._asleep = self._asleep, False
        return trio.lowlevel.Abort.SUCCEEDED if asleep else trio.lowlevel.Abort.FAILED

    @property
    def is_asleep(self) -> bool:
        """Whether the task waits for the reply, and for nothing else."""
        return self._asleep

    def rouse(self) -> None:
        """Let the task note its deadline, or see that the wait is over."""
        if self._asleep:
            self._asleep = False
            trio.lowlevel.reschedule(self.task)

    def fail(self, error: Exception) -> None:
        """End the wait with an error, unless it is over and the task is about to go on."""
        if not self.is_over:
            self._error = error
            self.rouse()

    def gives_up(self, now: float) -> bool:
        """Whether the wait ends by itself, and soon enough to wait for that; or may do so."""
        return self.deadline is None or gives_up(self.deadline, self.since, now)

    def whereabouts(self) -> str:
        """Which subscriptions got it, and what they are doing, for people."""
        if self.holders is None:
            return "it is still in the inbox"
        places = []
        for holder, progress in self.holders.items():
            if isinstance(progress, trio.lowlevel.Task):
                state = "being handled"
            elif holder.worker is None:
                state = "left to its readers"
            else:
                state = progress.value
            activity = "" if holder.worker is None else f", {holder.worker.activity()}"
            places.append(f"{holder.description()}: {state}{activity}")
        return "; ".join(places) or "nothing has it any more"

    def note_progress(self, holder: Holder, progress: Progress) -> None:
        """A subscription that has the request has come so far with it."""
        if self.holders is not None and holder in self.holders:
            self.holders[holder] = progress

    def enders(self) -> tuple[trio.lowlevel.Task, ...]:
        """The tasks that could see to a reply, or none if they aren't known."""
        tasks: list[trio.lowlevel.Task] = []
        event = self.event
        for holder, progress in (self.holders or {}).items():
            if isinstance(progress, trio.lowlevel.Task):
                able = [progress]
            elif holder.worker is None:
                able = [] if holder.known_readers.unknown else list(holder.known_readers)
            elif progress is Held.UNREAD and event is not None:
                able = list(holder.worker.takers(event))
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

    The router shows it the events at the systems and paths of requests. None of this costs more
    when many requests wait: a request and a reply that was made for one are found by the identity
    of the event, and a reply that was sent by hand by its system and path.
    """

    _clock: Callable[[], float]
    _notices: Notices
    _door: Door
    _instruments: Instruments
    waiting: dict[_Key, dict[str, dict[PendingRequest, None]]] = attrs.field(
        factory=dict, init=False
    )
    """Those that wait, by system and path, then by the text of the pattern of their replies."""

    underway: dict[int, PendingRequest] = attrs.field(factory=dict, init=False)
    """By the identity of an event that isn't routed yet: the request that it is, or answers."""

    known: dict[int, PendingRequest] = attrs.field(factory=dict, init=False)
    """All of them, by the identity of their events, as long as these exist."""

    _pending: dict[PendingRequest, None] = attrs.field(factory=dict, init=False)  # by age
    _watcher: trio.lowlevel.Task | None = attrs.field(default=None, init=False)  # while it sleeps
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._pending)

    # For requesters

    def begin(self, event: Event, kinds: Pattern, kinds_text: str) -> PendingRequest:
        """A request that waits from now on. Call `end` in any case. Not a checkpoint."""
        request = self._know(event, kinds, kinds_text)
        self._pending[request] = None
        of_path = self.waiting.setdefault((event.system, event.path), {})
        of_path.setdefault(kinds_text, {})[request] = None
        if self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            trio.lowlevel.reschedule(watcher)
        return request

    def adopt(self, event: Event, kinds: Pattern) -> None:
        """A request that another process waits for: it can be replied to. Not a checkpoint."""
        request = self._know(event, kinds, "")
        request.event = None
        del request.task

    def _know(self, event: Event, kinds: Pattern, kinds_text: str) -> PendingRequest:
        """A request that is found by its event, as long as that exists."""
        request = PendingRequest(event, kinds, kinds_text, self._clock())
        number = id(event)
        known = self.known  # the callback must not keep more alive than that
        request.reference = weakref.ref(event, lambda _: known.pop(number, None))
        known[number] = request
        return request

    def end(self, request: PendingRequest) -> None:
        """The task doesn't wait any more. Not a checkpoint."""
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
        """An event is routed: note where a request goes, or end the waits that it answers.

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
        if request.event is None or request.is_over:  # the requester has gone, or is about to
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
        """A subscription gets these from a history: it may see to replies, if they are requests."""
        if self._pending and holder is not None:
            for event in events:
                request = self.known.get(id(event))
                if request is not None and request.holders is not None:
                    request.holders.setdefault(holder, Held.UNREAD)

    def let_go(self, events: Iterable[Event], holder: Holder) -> None:
        """A subscription will not see to replies to these, if they are requests."""
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
        """Look after the requests that last, until the bus is closed.

        Args:
          end_hopeless: Ends the waits that nothing else will, or returns that it is too early.
        """
        not_before, again = -math.inf, math.inf  # as each time it looks at all of them
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
        """Have the tasks that wait note their deadlines: too much to do for every request."""
        asked = [request for request in self._pending if request.is_asleep]
        asked = [request for request in asked if request.deadline is None]
        for request in asked:
            request.rouse()
        while any(  # noqa: ASYNC110  # all it takes is that each of them runs once
            request.deadline is None and request in self._pending for request in asked
        ):
            await trio.lowlevel.checkpoint()

    def _report(self, now: float) -> None:
        """Report the requests that are due, those of one system and kind together."""
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
                following = request.since + next_look(now - request.since)
                request.next_look = max(following, math.nextafter(now, math.inf))

    def _fail_abandoned(self, now: float) -> None:
        """End the requests that nothing is left to answer."""
        for request in self._pending:
            event = request.event
            if event is None or request.holders != {} or now < request.since + next_look(0):
                continue
            request.fail(
                RequestFailedError(
                    f"nothing is left that could answer the request {names_of(event)}: every "
                    "subscription that got it has ended, or failed at it",
                    system=event.system,
                    kind=event.kind,
                    path=event.path,
                )
            )

    def waits(self, now: float) -> dict[trio.lowlevel.Task, PendingRequest]:
        """The tasks that wait for a reply and won't give up by themselves."""
        return {r.task: r for r in self._pending if r.is_asleep and not r.gives_up(now)}

    def close(self) -> None:
        """The bus is closed: there will be no more replies."""
        for request in self._pending:
            request.fail(self._door.closed_error("; there was no reply before"))
        self._scope.cancel()


def deadlock_error(request: PendingRequest) -> DeadlockError:
    """The error of a request that waits for itself."""
    event = request.event
    assert event is not None
    return DeadlockError(
        f"the request {names_of(event)} would wait forever: {request.whereabouts()}; all of these "
        "wait, by whatever detours, for the task that made the request",
        system=event.system,
        kind=event.kind,
    )


def names_of(event: Event) -> str:
    """Which event it is, for messages."""
    return f"system={event.system!r} kind={event.kind!r} path={event.path!r}"
